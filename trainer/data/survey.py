"""The first pass over pictures and masks: what there is, and how it will be stored.

What acts on the data, such as dropping an alpha channel, is said once for the whole set: functions
that choose return a choice and a list of notes for the user.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.data import images, records, sources
from trainer.errors import InputError

SHOWN = 5  # values or names in a message before "…"


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Attributes:
        image: where the image is.
        mask: where its mask is.
        boxes: (name, top, left, height, width) of the examples to be made of them.
    """

    image: sources.Source
    mask: sources.Source
    boxes: tuple[tuple[str, int, int, int, int], ...] = ()

    @property
    def name(self) -> str:
        """The case's name."""
        return self.image.name


@dataclasses.dataclass(frozen=True)
class Survey:
    """What there is in a pair.

    Attributes:
        pair: the pair.
        height: of both, in pixels.
        width: of both, in pixels.
        dtype: of the image.
        colours: number of its channels but for alpha.
        is_grey: whether it has one channel or three equal ones.
        alpha: "none", "opaque" or "varies".
        values: that occur in the mask, ascending.
        digest: of the pixels; equal for a grey image however it is stored.
    """

    pair: Pair
    height: int
    width: int
    dtype: str
    colours: int
    is_grey: bool
    alpha: str
    values: tuple[int, ...]
    digest: bytes


@dataclasses.dataclass(frozen=True)
class Format:
    """How every example is stored; see `records.Manifest`."""

    classes: tuple[records.Class, ...]
    ignore_value: int | None
    channels: int
    dtype: str

    @property
    def encoding(self) -> str:
        """Encoding of the images."""
        return records.choose_encoding(self.dtype, self.channels)


def examine(pair: Pair, max_pixels: int) -> Survey:
    """Reads a pair and says what there is.

    Raises:
        InputError: if a file is unreadable or too large, or the two do not fit.
    """
    pixels = images.read_image(pair.image, max_pixels)
    mask = images.class_values(images.read_mask(pair.mask, max_pixels), pair.mask.label)
    height, width = pixels.values.shape[:2]
    if mask.shape != (height, width):
        raise InputError(
            f"{pair.mask.label} is {mask.shape[0]}×{mask.shape[1]} (height × width), but its image "
            f"{pair.image.label} is {height}×{width}; they must be equal."
        )
    values = np.unique(mask)
    if len(values) > records.MAX_CLASSES + 1:  # one may be --ignore
        raise InputError(_too_many(pair.mask.label, len(values)))
    grey = pixels.is_grey
    return Survey(
        pair=pair,
        height=height,
        width=width,
        dtype=pixels.values.dtype.name,
        colours=pixels.colours.shape[2],
        is_grey=grey,
        alpha="none" if not pixels.alpha else "opaque" if pixels.is_opaque else "varies",
        values=tuple(int(value) for value in values),
        digest=_digest(pixels.colours[..., :1] if grey else pixels.colours),
    )


