"""Metrics from counts: TensorFlow counts per image and class, NumPy turns counts into scores.

Integer counts of images add up exactly, so a result depends on neither batch size, replicas nor
order. docs/metrics.md names the conventions.
"""

import numpy as np
import tensorflow as tf

from trainer.training.losses import widen

SCORES = ("dice", "iou", "precision", "recall")

# NVIDIA's smoothing term, in numerator and denominator.
NVIDIA_EPSILON = 1e-6

BINS = 100  # of probabilities: bin b holds b / BINS <= p < (b + 1) / BINS, the last one p = 1


def predict_labels(logits):
    """Returns the most probable class of each pixel, int32 [B, H, W].

    One logit z is class 1 where z >= 0 (probability >= 0.5); more logits are an argmax.
    """
    if logits.shape[-1] == 1:
        return tf.cast(logits[..., 0] >= 0, tf.int32)
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def count_pixels(labels, logits, valid, num_classes):
    """Counts pixels per image and class.

    Args:
        labels: int32 [B, H, W], class ids.
        logits: [B, H, W, 1 or num_classes], unnormalised.
        valid: float32 [B, H, W], 0 where a pixel must not count.
        num_classes: 2 for logits of one channel.

    Returns:
        int32 [B, num_classes, 3]: pixels of truth, of prediction, and of both at once.
    """
    valid = tf.cast(valid > 0, tf.float32)[..., tf.newaxis]
    truth = tf.one_hot(labels, num_classes) * valid
    prediction = tf.one_hot(predict_labels(logits), num_classes) * valid
    # Sums along a row are exact in float32 (and fast on every device); rows add up as integers.
    rows = [tf.reduce_sum(x, axis=2) for x in (truth, prediction, truth * prediction)]
    return tf.reduce_sum(tf.cast(tf.stack(rows, axis=-1), tf.int32), axis=1)


def soft_sums(labels, logits, valid, num_classes):
    """Sums what a soft Dice is made of, per image and class; arguments as in `count_pixels`.

    Returns:
        float32 [B, num_classes, 3]: sums of p y, p p and y y over valid pixels, where p are
        probabilities and y is 1 at the true class.
    """
    valid = tf.cast(valid > 0, tf.float32)[..., tf.newaxis]
    truth = tf.one_hot(labels, num_classes) * valid
    probability = tf.nn.softmax(widen(logits)) * valid
    # y y is y. Rows first: shorter sums round less.
    products = (probability * truth, probability**2, truth)
    rows = [tf.reduce_sum(x, axis=2) for x in products]
    return tf.reduce_sum(tf.stack(rows, axis=-1), axis=1)


def confidence(logits):
    """Returns the probability of each pixel's most probable class, uint8 [B, H, W], 255 for 1."""
    return tf.cast(tf.round(255 * tf.reduce_max(tf.nn.softmax(widen(logits)), -1)), tf.uint8)


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
    probability = tf.nn.softmax(widen(logits))[..., 1:]
    bins = tf.cast(BINS * probability, tf.int32)
    classes = tf.range(num_classes - 1)
    true = tf.cast(labels[..., tf.newaxis] == classes + 1, tf.int32)
    places = (classes * (BINS + 1) + bins) * 2 + true
    return _count(places, valid[..., tf.newaxis], (num_classes - 1, BINS + 1, 2))


