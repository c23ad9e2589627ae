"""Which image goes to which split: by a list, or by a hash that keeps whole groups on one side."""

import collections
import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from trainer.data.dataset import schema
from trainer.errors import InputError, one_line

SPLITS = ("train", "val", "test")
SHARES = "0.7,0.15,0.15"
RULE = "sha256 of seed:group, 1"  # of `draw`; docs/data.md

SplitAssignment = dict[str, list[str]]  # the names of each split's images


def assign(
    names: Sequence[str], splits: str, split: str, group_by: str, seed: int
) -> tuple[SplitAssignment, schema.Draw | None]:
    """Returns the names of each split's images, and how they were drawn if no list names them.

    Args:
        names: of all images.
        splits: a JSON file of lists of names; if empty, `split` says how to draw.
        split: the shares of train, val and, if given, test.
        group_by: regular expression whose first group, or match, names an image's group; every
            group goes to one side. If empty, each image is its own group.
        seed: of the draw.

    Raises:
        InputError: if a value breaks a rule, or leaves a split empty.
    """
    groups = group_names(names, group_by)
    if splits:
        sides = _read(splits, names)
        if group_by:
            _check_groups(sides, groups)
        check_none_empty(sides, f"--splits={splits}")
        return sides, None
    shares = parse_shares(split)
    side_of, moved = draw(set(groups.values()), shares, seed)
    sides = {side: [] for side in shares}
    for name in sorted(groups):
        sides[side_of[groups[name]]].append(name)
    check_none_empty(sides, f"--split={split}")
    return sides, schema.Draw(RULE, seed, shares, group_by, moved)


def group_names(names: Sequence[str], group_by: str) -> dict[str, str]:
    """Returns the group of each name; see `assign`."""
    if not group_by:
        return {name: name for name in names}
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(
            f"--group_by={group_by} is not a regular expression: {error}; for names like "
            "patient7_slice3 use --group_by='^([^_]+)'."
        ) from None
    groups = {}
    for name in names:
        match = pattern.search(name)
        if not match:
            raise InputError(
                f"--group_by={group_by} does not match {name!r}; every image needs a group."
            )
        groups[name] = (match[1] if pattern.groups else match[0]) or ""
    return groups


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
    total = sum(len(names) for names in sides.values())
    for name in SPLITS:
        if not sides.get(name, name == "test"):
            raise InputError(
                f"{flag} leaves the {name} split empty ({total} images in all); give it a larger "
                "share, or more images or groups to choose from."
            )


def divide(sides: SplitAssignment, folds: int, group_by: str, seed: int) -> SplitAssignment:
    """Returns the names of each fold, fold0, fold1 …, in place of those of train and val.

    The first fold is val. The groups of train are dealt to the others in the order of a hash of
    the seed and their names: so each fold has as many of them, give or take one.

    Args:
        sides: the names of each split.
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
    groups = group_names(sides["train"], group_by)
    ordered = sorted(set(groups.values()), key=lambda group: (_place(group, seed), group))
    if len(ordered) < folds - 1:
        raise InputError(
            f"--folds={folds} takes the val split and {folds - 1} groups of the train split, which "
            f"has {len(ordered)}; use --folds={len(ordered) + 1}."
        )
    fold_of = {group: 1 + n % (folds - 1) for n, group in enumerate(ordered)}
    found = {fold_name(0): list(sides["val"])}
    found |= {fold_name(k): [] for k in range(1, folds)}
    for name in sides["train"]:
        found[fold_name(fold_of[groups[name]])].append(name)
    return found | {side: names for side, names in sides.items() if side == "test"}


def fold_name(fold: int) -> str:
    """Returns the name of a fold among the splits."""
    return f"fold{fold}"


def find_leaks(sides: SplitAssignment, digests: Mapping[str, bytes]) -> tuple[tuple[str, ...], ...]:
    """Returns the groups of images with equal digests on more than one side, as split/name.

    Args:
        sides: the names of each side.
        digests: of the images that share theirs with another, by name; others may be missing.
    """
    places = collections.defaultdict(list)
    for side, names in sides.items():
        for name in names:
            if name in digests:
                places[digests[name]].append((side, name))
    return tuple(
        tuple(f"{side}/{name}" for side, name in group)
        for group in places.values()
        if len({side for side, _ in group}) > 1
    )


def shuffle(sides: SplitAssignment, seed: int) -> SplitAssignment:
    """Returns splits or folds, their names in a random order that depends only on the seed."""
    shuffled = {}
    folds = map(fold_name, range(len(sides)))
    for number, name in enumerate((*SPLITS, *folds)):
        if name in sides:
            order = np.random.default_rng([seed, number]).permutation(len(sides[name]))
            names = sorted(sides[name])
            shuffled[name] = [names[k] for k in order]
    return shuffled


def draw(
    groups: Collection[str], shares: Mapping[str, float], seed: int
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the side of each group, and which groups a side has that would have been empty.

    A group's place on [0, 1) depends on the seed and its own name alone, and each side has its
    share of that line; so other groups that come or go do not move it. Only a side without any
    group takes the one nearest to its part, from a split that has others.

    Args:
        groups: their names.
        shares: of each side, of 1.
        seed: of the places.
    """
    ends = list(itertools.accumulate(shares.values()))
    parts = dict(zip(shares, itertools.pairwise([0.0, *ends[:-1], 1.0]), strict=True))
    places = {group: _place(group, seed) for group in groups}
    side_of = {
        group: next(side for side, (_, end) in parts.items() if place < end)
        for group, place in places.items()
    }
    moved = []
    for side, (begin, end) in parts.items():
        counts = collections.Counter(side_of.values())
        others = [group for group in groups if counts[side_of[group]] > 1]
        if side not in counts and others:
            nearest = min(
                others,
                key=lambda group: (max(begin - places[group], places[group] - end), group),
            )
            side_of[nearest] = side
            moved.append(nearest)
    return side_of, tuple(moved)


def describe(sides: SplitAssignment, draw: schema.Draw) -> str:
    """Returns a line that compares the shares of a draw with those that were asked for."""
    total = sum(len(names) for names in sides.values())
    parts = [
        f"{side} {len(names)} ({len(names) / total:.0%} for {draw.shares[side]:.0%})"
        for side, names in sides.items()
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
    sides = {
        side: [unicodedata.normalize("NFC", name) for name in raw[side]]
        for side in SPLITS
        if raw.get(side)
    }
    known, seen = set(names), set()
    for side, listed in sides.items():
        for name in listed:
            if name not in known:
                raise InputError(
                    f"--splits={path} lists {name!r} in {side}, but there is no image of that "
                    "name; list names as they are below --images, without suffix."
                )
            if name in seen:
                raise InputError(f"--splits={path} lists {name!r} twice; keep one of them.")
            seen.add(name)
    return sides


def _is_lists_of_names(raw: object) -> bool:
    return (
        isinstance(raw, dict)
        and set(raw) <= set(SPLITS)
        and all(isinstance(names, list) for names in raw.values())
        and all(isinstance(name, str) for names in raw.values() for name in names)
    )


def _check_groups(sides: SplitAssignment, groups: Mapping[str, str]) -> None:
    side_of: dict[str, str] = {}
    for side, names in sides.items():
        for name in names:
            first = side_of.setdefault(groups[name], side)
            if first != side:
                shown = one_line(name)
                raise InputError(
                    f"--splits puts group {groups[name]!r} of --group_by in two splits, {first} "
                    f"and {side} ({shown}); move its images to one split, or drop --group_by."
                )
