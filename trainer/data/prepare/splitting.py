"""Which image goes to which split: by a list, or by a hash that keeps whole groups on one side."""

import collections
import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from trainer.data.dataset import schema
from trainer.errors import InputError, one_line

SPLITS = ("train", "val", "test")
SHARES = "0.7,0.15,0.15"
RULE = "sha256 of seed:group, 1"  # of `draw`; docs/data.md

SplitAssignment = dict[str, np.ndarray]  # places of each split's images among all, int64 [N]


def assign(
    names: Sequence[str], splits: str, split: str, group_by: str, seed: int
) -> tuple[SplitAssignment, schema.Draw | None]:
    """Returns the places of each split's images, and how they were drawn if no list names them.

    Args:
        names: of all images, in their order.
        splits: a JSON file of lists of names; if empty, `split` says how to draw.
        split: the shares of train, val and, if given, test.
        group_by: regular expression whose first group, or match, names an image's group; every
            group goes to one side. If empty, each image is its own group.
        seed: of the draw.

    Raises:
        InputError: if a value breaks a rule, or leaves a split empty.
    """
    groups, group_of = grouped(names, group_by)
    if splits:
        sides = _read(splits, names)
        if group_by:
            _check_groups(sides, names, groups, group_of)
        check_none_empty(sides, f"--splits={splits}")
        return sides, None
    shares = parse_shares(split)
    side_of, moved = draw(groups, shares, seed)
    drawn = side_of[group_of]
    sides = {side: np.flatnonzero(drawn == k) for k, side in enumerate(shares)}
    check_none_empty(sides, f"--split={split}")
    return sides, schema.Draw(RULE, seed, shares, group_by, moved)


def grouped(names: Iterable[str], group_by: str) -> tuple[list[str], np.ndarray]:
    """Returns the groups in order, and the number of each name's group, int64 [N].

    Args:
        names: of images.
        group_by: see `assign`.

    Raises:
        InputError: if it is no regular expression, or does not match a name.
    """
    found = np.array(list(_group_names(names, group_by) if group_by else names), object)
    groups, numbers = np.unique(found, return_inverse=True)
    return groups.tolist(), numbers


def _group_names(names: Iterable[str], group_by: str) -> Iterator[str]:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(
            f"--group_by={group_by} is not a regular expression: {error}; for names like "
            "patient7_slice3 use --group_by='^([^_]+)'."
        ) from None
    for name in names:
        match = pattern.search(name)
        if not match:
            raise InputError(
                f"--group_by={group_by} does not match {name!r}; every image needs a group."
            )
        yield (match[1] if pattern.groups else match[0]) or ""


def parse_shares(split: str) -> dict[str, float]:
    """Returns the share of each split that is to have images, from `0.7,0.15,0.15`."""
    try:
        shares = [float(part) for part in split.split(",")]
    except ValueError:
        shares = []
    adds_up = abs(sum(shares) - 1) <= 1e-6  # false if one is not finite
    if len(shares) not in (2, 3) or min(shares) < 0 or not adds_up:
        raise InputError(
            f"--split={split} is not two or three shares that add up to 1, of train, val and test; "
            f"write --split={SHARES}."
        )
    return {name: share for name, share in zip(SPLITS, shares, strict=False) if share > 0}


def check_none_empty(sides: SplitAssignment, flag: str) -> None:
    """Raises InputError if train or val is missing, or any split has no images."""
    counts = {side: len(places) for side, places in sides.items()}
    for name in SPLITS:
        if not counts.get(name, name == "test"):
            raise InputError(
                f"{flag} leaves the {name} split empty ({sum(counts.values())} images in all); "
                "give it a larger share, or more images or groups to choose from."
            )


def divide(
    sides: SplitAssignment, name_of: Callable[[int], str], folds: int, group_by: str, seed: int
) -> SplitAssignment:
    """Returns the images of each fold, fold0, fold1 …, in place of those of train and val.

    The first fold is val. The groups of train are dealt to the others in the order of a hash of
    the seed and their names: so each fold has as many of them, give or take one.

    Args:
        sides: the places of each split.
        name_of: place → name.
        folds: their number; 0: there are none, and the splits are returned.
        group_by: see `assign`.
        seed: of the order.

    Raises:
        InputError: one fold is asked for, or train has too few groups.
    """
    if not folds:
        return sides
    if folds == 1:
        raise InputError("--folds=1 leaves nothing to train on; give 2 or more.")
    groups, group_of = grouped(map(name_of, sides["train"]), group_by)
    if len(groups) < folds - 1:
        raise InputError(
            f"--folds={folds} takes the val split and {folds - 1} groups of the train split, which "
            f"has {len(groups)}; use --folds={len(groups) + 1}."
        )
    fold_of = np.empty(len(groups), np.int64)
    fold_of[np.argsort(_places(groups, seed), kind="stable")] = np.arange(len(groups)) % (folds - 1)
    dealt = fold_of[group_of]
    found = {fold_name(0): sides["val"]}
    found |= {fold_name(1 + k): sides["train"][dealt == k] for k in range(folds - 1)}
    return found | {side: places for side, places in sides.items() if side == "test"}


def fold_name(fold: int) -> str:
    """Returns the name of a fold among the splits."""
    return f"fold{fold}"


