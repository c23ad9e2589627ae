"""Exact evaluation of whole images, case by case: from pixel counts to scores, tables, pictures."""

import csv
import dataclasses
import functools
import heapq
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, json_text, text_table
from trainer.checkpointing import best_weights, checkpoint, run_metadata
from trainer.data import demo
from trainer.data.dataset import integrity, schema
from trainer.data.input import pipeline, read_errors
from trainer.distributed import strategies
from trainer.drawing import panels
from trainer.errors import InputError, one_line
from trainer.evaluate import eval_step, metrics, sliding_window, symmetries
from trainer.models import packing
from trainer.storage import files
from trainer.training import losses

MOST_LETTERS = 60  # of a case in a file's name; four bytes each are less than the 255 of most disks
PICTURE = re.compile(r"\d{2,}-.*\.png", re.DOTALL)  # of a case; what else is beside them stays
SUMMARY = "summary.json"
ROUND_SECONDS = 3.0  # of evaluation between two moments at which several workers may stop


@dataclasses.dataclass(frozen=True)
class Case:
    """One evaluated image.

    Attributes:
        index: its place in the split's `cases`.
        dice: its mean Dice over the foreground classes that occur in it or in its prediction;
            1 if none does.
        image: [H, W, C], as it is stored.
        labels: int32 [H, W].
        valid: float32 [H, W].
        predicted: uint8 [H, W].
        confidence: uint8 [H, W], the probability of what is predicted, 255 for 1.
    """

    index: int
    dice: float
    image: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scores:
    """What was counted over a split of N images, T loss terms and K classes.

    Attributes:
        counts: int64 [N, K, 3], see `metrics.count_pixels`.
        soft: float64 [N, K, 3], see `metrics.soft_sums`.
        evaluated: bool [N], False for an unreadable image, which counts for nothing.
        confusions: int64 [K, K], see `metrics.count_confusions`.
        probabilities: int64 [K - 1, BINS + 1, 2], see `metrics.count_probabilities`.
        loss: the loss over the whole split.
        summary: `metrics.summarize` of them, and the loss.
    """

    counts: np.ndarray
    soft: np.ndarray
    evaluated: np.ndarray
    confusions: np.ndarray
    probabilities: np.ndarray
    loss: float
    summary: dict[str, Any]


class CancelledError(Exception):
    """An evaluation was given up."""


class Extreme:
    """Keeps the `number` cases with the lowest Dice that it is offered, or the highest."""

    def __init__(self, number: int, *, highest: bool = False):
        """Keeps nothing yet."""
        self._number, self._sign = number, 1 if highest else -1
        self._heap: list[tuple[float, int, Case]] = []

    def offer(self, case: Case) -> None:
        """Keeps the case if it is among them so far."""
        heapq.heappush(self._heap, (self._sign * case.dice, -case.index, case))
        if len(self._heap) > self._number:
            heapq.heappop(self._heap)

    def cases(self) -> list[Case]:
        """Returns the cases, the most extreme first."""
        return [case for *_, case in sorted(self._heap, reverse=True, key=lambda entry: entry[:2])]


class First:
    """Keeps the first `number` cases of a split."""

    def __init__(self, number: int):
        """Keeps nothing yet."""
        self._number = number
        self._cases: list[Case] = []

    def offer(self, case: Case) -> None:
        """Keeps the case if it is among the first."""
        if case.index < self._number:
            self._cases.append(case)

    def cases(self) -> list[Case]:
        """Returns the cases in the order in which they stand in the split."""
        return sorted(self._cases, key=lambda case: case.index)


class Gallery:
    """The cases of an evaluation that are drawn."""

    def __init__(self, *, first: int = 0, worst: int = 0, best: int = 0):
        """Keeps so many of each kind."""
        self._kinds: dict[str, First | Extreme] = {
            "first": First(first),
            "worst": Extreme(worst),
            "best": Extreme(best, highest=True),
        }

    def offer(self, case: Case) -> None:
        """Keeps the case where it is of a kind."""
        for kind in self._kinds.values():
            kind.offer(case)

    def cases(self, kind: str) -> list[Case]:
        """Returns the cases that are `first`, `worst` or `best`."""
        return self._kinds[kind].cases()


