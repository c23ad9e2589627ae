"""Makes a data folder of pictures and their masks: sharded TFRecords and a manifest.

    python -m trainer.data.prepare --images=DIR --masks=DIR --output=DIR

Two passes, each by all cores, in an order that does not depend on their number. The first reads
every pair and finds out what there is (`statistics`); then all that needs the whole set is decided.
The second reads again, encodes and writes (`shards`). This process only ever holds encoded
examples, so memory is bounded by workers × one image, not by the data; of each pair it keeps what
is known, some hundred bytes (`packed`). Pairs are told by their place, in the order of their names.
"""

import array
import collections
import dataclasses
import functools
import itertools
import os
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from trainer import cli, config
from trainer.data.dataset import folds, schema
from trainer.data.formats import discovery, reading
from trainer.data.packed import Packed
from trainer.data.planning import data_plan, plan_file
from trainer.data.prepare import (
    classes,
    engines,
    kept,
    output,
    pairing,
    shards,
    splitting,
    statistics,
    volume_form,
    volume_pairing,
    worker_pool,
)
from trainer.data.prepare.kinds import Images, Kind
from trainer.data.prepare.pairs import Example, Examples, Pair, Part
from trainer.data.prepare.volume_kind import VolumeKind
from trainer.distributed import beam_runner
from trainer.errors import InputError, one_line
from trainer.storage import files

GIVE = "give --images, --masks and --output."
SHOWN = 10  # leaks in the log; the manifest has all


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the second pass does, decided when the first has seen every pair.

    Attributes:
        order: the examples of each split, or role of a fold, by what is known of their foreground.
        draw: how splits were drawn; None if a list names them.
        leaks: names of images with identical pixels in two splits.
        skipped: names of the pairs that cannot be read.
    """

    order: Mapping[str, Mapping[bool | None, Sequence[Example]]]
    draw: schema.Draw | None
    leaks: tuple[tuple[str, ...], ...]
    skipped: tuple[str, ...]


def main(settings: config.Prepare) -> None:
    """Prepares data; when asked to stop, keeps what the next start can go on with."""
    signal.signal(signal.SIGTERM, _exit_when_asked)
    if settings.dry_run:
        dry_run(settings)
    else:
        prepare(settings)


def _exit_when_asked(number: int, frame: types.FrameType | None) -> None:
    sys.exit(128 + number)


def dry_run(settings: config.Prepare) -> None:
    """Prints what Beam would be given.

    Raises:
        InputError: it is not asked for, or refuses it.
    """
    beam = _beam(settings)
    if beam is None:
        raise InputError("--dry_run prints what --runner is given, and local is given nothing.")
    cli.show(beam.described())


def _beam(settings: config.Prepare) -> beam_runner.Beam | None:
    """Returns the engine of Beam's that is asked for, if one is, and has checked it."""
    beam = beam_runner.parse(settings.runner, settings.runner_options, settings.workers)
    if beam:
        beam.check([(name, getattr(settings, name)) for name in ("images", "masks", "output")])
    return beam


def prepare(settings: config.Prepare) -> schema.Manifest:
    """Writes a data folder and returns its manifest.

    Raises:
        InputError: if a setting or a file breaks a rule; what was written is removed then, but for
            shards in gs://, which a second start need not upload again. What is stopped or killed
            goes on at the next start with what it has read and written.
    """
    _check_paths(settings)
    beam = _beam(settings)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        kind, pairs, left_out = _find(settings, scratch)
        if beam and beam.is_elsewhere:
            _check_within_reach(pairs, scratch, settings)
        sides, draw = _assign(settings, (pair.name for pair in pairs))
        # Refuses too many folds before anything is read.
        _divide(settings, sides, lambda place: pairs[place].name)
        listed, sides = _listed(pairs, sides)
        left_out["images in no list of --splits"] += len(pairs) - len(listed)
        num_workers = 1 if beam else _num_workers(settings.workers, len(listed))
        with (
            output.open_output(settings.output) as folder,
            worker_pool.start(num_workers, lambda pair: pair.image.label) as run,
        ):
            results = kept.of_output(settings.output)
            engine: engines.Engine = engines.Local(run, settings.downloads, results)
            if beam:
                engine = engines.Distributed(beam, settings.downloads, results, settings.output)
            found, read, skipped = _survey(engine, listed, kind, settings)
            if skipped and draw:  # the rest may have to fill a split
                sides, draw = _assign(settings, (one.pair.name for one in found))
            elif skipped:
                sides = _among(sides, read)
            splitting.check_none_empty(sides, "--skip_bad")
            # Folds share one form: each trains another model, and all of them are an ensemble.
            together = ("train", "val") if settings.folds else ("train",)
            training = np.concatenate([sides[side] for side in together])
            if settings.plan:
                kind = kind.planned(found[place] for place in training)
            form = kind.settle(found, training)
            plan = _plan(engine, kind, form, found, sides, settings, draw, skipped)
            plans = shards.plan(plan.order, form, settings.shard_mb, settings.seed)
            encode = functools.partial(kind.encode, form)
            written = engine.write(plans, encode, form, folder)
            splits, indexes = shards.describe(plans, written, form, folder.add_index)
            grids = _grids(kind, (found[place] for place in training))
            manifest = _manifest(settings, kind, plan, form, splits, grids, indexes)
            folder.finish(manifest)
    _warn_of_absent_classes(manifest)
    left_out["unreadable images"] += len(skipped)
    seconds = time.monotonic() - started
    logging.info("%s", _closing_line(manifest, settings.output, seconds, left_out))
    if settings.plan:
        data_plan.write_beside(settings.output, manifest)
    return manifest


