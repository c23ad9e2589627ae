"""What does the two passes over the pairs: the processes of this machine, or Beam's workers."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from absl import logging

from trainer import terminal
from trainer.data.dataset import schema
from trainer.data.prepare import kept, output, prefetch, shards, worker_pool
from trainer.data.prepare.pairs import Pair, by_pair
from trainer.distributed import beam_runner
from trainer.errors import InputError, RetryableError

Encode = Callable[[Pair], list[Any]]


class Engine(Protocol):
    """Does work on pairs, and keeps its results for a start that goes on."""

    def each(self, what: str, task: Callable[[Pair], Any], pairs: Sequence[Pair]) -> Iterator[Any]:
        """Yields `task(pair)` of every pair, in order.

        Args:
            what: is done, for the progress bar, and for the names of what is kept.
            task: a partial function of what its result follows from.
            pairs: all.
        """

    def write(
        self, plans: Sequence[shards.ShardPlan], encode: Encode, form: Any, folder: output.Output
    ) -> Iterator[shards.Written]:
        """Writes every shard, and yields what was written, in order.

        Args:
            plans: of the shards.
            encode: pair → an example of each of its parts.
            form: how examples are stored.
            folder: where the shards go.
        """


class Local:
    """This machine's processes."""

    def __init__(self, run: worker_pool.Run, downloads: int, results: kept.Kept) -> None:
        """Takes what runs tasks, the files to be copied at a time, and what is kept."""
        self._run, self._downloads, self._kept = run, downloads, results

    def each(self, what: str, task: Callable[[Pair], Any], pairs: Sequence[Pair]) -> Iterator[Any]:
        """See `Engine`."""
        batches = kept.batches(len(pairs))
        names = kept.names(what, task, (pairs[batch] for batch in batches))
        missing = [
            batch for batch, name in zip(batches, names, strict=True) if not self._kept.has(name)
        ]
        total = sum(batch.stop - batch.start for batch in missing)
        asked = itertools.chain.from_iterable(pairs[batch] for batch in missing)
        results = _with_bar(what, self._results(task, asked), total)
        for batch, name in zip(batches, names, strict=True):
            if self._kept.has(name):
                yield from self._kept.load(name)
                continue
            found = list(itertools.islice(results, batch.stop - batch.start))
            self._kept.store(name, found)
            yield from found

    def write(
        self, plans: Sequence[shards.ShardPlan], encode: Encode, form: Any, folder: output.Output
    ) -> Iterator[shards.Written]:
        """See `Engine`: a pair is read once, also where several shards have parts of it."""
        names = kept.names("shard", encode, plans)
        known = _known(self._kept, names, folder)
        missing = [
            plan.examples for plan, name in zip(plans, names, strict=True) if name not in known
        ]
        pairs = by_pair(itertools.chain.from_iterable(missing))
        encoded_pairs = itertools.chain.from_iterable(self._results(encode, pairs))
        results = _with_bar("writing", encoded_pairs, sum(map(len, missing)))
        for plan, name in zip(plans, names, strict=True):
            if name not in known:
                encoded = itertools.islice(results, len(plan.examples))
                known[name] = shards.fill(plan, encoded, form, folder.add)
                self._kept.store(name, known[name])
            yield known[name]

    def _results(self, task: Callable[[Pair], Any], pairs: Iterable[Pair]) -> Iterator[Any]:
        return prefetch.results(self._run, task, pairs, self._downloads)


def _with_bar(what: str, results: Iterable[Any], total: int) -> Iterator[Any]:
    with terminal.Bar(total, what, "images") as bar:
        for result in results:
            bar.update()
            yield result


def _known(
    results: kept.Kept, names: Sequence[str], folder: output.Output
) -> dict[str, shards.Written]:
    """Returns the shards that an earlier start has written."""
    there = [name for name in names if results.has(name)]
    found = zip(there, results.load_all(there), strict=True)
    return {name: written for name, written in found if folder.has(written.shard)}


FAILED = "failed"  # what is kept in place of a result where the input breaks a rule


