"""Which class each pixel of a mask is of: by value, by range, by colour or by a threshold.

A mask has numbers as they are stored, the indices of a palette among them; if classes are named by
colour, what counts is the colour that is shown.
"""

import dataclasses

import numpy as np

from trainer.data.dataset import schema
from trainer.data.formats import images
from trainer.data.packed import reduce_to_fields
from trainer.data.prepare import classes
from trainer.data.prepare.classes import Given, as_text, bounds, hexadecimal, is_grey
from trainer.errors import InputError

MAX_VALUES = schema.MAX_CLASSES + 1  # of a mask whose classes are not given: one may be --ignore
NEAR_GREY = 8  # difference that lossy compression may make between the channels of a grey
SHOWN = 5  # values in a message before "…"
WHITE = 0xFFFFFF
FEW_BITS = (1, 2, 4)  # whose white is the 255 of 8 bits
BAND_PIXELS = 2**22


@dataclasses.dataclass(frozen=True)
class Rule:
    """What makes class ids of every mask of a set; decided when all were seen.

    Attributes:
        given: what the user says.
        classes: in the order of their ids.
        as_shown: kinds of masks that are taken by the grey that is shown, see `Values`.
    """

    given: Given
    classes: tuple[schema.Class, ...]
    as_shown: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of a mask.

    Attributes:
        pixels: [H, W], integers; any numbers if they are held to a threshold.
        kind: "plain", "bits" (1 to 4 in the file), "palette" (indices) or "colours" (0xRRGGBB).
        shown: the colours of bits and indices.
    """

    pixels: np.ndarray
    kind: str = "plain"
    shown: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Shape:
    """How the pixels of a value are arranged.

    Attributes:
        pixels: their number.
        pieces: connected parts (by sides) less holes.
        blocks: squares of 2×2 pixels that have the value; few of a thin line.
    """

    pixels: int
    pieces: int
    blocks: int


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What was seen in a mask.

    Attributes:
        label: how messages call it.
        kind: see `Values`.
        values: that occur, ascending; of a class that is given, its first value only; of masks
            that are held to a threshold, the least and the greatest.
        shown: their colours, of bits and of indices.
        shapes: of each value, where classes are not given and there are more than two values.
        is_turned: whether the file says that 0 is shown white.
        bits: of a value in the file.
    """

    label: str
    kind: str
    values: tuple[float, ...]
    shown: tuple[int, ...] = ()
    shapes: tuple[Shape, ...] = ()
    is_turned: bool = False
    bits: int = 8

    __reduce__ = reduce_to_fields


# A mask's values ----------------------------------------------------------------------------------


