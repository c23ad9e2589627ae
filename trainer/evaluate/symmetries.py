"""Turned images, whose predictions are turned back and averaged."""

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Turn:
    """A symmetry of the square: rows and columns are exchanged, then each may be reversed."""

    transpose: bool = False
    axes: tuple[int, ...] = ()

    def apply(self, images: tf.Tensor) -> tf.Tensor:
        """Turns images [B, H, W, C]."""
        if self.transpose:
            images = tf.transpose(images, (0, 2, 1, 3))
        return tf.reverse(images, self.axes) if self.axes else images

    def invert(self, images: tf.Tensor) -> tf.Tensor:
        """Turns them back."""
        images = tf.reverse(images, self.axes) if self.axes else images
        return tf.transpose(images, (0, 2, 1, 3)) if self.transpose else images


_AXES: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (1, 2))
TURNS: Mapping[str, tuple[Turn, ...]] = {
    "none": (Turn(),),
    "flips": tuple(Turn(False, axes) for axes in _AXES),
    "d4": tuple(Turn(transpose, axes) for transpose in (False, True) for axes in _AXES),
}


def averaging(forward: Callable[..., tf.Tensor], tta: str) -> Callable[..., tf.Tensor]:
    """Returns a function whose probabilities are the mean of those of turned images.

    Args:
        forward: images [B, H, W, C] → logits [B, H, W, K]; of two classes K may be 1.
        tta: a key of TURNS.

    Returns:
        a function of the same arguments, whose logits stand for the mean probabilities.
    """
    turns = TURNS[tta]
    if len(turns) == 1:
        return forward

    def averaged(images: tf.Tensor, training: bool = False) -> tf.Tensor:
        logits = tf.stack(
            [turn.invert(forward(turn.apply(images), training=training)) for turn in turns]
        )
        if logits.shape[-1] > 1:  # a number that is added to all of them changes no probability
            return tf.reduce_logsumexp(tf.nn.log_softmax(logits), axis=0)
        of, against = (
            tf.reduce_logsumexp(tf.math.log_sigmoid(sign * logits), axis=0) for sign in (1.0, -1.0)
        )
        return of - against

    return averaged
