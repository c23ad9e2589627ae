"""Pictures of cases: panels that compare, sheets that survey, as files of the usual formats."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from trainer.drawing import overlays
from trainer.drawing.captions import GAP, PAPER, Entry, legend_lines, text_line
from trainer.ignore_label import IGNORE

PNG_LEVEL = 3  # a third of the time that zlib's own choice takes


def draw_panel(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    valid: np.ndarray,
    confidence: np.ndarray,
    caption: str = "",
    classes: Sequence[str] = (),
    side: int = 256,
) -> np.ndarray:
    """Returns an image with outlined truth and with outlined prediction; below, errors, confidence.

    Args:
        image: any dtype [H, W, C], see `overlays.display`.
        truth: integers [H, W], class ids.
        prediction: integers [H, W], class ids.
        valid: [H, W], 0 where a pixel does not count.
        confidence: uint8 [H, W], probability of the prediction, 255 for 1.
        caption: a line of text below.
        classes: names, for the legend of those that occur; numbers if empty.
        side: the longer side of each picture, in pixels.

    Returns:
        uint8 [H', W', 3].
    """
    truth = np.where(np.asarray(valid) > 0, truth, IGNORE)
    picture = _resized(overlays.display(image), side)
    size = picture.shape[1], picture.shape[0]
    shown, found, probability = (
        resized_mask(part, size) for part in (truth, prediction, confidence)
    )
    titled = compared(picture, shown, found, probability, len(classes))
    tiles = [labelled(tile, title, above=True) for title, tile in titled.items()]
    return footed(grid(tiles, 2), caption, legend_of((truth, prediction), classes))


def compared(
    picture: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    confidence: np.ndarray,
    num_classes: int,
) -> dict[str, np.ndarray]:
    """Returns what compares truth and prediction on a picture of their size, by its titles."""
    least = _least(num_classes)
    shares = np.clip((confidence / 255 - least) / (1 - least), 0, 1)
    return {
        "truth": overlays.draw_outlines(picture, truth),
        "prediction": overlays.draw_outlines(picture, prediction),
        "errors": overlays.draw_errors(picture, truth, prediction),
        "confidence": overlays.draw_quantity(shares),
    }


def legend_of(masks: Sequence[np.ndarray], classes: Sequence[str]) -> list[Entry]:
    """Returns the legend of `compared`, with the classes that occur in the masks."""
    counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)
    present = [int(k) for k in np.flatnonzero(counts) if k not in (0, IGNORE)]
    names = {k: classes[k] if k < len(classes) else f"class {k}" for k in present}
    legend: list[Entry] = [(name, overlays.class_colour(k)) for k, name in names.items()]
    legend += [("errors:", None), ("missed", overlays.MISSED), ("added", overlays.ADDED)]
    if any(k > 1 for k in present):
        legend.append(("wrong class", overlays.CONFUSED))
    least = f"{_least(len(classes)):.0%}"
    low, high = overlays.RAMP[0], overlays.RAMP[-1]
    return [*legend, ("confidence:", None), (least, low), ("100%", high)]


def _least(num_classes: int) -> float:
    """Returns the least confidence: the most probable class has at least its share."""
    return 1 / max(2, num_classes)


def footed(picture: np.ndarray, caption: str, legend: Sequence[Entry]) -> np.ndarray:
    """Returns a picture, uint8 [H, W, 3], above its caption and its legend."""
    width = picture.shape[1]
    footer = text_line(caption, width, left=GAP, top=0), legend_lines(width, legend)
    return np.concatenate([picture, *footer])


def draw_example(image: np.ndarray, mask: np.ndarray, caption: str, side: int = 224) -> np.ndarray:
    """Returns an image with its mask's outlines and a caption, as a tile for `grid`.

    Args:
        image: any dtype [H, W, C], see `overlays.display`.
        mask: integers [H, W], class ids; IGNORE where a pixel does not count.
        caption: a line of text below, cut to the tile.
        side: width and height of the square that the picture is fitted into, in pixels.

    Returns:
        uint8 [side + a line of text, side, 3]; a wide picture is at the caption.
    """
    picture = _resized(overlays.display(image), side)
    height, width = picture.shape[:2]
    tile = np.full((side, side, 3), PAPER, np.uint8)
    left = (side - width) // 2
    tile[side - height :, left : left + width] = overlays.draw_outlines(
        picture, _shrunk_mask(mask, (width, height))
    )
    return labelled(tile, caption, above=False)


def grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Returns tiles, uint8 [H, W, 3] each, in rows of so many, on dark paper.

    Each row is as high as its highest tile, and all columns are as wide as the widest.
    """
    width = max(tile.shape[1] for tile in tiles) + GAP
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile in row) + GAP for row in rows]
    sheet = np.full((sum(heights) + GAP, len(rows[0]) * width + GAP, 3), PAPER, np.uint8)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for place, tile in enumerate(row):
            left = GAP + place * width
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        top += height
    return sheet


def encode_png(picture: np.ndarray) -> bytes:
    """Returns a picture, uint8 [H, W, 3], as PNG, fast rather than small."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def encode_jpeg(picture: np.ndarray) -> bytes:
    """Returns a picture, uint8 [H, W, 3], as JPEG whose lines keep their colours."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    """Fits a picture into a square; what grows is not smoothed, so that its pixels can be seen."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, method))


def resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a mask as it is drawn on a picture of so many pixels, width and height."""
    picture = Image.fromarray(np.asarray(mask).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


def _shrunk_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a mask as `resized_mask` does; a pixel is a class if any that it stands for is.

    Of several the last: what is thin or small would otherwise be lost in a small picture.
    """
    found = np.where(mask == IGNORE, 0, mask)
    for axis, length in enumerate(reversed(size)):
        if length < found.shape[axis]:
            starts = np.arange(length) * found.shape[axis] // length
            found = np.maximum.reduceat(found, starts, axis=axis)
    return np.where(resized := resized_mask(found, size), resized, resized_mask(mask, size))


def labelled(tile: np.ndarray, text: str, above: bool) -> np.ndarray:
    """Returns a picture, uint8 [H, W, 3], with a line of text."""
    line = text_line(text, tile.shape[1])
    return np.concatenate([line, tile] if above else [tile, line])
