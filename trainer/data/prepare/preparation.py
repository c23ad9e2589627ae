"""Makes a data folder of pictures and their masks: sharded TFRecords and a manifest.

    python -m trainer.data.prepare --images=DIR --masks=DIR --output=DIR

Two passes, each by all cores, in an order that does not depend on their number. The first reads
every pair and finds out what there is (`survey`); then all that needs the whole set is decided.
The second reads again, encodes and writes. This process only ever holds encoded examples, so
memory is bounded by workers × one image, not by the data.
"""

import collections
import dataclasses
import fractions
import functools
import itertools
import math
import os
import signal
import sys
import tempfile
import time
import types
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import logging

from trainer import config
from trainer.data.dataset import schema
from trainer.data.formats import discovery, images, reading
from trainer.data.prepare import (
    agreement,
    classes,
    labels,
    output,
    pool,
    prefetch,
    splitting,
    statistics,
    tiling,
)
from trainer.errors import InputError
from trainer.storage import files

MIN_SHARDS = 8  # so that as many streams, or workers, can share a split of any size
SHOWN = 10  # leaks and skipped files in the log; the manifest has all


@dataclasses.dataclass
class Tally:
    """Counts and sums over the pixels of one or more images.

    Attributes:
        pixels: int64 [num_classes], number of pixels of each class.
        ignored_pixels: number of pixels that do not count.
        sums: of each channel's values; exact, so that their order does not matter.
        squares: sums of each channel's squared values.
    """

    pixels: np.ndarray
    ignored_pixels: int
    sums: list[fractions.Fraction]
    squares: list[fractions.Fraction]

    def add(self, other: "Tally") -> None:
        """Adds the counts and sums of other images to these."""
        self.pixels = self.pixels + other.pixels
        self.ignored_pixels += other.ignored_pixels
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, other.squares, strict=True)]


def main(settings: config.Prepare) -> None:
    """Prepares data; when asked to stop, leaves no more behind than after an error."""
    signal.signal(signal.SIGTERM, _exit_when_asked)
    prepare(settings)


def _exit_when_asked(number: int, frame: types.FrameType | None) -> None:
    sys.exit(128 + number)


def prepare(settings: config.Prepare) -> schema.Manifest:
    """Writes a data folder and returns its manifest.

    Raises:
        InputError: if a setting or a file breaks a rule; what was written is removed then, but for
            shards in gs://, which a second start need not upload again.
    """
    _check_paths(settings)
    given = classes.parse(settings.classes, settings.ignore, settings.threshold)
    channels = statistics.parse_channels(settings.channels)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        pairs, left_out = find_pairs(settings, scratch)
        names, draw = _assign(settings, pairs)
        listed = _listed(pairs, names)
        left_out["images in no list of --splits"] += len(pairs) - len(listed)
        pairs = listed
        with pool.start(_num_workers(settings.workers, len(pairs))) as run:
            found, skipped = _survey(run, pairs, settings, given)
            if skipped and draw:  # what is left may have to fill a split
                names, draw = _assign(settings, [one.pair for one in found.values()])
            names = {side: [n for n in listed if n in found] for side, listed in names.items()}
            splitting.check_none_empty(names, "--skip_bad")
            form = _choose_format(list(found.values()), given, channels)
            if draw:
                _tell_of_draw(names, draw)
            leaks = splitting.find_leaks(names, {name: one.digest for name, one in found.items()})
            _warn_of_leaks(leaks)
            order = {
                side: [
                    tile
                    for name in shuffled
                    for tile in tiling.cut(found[name], settings.tile if side == "train" else 0)
                ]
                for side, shuffled in splitting.shuffle(names, settings.seed).items()
            }
            _check_tiles(order)
            with output.open_output(settings.output) as folder:
                splits = _write(run, order, form, settings, folder)
                manifest = schema.Manifest(
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
                    draw=draw,
                    origin=settings.origin,
                    licence=settings.licence,
                    leaks=leaks,
                    skipped=skipped,
                )
                folder.finish(manifest)
    _warn_of_absent_classes(manifest)
    left_out["unreadable images"] += len(skipped)
    seconds = time.monotonic() - started
    logging.info("%s", _closing_line(manifest, settings.output, seconds, left_out))
    return manifest


