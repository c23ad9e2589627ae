"""What evaluation counts in a batch, with TensorFlow, and the curves from these counts.

Integer counts of images add up exactly, so a result depends on neither batch size, replicas nor
order. docs/metrics.md names the conventions.
"""

import numpy as np
import tensorflow as tf

from trainer.evaluate.calibration import CONFIDENCE_BINS, CONFIDENCE_UNITS, INVERSES
from trainer.evaluate.metrics import divide
from trainer.models import axes
from trainer.training.loss_functions import two_class_logits

BINS = 100  # of probabilities: bin b holds b / BINS <= p < (b + 1) / BINS, the last one p = 1


def predict_labels(logits):
    """Returns the most probable class of each pixel, int32 [B, *S].

    One logit z is class 1 where z >= 0 (probability >= 0.5); more logits are an argmax.
    """
    if logits.shape[-1] == 1:
        return tf.cast(logits[..., 0] >= 0, tf.int32)
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def count_pixels(labels, logits, valid, num_classes):
    """Counts pixels per image and class.

    Args:
        labels: int32 [B, *S], class ids; *S is (H, W), or (D, H, W) of volumes.
        logits: [B, *S, 1 or num_classes], unnormalised.
        valid: float32 [B, *S], 0 where a pixel must not count.
        num_classes: 2 for logits of one channel.

    Returns:
        int32 [B, num_classes, 3]: pixels of truth, of prediction, and of both at once.
    """
    valid = tf.cast(valid > 0, tf.float32)[..., tf.newaxis]
    truth = tf.one_hot(labels, num_classes) * valid
    prediction = tf.one_hot(predict_labels(logits), num_classes) * valid
    # Sums along a row are exact in float32 (and fast on every device); rows add up as integers.
    *others, row = axes.spatial(axes.rank_of(truth))
    rows = [tf.reduce_sum(x, axis=row) for x in (truth, prediction, truth * prediction)]
    return tf.reduce_sum(tf.cast(tf.stack(rows, axis=-1), tf.int32), axis=others)


def soft_sums(labels, logits, valid, num_classes):
    """Sums what a soft Dice is made of, per image and class; arguments as in `count_pixels`.

    Returns:
        float32 [B, num_classes, 3]: sums of p y, p p and y y over valid pixels, where p are
        probabilities and y is 1 at the true class.
    """
    valid = tf.cast(valid > 0, tf.float32)[..., tf.newaxis]
    truth = tf.one_hot(labels, num_classes) * valid
    probability = tf.nn.softmax(two_class_logits(logits)) * valid
    # y y is y. Rows first: shorter sums round less.
    products = (probability * truth, probability**2, truth)
    *others, row = axes.spatial(axes.rank_of(truth))
    rows = [tf.reduce_sum(x, axis=row) for x in products]
    return tf.reduce_sum(tf.stack(rows, axis=-1), axis=others)


def confidence(logits):
    """Returns the probability of each pixel's most probable class, uint8 [B, *S], 255 for 1."""
    return tf.cast(
        tf.round(255 * tf.reduce_max(tf.nn.softmax(two_class_logits(logits)), -1)), tf.uint8
    )


def count_confusions(labels, logits, valid, num_classes):
    """Counts the valid pixels of each true class by the class that is predicted.

    Arguments are those of `count_pixels`.

    Returns:
        int32 [num_classes, num_classes], truth by prediction.
    """
    pairs = labels * num_classes + predict_labels(logits)
    return _count(pairs, valid, (num_classes, num_classes))


def count_probabilities(labels, logits, valid, num_classes):
    """Counts the valid pixels by the probability of each foreground class and by their truth.

    Arguments are those of `count_pixels`.

    Returns:
        int32 [num_classes - 1, BINS + 1, 2]: pixels whose probability of the class is in the bin,
        of another class and of this one.
    """
    probability = tf.nn.softmax(two_class_logits(logits))[..., 1:]
    bins = tf.cast(BINS * probability, tf.int32)
    classes = tf.range(num_classes - 1)
    true = tf.cast(labels[..., tf.newaxis] == classes + 1, tf.int32)
    places = (classes * (BINS + 1) + bins) * 2 + true
    return _count(places, valid[..., tf.newaxis], (num_classes - 1, BINS + 1, 2))


