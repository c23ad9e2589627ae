"""Damaged data: found when a run starts, and left out where that was asked for.

A shard, or an index of cases, that was replaced, cut or changed since the manifest was written must
not be used unseen. What a listing of the folder cannot vouch for is read.

Where a run may leave out some records, all shards are read at its start, and the damaged ones
copied to a local folder with a blank example, which weighs nothing, in each unreadable one's place.
Every other example keeps its number, so the stream remains a function of (seed, step), however
often the run is started.
"""

import atexit
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from trainer import commands, json_text
from trainer.data.dataset import case_index, recovery, schema, tfrecord
from trainer.errors import InputError, RetryableError
from trainer.storage import listing

SMALL = 256 * 2**20  # bytes; so much is read at every start, in 0.1 s from memory
SHOWN = 3  # records that a message names


@dataclasses.dataclass(frozen=True)
class Lost:
    """An unreadable record: its number in the shard, its case, where and why."""

    path: str
    record: int
    case: str
    offset: int
    reason: str

    def __str__(self) -> str:
        """Returns the line of the warning."""
        place = f"record {self.record} ({self.case}) at byte {self.offset}"
        return f"{self.path}: {place}: {self.reason}"


def check(
    data_dir: str,
    manifest: schema.Manifest,
    splits: Iterable[str],
    *,
    skip_bad_records: int = 0,
    worker: int = 0,
    num_workers: int = 1,
    sum_over_workers: Callable[[np.ndarray], np.ndarray] = lambda array: array,
) -> tuple[schema.Manifest, list[Lost]]:
    """Checks this worker's shards before they are used; all workers continue, or none.

    Args:
        data_dir: the data folder, local or gs://.
        manifest: of that folder.
        splits: those that will be read.
        skip_bad_records: the most unreadable records, of all workers together, that are left out.
        worker: index of this worker, which reads the shards k with k mod num_workers = worker.
        num_workers: number of workers.
        sum_over_workers: adds up an array over the workers, each of which calls it alike.

    Returns:
        The manifest to read by, which names repaired copies of this worker's damaged shards, and
        what was lost, to all workers.

    Raises:
        InputError: naming the first shard that is missing or not the manifest's, or the first
            unreadable records if there are more than allowed.
    """
    prepare = leave_out if skip_bad_records else _refuse
    found, lost, failure, passes = manifest, list[Lost](), "", False
    try:
        found, lost = prepare(data_dir, manifest, list(splits), worker, num_workers)
    except InputError as error:
        failure, passes = str(error), isinstance(error, RetryableError)
    told = lost[: max(skip_bad_records, SHOWN)]
    mine = {"failure": failure, "passes": passes}
    mine |= {"count": len(lost), "lost": [*map(dataclasses.asdict, told)]}
    reports = _exchange(mine, worker, num_workers, sum_over_workers)
    for report in reports:
        if report["failure"]:
            raise (RetryableError if report["passes"] else InputError)(report["failure"])
    lost = [Lost(**record) for report in reports for record in report["lost"]]
    count = sum(report["count"] for report in reports)
    if count > skip_bad_records:
        raise InputError(
            f"{count} records of {data_dir} are unreadable, more than --skip_bad_records="
            f"{skip_bad_records}: {'; '.join(map(str, lost[:SHOWN]))}"
            f"{'; …' if count > SHOWN else ''}. Copy these shards again or prepare the data again."
        )
    for record in lost:
        logging.warning("Unreadable, and left out: %s", record)
    return found, lost


def _exchange(
    report: dict[str, Any],
    worker: int,
    num_workers: int,
    sum_over_workers: Callable[[np.ndarray], np.ndarray],
) -> list[dict[str, Any]]:
    """Returns the reports of all workers, in their order, by sums of arrays."""
    text = np.frombuffer(json_text.dumps(report).encode(), np.uint8)
    lengths = np.zeros(num_workers, np.int64)
    lengths[worker] = len(text)
    lengths = sum_over_workers(lengths)
    texts = np.zeros((num_workers, max(lengths)), np.int64)
    texts[worker, : len(text)] = text
    texts = sum_over_workers(texts)
    return [
        json.loads(row[:length].astype(np.uint8).tobytes())
        for row, length in zip(texts, lengths, strict=True)
    ]


def _refuse(
    data_dir: str, manifest: schema.Manifest, splits: Sequence[str], worker: int, num_workers: int
) -> tuple[schema.Manifest, list[Lost]]:
    """Raises InputError at the first of this worker's files that is not as it was written."""
    shards: list[schema.Shard | schema.Index] = [
        shard for name in splits for shard in manifest.splits[name].shards[worker::num_workers]
    ]
    indexes = case_index.of_splits(manifest, splits)  # each worker reads those that it needs
    unread = not_vouched_for([*shards, *indexes], listing.list_folder(data_dir))
    size = sum(file.bytes for file in unread)
    if size > SMALL:
        logging.info("Checking %.1f GB of shards that are newer than the manifest.", size / 1e9)
    with _remedied(data_dir):
        for file in unread:
            verify(data_dir, file)
    return manifest, []