def read(mask: images.Mask, given: Given, label: str) -> Values:
    """Returns the values of a mask.

    Raises:
        InputError: it has no exact values, or none of the kind that `given` asks for.
    """
    if given.by_colour:
        return Values(_colours(mask, label), "colours")
    if mask.palette is not None:
        shown = _table(mask.palette)
        used = np.unique(mask.values)
        is_itself = np.array_equal(shown[used], used.astype(np.int32) * 0x010101)
        values = Values(mask.values) if is_itself else Values(mask.values, "palette", shown)
    elif bits := _few_bits(mask):
        stored = mask.values.astype(np.uint8)
        greys = np.arange(2**bits) * (WHITE // (2**bits - 1))
        values = Values(1 - stored if mask.white_is_zero else stored, "bits", greys)
    else:
        values = Values(_plain(mask, given, label))
    if given.threshold is not None and values.shown is not None:
        return Values(shown_greys(values, label)[values.pixels])
    return values


def _few_bits(mask: images.Mask) -> int:
    """Returns the bits of a grey mask that has fewer than 8, else 0.

    With one bit the writer chooses which value is black; with more, as in ImageJ's bytes,
    not.
    """
    bits = 1 if mask.values.dtype == bool else mask.bits
    is_few = bits == 1 or (bits in FEW_BITS and not mask.white_is_zero)
    return bits if is_few and mask.values.ndim == 2 else 0


def shown_greys(values: Values, label: str) -> np.ndarray:
    """Returns the greys of the bits or indices that occur, uint8 [N].

    Raises:
        InputError: a colour is among them.
    """
    assert values.shown is not None
    for colour in values.shown[np.unique(values.pixels)]:
        if not is_grey(colour):
            raise InputError(
                f"{label} has a palette with the colour {hexadecimal(colour)}, and --threshold is "
                "for greys; name classes by colour: --classes=background:#000000,tumour:#ff0000."
            )
    return (values.shown & 0xFF).astype(np.uint8)


def _plain(mask: images.Mask, given: Given, label: str) -> np.ndarray:
    """Returns the values of a mask that are classes as they are: integers, any with a threshold."""
    values = mask.values
    if values.ndim == 3:
        if _is_one_hot(values):
            return values.argmax(axis=2).astype(np.uint8)
        values = _one_channel(mask, given, label)
    is_float = values.dtype.kind == "f"
    if given.threshold is not None:
        if is_float and not np.isfinite(values).all():
            raise InputError(f"{label} has values that are not finite; a mask has class values.")
        return values
    if mask.lossy:
        raise InputError(
            f"{label} has lossy compression, such as JPEG's, which changes class values; save "
            "masks as PNG, or separate two classes with --threshold=128."
        )
    if values.dtype == bool:
        return values.astype(np.uint8)
    return _whole_numbers(values, label) if is_float else values


def _whole_numbers(values: np.ndarray, label: str) -> np.ndarray:
    whole = np.rint(values)
    largest = float(np.abs(whole).max(initial=0))
    if not np.array_equal(whole, values) or largest > images.EXACT_IN_FLOAT32:
        raise InputError(
            f"{label} has values that are not whole numbers; a mask has class values: save those, "
            "or separate two classes with --threshold=0.5 or the like."
        )
    return whole.astype(np.int32)


def _one_channel(mask: images.Mask, given: Given, label: str) -> np.ndarray:
    """Returns the channel of a mask that has several, if one is enough."""
    values = mask.values
    if values.shape[2] == 3:
        if images.Pixels(values, False).is_grey:
            return values[..., 0]
        if mask.lossy and given.threshold is not None and np.ptp(values, axis=2).max() <= NEAR_GREY:
            return values[..., 1]
        if values.dtype.kind != "f":
            raise InputError(_of_colours(mask, label))
    slices = " If it is slices of a volume, add --volumes." if label.endswith(".npy") else ""
    raise InputError(
        f"{label} has {values.shape[2]} channels, but not exactly one of them is set at each "
        "pixel; a mask has one class a pixel: one channel of values, or a channel for each class."
        + slices
    )


def _of_colours(mask: images.Mask, label: str) -> str:
    """Returns what to do about a mask in colour, with its own colours if they are few."""
    shown = f"{label} is in colour, and a mask has one class value a pixel"
    if mask.lossy or mask.values.dtype != np.uint8:
        return f"{shown}; save it as a grey or palette PNG."
    colours = np.unique(_packed(mask.values))
    if len(colours) > MAX_VALUES:
        return f"{shown}; it has {len(colours)} colours: that is not a mask; check --masks."
    named = [hexadecimal(colour) for colour in colours[: 2 * SHOWN]]
    more = ",…" if len(colours) > len(named) else ""
    return f"{shown}; name the classes by colour: --classes={','.join(named)}{more}."


def _is_one_hot(values: np.ndarray) -> bool:
    """Whether one channel alone is set at each pixel; pure red, green and blue are colours."""
    highest = values.max(initial=0)
    is_set = values == highest
    return bool(
        highest
        and (values.shape[2] != 3 or highest == 1)
        and (is_set | (values == 0)).all()
        and (is_set.sum(axis=2) == 1).all()
    )


def _colours(mask: images.Mask, label: str) -> np.ndarray:
    """Returns the colours that are shown, int32 0xRRGGBB [H, W]."""
    values = mask.values
    if mask.lossy:
        raise InputError(
            f"{label} has lossy compression, such as JPEG's, which changes colours; save masks as "
            "PNG."
        )
    if mask.palette is not None:
        return _table(mask.palette)[values]
    bits = 1 if values.dtype == bool else mask.bits
    if bits in FEW_BITS:
        values = values.astype(np.uint8) * np.uint8(255 // (2**bits - 1))
    if values.dtype != np.uint8 or values.ndim == 3 and values.shape[2] != 3:
        raise InputError(
            f"{label} has {values.dtype} values, and --classes names colours, which are of 8 bits; "
            "save it as RGB or with a palette, or name classes by value."
        )
    if mask.white_is_zero:
        values = 255 - values
    return _packed(values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2))


def _table(palette: np.ndarray) -> np.ndarray:
    """Returns the colour of each index, int32 0xRRGGBB [256]; black after the palette's end."""
    return _packed(np.pad(palette, ((0, 256 - len(palette)), (0, 0))))


def _packed(colours: np.ndarray) -> np.ndarray:
    red, green, blue = (colours[..., k].astype(np.int32) for k in range(3))
    return red << 16 | green << 8 | blue


# The two passes -----------------------------------------------------------------------------------


def look(mask: images.Mask, given: Given, label: str) -> Seen:
    """Returns what a mask has.

    Raises:
        InputError: it has what no class can be made of, whatever other masks have.
    """
    found = read(mask, given, label)
    pixels, kind = found.pixels, found.kind
    is_turned = mask.white_is_zero
    if given.threshold is not None:
        kept = pixels if given.ignore is None else pixels[pixels != given.ignore]
        ends = (float(kept.min()), float(kept.max())) if kept.size else ()
        return Seen(label, kind, ends, is_turned=is_turned, bits=mask.bits)
    if kind == "colours":
        _check_colours(label, *np.unique(pixels, return_counts=True), given)
        return Seen(label, kind, ())
    values = np.unique(pixels)
    if given.classes and kind == "plain":
        firsts = _of_classes(values, given)
        return Seen(label, kind, firsts, is_turned=is_turned, bits=mask.bits)
    if len(values) > MAX_VALUES:
        last = int(np.iinfo(pixels.dtype).max)
        raise InputError(
            f"{label} has {len(values)} distinct values, more than {schema.MAX_CLASSES} classes. "
            f"{classes.remedies(values.tolist(), last)} else that is not a mask: check --masks."
        )
    few = given.classes or len(values) < 3
    return Seen(
        label=label,
        kind=kind,
        values=tuple(values.tolist()),
        shown=() if found.shown is None else tuple(found.shown[values].tolist()),
        shapes=() if few else _shapes(pixels, values),
        is_turned=is_turned,
        bits=mask.bits,
    )


def _shapes(pixels: np.ndarray, values: np.ndarray) -> tuple[Shape, ...]:
    """Counts by Euler's formula: pieces less holes are pixels - neighbours + blocks.

    Band by band, because counting takes eight bytes a pixel.
    """
    height, width = pixels.shape
    rows = max(1, BAND_PIXELS // width)
    counts = np.zeros((3, len(values)), np.int64)  # pixels, neighbours, blocks
    for top in range(0, height, rows):
        band = np.searchsorted(values, pixels[top : top + rows + 1])
        own = band[:rows]  # and the first row of the next band, to compare with
        across = band[:, 1:] == band[:, :-1]
        down = band[1:] == band[:-1]
        block = across[1:] & across[:-1] & down[:, 1:]
        for kind, places in (
            (0, own.ravel()),
            (1, own[:, 1:][across[:rows]]),
            (1, band[1:][down]),
            (2, band[1:, 1:][block]),
        ):
            counts[kind] += np.bincount(places, minlength=len(values))
    return tuple(
        Shape(n, n - neighbours + blocks, blocks) for n, neighbours, blocks in counts.T.tolist()
    )


def _of_classes(values: np.ndarray, given: Given) -> tuple[int, ...]:
    """Returns the first values of the classes that occur, and a few of those that are of none."""
    found = classes.places(values, given.classes, given.ignore)
    firsts = [bounds(entry)[0] for k, entry in enumerate(given.classes) if k in found]
    unknown = values[found == classes.UNKNOWN]
    return tuple(sorted([*firsts, *unknown[: SHOWN + 1].tolist()]))


def _check_colours(label: str, values: np.ndarray, counts: np.ndarray, given: Given) -> None:
    found = classes.places(values, given.classes, given.ignore)
    order = np.argsort(-counts, kind="stable")
    unknown = order[found[order] == classes.UNKNOWN]
    if not unknown.size:
        return
    shown = ", ".join(hexadecimal(values[k]) for k in unknown[:SHOWN])
    share = counts[unknown].sum() / counts.sum()
    raise InputError(
        f"{label} has the colour {shown}{', …' if len(unknown) > SHOWN else ''} ({share:.2%} of "
        f"its pixels), which is not in --classes={as_text(given.classes)}; add it, give it as "
        "--ignore, or, if it comes from smoothed edges or a lossy format, save masks without "
        "either."
    )


def class_ids(mask: images.Mask, rule: Rule, label: str) -> np.ndarray:
    """Returns the mask as it is stored: uint8 [H, W], the place of each pixel's class.

    Raises:
        InputError: a value is of no class, though none was when the mask was seen.
    """
    found = read(mask, rule.given, label)
    pixels = found.pixels
    if found.kind in rule.as_shown:
        pixels = shown_greys(found, label)[pixels]
    if rule.given.threshold is None:
        ids = classes.places(pixels, rule.classes, rule.given.ignore)
    else:
        ids = (pixels >= rule.given.threshold).astype(np.int16)
        if rule.given.ignore is not None:
            ids[pixels == rule.given.ignore] = schema.IGNORE
    if (ids == classes.UNKNOWN).any():
        raise InputError(
            f"{label} changed while it was prepared: it now has a value that belongs to no class; "
            "prepare again when nothing writes to it."
        )
    return ids.astype(np.uint8)
