"""The command: a run's best checkpoint on a split of its data, or of other data.

Of a cross-validation it is the ensemble of all folds, as `predict` takes it.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, terminal
from trainer.checkpointing import best_weights, checkpoint, run_metadata
from trainer.data import demo
from trainer.data.dataset import case_index, folds, integrity, schema, shard_cache
from trainer.distributed import strategies
from trainer.errors import InputError
from trainer.evaluate import (
    calibration,
    case_tables,
    components,
    ensemble,
    eval_step,
    output,
    scores,
    symmetries,
)
from trainer.evaluate.case_tables import CaseTables
from trainer.evaluate.cases import Case, CaseSelector
from trainer.evaluate.evaluator import Evaluator, source_of
from trainer.storage import files
from trainer.training import losses


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What is evaluated: a run, or a cross-validation.

    Attributes:
        run_dir: the folder; of several configurations that of the best.
        folders: of the run, or of its folds.
        run: run.json of the first.
        job: settings of the first; of a cross-validation they belong to no fold.
    """

    run_dir: str
    folders: list[str]
    run: dict[str, Any]
    job: config.Job

    @property
    def is_ensemble(self) -> bool:
        """Whether it is a cross-validation."""
        return self.folders != [self.run_dir]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The network of a run, or the mean of those of all folds.

    Attributes:
        steps: of the best weights.
        weights: sha256 of each.
        job: settings by which images come.
        network: images float32 [B, *S, C] → logits [B, *S, K]; of folds calibrated, and the mean
            over turned images.
        most_shapes: in which images are to be predicted, see `eval_step.most_shapes`.
        temperatures: by which it divides the logits of folds; None if it does not.
    """

    steps: list[int]
    weights: list[str]
    job: config.Job
    network: Callable[..., tf.Tensor]
    most_shapes: int
    temperatures: list[float] | None = None


def evaluate_run(settings: config.Evaluate) -> None:
    """Evaluates a run's best checkpoint on a split and writes what `output.write` does.

    Raises:
        InputError: the run, the data and the settings do not go together, or the folder to write
            cannot be written or holds files of others.
    """
    terminal.busy("opening the run and the data")
    _check(settings)
    one = _find(settings)
    data_dir = settings.data_dir or one.job.data.data_dir or demo.folder()
    manifest, fingerprint = _read_manifest(settings, one, data_dir)
    cache = shard_cache.open_cache(
        settings.cache_dir, settings.cache_gb, data_dir, manifest, fingerprint, settings.tpu
    )
    kept = components.ALL
    if settings.components == "apply":
        kept = components.read(one.run_dir, one.run["classes"])
    strategy = strategies.connect(settings.strategy, settings.tpu, settings.virtual_devices)
    worker, _ = strategies.worker_of(strategy)
    turned = len(symmetries.turns(settings.tta, manifest.rank))
    name = settings.split if turned == 1 else f"{settings.split}-{settings.tta}"
    folder = settings.output or os.path.join(one.run_dir, "evaluation", name)
    if worker == 0:
        output.check_output(folder)
    loaded, evaluate = _load(settings, one, strategy, data_dir, manifest, cache, kept)
    temperature = None if one.is_ensemble else _temperature(settings, evaluate, loaded.weights[0])
    selected = CaseSelector(worst=settings.worst_cases, best=settings.best_cases)
    decides = settings.components == "decide"
    num_measured = manifest.splits[settings.split].examples if decides else 0
    measured = components.Measured(num_measured, manifest.num_classes)

    def add(case: Case) -> None:
        selected.add(case)
        if settings.components == "decide":
            measured.add(case.index, case.labels, case.predicted, case.valid)

    classes = [entry.name for entry in manifest.classes]
    with CaseTables(manifest.splits[settings.split].names, classes) as tables:
        found = evaluate(
            settings.split,
            add,
            tolerance=settings.tolerance_mm,
            temperature=temperature,
            keep=tables.keep,
        )
        if loaded.temperatures:
            found.summary["calibration"] = calibration.of_ensemble(
                found.summary["calibration"], loaded.temperatures
            )
        found = found.of_data(fingerprint, kept.described(one.run["classes"]))
        output.write(folder, found, tables, selected, manifest, settings.split, strategy)
    counts = strategies.sum_over_workers(strategy, measured.counts)
    if worker == 0:
        if settings.json:
            output.write_json(settings.json, found.summary)
        mean = f", mean of {turned} turned images" if turned > 1 else ""
        steps = loaded.steps
        what = f"Mean of {len(steps)} folds" if one.is_ensemble else f"Step {steps[0]}"
        logging.info("%s on %s of %s%s:", what, settings.split, data_dir, mean)
        _tell(found.summary, folder, one, kept)
        facts = {"split": settings.split, "step": steps[0], "data_fingerprint": fingerprint}
        if settings.components == "decide":
            cases = np.array(manifest.splits[settings.split].names)
            counted = counts[found.evaluated], cases[found.evaluated], one.run["classes"]
            _settle_components(one.run_dir, folder, *counted, facts)
        if settings.calibration == "decide" and temperature is not None:
            facts |= {"tta": settings.tta, **found.summary["calibration"]}
            logging.info("%s", calibration.settle(one.run_dir, loaded.weights[0], facts))


def _tell(
    summary: Mapping[str, Any], folder: str, one: Evaluated, kept: components.Decision
) -> None:
    """Logs the scores, and what was done to predictions and probabilities."""
    logging.info("%s\nWritten to %s", scores.table(summary), folder)
    if kept:
        logging.info(
            "Of these predictions %s, as %s/%s says; --components=none evaluates all of them.",
            kept.described(one.run["classes"]),
            one.run_dir,
            components.NAME,
        )
    logging.info("%s", calibration.described(summary["calibration"]))


def _settle_components(
    run_dir: str,
    folder: str,
    counts: np.ndarray,
    cases: Sequence[str],
    classes: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Decides which components are kept, by counts of `components.measure`, and says so."""
    text = components.to_csv(counts, cases, classes)
    files.write_whole(os.path.join(folder, components.COUNTS), text)
    logging.info("%s", components.settle(run_dir, counts, classes, **facts))


