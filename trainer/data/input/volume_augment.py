"""Augmentation of volumes: the operations that differ from those of images, and the rows.

What is geometry acts in millimetres: with S the spacing, a rotation R of the body is the matrix
S⁻¹ R S of voxels. An axis is coarse if its spacing is more than COARSE times the finest; it is not
mixed with the others, nor scaled or bent: between slices that far apart nothing is known.
nnU-Net (Isensee et al., 2021) has a rule like it, and the probabilities of `strong` are its own,
but for the elastic deformation, which it does not have.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from trainer.data.input import augment
from trainer.data.input.augment import Augmentation, Op
from trainer.errors import InputError

COARSE = 3.0

# Geometry -----------------------------------------------------------------------------------------


def turn(numbers: tf.Tensor, plane: tuple[int, int]) -> tf.Tensor:
    """Turns by 0, 90, 180 or 270 degrees in the plane of two axes."""
    return _in_plane(augment.turn(numbers), plane)


def rotate_and_scale(
    numbers: tf.Tensor, degrees: float, scale: float, spacing: Sequence[float]
) -> tf.Tensor:
    """Rotates about each axis by up to ±degrees, and scales by [1 / scale, scale].

    About an axis only where the two others may be mixed; coarse axes are not scaled.
    """
    matrix = tf.eye(3)
    for axis, plane in enumerate(((1, 2), (0, 2), (0, 1))):
        if len({_is_coarse(other, spacing) for other in plane}) == 1:
            turned = augment.rotate_and_scale(tf.stack([numbers[axis], 0.5]), degrees, 1.0)
            matrix = matrix @ _in_plane(turned, plane)
    sides = tf.constant(spacing, tf.float32)
    exponents = tf.constant([0.0 if _is_coarse(axis, spacing) else 1.0 for axis in range(3)])
    factor = tf.exp(augment.between(numbers[3], -math.log(scale), math.log(scale)) * exponents)
    return factor * matrix * sides / sides[:, tf.newaxis]


def elastic(numbers: tf.Tensor, box: Sequence[int], spacing: Sequence[float]) -> tf.Tensor:
    """Displaces smoothly: random vectors on a 3×3×3 grid, bicubic in between.

    Their standard deviation, along each axis that is not coarse, is ten of the finest voxels, on
    small crops a 24th of the shortest side, so that the volume does not fold over.
    """
    shortest = min(side * mm for side, mm in zip(box, spacing, strict=True))
    deviation = min(10 * min(spacing), shortest / 24)
    in_voxels = [0 if _is_coarse(axis, spacing) else deviation / spacing[axis] for axis in range(3)]
    key = tf.bitcast(numbers[:2], tf.int32)  # 81 numbers take a draw of their own
    vectors = tf.random.stateless_normal([3, 3, 3, 3], key, alg="philox") * in_voxels
    for side in box:  # each axis in turn is the first, and then the last but the vectors' own
        weights = tf.image.resize(tf.eye(3)[:, tf.newaxis], [side, 1], "bicubic")[:, 0]
        vectors = tf.transpose(tf.tensordot(weights, vectors, 1), [1, 2, 0, 3])
    return vectors


# Intensity ----------------------------------------------------------------------------------------


def gamma_of_negative(numbers: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Does what gamma does to the bright values to the dark ones."""
    return -augment.gamma(numbers, -image)


