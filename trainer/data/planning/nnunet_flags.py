"""nnU-Net's plan and recipe of training, as flags of trainer.task."""

from trainer.data.planning import topology_flags
from trainer.data.planning.fingerprint import Fingerprint, times
from trainer.data.planning.nnunet_rules import NETWORKS, Configuration, Plans, Topology
from trainer.data.planning.plan_file import Choice

FOREGROUND = 0.33
STEPS = 250_000  # 1,000 epochs of 250

DIFFERENCES = (
    "What differs from nnU-Net: levels are reduced by max pooling, not by strided convolutions; "
    "convolutions before a normalisation have no bias; up-sampling is normalised; leaky ReLU has "
    "the slope 0.2; weight decay is decoupled from the gradient; augmentation is ours.",
)


def choices(data: Fingerprint, plans: Plans, memory_gb: float) -> list[Choice]:
    """Returns the flags, in order.

    Args:
        data: the fingerprint of the training split.
        plans: what the rules plan for it.
        memory_gb: for which they planned.
    """
    found = topology_flags.of_data(plans, data.rank)
    patch = found.topology.patch
    most = found.features[-1]
    covered = f"{NETWORKS['plain'].covered:.0%}"
    rows = [
        topology_flags.crop(
            patch,
            "Patch: as cubic as the voxels allow, no larger than the median case of "
            f"{times(found.median_shape)}, and reduced along its relatively longest axis until "
            f"two fit into {memory_gb:g} GB (an example has {found.elements / 1e6:.0f} million "
            "values).",
        ),
        Choice(
            "batch_size",
            found.batch_size,
            f"As many as fit into {memory_gb:g} GB, but no more than {covered} of all "
            f"{data.num_cases} cases, and 2 at least.",
        ),
        *topology_flags.levels(found.topology),
        Choice("filters", found.features[0], "Features of the first level; they double."),
    ]
    if len(found.features) > 1 and most < found.features[0] * 2 ** (len(found.features) - 1):
        rows.append(Choice("max_filters", most, f"Features of {len(patch)}-D levels, at most."))
    return [*rows, *_network(found.topology), *_training(data, found)]


def _network(levels: Topology) -> list[Choice]:
    every = "Every level of the decoder but the lowest is trained, with weights 1, 1/2, 1/4 …."
    return [
        Choice("norm", "instance", "Statistics of each example, for batches may be small."),
        Choice(
            "activation",
            "leaky_relu",
            "nnU-Net's, with the slope 0.2 below 0 where nnU-Net has 0.01.",
        ),
        *topology_flags.deep_supervision(levels, every),
    ]


def _training(data: Fingerprint, found: Configuration) -> list[Choice]:
    loss = (
        Choice("loss", "ce_batch_dice", "Cross-entropy + soft Dice of the batch as a whole, 1:1.")
        if found.batch_dice
        else Choice("loss", "ce_linear_dice", "Cross-entropy + soft Dice of each example, 1:1.")
    )
    rows = [
        loss,
        Choice("optimizer", "sgd", "Gradient descent with momentum."),
        Choice("momentum", 0.99, "nnU-Net's."),
        Choice("nesterov", True, "nnU-Net's: a step looks ahead by its momentum."),
        Choice("weight_decay", 3e-5, "nnU-Net's."),
        Choice("learning_rate", 1e-2, "nnU-Net's."),
        Choice("schedule", "polynomial", "Falls with the exponent 0.9."),
        Choice("clip_norm", 12.0, "Largest norm of the gradient."),
        Choice("steps", STEPS, "1,000 epochs of 250 steps, whatever the data."),
        Choice("eval_every", STEPS // 100, "A hundred evaluations of all validation cases."),
        Choice("augment", "strong", "The row nearest to nnU-Net's augmentation."),
    ]
    if data.rank == 3:
        rows.append(_foreground(found.batch_size))
    return rows


def _foreground(batch_size: int) -> Choice:
    """Returns --foreground: so many of a batch as nnU-Net makes hold a class."""
    forced = batch_size - round(batch_size * (1 - FOREGROUND))
    return Choice(
        "foreground",
        round(forced / batch_size, 3),
        f"{forced} of a batch of {batch_size}, a third rounded, hold a class that is drawn among "
        "those of their case.",
    )


def told(plans: Plans) -> list[str]:
    """Returns what the rules plan beside the configuration of the flags, a line each."""
    lines = []
    if plans.full is not None:
        flat = plans.flat
        lines.append(
            f"Of slices the rules plan a patch of {times(flat.topology.patch)} and a batch of "
            f"{flat.batch_size}; this plan is that of volumes."
        )
    if plans.low is not None:
        low = plans.low
        lines.append(
            "A patch sees less than a quarter of a volume: nnU-Net would also train at "
            f"{times(low.spacing)} mm ({times(low.median_shape)} voxels; patch "
            f"{times(low.topology.patch)}, batch {low.batch_size}; axes as nnU-Net orders them). "
            "Prepare the data again with that --spacing to try it."
        )
    return lines
