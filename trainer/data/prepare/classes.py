"""What --classes, --ignore and --threshold define, and the class of a value.

A class is a value, a range of values or a colour; or there are two classes, separated by a
threshold.
"""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.data.dataset import schema
from trainer.errors import InputError, one_line

LINE_BREAKING = ("Cc", "Zl", "Zp")  # Unicode's categories
UNKNOWN = -1  # the place of a value that is of no class
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
THRESHOLDED = (schema.Class("background", 0), schema.Class("foreground", 255))


@dataclasses.dataclass(frozen=True)
class Given:
    """What the user says about the masks.

    Attributes:
        classes: in the order of their ids; none if those that occur are to be taken.
        ignore: the value, or colour 0xRRGGBB, whose pixels do not count.
        threshold: the first value of the second of two classes, for masks without exact values.
    """

    classes: tuple[schema.Class, ...] = ()
    ignore: int | None = None
    threshold: float | None = None

    @property
    def by_colour(self) -> bool:
        """Whether classes are named by the colours that are shown."""
        return any(entry.colour for entry in self.classes)


def parse(classes: str, ignore: str, threshold: float | None) -> Given:
    """Returns what `--classes`, `--ignore` and `--threshold` say.

    Raises:
        InputError: one is of another form, or they contradict one another.
    """
    texts = classes.split(",") if classes else []
    entries = tuple(_parse_class(classes, *one) for one in enumerate(texts))
    given = Given(entries, _parse_ignore(ignore), threshold)
    _check_classes(classes, given.classes)
    if given.ignore is not None:
        _check_ignore(classes, ignore, given)
    if threshold is None:
        return given
    if given.classes and (len(given.classes) != 2 or any(map(_is_wide, given.classes))):
        raise InputError(
            f"--threshold={threshold:g} makes two classes, each of one value; --classes={classes} "
            "gives others: write background:0,nucleus:255 or the like, or drop one of the two."
        )
    return dataclasses.replace(given, classes=given.classes or THRESHOLDED)


def _parse_class(text: str, index: int, entry: str) -> schema.Class:
    name, colon, value = entry.strip().rpartition(":")
    name, value = name.strip(), value.strip()
    wide = re.fullmatch(r"(-?\d+)-(-?\d+)", value)
    colour = COLOUR.fullmatch(value)
    broken = any(unicodedata.category(letter) in LINE_BREAKING for letter in name)
    try:
        first, last = map(int, wide.groups()) if wide else (0 if colour else int(value), None)
        if (colon and not name) or broken:
            raise ValueError
    except ValueError:
        raise InputError(
            f"--classes={one_line(text)}: {entry!r} is neither VALUE nor NAME:VALUE with a "
            "whole number, a range or a colour; write 0,255, background:0,cell:1-65535 or "
            "sky:#00ffff,road:#000000."
        ) from None
    if last is not None and last < first:
        raise InputError(f"--classes={text}: the range {value} ends before it begins.")
    if colour:
        return schema.Class(name or value.lower(), index, colour=value.lower())
    return schema.Class(name or value, first, None if last == first else last)


def _parse_ignore(text: str) -> int | None:
    if not text:
        return None
    if COLOUR.fullmatch(text):
        return int(text[1:], 16)
    try:
        return int(text)
    except ValueError:
        raise InputError(
            f"--ignore={text} is neither a whole number nor a colour; write 255 or #e0e0c0."
        ) from None


def _check_classes(text: str, classes: tuple[schema.Class, ...]) -> None:
    for field, held in (("name", lambda entry: entry.name), ("value", schema.Class.as_given)):
        for repeated, count in collections.Counter(map(held, classes)).items():
            if count > 1:
                raise InputError(
                    f"--classes={text} gives the {field} {repeated} twice; each class needs its "
                    "own."
                )
    if text and not 2 <= len(classes) <= schema.MAX_CLASSES:
        raise InputError(
            f"--classes={text} gives {len(classes)} classes; expected 2 to {schema.MAX_CLASSES}, "
            "the background first."
        )
    if len({bool(entry.colour) for entry in classes}) > 1:
        raise InputError(
            f"--classes={text} names some classes by value and some by colour; name all by one."
        )
    ordered = sorted(classes, key=bounds)
    for one, other in zip(ordered, ordered[1:], strict=False):
        if bounds(one)[1] >= bounds(other)[0]:
            raise InputError(
                f"--classes={text}: the values of {one.name} and {other.name} overlap; each value "
                "is of one class."
            )


def _check_ignore(classes: str, ignore: str, given: Given) -> None:
    if given.classes and given.by_colour != ignore.startswith("#"):
        raise InputError(
            f"--ignore={ignore} and --classes={classes} must both be by value, or by colour."
        )
    if ignore.startswith("#") and not given.classes:
        raise InputError(
            f"--ignore={ignore} is a colour, and so must the classes be: "
            "--classes=background:#000000,tumour:#ff0000."
        )
    for entry in given.classes:
        low, high = bounds(entry)
        if low <= (given.ignore or 0) <= high:
            raise InputError(
                f"--ignore={ignore} is also the value of class {entry.name} of --classes="
                f"{classes}; drop one of them."
            )


def _is_wide(entry: schema.Class) -> bool:
    return entry.last is not None or entry.colour is not None


def bounds(entry: schema.Class) -> tuple[int, int]:
    """Returns the first and last value, or twice the colour, of a class in masks."""
    if entry.colour:
        return (int(entry.colour[1:], 16),) * 2
    return entry.value, entry.value if entry.last is None else entry.last


def places(values: Any, classes: Sequence[schema.Class], ignore: int | None) -> np.ndarray:
    """Returns which class each value is of.

    Args:
        values: numbers, or colours 0xRRGGBB, of any shape.
        classes: in the order of their ids.
        ignore: the value that does not count, if there is one.

    Returns:
        int16, the place of the value's class; schema.IGNORE of `ignore`; UNKNOWN of no class.
    """
    values = np.asarray(values)
    found = np.full(values.shape, UNKNOWN, np.int16)
    for index, entry in enumerate(classes):
        low, high = bounds(entry)
        found[(values >= low) & (values <= high)] = index
    if ignore is not None:
        found[values == ignore] = schema.IGNORE
    return found


def as_text(classes: Sequence[schema.Class]) -> str:
    """Returns classes as --classes takes them."""
    return ",".join(f"{entry.name}:{entry.as_given()}" for entry in classes)


def remedies(values: Sequence[Any], last: int) -> str:
    """Returns which flags there are for many values that may be no classes.

    Args:
        values: that occur, ascending; the first is the background's.
        last: the largest that may occur.
    """
    low, high = int(values[0]), int(values[-1])
    return (
        f"If they are instance numbers, give --classes=background:{low},object:{values[1]}-{last}; "
        f"if they are two classes smoothed, --threshold={(low + high + 1) // 2};"
    )


def is_grey(colour: int) -> bool:
    """Whether a colour 0xRRGGBB is one of the greys."""
    return colour == (colour & 0xFF) * 0x010101


def hexadecimal(colour: int) -> str:
    """Returns a colour 0xRRGGBB as #rrggbb."""
    return f"#{colour:06x}"
