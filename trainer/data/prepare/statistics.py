"""The first pass over images and masks: what they contain, and how it will be stored.

What acts on the data, such as dropping an alpha channel, is said once for the whole set: functions
that choose return a choice and a list of notes for the user.
"""

import collections
import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from trainer.data.dataset import schema
from trainer.data.formats import images
from trainer.data.packed import reduce_to_fields
from trainer.data.prepare import classes, labels
from trainer.data.prepare.pairs import Pair
from trainer.errors import InputError


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """What there is in a pair.

    Attributes:
        pair: the pair.
        height: of both, in pixels.
        width: of both, in pixels.
        dtype: of the image.
        colours: number of its channels without alpha.
        is_grey: whether it has one channel or three equal ones.
        alpha: "none", "opaque" or "varies".
        mask: what there is in the mask.
        digest: of the image's pixels; equal for a grey image however it is stored.
        extra: how many of `colours` are neither colours nor alpha.
    """

    pair: Pair
    height: int
    width: int
    dtype: str
    colours: int
    is_grey: bool
    alpha: str
    mask: labels.Seen
    digest: bytes
    extra: int = 0

    __reduce__ = reduce_to_fields


@dataclasses.dataclass(frozen=True)
class Format:
    """How every example is stored; see `records.Manifest`."""

    rule: labels.Rule
    channels: int
    dtype: str

    @property
    def encoding(self) -> str:
        """Encoding of the images."""
        return schema.choose_encoding(self.dtype, self.channels)


def examine(pair: Pair, max_pixels: int, given: classes.Given) -> Survey:
    """Reads a pair and returns what was found.

    Raises:
        InputError: if a file is unreadable or too large, or the two do not fit, or the mask has
            no values that `given` makes classes of.
    """
    pixels, mask = read(pair, max_pixels)
    height, width = pixels.values.shape[:2]
    grey = pixels.is_grey
    return Survey(
        pair=dataclasses.replace(pair, content=_content(pixels, mask)),
        height=height,
        width=width,
        dtype=sys.intern(pixels.values.dtype.name),
        colours=pixels.colours.shape[2],
        is_grey=grey,
        alpha="none" if not pixels.alpha else "opaque" if pixels.is_opaque else "varies",
        extra=pixels.extra,
        mask=labels.look(mask, given, pair.mask.label),
        digest=digest(pixels.colours[..., :1] if grey else pixels.colours),
    )


def read(pair: Pair, max_pixels: int) -> tuple[images.Pixels, images.Mask]:
    """Returns an image and its mask.

    Raises:
        InputError: if a file is unreadable or too large, or the two do not fit, or they are not
            those that were seen before.
    """
    pixels = images.read_image(pair.image, max_pixels)
    mask = images.read_mask(pair.mask, max_pixels)
    size, mask_size = pixels.values.shape[:2], mask.values.shape[:2]
    if mask_size != size:
        raise InputError(
            f"{pair.mask.label} is {mask_size[0]}×{mask_size[1]} (height × width), but its image "
            f"{pair.image.label} is {size[0]}×{size[1]}; they must be equal."
        )
    if pair.content and pair.content != _content(pixels, mask):
        raise InputError(
            f"{pair.image.label} or its mask {pair.mask.label} changed while the data were "
            "prepared; prepare them again when nothing writes there."
        )
    return pixels, mask


def _content(pixels: images.Pixels, mask: images.Mask) -> bytes:
    palette = b"" if mask.palette is None else mask.palette.tobytes()
    return hashlib.blake2b(
        digest(pixels.values) + digest(mask.values) + palette, digest_size=16
    ).digest()


def digest(values: np.ndarray) -> bytes:
    """Returns a digest of an array, of its shape and its dtype."""
    hashed = hashlib.blake2b(repr((values.shape, values.dtype.name)).encode(), digest_size=16)
    hashed.update(np.ascontiguousarray(values).data)
    return hashed.digest()


