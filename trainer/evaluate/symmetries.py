"""Turned images or volumes, whose predictions are turned back and averaged."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.errors import InputError
from trainer.models import axes


@dataclasses.dataclass(frozen=True)
class Turn:
    """A symmetry of the square or cube: rows and columns are exchanged, or axes are reversed.

    Only images exchange axes, and then before any is reversed.
    """

    transpose: bool = False
    axes: tuple[int, ...] = ()

    def apply(self, images: tf.Tensor) -> tf.Tensor:
        """Turns images [B, *S, C]."""
        if self.transpose:
            images = tf.transpose(images, (0, 2, 1, 3))
        return tf.reverse(images, self.axes) if self.axes else images

    def invert(self, images: tf.Tensor) -> tf.Tensor:
        """Turns them back."""
        images = tf.reverse(images, self.axes) if self.axes else images
        return tf.transpose(images, (0, 2, 1, 3)) if self.transpose else images


def turns(tta: str, rank: int) -> tuple[Turn, ...]:
    """Returns the symmetries of `--tta`.

    Args:
        tta: "none"; "flips": with each set of axes reversed; "d4": all of the square.
        rank: number of spatial axes: 2 of images, 3 of volumes.

    Raises:
        InputError: volumes have no such symmetries.
    """
    if tta == "none":
        return (Turn(),)
    spatial = axes.spatial(rank)
    flips = [
        chosen for count in range(rank + 1) for chosen in itertools.combinations(spatial, count)
    ]
    if tta == "flips":
        return tuple(Turn(False, chosen) for chosen in flips)
    assert tta == "d4", tta
    if rank != 2:
        raise InputError(
            "--tta=d4 exchanges rows and columns, which are not alike in volumes; use --tta=flips."
        )
    return tuple(Turn(transpose, chosen) for transpose in (False, True) for chosen in flips)


def averaging(forward: Callable[..., tf.Tensor], tta: str) -> Callable[..., tf.Tensor]:
    """Returns a function whose probabilities are the mean of those of turned images.

    Args:
        forward: images [B, *S, C] → logits [B, *S, K]; of two classes K may be 1. Where `inside`,
            bool [B, *S, 1], is given, it is turned, too.
        tta: see `turns`.

    Returns:
        a function of the same arguments, whose logits stand for the mean probabilities.
    """
    if tta == "none":
        return forward

    def averaged(images: tf.Tensor, training: bool = False, **inside: tf.Tensor) -> tf.Tensor:
        return mean_logits(
            [
                turn.invert(
                    forward(
                        turn.apply(images),
                        training=training,
                        **{name: turn.apply(part) for name, part in inside.items()},
                    )
                )
                for turn in turns(tta, axes.rank_of(images))
            ]
        )

    return averaged


def mean_logits(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns logits that stand for the mean of the probabilities of several [B, *S, K]."""
    logits = tf.stack(parts)
    if logits.shape[-1] > 1:  # a number that is added to all of them changes no probability
        return tf.reduce_logsumexp(tf.nn.log_softmax(logits), axis=0)
    of, against = (
        tf.reduce_logsumexp(tf.math.log_sigmoid(sign * logits), axis=0) for sign in (1.0, -1.0)
    )
    return of - against
