"""Random crops and augmentation inside the graph: a function of image, mask and key.

Crops are of images or, by the number of their sides, of volumes, whose rows are in
`volume_augment`. What is called a pixel here is of volumes a voxel.

All geometric operations of a row are one map from the crop's pixels into the image,

    source(p) = centre + M (p + d(p))          p: a pixel, counted from the crop's middle

with M the product of the operations' matrices and d the sum of their displacements, so the image is
sampled once and only where the crop needs it. Images are interpolated linearly along each axis,
masks take the nearest pixel. Beyond its edges an image is mirrored and its mask is IGNORE: only
pixels which were really annotated count.

Operations on the crop itself follow, once it is normalised: those of image and mask, then those of
the image alone.

Each operation is a function of 18 numbers, uniform in [0, 1), and all of an example's numbers are
draws from keys (int64 [2]) by the Philox algorithm: equal keys give equal crops, eagerly and inside
tf.data. `python docs/draw_augmentations.py` draws what each operation does.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from trainer.ignore_label import IGNORE

NUMBERS = 18  # that an operation gets; one more decides whether it acts


class Op(NamedTuple):
    """An operation and how often it acts."""

    apply: Callable[..., tf.Tensor]
    probability: float = 1.0


class Augmentation(NamedTuple):
    """A row of operations, by what they give; each kind acts in the order written.

    Attributes:
        matrices: (numbers) → float32 [rank, rank]. Image and mask move together.
        displacements: (numbers, box) → float32 [*B, rank], in pixels, *B being the box's sides.
            They move together.
        transforms: (numbers, image, mask) → (image, mask), float32 [*B, C] and uint8 [*B]; the
            mask is IGNORE where a pixel must not count.
        intensities: (numbers, image) → image, float32 [*B, C]. The mask stays.
    """

    matrices: tuple[Op, ...] = ()
    displacements: tuple[Op, ...] = ()
    transforms: tuple[Op, ...] = ()
    intensities: tuple[Op, ...] = ()


# Geometry -----------------------------------------------------------------------------------------


def flip(numbers: tf.Tensor, rank: int = 2) -> tf.Tensor:
    """Mirrors along each axis or not, each with the same chance."""
    return tf.linalg.diag(tf.where(numbers[:rank] < 0.5, -1.0, 1.0))


def turn(numbers: tf.Tensor) -> tf.Tensor:
    """Turns by 0, 90, 180 or 270 degrees."""
    quarter_turns = tf.constant(
        [[[1, 0], [0, 1]], [[0, -1], [1, 0]], [[-1, 0], [0, -1]], [[0, 1], [-1, 0]]], tf.float32
    )
    return quarter_turns[tf.cast(numbers[0] * 4, tf.int32)]


def rotate_and_scale(numbers: tf.Tensor, degrees: float, scale: float) -> tf.Tensor:
    """Rotates by up to ±degrees and scales by a factor in [1 / scale, scale], even in its log."""
    angle = between(numbers[0], -math.radians(degrees), math.radians(degrees))
    factor = tf.exp(between(numbers[1], -math.log(scale), math.log(scale)))
    cos, sin = tf.cos(angle), tf.sin(angle)
    return factor * tf.stack([[cos, -sin], [sin, cos]])


def elastic(numbers: tf.Tensor, box: Sequence[int]) -> tf.Tensor:
    """Displaces smoothly: random vectors on a 3×3 grid, bicubic in between.

    The vectors are Gaussian with a standard deviation of 10 pixels (Ronneberger et al., 2015,
    section 3.1). On crops below 240 it is a side / 24, so that the image does not fold over.
    """
    gaussian = tf.math.ndtri(numbers + 2.0**-24)  # the numbers are multiples of 2^-23: never 0, 1
    vectors = tf.reshape(gaussian, [3, 3, 2]) * min(10.0, min(box) / 24)
    return tf.image.resize(vectors, box, "bicubic")


# Intensity ----------------------------------------------------------------------------------------
# Strengths are relative to the crop's own spread, so that they mean the same under every
# normalisation. The ranges of contrast, gamma and blur are nnU-Net's (Isensee et al., 2021).


def brightness(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Adds up to ±0.3 standard deviations."""
    return image + between(numbers[0], -0.3, 0.3) * tf.math.reduce_std(image)