def _digest(values: np.ndarray) -> bytes:
    digest = hashlib.blake2b(repr((values.shape, values.dtype.name)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()


def _too_many(label: str, count: int) -> str:
    return (
        f"{label} has {count} distinct values, more than {records.MAX_CLASSES} classes: that is "
        "not a mask; check --masks."
    )


def parse_classes(text: str, ignore: int | None) -> tuple[records.Class, ...]:
    """Returns the classes of `0,255` or `background:0,nucleus:255`, none of an empty text."""
    classes = tuple(_parse_class(text, entry) for entry in text.split(",")) if text else ()
    for field in ("name", "value"):
        counts = collections.Counter(str(getattr(entry, field)) for entry in classes)
        for repeated, count in counts.items():
            if count > 1:
                raise InputError(
                    f"--classes={text} gives the {field} {repeated} twice; each class needs its "
                    "own."
                )
    if text and not 2 <= len(classes) <= records.MAX_CLASSES:
        raise InputError(
            f"--classes={text} gives {len(classes)} classes; expected 2 to {records.MAX_CLASSES}, "
            "the background first."
        )
    for entry in classes:
        if entry.value == ignore:
            raise InputError(
                f"--ignore={ignore} is also the value of class {entry.name} of --classes={text}; "
                "drop one of them."
            )
    return classes


def _parse_class(text: str, entry: str) -> records.Class:
    name, colon, value = entry.strip().rpartition(":")
    try:
        number = int(value)
        if colon and not name.strip():
            raise ValueError
    except ValueError:
        raise InputError(
            f"--classes={text}: {entry!r} is neither VALUE nor NAME:VALUE with a whole number; "
            "write 0,255 or background:0,nucleus:255."
        ) from None
    return records.Class(name.strip() or str(number), number)


def parse_channels(text: str) -> int | None:
    """Returns the number of channels, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--channels={text} is neither auto nor a number of channels, 1 or more.")
    return int(text)


def choose_classes(
    surveys: Sequence[Survey], classes: tuple[records.Class, ...], ignore: int | None
) -> tuple[tuple[records.Class, ...], list[str]]:
    """Returns the classes, those that occur if none are given, and notes.

    Raises:
        InputError: if a mask has another value, or all have too many or only one.
    """
    if classes:
        _check_values(surveys, [ignore, *(entry.value for entry in classes)], classes)
        return classes, []
    found = sorted({value for one in surveys for value in one.values if value != ignore})
    if len(found) > records.MAX_CLASSES:
        raise InputError(_too_many("The set of all masks", len(found)))
    if len(found) < 2:
        raise InputError(
            f"The masks have one value only ({_some(found)}); there is nothing to tell apart. "
            "Check --masks, or name the classes with --classes."
        )
    names = ",".join(str(value) for value in found)
    note = f"Classes found: --classes={names}; give them names with NAME:VALUE."
    return tuple(records.Class(str(value), value) for value in found), [note]


def _check_values(
    surveys: Sequence[Survey], known: Sequence[int | None], classes: tuple[records.Class, ...]
) -> None:
    for one in surveys:
        unknown = [value for value in one.values if value not in known]
        if unknown:
            expected = ",".join(f"{entry.name}:{entry.value}" for entry in classes)
            raise InputError(
                f"{one.pair.mask.label} has the value {_some(unknown)}, which is not in "
                f"--classes={expected}; add it, or give it as --ignore."
            )


def choose_channels(surveys: Sequence[Survey], channels: int | None) -> tuple[int, list[str]]:
    """Returns the number of channels of every example, and notes.

    If `channels` is None: 1 if every image is grey, be it in three equal channels; 3 if some are
    in colour; alpha counts only if it is asked for.

    Raises:
        InputError: if no rule leads there.
    """
    chosen = _needed_channels(surveys) if channels is None else channels
    for one in surveys:
        images.check_convertible(one.colours, chosen, one.pair.image.label)
    acts = collections.Counter(act for one in surveys for act in _acts(one, chosen))
    return chosen, [f"{count} of {len(surveys)} images {act}" for act, count in acts.items()]


def _needed_channels(surveys: Sequence[Survey]) -> int:
    needed: dict[int, str] = {}
    for one in surveys:
        if one.alpha == "varies":
            raise InputError(
                f"{one.pair.image.label} has an alpha channel that varies; --channels="
                f"{one.colours} drops it, --channels={one.colours + 1} keeps it."
            )
        needed.setdefault(1 if one.is_grey else one.colours, one.pair.image.label)
    if len(needed) > 1 and set(needed) != {1, 3}:
        (first, label), (second, other) = list(needed.items())[:2]
        raise InputError(
            f"{label} has {first} channels and {other} has {second}; give images of one kind."
        )
    return max(needed)


def _acts(one: Survey, channels: int) -> Iterator[str]:
    """Yields what is done to an image on the way to so many channels, if anything."""
    if one.colours not in (1, 3) or (one.colours, one.alpha) == (channels, "none"):
        return
    if channels in (1, 2) and one.colours == 3:
        yield (
            "are grey in three equal channels; one is kept."
            if one.is_grey
            else "are in colour; their luminance (ITU-R 601) is kept."
        )
    if channels in (3, 4) and one.colours == 1:
        yield "have one channel; it is repeated to make three."
    if channels in (2, 4) and one.alpha == "none":
        yield "have no alpha channel; a full one is added."
    if channels in (1, 3) and one.alpha == "opaque":
        yield "have an alpha channel that is full everywhere; it is dropped."
    if channels in (1, 3) and one.alpha == "varies":
        yield "have an alpha channel that varies; --channels drops it."


def choose_dtype(surveys: Sequence[Survey]) -> tuple[str, list[str]]:
    """Returns the dtype of every example, and notes; see `images.convert` for the one rule.

    Raises:
        InputError: if images are float32 and others are not.
    """
    counts = collections.Counter(one.dtype for one in surveys)
    if set(counts) == {"uint8", "uint16"}:
        note = (
            f"{counts['uint8']} of {len(surveys)} images have 8 bits; their values are scaled by "
            "257 to the 16 bits of the others."
        )
        return "uint16", [note]
    if len(counts) > 1:
        one = next(one for one in surveys if one.dtype == "float32")
        raise InputError(
            f"{one.pair.image.label} has float32 pixels and other images have 8 or 16 bits; no "
            "rule makes them comparable: convert one kind."
        )
    return next(iter(counts)), []


def _some(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:SHOWN])
    return f"{shown}, …" if len(values) > SHOWN else shown