# What to prepare ----------------------------------------------------------------------------------


def _check_paths(settings: config.Prepare) -> None:
    for name in ("images", "masks", "output"):
        if not getattr(settings, name):
            raise InputError(f"--{name} is missing; give --images, --masks and --output.")
    output.check_unfinished(settings.output)
    if not files.is_remote(settings.output) and os.path.isfile(settings.output):
        raise InputError(f"--output={settings.output} is a file; name a folder.")
    files.check_folder("output", settings.output)
    output.check(settings.output)


def find_pairs(
    settings: config.Prepare, scratch: str
) -> tuple[list[statistics.Pair], collections.Counter[str]]:
    """Returns images with their masks, in the order of their names, and what else matched.

    Args:
        settings: say where they are, and how their names differ.
        scratch: folder for temporary files, to be kept as long as the pairs are used.

    Raises:
        InputError: naming the first file without a partner or with an ambiguous name.
    """
    at = {"images": _found(settings.images, "images", settings, scratch)}
    # One folder is listed once; an .npz holds an array for each.
    if settings.images == settings.masks and not settings.masks.lower().endswith(".npz"):
        at["masks"] = at["images"]
    else:
        at["masks"] = _found(settings.masks, "masks", settings, scratch)
    left_out = collections.Counter[str]()
    for one in {id(one): one for one in at.values()}.values():
        left_out.update(one.left_out)
    found, masks = (
        [dataclasses.replace(source, name=_composed(source.name)) for source in one.sources]
        for one in at.values()
    )
    suffix = _composed(settings.mask_suffix)
    if suffix:  # both may be in one folder
        there = {source.label for source in (*found, *masks)}
        found = [source for source in found if _image_name(source.name, suffix) is None]
        names = [_image_name(source.name, suffix) for source in masks]
        masks = [
            dataclasses.replace(source, name=name)
            for source, name in zip(masks, names, strict=True)
            if name is not None
        ]
        used = {source.label for source in (*found, *masks)}
        left_out["images or masks by --mask_suffix"] += len(there - used)
    uncounted = {source.name for source in (*found, *masks) if source.is_uncounted}
    found, masks = _first_pages(found, uncounted), _first_pages(masks, uncounted)
    image_of = _by_name(found, "images")
    mask_of = _by_name(masks, "masks")
    for name, source in image_of.items():
        if name not in mask_of:
            raise InputError(
                f"{source.label} has no mask: there is no {reading.shown(name)}{suffix} in --masks="
                f"{settings.masks}; add it, remove the image, or see --mask_suffix."
            )
    for name, source in mask_of.items():
        if name not in image_of:
            raise InputError(
                f"{source.label} has no image: there is no {reading.shown(name)} in --images="
                f"{settings.images}; add it, remove the mask, or see --mask_suffix."
            )
    pairs = [statistics.Pair(image_of[name], mask_of[name]) for name in sorted(image_of)]
    _check_apart(pairs)
    return pairs, left_out


def _found(where: str, flag: str, settings: config.Prepare, scratch: str) -> discovery.Found:
    return discovery.with_pages(discovery.find(where, flag, scratch, settings.max_pixels), scratch)


def _check_apart(pairs: Sequence[statistics.Pair]) -> None:
    """Raises InputError if an image is its own mask."""
    for pair in pairs:
        if (pair.image.path, pair.image.row) == (pair.mask.path, pair.mask.row):
            raise InputError(
                f"{pair.image.label} would be an image and its own mask; give another --masks, or "
                "what masks have in their names: --mask_suffix=_mask."
            )


def _composed(name: str) -> str:
    """Returns a name in the one of Unicode's ways to write it that names are compared in."""
    return unicodedata.normalize("NFC", name)


