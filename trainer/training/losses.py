"""Losses, unreduced: the caller divides their sums by weights counted over every replica.

Here and below the letters are B batch, S space (height and width; of volumes depth before them),
C classes. Logits of one channel are those of a binary task. Everything is computed in float32,
whatever the model's precision.
"""

import collections.abc
import dataclasses

import keras
import tensorflow as tf

from trainer.errors import InputError
from trainer.models import axes, functional


def two_class_logits(logits):
    """Returns the logits as float32 with one channel per class: one logit z becomes (0, z)."""
    logits = tf.cast(logits, tf.float32)
    if logits.shape[-1] == 1:
        return tf.concat([tf.zeros_like(logits), logits], axis=-1)
    return logits


def cross_entropy(labels, logits):
    """Returns the cross-entropy of each pixel, in nats.

    Args:
        labels: int32 [B, *S], class ids.
        logits: [B, *S, 1 or C], unnormalised.

    Returns:
        float32 [B, *S].
    """
    logits = two_class_logits(logits)
    truth = tf.one_hot(labels, logits.shape[-1])
    return -tf.reduce_sum(truth * tf.nn.log_softmax(logits), axis=-1)


def focal(labels, logits, gamma=2.0):
    """Returns cross-entropy times (1 - probability of the truth) ** gamma (Lin et al., 2017).

    Shapes are those of `cross_entropy`.
    """
    entropy = cross_entropy(labels, logits)
    # 1 - p without cancellation where p is near 1.
    return (-tf.math.expm1(-entropy)) ** gamma * entropy


def soft_dice(labels, logits, valid, class_weights=None):
    """Returns 1 - Dice, averaged over the classes present in each image (Milletari et al., 2016).

    Dice is 2 sum(p y) / (sum(p p) + sum(y y)); background is a class like the others.

    Args:
        labels: int32 [B, *S], class ids.
        logits: [B, *S, 1 or C], unnormalised.
        valid: float32 [B, *S], 0 where a pixel must not count.
        class_weights: float32 [C], of each class in the mean over those present; None: 1 each.

    Returns:
        float32 [B], in [0, 1]; 0 for an image without valid pixels.
    """
    truth, probability = _masked(labels, logits, valid)
    space = axes.spatial(axes.rank_of(truth))
    both = tf.reduce_sum(probability * truth, axis=space)
    squares = tf.reduce_sum(probability**2 + truth, axis=space)
    dice = tf.math.divide_no_nan(2.0 * both, squares)
    return _mean_over_present(1.0 - dice, truth, class_weights)


def tversky(labels, logits, valid, class_weights=None, alpha=0.3, beta=0.7):
    """Returns 1 - Tversky index, averaged over the classes present (Salehi et al., 2017).

    The index is TP / (TP + alpha FP + beta FN), on probabilities: with alpha < beta a missed pixel
    costs more than a false one. Shapes are those of `soft_dice`.
    """
    truth, probability = _masked(labels, logits, valid)
    space = axes.spatial(axes.rank_of(truth))
    both = tf.reduce_sum(probability * truth, axis=space)
    false = tf.reduce_sum(probability, axis=space) - both
    missed = tf.reduce_sum(truth, axis=space) - both
    index = tf.math.divide_no_nan(both, both + alpha * false + beta * missed)
    return _mean_over_present(1.0 - index, truth, class_weights)


def _masked(labels, logits, valid):
    """Returns one-hot truth and probabilities, float32 [B, *S, C], 0 where invalid."""
    logits = two_class_logits(logits)
    valid = valid[..., tf.newaxis]
    return tf.one_hot(labels, logits.shape[-1]) * valid, tf.nn.softmax(logits) * valid


