"""The proof that N replicas train like one: both are trained, and every figure is compared.

What runs is what trains: the stream from shards, the network, the compiled step and the evaluation
of `trainer.task`, on a data folder that is hard on means (see `hard_data`).
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, json_text, models, text_table
from trainer.data.dataset import schema
from trainer.data.input import pipeline
from trainer.data.input.training_batches import TrainingBatches
from trainer.distributed import arithmetic, strategies
from trainer.errors import InputError
from trainer.evaluate import case_rows, eval_step
from trainer.evaluate.case_rows import CaseRows
from trainer.evaluate.evaluator import Evaluator, source_of
from trainer.evaluate.scores import Scores
from trainer.models import build
from trainer.selfcheck import hard_data
from trainer.storage import files
from trainer.training import losses, optimizers, train_step

NUM_STEPS = 10

# What rounding may add up to in NUM_STEPS steps. Losses, gradients and weights are of the order of
# 1, and the layers of bfloat16 and float16 keep 8 and 11 bits of them.
TOLERANCES = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}
# The derivative of ReLU jumps where its input is 0 up to rounding, which happens to one of some
# 10,000 pixels in ten steps, and so does the gradient by what that pixel has in it. It would hide
# any other cause, so the other cases have an activation without a jump.
RELU_TOLERANCES = {"loss": 1e-3, "gradient": 1e-3, "weights": 3e-3}
# Adam divides a gradient by its own size: in its first steps a weight whose gradient is 0 but for
# rounding moves by a whole learning rate, in a direction that rounding chooses.
ADAM_TOLERANCES = {"loss": 1e-3, "weights": 4e-3}

_SETTINGS: Mapping[str, Any] = {
    "batch_size": 8,
    "crop": 16,
    "augment": "flip",
    "filters": 6,  # of which a group has three, an instance one
    "depth": 1,
    "activation": "swish",
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "schedule": "constant",
    "clip_norm": 0.0,
    "steps": NUM_STEPS,
}

# What is compared → how it differs from the settings above; the rest is the default. Each loss and
# each norm is in one of them at least.
CASES: Mapping[str, Mapping[str, Any]] = {
    "loss=ce_dice, norm=auto": {},
    "loss=dice, norm=group": {"loss": "dice", "norm": "group"},
    "loss=focal, norm=instance": {"loss": "focal", "norm": "instance"},
    # Not with norm=auto: on GPUs XLA compiles it on one replica, and draws other masks.
    "loss=tversky, norm=none, dropout=0.3": {"loss": "tversky", "norm": "none", "dropout": 0.3},
    "loss=cross_entropy, class_weights=balanced": {
        "loss": "cross_entropy",
        "class_weights": "balanced",
    },
    "loss=ce_batch_dice, norm=instance, deep_supervision": {
        "loss": "ce_batch_dice",
        "norm": "instance",
        "deep_supervision": True,
        "depth": 3,
    },
    "loss=ce_dice_boundary, accumulate_steps=2, clip_norm=0.1": {
        "loss": "ce_dice_boundary",
        "accumulate_steps": 2,
        "clip_norm": 0.1,
    },
    # Which pixels are the hardest is a jump as that of ReLU.
    "loss=top_k, activation=relu": {"loss": "top_k", "activation": "relu"},
    "precision=bfloat16": {"precision": "bfloat16"},
    "precision=float16": {"precision": "float16"},
    "loss=top_k_dice, optimizer=adamw": {
        "loss": "top_k_dice",
        "optimizer": "adamw",
        "learning_rate": 1e-3,
    },
    "volumes, loss=ce_linear_dice, norm=instance, strides=1,2,2, foreground=0.5": {
        "crop": (4, 8, 8),
        "loss": "ce_linear_dice",
        "norm": "instance",
        "strides": "1,2,2",
        "kernels": "1,3,3/3",
        "foreground": 0.5,
    },
}
VOLUMES = list(CASES)[-1]
EVALUATED = (next(iter(CASES)), VOLUMES)  # by the weights that the case has trained


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure, of one replica and of several.

    Attributes:
        what: its name.
        one: on one replica.
        many: on several.
        difference: the largest absolute one of any element.
        tolerance: the largest difference that is rounding.
    """

    what: str
    one: float
    many: float
    difference: float
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether the difference is within the tolerance; never if it is NaN."""
        return self.difference <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two that are compared: its devices, and the batches, which cases take in turn."""

    strategy: tf.distribute.Strategy
    batches: Iterator[train_step.Batch]


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a number of replicas made of a case.

    Attributes:
        model: the network after NUM_STEPS steps; None of `train_alone`.
        losses: float32 [NUM_STEPS].
        gradient: of the first step, by variable; empty where the optimizer hides it.
        weights: after the last step, by variable.
        evaluated: what `evaluate` returns of them; None where it was not asked.
    """

    model: keras.Model
    losses: np.ndarray
    gradient: list[np.ndarray]
    weights: list[np.ndarray]
    evaluated: tuple[Scores, CaseRows] | None = None


def check(settings: config.SelfCheck) -> bool:
    """Compares one replica with all that the settings give, prints the table, says if it holds.

    Raises:
        InputError: if the devices are one replica, or are not there.
    """
    strategy = strategies.connect_several(settings.strategy, settings.tpu, settings.virtual_devices)
    if strategy.num_replicas_in_sync == 1:
        raise InputError(
            f"--strategy={settings.strategy} has one replica only, so there is nothing to compare; "
            "use --virtual_devices=2, or a machine with several devices."
        )
    names = [name for name in CASES if any(part in name for part in settings.only.split(","))]
    if not names:
        raise InputError(
            f"--only={settings.only} matches no case; the names are: {'; '.join(CASES)}."
        )
    # One and many would round to its 10 bits on two sides of a step; the arithmetic is no matter.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    with hard_data.data_folder() as data_dir:
        number = strategy.num_replicas_in_sync
        rows = compare(strategy, {name: job_of(name, data_dir, number) for name in names})
    if strategies.worker_of(strategy)[0] == 0:
        print(table(rows, strategy), flush=True)
        if settings.json:
            content = [{**dataclasses.asdict(row), "same": row.same} for row in rows]
            files.write_whole(settings.json, json_text.dumps(content, indent=1) + "\n")
    return all(row.same for row in rows)


def compare(strategy: tf.distribute.Strategy, jobs: Mapping[str, config.Job]) -> list[Row]:
    """Trains each job, by its case's name, on one replica and on all; returns the comparison.

    Half of what a side takes is TensorFlow's time, in which Python is free for the other: one
    replica is trained meanwhile.
    """
    rows, sides = [], {job.data: open_side(strategy, job) for job in jobs.values()}
    pool, device = _apart(strategies.device_kind(strategy), strategy.extended.worker_devices[0])
    with pool:
        alone = pool.submit(train_alone, jobs, device)
        trained = {}
        for name, job in jobs.items():
            trained[name] = train(sides[job.data], job)
            logging.info("%s: trained by all replicas", name)
        ones = alone.result()
    for name, many in trained.items():
        one = ones[name]
        found = compare_training(one, many, jobs[name], name)
        if one.evaluated is not None:
            prefix = f"{name}: " if name == VOLUMES else ""
            many.model.set_weights(one.weights)
            evaluated = compare_scores(one.evaluated, evaluate(strategy, many.model, jobs[name]))
            found += [dataclasses.replace(row, what=prefix + row.what) for row in evaluated]
        logging.info("%s: %s", name, verdict(found))
        rows += found
    return rows


def _apart(kind: str, device: str) -> tuple[concurrent.futures.Executor, str]:
    """Returns what trains one replica meanwhile, and on which device, see `train_alone`.

    For GPUs it is a process, so that none has two strategies of them. Elsewhere it is a thread: the
    precision that Keras is told is a thread's own, and only one process can have a TPU.
    """
    if kind != "GPU":
        return concurrent.futures.ThreadPoolExecutor(1), device
    spawn = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, spawn), ""


def train_alone(jobs: Mapping[str, config.Job], device: str = "") -> dict[str, Trained]:
    """Trains each job, by its case's name, on one device, and evaluates those of EVALUATED.

    Args:
        jobs: by name.
        device: by its full name; empty: this process has no other strategy.

    Returns:
        What came of each, without the network, which does not go from process to process.
    """
    if not device:
        tf.config.experimental.enable_tensor_float_32_execution(False)  # as in `check`
    strategy = (
        tf.distribute.OneDeviceStrategy(device) if device else strategies.connect("one_device")
    )
    sides = {job.data: open_side(strategy, job) for job in jobs.values()}
    found = {}
    for name, job in jobs.items():
        one = train(sides[job.data], job)
        scores = evaluate(strategy, one.model, job) if name in EVALUATED else None
        found[name] = dataclasses.replace(one, model=None, evaluated=scores)
    return found


def open_side(strategy: tf.distribute.Strategy, job: config.Job) -> Side:
    """Opens the batches of `job`; each case begins where the one before it ended."""
    manifest = schema.read_manifest(job.data.data_dir)
    split, workers = manifest.splits["train"], strategies.worker_of(strategy)[1]
    streams = pipeline.num_streams(
        split, workers, share=job.data.foreground, balance=job.data.balance_cases
    )
    batches = TrainingBatches(
        job.data, strategy, job.data.data_dir, manifest, seed=job.run.seed, num_streams=streams
    )
    return Side(strategy, iter(batches))


def compare_training(one: Trained, many: Trained, job: config.Job, name: str) -> list[Row]:
    """Compares losses, gradients and weights."""
    figures = (
        ("loss", [one.losses], [many.losses], lambda arrays: float(arrays[0][0])),
        ("gradient", one.gradient, many.gradient, _norm),
        ("weights", one.weights, many.weights, _norm),
    )
    return [
        Row(
            f"{name}: {what}",
            size(ours),
            size(theirs),
            largest_difference(ours, theirs),
            tolerance_of(job, what),
        )
        for what, ours, theirs, size in figures
        if ours
    ]


def job_of(name: str, data_dir: str, num_replicas: int) -> config.Job:
    """Returns the settings of a case, its batch one that the replicas divide.

    Args:
        name: of the case.
        data_dir: see `hard_data.data_folder`.
        num_replicas: that train it.
    """
    parts = 2 * num_replicas  # 2: the case of accumulate_steps
    batch_size = -(-_SETTINGS["batch_size"] // parts) * parts
    values = {"precision": "float32", **_SETTINGS, **CASES[name]}
    kind = hard_data.VOLUMES if name == VOLUMES else hard_data.IMAGES
    values |= {"batch_size": batch_size, "data_dir": os.path.join(data_dir, kind)}
    return config.from_dict(config.Job, values)


def tolerance_of(job: config.Job, what: str) -> float:
    """Returns the largest difference of the loss, gradient or weights that is rounding."""
    if job.optimization.optimizer != "sgd":
        return ADAM_TOLERANCES[what]
    if job.model.activation == "relu":
        return RELU_TOLERANCES[what]
    return TOLERANCES[job.device.precision]


def train(side: Side, job: config.Job) -> Trained:
    """Trains for NUM_STEPS steps, as `trainer.task` does."""
    with _precision(job.device.precision):
        return _train(side.strategy, side.batches, job)


def _train(
    strategy: tf.distribute.Strategy, batches: Iterator[train_step.Batch], job: config.Job
) -> Trained:
    manifest = schema.read_manifest(job.data.data_dir)
    num_replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        model = build.build_model(
            job.model,
            manifest.channels,
            manifest.num_classes,
            num_replicas,
            manifest.rank,
            job.data.normalize,
        )
        models.initialize_weights(model, job.run.seed)
        optimizer = optimizers.optimizer_of(job.optimization, NUM_STEPS, job.device.precision)
        optimizer.build(model.trainable_variables)
    pixels = manifest.splits["train"].pixels
    terms = losses.LOSSES[job.optimization.loss]
    collective = num_replicas > 1 and (job.model.norm == "auto" or losses.of_whole_batch(terms))
    advance = train_step.train_loop(
        strategy,
        model,
        optimizer,
        terms,
        losses.class_weights(job.optimization.class_weights, pixels),
        clip_norm=job.optimization.clip_norm,
        accumulate_steps=job.optimization.accumulate_steps,
        jit_compile=strategies.device_kind(strategy) != "CPU" and not collective,
    )
    before = [variable.numpy() for variable in model.trainable_variables]
    first = advance(batches, tf.constant(1))["loss"].numpy()
    after = [variable.numpy() for variable in model.trainable_variables]
    rest = advance(batches, tf.constant(NUM_STEPS - 1))["loss"].numpy()
    gradient = []
    if job.optimization.optimizer == "sgd":  # its first step follows the gradient itself
        rate = job.optimization.learning_rate
        gradient = [(a - b) / rate for a, b in zip(before, after, strict=True)]
    return Trained(model, np.concatenate([first, rest]), gradient, model.get_weights())


def evaluate(
    strategy: tf.distribute.Strategy, model: keras.Model, job: config.Job
) -> tuple[Scores, CaseRows]:
    """Evaluates the val split, as `trainer.task` does; returns the rows of all workers, too."""
    manifest = schema.read_manifest(job.data.data_dir)
    data = job.data.data_dir, manifest
    batch_size = max(4, strategy.num_replicas_in_sync)
    evaluate = Evaluator(
        strategy,
        eval_step.prediction_of(strategy, model),
        *data,
        source_of(
            job,
            strategy,
            *data,
            batch_size=batch_size,
            tile=job.run.tile,
            most_shapes=eval_step.most_shapes(strategy, [model]),
        ),
        terms=losses.LOSSES[job.optimization.loss],
        class_weights=losses.class_weights("none", manifest.splits["train"].pixels),
    )
    kept: list[CaseRows] = []
    scores = evaluate("val", keep=kept.append)
    add = functools.partial(strategies.sum_over_workers, strategy)
    num_cases = manifest.splits["val"].examples
    return scores, case_rows.gather(case_rows.concatenate(kept), num_cases, add)


def compare_scores(one: tuple[Scores, CaseRows], many: tuple[Scores, CaseRows]) -> list[Row]:
    """Compares the counts of two evaluations, which must be equal, and every metric."""
    ours, theirs = (rows.counts.astype(np.float64) for _, rows in (one, many))
    difference = largest_difference([ours], [theirs])
    rows = [Row("evaluation: pixels counted", ours.sum(), theirs.sum(), difference, 0.0)]
    others = dict(_leaves(many[0].summary))
    return rows + [
        Row(f"evaluation: {name}", x, others[name], abs(x - others[name]), TOLERANCES["float32"])
        for name, x in _leaves(one[0].summary)
    ]


def largest_difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Returns the largest absolute difference of any element; NaN where there is one."""
    return float(max(np.max(np.abs(a - b)) for a, b in zip(ours, theirs, strict=True)))