def _image_name(mask: str, suffix: str) -> str | None:
    """Returns the name of the image of a mask, or None if the suffix makes it none.

    The masks of the pages of x are those of x_mask, or files x_p000_mask …
    """
    stem, page = discovery.split_page(mask)
    return stem.removesuffix(suffix) + page if stem.endswith(suffix) else None


def _first_pages(found: Sequence[discovery.Source], stems: set[str]) -> list[discovery.Source]:
    """Makes one case of the pages of each of some files.

    So it pairs with its partner, whose pages cannot be counted: reading that one says why.
    """
    kept = []
    for source in found:
        stem, page = discovery.split_page(source.name)
        if not page or stem not in stems:
            kept.append(source)
        elif int(page.removeprefix("_p")) == 0:
            kept.append(dataclasses.replace(source, name=stem))
    return kept


def _by_name(found: Sequence[discovery.Source], flag: str) -> dict[str, discovery.Source]:
    named: dict[str, discovery.Source] = {}
    for source in found:
        if source.name in named:
            other = named[source.name].label
            same = (
                "are one name to Unicode, in two spellings"
                if _composed(other) == _composed(source.label)
                else "have the same stem"
            )
            raise InputError(
                f"{other} and {source.label} {same}, which names a case; rename one, or narrow "
                f"--{flag}."
            )
        if any(unicodedata.category(letter) in classes.LINE_BREAKING for letter in source.name):
            raise InputError(
                f"{source.label} has a line break or another control character in its name, which "
                "names a case; rename it."
            )
        try:
            source.name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{source.label} has a name that is not UTF-8, as a case's must be; rename it."
            ) from None
        named[source.name] = source
    return named


def _assign(
    settings: config.Prepare, pairs: Sequence[statistics.Pair]
) -> tuple[splitting.Sides, schema.Draw | None]:
    return splitting.assign(
        [pair.name for pair in pairs],
        settings.splits,
        settings.split,
        settings.group_by,
        settings.seed,
    )


def _tell_of_draw(names: splitting.Sides, draw: schema.Draw) -> None:
    logging.info("%s", splitting.describe(names, draw))
    for group in draw.moved:
        logging.warning(
            "Warning: a split had no image by the draw alone and was given %s, which may change "
            "sides when the set grows; to keep it there, list the splits with --splits.",
            reading.shown(group),
        )


def _listed(pairs: Sequence[statistics.Pair], names: splitting.Sides) -> list[statistics.Pair]:
    known = set(itertools.chain.from_iterable(names.values()))
    listed = [pair for pair in pairs if pair.name in known]
    if len(listed) < len(pairs):
        count = len(pairs) - len(listed)
        logging.info("%d images are in no list of --splits and are left out.", count)
    return listed


def _num_workers(asked: int, num_images: int) -> int:
    return max(1, min(asked or os.cpu_count() or 1, num_images))


# The first pass -----------------------------------------------------------------------------------


def _survey(
    run: pool.Run, pairs: Sequence[statistics.Pair], settings: config.Prepare, given: classes.Given
) -> tuple[dict[str, statistics.Survey], tuple[str, ...]]:
    """Returns what there is, by name, and the names of the pairs that were skipped."""
    task = functools.partial(_examine, settings.max_pixels, settings.skip_bad, given)
    found, skipped = {}, []
    results = _shown(prefetch.results(run, task, pairs), "reading", len(pairs))
    for pair, result in zip(pairs, results, strict=True):
        if isinstance(result, str):
            logging.warning("Skipped: %s", result)
            skipped.append(pair.name)
        else:
            seen = dataclasses.replace(pair, content=result.content)  # and not its local copy
            found[pair.name] = dataclasses.replace(result, pair=seen)
    return found, tuple(skipped)


