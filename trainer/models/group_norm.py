"""Group normalisation: groups of channels of each image by their own mean and deviation."""

import keras
import tensorflow as tf

from trainer.models import axes


@keras.saving.register_keras_serializable("trainer")
class GroupNormalization(keras.layers.GroupNormalization):
    """Keras' GroupNormalization of [B, *S, C], in fewer passes and with less rounding.

    With a group for each channel it is instance normalisation. The gradient is written by hand, and
    a row of pixels is treated as one pixel of W × C channels: a CPU takes twice as long for what is
    broadcast along a short last axis. Rows are added up first: over both axes at once a CPU adds
    pixel by pixel in float32, and 24 million make the variance wrong by a hundredth. Otherwise
    results differ by rounding only, and variables are the same, so that weights go from one to the
    other.
    """

    def call(self, inputs):
        """Returns [B, *S, C], in the layer's precision."""
        images = axes.as_images(inputs)
        is_known = images.shape.is_fully_defined()  # XLA takes it for unknown where it is ensured
        shape = images.shape if is_known else tf.shape(images)
        width = shape[2] if images.shape[2] is None else images.shape[2]
        rows = tf.reshape(images, (shape[0], shape[1], 1, width * images.shape[3]))
        outputs = axes.restore(tf.reshape(self.normalize(rows, width), shape), inputs)
        return outputs if is_known else tf.ensure_shape(outputs, inputs.shape)

    def normalize(self, inputs, group):
        """Normalises images of which `group` neighbouring pixels share a place.

        It serves `channel_packing`, too.

        Args:
            inputs: [B, H, W / group, group * C].
            group: pixels in a place.

        Returns:
            the same shape, in the layer's precision.
        """
        gamma, beta = tf.cast(self.gamma, tf.float32), tf.cast(self.beta, tf.float32)
        channels = gamma.shape[0]
        groups = channels if self.groups == -1 else self.groups
        outputs = _normalize(inputs, gamma, beta, self.epsilon, group, groups, self.name)
        return tf.cast(outputs, self.compute_dtype)


def _normalize(inputs, gamma, beta, epsilon, group, groups, name):
    """Normalises each image by its own statistics, float32 whatever the inputs are.

    Args:
        inputs: [B, H, W / group, group * C].
        gamma: float32 [C], scale.
        beta: float32 [C], offset.
        epsilon: added to the variance.
        group: pixels in a place.
        groups: of channels.
        name: of the layer, for profiles of the backward pass.

    Returns:
        outputs like inputs.
    """
    channels = gamma.shape[0]

    def of_channels(x):
        places = tf.reduce_mean(tf.reduce_mean(x, axis=1), axis=1)
        return tf.reduce_mean(tf.reshape(places, (-1, group, channels)), 1)

    def of_groups(means):
        if groups == channels:
            return means
        inside = channels // groups
        found = tf.reduce_mean(tf.reshape(means, (-1, groups, inside)), axis=-1)
        return tf.repeat(found, inside, axis=-1)

    def wide(x):
        return tf.tile(x, [1, group])[:, tf.newaxis, tf.newaxis]

    @tf.custom_gradient
    def normalize(inputs, gamma, beta):
        x = tf.cast(inputs, tf.float32)
        centred = x - wide(of_groups(of_channels(x)))
        inverse = tf.math.rsqrt(of_groups(of_channels(centred * centred)) + epsilon)
        scale = gamma * inverse
        outputs = tf.cast(centred * wide(scale) + wide(beta[tf.newaxis]), inputs.dtype)

        def gradient(upstream):
            """Means over an image depend on all its pixels, and so do their gradients.

            With n = centred × inverse and dn = gamma dy, the gradient at x is
            inverse × (dn - mean(dn) - n mean(n dn)).
            """
            with tf.name_scope(f"{name}/"):
                change = tf.cast(upstream, tf.float32)
                level, slope = of_channels(change), of_channels(change * centred) * inverse
                by_level, by_slope = of_groups(gamma * level), of_groups(gamma * slope)
                through = centred * wide(inverse * inverse * by_slope) + wide(inverse * by_level)
                at_x = tf.cast(change * wide(scale) - through, inputs.dtype)
                pixels = tf.cast(tf.size(inputs[0]) // channels, tf.float32)
                return at_x, pixels * tf.reduce_sum(slope, 0), pixels * tf.reduce_sum(level, 0)

        return outputs, gradient

    return normalize(inputs, gamma, beta)