def contrast(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Stretches by 0.75 to 1.25 about the mean."""
    factor = between(numbers[0], 0.75, 1.25)
    return image * factor + tf.reduce_mean(image) * (1 - factor)


def gamma(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Raises to a power in 0.7 to 1.5 between the least and the greatest value, which stay."""
    low, high = tf.reduce_min(image), tf.reduce_max(image)
    unit = tf.math.divide_no_nan(image - low, high - low)
    # exp(log) takes a quarter of the time of tf.pow; the floor keeps log finite.
    power = tf.exp(between(numbers[0], 0.7, 1.5) * tf.math.log(tf.maximum(unit, 1e-30)))
    return power * (high - low) + low


def noise(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Adds Gaussian noise of up to 0.3 standard deviations."""
    size = between(numbers[0], 0.0, 0.3) * tf.math.reduce_std(image)
    key = tf.bitcast(numbers[1:3], tf.int32)  # a number for each pixel takes a draw of its own
    return image + size * tf.random.stateless_normal(tf.shape(image), key, alg="philox")


def blur(numbers: tf.Tensor, image: tf.Tensor, spacing: Sequence[float] = (1, 1)) -> tf.Tensor:
    """Smooths by a Gaussian of 0.5 to 1.5 pixels, of the finest axis where they differ."""
    rank, finest = len(spacing), min(spacing)
    for mm in spacing:  # each axis in turn is the first, and then the last but the channels
        ratio = finest / mm
        weights = tf.exp(
            -0.5 * (tf.range(-4.0, 5.0) / between(numbers[0], 0.5 * ratio, 1.5 * ratio)) ** 2
        )
        weights /= tf.reduce_sum(weights)
        image = tf.transpose(_smooth_rows(image, weights), [*range(1, rank), 0, rank])
    return image


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation(matrices=(Op(flip),)),
    "standard": Augmentation(
        matrices=(
            Op(flip),
            Op(turn),
            Op(functools.partial(rotate_and_scale, degrees=15, scale=1.2), 0.3),
        ),
        intensities=(Op(brightness, 0.3), Op(contrast, 0.3), Op(gamma, 0.3)),
    ),
    "strong": Augmentation(
        matrices=(
            Op(flip),
            Op(turn),
            Op(functools.partial(rotate_and_scale, degrees=45, scale=1.4), 0.6),
        ),
        displacements=(Op(elastic, 0.5),),
        intensities=(
            Op(blur, 0.2),
            Op(brightness, 0.5),
            Op(contrast, 0.5),
            Op(gamma, 0.5),
            Op(noise, 0.3),
        ),
    ),
}


# Applying a row -----------------------------------------------------------------------------------


def row_of(name: str, box: Sequence[int]) -> Augmentation:
    """Returns the row of a name for images' crops of these sides; oblongs make no quarter turns."""
    row = AUGMENTATIONS[name]
    if len(set(box)) == 1:
        return row
    return row._replace(matrices=tuple(op for op in row.matrices if op.apply is not turn))


def crop_randomly(
    image: tf.Tensor,
    mask: tf.Tensor,
    key: tf.Tensor,
    box: Sequence[int],
    row: Augmentation,
    place: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts a box at a random place, moved, turned and bent as the row says.

    The place is uniform over those where the box is inside the image; a side shorter than the
    box's is at a random place within it.

    Args:
        image: [*S, C] of any real dtype.
        mask: uint8 [*S], IGNORE where a pixel must not count.
        key: int64 [2].
        box: *B, sides of the crop.
        row: of operations for this rank and box, see `row_of`.
        place: int32 [rank], a pixel that the crop is cut about, as far as it stays inside the
            image, and that it holds however it is turned and scaled; negative: at random.

    Returns:
        float32 [*B, C] and uint8 [*B].
    """
    rank = len(box)
    numbers = _draw(key, 1 + len(row.matrices) + len(row.displacements))
    spare = tf.shape(mask) - box
    low, high = tf.minimum(spare, 0), tf.maximum(spare, 0)
    places = tf.cast(high - low + 1, tf.float32)
    corner = low + tf.cast(numbers[0][:rank] * places, tf.int32)
    if place is not None:
        around = tf.clip_by_value(place - [side // 2 for side in box], low, high)
        corner = tf.where(place < 0, corner, around)
    centre = tf.cast(corner, tf.float32) + [(side - 1) / 2 for side in box]

    matrix = tf.eye(rank)
    for op, some in zip(row.matrices, numbers[1:], strict=False):
        change = tf.cond(
            _acts(op, some), functools.partial(op.apply, some[1:]), lambda: tf.eye(rank)
        )
        matrix = tf.linalg.matmul(matrix, change)
    displacements = list(zip(row.displacements, numbers[1 + len(row.matrices) :], strict=True))

    # Flips and quarter turns map pixels onto pixels: whole lines, no interpolation.
    whole = tf.logical_or(matrix == 0.0, tf.abs(matrix) == 1.0)
    fits = tf.linalg.matvec(tf.abs(matrix), tf.constant(box, tf.float32)) == box
    bent = tf.reduce_any([_acts(op, some) for op, some in displacements] or [False])
    return tf.cond(
        tf.reduce_all(whole) & tf.reduce_all(fits) & tf.logical_not(bent),
        lambda: _take_lines(image, mask, centre, matrix, box),
        lambda: _interpolate(
            image, mask, _sources(_hold(centre, matrix, box, place), matrix, displacements, box)
        ),
    )


def adjust(
    image: tf.Tensor, mask: tf.Tensor, key: tf.Tensor, row: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies the row's transforms and intensities to a normalised crop.

    Args:
        image: float32 [*B, C].
        mask: uint8 [*B], IGNORE where a pixel must not count.
        key: int64 [2].
        row: a value of AUGMENTATIONS.

    Returns:
        The image and the mask, of the same shapes and dtypes.
    """
    numbers = _draw(key, len(row.transforms) + len(row.intensities))
    for op, some in zip(row.transforms, numbers, strict=False):
        image, mask = tf.cond(
            _acts(op, some),
            functools.partial(op.apply, some[1:], image, mask),
            lambda image=image, mask=mask: (tf.identity(image), tf.identity(mask)),
        )
    for op, some in zip(row.intensities, numbers[len(row.transforms) :], strict=True):
        image = tf.cond(
            _acts(op, some),
            functools.partial(op.apply, some[1:], image),
            functools.partial(tf.identity, image),
        )
    return image, mask


def mirror(index: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Folds int32 indices into [0, size) by reflection, without repeating the first and the last.

    Indices any number of sizes away are folded as often as needed, so `tf.gather` with them pads
    an image by more than its own size, which `tf.pad` cannot.
    """
    period = tf.maximum(2 * (size - 1), 1)
    index = tf.math.floormod(index, period)
    return tf.minimum(index, period - index)


def _take_lines(image, mask, centre, matrix, box):
    """Samples under a matrix of one ±1 per row and column: gathers lines, axis by axis."""
    channels, inside = image.shape[-1], []
    for axis, side in enumerate(box):
        # An axis that another takes the place of is as long as that one.
        line = tf.range(side, dtype=tf.float32) - (side - 1) / 2
        place = tf.cast(centre[axis] + tf.reduce_sum(matrix[axis]) * line, tf.int32)
        taken = mirror(place, tf.shape(mask)[axis])
        image, mask = tf.gather(image, taken, axis=axis), tf.gather(mask, taken, axis=axis)
        inside.append(tf.reshape(place == taken, along(axis, len(box))))
    mask = tf.where(functools.reduce(tf.logical_and, inside), mask, IGNORE)
    if len(set(box)) < len(box):  # otherwise no axis can take another's place
        order = tf.argmax(tf.abs(matrix), output_type=tf.int32)
        image = tf.transpose(image, tf.concat([order, [len(box)]], 0))
        mask = tf.transpose(mask, order)
    image = tf.cast(tf.ensure_shape(image, [*box, channels]), tf.float32)
    return image, tf.ensure_shape(mask, box)


def _hold(centre, matrix, box, place):
    """Moves the centre as little as it takes for the crop to hold a place, if there is one."""
    if place is None:
        return centre
    half = tf.constant([(side - 1) / 2 for side in box], tf.float32)
    offset = tf.linalg.matvec(tf.linalg.inv(matrix), tf.cast(place, tf.float32) - centre)
    beyond = offset - tf.clip_by_value(offset, -half, half)
    return centre + tf.where(place < 0, 0.0, tf.linalg.matvec(matrix, beyond))


def _sources(centre, matrix, displacements, box):
    """Returns the place of each pixel of the crop in the image: float32 [*B] for each axis."""
    rank = len(box)
    points = [
        tf.reshape(tf.range(side, dtype=tf.float32) - (side - 1) / 2, along(axis, rank))
        for axis, side in enumerate(box)
    ]
    for op, some in displacements:
        change = tf.cond(
            _acts(op, some),
            functools.partial(op.apply, some[1:], box),
            lambda: tf.zeros([*box, rank]),
        )
        points = [point + change[..., axis] for axis, point in enumerate(points)]
    sources = tf.unstack(centre)
    for axis, other in itertools.product(range(rank), repeat=2):
        sources[axis] += matrix[axis, other] * points[other]
    return sources


def _interpolate(image, mask, sources):
    """Samples at any positions: images linearly along each axis, masks from the nearest pixel."""
    sizes = tf.unstack(tf.shape(mask))
    pixels = tf.reshape(image, [-1, image.shape[-1]])
    floors = [tf.floor(source) for source in sources]
    shares = [(x - low)[..., tf.newaxis] for x, low in zip(sources, floors, strict=True)]
    lows = [tf.cast(low, tf.int32) for low in floors]
    pairs = [
        (mirror(low, size), mirror(low + 1, size)) for low, size in zip(lows, sizes, strict=True)
    ]

    def between(axis, line):
        """Interpolates along an axis and those after it; `line` is the place on those before."""
        if axis == len(sizes):
            return tf.cast(tf.gather(pixels, line), tf.float32)
        near, far = (between(axis + 1, line * sizes[axis] + place) for place in pairs[axis])
        return near + (far - near) * shares[axis]

    places = [tf.cast(tf.round(source), tf.int32) for source in sources]
    nearest = [mirror(place, size) for place, size in zip(places, sizes, strict=True)]
    inside = [place == taken for place, taken in zip(places, nearest, strict=True)]
    line = nearest[0]
    for size, place in zip(sizes[1:], nearest[1:], strict=True):
        line = line * size + place
    classes = tf.gather(tf.reshape(mask, [-1]), line)
    return between(0, 0), tf.where(functools.reduce(tf.logical_and, inside), classes, IGNORE)


def along(axis: int, rank: int) -> list[int]:
    """Returns the shape of what has the length of one axis only."""
    return [-1 if other == axis else 1 for other in range(rank)]


def _smooth_rows(image, weights):
    """Convolves along the rows' axis with an odd number of weights, mirrored at the edges."""
    reach, height = weights.shape[0] // 2, tf.shape(image)[0]
    padded = tf.gather(image, mirror(tf.range(-reach, height + reach), height))
    terms = [weights[k] * padded[k : k + height] for k in range(weights.shape[0])]
    return tf.ensure_shape(tf.add_n(terms), image.shape)


def _draw(key: tf.Tensor, rows: int) -> list[tf.Tensor]:
    """Returns the numbers of some operations, float32 [1 + NUMBERS] each."""
    return tf.unstack(tf.random.stateless_uniform([rows, 1 + NUMBERS], key, alg="philox"))


def _acts(op: Op, numbers: tf.Tensor) -> tf.Tensor:
    """Decides by the first of its numbers whether an operation acts; it gets the others."""
    return numbers[0] < op.probability


def between(number: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Returns a number in [low, high) for one in [0, 1)."""
    return low + (high - low) * number
