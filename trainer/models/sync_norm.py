"""Batch normalisation by the statistics of the whole batch, however many replicas share it."""

import keras
import tensorflow as tf

from trainer.models import axes


@keras.saving.register_keras_serializable("trainer")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """Keras' BatchNormalization of [B, *S, C], with one sum over the replicas in each direction.

    Keras' own `synchronized=True` sums six times and writes a dozen intermediate activations. Here
    each replica's statistics come from TensorFlow's fused kernel, and all that travels is (count,
    sum, sum of squares) and, on the way back, (sum of gradients, sum of gradients × activations).
    Variables are the same, so that weights go from one to the other.
    """

    def call(self, inputs, training=None, mask=None):
        """Returns [B, *S, C]; normalised by the statistics of all replicas in training."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance = _normalize(
            axes.as_images(inputs),
            tf.cast(self.gamma, tf.float32),
            tf.cast(self.beta, tf.float32),
            tf.cast(self.moving_mean, tf.float32),
            self.epsilon,
        )
        for moving, current in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + current * (1.0 - self.momentum))
        return axes.restore(outputs, inputs)


def _normalize(inputs, gamma, beta, shift, epsilon):
    """Normalises this replica's part of a batch by the statistics of all parts.

    Args:
        inputs: [B, H, W, C].
        gamma: float32 [C], scale.
        beta: float32 [C], offset.
        shift: float32 [C], the same on every replica and near the mean: squares are summed around
            it, so that their difference does not cancel.
        epsilon: added to the variance.

    Returns:
        outputs [B, H, W, C]; mean and biased variance over all replicas, float32 [C].
    """

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        count, mean, variance = _statistics(x)
        centred = mean - shift
        sums = [count, count * centred, count * (variance + centred**2)]
        total, first, second = tf.split(
            _sum_over_replicas(tf.concat(sums, 0)), [1, *centred.shape, *centred.shape]
        )
        centred = first / total
        mean, variance = shift + centred, tf.maximum(second / total - centred**2, 0.0)
        outputs = _apply(x, gamma, beta, mean, variance, epsilon)

        def gradient(upstream, *_):
            """The statistics depend on every replica's pixels, and so do their gradients.

            With n = (x - mean) / deviation, the gradient at x is gamma / deviation × (dy - mean(dy)
            - n mean(n dy)), its means over all replicas.
            """
            direct, scale, offset = _gradients(upstream, x, gamma, mean, variance, epsilon)
            sums = _sum_over_replicas(tf.concat([scale, offset], 0)) / total
            mean_scale, mean_offset = tf.split(sums, 2)
            inverse = tf.math.rsqrt(variance + epsilon)
            slope = -gamma * inverse**2 * mean_scale
            level = -gamma * inverse * mean_offset - slope * mean
            through = tf.cast(x, tf.float32) * slope + level
            at_x = tf.cast(tf.cast(direct, tf.float32) + through, x.dtype)
            return at_x, scale, offset

        return (outputs, mean, variance), gradient

    return normalize(inputs, gamma, beta)


def _statistics(x):
    """Returns this replica's count [1], mean [C] and biased variance [C], float32."""
    channels = x.shape[-1]
    _, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=tf.ones((channels,)),
        offset=tf.zeros((channels,)),
        mean=tf.zeros((0,)),
        variance=tf.zeros((0,)),
        epsilon=0.001,
        is_training=True,
    )
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), tf.float32)
    return count[tf.newaxis], mean, variance * (count - 1.0) / count  # the kernel's is unbiased


def _apply(x, gamma, beta, mean, variance, epsilon):
    """Returns x normalised by given statistics."""
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    )[0]


def _gradients(upstream, x, gamma, mean, variance, epsilon):
    """Returns the gradients at x, scale and offset as if the statistics were constants."""
    found = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=upstream,
        x=x,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=tf.zeros((0,)),
        epsilon=epsilon,
        is_training=False,
    )
    return found[:3]


def _sum_over_replicas(value):
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:  # then XLA can compile it
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)