def _check_paths(settings: config.Prepare) -> None:
    for name in ("images", "output"):
        if not getattr(settings, name):
            raise InputError(f"--{name} is missing; {GIVE}")
    output.check_unfinished(settings.output)
    if not files.is_remote(settings.output) and os.path.isfile(settings.output):
        raise InputError(f"--output={settings.output} is a file; name a folder.")
    files.check_folder("output", settings.output)
    output.check(settings.output)
    if settings.plan:
        plan_file.check(data_plan.default_path(settings.output))


def _find(
    settings: config.Prepare, scratch: str
) -> tuple[Kind, Sequence[Pair], collections.Counter[str]]:
    """Returns the kind of the data, the pairs, and what else matched.

    Raises:
        InputError: files do not pair, or a setting is not of this kind.
    """
    given = classes.parse(settings.classes, settings.ignore, settings.threshold)
    statistics.parse_channels(settings.channels)
    volume_form.parse_spacing(settings.spacing)
    if not volume_pairing.are_volumes(settings):
        if not settings.masks:
            raise InputError(f"--masks is missing; {GIVE}")
        _refuse_others(settings, ("spacing", "block", "channel_names"), "images", "volumes")
        return Images(settings, given), *pairing.find_pairs(settings, scratch)
    _refuse_others(settings, ("tile", "channels"), "volumes", "images")
    found = volume_pairing.find(settings)
    given = classes.parse(found.classes, found.ignore, settings.threshold)
    return VolumeKind(settings, given, found.channel_names), found.pairs, found.left_out


def _check_within_reach(pairs: Iterable[Pair], scratch: str, settings: config.Prepare) -> None:
    """Raises InputError where images were unpacked or copied to this machine's disk."""
    for pair in pairs:
        for source in (*pair.images, pair.mask):
            if source.path.startswith(scratch):
                raise InputError(
                    f"{source.label} is within a file that only --runner=local and direct take "
                    f"apart, and --runner={settings.runner} works on other machines; save each "
                    "image as a file of its own."
                )


def _refuse_others(settings: config.Prepare, names: Iterable[str], given: str, others: str) -> None:
    """Raises InputError if a setting is set that is for another kind of data."""
    default = config.Prepare()
    for name in names:
        value = getattr(settings, name)
        if value != getattr(default, name):
            raise InputError(
                f"--{name}={config.as_text(value)} is for {others}, and --images="
                f"{settings.images} has {given}; drop it."
            )


def _assign(
    settings: config.Prepare, names: Iterable[str]
) -> tuple[splitting.SplitAssignment, schema.Draw | None]:
    return splitting.assign(
        list(names), settings.splits, settings.split, settings.group_by, settings.seed
    )


def _divide(
    settings: config.Prepare, sides: splitting.SplitAssignment, name_of: Callable[[int], str]
) -> splitting.SplitAssignment:
    return splitting.divide(sides, name_of, settings.folds, settings.group_by, settings.seed)


def _listed(
    pairs: Sequence[Pair], sides: splitting.SplitAssignment
) -> tuple[Sequence[Pair], splitting.SplitAssignment]:
    """Returns the pairs that are in a split, and their places in the splits."""
    places = np.sort(np.concatenate(list(sides.values())))
    if len(places) == len(pairs):
        return pairs, sides
    count = len(pairs) - len(places)
    logging.info("%d images are in no list of --splits and are left out.", count)
    return Packed(pairs[place] for place in places), _among(sides, places)


