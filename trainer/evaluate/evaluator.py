"""Exact evaluation of whole images or volumes, each of a split once, in however many workers."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer import config, terminal
from trainer.data.dataset import schema, shard_cache
from trainer.data.input import read_errors
from trainer.distributed import strategies, tracing
from trainer.errors import InputError
from trainer.evaluate import (
    calibration,
    case_rows,
    cases,
    components,
    counting,
    eval_step,
    metrics,
    scores,
    symmetries,
)
from trainer.evaluate.case_rows import CaseRows
from trainer.evaluate.images import TiledImages
from trainer.evaluate.scores import Scores
from trainer.evaluate.volumes import WindowedVolumes
from trainer.training import losses

ROUND_SECONDS = 3.0  # of evaluation between two moments at which several workers may stop
Forward = Callable[[tf.Tensor], tf.Tensor]


class CancelledError(Exception):
    """An evaluation was given up."""


class Source(Protocol):
    """Where cases come from: `TiledImages` or `WindowedVolumes`."""

    def check(self, *splits: str) -> None:
        """Raises InputError if these splits cannot be evaluated."""

    def read(self, split: str, worker: int, num_workers: int) -> tf.data.Dataset:
        """Returns what a worker reads of a split."""

    def read_ahead(self, split: str) -> int:
        """Returns how many examples may have been read after the last one that was evaluated."""

    def score(self, element: Any, forward: Forward, score: Callable[..., Any]) -> cases.Scored:
        """Predicts an element of what was read and compares it with the truth."""


class Evaluator:
    """Evaluates the splits of one data folder with one network, or the mean of several."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        network: Callable[..., tf.Tensor],
        data_dir: str,
        manifest: schema.Manifest,
        source: Source,
        *,
        terms: tuple[losses.Term, ...],
        class_weights: tf.Tensor,
        tta: str = "none",
        kept: components.Decision = components.ALL,
    ):
        """Compiles nothing yet.

        Args:
            strategy: the devices.
            network: that is evaluated: images float32 [B, *S, C] → logits [B, *S, K], see
                `eval_step.prediction_of`; with `inside`, bool [B, *S, 1], of a part of them.
            data_dir: the data folder.
            manifest: of that folder.
            source: of its cases, see `source_of`.
            terms: of the loss.
            class_weights: float32 [K], in the loss.
            tta: a key of `symmetries.TURNS`.
            kept: of which components a prediction consists. Losses and what is counted by
                probability are of all.
        """
        self._kept = kept
        self._strategy = strategy
        self._data_dir, self._manifest, self._source = data_dir, manifest, source
        self._terms, self._class_weights = terms, class_weights
        self._elements: dict[str, tf.data.Dataset] = {}  # of each split, once it was asked for
        self._score = eval_step.score_step(terms, class_weights, manifest.num_classes)
        self._slopes = tracing.for_all_shapes(
            lambda batch, logits: counting.loss_slopes(batch["labels"], logits, batch["valid"])
        )
        # On a CPU, XLA takes longer to compile a new size of images than it saves; on a TPU the
        # strategy compiles, and the host counts the logits.
        kind = strategies.device_kind(strategy)
        self._forward = eval_step.forward_step(
            strategy,
            eval_step.of_parts(symmetries.averaging(network, tta)),
            jit_compile=kind == "GPU",
            gather_on="CPU:0" if kind == "TPU" else None,
        )

    def check(self, *splits: str) -> None:
        """Raises InputError if these splits cannot be evaluated."""
        self._source.check(*splits)

    def __call__(
        self,
        split: str,
        add: Callable[[cases.Case], None] = lambda case: None,
        is_cancelled: Callable[[], bool] = lambda: False,
        tolerance: float | None = None,
        temperature: float | None = None,
        keep: Callable[[CaseRows], None] = lambda rows: None,
    ) -> Scores:
        """Evaluates every image of a split once.

        What it holds, and what workers exchange, are sums, and a mark for each case.

        Args:
            split: a key of `manifest.splits`.
            add: called with each case of this worker in turn.
            is_cancelled: whether this worker was asked to stop; asked before each batch.
            tolerance: up to which two surfaces agree, in mm of volumes, pixels of images; None:
                only tracked metrics are measured.
            temperature: by which calibrated logits are divided, whose calibration is measured
                beside the network's; None: only that. No other score depends on it.
            keep: called with the rows of this worker's cases, block by block, in their order.

        Raises:
            CancelledError: if it was cancelled.
        """
        found = [1.0] if temperature is None else [1.0, temperature]
        temperatures = tuple(tf.constant(one, tf.float32) for one in found)
        times_seen = np.zeros(self._manifest.splits[split].examples, np.int32)
        of_batches = self._empty_sums(len(found))
        none = case_rows.empty(
            self._manifest.num_classes, metrics.of_maps(tolerance is not None).keys()
        )
        of_cases = scores.sum_up(none.counts, none.soft, none.measured)
        block: list[CaseRows] = []

        def close_block() -> None:
            rows = case_rows.concatenate([none, *block])
            block.clear()
            for key, value in scores.sum_up(rows.counts, rows.soft, rows.measured).items():
                of_cases[key] += value
            keep(rows)

        for scored in self._scored(split, temperatures, times_seen, is_cancelled):
            for key, value in scored.totals.items():
                of_batches[key] += value
            for case, counts, soft in scored.cases:
                if self._kept:
                    case, counts, change = self._with_components(case)
                    of_batches["confusions"] += change
                maps = case.labels, case.predicted, case.valid
                measured = metrics.measure(*maps, len(counts), case.spacing, tolerance)
                block.append(case_rows.of_case(case.index, counts, soft, measured))
                add(case)
            if len(block) >= case_rows.BLOCK:
                close_block()
        close_block()
        sums = self._totals({**of_batches, **of_cases})
        return self._scores(split, sums, self._total(times_seen) > 0, tolerance, temperature)

    def loss_slopes(self, split: str) -> np.ndarray:
        """Returns `counting.loss_slopes` of a split, summed over all its images."""
        num_cases = self._manifest.splits[split].examples
        slopes = np.zeros((len(calibration.INVERSES), 2))
        for scored in self._scored(split, None, np.zeros(num_cases, np.int32)):
            slopes += scored.totals["slopes"]
        return self._total(slopes)

    def _total(self, value: np.ndarray) -> np.ndarray:
        """Returns the sum over all workers."""
        return strategies.sum_over_workers(self._strategy, value)

    def _totals(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the sums over all workers, those of one dtype exchanged at once."""
        found = {}
        for dtype in sorted({value.dtype.str for value in sums.values()}):
            mine = {name: value for name, value in sums.items() if value.dtype.str == dtype}
            total = self._total(np.concatenate([value.ravel() for value in mine.values()]))
            ends = np.cumsum([value.size for value in mine.values()])[:-1]
            for (name, value), part in zip(mine.items(), np.split(total, ends), strict=True):
                found[name] = part.reshape(value.shape)
        return found

    def _scored(
        self,
        split: str,
        temperatures: Sequence[tf.Tensor] | None,
        times_seen: np.ndarray,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[cases.Scored]:
        """Yields what `eval_step.score` gives of a split; without temperatures `slopes` beside it.

        Args:
            split: a key of `manifest.splits`.
            temperatures: T of them, see `eval_step.score`.
            times_seen: int32 [N], to which each case is added.
            is_cancelled: see `__call__`.

        Raises:
            CancelledError: if it was cancelled.
        """
        worker, num_workers = strategies.worker_of(self._strategy)
        total = functools.partial(strategies.sum_over_workers, self._strategy)

        def places() -> list[int]:
            seen, ahead = times_seen > 0, self._source.read_ahead(split)
            entry = self._manifest.splits[split]
            return read_errors.evaluation_shards(entry, seen, ahead, worker, num_workers)

        def score(batch: Any, logits: tf.Tensor) -> Mapping[str, tf.Tensor]:
            if temperatures is not None:
                return self._score(batch, logits, temperatures)
            found = self._score(batch, logits, eval_step.NO_TEMPERATURE)
            return {**found, "slopes": self._slopes(batch, logits)}

        with read_errors.translate_errors(self._data_dir, self._manifest, split, places):
            num_cases = self._manifest.splits[split].examples
            for element in lockstep(self._read(split), is_cancelled, num_workers, total):
                so_far = f"{np.count_nonzero(times_seen)}/{num_cases} cases"
                terminal.busy(f"evaluating {split}", so_far)
                scored = self._source.score(element, self._forward, score)
                for case, _, _ in scored.cases:
                    times_seen[case.index] += 1
                yield scored

    def _empty_sums(self, num_temperatures: int) -> dict[str, np.ndarray]:
        """Returns what `eval_step.score` gives of batches, summed over none."""
        num_classes = self._manifest.num_classes
        return {
            "loss": np.zeros(losses.num_statistics(self._terms, num_classes)),
            "confusions": np.zeros((num_classes, num_classes), np.int64),
            "probabilities": np.zeros((num_classes - 1, counting.BINS + 1, 2), np.int64),
            "reliability": np.zeros((num_temperatures, calibration.CONFIDENCE_BINS, 3), np.int64),
        }

    def _with_components(self, case: cases.Case) -> tuple[cases.Case, np.ndarray, np.ndarray]:
        """Returns a case with the components that are kept of its prediction, and its counts.

        And the change of its confusions, int64 [K, K].
        """
        predicted = self._kept.apply(case.predicted)
        before, after = (
            components.count_confusions(case.labels, one, case.valid, self._manifest.num_classes)
            for one in (case.predicted, predicted)
        )
        counts = components.counts_of(after)
        case = dataclasses.replace(case, predicted=predicted, dice=cases.mean_dice(counts))
        return case, counts, after - before

    def _scores(
        self,
        split: str,
        sums: Mapping[str, np.ndarray],
        seen: np.ndarray,
        tolerance: float | None,
        temperature: float | None,
    ) -> Scores:
        """Returns the scores from the sums over all workers; `seen` is bool [N], of each case."""
        classes = self._manifest.num_classes
        values = losses.values(self._terms, sums["loss"], classes, self._class_weights)
        parts = losses.parts(self._terms, values)
        entry = self._manifest.splits[split]
        summary = {
            "loss": sum(term.coefficient * parts[term.name] for term in self._terms),
            "loss_parts": parts,
            **scores.summary_of(
                sums,
                [entry.name for entry in self._manifest.classes],
                length="mm" if self._manifest.rank == 3 else "px",
                tolerance=tolerance,
            ),
            "calibration": calibration.summarize(sums["reliability"], temperature),
            "unreadable": [entry.names[n] for n in np.flatnonzero(~seen).tolist()],
        }
        return Scores(seen, sums["confusions"], sums["probabilities"], summary)

    def _read(self, split: str) -> tf.data.Dataset:
        """Returns what this worker reads of a split; to build that takes 0.3 s on a slow core."""
        if split not in self._elements:
            worker, num_workers = strategies.worker_of(self._strategy)
            self._elements[split] = self._source.read(split, worker, num_workers)
        return self._elements[split]


def source_of(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    manifest: schema.Manifest,
    *,
    batch_size: int,
    tile: int,
    most_shapes: int = 0,
    cache: shard_cache.ShardCache | None = None,
) -> Source:
    """Returns the cases of a data folder, as a run's network takes them.

    Args:
        job: settings of the run.
        strategy: the devices, which divide a batch.
        data_dir: the data folder.
        manifest: of that folder.
        batch_size: images, or windows of volumes, that are predicted at once.
        tile: side above which images are cut into tiles of this side.
        most_shapes: in which images are predicted, see `eval_step.most_shapes`.
        cache: of the shards, on this machine.

    Raises:
        InputError: a tile is set for volumes.
    """
    replicas = len(strategy.extended.worker_devices)
    batch_size = -(-batch_size // replicas) * replicas
    if manifest.rank == 3:
        if tile != config.Run().tile:
            raise InputError(
                f"--tile={tile} is for images; volumes are predicted in windows of the training "
                "crop's size: drop it."
            )
        return WindowedVolumes(data_dir, manifest, job.data.box(3), batch_size, cache)
    return TiledImages(
        data_dir,
        manifest,
        job.model.levels(2),
        normalize=job.data.normalize,
        tile=tile,
        batch_size=batch_size,
        tiles_at_once=replicas,
        most_shapes=most_shapes,
        cache=cache,
    )


def lockstep(
    batches: Iterable[Any],
    is_cancelled: Callable[[], bool],
    num_workers: int,
    sum_over_workers: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Any]:
    """Yields this worker's batches, until any worker is asked to stop.

    Workers have different numbers of batches, but must all take part in every sum. So each works
    for a few seconds, if it has work, and then asks the others; until all are through.

    Raises:
        CancelledError: on all workers alike, if one was asked to stop.
    """
    batches, through = iter(batches), False
    while True:
        end = time.monotonic() + ROUND_SECONDS
        while not (through or is_cancelled() or time.monotonic() > end):
            batch = next(batches, None)
            through = batch is None
            if batch is not None:
                yield batch
        state = np.array([is_cancelled(), through], np.int32)
        cancelled_workers, workers_through = sum_over_workers(state)
        if cancelled_workers:
            raise CancelledError
        if workers_through == num_workers:
            return