class Distributed:
    """Beam's workers: an item is a batch of pairs, or a whole shard.

    Items and results go through the folder of what is kept, only their names through Beam.
    """

    def __init__(
        self, beam: beam_runner.Beam, downloads: int, results: kept.Kept, output_path: str
    ) -> None:
        """Takes the engine, and where results and shards go."""
        self._beam, self._downloads = beam, downloads
        self._kept, self._output = results, output_path

    def each(self, what: str, task: Callable[[Pair], Any], pairs: Sequence[Pair]) -> Iterator[Any]:
        """See `Engine`."""
        batches = kept.batches(len(pairs))
        names = kept.names(what, task, (pairs[batch] for batch in batches))
        batch_of = dict(zip(names, batches, strict=True))
        missing = [name for name in names if not self._kept.has(name)]
        task = functools.partial(_of_batch, task, self._downloads)
        self._do(what, task, missing, lambda name: pairs[batch_of[name]])
        yield from itertools.chain.from_iterable(self._kept.load_all(names))

    def write(
        self, plans: Sequence[shards.ShardPlan], encode: Encode, form: Any, folder: output.Output
    ) -> Iterator[shards.Written]:
        """See `Engine`; a pair is read for each shard that has parts of it."""
        names = kept.names("shard", encode, plans)
        known = _known(self._kept, names, folder)
        plan_of = dict(zip(names, plans, strict=True))
        task = functools.partial(_shard, encode, form, self._downloads, self._output)
        missing = [name for name in names if name not in known]
        self._do("writing", task, missing, lambda name: plan_of[name].by_itself())
        yield from self._kept.load_all(names)

    def _do(
        self,
        what: str,
        task: Callable[[Any], Any],
        names: Sequence[str],
        item_of: Callable[[str], Any],
    ) -> None:
        """Has the task done on every item.

        Args:
            what: is done.
            task: item → its result.
            names: of the items.
            item_of: name → item.

        Raises:
            InputError: one breaks a rule.
            RetryableError: a worker was killed twice.
        """
        self._kept.drop(FAILED)
        self._kept.store_all((f"item-{name}", item_of(name)) for name in names)
        beam, missing = self._beam, list(names)
        work = functools.partial(_work, self._kept, task)
        try:
            beam.each(what, work, missing)
        except beam_runner.KilledWorkerError:
            missing = self._missing(names)
            logging.warning(
                "Warning: a worker process was killed, most likely because memory ran out; the %d "
                "items that are left are tried again, one by one.",
                len(missing),
            )
            try:
                dataclasses.replace(beam, workers=1).each(what, work, missing)
            except beam_runner.KilledWorkerError:
                begun = {name.removeprefix("begun-") for name in self._kept.now()}
                left = self._missing(names)
                titles = [_title(item_of(name)) for name in left if name in begun]
                cause = titles[0] if titles else "its own start"
                raise RetryableError(
                    f"A worker process was killed twice by {cause}, most likely because "
                    "memory ran out; give it more, or leave that out. What is finished is kept."
                ) from None
        if self._kept.has_by_now(FAILED):
            raise InputError(self._kept.load(FAILED))

    def _missing(self, names: Sequence[str]) -> list[str]:
        there = self._kept.now()
        for name in names:
            self._kept.drop(f"begun-{name}")
        return [name for name in names if name not in there]


def _title(item: Any) -> str:
    """Returns how messages call an item."""
    if isinstance(item, shards.ShardPlan):
        return f"shard {item.name}"
    labels = [pair.image.label for pair in item]
    return labels[0] if len(labels) == 1 else f"one of {labels[0]} to {labels[-1]}"


# What a worker does with the name of an item ------------------------------------------------------


def _work(results: kept.Kept, task: Callable[[Any], Any], name: str) -> None:
    if results.has_by_now(FAILED):
        return
    item = results.load(f"item-{name}")
    results.store(f"begun-{name}", None)
    try:
        results.store(name, task(item))
    except RetryableError:
        raise  # Beam tries it again
    except InputError as error:
        results.store(FAILED, str(error))


def _of_batch(task: Callable[[Pair], Any], downloads: int, pairs: Sequence[Pair]) -> list[Any]:
    return list(prefetch.results(map, task, pairs, downloads))


def _shard(
    encode: Encode, form: Any, downloads: int, path: str, plan: shards.ShardPlan
) -> shards.Written:
    encoded = prefetch.results(map, encode, list(by_pair(plan.examples)), downloads)
    add = functools.partial(schema.write_shard, path)
    return shards.fill(plan, itertools.chain.from_iterable(encoded), form, add)
