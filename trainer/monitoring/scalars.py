"""The figures of a run: one name, unit and meaning in metrics.jsonl, TensorBoard and the report."""

from collections.abc import Mapping

from trainer.evaluate import metrics

LOSS = ("", "What training minimises: for val over the whole split, for train the mean over steps.")
# Of training, name → (unit, meaning).
OF_TRAINING: Mapping[str, tuple[str, str]] = {
    "learning_rate": ("", "Of the next step."),
    "gradient_norm": ("", "Norm of the whole gradient before it is clipped, mean over steps."),
    "weight_norm": ("", "Norm of all trainable weights."),
    "images_per_second": ("images/s", "Training images, over all replicas, in the loop."),
    "input_share": ("", "Share of the loop's time in which steps waited for their batch."),
    "host_memory_gib": ("GiB", "Resident memory of the chief's process."),
    "device_memory_gib": ("GiB", "Highest use of the chief's first GPU or TPU so far."),
    "goodput": ("", "Share of the time of the run's processes in which training advanced."),
    "share_startup": ("", "Share of that time until the first steps were taken."),
    "share_input": ("", "Share of that time in which steps waited for their batch."),
    "share_evaluation": ("", "Share of that time spent in evaluations."),
    "share_checkpoint": ("", "Share of that time in which steps waited for a checkpoint."),
    "share_redone": ("", "Share of that time in which steps were taken again after a kill."),
}

CHARTS_OF_TRAINING: Mapping[str, Mapping[str, str]] = {
    "Is the optimizer healthy?": {
        "Learning rate": "learning_rate$",
        "Gradient norm": "gradient_norm$",
        "Weight norm": "weight_norm$",
    },
    "Is it fast?": {
        "Images per second": "images_per_second$",
        "Goodput": "goodput$",
        "Time not spent on training": "share_",
        "Waiting for input": "input_share$",
        "Memory, GiB": ".*_memory_gib$",
    },
}


def figures() -> dict[str, tuple[str, str]]:
    """Returns name → (unit, meaning); `name/part` is of one class, or of one term of the loss."""
    scores = {
        name: (metric.unit, f"{metric.meaning}, mean over images, then foreground classes.")
        for name, metric in metrics.tracked().items()
    }
    return {"loss": LOSS, **scores, **OF_TRAINING}


def charts() -> dict[str, Mapping[str, str]]:
    """Returns category → chart → regular expression of its tags, as one page shows them."""
    learns = {"Loss": "loss$"}
    for name, metric in metrics.tracked().items():
        learns |= {metric.title: f"{name}$", f"{metric.title} by class": f"{name}/"}
    return {"Does it learn?": learns | {"Parts of the loss": "loss/"}, **CHARTS_OF_TRAINING}


def description(name: str) -> str:
    """Returns what a figure is, in Markdown."""
    whole, _, part = name.partition("/")
    unit, meaning = figures()[whole]
    text = f"{meaning} Unit: {unit}." if unit else meaning
    return f"**{part}** alone. {text}" if part else text


def unit_of(name: str) -> str:
    """Returns the unit of a figure; empty if it has none."""
    return figures()[name.partition("/")[0]][0]