def not_vouched_for(
    given: Sequence[schema.Shard | schema.Index], entries: Mapping[str, listing.Entry]
) -> list[schema.Shard | schema.Index]:
    """Returns the shards and indexes that a listing of their folder does not show to be whole.

    Where the store keeps checksums, they decide. Elsewhere sizes do, and on a local disk the time:
    the manifest is written last. A small data set is read anyway.
    """
    small = sum(file.bytes for file in given) <= SMALL
    manifest = entries.get(schema.MANIFEST, listing.Entry(0))

    def vouched_for(file: schema.Shard | schema.Index) -> bool:
        entry = entries.get(file.name)
        if entry is None or entry.bytes != file.bytes:
            return False
        if entry.crc32c is not None:
            return entry.crc32c == file.crc32c
        return not small and (entry.modified or 0) <= (manifest.modified or 0)

    return [file for file in given if not vouched_for(file)]


def verify(data_dir: str, file: schema.Shard | schema.Index) -> None:
    """Raises InputError if a shard or an index is not as it was written."""
    if isinstance(file, schema.Index):
        case_index.read(data_dir, file)
    else:
        schema.verify_shard(data_dir, file)


@contextlib.contextmanager
def _remedied(data_dir: str) -> Iterator[None]:
    """Adds what to do next to an InputError on a shard."""
    try:
        yield
    except RetryableError:
        raise
    except InputError as damage:
        verify = commands.line("trainer.data.inspect", data_dir, "--verify")
        raise InputError(f"{damage} `{verify}` checks every shard.") from None


def verify_shards(
    data_dir: str, manifest: schema.Manifest, split: str, places: Iterable[int]
) -> None:
    """Reads shards of a split, each once, in the order of their places in the manifest.

    Raises:
        InputError: at the first that is not as it was written, or has an example that cannot be
            decoded.
    """
    shards = manifest.splits[split].shards
    cases = case_index.with_cases(data_dir, manifest, [split]).splits[split].names
    decoding_error = recovery.decoder(manifest)
    for place in places:
        shard, lost, offset = shards[place], list[Lost](), 0
        first_case = sum(before.examples for before in shards[:place])
        path = schema.shard_path(data_dir, shard)
        with _remedied(data_dir):
            for number, example in enumerate(schema.read_shard(data_dir, shard)):
                if reason := decoding_error(example):
                    lost.append(Lost(path, number, cases[first_case + number], offset, reason))
                offset += len(tfrecord.frame(example))
        if lost:
            raise InputError(
                f"{lost[0]}; prepare the data again, or leave it out by --skip_bad_records="
                f"{len(lost)}."
            )


# Leaving out --------------------------------------------------------------------------------------


def leave_out(
    data_dir: str, manifest: schema.Manifest, splits: Sequence[str], worker: int, num_workers: int
) -> tuple[schema.Manifest, list[Lost]]:
    """Reads this worker's shards and replaces the damaged ones by copies with blank examples.

    The copies are in a temporary folder, which is removed when the process ends.

    Returns:
        The manifest, which names the copies, and what was lost.

    Raises:
        InputError: if a shard is missing, or another one than the manifest's.
    """
    decoding_error, blank = recovery.decoder(manifest), schema.blank_example(manifest)
    make_folder = functools.cache(_make_temporary_folder)
    named = case_index.with_cases(data_dir, manifest, splits)
    lost: list[Lost] = []
    repaired = {}
    for name in splits:
        split = manifest.splits[name]
        shards, cases = list(split.shards), iter(named.splits[name].names)
        for index, shard in enumerate(shards):
            names = list(itertools.islice(cases, shard.examples))
            if index % num_workers != worker:
                continue
            pieces = recovery.read_pieces(data_dir, shard, names, decoding_error)
            damaged = [n for n, piece in enumerate(pieces) if piece.example is None]
            if damaged:
                examples = [blank if p.example is None else p.example for p in pieces]
                shards[index] = _write_copy(make_folder(), shard, examples)
            path = schema.shard_path(data_dir, shard)
            lost += [Lost(path, n, names[n], pieces[n].offset, pieces[n].reason) for n in damaged]
        repaired[name] = dataclasses.replace(split, shards=tuple(shards))
    return dataclasses.replace(manifest, splits={**manifest.splits, **repaired}), lost


def _make_temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="repaired-shards-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write_copy(folder: str, shard: schema.Shard, examples: Iterable[bytes]) -> schema.Shard:
    """Writes a shard of that name; returns it with its whole path for a name."""
    copy = schema.write_shard(folder, shard.name, examples)
    return dataclasses.replace(
        shard, name=os.path.join(folder, copy.name), bytes=copy.bytes, crc32c=copy.crc32c
    )
