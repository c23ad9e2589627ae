"""Examples of volumes: how they were prepared, how they are written and how they are read.

An example holds voxels as the network takes them: cropped, normalised and resampled when they were
prepared. Those that are evaluated also hold the mask that was given, in its own grid.
"""

import dataclasses
import zlib
from typing import Any

import numpy as np

from trainer.data.dataset import tfrecord
from trainer.ignore_label import IGNORE

LEVEL = 3  # of zlib: noise does not get smaller by more
AXES = ("depth", "height", "width")


@dataclasses.dataclass(frozen=True)
class Channel:
    """A channel of every volume, and how its values were normalised.

    Attributes:
        name: such as CT or T1.
        scheme: "ct" (clipped to `low` and `high`, then `mean` and `std` of the data set), "zscore"
            (mean and deviation of each volume), "nonzero" (the same over the nonzero voxels; the
            others are 0) or "none".
        mean: for "ct", of the foreground's voxels in the training split, in the units of the files.
        std: as `mean`.
        low: for "ct", the 0.5th percentile of the same voxels.
        high: for "ct", the 99.5th percentile of the same voxels.
    """

    name: str
    scheme: str
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Volumes:
    """How the volumes of a data folder were prepared.

    Attributes:
        spacing: mm between voxels along depth, height and width, to which all were resampled;
            None: each has its own.
        channels: in their order.
        block: sides of the blocks that larger training volumes were cut into; None: of any size.
    """

    spacing: tuple[float, float, float] | None
    channels: tuple[Channel, ...]
    block: tuple[int, int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Original:
    """The grid of the file that an example was made of.

    Attributes:
        mask: uint8 [D0, H0, W0], class ids; IGNORE where a voxel does not count.
        box: int [3, 2], first and last + 1 of the part that the example holds, along each axis.
        geometry: float64 [15], see `Geometry.to_array`.
    """

    mask: np.ndarray
    box: np.ndarray
    geometry: np.ndarray


def encode(
    name: str,
    image: np.ndarray,
    mask: np.ndarray,
    places: np.ndarray,
    original: Original | None = None,
) -> bytes:
    """Returns a serialized `tf.train.Example`, equal for equal arguments.

    Args:
        name: the case's name; of a block the case's, and where it begins.
        image: float32 [D, H, W, C].
        mask: uint8 [D, H, W], class ids; IGNORE where a voxel does not count.
        places: integers [N, 4]: the class, and the place, of some voxels of each class other than
            the background.
        original: of an example that is evaluated.
    """
    assert image.dtype == np.float32
    assert image.shape[:3] == mask.shape
    assert places.size == 0 or 0 <= places.min() <= places.max() < 2**16
    features: dict[str, bytes | int] = {
        "name": name.encode(),
        "image": _deflated(image, "<f4"),
        "mask": _deflated(mask, "u1"),
        **dict(zip(AXES, mask.shape, strict=True)),
        "places": _deflated(places, "<u2"),
    }
    if original is not None:
        features |= {
            "original_mask": _deflated(original.mask, "u1"),
            "original_shape": _deflated(np.array(original.mask.shape), "<i8"),
            "box": _deflated(original.box, "<i8"),
            "geometry": _deflated(original.geometry, "<f8"),
        }
    return tfrecord.serialize(features)


def blank(channels: int) -> bytes:
    """Returns the replacement of an unreadable example: one voxel that does not count."""
    image, mask = np.zeros([1, 1, 1, channels], np.float32), np.full([1, 1, 1], IGNORE, np.uint8)
    geometry = np.array([1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1], np.float64)
    original = Original(mask, np.array([[0, 1]] * 3), geometry)
    return encode("", image, mask, np.zeros([0, 4], np.int64), original)


def _deflated(values: np.ndarray, dtype: str) -> bytes:
    return zlib.compress(np.ascontiguousarray(values, dtype).data, LEVEL)


def decode(serialized, channels: int) -> dict[str, Any]:
    """Returns the example that `encode` wrote, as tensors; for use inside `tf.data`.

    Args:
        serialized: string [], a record of a shard.
        channels: C.

    Returns:
        name: string []; image: float32 [D, H, W, C], with C static; mask: uint8 [D, H, W]; places:
        int32 [N, 4], class, depth, row and column.
    """
    import tensorflow as tf  # writing examples needs none

    example = _parsed(serialized, ("name", "image", "mask", "places"), AXES)
    shape = [example[axis] for axis in AXES]
    image = tf.reshape(_inflated(example["image"], tf.float32), [*shape, channels])
    mask = tf.reshape(_inflated(example["mask"], tf.uint8), shape)
    places = tf.reshape(_inflated(example["places"], tf.uint16), [-1, 4])
    return {
        "name": example["name"],
        "image": image,
        "mask": mask,
        "places": tf.cast(places, tf.int32),
    }


def decode_original(serialized) -> dict[str, Any]:
    """Returns the grid of an evaluated example, as tensors; see `Original`.

    Returns:
        original_mask: uint8 [D0, H0, W0]; box: int64 [3, 2]; geometry: float64 [15].
    """
    import tensorflow as tf

    names = ("original_mask", "original_shape", "box", "geometry")
    example = _parsed(serialized, names, ())
    shape = tf.ensure_shape(_inflated(example["original_shape"], tf.int64), [3])
    return {
        "original_mask": tf.reshape(_inflated(example["original_mask"], tf.uint8), shape),
        "box": tf.reshape(_inflated(example["box"], tf.int64), [3, 2]),
        "geometry": tf.ensure_shape(_inflated(example["geometry"], tf.float64), [15]),
    }


def _parsed(serialized, texts, numbers):
    import tensorflow as tf

    kinds = {name: tf.io.FixedLenFeature([], tf.string) for name in texts}
    kinds |= {name: tf.io.FixedLenFeature([], tf.int64) for name in numbers}
    return tf.io.parse_single_example(serialized, kinds)


def _inflated(text, dtype):
    import tensorflow as tf

    return tf.io.decode_raw(tf.io.decode_compressed(text, "ZLIB"), dtype)
