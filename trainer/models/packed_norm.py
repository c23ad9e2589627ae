"""Batch normalisation of packed pixels (see `channel_packing`), for a layer of plain ones."""

import tensorflow as tf


def normalize(layer, inputs, group, *, training, synchronized):
    """Computes a layer of batch normalisation where `group` pixels share a place.

    Args:
        layer: a keras.layers.BatchNormalization; in training its running statistics move.
        inputs: [B, H, W / group, group * C]; the same channel of all pixels has one mean.
        group: pixels in a place.
        training: whether the statistics are the batch's own.
        synchronized: whether they are those of all replicas.

    Returns:
        the same shape, in the layer's precision.
    """
    gamma, beta = tf.cast(layer.gamma, tf.float32), tf.cast(layer.beta, tf.float32)
    if training and layer.trainable:
        add_up = _add_up if synchronized else tuple
        outputs, mean, variance = _by_batch(
            inputs, gamma, beta, layer.epsilon, group, add_up, layer.name
        )
        for moving, current in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(moving * layer.momentum + current * (1.0 - layer.momentum))
    else:
        scale = gamma * tf.math.rsqrt(layer.moving_variance + layer.epsilon)
        shift = beta - layer.moving_mean * scale
        outputs = tf.cast(inputs, tf.float32) * tf.tile(scale, [group]) + tf.tile(shift, [group])
    return tf.cast(outputs, layer.compute_dtype)


def _by_batch(inputs, gamma, beta, epsilon, group, add_up, name):
    """Normalises by the statistics of the inputs.

    The gradient is written by hand, so that each direction reads the activation twice: for two sums
    per channel, and for the result.

    Args:
        inputs: [B, H, W / group, group * C].
        gamma: float32 [C], scale.
        beta: float32 [C], offset.
        epsilon: added to the variance.
        group: pixels in a place.
        add_up: list of tensors -> their sums over the replicas that normalise together.
        name: of the layer, for profiles of the backward pass.

    Returns:
        outputs like inputs; mean and biased variance, float32 [C], through which no gradient goes.
    """
    channels = gamma.shape[0]

    def total(x):
        return tf.reduce_sum(tf.reshape(tf.reduce_sum(x, axis=(0, 1, 2)), (group, channels)), 0)

    def wide(x):
        return tf.tile(x, [group])

    @tf.custom_gradient
    def normalize(inputs, gamma, beta):
        x = tf.cast(inputs, tf.float32)
        pixels = tf.cast(tf.size(inputs) // channels, tf.float32)
        pixels, first, second = add_up([pixels, total(x), total(x * x)])
        mean = first / pixels
        variance = tf.maximum(second / pixels - mean * mean, 0.0)
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = gamma * inverse
        outputs = tf.cast(x * wide(scale) + wide(beta - mean * scale), inputs.dtype)

        def gradient(upstream, *_):
            with tf.name_scope(f"{name}/"):
                change = tf.cast(upstream, tf.float32)
                centred = tf.cast(inputs, tf.float32) - wide(mean)
                own_level, own_slope = total(change), total(change * centred)
                level, slope = add_up([own_level, own_slope])
                slope = slope * inverse * inverse
                result = change - wide(level / pixels) - centred * wide(slope / pixels)
                return tf.cast(result * wide(scale), inputs.dtype), own_slope * inverse, own_level

        return (outputs, mean, variance), gradient

    return normalize(inputs, gamma, beta)


def _add_up(tensors):
    """Returns each tensor's sum over all replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:  # then XLA can compile it
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)
