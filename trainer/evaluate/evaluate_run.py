"""The command: a run's best checkpoint on a split of its data, or of other data."""

import functools
import os
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config
from trainer.checkpointing import best_weights, checkpoint, run_metadata
from trainer.data import demo
from trainer.data.dataset import folds, integrity, schema
from trainer.distributed import strategies
from trainer.errors import InputError
from trainer.evaluate import components, output, scores, symmetries
from trainer.evaluate.cases import Case, CaseSelector
from trainer.evaluate.evaluator import Evaluator, source_of
from trainer.storage import files
from trainer.training import losses


def evaluate_run(settings: config.Evaluate) -> None:
    """Evaluates a run's best checkpoint on a split and writes what `output.write` does.

    Raises:
        InputError: the run, the data and the settings do not go together, or the folder to write
            cannot be written or holds files of others.
    """
    _check(settings)
    run = run_metadata.read(settings.run_dir)
    job = config.from_dict(config.Job, run["settings"])
    data_dir = settings.data_dir or job.data.data_dir or demo.folder()
    manifest, fingerprint = _read_manifest(settings, run, job, data_dir)
    kept = components.ALL
    if settings.components == "apply":
        kept = components.read(settings.run_dir, run["classes"])
    strategy = strategies.connect(settings.strategy, settings.tpu, settings.virtual_devices)
    worker, _ = strategies.worker_of(strategy)
    turned = len(symmetries.turns(settings.tta, manifest.rank))
    name = settings.split if turned == 1 else f"{settings.split}-{settings.tta}"
    folder = settings.output or os.path.join(settings.run_dir, "evaluation", name)
    if worker == 0:
        output.check_output(folder)
    step, evaluate = _load(settings, run, job, strategy, data_dir, manifest, kept)
    selected = CaseSelector(worst=settings.worst_cases, best=settings.best_cases)
    measured = components.Measured(manifest.splits[settings.split].examples, manifest.num_classes)

    def add(case: Case) -> None:
        selected.add(case)
        if settings.components == "decide":
            measured.add(case.index, case.labels, case.predicted, case.valid)

    found = evaluate(settings.split, add, tolerance=settings.tolerance_mm)
    found = found.of_data(fingerprint, kept.described(run["classes"]))
    counts = strategies.sum_over_workers(strategy, measured.counts)
    if worker == 0:
        output.write(folder, found, selected, manifest, settings.split)
        if settings.json:
            output.write_json(settings.json, found.summary)
        mean = f", mean of {turned} turned images" if turned > 1 else ""
        logging.info("Step %d on %s of %s%s:", step, settings.split, data_dir, mean)
        logging.info("%s\nWritten to %s", scores.table(found.summary), folder)
        if kept:
            logging.info(
                "Of these predictions %s, as %s/%s says; --components=none evaluates all of them.",
                kept.described(run["classes"]),
                settings.run_dir,
                components.NAME,
            )
        if settings.components == "decide":
            cases = np.array(manifest.splits[settings.split].cases)[found.evaluated]
            counts = counts[found.evaluated]
            text = components.to_csv(counts, cases, run["classes"])
            files.write_whole(os.path.join(folder, components.COUNTS), text)
            facts = {"split": settings.split, "step": step, "data_fingerprint": fingerprint}
            said = components.settle(settings.run_dir, counts, run["classes"], **facts)
            logging.info("%s", said)


def _check(settings: config.Evaluate) -> None:
    """Raises InputError if test or training cases, or no place to write, would decide."""
    if settings.components != "decide":
        return
    if settings.split != "val":
        raise InputError(
            f"--components=decide --split={settings.split}: which components are kept is decided "
            "on validation data alone; use --split=val."
        )
    files.check_folder("run_dir", settings.run_dir)


def _read_manifest(
    settings: config.Evaluate, run: dict[str, Any], job: config.Job, data_dir: str
) -> tuple[schema.Manifest, str]:
    """Returns the manifest of the data, and its fingerprint.

    Of the run's own data it has the splits of the run's fold; folds of others are not the run's.

    Raises:
        InputError: the run cannot be evaluated on the data.
    """
    manifest = schema.read_manifest(data_dir)
    fingerprint = schema.fingerprint(manifest)
    if fingerprint == run["data_fingerprint"]:
        manifest = folds.choose(manifest, job.data.fold, data_dir)
    best_weights.check_same_kind(settings.run_dir, run, manifest)
    if settings.split not in manifest.splits:
        raise InputError(
            f"--split={settings.split} is not in {data_dir}, which has "
            f"{', '.join(manifest.splits)}; name one of them."
        )
    return manifest, fingerprint


def _load(
    settings: config.Evaluate,
    run: dict[str, Any],
    job: config.Job,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    manifest: schema.Manifest,
    kept: components.Decision,
) -> tuple[int, Evaluator]:
    """Returns the step of the best weights, which all workers have read, and what evaluates."""
    worker, num_workers = strategies.worker_of(strategy)
    add = functools.partial(strategies.sum_over_workers, strategy)
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
    data = data_dir, manifest
    evaluate = Evaluator(
        strategy,
        model,
        *data,
        source_of(job, strategy, *data, batch_size=settings.batch_size, tile=settings.tile),
        terms=losses.LOSSES[job.optimization.loss],
        class_weights=losses.class_weights(
            job.optimization.class_weights, manifest.splits["train"].pixels
        ),
        tta=settings.tta,
        kept=kept,
    )
    evaluate.check(settings.split)
    return step, evaluate
