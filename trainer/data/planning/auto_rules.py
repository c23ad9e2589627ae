"""Our own rules: what suits the data, and the time at hand, by what was measured on public sets.

docs/results.md has the measurements. They begin where nnU-Net's rules end, and choose less where
time is short: those are made for 250,000 steps.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from trainer.data.planning import nnunet_rules, topology_flags
from trainer.data.planning.fingerprint import Fingerprint, times
from trainer.data.planning.nnunet_rules import Topology
from trainer.data.planning.plan_file import Choice

WIDTHS = (8, 16, 32)
FEW_PIXELS = 4_000_000  # below, half the filters and more steps were better (white blood cells)
LONGEST_CROP, SHORTEST_CROP = 256, 96  # of images, on a CPU
CROP_MULTIPLE = 16
LEVELS = 4  # of images, on a CPU
CPU_MEMORY_GB = 1.0  # by which volumes' patches are planned there
MANY_STEPS, ENOUGH_STEPS, FEW_STEPS = 6000, 1200, 600
DEFAULT_STEPS = {2: 1350, 3: 2400}  # where no time is given, by rank
EVALUATIONS = 5  # of the val split in a run
MIXED = 4.0  # times as many pixels in the largest example as in the median one
FOR_CPU = (
    "For a CPU, as no --accelerator is named: its width, crop and batch are those that were best "
    "within minutes on two cores."
)
WITHOUT_TIME = (
    "As many as the public sets took on two cores in some minutes; --minutes chooses by what steps "
    "take on this machine."
)
ACCELERATED_STEPS = (5_000, 100_000)  # least and most, where no time is given
MANY_PASSES = 100  # over the training pixels, from which strong augmentation was better
MANY_PASSES_OF_VOLUMES = 500  # up to which mirroring alone was enough (Hippocampus)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What a step computes.

    Attributes:
        topology: patch and levels, axes in the order of the data.
        filters: of the first level.
        max_filters: of any level.
        batch_size: examples.
        reasons: of patch, filters and batch: flag → why.
    """

    topology: Topology
    filters: int
    max_filters: int
    batch_size: int
    reasons: dict[str, str]

    def with_filters(self, filters: int, reason: str) -> "Setup":
        """Returns the setup with another width."""
        reasons = {**self.reasons, "filters": reason}
        return dataclasses.replace(self, filters=filters, reasons=reasons)

    def with_batch(self, batch_size: int, reason: str) -> "Setup":
        """Returns the setup with another batch."""
        reasons = {**self.reasons, "batch_size": reason}
        return dataclasses.replace(self, batch_size=batch_size, reasons=reasons)

    def choices(self) -> list[Choice]:
        """Returns the flags of the step."""
        rows = [
            topology_flags.crop(self.topology.patch, self.reasons["crop"]),
            Choice("batch_size", self.batch_size, self.reasons["batch_size"]),
            *topology_flags.levels(self.topology),
            Choice("filters", self.filters, self.reasons["filters"]),
        ]
        if self.filters * 2 ** (len(self.topology.strides) - 1) > self.max_filters:
            rows.append(Choice("max_filters", self.max_filters, "As many as nnU-Net has at most."))
        return rows


def for_cpu(data: Fingerprint) -> Setup:
    """Returns the setup for a CPU, before any is measured."""
    small = data.pixels < FEW_PIXELS
    filters = (
        (8, f"{data.pixels / 1e6:.1f} million training pixels are few (under {FEW_PIXELS / 1e6:g})")
        if small and data.rank == 2
        else (16, f"{data.pixels / 1e6:.1f} million training pixels or voxels")
    )
    batch = {2: 8, 3: 4}[data.rank]
    topology, crop = _images(data) if data.rank == 2 else _volumes(data)
    return Setup(
        topology=topology,
        filters=filters[0],
        max_filters=dict(nnunet_rules.NETWORKS["plain"].most_features)[data.rank],
        batch_size=batch,
        reasons={
            "crop": crop,
            "filters": f"{filters[1]}.",
            "batch_size": f"As with every public set of {['images', 'volumes'][data.rank - 2]}.",
        },
    )