def _temperature(settings: config.Evaluate, evaluate: Evaluator, weights: str) -> float | None:
    """Returns by what logits of a run are divided where calibration is measured, or None."""
    if settings.calibration == "decide":
        return calibration.fit(evaluate.loss_slopes(settings.split))
    if settings.calibration == "apply":
        return calibration.read(settings.run_dir, weights, settings.tta)
    return None


def _find(settings: config.Evaluate) -> Evaluated:
    """Returns what is evaluated.

    Raises:
        InputError: the folder holds no run, folds were not trained alike, or a setting is for one
            run.
    """
    run_dir = run_metadata.chosen(settings.run_dir)
    folders = run_metadata.with_folds([run_dir])
    runs = [run_metadata.read(folder) for folder in folders]
    job = config.from_dict(config.Job, runs[0]["settings"])
    if folders == [run_dir]:
        return Evaluated(run_dir, folders, runs[0], job)
    for name in ("components", "calibration"):
        if getattr(settings, name) == "decide":
            raise InputError(
                f"--{name}=decide is for one run, and --run_dir={run_dir} is a cross-validation, "
                "which decides on the cases of all folds; run trainer.crossval."
            )
    for folder, run in zip(folders, runs, strict=True):
        own = config.from_dict(config.Job, {**run["settings"], "fold": job.data.fold})
        changes = config.differences(runs[0]["settings"], own)
        if run["data_fingerprint"] != runs[0]["data_fingerprint"]:
            changes.append("other data")
        if changes:
            raise InputError(
                f"{folder} was trained otherwise than {folders[0]}: {', '.join(changes)}; let "
                "trainer.crossval train all folds alike, or evaluate each by itself."
            )
    of_none = config.from_dict(config.Job, {**runs[0]["settings"], "fold": None})
    return Evaluated(run_dir, folders, runs[0], of_none)


