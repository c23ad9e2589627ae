"""How long the sum of the gradients over many chips takes: a stated model, not a measurement.

Every replica's gradients are summed by rings: each replica sends, and receives, 2 (n - 1) / n times
their bytes. Inside one host of GPUs, or one slice of TPUs, that goes at the full speed of all links
to neighbours at once; between hosts at that of a host's network, each host sending what its chips
have already summed. The sum starts when the backward pass has ended, as in this trainer, and costs
at least LATENCY per sum and halving of the group.
"""

import dataclasses
import math

from trainer.preflight.accelerators import Accelerator

CHIPS = (8, 32, 256)
LATENCY = 5e-6


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Training on a number of chips; all are estimates.

    Attributes:
        chips: number of them.
        reduce_seconds: of the sums over all replicas, in a step.
        images_per_second: over all chips, with the same batch on each.
        efficiency: share of what that many chips would do without having to sum.
    """

    chips: int
    reduce_seconds: float
    images_per_second: float
    efficiency: float


def scale(
    accelerator: Accelerator,
    chips: int,
    *,
    batch_size: int,
    step_seconds: float,
    reduced: int,
    collectives: int,
) -> Scaling:
    """Returns the estimate for `chips` chips.

    Args:
        accelerator: the chip.
        chips: how many.
        batch_size: images per replica.
        step_seconds: of one replica alone.
        reduced: bytes that are summed over all replicas at each step.
        collectives: sums over all replicas in a step.
    """
    replicas = chips * accelerator.replicas
    seconds = reduce_seconds(accelerator, chips, reduced, collectives)
    return Scaling(
        chips=chips,
        reduce_seconds=seconds,
        images_per_second=replicas * batch_size / (step_seconds + seconds),
        efficiency=step_seconds / (step_seconds + seconds),
    )


def reduce_seconds(accelerator: Accelerator, chips: int, reduced: int, collectives: int) -> float:
    """Returns the time of a step's sums over all replicas."""
    replicas = chips * accelerator.replicas
    if replicas == 1:
        return 0.0
    near = min(replicas, accelerator.host_chips * accelerator.replicas)
    hosts = math.ceil(chips / accelerator.host_chips)
    seconds = 2 * (near - 1) / near * reduced / accelerator.interconnect
    if hosts > 1:
        seconds += 2 * (hosts - 1) / hosts * reduced / accelerator.network
    return seconds + LATENCY * collectives * math.ceil(math.log2(replicas))