def low_resolution(
    numbers: tf.Tensor, image: tf.Tensor, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> tf.Tensor:
    """Keeps half to all of the voxels along each axis that is not coarse, and fills in between.

    Kept values are the nearest ones; between them it is linear.
    """
    share = augment.between(numbers[0], 0.5, 1.0)
    for axis in range(3):
        if _is_coarse(axis, spacing):
            continue
        side = image.shape[axis]
        place = (tf.range(side, dtype=tf.float32) + 0.5) * share - 0.5
        low = tf.floor(place)
        below, above = (
            tf.gather(image, _nearest((low + step + 0.5) / share - 0.5, side), axis=axis)
            for step in (0, 1)
        )
        image = below + (above - below) * tf.reshape(place - low, augment.along(axis, 4))
    return image


# Rows ---------------------------------------------------------------------------------------------


def none(box: Sequence[int], spacing: Sequence[float]) -> Augmentation:
    """Returns the row without any operation."""
    return Augmentation()


def flip(box: Sequence[int], spacing: Sequence[float]) -> Augmentation:
    """Returns the row of mirroring along each axis."""
    return Augmentation(matrices=(Op(functools.partial(augment.flip, rank=3)),))


def standard(box: Sequence[int], spacing: Sequence[float]) -> Augmentation:
    """Returns the row for most trainings: as that of images, about every axis that allows it."""
    rotation = functools.partial(rotate_and_scale, degrees=15, scale=1.2, spacing=spacing)
    return Augmentation(
        matrices=(*flip(box, spacing).matrices, *_turns(box, spacing), Op(rotation, 0.3)),
        intensities=augment.AUGMENTATIONS["standard"].intensities,
    )


def strong(box: Sequence[int], spacing: Sequence[float]) -> Augmentation:
    """Returns the row for small sets and long trainings."""
    change = functools.partial(rotate_and_scale, spacing=spacing)
    return Augmentation(
        matrices=(
            *flip(box, spacing).matrices,
            *_turns(box, spacing),
            Op(functools.partial(change, degrees=30, scale=1.0), 0.2),
            Op(functools.partial(change, degrees=0, scale=1.4), 0.2),
        ),
        displacements=(Op(functools.partial(elastic, spacing=spacing), 0.2),),
        intensities=(
            Op(augment.noise, 0.1),
            Op(functools.partial(augment.blur, spacing=spacing), 0.2),
            Op(augment.brightness, 0.15),
            Op(augment.contrast, 0.15),
            Op(functools.partial(low_resolution, spacing=spacing), 0.25),
            Op(gamma_of_negative, 0.1),
            Op(augment.gamma, 0.3),
        ),
    )


AUGMENTATIONS: dict[str, Callable[[Sequence[int], Sequence[float]], Augmentation]] = {
    "none": none,
    "flip": flip,
    "standard": standard,
    "strong": strong,
}


def row_of(name: str, box: Sequence[int], spacing: Sequence[float] | None) -> Augmentation:
    """Returns the row of a name.

    Args:
        name: a key of AUGMENTATIONS.
        box: sides of the crop, in voxels.
        spacing: mm between voxels along depth, height and width; None: not known, taken as equal.

    Raises:
        InputError: for a name that only images have.
    """
    if name not in AUGMENTATIONS:
        raise InputError(
            f"--augment={name} has no row for volumes; use {', '.join(AUGMENTATIONS)}, or add one "
            "to volume_augment.AUGMENTATIONS."
        )
    return AUGMENTATIONS[name](box, spacing or (1.0, 1.0, 1.0))


def _turns(box: Sequence[int], spacing: Sequence[float]) -> tuple[Op, ...]:
    """Returns quarter turns in the planes whose two axes are one as the other."""
    planes = itertools.combinations(range(3), 2)
    return tuple(
        Op(functools.partial(turn, plane=(first, second)))
        for first, second in planes
        if box[first] == box[second] and math.isclose(spacing[first], spacing[second], rel_tol=1e-3)
    )


def _is_coarse(axis: int, spacing: Sequence[float]) -> bool:
    return spacing[axis] > COARSE * min(spacing)


def _in_plane(matrix: tf.Tensor, plane: tuple[int, int]) -> tf.Tensor:
    """Returns a matrix of two axes as one of three, which leaves the third axis as it is."""
    places = tf.one_hot(plane, 3)
    third = tf.linalg.diag(1.0 - tf.reduce_sum(places, 0))
    return third + tf.linalg.matmul(places, matrix @ places, transpose_a=True)


def _nearest(place: tf.Tensor, side: int) -> tf.Tensor:
    return tf.clip_by_value(tf.cast(tf.round(place), tf.int32), 0, side - 1)