def _examine(
    max_pixels: int, skip_bad: bool, given: classes.Given, pair: statistics.Pair
) -> statistics.Survey | str:
    """Returns what there is in a pair, or why it is to be skipped."""
    try:
        return statistics.examine(pair, max_pixels, given)
    except reading.UnreadableError as error:
        if not skip_bad:
            raise InputError(
                f"{error} Mend or remove it, or go on without it: --skip_bad."
            ) from None
        return str(error)


def _choose_format(
    found: Sequence[statistics.Survey], given: classes.Given, channels: int | None
) -> statistics.Format:
    rule, class_notes, warnings = agreement.settle([one.mask for one in found], given)
    chosen_channels, channel_notes = statistics.choose_channels(found, channels)
    dtype, dtype_notes = statistics.choose_dtype(found)
    for note in (*class_notes, *channel_notes, *dtype_notes):
        logging.info("%s", note)
    for warning in warnings:
        logging.warning("%s", warning)
    return statistics.Format(rule, chosen_channels, dtype)


def _check_tiles(order: dict[str, list[tiling.Tile]]) -> None:
    """Raises InputError if an example cut from an image has the name of another image."""
    seen: dict[str, tiling.Tile] = {}
    for tile in itertools.chain.from_iterable(order.values()):
        other = seen.setdefault(tile.name, tile)
        if other is not tile:
            raise InputError(
                f"{other.pair.image.label} and {tile.pair.image.label} both give an example "
                f"{tile.name}, since --tile names parts of images so; rename one."
            )


def _warn_of_leaks(leaks: Sequence[Sequence[str]]) -> None:
    for group in leaks[:SHOWN]:
        names = reading.shown(" = ".join(group))
        logging.warning("Warning: a leak, identical pixels in two splits: %s", names)
    if len(leaks) > SHOWN:
        logging.warning("Warning: %d more leaks; the manifest lists them.", len(leaks) - SHOWN)


# The second pass ----------------------------------------------------------------------------------


def _write(
    run: pool.Run,
    order: dict[str, list[tiling.Tile]],
    form: statistics.Format,
    settings: config.Prepare,
    folder: output.Output,
) -> dict[str, schema.Split]:
    """Writes all shards, one after the other, and returns what the manifest says of them."""
    task = functools.partial(_encode, form, settings.max_pixels)
    pairs = list(tiling.by_pair(tile for listed in order.values() for tile in listed))
    shown = _shown(prefetch.results(run, task, pairs), "writing", len(pairs))
    results = itertools.chain.from_iterable(shown)
    splits = {}
    for side, listed in order.items():
        total = _no_tally(form)
        shards = []
        counts = shard_counts(len(listed), _raw_bytes(listed, form), settings.shard_mb)
        for index, count in enumerate(counts):
            name = schema.shard_name(side, index, len(counts))
            examples = _tallied(itertools.islice(results, count), total)
            shards.append(folder.add(name, examples))
        splits[side] = _describe(listed, shards, total)
    return splits


def _tallied(results: Iterable[tuple[bytes, Tally]], total: Tally) -> Iterator[bytes]:
    for example, tally in results:
        total.add(tally)
        yield example


def shard_counts(num_examples: int, raw_bytes: int, shard_mb: float) -> list[int]:
    """Returns how many examples each shard of a split gets; they differ by at most one.

    Args:
        num_examples: of the split.
        raw_bytes: of its images and masks, uncompressed.
        shard_mb: most megabytes (10^6 bytes) of these in a shard of average images.
    """
    shards = min(num_examples, max(MIN_SHARDS, math.ceil(raw_bytes / (shard_mb * 1e6))))
    small, larger = divmod(num_examples, shards)
    return [small + 1] * larger + [small] * (shards - larger)


def _raw_bytes(listed: Sequence[tiling.Tile], form: statistics.Format) -> int:
    per_pixel = form.channels * schema.BIT_DEPTHS[form.dtype] // 8 + 1  # and the mask's byte
    return per_pixel * sum(one.height * one.width for one in listed)


