"""Normalisation layers: the rows of NORMS, and batch normalisation as one fused operation."""

import math

import keras
import tensorflow as tf

from trainer.models import axes, functional
from trainer.models.group_norm import GroupNormalization
from trainer.models.sync_norm import SyncBatchNormalization

# Statistics of the last ~10 steps: runs here are often a few hundred steps long, and statistics
# that lag 100 steps behind (Keras' 0.99) spoil every evaluation before the last.
BATCH_MOMENTUM = 0.9


@keras.saving.register_keras_serializable("trainer")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' BatchNormalization of [B, *S, C], computed in training by TensorFlow's fused kernel.

    Keras writes the statistics and the normalised activation as ten operations over the whole
    activation; the kernel reads it twice. Results differ by rounding only, and variables are the
    same, so that weights go from one to the other.
    """

    def call(self, inputs, training=None, mask=None):
        """Returns [B, *S, C]; normalised by the batch's own statistics in training."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        images = axes.as_images(inputs)
        # oneDNN's kernel for bfloat16 takes 16 channels at a time; of other numbers it takes the
        # one that is meant for comparison, which is several times slower.
        slow = images.dtype == tf.bfloat16 and images.shape[-1] % 16
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.cast(images, tf.float32) if slow else images,
            scale=tf.cast(self.gamma, tf.float32),
            offset=tf.cast(self.beta, tf.float32),
            mean=tf.zeros((0,)),
            variance=tf.zeros((0,)),
            epsilon=self.epsilon,
            is_training=True,
        )
        pixels = tf.cast(tf.reduce_prod(tf.shape(images)[:3]), tf.float32)
        biased = variance * (pixels - 1.0) / pixels  # the kernel returns the unbiased one
        for moving, current in ((self.moving_mean, mean), (self.moving_variance, biased)):
            moving.assign(moving * self.momentum + current * (1.0 - self.momentum))
        return axes.restore(tf.cast(outputs, inputs.dtype), inputs)


def _batch(channels):
    return FusedBatchNormalization(momentum=BATCH_MOMENTUM)


def _sync_batch(channels):
    return SyncBatchNormalization(
        momentum=BATCH_MOMENTUM, name=_next_name("fused_batch_normalization")
    )


def _group(channels):
    return GroupNormalization(groups=math.gcd(8, channels))


def _instance(channels):
    return GroupNormalization(groups=channels)


def _next_name(prefix):
    """Returns the name that Keras gives the next layer of a class.

    Optimizers name their variables by the layer's, and so do checkpoints: with the name that a
    layer of another class would have, a run resumes from one with the other.
    """
    number = keras.backend.get_uid(prefix) - 1
    return f"{prefix}_{number}" if number else prefix


# Each takes the number of channels. All of them compute their statistics in float32.
NORMS = {
    "batch": _batch,
    "sync_batch": _sync_batch,
    "group": _group,
    "instance": _instance,
    "none": None,
}


def choose(norm, num_replicas):
    """Returns the row of NORMS for a setting; all except `auto` are rows themselves.

    `auto` takes the statistics of the whole batch, by the layer that is fastest at it: `batch` on
    one replica and `sync_batch` on several compute the same function, of the same variables.
    """
    if norm != "auto":
        return norm
    return "sync_batch" if num_replicas > 1 else "batch"


def of_encoder(norm, num_replicas):
    """Returns the row of NORMS for an encoder in a network of `norm`.

    Encoders were trained with batch normalisation, and keep it where the other layers have another.
    """
    return norm if norm in ("batch", "sync_batch") else choose("auto", num_replicas)


def is_synchronized(layer):
    """Whether a layer takes its statistics from all replicas, which it sums over in training."""
    of_keras = isinstance(layer, keras.layers.BatchNormalization) and layer.synchronized
    return of_keras or isinstance(layer, SyncBatchNormalization)


def own_statistics(model):
    """Returns the variables that each replica moves by its own part of a batch.

    They are the moving means and variances of batch normalisation that is not synchronized.
    """
    return [
        variable
        for layer in functional.layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization) and not is_synchronized(layer)
        for variable in layer.non_trainable_variables
    ]


def normalize(x, norm):
    """Applies the named normalisation (a row of NORMS) to [B, *S, C]."""
    layer = NORMS[norm]
    return x if layer is None else layer(x.shape[-1])(x)
