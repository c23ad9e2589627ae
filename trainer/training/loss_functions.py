"""What a loss is made of: functions of labels and logits, unreduced, by pixel, image or batch.

Here and in `losses` the letters are B batch, S space (height and width; of volumes depth before
them), C classes. Logits of one channel are those of a binary task. Everything is computed in
float32, whatever the model's precision.
"""

import math

import tensorflow as tf

from trainer.models import axes
from trainer.training import distances

SMOOTH = 1e-5  # of nnU-Net's Dice: a class that is neither there nor predicted scores 1
REACH = 32  # pixels, up to which the boundary loss tells distances apart


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


def top_k(labels, logits, valid, class_weights=None, share=0.1):
    """Returns the mean cross-entropy of each image's hardest pixels (Wu et al., 2016).

    Of n valid pixels, they are those whose weighted cross-entropy is at least that of the
    share · n-th largest, rounded up.

    Args:
        labels: int32 [B, *S], class ids.
        logits: [B, *S, 1 or C], unnormalised.
        valid: float32 [B, *S], 0 where a pixel must not count.
        class_weights: float32 [C], by which a pixel's cross-entropy is multiplied; None: 1 each.
        share: of the valid pixels, in (0, 1].

    Returns:
        float32 [B]; 0 for an image without valid pixels.
    """
    number = math.prod(labels.shape[1:])
    weights = valid if class_weights is None else valid * tf.gather(class_weights, labels)
    values = tf.reshape(cross_entropy(labels, logits) * weights, (-1, number))
    valid = tf.reshape(valid, (-1, number))
    wanted = tf.math.ceil(share * tf.reduce_sum(valid, axis=1, keepdims=True))
    # No gradient goes through the order: it only says which pixels count.
    largest = tf.math.top_k(tf.stop_gradient(values), math.ceil(share * number)).values
    place = tf.clip_by_value(tf.cast(wanted, tf.int32) - 1, 0, largest.shape[1] - 1)
    hard = valid * tf.cast(values >= tf.gather(largest, place, batch_dims=1), tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum(values * hard, 1), tf.reduce_sum(hard, 1))


def boundary(labels, logits, reach=REACH):
    """Returns probabilities times the distance from their class (Kervadec et al., 2019).

    It is below 0 where a class is rightly predicted. Only boundaries within the crop are known,
    and ignored pixels are taken as background; distances are in pixels, or voxels of whatever
    sides.

    Args:
        labels: int32 [B, *S], class ids.
        logits: [B, *S, 1 or C], unnormalised.
        reach: see `distances.signed_distances`.

    Returns:
        float32 [B, *S], sums over the classes but the background.
    """
    logits = two_class_logits(logits)
    truth = tf.one_hot(labels, logits.shape[-1])[..., 1:]
    probability = tf.nn.softmax(logits)[..., 1:]
    return tf.reduce_sum(probability * distances.signed_distances(truth, reach), axis=-1)


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


def linear_dice(labels, logits, valid, class_weights=None):
    """Returns 1 - Dice of each image, as nnU-Net has it (Isensee et al., 2021).

    Dice is (2 sum(p y) + e) / (sum(p) + sum(y) + e) with e = 1e-5, and its mean is that over all
    classes but the background, those absent from an image included. Shapes are those of
    `soft_dice`, but an image without valid pixels has 1 - e / e = 0 by the formula.
    """
    space = axes.spatial(axes.rank_of(logits))
    return dice_of_sums(_overlaps(labels, logits, valid, space), class_weights)


def dice_sums(labels, logits, valid):
    """Returns what Dice over the batch is made of, which adds up over its parts.

    Args:
        labels: int32 [B, *S], class ids.
        logits: [B, *S, 1 or C], unnormalised.
        valid: float32 [B, *S], 0 where a pixel must not count.

    Returns:
        float32 [3, C], of each class the sums of p y, p and y over all images.
    """
    return _overlaps(labels, logits, valid, (0, *axes.spatial(axes.rank_of(logits))))


def dice_of_sums(sums, class_weights=None):
    """Returns 1 - the mean of `linear_dice`'s Dice over all classes but the background.

    Args:
        sums: float32 [3, ..., C], see `dice_sums`.
        class_weights: float32 [C], of each class in the mean; None: 1 each.

    Returns:
        float32 [...].
    """
    both, predicted, true = tf.unstack(sums[..., 1:])
    loss = 1.0 - (2.0 * both + SMOOTH) / (predicted + true + SMOOTH)
    weights = tf.ones(loss.shape[-1]) if class_weights is None else class_weights[1:]
    return tf.math.divide_no_nan(tf.reduce_sum(loss * weights, -1), tf.reduce_sum(weights))


def _overlaps(labels, logits, valid, axis):
    """Returns the sums of p y, p and y over some axes of [B, *S, C], stacked before the others."""
    truth, probability = _masked(labels, logits, valid)
    return tf.stack([tf.reduce_sum(x, axis) for x in (probability * truth, probability, truth)])


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