def count_reliability(labels, logits, valid, temperature):
    """Counts the valid pixels by the probability of what is predicted, and how many are right.

    Arguments are those of `count_pixels`; logits are divided by the temperature.

    Returns:
        int64 [CONFIDENCE_BINS, 3]: pixels, those that are rightly predicted, and the sum of the
        probabilities in CONFIDENCE_UNITS.
    """
    confidence = tf.reduce_max(tf.nn.softmax(two_class_logits(logits) / temperature), axis=-1)
    bins = tf.minimum(tf.cast(CONFIDENCE_BINS * confidence, tf.int32), CONFIDENCE_BINS - 1)
    shares = tf.cast(tf.round(CONFIDENCE_UNITS * confidence), tf.int64)
    right = tf.cast(labels == predict_labels(logits), tf.int64)
    of = (tf.ones_like(right), right, shares)
    return tf.stack([_count(bins, valid, (CONFIDENCE_BINS,), one) for one in of], axis=-1)


def _count(places, valid, shape, weights=None):
    """Counts each place of an array of `shape` where it is valid, by integer weights if given."""
    size = int(np.prod(shape))
    places = tf.reshape(tf.where(valid > 0, places, size), [-1])
    weights = None if weights is None else tf.reshape(weights, [-1])
    # On a GPU, TensorFlow refuses to count where operations are deterministic.
    with tf.device("/CPU:0"):
        counts = tf.math.bincount(places, weights, minlength=size, maxlength=size)
    return tf.reshape(counts, shape)


def loss_slopes(labels, logits, valid):
    """Sums the derivatives of the log loss by the inverse temperature, at each of INVERSES.

    Args:
        labels: int32 [B, *S], class ids.
        logits: [B, *S, 1 or K], unnormalised.
        valid: float32 [B, *S], 0 where a pixel must not count.

    Returns:
        float64 [len(INVERSES), 2]: of all valid pixels the sum of the first derivatives, and that
        of the second ones.
    """
    logits = two_class_logits(logits)
    true = tf.one_hot(labels, logits.shape[-1])
    # How far each logit is above the true one's; the log loss is log sum exp of these.
    beyond = logits - tf.reduce_sum(true * logits, axis=-1, keepdims=True)
    known = tf.cast(valid > 0, tf.float64)

    def slopes_at(inverse):
        probability = tf.nn.softmax(inverse * beyond)
        mean = tf.reduce_sum(probability * beyond, axis=-1)
        apart = tf.square(beyond - mean[..., tf.newaxis])
        variance = tf.reduce_sum(probability * apart, axis=-1)
        both = (known * tf.cast(one, tf.float64) for one in (mean, variance))
        return tf.stack([tf.reduce_sum(one) for one in both])

    # One after the other: memory is that of one.
    inverses = tf.constant(INVERSES, tf.float32)
    spec = tf.TensorSpec([2], tf.float64)
    return tf.map_fn(slopes_at, inverses, fn_output_signature=spec, parallel_iterations=1)


def precision_recall(probabilities):
    """Returns the counts of a binary prediction at each threshold b / BINS, b = 0 … BINS.

    Args:
        probabilities: integers [BINS + 1, 2], of one class, see `count_probabilities`.

    Returns:
        dict of [BINS + 1]: int64 "true_positive", "false_positive", "true_negative" and
        "false_negative"; float64 "precision" (1 where nothing is predicted) and "recall".
    """
    others, own = np.asarray(probabilities, np.int64).T
    found, false = (np.cumsum(counts[::-1])[::-1] for counts in (own, others))
    precision = divide(found, found + false)
    return {
        "true_positive": found,
        "false_positive": false,
        "true_negative": others.sum() - false,
        "false_negative": own.sum() - found,
        "precision": np.where(np.isnan(precision), 1.0, precision),
        "recall": np.nan_to_num(divide(found, np.full_like(found, own.sum()))),
    }


def calibration(probabilities, groups=10):
    """Returns how often a class is true where it is given a probability.

    Args:
        probabilities: integers [BINS + 1, 2], of one class, see `count_probabilities`.
        groups: into which the bins are put together.

    Returns:
        float64 [groups] each: mean probability (bins count by their middle), share of pixels of the
        class, and pixels. The first two are NaN where there are no pixels.
    """
    counts = np.asarray(probabilities, np.int64)
    counts = np.concatenate([counts[:-2], counts[-2:].sum(axis=0, keepdims=True)])  # p = 1 is near
    middles = (np.arange(BINS) + 0.5) / BINS
    pixels = counts.sum(axis=1)
    total = pixels.reshape(groups, -1).sum(axis=1)
    mean = divide((pixels * middles).reshape(groups, -1).sum(axis=1), total)
    return mean, divide(counts[:, 1].reshape(groups, -1).sum(axis=1), total), total