def _encode(
    form: statistics.Format, max_pixels: int, pair: statistics.Pair
) -> list[tuple[bytes, Tally]]:
    """Returns the examples of a pair, one for each of its boxes."""
    pixels, given_mask = statistics.read(pair, max_pixels)
    image = images.convert(pixels, form.channels, form.dtype, pair.image.label)
    mask = labels.class_ids(given_mask, form.rule, pair.mask.label)
    examples = []
    for name, top, left, height, width in pair.boxes:
        part = np.s_[top : top + height, left : left + width]
        example = schema.encode(name, image[part], mask[part], form.encoding)
        examples.append((example, tally(image[part], mask[part], len(form.rule.classes))))
    return examples


def tally(image: np.ndarray, mask: np.ndarray, num_classes: int) -> Tally:
    """Returns the counts and sums of one example.

    Args:
        image: uint8, uint16 or float32 [H, W, C].
        mask: uint8 [H, W], class ids; records.IGNORE where a pixel does not count.
        num_classes: number of classes.
    """
    counts = np.bincount(mask.ravel(), minlength=schema.IGNORE + 1)
    moments = [_moments(image[..., channel]) for channel in range(image.shape[2])]
    return Tally(
        pixels=counts[:num_classes],
        ignored_pixels=int(counts[schema.IGNORE]),
        sums=[fractions.Fraction(first) for first, _ in moments],
        squares=[fractions.Fraction(second) for _, second in moments],
    )


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Returns the sums of the values and of their squares: of integers exact ones, by counting."""
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        return float(wide.sum()), float(np.square(wide).sum())
    counts = np.bincount(values.ravel())
    levels = np.arange(len(counts))
    return int(counts @ levels), int(counts @ levels**2)


def _no_tally(form: statistics.Format) -> Tally:
    zeros = [fractions.Fraction(0)] * form.channels
    return Tally(np.zeros(len(form.rule.classes), np.int64), 0, zeros, zeros)


def _describe(
    listed: Sequence[tiling.Tile], shards: Sequence[schema.Shard], total: Tally
) -> schema.Split:
    sizes = collections.Counter((one.height, one.width) for one in listed)
    num_pixels = sum(one.height * one.width for one in listed)
    means = [value / num_pixels for value in total.sums]
    variances = [
        square / num_pixels - mean**2 for square, mean in zip(total.squares, means, strict=True)
    ]
    return schema.Split(
        examples=len(listed),
        shards=tuple(shards),
        cases=tuple(one.name for one in listed),
        sizes=tuple((*size, count) for size, count in sorted(sizes.items())),
        pixels=tuple(int(count) for count in total.pixels),
        ignored_pixels=total.ignored_pixels,
        mean=tuple(float(mean) for mean in means),
        # A float image's squares are rounded, which may take a variance of 0 below it.
        std=tuple(math.sqrt(max(0.0, float(variance))) for variance in variances),
    )


# What is said -------------------------------------------------------------------------------------


def _shown(results: Iterator[Any], what: str, total: int) -> Iterator[Any]:
    """Yields the results under a progress bar, if there is a terminal to show it."""
    with tqdm.tqdm(total=total, desc=what, unit=" images", disable=None) as bar:
        for result in results:
            bar.update()
            yield result


def _warn_of_absent_classes(manifest: schema.Manifest) -> None:
    for side, split in manifest.splits.items():
        for entry, count in zip(manifest.classes, split.pixels, strict=True):
            if not count:
                logging.warning("Warning: class %s does not occur in %s.", entry.name, side)


def _closing_line(
    manifest: schema.Manifest, where: str, seconds: float, left_out: Mapping[str, int]
) -> str:
    total = sum(split.examples for split in manifest.splits.values())
    parts = [
        f"{side} {split.examples} in {len(split.shards)} shards"
        for side, split in manifest.splits.items()
    ]
    return (
        f"Wrote {total} images to {where} in {seconds:.1f} s ({total / seconds:.1f} images/s): "
        f"{', '.join(parts)}.{discovery.told(left_out)}"
    )
