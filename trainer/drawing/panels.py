"""Draws images with outlines of their masks: rows that compare, sheets that survey.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), told apart with any kind of
colour vision. Everything is NumPy and Pillow, and needs no display.
"""

import functools
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.errors import one_line
from trainer.labels import IGNORE

CLASS_COLOURS = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
)
MISSED = (86, 180, 233)  # foreground in truth only
ADDED = (230, 159, 0)  # foreground in prediction only
CONFUSED = (204, 121, 167)  # another foreground class
IGNORED = (96, 96, 96)
Entry = tuple[str, tuple[int, int, int] | None]  # of a legend: name and colour, or words alone

# Of a quantity, low to high: cividis (Nuñez et al., 2018), whose lightness grows evenly.
RAMP = (
    (0, 34, 78),
    (53, 69, 108),
    (102, 105, 112),
    (148, 142, 119),
    (200, 184, 102),
    (254, 232, 56),
)

PAPER = (24, 24, 24)
INK = (235, 235, 235)
GAP = 6
TEXT = 13  # pixels high
LINE = TEXT + 7
PNG_LEVEL = 3  # a third of the time that zlib's own choice takes
LARGEST = 512  # longest image, in pixels, of which a tile shows the whole


def class_colour(index: int) -> tuple[int, int, int]:
    """Returns the colour of a class; the background, 0, is never outlined."""
    return CLASS_COLOURS[(index - 1) % len(CLASS_COLOURS)]