class Evaluator:
    """Evaluates the splits of one data folder with one model."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        data_dir: str,
        manifest: schema.Manifest,
        *,
        terms: tuple[losses.Term, ...],
        class_weights: tf.Tensor,
        normalize: str,
        depth: int,
        kernel_size: int,
        batch_size: int,
        tile: int,
        tta: str = "none",
    ):
        """Compiles nothing yet; see `config` for what the arguments mean."""
        replicas = len(strategy.extended.worker_devices)
        self._strategy = strategy
        self._data_dir, self._manifest = data_dir, manifest
        self._terms = terms
        self._normalize = normalize
        self._stride = 2**depth
        self._halo = sliding_window.halo_of(depth, kernel_size)
        self._batch_size = -(-batch_size // replicas) * replicas
        self._tile = tile // self._stride * self._stride
        self._batches: dict[str, tf.data.Dataset] = {}  # of each split, once it was asked for
        self._score = eval_step.score_step(terms, class_weights, manifest.num_classes)
        # On a CPU, XLA takes longer to compile a new size of images than it saves; on a TPU the
        # strategy compiles, and what is counted of the logits is counted by the host.
        kind = strategies.device_kind(strategy)
        self._forward = eval_step.forward_step(
            strategy,
            symmetries.averaging(packing.packed(model, packing.LANES[kind]), tta),
            jit_compile=kind == "GPU",
            gather_on="CPU:0" if kind == "TPU" else None,
        )

    def check_tile(self, *splits: str) -> None:
        """Raises InputError if images of these splits are to be cut into too small tiles."""
        multiple = pipeline.padded_to(self._stride)
        for split in splits:
            for *sides, _ in self._manifest.splits[split].sizes:
                longest = -(-max(sides) // multiple) * multiple
                if longest > self._tile:
                    sliding_window.starts(longest, self._tile, self._halo, self._stride)

    def __call__(
        self,
        split: str,
        offer: Callable[[Case], None] = lambda case: None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Scores:
        """Evaluates every image of a split once.

        Args:
            split: a key of `manifest.splits`.
            offer: called with each case in turn.
            is_cancelled: whether this worker was asked to stop; asked before each batch.

        Raises:
            CancelledError: if it was cancelled.
        """
        num_cases, num_classes = self._manifest.splits[split].examples, self._manifest.num_classes
        counts = np.zeros((num_cases, num_classes, 3), np.int64)
        soft = np.zeros((num_cases, num_classes, 3))
        times_seen = np.zeros(num_cases, np.int64)
        loss_parts = np.zeros((2, len(self._terms)))
        confusions = np.zeros((num_classes, num_classes), np.int64)
        probabilities = np.zeros((num_classes - 1, metrics.BINS + 1, 2), np.int64)
        _, num_workers = strategies.worker_of(self._strategy)

        def places() -> list[int]:
            entry = self._manifest.splits[split]
            sizes = (self._stride, self._batch_size, self._tile)
            ahead = pipeline.examples_read_ahead(entry, *sizes)
            return read_errors.evaluation_shards(
                entry, times_seen > 0, ahead, *strategies.worker_of(self._strategy)
            )

        with read_errors.translate_errors(self._data_dir, self._manifest, split, places):
            add = functools.partial(strategies.sum_over_workers, self._strategy)
            for batch in lockstep(self._read(split), is_cancelled, num_workers, add):
                result = self._score(batch, self._logits(batch["images"]))
                found = {key: value.numpy() for key, value in result.items()}
                loss_parts += [found["loss_sums"], found["loss_weights"]]
                confusions += found["confusions"]
                probabilities += found["probabilities"]
                for row, index in enumerate(batch["case"].numpy()):
                    if index >= 0:
                        counts[index], soft[index] = found["counts"][row], found["soft"][row]
                        times_seen[index] += 1
                        offer(_case(batch, found, row, self._manifest.dtype))
        counts, soft, times_seen, loss_parts, confusions, probabilities = (
            strategies.sum_over_workers(self._strategy, array)
            for array in (counts, soft, times_seen, loss_parts, confusions, probabilities)
        )
        evaluated = times_seen > 0
        values = [float(part / weight) if weight else 0.0 for part, weight in loss_parts.T]
        parts = losses.parts(self._terms, values)
        loss = sum(term.coefficient * parts[term.name] for term in self._terms)
        cases = self._manifest.splits[split].cases
        names = [entry.name for entry in self._manifest.classes]
        summary = {
            "loss": loss,
            "loss_parts": parts,
            **metrics.summarize(counts[evaluated], soft[evaluated], names),
            "unreadable": [case for case, seen in zip(cases, evaluated, strict=True) if not seen],
        }
        return Scores(counts, soft, evaluated, confusions, probabilities, loss, summary)

    def _read(self, split: str) -> tf.data.Dataset:
        """Returns this worker's batches of a split; to build them takes 0.3 s on a slow core."""
        if split not in self._batches:
            worker, num_workers = strategies.worker_of(self._strategy)
            self._batches[split] = pipeline.evaluation_batches(
                self._data_dir,
                self._manifest,
                split,
                stride=self._stride,
                batch_size=self._batch_size,
                normalize=self._normalize,
                tile=self._tile,
                worker=worker,
                num_workers=num_workers,
            )
        return self._batches[split]

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the logits of a batch, tile by tile where its images are too large."""
        if max(images.shape[1:3]) <= self._tile:
            return self._forward(images)
        whole = [
            sliding_window.predict_tiled(
                image.numpy(),
                lambda parts: self._forward(tf.constant(parts)).numpy(),
                tile=self._tile,
                halo=self._halo,
                stride=self._stride,
                batch_size=len(self._strategy.extended.worker_devices),
            )
            for image in images
        ]
        return tf.constant(np.stack(whole))


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


def _case(
    batch: Mapping[str, tf.Tensor], found: Mapping[str, np.ndarray], row: int, dtype: str
) -> Case:
    height, width = batch["size"][row].numpy()
    here = np.s_[row, :height, :width]
    return Case(
        index=int(batch["case"][row]),
        dice=_case_dice(found["counts"][row]),
        image=_stored(batch["images"][here], batch["offset"][row], batch["scale"][row], dtype),
        labels=batch["labels"][here].numpy(),
        valid=batch["valid"][here].numpy(),
        predicted=found["predicted"][here],
        confidence=found["confidence"][here],
    )


def _stored(image: tf.Tensor, offset: tf.Tensor, scale: tf.Tensor, dtype: str) -> np.ndarray:
    """Returns a normalised image as it is stored, for people to look at."""
    values = image.numpy() * scale.numpy() + offset.numpy()
    if not np.issubdtype(dtype, np.integer):
        return values
    return np.clip(np.rint(values), 0, np.iinfo(dtype).max).astype(dtype)


def _case_dice(counts: np.ndarray) -> float:
    dice = metrics.scores(counts[1:])["dice"]
    return float(np.nanmean(dice)) if not np.isnan(dice).all() else 1.0


def figures(scores: Scores) -> dict[str, float]:
    """Returns what metrics.jsonl says of an evaluation; a score that is undefined is left out.

    A loss of several terms and foreground classes come as `loss/TERM`, `dice/CLASS`, `iou/CLASS`.
    """
    summary = scores.summary
    found = {name: summary[name] for name in ("loss", "dice", "iou")}
    if len(summary["loss_parts"]) > 1:
        found.update((f"loss/{name}", part) for name, part in summary["loss_parts"].items())
    for name, entry in list(summary["classes"].items())[1:]:
        found.update((f"{key}/{name}", entry["per_image"][key]) for key in ("dice", "iou"))
    return {name: value for name, value in found.items() if value is not None}


def panel_of(case: Case, manifest: schema.Manifest, split: str) -> np.ndarray:
    """Draws a case: input, truth, prediction, errors and confidence, uint8 [H, W, 3]."""
    name = manifest.splits[split].cases[case.index]
    return panels.draw_row(
        case.image,
        case.labels,
        case.predicted,
        case.valid,
        case.confidence,
        caption=f"{name}   Dice {case.dice:.3f}",
        classes=[entry.name for entry in manifest.classes],
    )


def write(
    folder: str, scores: Scores, gallery: Gallery, manifest: schema.Manifest, split: str
) -> None:
    """Writes cases.csv, summary.json and pictures of the worst and best cases into `folder`."""
    files.make_folder(folder)
    write_json(os.path.join(folder, SUMMARY), scores.summary)  # first: it says whose the rest is
    files.write_whole(os.path.join(folder, "cases.csv"), cases_csv(scores, manifest, split))
    for kind in ("worst", "best"):
        pictures = os.path.join(folder, kind)
        for name in filter(PICTURE.fullmatch, files.list_folder(pictures)):
            files.remove(os.path.join(pictures, name))
        for rank, case in enumerate(gallery.cases(kind), 1):
            files.make_folder(pictures)
            name = _file_name(manifest.splits[split].cases[case.index])
            with files.writing(f"{pictures}/{rank:02d}-{name}.png", "wb") as file:
                file.write(panels.encode_png(panel_of(case, manifest, split)))


def check_output(folder: str) -> None:
    """Raises InputError if an evaluation cannot be written to a folder, or would replace others'.

    What lies there under our names is ours if its summary is.
    """
    files.check_folder("output", folder)
    taken = sorted({"cases.csv", SUMMARY, "worst", "best"} & set(files.list_folder(folder)))
    path = os.path.join(folder, SUMMARY)
    try:
        found = json.loads(files.read_text(path)) if SUMMARY in taken else None
    except ValueError:
        found = None
    if taken and not (isinstance(found, dict) and {"dice", "classes", "images"} <= found.keys()):
        raise InputError(
            f"--output={folder} holds {', '.join(taken)} that no evaluation wrote, which would be "
            "replaced; name another folder."
        )


def _file_name(case: str) -> str:
    """Returns a case's name as part of a file's: the end of it, which any file system takes."""
    plain = (c if c.isprintable() and c not in "/\\" else "_" for c in case)
    return "".join(plain)[-MOST_LETTERS:]


def cases_csv(scores: Scores, manifest: schema.Manifest, split: str) -> str:
    """Returns a table with a line per image and class; a score that is 0 / 0 is left empty.

    An unreadable image has no line.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "class", "truth", "prediction", "intersection", "dice", "iou"])
    ratios = metrics.scores(scores.counts)
    cases = manifest.splits[split].cases
    for n in np.flatnonzero(scores.evaluated):
        for k, entry in enumerate(manifest.classes):
            shares = (ratios[name][n, k] for name in ("dice", "iou"))
            cells = ("" if np.isnan(share) else f"{share:.6f}" for share in shares)
            table.writerow([cases[n], entry.name, *scores.counts[n, k], *cells])
    return text.getvalue()