def _check(settings: config.Evaluate) -> None:
    """Raises InputError if test or training cases, or no place to write, would decide."""
    decided = {"components": "which components are kept", "calibration": "the temperature"}
    for name, what in decided.items():
        if getattr(settings, name) != "decide":
            continue
        if settings.split != "val":
            raise InputError(
                f"--{name}=decide --split={settings.split}: {what} is decided on validation data "
                "alone; use --split=val."
            )
        files.check_folder("run_dir", settings.run_dir)


def _read_manifest(
    settings: config.Evaluate, one: Evaluated, data_dir: str
) -> tuple[schema.Manifest, str]:
    """Returns the manifest of the data, with the names of the cases, and its fingerprint.

    Of the run's own data it has the splits of the run's fold; folds of others are not the run's.

    Raises:
        InputError: what is evaluated cannot be so on the data.
    """
    manifest = schema.read_manifest(data_dir)
    fingerprint = schema.fingerprint(manifest)
    if fingerprint == one.run["data_fingerprint"]:
        manifest = folds.choose(manifest, one.job.data.fold, data_dir)
        if one.is_ensemble and settings.split != "test":
            raise InputError(
                f"--split={settings.split}: the cases of a cross-validation trained all of its "
                f"folds but one, whose evaluation is in {one.run_dir}/evaluation/val; use "
                "--split=test, or name a fold."
            )
    best_weights.check_same_kind(one.run_dir, one.run, manifest)
    if settings.split not in manifest.splits:
        raise InputError(
            f"--split={settings.split} is not in {data_dir}, which has "
            f"{', '.join(manifest.splits)}; name one of them."
        )
    case_tables.check(settings.split, manifest.splits[settings.split].examples)
    return case_index.with_cases(data_dir, manifest, [settings.split]), fingerprint


def _load(
    settings: config.Evaluate,
    one: Evaluated,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    manifest: schema.Manifest,
    cache: shard_cache.ShardCache | None,
    kept: components.Decision,
) -> tuple[Loaded, Evaluator]:
    """Returns the best weights, which all workers have read, and what evaluates."""
    terminal.busy("checking the data and loading the network")
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
    loaded = _network(settings, one, strategy)
    job = loaded.job
    for folder, step in zip(one.folders, loaded.steps, strict=True):
        commit = {"step": step, "progress": {}}
        checkpoint.check_same(folder, commit, worker, num_workers, add)
    data = data_dir, manifest
    evaluate = Evaluator(
        strategy,
        loaded.network,
        *data,
        source_of(
            job,
            strategy,
            *data,
            batch_size=settings.batch_size,
            tile=settings.tile,
            most_shapes=loaded.most_shapes,
            cache=cache,
        ),
        terms=losses.LOSSES[job.optimization.loss],
        class_weights=losses.class_weights(
            job.optimization.class_weights, manifest.splits["train"].pixels
        ),
        tta="none" if one.is_ensemble else settings.tta,
        kept=kept,
    )
    evaluate.check(settings.split)
    return loaded, evaluate


def _network(settings: config.Evaluate, one: Evaluated, strategy: tf.distribute.Strategy) -> Loaded:
    """Loads the best weights of a run, or of all folds."""
    with strategy.scope():
        if not one.is_ensemble:
            model, step = best_weights.best_model(one.run_dir, one.run)
            digest = best_weights.weights_digest(model)
            network = eval_step.prediction_of(strategy, model)
            most_shapes = eval_step.most_shapes(strategy, [model])
            return Loaded([step], [digest], one.job, network, most_shapes)
        is_calibrated = settings.calibration == "apply"
        networks = ensemble.Ensemble([one.run_dir], settings.tta, calibrated=is_calibrated)
    weights = [member.weights for member in networks.members]
    data = dataclasses.replace(one.job.data, normalize=networks.normalize)
    return Loaded(
        [member["step"] for member in weights],
        [member["sha256"] for member in weights],
        dataclasses.replace(one.job, data=data),
        networks.logits,
        eval_step.most_shapes(strategy, [member.model for member in networks.members]),
        networks.temperatures,
    )