def display(image: np.ndarray) -> np.ndarray:
    """Returns an image as colours that can be shown.

    8-bit grey, RGB and RGBA are shown as they are, without alpha. All else is stretched so that
    0.5 % of the values are black and 0.5 % white. Two channels are shown as green and magenta, the
    first three of more as red, green and blue.

    Args:
        image: any dtype [H, W, C] or [H, W].

    Returns:
        uint8 [H, W, 3].
    """
    values = image if image.ndim == 3 else image[..., np.newaxis]
    channels = values.shape[2]
    values = values[..., [0, 1, 0] if channels == 2 else [0, 0, 0] if channels == 1 else [0, 1, 2]]
    if values.dtype == np.uint8 and channels in (1, 3, 4):
        return values
    wide = values.astype(np.float32)
    low, high = np.percentile(wide, (0.5, 99.5))
    if high <= low:
        low, high = float(wide.min()), float(wide.max())
    scaled = (wide - low) / max(high - low, np.finfo(np.float32).tiny)
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def outline(region: np.ndarray) -> np.ndarray:
    """Returns the pixels of a region that touch, by a side, what is not of it: bool [H, W]."""
    padded = np.pad(region, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


def draw_outlines(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns a picture with every foreground class outlined and ignored pixels greyed.

    Args:
        picture: uint8 [H, W, 3].
        mask: integers [H, W], class ids; IGNORE where a pixel does not count.
    """
    drawn = picture.copy()
    ignored = mask == IGNORE
    drawn[ignored] = _mixed(drawn[ignored], IGNORED)
    edges = {int(k): outline(mask == k) for k in np.unique(mask[~ignored & (mask > 0)])}
    shadow = np.zeros(mask.shape, bool)  # without it, lines are lost on bright pictures
    for edge in edges.values():
        shadow |= _beside(edge)
    drawn[shadow] //= 2
    for index, edge in edges.items():
        drawn[edge] = class_colour(index)
    return drawn


def _beside(edge: np.ndarray) -> np.ndarray:
    """Returns the pixels next to a line, by a side, and the line: bool [H, W]."""
    padded = np.pad(edge, 1)
    return edge | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


def draw_errors(picture: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns a dimmed picture with wrong pixels in the colour of their kind of error.

    Args:
        picture: uint8 [H, W, 3].
        truth: integers [H, W], class ids; IGNORE where a pixel does not count.
        prediction: integers [H, W], class ids.
    """
    drawn = picture // 3
    counts = truth != IGNORE
    drawn[~counts] = IGNORED
    drawn[counts & (truth > 0) & (prediction == 0)] = MISSED
    drawn[counts & (truth == 0) & (prediction > 0)] = ADDED
    drawn[counts & (truth > 0) & (prediction > 0) & (truth != prediction)] = CONFUSED
    return drawn


def draw_quantity(shares: np.ndarray) -> np.ndarray:
    """Returns shares, floats [H, W] in [0, 1], as colours of `RAMP`: uint8 [H, W, 3]."""
    places = np.linspace(0, 1, len(RAMP))
    channels = np.transpose(RAMP)
    table = np.stack([np.interp(np.arange(256) / 255, places, x) for x in channels], -1)
    return np.rint(table).astype(np.uint8)[np.rint(255 * shares).astype(np.uint8)]


def draw_row(
    image: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    valid: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    caption: str = "",
    classes: Sequence[str] = (),
    side: int = 256,
) -> np.ndarray:
    """Returns input, outlined truth, outlined prediction, errors and confidence, side by side.

    Args:
        image: any dtype [H, W, C], see `display`.
        truth: integers [H, W], class ids; IGNORE where a pixel does not count.
        prediction: integers [H, W], class ids.
        valid: [H, W], 0 where a pixel does not count; all count if None.
        confidence: uint8 [H, W], probability of the prediction, 255 for 1; not drawn if None.
        caption: a line of text below.
        classes: names, for the legend of those that occur; numbers if empty.
        side: the longer side of each picture, in pixels.

    Returns:
        uint8 [H', W', 3].
    """
    if valid is not None:
        truth = np.where(np.asarray(valid) > 0, truth, IGNORE)
    picture = _resized(display(image), side)
    size = picture.shape[1], picture.shape[0]
    counts = np.bincount(truth.ravel(), minlength=256) + np.bincount(
        prediction.ravel(), minlength=256
    )
    present = [int(k) for k in np.flatnonzero(counts) if k not in (0, IGNORE)]
    truth, prediction = _resized_mask(truth, size), _resized_mask(prediction, size)
    titled = {
        "input": picture,
        "truth": draw_outlines(picture, truth),
        "prediction": draw_outlines(picture, prediction),
        "errors": draw_errors(picture, truth, prediction),
    }
    names = {k: classes[k] if k < len(classes) else f"class {k}" for k in present}
    legend: list[Entry] = [(name, class_colour(k)) for k, name in names.items()]
    legend += [("      errors:", None), ("missed", MISSED), ("added", ADDED)]
    if any(k > 1 for k in present):
        legend.append(("wrong class", CONFUSED))
    if confidence is not None:
        least = 1 / max(2, len(classes))  # the most probable class has at least its share
        shares = np.clip((_resized_mask(confidence, size) / 255 - least) / (1 - least), 0, 1)
        titled["confidence"] = draw_quantity(shares)
        legend += [("      confidence:", None), (f"{least:.0%}", RAMP[0]), ("100%", RAMP[-1])]
    tiles = [_labelled(tile, title, above=True) for title, tile in titled.items()]
    return _with_footer(grid(tiles, len(tiles)), caption, legend)


def draw_example(image: np.ndarray, mask: np.ndarray, caption: str, side: int = 224) -> np.ndarray:
    """Returns an image with its mask's outlines and a caption, as a tile for `grid`.

    Of an image longer than `LARGEST` only the middle is shown, where outlines would hide it all.

    Args:
        image: any dtype [H, W, C], see `display`.
        mask: integers [H, W], class ids; IGNORE where a pixel does not count.
        caption: a line of text below, cut to the tile.
        side: width and height of the square that the picture is fitted into, in pixels.

    Returns:
        uint8 [side + a line of text, side, 3].
    """
    middle = tuple(_middle(length) for length in mask.shape)
    if max(mask.shape) > LARGEST:
        caption += " (middle)"
    picture = _resized(display(image)[middle], side)
    height, width = picture.shape[:2]
    tile = np.full((side, side, 3), PAPER, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    tile[top : top + height, left : left + width] = draw_outlines(
        picture, _resized_mask(mask[middle], (width, height))
    )
    return _labelled(tile, caption, above=False)


def _middle(length: int) -> slice:
    start = max(0, length - LARGEST) // 2
    return slice(start, start + LARGEST)


def grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Returns tiles, uint8 [H, W, 3] each, in rows of so many, on dark paper."""
    height = max(tile.shape[0] for tile in tiles) + GAP
    width = max(tile.shape[1] for tile in tiles) + GAP
    rows = -(-len(tiles) // columns)
    columns = min(columns, len(tiles))
    sheet = np.full((rows * height + GAP, columns * width + GAP, 3), PAPER, np.uint8)
    for place, tile in enumerate(tiles):
        top = GAP + place // columns * height
        left = GAP + place % columns * width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def legend_line(width: int, entries: Sequence[Entry]) -> np.ndarray:
    """Returns a line that shows names beside their colours, uint8 [H, width, 3]."""
    return _legend_line(width, tuple(entries))


@functools.lru_cache(maxsize=64)
def _legend_line(width: int, entries: tuple[Entry, ...]) -> np.ndarray:
    line = Image.new("RGB", (width, LINE), PAPER)
    _draw_legend(ImageDraw.Draw(line), GAP, entries)
    return np.asarray(line)


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


def _mixed(colours: np.ndarray, other: tuple[int, int, int]) -> np.ndarray:
    return (colours.astype(np.uint16) + 3 * np.array(other, np.uint16)) // 4


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    """Fits a picture into a square; what grows is not smoothed, so that its pixels can be seen."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, method))


def _resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(np.asarray(mask).astype(np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


def _labelled(tile: np.ndarray, text: str, above: bool) -> np.ndarray:
    line = _text_line(text, tile.shape[1])
    return np.concatenate([line, tile] if above else [tile, line])


@functools.lru_cache(maxsize=64)  # panels have the same titles
def _text_line(text: str, width: int) -> np.ndarray:
    line = Image.new("RGB", (width, LINE), PAPER)
    draw = ImageDraw.Draw(line)
    draw.text((1, 2), _cut(draw, text, width), INK, _font())
    return np.asarray(line)


def _with_footer(row: np.ndarray, caption: str, legend: Sequence[Entry]) -> np.ndarray:
    """Adds a line with the caption and one with the legend."""
    width = row.shape[1]
    line = Image.new("RGB", (width, LINE), PAPER)
    draw = ImageDraw.Draw(line)
    draw.text((GAP, 0), _cut(draw, caption, width - 2 * GAP), INK, _font())
    return np.concatenate([row, np.asarray(line), legend_line(width, legend)])


def _draw_legend(draw: ImageDraw.ImageDraw, left: int, entries: Sequence[Entry]) -> None:
    for name, colour in entries:
        if colour is not None:
            draw.rectangle((left, 4, left + TEXT - 3, TEXT + 1), colour)
            left += TEXT + 2
        shown = one_line(name)
        draw.text((left, 2), shown, INK, _font())
        left += round(draw.textlength(shown, _font())) + 2 * GAP


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """Returns the text on one line, or as much of its beginning and end as fits."""
    shown = text = one_line(text)
    kept = len(text)
    while kept > 0 and draw.textlength(shown, _font()) > width:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return shown


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT)