def verdict(rows: list[Row]) -> str:
    """Returns the verdict on some figures in a word."""
    return "same" if all(row.same for row in rows) else "DIFFERENT"


def table(rows: list[Row], strategy: tf.distribute.Strategy) -> str:
    """Returns the rows as lines for a terminal, and the verdict on all."""
    number = strategy.num_replicas_in_sync
    lines = [("what", "1 replica", f"{number} replicas", "difference", "tolerance", "verdict")]
    lines += [
        (
            row.what,
            f"{row.one:.6g}",
            f"{row.many:.6g}",
            f"{row.difference:.1e}",
            f"{row.tolerance:.0e}",
            verdict([row]),
        )
        for row in rows
    ]
    text = text_table.aligned(lines, right=range(1, 5))
    wrong = sum(not row.same for row in rows)
    workers = strategies.worker_of(strategy)[1]
    text += [
        "",
        f"{number} replicas ({workers} worker{'s' * (workers > 1)}, "
        f"{strategies.device_kind(strategy)}) "
        + (f"differ from one in {wrong} of {len(rows)} figures." if wrong else "train like one."),
    ]
    return "\n".join(text)


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy(arithmetic.POLICIES[name])
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _norm(arrays: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays)))


def _leaves(summary: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields (dotted name, value) of the metrics of all classes together."""
    for name, value in summary.items():
        if isinstance(value, dict) and name not in ("classes", "all_classes"):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, value