def _among(sides: splitting.SplitAssignment, places: np.ndarray) -> splitting.SplitAssignment:
    """Returns splits of these places alone, ascending, which are numbered anew."""
    return {
        side: np.searchsorted(places, of_side[np.isin(of_side, places)])
        for side, of_side in sides.items()
    }


def _num_workers(asked: int, num_images: int) -> int:
    return max(1, min(asked or os.cpu_count() or 1, num_images))


# The first pass -----------------------------------------------------------------------------------


def _survey(
    engine: engines.Engine, pairs: Sequence[Pair], kind: Kind, settings: config.Prepare
) -> tuple[Sequence[Any], np.ndarray, tuple[str, ...]]:
    """Returns what was found, the places of these pairs, and the names of those skipped."""
    task = functools.partial(_examine, kind, settings.skip_bad)
    found, places, skipped = Packed[Any](), array.array("q"), []
    results = engine.each("reading", task, pairs)
    for place, (pair, result) in enumerate(zip(pairs, results, strict=True)):
        if isinstance(result, str):
            logging.warning("Skipped: %s", result)
            skipped.append(pair.name)
        else:
            # And not with its local copies.
            seen = dataclasses.replace(result.pair, images=pair.images, mask=pair.mask)
            found.append(dataclasses.replace(result, pair=seen))
            places.append(place)
    return found, np.array(places), tuple(skipped)


def _examine(kind: Kind, skip_bad: bool, pair: Pair) -> Any:
    """Returns the survey of a pair, or, as a text, why it is skipped."""
    try:
        return kind.examine(pair)
    except reading.UnreadableError as error:
        if not skip_bad:
            raise InputError(f"{error} Fix or remove it, or skip it with --skip_bad.") from None
        return str(error)


# What needs the whole set ------------------------------------------------------------------------


def _plan(
    engine: engines.Engine,
    kind: Kind,
    form: Any,
    found: Sequence[Any],
    sides: splitting.SplitAssignment,
    settings: config.Prepare,
    draw: schema.Draw | None,
    skipped: tuple[str, ...],
) -> Plan:
    """Decides what is written, in which order, and warns where the user should know."""
    if draw:
        _log_draw(sides, draw)

    def name_of(place: int) -> str:
        return found[place].pair.name

    sides = _divide(settings, sides, name_of)
    if settings.folds:
        counts = ", ".join(str(len(of)) for side, of in sides.items() if side != "test")
        logging.info("Folds: %d, of %s cases; the first is the val split.", settings.folds, counts)
    leaks = splitting.find_leaks(sides, name_of, _digests(found))
    _warn_of_leaks(leaks)
    listed: dict[str, Examples] = {}
    for side, shuffled in splitting.shuffle(sides, settings.seed).items():
        for key, role in _roles(side).items():
            examples = _examples(kind, form, role, found, shuffled)
            if not any(_are_equal(examples, others) for others in listed.values()):
                listed[key] = examples  # where nothing is cut, a fold is written once
    _check_names(listed.values())
    order: dict[str, Mapping[bool | None, Sequence[Example]]] = {
        key: kind.groups(engine.each, form, examples) if key.endswith("train") else {None: examples}
        for key, examples in listed.items()
    }
    return Plan(order, draw, leaks, skipped)


def _digests(found: Sequence[Any]) -> dict[int, bytes]:
    """Returns the digests that begin as another's does, by place."""
    starts = (int.from_bytes(one.digest[:8], "big") for one in found)
    keys = np.fromiter(starts, np.uint64, len(found))
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    places = np.flatnonzero(np.isin(keys, repeated)).tolist() if repeated.size else ()
    return {place: found[place].digest for place in places}


def _examples(
    kind: Kind, form: Any, role: str, found: Sequence[Any], order: Iterable[int]
) -> Examples:
    """Returns the examples that pairs give in a split."""
    places, parts = array.array("q"), Packed[Part]()
    for place in order:
        for part in kind.parts(found[place], form, role):
            places.append(place)
            parts.append(part)
    return Examples(found, places, parts)


def _are_equal(some: Examples, others: Examples) -> bool:
    pairs = zip(some, others, strict=True)
    return len(some) == len(others) and all(one == other for one, other in pairs)


def _roles(side: str) -> dict[str, str]:
    """Returns what is written of a split or fold: a name of the shards, and of the split it is for.

    A fold trains some models and validates another.
    """
    if side in splitting.SPLITS:
        return {side: side}
    return {f"{side}-{role}": role for role in ("train", "val")}


