"""What a SavedModel computes: from raw images or encoded ones to masks and probabilities.

All of it is in the graph: decoding, conversion of channels, normalisation, mirroring beyond the
edges, tiles. Nothing of this package is needed to run it.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from trainer.data.input import augment, normalization
from trainer.export import orientation

Outputs = dict[str, tf.Tensor]


class Server(tf.Module):
    """A network with its signatures.

    `serving_default` takes raw images, `encoded` PNG or JPEG files of one size, and both return
    masks and probabilities; `png` takes files of any sizes and returns masks as PNG files.
    """

    def __init__(
        self,
        core: keras.Model,
        *,
        channels: int,
        dtype: str,
        values: Sequence[int],
        mask_dtype: str,
        normalize: str,
        mean: Sequence[float],
        std: Sequence[float],
        multiple: int,
        tile: int,
        halo: int,
    ):
        """Compiles nothing yet.

        Args:
            core: normalised images whose sides are multiples of `multiple` → probabilities
                [B, H, W, K], for every class.
            channels: of the images.
            dtype: of stored images.
            values: of the classes in masks.
            mask_dtype: that holds them.
            normalize: a key of `normalization.NORMALIZATIONS`.
            mean: of each channel of the training split.
            std: as `mean`.
            multiple: to which sides are extended.
            tile: sides longer than this are cut into tiles; 0: never.
            halo: how far the network looks, see `tiles.halo_of`.
        """
        super().__init__()
        self._core = core
        self.weights = [variable.value for variable in core.variables]  # so that they are saved
        self._channels, self._dtype, self._values = channels, dtype, list(values)
        self._mask_dtype = mask_dtype
        self._normalize, self._mean, self._std = normalize, tuple(mean), tuple(std)
        self._multiple, self.tile, self._halo = multiple, tile, halo

    def signatures(self) -> dict[str, Callable[..., Outputs]]:
        """Returns the functions to save, those that the images allow."""
        pixels = [None, None, None, self._channels]
        found = {"serving_default": self._traced(self.predict, pixels, self._dtype, "images")}
        if self._dtype == "uint16":
            found["uint8"] = self._traced(self._predict_uint8, pixels, "uint8", "images")
        if self._dtype in ("uint8", "uint16") and self._channels in (1, 3, 4):
            found["encoded"] = self._traced(self._predict_encoded, [None], "string", "image_bytes")
            if self._mask_dtype in ("uint8", "uint16"):
                found["png"] = self._traced(self._predict_png, [None], "string", "image_bytes")
        return found

    def _traced(
        self, function: Callable[..., Outputs], shape: list[int | None], dtype: str, name: str
    ) -> Callable[..., Outputs]:
        spec = tf.TensorSpec(shape, dtype, name)
        return tf.function(function, input_signature=[spec], autograph=False)

    def predict(self, images: tf.Tensor) -> Outputs:
        """Returns masks and probabilities of images, stored dtype [B, H, W, C]."""
        probabilities = self._probabilities(images)
        values = tf.constant(self._values, self._mask_dtype)
        return {
            "mask": tf.gather(values, class_ids(probabilities)),
            "probabilities": probabilities,
        }

    def _predict_uint8(self, images: tf.Tensor) -> Outputs:
        return self.predict(tf.cast(images, tf.uint16) * tf.constant(257, tf.uint16))

    def _predict_encoded(self, image_bytes: tf.Tensor) -> Outputs:
        spec = tf.TensorSpec([None, None, self._channels], self._dtype)
        return self.predict(tf.map_fn(self._decode, image_bytes, fn_output_signature=spec))

    def _predict_png(self, image_bytes: tf.Tensor) -> Outputs:
        def mask_of(file: tf.Tensor) -> tf.Tensor:
            mask = self.predict(self._decode(file)[tf.newaxis])["mask"]
            return tf.io.encode_png(mask[0, ..., tf.newaxis])

        return {"mask_bytes": tf.map_fn(mask_of, image_bytes, fn_output_signature=tf.string)}

    def _decode(self, file: tf.Tensor) -> tf.Tensor:
        """Returns the image of a PNG or JPEG, upright, as `images` makes it: [H, W, C]."""
        # Grey is decoded in colour, for the decoder's own luminance is another than ours.
        channels = 3 if self._channels == 1 else self._channels
        dtype = tf.as_dtype(self._dtype)

        def of_jpeg() -> tf.Tensor:
            image = tf.io.decode_jpeg(file, min(channels, 3), dct_method="INTEGER_ACCURATE")
            image = tf.cast(image, dtype) * tf.constant(257 if dtype == tf.uint16 else 1, dtype)
            if channels == 4:
                image = tf.concat(
                    [image, tf.fill(_with_one(image), tf.constant(dtype.max, dtype))], axis=-1
                )
            return image

        def of_png() -> tf.Tensor:
            return tf.io.decode_png(file, channels, dtype)

        image = orientation.upright(tf.cond(tf.io.is_jpeg(file), of_jpeg, of_png), file)
        return _luminance(image) if self._channels == 1 else image

    def _probabilities(self, images: tf.Tensor) -> tf.Tensor:
        size = tf.shape(images)[1:3]
        x = normalization.normalize(images, self._normalize, self._mean, self._std)
        for axis in (0, 1):
            length = -(-size[axis] // self._multiple) * self._multiple
            x = tf.gather(x, augment.mirror(tf.range(length), size[axis]), axis=axis + 1)
        x = self._in_tiles(x) if self.tile else self._core(x, training=False)
        return x[:, : size[0], : size[1]]

    def _in_tiles(self, x: tf.Tensor) -> tf.Tensor:
        """Computes tile by tile; each pixel is of a tile that sees all that the network looks at.

        Args:
            x: float32 [B, H, W, C].

        Returns:
            float32 [B, H, W, K].
        """
        batch, height, width = tf.unstack(tf.shape(x)[:3])
        tops, row_places, tall = self._plan(height)
        lefts, column_places, wide = self._plan(width)
        corners = tf.reshape(tf.stack(tf.meshgrid(tops, lefts, indexing="ij"), -1), (-1, 2))

        def tile_of(corner: tf.Tensor) -> tf.Tensor:
            part = x[:, corner[0] : corner[0] + tall, corner[1] : corner[1] + wide]
            return self._core(part, training=False)

        channels = self._core.output_shape[-1]
        spec = tf.TensorSpec([None, None, None, channels], tf.float32)
        found = tf.map_fn(tile_of, corners, fn_output_signature=spec, parallel_iterations=1)
        grid = (tf.size(tops), tf.size(lefts), batch, tall, wide, channels)
        found = tf.transpose(tf.reshape(found, grid), (2, 0, 3, 1, 4, 5))
        rows, columns = tf.size(tops) * tall, tf.size(lefts) * wide
        found = tf.reshape(found, (batch, rows, columns, channels))
        return tf.gather(tf.gather(found, row_places, axis=1), column_places, axis=2)

    def _plan(self, length: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns where tiles begin, where to find each place among all tiles', and a tile's side.

        A tile takes over from the one before it at its `halo`.
        """
        side = tf.minimum(self.tile, length)
        step = self.tile - 2 * self._halo
        count = 1 + -(-(length - side) // step)
        starts = tf.minimum(tf.range(count) * step, length - side)
        places = tf.range(length)
        owners = tf.searchsorted(starts[1:] + self._halo, places, side="right")
        return starts, owners * side + places - tf.gather(starts, owners), side


def class_ids(probabilities: tf.Tensor) -> tf.Tensor:
    """Returns the most probable class, int32 [...]; of two the second from a half on."""
    if probabilities.shape[-1] == 2:  # a half is foreground
        return tf.cast(probabilities[..., 1] >= 0.5, tf.int32)
    return tf.argmax(probabilities, axis=-1, output_type=tf.int32)


def _luminance(image: tf.Tensor) -> tf.Tensor:
    """Returns [H, W, 1]: ITU-R 601, rounded as `images.convert` does."""
    weights = tf.constant([19595, 38470, 7471], tf.int64)
    grey = tf.reduce_sum(tf.cast(image, tf.int64) * weights, axis=-1, keepdims=True)
    return tf.cast((grey + 0x8000) // 65536, image.dtype)


def _with_one(image: tf.Tensor) -> tf.Tensor:
    return tf.concat([tf.shape(image)[:2], [1]], 0)
