"""Pictures of volumes: slices across each axis, and strips of slices.

Slices are drawn as far as they are in the body: a voxel is as many pixels high and wide as its
spacing says, so that no volume is squashed. Rows and columns are in the order of the arrays.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from trainer.drawing import overlays, panels
from trainer.drawing.captions import Entry
from trainer.ignore_label import IGNORE

AXES = "zyx"  # of [D, H, W]
LONGEST, SHORTEST = 320, 160  # pixels of a volume's longest side; between, a voxel is a pixel
STRIP, STRIP_COLUMNS = 12, 6  # slices


def draw_comparison(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    valid: np.ndarray,
    confidence: np.ndarray,
    spacing: Sequence[float],
    caption: str = "",
    classes: Sequence[str] = (),
) -> np.ndarray:
    """Returns what `panels.draw_panel` does of an image, in a row for the slice across each axis.

    The slices are those with the most errors, or with the most of the truth if there are none.

    Args:
        image: any dtype [D, H, W, C], see `overlays.display`.
        truth: integers [D, H, W], class ids.
        prediction: integers [D, H, W], class ids.
        valid: [D, H, W], 0 where a voxel does not count.
        confidence: uint8 [D, H, W], probability of the prediction, 255 for 1.
        spacing: of the voxels, along each axis.
        caption: a line of text below.
        classes: names, for the legend of those that are seen; numbers if empty.

    Returns:
        uint8 [H', W', 3].
    """
    truth = np.where(np.asarray(valid) > 0, truth, IGNORE)
    wrong = (truth != prediction) & (truth != IGNORE)
    point = _fullest(wrong if wrong.any() else (truth > 0) & (truth != IGNORE))
    pictures = _displayed([np.take(image, point[axis], axis) for axis in range(3)])
    maps = truth, prediction, confidence
    tiles, seen = [], []
    for axis, picture in enumerate(pictures):
        size = _size(truth.shape, spacing, axis)
        shown, found, probability = (_resized_slice(part, axis, point[axis], size) for part in maps)
        seen += [shown, found]
        picture = _resized(picture, size)
        drawn = panels.compared(picture, shown, found, probability, len(classes))
        for title, tile in drawn.items():
            title = f"{AXES[axis]} = {point[axis]}, {title}" if title == "truth" else title
            tiles.append(panels.labelled(tile, title, above=True))
    legend = panels.legend_of(seen, classes)
    return panels.footed(panels.grid(tiles, len(tiles) // 3), caption, legend)


def draw_example(
    image: np.ndarray, mask: np.ndarray, spacing: Sequence[float], caption: str
) -> np.ndarray:
    """Returns a slice across each axis with outlines, and a caption: a tile for a grid.

    The slices are those with the most classes, and of these with the most of them; the middle ones
    if there is no foreground.

    Args:
        image: any dtype [D, H, W, C], see `overlays.display`.
        mask: integers [D, H, W], class ids; IGNORE where a voxel does not count.
        spacing: of the voxels, along each axis.
        caption: a line of text below, cut to the tile.
    """
    point = _fitting(mask)
    pictures = _displayed([np.take(image, point[axis], axis) for axis in range(3)])
    tiles = []
    for axis, picture in enumerate(pictures):
        size = _size(mask.shape, spacing, axis)
        outlines = _resized_slice(mask, axis, point[axis], size)
        tiles.append(overlays.draw_outlines(_resized(picture, size), outlines))
    return panels.labelled(panels.grid(tiles, 3), caption, above=False)


def draw_strip(
    image: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    caption: str = "",
    classes: Sequence[str] = (),
    opacity: float = 0.0,
) -> np.ndarray:
    """Returns slices with their classes, evenly spread over what the mask holds.

    They are across the axis of the largest spacing, or the first of equal ones.

    Args:
        image: any dtype [D, H, W, C], see `overlays.display`.
        mask: integers [D, H, W], class ids.
        spacing: of the voxels, along each axis.
        caption: a line of text below.
        classes: names, for the legend.
        opacity: see `overlays.draw_overlay`.

    Returns:
        uint8 [H', W', 3], with `STRIP` slices or all that there are.
    """
    axis = int(np.argmax(spacing))
    others = tuple(other for other in range(3) if other != axis)
    held = np.flatnonzero((mask > 0).any(axis=others))
    first, last = (held[0], held[-1]) if len(held) else (0, mask.shape[axis] - 1)
    chosen = np.unique(np.linspace(first, last, STRIP).round().astype(int))
    size = _size(mask.shape, spacing, axis)
    tiles = []
    pictures = _displayed([np.take(image, place, axis) for place in chosen])
    for place, picture in zip(chosen, pictures, strict=True):
        shown = _resized_slice(mask, axis, place, size)
        tile = overlays.draw_overlay(_resized(picture, size), shown, opacity)
        tiles.append(panels.labelled(tile, f"{AXES[axis]} = {place}", above=True))
    legend: list[Entry] = [(name, overlays.class_colour(k)) for k, name in enumerate(classes) if k]
    return panels.footed(panels.grid(tiles, STRIP_COLUMNS), caption, legend)


def _fullest(voxels: np.ndarray) -> list[int]:
    """Returns where along each axis the slice with the most of these voxels is."""
    sums = (voxels.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3))
    return [int(np.argmax(found)) for found in sums]


def _fitting(mask: np.ndarray) -> list[int]:
    """Returns where along each axis the slice is that shows the most classes, and most of them."""
    classes = [mask == k for k in np.unique(mask) if k not in (0, IGNORE)]
    if not classes:
        return [length // 2 for length in mask.shape]
    found = []
    for axis in range(3):
        voxels = np.array([one.sum(axis=tuple({0, 1, 2} - {axis})) for one in classes])
        found.append(int(np.argmax((voxels > 0).sum(axis=0) * mask.size + voxels.sum(axis=0))))
    return found


def _displayed(slices: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns slices [h, w, C] as colours, uint8 [h, w, 3], with one scale for all."""
    shapes = [part.shape[:2] for part in slices]
    flat = overlays.display(
        np.concatenate([part.reshape(-1, 1, part.shape[-1]) for part in slices])
    )
    ends = np.cumsum([height * width for height, width in shapes])
    parts = np.split(flat, ends[:-1])
    return [part.reshape(*shape, 3) for part, shape in zip(parts, shapes, strict=True)]


def _size(shape: Sequence[int], spacing: Sequence[float], axis: int) -> tuple[int, int]:
    """Returns width and height in pixels of a slice across an axis, at the scale of its volume.

    The finest voxels are whole pixels unless the volume is too long for that.
    """
    sides = np.multiply(shape, spacing)
    finest = min(spacing)
    pixels = sides.max() / finest
    scale = max(1, np.ceil(SHORTEST / pixels)) / finest * min(1, LONGEST / pixels)
    height, width = (
        max(1, round(side * scale)) for other, side in enumerate(sides) if other != axis
    )
    return width, height


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fits a picture into so many pixels; a box of one voxel or less repeats it."""
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _resized_slice(mask: np.ndarray, axis: int, place: int, size: tuple[int, int]) -> np.ndarray:
    return panels.resized_mask(np.take(mask, place, axis), size)
