"""Lines of text on dark paper: titles, captions and legends.

DejaVu Sans 2.35 (`LICENSE_DEJAVU`) has Latin, Greek and Cyrillic letters, and no Chinese, Japanese
or Korean ones: boxes stand for those.
"""

import functools
import pathlib
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.errors import one_line

PAPER = (24, 24, 24)
INK = (235, 235, 235)
FAINT = (128, 128, 128)  # around a colour, of which the darkest could not be seen on the paper
GAP = 6
TEXT = 16  # pixels high, to be read where TensorBoard draws panels at two thirds
LINE = TEXT + 7
Entry = tuple[str, tuple[int, int, int] | None]  # of a legend: name and colour, or words alone


@functools.cache
def font() -> ImageFont.FreeTypeFont:
    """Returns the font of all text."""
    return ImageFont.truetype(pathlib.Path(__file__).with_name("DejaVuSans.ttf"), TEXT)


def shown(text: str) -> str:
    """Returns the text on one line, with a letter and its accent as one, as the font has them."""
    return unicodedata.normalize("NFC", one_line(text))


def cut(text: str, width: float) -> str:
    """Returns the text on one line, or as much of its beginning and end as fits into the pixels."""
    part = text = shown(text)
    kept = len(text)
    while kept > 0 and font().getlength(part) > width:
        kept -= 1
        part = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return part


@functools.lru_cache(maxsize=64)  # panels have the same titles
def text_line(text: str, width: int, left: int = 1, top: int = 2) -> np.ndarray:
    """Returns a line of text, uint8 [LINE, width, 3], with a margin on both sides."""
    line = Image.new("RGB", (width, LINE), PAPER)
    ImageDraw.Draw(line).text((left, top), cut(text, width - 2 * left), INK, font())
    return np.asarray(line)


def legend_lines(width: int, entries: Sequence[Entry]) -> np.ndarray:
    """Returns names beside their colours on as many lines as needed: uint8 [n * LINE, width, 3].

    Words, which have no colour, and the names behind them are on one line if it is long enough.
    """
    return _legend_lines(width, tuple(entries))


@functools.lru_cache(maxsize=64)
def _legend_lines(width: int, entries: tuple[Entry, ...]) -> np.ndarray:
    swatches = [0 if colour is None else TEXT + 2 for _, colour in entries]
    names = [
        cut(name, width - 2 * GAP - swatch)
        for (name, _), swatch in zip(entries, swatches, strict=True)
    ]
    lengths = [
        swatch + round(font().getlength(name)) + 2 * GAP
        for name, swatch in zip(names, swatches, strict=True)
    ]
    places, left, top = [], GAP, 0
    for place, ((_, colour), name, length) in enumerate(zip(entries, names, lengths, strict=True)):
        end = place + 1
        if colour is None:  # words stay on the line of the colours that they are about
            while end < len(entries) and entries[end][1] is not None:
                end += 1
        if left + sum(lengths[place:end]) - 2 * GAP > width and left > GAP:
            left, top = GAP, top + LINE
        places.append((left, top, name, colour))
        left += length
    lines = Image.new("RGB", (width, top + LINE), PAPER)
    draw = ImageDraw.Draw(lines)
    for left, top, name, colour in places:
        if colour is not None:
            draw.rectangle((left, top + 4, left + TEXT - 3, top + TEXT + 1), colour, FAINT)
            left += TEXT + 2
        draw.text((left, top + 2), name, INK, font())
    return np.asarray(lines)
