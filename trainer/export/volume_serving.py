"""What a SavedModel of volumes computes: from voxels in stored units to masks and probabilities.

What prediction does to a volume of the run's spacing is in the graph: it is cropped to what is not
zero, normalised, predicted in windows and put back. Nothing of this package is needed to run it.
`trainer.data.preprocessing` and `trainer.evaluate.sliding_window` do the same in NumPy.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.data.dataset.volume_examples import Channel
from trainer.data.input import augment
from trainer.export import serving


class VolumeServer(tf.Module):
    """A network of volumes with its signatures.

    `serving_default` takes volumes in stored units, `prepared` those that were prepared elsewhere;
    both return masks and probabilities.
    """

    def __init__(
        self,
        network: keras.Model,
        *,
        channels: Sequence[Channel],
        values: Sequence[int],
        mask_dtype: str,
        box: Sequence[int],
    ):
        """Compiles nothing yet.

        Args:
            network: normalised windows [B, *box, C] → logits [B, *box, K].
            channels: how each is normalised.
            values: of the classes in masks.
            mask_dtype: that holds them.
            box: sides of a window: of the training crops.
        """
        super().__init__()
        self._network = network
        self.weights = [variable.value for variable in network.variables]  # so that they are saved
        self._channels, self._box = tuple(channels), tuple(box)
        self._values, self._mask_dtype = list(values), mask_dtype

    def signatures(self) -> dict[str, Callable[..., serving.Outputs]]:
        """Returns the functions to save."""
        spec = tf.TensorSpec([None] * 4 + [len(self._channels)], tf.float32, "volumes")
        functions = {"serving_default": self.predict, "prepared": self.predict_prepared}
        return {
            name: tf.function(function, input_signature=[spec], autograph=False)
            for name, function in functions.items()
        }

    def predict(self, volumes: tf.Tensor) -> serving.Outputs:
        """Returns masks and probabilities of volumes in stored units, float32 [B, D, H, W, C]."""
        return self._outputs(volumes, self._of_stored_units)

    def predict_prepared(self, volumes: tf.Tensor) -> serving.Outputs:
        """Returns those of volumes as `Preprocessing.apply` makes them."""
        return self._outputs(volumes, self._in_windows)

    def _outputs(
        self, volumes: tf.Tensor, predict: Callable[[tf.Tensor], tf.Tensor]
    ) -> serving.Outputs:
        """Predicts volumes one by one: each has windows, and a box, of its own."""
        finite = tf.debugging.check_numerics(
            volumes, "The volumes have values that are not finite; replace them."
        )
        spec = tf.TensorSpec([None] * 3 + [len(self._values)], tf.float32)
        probabilities = tf.map_fn(predict, finite, fn_output_signature=spec, parallel_iterations=1)
        values = tf.constant(self._values, self._mask_dtype)
        return {
            "mask": tf.gather(values, serving.class_ids(probabilities)),
            "probabilities": probabilities,
        }

    def _of_stored_units(self, volume: tf.Tensor) -> tf.Tensor:
        first, end = nonzero_box(volume)
        part = tf.slice(volume, tf.concat([first, [0]], 0), tf.concat([end - first, [-1]], 0))
        probabilities = self._in_windows(normalize(part, self._channels))
        margins = tf.concat([tf.stack([first, tf.shape(volume)[:3] - end], axis=1), [[0, 0]]], 0)
        background = tf.pad(probabilities[..., :1], margins, constant_values=1.0)
        return tf.concat([background, tf.pad(probabilities[..., 1:], margins)], axis=-1)

    def _in_windows(self, volume: tf.Tensor) -> tf.Tensor:
        """Returns probabilities [D, H, W, K] of a prepared volume, window after window."""
        size = tf.shape(volume)[:3]
        for axis, side in enumerate(self._box):
            longer = augment.mirror(tf.range(tf.maximum(size[axis], side)), size[axis])
            volume = tf.gather(volume, longer, axis=axis)
        lengths = tf.shape(volume)[:3]
        plans = [window_weights(lengths[axis], side) for axis, side in enumerate(self._box)]
        counts = [tf.range(tf.size(starts)) for starts, _ in plans]
        windows = tf.reshape(tf.stack(tf.meshgrid(*counts, indexing="ij"), -1), (-1, 3))
        outputs = self._network.output_shape[-1]

        def add(n: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            corner = [starts[windows[n, axis]] for axis, (starts, _) in enumerate(plans)]
            part = tf.slice(volume, [*corner, 0], [*self._box, len(self._channels)])
            logits = self._network(part[tf.newaxis], training=False)[0]
            z, y, x = (weights[windows[n, axis]] for axis, (_, weights) in enumerate(plans))
            share = z[:, None, None, None] * y[:, None, None] * x[:, None]
            z, y, x = (
                start + tf.range(side) for start, side in zip(corner, self._box, strict=True)
            )
            places = (z[:, None, None] * lengths[1] + y[:, None]) * lengths[2] + x
            update = tf.reshape(logits * share, (-1, outputs))
            return n + 1, tf.tensor_scatter_nd_add(total, tf.reshape(places, (-1, 1)), update)

        empty = tf.zeros([tf.reduce_prod(lengths), outputs])
        _, total = tf.while_loop(
            lambda n, _: n < tf.shape(windows)[0], add, (0, empty), parallel_iterations=1
        )
        whole = tf.reshape(total, tf.concat([lengths, [outputs]], 0))
        logits = whole[: size[0], : size[1], : size[2]]
        if outputs > 1:
            return tf.nn.softmax(logits)
        return tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=-1)


def window_weights(length: tf.Tensor, side: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where windows start along an axis, int32 [N], and their weights, float32 [N, side].

    See `sliding_window.window_weights`.
    """
    beyond = tf.cast(length - side, tf.float64)
    steps = tf.math.ceil(2 * beyond / side)
    starts = tf.round(tf.range(steps + 1) * beyond / tf.maximum(steps, 1.0))
    starts = tf.cast(starts, tf.int32)
    importance = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
    places = starts[:, tf.newaxis] + tf.range(side)
    each = tf.broadcast_to(tf.constant(importance), tf.shape(places))
    total = tf.math.unsorted_segment_sum(each, places, length)
    return starts, tf.cast(each / tf.gather(total, places), tf.float32)