def _count(places, valid, shape):
    """Counts each place of an array of `shape` where it is valid: int32 of that shape."""
    size = int(np.prod(shape))
    places = tf.where(valid > 0, places, size)
    # On a GPU, TensorFlow refuses to count where operations are deterministic.
    with tf.device("/CPU:0"):
        counts = tf.math.bincount(tf.reshape(places, [-1]), minlength=size, maxlength=size)
    return tf.reshape(counts, shape)


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
    precision = _divide(found, found + false)
    return {
        "true_positive": found,
        "false_positive": false,
        "true_negative": others.sum() - false,
        "false_negative": own.sum() - found,
        "precision": np.where(np.isnan(precision), 1.0, precision),
        "recall": np.nan_to_num(_divide(found, np.full_like(found, own.sum()))),
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
    mean = _divide((pixels * middles).reshape(groups, -1).sum(axis=1), total)
    return mean, _divide(counts[:, 1].reshape(groups, -1).sum(axis=1), total), total


def scores(counts):
    """Turns counts into scores, each in [0, 1] or NaN where it is 0 / 0.

    Args:
        counts: integers [..., 3], pixels of truth, prediction and both.

    Returns:
        dict of float64 [...]: "dice" and "iou" (undefined where the class occurs in neither),
        "precision" (where it is not predicted), "recall" (where it is not in the truth).
    """
    truth, prediction, both = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return {
        "dice": _divide(2 * both, truth + prediction),
        "iou": _divide(both, truth + prediction - both),
        "precision": _divide(both, prediction),
        "recall": _divide(both, truth),
    }


def _accuracy(counts):
    """Returns the share of valid pixels [..., C] that are rightly of a class or rightly not.

    Takes counts [..., C, 3] of all classes, whose truth adds up to the valid pixels.
    """
    truth, prediction, both = np.moveaxis(np.asarray(counts, np.int64), -1, 0)
    valid = truth.sum(axis=-1, keepdims=True)
    return _divide(valid - truth - prediction + 2 * both, valid)


def soft_dice_nvidia(soft):
    """Returns NVIDIA's soft Dice of sums [N, C, 3]: the mean over images and classes of Dice.

    Dice is (2 sum(p y) + e) / (sum(p p) + sum(y y) + e), e = 1e-6: softmax probabilities, squared
    denominator, background a class like the others, 1 for a class that is absent and not predicted.
    """
    soft = np.asarray(soft, np.float64)
    both, probability, truth = np.moveaxis(soft, -1, 0)
    dice = (2 * both + NVIDIA_EPSILON) / (probability + truth + NVIDIA_EPSILON)
    return _mean(dice)


def summarize(counts, soft, classes):
    """Returns every score of a split, each convention by its own name.

    Args:
        counts: integers [N, C, 3], what `count_pixels` counted for N images.
        soft: floats [N, C, 3], what `soft_sums` summed.
        classes: the C names, background first.

    Returns:
        dict for JSON: floats, integers, and None for what is undefined (a class that occurs in no
        image). "dice" and "iou" are those of per_image.foreground.
    """
    counts = np.asarray(counts, np.int64)
    soft = np.asarray(soft, np.float64)
    total = counts.sum(axis=0)
    per_image, pooled = scores(counts), scores(total)
    # Over the images in which a score is defined; then over classes, see `_over_classes`.
    per_image_mean = {name: _mean_over_images(per_image[name]) for name in SCORES}
    right = _divide(counts[..., 2].sum(axis=1), counts[..., 0].sum(axis=1))
    # Of each class against the others; not among SCORES, for its mean over classes has no name.
    accuracies = {
        "per_image": _mean_over_images(_accuracy(counts)),
        "pooled": _accuracy(total),
    }
    return {
        "dice": _mean(per_image_mean["dice"][1:]),
        "iou": _mean(per_image_mean["iou"][1:]),
        "images": len(counts),
        "accuracy": {
            "per_image": _mean(right),
            "pooled": _mean(_divide(total[:, 2].sum(), total[:, 0].sum())),
        },
        "per_image": _over_classes(per_image_mean),
        "pooled": _over_classes(pooled),
        "soft_dice_nvidia": {
            "per_image": soft_dice_nvidia(soft),
            "pooled": soft_dice_nvidia(soft.sum(axis=0, keepdims=True)) if len(soft) else None,
        },
        "classes": {
            name: {
                "images": int(np.any(counts[:, index, :2] > 0, axis=-1).sum()),
                "pixels": dict(
                    zip(("truth", "prediction", "both"), total[index].tolist(), strict=True)
                ),
                **{
                    kind: {
                        **{key: _mean(values[key][index]) for key in SCORES},
                        "accuracy": _mean(accuracies[kind][index]),
                    }
                    for kind, values in (("per_image", per_image_mean), ("pooled", pooled))
                },
            }
            for index, name in enumerate(classes)
        },
    }


def _over_classes(values):
    """Averages each score [C] over the foreground, and over all classes."""
    return {
        "foreground": {name: _mean(values[name][1:]) for name in SCORES},
        "all_classes": {name: _mean(values[name]) for name in SCORES},
    }


def _divide(numerator, denominator):
    """Returns the quotient, NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    empty = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator != 0)


def _mean_over_images(values):
    """Averages [N, C] over the images in which it is defined: [C], NaN where none is."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def _mean(values):
    """Returns the mean of the defined values as a float, None if there are none."""
    values = np.asarray(values)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