def _log_draw(names: splitting.SplitAssignment, draw: schema.Draw) -> None:
    logging.info("%s", splitting.describe(names, draw))
    for group in draw.moved:
        logging.warning(
            "Warning: a split had no image by the draw alone and was given %s, which may change "
            "sides when the set grows; to keep it there, list the splits with --splits.",
            one_line(group),
        )


def _warn_of_leaks(leaks: Sequence[Sequence[str]]) -> None:
    for group in leaks[:SHOWN]:
        names = one_line(" = ".join(group))
        logging.warning("Warning: a leak, identical pixels in two splits: %s", names)
    if len(leaks) > SHOWN:
        logging.warning("Warning: %d more leaks; the manifest lists them.", len(leaks) - SHOWN)


def _check_names(listed: Collection[Examples]) -> None:
    """Raises InputError if an example cut from an image has the name of another image."""
    hashes = array.array("q", (hash(part.name) for one in listed for part in one.parts()))
    values, counts = np.unique(hashes, return_counts=True)
    repeated = frozenset(values[counts > 1].tolist())  # the names of all would take much memory
    seen: dict[str, Pair] = {}
    for example in itertools.chain.from_iterable(listed) if repeated else ():
        name = example.part.name
        if hash(name) in repeated:
            other = seen.setdefault(name, example.pair)
            if other.name != example.pair.name:
                raise InputError(
                    f"{other.image.label} and {example.pair.image.label} both give an example "
                    f"{name}, because --tile names parts of images like that; rename one."
                )


def _grids(kind: Kind, training: Iterable[Any]) -> tuple[schema.Grid, ...]:
    counts = collections.Counter(map(kind.grid, training))
    return tuple(schema.Grid(*grid, count) for grid, count in sorted(counts.items()))


def _manifest(
    settings: config.Prepare,
    kind: Kind,
    plan: Plan,
    form: Any,
    written: dict[str, schema.Split],
    grids: tuple[schema.Grid, ...],
    indexes: tuple[schema.Index, ...] | None,
) -> schema.Manifest:
    given = kind.given
    splits, parts = written, None
    if settings.folds:
        parts = tuple(_fold(written, k) for k in range(settings.folds))
        tested = {side: split for side, split in written.items() if side == "test"}
        splits = folds.splits(parts, 0) | tested
    return schema.Manifest(
        classes=form.rule.classes,
        ignore_value=None if given.by_colour else given.ignore,
        ignore_colour=settings.ignore.lower() or None if given.by_colour else None,
        threshold=given.threshold,
        channels=form.channels,
        bit_depth=schema.BIT_DEPTHS[form.dtype],
        dtype=form.dtype,
        encoding=form.encoding,
        splits=splits,
        seed=settings.seed,
        draw=plan.draw,
        origin=settings.origin,
        licence=settings.licence,
        leaks=plan.leaks,
        skipped=plan.skipped,
        folds=parts,
        grids=grids,
        indexes=indexes,
        **kind.entries(form),
    )


def _fold(written: Mapping[str, schema.Split], fold: int) -> schema.Fold:
    names = _roles(splitting.fold_name(fold))
    train, val = (written.get(name) for name in names)
    assert train is not None
    return schema.Fold(train, val or train)


# What is said -------------------------------------------------------------------------------------


def _warn_of_absent_classes(manifest: schema.Manifest) -> None:
    sides = dict(manifest.splits)
    sides |= {f"fold {k}": fold.val for k, fold in enumerate(manifest.folds or ()) if k}  # 0 is val
    for side, split in sides.items():
        counts = zip(manifest.classes, split.pixels, strict=True)
        absent = [entry.name for entry, count in counts if not count]
        if len(absent) == 1:
            logging.warning("Warning: class %s does not occur in %s.", absent[0], side)
        elif absent:
            names = ", ".join(absent)
            logging.warning("Warning: %d classes do not occur in %s: %s.", len(absent), side, names)


def _closing_line(
    manifest: schema.Manifest, where: str, seconds: float, left_out: Mapping[str, int]
) -> str:
    what = "images"
    if manifest.volumes is not None:
        what = "volumes" if manifest.volumes.block is None else "blocks and volumes"
    total = sum(split.examples for split in manifest.splits.values())
    parts = [
        f"{side} {split.examples} in {len(split.shards)} shards"
        for side, split in manifest.splits.items()
    ]
    also = f"; {len(manifest.folds)} folds" if manifest.folds else ""
    return (
        f"Wrote {total} {what} to {where} in {seconds:.1f} s ({total / seconds:.1f} {what}/s): "
        f"{', '.join(parts)}{also}.{discovery.told(left_out)}"
    )