def nonzero_box(volume: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns first and last + 1 along each axis, int32 [3], as `preprocessing.nonzero_box`."""
    is_there = tf.reduce_any(volume != 0, axis=-1)
    is_there |= ~tf.reduce_any(is_there)  # where all are zero, the whole volume
    ends = []
    for others in ((1, 2), (0, 2), (0, 1)):
        places = tf.cast(tf.where(tf.reduce_any(is_there, axis=others)), tf.int32)
        ends.append((tf.reduce_min(places), tf.reduce_max(places) + 1))
    first, end = zip(*ends, strict=True)
    return tf.stack(first), tf.stack(end)


def nonzero_mask(volume: tf.Tensor) -> tf.Tensor:
    """Returns bool [D, H, W], as `preprocessing.nonzero_mask`: enclosed zeros are in it.

    From a shell around the volume, the outside spreads along whole runs of zeros, axis by axis,
    until nothing is added.
    """
    wall = tf.reduce_any(volume != 0, axis=-1)
    shell = ~tf.pad(tf.ones_like(wall), [[1, 1]] * 3)
    wall = tf.pad(wall, [[1, 1]] * 3)

    def spread(outside: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        before = outside
        for order in ((0, 1, 2), (0, 2, 1), (2, 1, 0)):  # each is its own inverse
            walls = tf.transpose(wall, order)
            # A line ends, and the next one begins, in the shell: such runs may be one.
            runs = tf.cumsum(tf.cast(tf.reshape(walls, [-1]), tf.int32))
            found = tf.cast(tf.reshape(tf.transpose(outside, order), [-1]), tf.int32)
            reached = tf.gather(tf.math.segment_max(found, runs), runs) > 0
            outside = tf.transpose(tf.reshape(reached, tf.shape(walls)) & ~walls, order)
        return outside, tf.reduce_any(outside != before)

    outside, _ = tf.while_loop(lambda _, grows: grows, spread, (shell, True))
    return ~outside[1:-1, 1:-1, 1:-1]


def normalize(volume: tf.Tensor, channels: Sequence[Channel]) -> tf.Tensor:
    """Returns float32 [D, H, W, C], see `preprocessing.normalize`."""
    parts = []
    inside = tf.constant(True)
    if any(channel.scheme == "nonzero" for channel in channels):
        inside = nonzero_mask(volume)
    for c, channel in enumerate(channels):
        part = volume[..., c]
        if channel.scheme == "ct":
            clipped = tf.clip_by_value(part, channel.low, channel.high)
            part = _rescaled(clipped, channel.mean, channel.std)
        elif channel.scheme == "zscore":
            part = _rescaled(part, *moments(tf.reshape(part, [-1])))
        elif channel.scheme == "nonzero":
            part = _rescaled(part, *moments(tf.boolean_mask(part, inside)))
            part = tf.where(inside, part, 0.0)
        else:
            assert channel.scheme == "none", channel.scheme
        parts.append(part)
    return tf.stack(parts, axis=-1)


def moments(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and standard deviation, float64, of values [N]; 0 of none."""
    x = tf.cast(values, tf.float64)
    count = tf.cast(tf.maximum(tf.size(x), 1), tf.float64)
    # Measured from one voxel, a constant has a deviation of exactly 0.
    origin = tf.reduce_sum(x[:1])
    offset = tf.reduce_sum(x - origin) / count
    variance = tf.reduce_sum(tf.square(x - origin - offset)) / count
    return origin + offset, tf.sqrt(variance)


def _rescaled(values: tf.Tensor, mean: tf.Tensor | float, std: tf.Tensor | float) -> tf.Tensor:
    """Returns (values - mean) / std, computed in float64; 0 if std is 0."""
    beyond = tf.cast(values, tf.float64) - mean
    return tf.cast(tf.math.divide_no_nan(beyond, tf.cast(std, tf.float64)), tf.float32)
