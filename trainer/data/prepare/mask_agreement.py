"""Whether the values of all masks of a set have one meaning, and which classes they are.

Doubtful cases are refused or warned of, with the flag that decides them.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from trainer.data.dataset import schema
from trainer.data.prepare import classes
from trainer.data.prepare.classes import Given, as_text, hexadecimal, is_grey
from trainer.data.prepare.labels import SHOWN, Rule, Seen
from trainer.errors import InputError

BINARY = {1, 255, 65535}  # what a foreground is in masks of one class, by who writes them
MANY = 10  # classes that are found before it is asked whether they are classes
FEW = 4  # objects, or values of smoothed edges, that may be classes all the same
NEAR = 16  # of an end of the range, what JPEG makes of it
LISTED = 30  # values that a message gives as --classes
THIN = 0.25  # blocks a pixel; a line two pixels wide has half a block for each of its pixels
KINDS = {"bits": "of 1 to 4 bits", "palette": "with a palette"}

TURNED = {
    "plain": (
        "of several bits, such as ImageJ's with an inverting table, their values are taken as they "
        "are stored"
    ),
    "bits": "of 1 bit, they are taken as they are shown: 1 is white",
}


@dataclasses.dataclass
class Arrangement:
    """How the pixels of a value are arranged in several masks.

    Attributes:
        masks: where that was seen.
        singles: those of them where the value is one piece.
        pixels: of the value, in all of them.
        blocks: see `labels.Shape`, likewise.
    """

    masks: int = 0
    singles: int = 0
    pixels: int = 0
    blocks: int = 0

    def add(self, masks: int, singles: int, pixels: int, blocks: int) -> None:
        """Adds what was seen in other masks."""
        self.masks += masks
        self.singles += singles
        self.pixels += pixels
        self.blocks += blocks


@dataclasses.dataclass
class Alike:
    """Masks in which the same was seen, but for how the pixels of a value are arranged.

    Attributes:
        first: of the masks.
        count: of the masks.
        arranged: how the pixels of each value are, where that was seen.
    """

    first: Seen
    count: int = 0
    arranged: dict[float, Arrangement] = dataclasses.field(default_factory=dict)


def _alike(masks: Iterable[Seen]) -> list[Alike]:
    """Returns the masks by what was seen, in the order of the first ones."""
    found: dict[Seen, Alike] = {}
    for one in masks:
        alike = found.setdefault(dataclasses.replace(one, label="", shapes=()), Alike(one))
        alike.count += 1
        for value, shape in zip(one.values, one.shapes, strict=False):
            arranged = alike.arranged.setdefault(value, Arrangement())
            arranged.add(1, shape.pieces == 1, shape.pixels, shape.blocks)
    return list(found.values())


def settle(masks: Iterable[Seen], given: Given) -> tuple[Rule, list[str], list[str]]:
    """Returns the rule for all masks of a set, notes and warnings.

    Args:
        masks: what was seen in each, in order.
        given: what the user says about them.

    Raises:
        InputError: masks contradict one another or what is given, or their values look like
            something else than classes.
    """
    alike = _alike(masks)
    seen = [one.first for one in alike]
    warnings = _warnings_of_turned(alike)
    if given.by_colour:
        return Rule(given, given.classes), [], warnings
    if given.threshold is not None:
        _check_threshold(seen, given.threshold)
        return Rule(given, given.classes), [], warnings
    as_shown, notes = _as_shown(alike, given)
    indexed = [one for one in seen if one.kind not in as_shown]
    _check_palettes(indexed)
    warnings += _warnings_of_order(indexed)
    values = [_taken(one, as_shown) - {given.ignore} for one in seen]
    if given.classes:
        _check_known(seen, values, given)
        return Rule(given, given.classes, as_shown), notes, warnings
    found = sorted(set().union(*values))
    _check_several(found)
    _check_foregrounds(seen, values, found)
    _check_scales(seen, values)
    _check_instances(alike, values, found)
    _check_smoothed(alike, found)
    _check_not_too_many(found)
    if len(found) > MANY and not any(one.kind == "palette" for one in seen):
        warnings.append(_of_many(found))
    taken = tuple(schema.Class(str(value), value) for value in found)
    names = ",".join(str(value) for value in found)
    notes.append(f"Classes found: --classes={names}; give them names with NAME:VALUE.")
    return Rule(given, taken, as_shown), notes, warnings


def _warnings_of_turned(alike: Sequence[Alike]) -> list[str]:
    counts = collections.Counter[str]()
    for one in alike:
        counts[one.first.kind] += one.count * one.first.is_turned
    return [
        f"Warning: in {counts[kind]} of {_total(alike)} masks 0 is shown white; {taken}. If they "
        "are the wrong way round, save them without that, or name the classes in the other order, "
        "such as --classes=background:255,foreground:0."
        for kind, taken in TURNED.items()
        if counts[kind]
    ]


def _check_threshold(seen: Sequence[Seen], threshold: float) -> None:
    ends = [end for one in seen for end in one.values]
    if not ends or min(ends) >= threshold or max(ends) < threshold:
        between = f"{min(ends):g} to {max(ends):g}" if ends else "none that counts"
        raise InputError(
            f"--threshold={threshold:g} separates nothing in masks whose values are {between}; "
            "give one between them."
        )
    eight, sixteen = (_first(seen, bits) for bits in (8, 16))
    if eight and sixteen:
        raise InputError(
            f"{eight.label} has 8 bits and {sixteen.label} has 16, and --threshold={threshold:g} "
            "cannot mean the same in both; save all masks with as many bits."
        )


def _first(seen: Sequence[Seen], bits: int) -> Seen | None:
    """Returns the first mask of values of so many bits, if there is one."""
    return next((one for one in seen if (one.kind, one.bits) == ("plain", bits)), None)


# What a value means -------------------------------------------------------------------------------


def _as_shown(alike: Sequence[Alike], given: Given) -> tuple[frozenset[str], list[str]]:
    """Returns the kinds of masks to be taken by the grey that is shown, and notes.

    Bits and indices beside plain values: of 0 and 1, the 1 may be the others' 1, or their white.
    """
    seen = [one.first for one in alike]
    plain = {value for one in seen if one.kind == "plain" for value in one.values}
    known = given.classes or tuple(schema.Class(str(value), int(value)) for value in plain)
    compared = given.classes or plain - {0}
    as_shown, notes = set(), []
    for kind, described in KINDS.items():
        masks = [one for one in seen if one.kind == kind]
        pairs = {pair for one in masks for pair in zip(one.values, one.shown, strict=True)}
        if not masks or not compared or not all(is_grey(colour) for _, colour in pairs):
            continue
        columns = zip(*((index, colour & 0xFF) for index, colour in pairs), strict=True)
        stored, shown = (classes.places(column, known, given.ignore) for column in columns)
        fits, fits_shown = (classes.UNKNOWN not in found for found in (stored, shown))
        is_either = fits and fits_shown and (stored != shown).any()
        if is_either or (not fits and not fits_shown and not given.classes):
            raise InputError(_of_mixed(masks[0], seen, described, is_either))
        if fits_shown and not fits:
            as_shown.add(kind)
            count = sum(one.count for one in alike if one.first.kind == kind)
            notes.append(
                f"{count} of {_total(alike)} masks are {described}; "
                "their greys are used as values, as in the others."
            )
    return frozenset(as_shown), notes


def _of_mixed(one: Seen, seen: Sequence[Seen], described: str, is_either: bool) -> str:
    other = next(other for other in seen if other.kind == "plain" and set(other.values) - {0})
    greys = _some([colour & 0xFF for colour in one.shown])
    # By value it would stay undecided.
    named = "background:#000000,nucleus:#ffffff" if is_either else "background:0,nucleus:255"
    return (
        f"{one.label} is {described}: its values {_some(one.values)} are shown as {greys}. Which "
        f"of these the values {_some(other.values)} of {other.label} stand beside cannot be told; "
        f"save all masks with 8 bits, or name the classes: --classes={named}."
    )


def _taken(one: Seen, as_shown: Collection[str]) -> set[Any]:
    return {colour & 0xFF for colour in one.shown} if one.kind in as_shown else set(one.values)


def _check_palettes(seen: Sequence[Seen]) -> None:
    """Raises InputError if an index has two colours, or a colour two indices, in two masks."""
    colour_of: dict[float, tuple[int, Seen]] = {}
    index_of: dict[int, tuple[float, Seen]] = {}
    counts = (collections.Counter(one.shown) for one in seen)
    vague = {colour for count in counts for colour in count if count[colour] > 1}
    for one in seen:
        for index, colour in zip(one.values, one.shown, strict=bool(one.shown)):
            first, other = colour_of.setdefault(index, (colour, one))
            if first != colour and not _is_bit_in_colour(one, colour, other, first):
                raise InputError(_of_palettes(other, index, first, one, index, colour))
            at, other = index_of.setdefault(colour, (index, one))
            if at != index and colour not in vague:
                raise InputError(_of_palettes(other, at, colour, one, index, colour))


def _warnings_of_order(seen: Sequence[Seen]) -> list[str]:
    """Returns a warning where a lower index is a lighter grey, such as 0 in white."""
    for one in seen:
        if all(map(is_grey, one.shown)) and list(one.shown) != sorted(one.shown):
            return [
                f"Warning: {one.label} shows index {one.values[0]} as "
                f"{hexadecimal(one.shown[0])} and index {one.values[-1]} as "
                f"{hexadecimal(one.shown[-1])}, and indices are used as classes. If the colours "
                "are meant, give --classes=background:#000000,foreground:#ffffff."
            ]
    return []


def _is_bit_in_colour(one: Seen, colour: int, other: Seen, first: int) -> bool:
    """Whether one mask has bits and the other shows them in colour, such as 1 in red."""
    return {one.kind, other.kind} == {"bits", "palette"} and not (
        is_grey(colour) and is_grey(first)
    )


def _of_palettes(
    one: Seen, index: float, colour: int, other: Seen, second: float, shown: int
) -> str:
    if one.kind == other.kind == "bits":
        return (
            f"{one.label} has {one.bits} bits and shows {index} as {hexadecimal(colour)}, and "
            f"{other.label} has {other.bits} and shows {second} as {hexadecimal(shown)}; save all "
            "masks with 8 bits."
        )
    return (
        f"{one.label} shows index {index} as {hexadecimal(colour)} and {other.label} shows index "
        f"{second} as {hexadecimal(shown)}: their palettes differ. Name the classes by colour, "
        "--classes=background:#000000,tumour:#ff0000, or save all masks with one palette."
    )


def _check_known(seen: Sequence[Seen], values: Sequence[set[Any]], given: Given) -> None:
    for one, held in zip(seen, values, strict=True):
        ordered = sorted(held)
        found = classes.places(ordered, given.classes, given.ignore)
        unknown = [v for v, place in zip(ordered, found, strict=True) if place == classes.UNKNOWN]
        if unknown:
            more = (
                " If these are smoothed edges, --threshold=128 tells two classes apart; if they "
                "number instances, a class may be a range: cell:1-65535."
            )
            raise InputError(
                f"{one.label} has the value {_some(unknown)}, which is not in --classes="
                f"{as_text(given.classes)}; add it, or give it as --ignore."
                f"{more if len(unknown) >= FEW else ''}"
            )


# Whether values are classes -----------------------------------------------------------------------


def _check_several(found: Sequence[int]) -> None:
    if len(found) < 2:
        raise InputError(
            f"The masks have one value only ({_some(found)}); there is nothing to tell apart. "
            "Check --masks, or name the classes with --classes."
        )


def _check_not_too_many(found: Sequence[int]) -> None:
    if len(found) > schema.MAX_CLASSES:
        raise InputError(
            f"The set of all masks has {len(found)} distinct values, more than "
            f"{schema.MAX_CLASSES} classes. {classes.remedies(found, found[-1])} else these are no "
            "masks: check --masks."
        )


def _check_foregrounds(
    seen: Sequence[Seen], values: Sequence[set[Any]], found: Sequence[int]
) -> None:
    """Raises InputError where one foreground has several values, each in masks of its own."""
    fronts = [value for value in found if value]
    if len(fronts) < 2 or not BINARY.issuperset(fronts):
        return
    if any(len(held & BINARY) > 1 for held in values):
        return
    first = {
        v: next(one for one, held in zip(seen, values, strict=True) if v in held) for v in fronts
    }
    told = ", ".join(f"{value} in {one.label}" for value, one in first.items())
    raise InputError(
        f"The masks have the foreground {told}, and no mask has both. If it is one class, give "
        f"--classes=background:0,foreground:1-{fronts[-1]}; if not, --classes="
        f"{_all(found)}."
    )


def _check_scales(seen: Sequence[Seen], values: Sequence[set[Any]]) -> None:
    """Raises InputError where masks of 16 bits have the values of those of 8 bits, scaled."""
    held: dict[int, set[int]] = collections.defaultdict(set)
    for one, found in zip(seen, values, strict=True):
        held[one.bits] |= found - {0}
    eight, sixteen = held[8], held[16]
    if eight and sixteen and not sixteen & eight and sixteen <= {257 * value for value in eight}:
        first = _first(seen, 16)
        assert first is not None
        raise InputError(
            f"{first.label} has 16 bits and the values {_some(sorted(sixteen))}, 257 times those "
            f"of masks with 8 bits, {_some(sorted(eight))}; save all masks with as many bits."
        )


def _check_instances(
    alike: Sequence[Alike], values: Sequence[set[Any]], found: Sequence[int]
) -> None:
    """Raises InputError where values look like the numbers of objects: 1, 2, … in each mask."""
    fronts = found[1:]
    held = [
        (sorted(values_of - {found[0]}), one.count)
        for one, values_of in zip(alike, values, strict=True)
        if values_of - {found[0]}
    ]
    arranged = [
        (each.singles, each.masks)
        for one in alike
        for value, each in one.arranged.items()
        if value != found[0]
    ]
    singles, seen = (sum(counts) for counts in zip(*arranged, strict=True)) if arranged else (0, 0)
    if len(fronts) <= FEW or not seen or singles / seen < 0.8:
        return
    runs = [(one == list(range(fronts[0], fronts[0] + len(one))), count) for one, count in held]
    owners = collections.Counter[int]()
    for one, count in held:
        owners.update(dict.fromkeys(one, count))
    alone = [(count == 1, 1) for count in owners.values()]
    masks = sum(count for _, count in held)
    if (
        len({len(one) for one, _ in held}) > 1
        and _share(runs) >= 0.9
        or (masks > 1 and _share(alone) >= 0.9)
    ):
        raise InputError(
            f"The masks have {len(found)} values ({_some(found)}), and each is one object where "
            f"it occurs: they look like instance numbers. Give --classes=background:{found[0]},"
            f"object:{fronts[0]}-{fronts[-1]}, or name them as classes: "
            f"--classes={_all(found)}."
        )


def _check_smoothed(alike: Sequence[Alike], found: Sequence[int]) -> None:
    """Raises InputError where most values are thin rims between others, or next to the ends."""
    arranged = collections.defaultdict[float, Arrangement](Arrangement)
    for one in alike:
        for value, each in one.arranged.items():
            arranged[value].add(*dataclasses.astuple(each))
    low, high = found[0], found[-1]
    inner = [value for value in found[1:-1] if value in arranged]
    thin = [value for value in inner if arranged[value].blocks < THIN * arranged[value].pixels]
    thick = len(found) - len(thin)
    near_ends = all(min(value - low, high - value) <= NEAR for value in thin)
    by_jpeg = inner == thin and near_ends and high - low > 4 * NEAR
    if thin and (by_jpeg or (len(thin) >= FEW and len(thin) > thick)):
        raise InputError(
            f"The masks have {len(found)} values ({_some(found)}), {len(thin)} of them only in "
            "rims or specks: they look smoothed, or once saved as JPEG. Give "
            f"--threshold={(low + high + 1) // 2} for two classes, save them again without, or "
            f"name them as classes: --classes={_all(found)}."
        )


def _of_many(found: Sequence[int]) -> str:
    return (
        f"Warning: the masks have {len(found)} values ({_some(found)}), and each becomes a class. "
        f"{classes.remedies(found, found[-1])} --classes names them and ends this warning."
    )


def _share(hits: Iterable[tuple[bool, int]]) -> float:
    """Returns the share of what holds, of things that there are so many of."""
    held = list(hits)
    return sum(count for holds, count in held if holds) / sum(count for _, count in held)


def _total(alike: Iterable[Alike]) -> int:
    return sum(one.count for one in alike)


def _all(found: Sequence[int]) -> str:
    """Returns what names each value as a class; only the beginning of a long line."""
    return ",".join(str(value) for value in found[:LISTED]) + ",…" * (len(found) > LISTED)


def _some(values: Sequence[float]) -> str:
    shown = ", ".join(str(value) for value in values[:SHOWN])
    return f"{shown}, …" if len(values) > SHOWN else shown