def _mean_over_present(values, truth, class_weights):
    """Averages [B, C] over the classes that occur in truth [B, *S, C]: float32 [B]."""
    space = axes.spatial(axes.rank_of(truth))
    present = tf.cast(tf.reduce_any(truth > 0, axis=space), tf.float32)
    if class_weights is not None:
        present *= class_weights
    total = tf.reduce_sum(values * present, axis=-1)
    return tf.math.divide_no_nan(total, tf.reduce_sum(present, axis=-1))


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of a loss.

    Attributes:
        name: by which metrics.jsonl reports it, `loss/NAME`; no other term of the loss has it.
        coefficient: factor of its value in the loss.
        function: unreduced; parameters are bound by functools.partial.
        per: the unit of the function's values. "pixel": (labels, logits) -> [B, *S]; "image":
            (labels, logits, valid, class_weights) -> [B].
    """

    name: str
    coefficient: float
    function: collections.abc.Callable
    per: str


_CROSS_ENTROPY = Term("cross_entropy", 1.0, cross_entropy, "pixel")
_DICE = Term("soft_dice", 1.0, soft_dice, "image")

LOSSES: dict[str, tuple[Term, ...]] = {
    "cross_entropy": (_CROSS_ENTROPY,),
    "dice": (_DICE,),
    "ce_dice": (_CROSS_ENTROPY, _DICE),
    "focal": (Term("focal", 1.0, focal, "pixel"),),
    "tversky": (Term("tversky", 1.0, tversky, "image"),),
}


def parts(terms, values):
    """Returns the values of a loss's terms by their names.

    Args:
        terms: a row of LOSSES, of T terms.
        values: T values.
    """
    found = {term.name: value for term, value in zip(terms, values, strict=True)}
    assert len(found) == len(terms), f"two terms of one name: {[term.name for term in terms]}"
    return found


def weights(terms, labels, valid, class_weights=None):
    """Returns the divisor of each term's sum, once added up over all replicas.

    Args:
        terms: a row of LOSSES, of T terms.
        labels: int32 [B, *S].
        valid: float32 [B, *S], 0 where a pixel must not count.
        class_weights: float32 [C], or None for 1 each; a pixel weighs as its class does. An image
            weighs 1 whatever is in it: within it, classes are weighed against each other.

    Returns:
        float32 [T]: the weights of valid pixels, or the number of images that have any.
    """
    totals = {
        "pixel": tf.reduce_sum(_pixel_weights(labels, valid, class_weights)),
        "image": tf.reduce_sum(_image_weights(valid)),
    }
    return tf.stack([totals[term.per] for term in terms])


def sums(terms, labels, logits, valid, class_weights=None):
    """Returns the weighted sum of each term over this replica's batch, float32 [T].

    The loss is the sum over terms of coefficient * sum / weight, with `weights` added up over all
    replicas: then N replicas equal one, however the valid pixels are spread. Shapes are those of
    `weights`, and logits [B, *S, 1 or C].
    """
    totals = []
    for term in terms:
        if term.per == "pixel":
            values = term.function(labels, logits)
            totals.append(tf.reduce_sum(values * _pixel_weights(labels, valid, class_weights)))
        else:
            values = term.function(labels, logits, valid, class_weights)
            totals.append(tf.reduce_sum(values * _image_weights(valid)))
    return tf.stack(totals)


def _pixel_weights(labels, valid, class_weights):
    """Returns float32 [B, *S]."""
    return valid if class_weights is None else valid * tf.gather(class_weights, labels)


def _image_weights(valid):
    """Returns float32 [B], 1 for an image with any valid pixel."""
    space = axes.spatial(len(valid.shape) - 1)
    return tf.cast(tf.reduce_any(valid > 0, axis=space), tf.float32)


def coarse(labels, valid, stride):
    """Returns labels and valid pixels at the resolution of an output: the pixels nearest its own.

    Args:
        labels: int32 [B, *S].
        valid: float32 [B, *S].
        stride: pixels of the image to a place of the output, along each axis.

    Returns:
        both, [B, *S / stride].
    """
    if max(stride) == 1:
        return labels, valid
    places = (slice(None), *(slice(step // 2, None, step) for step in stride))
    return labels[places], valid[places]


def output_weights(strides):
    """Returns how much each output of a network counts in its loss; they add up to 1.

    An output counts by its resolution: half of the full resolution counts half as much (Isensee et
    al., 2021).

    Args:
        strides: of each output, pixels of the image to a place along each axis.
    """
    resolutions = [1.0 / max(stride) for stride in strides]
    return [resolution / sum(resolutions) for resolution in resolutions]


def partial_losses(terms, weights, labels, outputs, valid, class_weights=None):
    """Returns what a part of a batch adds to the terms; those of all parts and replicas add up.

    Args:
        terms: a row of LOSSES, of T terms.
        weights: of each output, float32 [T], see `weights`: of the labels at its resolution, and
            added up over all parts and replicas.
        labels: int32 [B, *S].
        outputs: logits [B, *S, 1 or C], or any structure of such, of which some may be coarser.
        valid: float32 [B, *S].
        class_weights: float32 [C], or None for 1 each.

    Returns:
        float32 [T], each the mean over outputs that `output_weights` weighs.
    """
    outputs = keras.tree.flatten(outputs)
    strides = [functional.stride_of(labels.shape[1:], x.shape[1:-1]) for x in outputs]
    found = []
    for logits, stride, weight in zip(outputs, strides, weights, strict=True):
        at_places = coarse(labels, valid, stride)
        summed = sums(terms, at_places[0], logits, at_places[1], class_weights)
        found.append(tf.math.divide_no_nan(summed, weight))
    if len(found) == 1:
        return found[0]
    return tf.add_n([x * factor for x, factor in zip(found, output_weights(strides), strict=True)])


def balanced_class_weights(pixels):
    """Returns one weight per class, inverse to its frequency; the mean over all pixels is 1.

    Args:
        pixels: pixels of each class in the training split; a class without any weighs 0.

    Raises:
        InputError: no class has a pixel.
    """
    present = sum(count > 0 for count in pixels)
    if not present:
        raise InputError(
            "class_weights=balanced needs labelled pixels, and the training split has none;"
            " use class_weights=none or check the masks."
        )
    return [sum(pixels) / (present * count) if count else 0.0 for count in pixels]


def class_weights(name, pixels):
    """Returns the weight of each class in the loss, float32 [C].

    Args:
        name: "none" (1 each) or "balanced".
        pixels: pixels of each class in the training split.
    """
    balanced = balanced_class_weights(pixels) if name == "balanced" else [1.0] * len(pixels)
    return tf.constant(balanced, tf.float32)