def write_json(path: str, content: dict[str, Any]) -> None:
    """Writes JSON for people to read, too."""
    files.write_whole(path, json_text.dumps(content, indent=1) + "\n")


def table(summary: dict[str, Any]) -> str:
    """Returns the scores of each class, and their means, as lines for a terminal."""
    heads = [f"{kind} {name}" for kind in ("per image", "pooled") for name in ("dice", "iou")]
    rows = [("class", *heads, "precision", "recall", "images")]
    groups = {
        **{name: (entry, str(entry["images"])) for name, entry in summary["classes"].items()},
        **{
            label: ({kind: summary[kind][key] for kind in ("per_image", "pooled")}, "")
            for label, key in (("mean, foreground", "foreground"), ("mean, all", "all_classes"))
        },
    }
    for name, (entry, images) in groups.items():
        values = [
            entry[kind][score] for kind in ("per_image", "pooled") for score in ("dice", "iou")
        ]
        values += [entry["pooled"][score] for score in ("precision", "recall")]
        rows.append((one_line(name), *("–" if v is None else f"{v:.4f}" for v in values), images))
    return "\n".join(text_table.aligned(rows, right=range(1, len(rows[0]))))


def evaluate_run(settings: config.Evaluate) -> None:
    """Evaluates a run's best checkpoint on a split and writes what `write` does.

    Raises:
        InputError: the run, the data and the settings do not go together, or the folder to write
            cannot be written or holds files of others.
    """
    run = run_metadata.read(settings.run_dir)
    job = config.from_dict(config.Job, run["settings"])
    data_dir = settings.data_dir or job.data.data_dir or demo.folder()
    manifest = schema.read_manifest(data_dir)
    best_weights.check_same_kind(settings.run_dir, run, manifest)
    if settings.split not in manifest.splits:
        raise InputError(
            f"--split={settings.split} is not in {data_dir}, which has "
            f"{', '.join(manifest.splits)}; name one of them."
        )
    strategy = strategies.connect(settings.strategy, settings.tpu, settings.virtual_devices)
    worker, num_workers = strategies.worker_of(strategy)
    add = functools.partial(strategies.sum_over_workers, strategy)
    turned = len(symmetries.TURNS[settings.tta])
    name = settings.split if turned == 1 else f"{settings.split}-{settings.tta}"
    folder = settings.output or os.path.join(settings.run_dir, "evaluation", name)
    if worker == 0:
        check_output(folder)
    manifest, _ = integrity.check(
        data_dir,
        manifest,
        [settings.split],
        skip_bad_records=settings.skip_bad_records,
        worker=worker,
        num_workers=num_workers,
        sum_over_workers=add,
    )
    with strategy.scope():
        model, step = best_weights.best_model(settings.run_dir, run)
    commit = {"step": step, "progress": {}}
    checkpoint.check_same(settings.run_dir, commit, worker, num_workers, add)
    evaluator = Evaluator(
        strategy,
        model,
        data_dir,
        manifest,
        terms=losses.LOSSES[job.optimization.loss],
        class_weights=losses.class_weights(
            job.optimization.class_weights, manifest.splits["train"].pixels
        ),
        normalize=job.data.normalize,
        depth=job.model.depth,
        kernel_size=job.model.kernel_size,
        batch_size=settings.batch_size,
        tile=settings.tile,
        tta=settings.tta,
    )
    evaluator.check_tile(settings.split)
    gallery = Gallery(worst=settings.worst_cases, best=settings.best_cases)
    scores = evaluator(settings.split, gallery.offer)
    if worker == 0:
        write(folder, scores, gallery, manifest, settings.split)
        if settings.json:
            write_json(settings.json, scores.summary)
        mean = f", mean of {turned} turned images" if turned > 1 else ""
        logging.info("Step %d on %s of %s%s:", step, settings.split, data_dir, mean)
        logging.info("%s\nWritten to %s", table(scores.summary), folder)
