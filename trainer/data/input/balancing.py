"""How often each training example is seen in a pass: those with rare classes more often.

By repeat factors (Gupta et al., 2019): of a class that a share f of the examples has, the factor is
(F / f)^balance, F being the share of the most frequent class; an example is repeated by the largest
factor of its classes, rounded, at most MOST times.

A pass reads every shard once as it is, and once more for each further repetition, then keeping only
those examples that have it: such a reading is like a shard of these examples. So readings take the
place of shards in the order, copies of an example are far apart, a stream's position remains
arithmetic, and shards are read from their beginning to their end.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import logging

from trainer.data.dataset import schema
from trainer.errors import InputError, one_line

MOST = 10  # times that an example is seen, and its shard read, in a pass


@dataclasses.dataclass(frozen=True)
class Reading:
    """One reading of a shard in a pass.

    Attributes:
        shard: its place among the split's.
        number: of the reading, from 0; examples that are repeated more often are kept.
        examples: how many these are.
    """

    shard: int
    number: int
    examples: int


def repeats(shards: Sequence[schema.Shard], balance: float) -> np.ndarray:
    """Returns how often each example is seen in a pass, int32 [N], in the order of the shards.

    Args:
        shards: of the training split.
        balance: 0: once; 1: each class as often as the most frequent one, as far as MOST allows.

    Raises:
        InputError: the shards do not say which classes their examples have.
    """
    if not balance:
        return np.ones(sum(shard.examples for shard in shards), np.int32)
    if any(shard.present is None for shard in shards):
        raise InputError(
            f"--balance_cases={balance} needs to know which classes each training example has, "
            "which data that an earlier release prepared do not say; prepare them again."
        )
    has = _present(shards)
    often = has.mean(axis=1)
    rarest = np.where(has, often[:, np.newaxis], often.max()).min(axis=0)
    factors = (often.max() / rarest) ** balance
    # A half is rounded up, whichever way a machine's power function errs.
    return np.clip(np.floor(factors + 0.5 + 1e-9), 1, MOST).astype(np.int32)


def readings(shards: Sequence[schema.Shard], balance: float) -> list[Reading]:
    """Returns the readings of a pass, shard by shard; without balance one of each shard."""
    found, first, times = [], 0, repeats(shards, balance)
    for place, shard in enumerate(shards):
        own = times[first : first + shard.examples]
        first += shard.examples
        for number in range(int(own.max())):
            found.append(Reading(place, number, int((own > number).sum())))
    return found


def tell(shards: Sequence[schema.Shard], classes: Sequence[str], balance: float) -> None:
    """Logs what a balance does; a warning if that is nothing."""
    times, often = repeats(shards, balance), _present(shards).mean(axis=1)
    rarest = min(np.flatnonzero(often).tolist(), key=lambda k: often[k])
    share = f"{one_line(classes[rarest])}, the rarest class, is in {often[rarest]:.1%} of them"
    if times.max() == 1:
        logging.warning(
            "Warning: --balance_cases=%g changes nothing: of %d training examples none has a class "
            "that is rare enough; %s.",
            *(balance, len(times), share),
        )
        return
    logging.info(
        "Of %d training examples %d are seen more than once in a pass, up to %d times; %s.",
        *(len(times), (times > 1).sum(), times.max(), share),
    )


def _present(shards: Sequence[schema.Shard]) -> np.ndarray:
    """Returns which classes each example has, bool [K, N]."""
    parts = [
        [[mark == "1" for mark in of_class] for of_class in shard.present or ()] for shard in shards
    ]
    return np.concatenate([np.array(part, bool) for part in parts], axis=1)