def for_accelerator(data: Fingerprint, replicas: int) -> tuple[Setup, int]:
    """Returns the setup for a GPU or TPU, and the largest batch that suits the data.

    Args:
        data: the fingerprint.
        replicas: among which a batch is divided.
    """
    network = nnunet_rules.NETWORKS["plain"]
    found = topology_flags.of_data(nnunet_rules.plan(data, network=network), data.rank)
    patch = found.topology.patch
    most = int(network.covered * data.pixels / math.prod(patch))
    setup = Setup(
        topology=found.topology,
        filters=found.features[0],
        max_filters=dict(network.most_features)[data.rank],
        batch_size=-(-found.batch_size // replicas) * replicas,
        reasons={
            "crop": (
                f"nnU-Net's rules for {network.memory_gb:g} GB: no larger than the median case of "
                f"{times(found.median_shape)}."
            ),
            "filters": "nnU-Net's.",
            "batch_size": "nnU-Net's, as a multiple of the replicas.",
        },
    )
    return setup, max(most, 2, replicas)


def steps_by_passes(data: Fingerprint, setup: Setup) -> tuple[int, str]:
    """Returns how long to train on an accelerator where no time is given, and why."""
    once = data.pixels / (setup.batch_size * math.prod(setup.topology.patch))
    low, high = ACCELERATED_STEPS
    steps = int(min(max(MANY_PASSES * once, low), high))
    return steps, (
        f"{MANY_PASSES} passes over the training pixels, but from {low} to {high} steps; give "
        "--minutes for as many as they allow."
    )


def _images(data: Fingerprint) -> tuple[Topology, str]:
    """Returns patch and levels of images: a square of half the median, or all of a small one."""
    median = nnunet_rules.plan(data).flat.median_shape
    side = _side(min(median))
    found = nnunet_rules.levels((1.0, 1.0), (side, side))
    kept = min(LEVELS, len(found.strides) - 1) + 1
    strides = found.strides[:kept]
    by = 2 ** (kept - 1)
    reason = (
        f"Half of the median image of {times(median)} pixels, but from {SHORTEST_CROP} (or nearly "
        f"all of a smaller one) to {LONGEST_CROP}: more steps in the same time were better than "
        "more context."
    )
    return Topology((side // by * by,) * 2, strides, found.kernels[:kept], (by, by)), reason


def _side(length: float) -> int:
    """Returns the side of a crop of images of such a side, a multiple of CROP_MULTIPLE."""
    is_small = length < 4 / 3 * SHORTEST_CROP  # then nearly all of it
    wanted = length if is_small else min(max(length / 2, SHORTEST_CROP), LONGEST_CROP)
    return max(CROP_MULTIPLE, int(wanted) // CROP_MULTIPLE * CROP_MULTIPLE)


def _volumes(data: Fingerprint) -> tuple[Topology, str]:
    plans = nnunet_rules.plan(data, CPU_MEMORY_GB)
    found = topology_flags.of_data(plans, data.rank)
    return found.topology, (
        f"nnU-Net's rules for {CPU_MEMORY_GB:g} GB: as cubic as the voxels allow, no larger than "
        f"the median volume of {times(found.median_shape)} voxels."
    )


def training(
    data: Fingerprint, setup: Setup, steps: int, reason: str, evaluations: int
) -> list[Choice]:
    """Returns the flags of the training.

    Args:
        data: the fingerprint.
        setup: what a step computes.
        steps: of the run.
        reason: why so many.
        evaluations: of the val split during the run.
    """
    pixels = steps * setup.batch_size * math.prod(setup.topology.patch)
    passes = pixels / max(1, data.pixels)
    warmup = max(1, min(max(30, steps // 50), 500, steps // 3))
    rows = [
        Choice("steps", steps, reason),
        Choice("eval_every", max(1, -(-steps // evaluations)), f"{evaluations} evaluations."),
        _learning_rate(setup),
        Choice("warmup_steps", warmup, "A fiftieth of the run, from 30 to 500."),
        _augment(passes, data.rank),
    ]
    if data.rank == 3:
        linear = "nnU-Net's cross-entropy and Dice, a little better on Hippocampus than ce_dice."
        rows.append(Choice("loss", "ce_linear_dice", linear))
        every = "Every level of the decoder but the lowest is trained: Hippocampus gains 0.01."
        rows += topology_flags.deep_supervision(setup.topology, every)
        rows.append(Choice("foreground", 0.33, "A third of the crops hold a drawn class."))
        rows.append(Choice("ema", 0.99, "Small batches of volumes: the weights are averaged."))
        if setup.filters > max(WIDTHS[:-1]):
            rows.append(Choice("norm", "instance", "nnU-Net's, for batches of few volumes."))
    elif _covers(data, setup):
        rows.append(
            Choice(
                "norm",
                "instance",
                "The crop is nearly the whole image, so that statistics of a crop are those of "
                "evaluation; it was better for white blood cells.",
            )
        )
    return rows


def _learning_rate(setup: Setup) -> Choice:
    """Returns the highest rate of AdamW."""
    base = 2e-3 if setup.filters <= 16 else 1e-3
    factor = max(1.0, math.sqrt(setup.batch_size / 8))
    rate = float(f"{min(base * factor, 4e-3):.2g}")
    reason = "2e-3 with up to 16 filters, as with every public set; 1e-3 with more"
    return Choice("learning_rate", rate, reason + "; by the root of larger batches than 8.")


def _augment(passes: float, rank: int) -> Choice:
    if rank == 3:
        return Choice(
            "augment",
            "flip" if passes <= MANY_PASSES_OF_VOLUMES else "standard",
            f"The run sees each training voxel about {passes:.3g} times; mirroring alone was best "
            f"for Hippocampus, and nobody has measured more than {MANY_PASSES_OF_VOLUMES} times.",
        )
    many = passes > MANY_PASSES
    return Choice(
        "augment",
        "strong" if many else "standard",
        f"The run sees each training pixel about {passes:.3g} times; strong was better from "
        f"{MANY_PASSES} on.",
    )


def _covers(data: Fingerprint, setup: Setup) -> bool:
    """Whether a crop of images is nearly a whole one."""
    median = nnunet_rules.plan(data).flat.median_shape
    return min(setup.topology.patch) >= 7 / 8 * min(median)


def told(data: Fingerprint, sizes: Sequence[Sequence[int]]) -> list[str]:
    """Returns what to know about the data, a paragraph each.

    Args:
        data: the fingerprint.
        sizes: of the training examples, (*S, count) each.
    """
    *sides, counts = np.array(sizes).T
    areas = np.repeat(np.prod(sides, axis=0), counts)
    times_larger = areas.max() / np.median(areas)
    if data.rank == 3 or times_larger < MIXED:
        return []
    return [
        f"The largest training image has {times_larger:.3g} times the pixels of the median one, so "
        "its pixels are seldom trained on: prepare the data again with --tile=256."
    ]
