"""The figures of a run: one name, unit and meaning in metrics.jsonl, TensorBoard and the report."""

import re
from collections.abc import Mapping, Sequence

from trainer.evaluate import metrics

LOSS = ("", "What training minimises: for val over the whole split, for train the mean over steps.")
# Of training, name → (unit, meaning).
OF_OPTIMIZER: Mapping[str, tuple[str, str]] = {
    "learning_rate": ("", "Of the next step."),
    "gradient_norm": ("", "Norm of the whole gradient before it is clipped, mean over steps."),
    "weight_norm": ("", "Norm of all trainable weights."),
}
OF_SPEED: Mapping[str, tuple[str, str]] = {
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


def figures() -> dict[str, tuple[str, str]]:
    """Returns name → (unit, meaning); `name/part` is of one class, or of one term of the loss."""
    scores = {
        name: (metric.unit, f"{metric.meaning}, mean over images, then foreground classes.")
        for name, metric in metrics.tracked().items()
    }
    return {"loss": LOSS, **scores, **OF_OPTIMIZER, **OF_SPEED}


def tag(split: str, name: str) -> str:
    """Returns the name of a figure in TensorBoard, whose cards are in groups by what precedes "/".

    TensorBoard sorts the groups and opens the first two, which are loss and scores. A test is one
    point, and no part of the curves.
    """
    whole, _, part = name.partition("/")
    if split == "test":
        return f"test/{name}"
    if whole == "loss":
        return f"terms_of_loss/{part}" if part else name
    group = "training" if whole in OF_OPTIMIZER else "speed" if whole in OF_SPEED else "scores"
    return f"{group}/{name}"


def charts(classes: Sequence[str], terms: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns category → chart → regular expression of its tag, as one page shows them.

    A chart has one figure, for TensorBoard gives lines of the same run the same colour.

    Args:
        classes: names of the foreground classes.
        terms: names of the loss's terms.
    """
    scores = metrics.tracked()
    found = {
        "Does it learn?": ["loss", *scores, *(f"loss/{term}" for term in terms if len(terms) > 1)],
        "Does it learn each class?": [
            f"{score}/{label}" for score in scores for label in classes if len(classes) > 1
        ],
        "Is the optimizer healthy?": list(OF_OPTIMIZER),
        "Is it fast?": list(OF_SPEED),
    }
    return {
        category: {name: f"{re.escape(tag('', name))}$" for name in names}
        for category, names in found.items()
        if names
    }


def description(name: str) -> str:
    """Returns what a figure is, in Markdown."""
    whole, _, part = name.partition("/")
    unit, meaning = figures()[whole]
    text = f"{meaning} Unit: {unit}." if unit else meaning
    return f"**{part}** alone. {text}" if part else text


def unit_of(name: str) -> str:
    """Returns the unit of a figure; empty if it has none."""
    return figures()[name.partition("/")[0]][0]