def parse_channels(text: str) -> int | None:
    """Returns the number of channels, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--channels={text} is neither auto nor a number of channels, 1 or more.")
    return int(text)


def alike(surveys: Iterable[Survey]) -> list[tuple[Survey, int]]:
    """Returns the first image of each kind, and how many there are of it."""
    first: dict[tuple[Any, ...], Survey] = {}
    counts = collections.Counter[tuple[Any, ...]]()
    for one in surveys:
        kind = (one.dtype, one.colours, one.is_grey, one.alpha, one.extra)
        first.setdefault(kind, one)
        counts[kind] += 1
    return [(one, counts[kind]) for kind, one in first.items()]


def choose_channels(
    surveys: Sequence[tuple[Survey, int]], channels: int | None
) -> tuple[int, list[str]]:
    """Returns the number of channels of every example, and notes.

    If `channels` is None: 1 if every image is grey, perhaps in three equal channels; 3 if some are
    in colour; alpha counts only if it is asked for.

    Args:
        surveys: of all images, see `alike`.
        channels: that are asked for.

    Raises:
        InputError: if no rule leads there.
    """
    firsts = [one for one, _ in surveys]
    chosen = _needed_channels(firsts) if channels is None else channels
    for one in firsts:
        images.check_convertible(one.colours, chosen, one.pair.image.label, one.extra)
    _check_further_channels(firsts, chosen)
    acts = collections.Counter[str]()
    for one, count in surveys:
        acts.update(dict.fromkeys(_acts(one, chosen), count))
    total = sum(count for _, count in surveys)
    return chosen, [f"{count} of {total} images {act}" for act, count in acts.items()]


def _check_further_channels(surveys: Sequence[Survey], channels: int) -> None:
    """Raises InputError where infrared of some images would share channels with alpha of others."""
    taken = next((one for one in surveys if one.extra and one.colours == channels), None)
    for one in surveys:
        if taken and (one.colours, one.extra) != (taken.colours, taken.extra):
            raise InputError(
                f"{taken.pair.image.label} has {taken.extra} channels that are neither colours nor "
                f"alpha, and {one.pair.image.label} has others; give images of one kind, or "
                f"--channels={taken.colours - taken.extra}."
            )


def _needed_channels(surveys: Sequence[Survey]) -> int:
    needed: dict[int, str] = {}
    for one in surveys:
        if one.alpha == "varies":
            raise InputError(
                f"{one.pair.image.label} has an alpha channel that varies; --channels="
                f"{one.colours} drops it, --channels={one.colours + 1} keeps it."
            )
        if one.extra:
            raise InputError(
                f"{one.pair.image.label} has {one.colours} channels, of which {one.extra} are "
                f"neither colours nor alpha; --channels={one.colours} takes all of them, "
                f"--channels={one.colours - one.extra} drops those."
            )
        needed.setdefault(1 if one.is_grey else one.colours, one.pair.image.label)
    if len(needed) > 1 and set(needed) != {1, 3}:
        (first, label), (second, other) = list(needed.items())[:2]
        raise InputError(
            f"{label} has {first} channels and {other} has {second}; give images of one kind."
        )
    return max(needed)


def _acts(one: Survey, channels: int) -> Iterator[str]:
    """Yields what converts an image to so many channels, if anything."""
    if one.extra and channels < one.colours:
        yield "have channels that are neither colours nor alpha; --channels drops them."
        one = dataclasses.replace(one, colours=one.colours - one.extra, extra=0)
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


def choose_dtype(surveys: Sequence[tuple[Survey, int]]) -> tuple[str, list[str]]:
    """Returns the dtype of every example, and notes; see `images.convert` for the one rule.

    Args:
        surveys: of all images, see `alike`.

    Raises:
        InputError: if images are float32 and others are not.
    """
    counts = collections.Counter[str]()
    for one, count in surveys:
        counts[one.dtype] += count
    if set(counts) == {"uint8", "uint16"}:
        note = (
            f"{counts['uint8']} of {counts.total()} images have 8 bits; their values are scaled by "
            "257 to the 16 bits of the others."
        )
        return "uint16", [note]
    if len(counts) > 1:
        one = next(one for one, _ in surveys if one.dtype == "float32")
        raise InputError(
            f"{one.pair.image.label} has float32 pixels and other images have 8 or 16 bits; no "
            "rule makes them comparable: convert one kind."
        )
    return next(iter(counts)), []
