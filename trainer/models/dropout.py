"""Dropout whose masks depend on the seed, the step and the example, and on no number of devices."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("trainer")
class Dropout(keras.layers.Dropout):
    """Keras' Dropout of [B, ...], with a mask for each example of the batch of all replicas.

    Keras draws the masks of each replica's part of the batch by the same seed: the first example of
    every replica would lose the same features. Here the mask of an example is drawn by its place in
    the whole batch, so that several replicas drop what one does. XLA draws other numbers by the
    same seed than TensorFlow's kernels do.
    """

    def call(self, inputs, training=False):
        """Returns the inputs, in training with a share of them set to 0 and the rest scaled up."""
        if not training or self.rate == 0:
            return inputs
        seed = tf.cast(self.seed_generator.next(), tf.int32)

        def draw(row):
            of_example = tf.random.experimental.stateless_fold_in(seed, row)
            return tf.random.stateless_uniform(inputs.shape[1:], of_example)

        size = inputs.shape[0] or tf.shape(inputs)[0]
        uniform = tf.map_fn(draw, _rows(size), fn_output_signature=tf.float32)
        kept = tf.cast(uniform >= self.rate, inputs.dtype)
        return inputs * kept / tf.cast(1.0 - self.rate, inputs.dtype)


def _rows(size):
    """Returns the places of this replica's examples in the batch of all replicas, int32 [B].

    The n-th example of the batch goes to worker n mod W, and there the m-th to replica m mod R
    (`data.pipeline`); a TPU's hosts are such workers.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.range(size)
    replicas = context.num_replicas_in_sync
    extended = context.strategy.extended
    workers = getattr(extended, "num_hosts", replicas // len(extended.worker_devices))
    number, here = context.replica_id_in_sync_group, replicas // workers
    return tf.range(size) * replicas + number % here * workers + number // here
