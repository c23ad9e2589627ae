"""Sets pictures upright inside a graph, by what EXIF says in files, as `pictures` does outside it.

Nothing of this package is needed to run it, and no decoder of TensorFlow looks at EXIF.
"""

from collections.abc import Callable

import tensorflow as tf

from trainer.data.formats import pictures, reading

JPEG_START, PNG_START = 2, 8  # bytes before the first segment or chunk
EXIF_SEGMENT, SCAN, FILLING = 0xFFE1, 0xFFDA, 0xFFFF  # of JPEG


def upright(image: tf.Tensor, file: tf.Tensor) -> tf.Tensor:
    """Returns a decoded picture [H, W, C] as viewers show it.

    Args:
        image: the picture.
        file: string [], the PNG or JPEG that it is of.
    """
    found = _orientation(tf.cast(tf.io.decode_raw(file, tf.uint8), tf.int64), tf.io.is_jpeg(file))
    across = [number for number, (is_across, _) in reading.TURNS.items() if is_across]
    image = tf.cond(
        _is_one_of(found, across), lambda: tf.transpose(image, (1, 0, 2)), lambda: image
    )
    for axis in (0, 1):
        turned = [number for number, (_, axes) in reading.TURNS.items() if axis in axes]
        image = _reversed_if(_is_one_of(found, turned), image, axis)
    return image


def _is_one_of(value: tf.Tensor, values: list[int]) -> tf.Tensor:
    return tf.reduce_any(value == tf.constant(values, value.dtype))


def _reversed_if(condition: tf.Tensor, image: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.cond(condition, lambda: tf.reverse(image, (axis,)), lambda: image)


def _orientation(data: tf.Tensor, is_jpeg: tf.Tensor) -> tf.Tensor:
    """Returns EXIF's orientation of an image, 1 if its file, int64 [N], says nothing."""
    start = tf.cond(is_jpeg, lambda: _exif_of_jpeg(data), lambda: _exif_of_png(data))
    is_little = _number(data, start, 1) == ord("I")

    def number(place: tf.Tensor, length: int) -> tf.Tensor:
        return tf.where(
            is_little, _number(data, place, length, step=-1), _number(data, place, length)
        )

    directory = start + number(start + 4, 4)
    entries = directory + 2 + 12 * tf.range(number(directory, 2))
    is_meant = number(entries, 2) == pictures.ORIENTATION
    return tf.reduce_max(tf.concat([[1], tf.where(is_meant, number(entries + 8, 2), 0)], 0))


def _number(data: tf.Tensor, place: tf.Tensor, length: int, step: int = 1) -> tf.Tensor:
    """Returns the big-endian number at a place or places, of bytes in reverse if `step` is -1.

    Beyond the end of the file there are zeros.
    """
    places = place[..., tf.newaxis] + tf.range(length, dtype=tf.int64)[::step]
    is_inside = places < tf.size(data, tf.int64)
    values = tf.where(is_inside, tf.gather(data, tf.where(is_inside, places, 0)), 0)
    return tf.reduce_sum(values * [256 ** (length - 1 - k) for k in range(length)], axis=-1)


def _exif_of_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Returns where the EXIF of a JPEG begins, or the end of the file if there is none."""

    def is_exif(place: tf.Tensor) -> tf.Tensor:
        is_named = _number(data, place + 4, 6) == int.from_bytes(b"Exif\0\0", "big")
        return (_number(data, place, 2) == EXIF_SEGMENT) & is_named

    place = _walk(
        data,
        JPEG_START,
        lambda place: is_exif(place) | (_number(data, place, 2) == SCAN),
        lambda place: tf.where(
            _number(data, place, 2) == FILLING,
            tf.constant(1, tf.int64),
            2 + _number(data, place + 2, 2),
        ),
    )
    return tf.where(is_exif(place), place + 10, tf.size(data, tf.int64))


def _exif_of_png(data: tf.Tensor) -> tf.Tensor:
    """Returns where the EXIF of a PNG begins, or the end of the file if there is none."""
    place = _walk(
        data,
        PNG_START,
        lambda place: _number(data, place + 4, 4) == int.from_bytes(b"eXIf", "big"),
        lambda place: 12 + _number(data, place, 4),
    )
    return place + 8


def _walk(
    data: tf.Tensor,
    start: int,
    is_there: Callable[[tf.Tensor], tf.Tensor],
    length: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Returns the place of the first part that is meant, or one beyond the end of the file."""
    (place,) = tf.while_loop(
        lambda place: (place < tf.size(data, tf.int64)) & ~is_there(place),
        lambda place: (place + length(place),),
        (tf.constant(start, tf.int64),),
    )
    return place