def find_leaks(
    sides: SplitAssignment, name_of: Callable[[int], str], digests: Mapping[int, bytes]
) -> tuple[tuple[str, ...], ...]:
    """Returns the groups of images with equal digests on more than one side, as split/name.

    Args:
        sides: the places of each side.
        name_of: place → name.
        digests: of the images that may share theirs with another, by place.
    """
    groups = collections.defaultdict(list)
    for side, places in sides.items():
        for place in places[np.isin(places, list(digests))].tolist():
            groups[digests[place]].append((side, place))
    return tuple(
        tuple(f"{side}/{name_of(place)}" for side, place in group)
        for group in groups.values()
        if len({side for side, _ in group}) > 1
    )


def shuffle(sides: SplitAssignment, seed: int) -> SplitAssignment:
    """Returns splits or folds, their images in a random order that depends only on the seed."""
    shuffled = {}
    folds = map(fold_name, range(len(sides)))
    for number, name in enumerate((*SPLITS, *folds)):
        if name in sides:
            order = np.random.default_rng([seed, number]).permutation(len(sides[name]))
            shuffled[name] = np.sort(sides[name])[order]
    return shuffled


def draw(
    groups: Sequence[str], shares: Mapping[str, float], seed: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the side of each group, and which groups a side has that would have been empty.

    A group's place on [0, 1) depends on the seed and its own name alone, and each side has its
    share of that line; so other groups that come or go do not move it. Only a side without any
    group takes the one nearest to its part, from a split that has others.

    Args:
        groups: their names.
        shares: of each side, of 1.
        seed: of the places.

    Returns:
        int64 [N], numbers of sides in the order of the shares; names.
    """
    edges = [0.0, *itertools.accumulate([*shares.values()][:-1]), 1.0]
    places = _places(groups, seed)
    side_of = np.searchsorted(edges[1:], places, side="right")
    moved = []
    for side, (begin, end) in enumerate(itertools.pairwise(edges)):
        counts = np.bincount(side_of, minlength=len(shares))
        others = np.flatnonzero(counts[side_of] > 1)
        if not counts[side] and others.size:
            nearest = min(
                others.tolist(),
                key=lambda group: (max(begin - places[group], places[group] - end), groups[group]),
            )
            side_of[nearest] = side
            moved.append(groups[nearest])
    return side_of, tuple(moved)


def _places(groups: Sequence[str], seed: int) -> np.ndarray:
    """Returns the place of each group on [0, 1), float64 [N]."""
    return np.fromiter((_place(group, seed) for group in groups), np.float64, len(groups))


def describe(sides: SplitAssignment, draw: schema.Draw) -> str:
    """Returns a line that compares the shares of a draw with those that were asked for."""
    total = sum(len(places) for places in sides.values())
    parts = [
        f"{side} {len(places)} ({len(places) / total:.0%} for {draw.shares[side]:.0%})"
        for side, places in sides.items()
    ]
    return (
        f"Splits drawn by --seed={draw.seed}, shares on average: {', '.join(parts)}; another seed "
        "gives another split."
    )


def _place(group: str, seed: int) -> float:
    """Returns the place of a group on [0, 1): the first 53 bits of a hash, which a float holds."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _read(path: str, names: Sequence[str]) -> SplitAssignment:
    if not os.path.isfile(path):
        raise InputError(f"--splits={path} does not exist; name a JSON file.")
    try:
        with open(path, "rb") as file:
            raw = json.load(file)  # in any of JSON's encodings, with a byte-order mark or without
    except OSError as error:
        raise InputError(
            f"--splits={path} cannot be read: {error.strerror}; name another file, or change who "
            "may read it."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--splits={path} is not JSON: {error}; fix it.") from None
    if not _is_lists_of_names(raw):
        raise InputError(
            f"--splits={path} is not lists of names by split; write "
            '{"train": ["a", …], "val": […], "test": […]}.'
        )
    place_of = {name: place for place, name in enumerate(names)}
    sides: dict[str, list[int]] = {side: [] for side in SPLITS if raw.get(side)}
    seen = np.zeros(len(names), bool)
    for side, places in sides.items():
        for given in raw[side]:
            name = unicodedata.normalize("NFC", given)
            place = place_of.get(name)
            if place is None:
                raise InputError(
                    f"--splits={path} lists {name!r} in {side}, but there is no image of that "
                    "name; list names as they are below --images, without suffix."
                )
            if seen[place]:
                raise InputError(f"--splits={path} lists {name!r} twice; keep one of them.")
            seen[place] = True
            places.append(place)
    return {side: np.array(places, np.int64) for side, places in sides.items()}


def _is_lists_of_names(raw: object) -> bool:
    return (
        isinstance(raw, dict)
        and set(raw) <= set(SPLITS)
        and all(isinstance(names, list) for names in raw.values())
        and all(isinstance(name, str) for names in raw.values() for name in names)
    )


def _check_groups(
    sides: SplitAssignment, names: Sequence[str], groups: Sequence[str], group_of: np.ndarray
) -> None:
    side_of: dict[int, str] = {}
    for side, places in sides.items():
        for place in places:
            first = side_of.setdefault(group_of[place], side)
            if first != side:
                shown, group = one_line(names[place]), groups[group_of[place]]
                raise InputError(
                    f"--splits puts group {group!r} of --group_by in two splits, {first} "
                    f"and {side} ({shown}); move its images to one split, or drop --group_by."
                )
