"""Losses, by name, and their sums: the caller divides by weights counted over every replica.

What the terms compute is in `loss_functions`, which has the letters of the shapes, too.
"""

import collections.abc
import dataclasses

import keras
import tensorflow as tf

from trainer.errors import InputError
from trainer.models import axes, functional
from trainer.training.loss_functions import (
    boundary,
    cross_entropy,
    dice_of_sums,
    dice_sums,
    focal,
    linear_dice,
    soft_dice,
    top_k,
    tversky,
)


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of a loss.

    Attributes:
        name: by which metrics.jsonl reports it, `loss/NAME`; no other term of the loss has it.
        coefficient: factor of its value in the loss.
        function: unreduced; parameters are bound by functools.partial.
        per: the unit of the function's values. "pixel": (labels, logits) -> [B, *S]; "image":
            (labels, logits, valid, class_weights) -> [B]; "batch": (labels, logits, valid) ->
            [3, C], sums that add up over the parts of a batch.
        quotient: of "batch" only: (the sums of the whole batch, class_weights) -> [].
    """

    name: str
    coefficient: float
    function: collections.abc.Callable
    per: str
    quotient: collections.abc.Callable | None = None


_CROSS_ENTROPY = Term("cross_entropy", 1.0, cross_entropy, "pixel")
_DICE = Term("soft_dice", 1.0, soft_dice, "image")
_TOP_K = Term("top_k", 1.0, top_k, "image")

LOSSES: dict[str, tuple[Term, ...]] = {
    "cross_entropy": (_CROSS_ENTROPY,),
    "dice": (_DICE,),
    "ce_dice": (_CROSS_ENTROPY, _DICE),
    "ce_linear_dice": (_CROSS_ENTROPY, Term("linear_dice", 1.0, linear_dice, "image")),
    "ce_batch_dice": (
        _CROSS_ENTROPY,
        Term("batch_dice", 1.0, dice_sums, "batch", quotient=dice_of_sums),
    ),
    # Kervadec's coefficient is 0.01 in the first epoch; there it grows.
    "ce_dice_boundary": (_CROSS_ENTROPY, _DICE, Term("boundary", 0.01, boundary, "pixel")),
    "focal": (Term("focal", 1.0, focal, "pixel"),),
    "top_k": (_TOP_K,),
    "top_k_dice": (_TOP_K, _DICE),
    "tversky": (Term("tversky", 1.0, tversky, "image"),),
}


def of_whole_batch(terms):
    """Whether a loss takes sums over the batch of all replicas before it divides them."""
    return any(term.per == "batch" for term in terms)


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
        float32 [T]: the weights of valid pixels, the number of images that have any, or 1 for a
        replica.
    """
    totals = {
        "pixel": tf.reduce_sum(_pixel_weights(labels, valid, class_weights)),
        "image": tf.reduce_sum(_image_weights(valid)),
        "batch": tf.ones(()),
    }
    return tf.stack([totals[term.per] for term in terms])


def sums(terms, labels, logits, valid, class_weights=None, total=tf.identity):
    """Returns the weighted sum of each term over this replica's batch, float32 [T].

    The loss is the sum over terms of coefficient * sum / weight, with `weights` added up over all
    replicas: then N replicas equal one, however the valid pixels are spread. A term per batch is
    the same number on each replica, of which each counts once. Shapes are those of `weights`, and
    logits [B, *S, 1 or C].

    Args:
        terms: see `weights`, as the next.
        labels: int32 [B, *S].
        logits: [B, *S, 1 or C].
        valid: float32 [B, *S].
        class_weights: float32 [C], or None for 1 each.
        total: what adds up a tensor over all replicas, and gives each of them its gradient.
    """
    totals = []
    for term in terms:
        if term.per == "pixel":
            values = term.function(labels, logits) * _pixel_weights(labels, valid, class_weights)
        elif term.per == "image":
            values = term.function(labels, logits, valid, class_weights) * _image_weights(valid)
        else:
            values = term.quotient(total(term.function(labels, logits, valid)), class_weights)
        totals.append(tf.reduce_sum(values))
    return tf.stack(totals)


def statistics(terms, labels, logits, valid, class_weights=None):
    """Returns what adds up over the parts of a split, and makes its loss, see `values`.

    Shapes are those of `sums`.

    Returns:
        float32 [N]: sum and weight of each term, or the sums of a term per batch.
    """
    found = []
    for term in terms:
        if term.per == "batch":
            found.append(tf.reshape(term.function(labels, logits, valid), [-1]))
        else:
            given = ((term,), labels)
            found += [
                sums(*given, logits, valid, class_weights),
                weights(*given, valid, class_weights),
            ]
    return tf.concat(found, axis=0)


def num_statistics(terms, num_classes):
    """Returns N of `statistics`."""
    return sum(3 * num_classes if term.per == "batch" else 2 for term in terms)


def values(terms, summed, num_classes, class_weights=None):
    """Returns the value of each term over all that was added up.

    A term per batch takes all images as one batch: so it does not depend on how they are batched.

    Args:
        terms: a row of LOSSES, of T terms.
        summed: numbers [N], sums of what `statistics` returned.
        num_classes: of the data.
        class_weights: float32 [C], or None for 1 each.

    Returns:
        T floats; 0 for a term that nothing weighs in.
    """
    found, first = [], 0
    for term in terms:
        end = first + num_statistics((term,), num_classes)
        part, first = summed[first:end], end
        if term.per == "batch":
            whole = tf.reshape(tf.cast(part, tf.float32), (3, num_classes))
            found.append(float(term.quotient(whole, class_weights)))
        else:
            found.append(float(part[0] / part[1]) if part[1] else 0.0)
    return found


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


def partial_losses(terms, weights, labels, outputs, valid, class_weights=None, total=tf.identity):
    """Returns what a part of a batch adds to the terms; those of all parts and replicas add up.

    Args:
        terms: a row of LOSSES, of T terms.
        weights: of each output, float32 [T], see `weights`: of the labels at its resolution, and
            added up over all parts and replicas.
        labels: int32 [B, *S].
        outputs: logits [B, *S, 1 or C], or any structure of such, of which some may be coarser.
        valid: float32 [B, *S].
        class_weights: float32 [C], or None for 1 each.
        total: see `sums`.

    Returns:
        float32 [T], each the mean over outputs that `output_weights` weighs.
    """
    outputs = keras.tree.flatten(outputs)
    strides = [functional.stride_of(labels.shape[1:], x.shape[1:-1]) for x in outputs]
    found = []
    for logits, stride, weight in zip(outputs, strides, weights, strict=True):
        at_places = coarse(labels, valid, stride)
        summed = sums(terms, at_places[0], logits, at_places[1], class_weights, total)
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
