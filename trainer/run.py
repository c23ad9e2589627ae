"""The story of a job: connect, build, open the data, restore, loop, evaluate, save."""

import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import (
    checkpoint,
    cluster,
    config,
    evaluation,
    flags,
    load,
    losses,
    optimizer,
    passport,
    report,
    steps,
)
from trainer.data import demo, pipeline, records
from trainer.errors import InputError

STEPS_PER_LOOP = {"CPU": 10, "GPU": 50, "TPU": 100}
EVALUATIONS = 10  # in a run, where --eval_every is silent


def train(job: config.Job) -> None:
    """Trains until the last step, going on from the run folder's newest checkpoint if it has one.

    Ends with the evaluation of the best checkpoint on the test split (val where there is no test).

    Raises:
        InputError: settings, data and devices do not go together, the loss is not finite, or no
            space is left in the run folder.
    """
    strategy = cluster.connect(job.device.strategy, job.device.tpu, job.device.virtual_devices)
    cluster.seed_everything(job.run.seed, job.device.deterministic)
    data_dir = job.data.data_dir or demo.folder()
    manifest = records.read_manifest(data_dir)
    run = open_run(job, strategy, manifest)
    chief = cluster.worker_of(strategy)[0] == 0

    keras.mixed_precision.set_global_policy(cluster.POLICIES[run["precision"]])
    with strategy.scope():
        model = load.build_model(job.model, manifest.channels, manifest.num_classes)
        average = keras.models.clone_model(model) if job.optimization.ema else None
        descent = build_optimizer(job.optimization, run["total_steps"], run["precision"])
        descent.build(model.trainable_variables)
    if average is not None:
        average.set_weights(model.get_weights())
    evaluated = average or model  # where weights are averaged, their average is what is used

    state = tf.train.Checkpoint(model=model, optimizer=descent, evaluated=evaluated)
    folder = os.path.join(job.run.run_dir, "checkpoints")
    checkpoints = checkpoint.Checkpoints(folder, state, job.run.keep_checkpoints, chief)
    state = tf.train.Checkpoint(model=evaluated)
    folder = os.path.join(job.run.run_dir, "best")
    best = checkpoint.Checkpoints(folder, state, 1, chief)
    restored = checkpoints.restore() or {"step": 0, "progress": {}}
    step, progress = restored["step"], Progress(**restored["progress"])
    if step:
        logging.info("Going on from step %d of %s.", step, job.run.run_dir)

    terms = losses.LOSSES[job.optimization.loss]
    pixels = manifest.splits["train"].pixels
    class_weights = losses.class_weights(job.optimization.class_weights, pixels)
    loop = steps.train_loop(
        strategy,
        model,
        descent,
        terms,
        class_weights,
        clip_norm=job.optimization.clip_norm,
        accumulate_steps=job.optimization.accumulate_steps,
        average=average,
        average_decay=job.optimization.ema,
        jit_compile=run["jit_compile"],
        timed=not job.device.deterministic,
    )
    evaluator = evaluation.Evaluator(
        strategy,
        evaluated,
        data_dir,
        manifest,
        terms=terms,
        class_weights=class_weights,
        normalize=job.data.normalize,
        depth=job.model.depth,
        kernel_size=job.model.kernel_size,
        batch_size=job.run.eval_batch_size or job.data.batch_size,
        tile=job.run.tile,
    )
    batches = open_stream(job, strategy, data_dir, manifest, run["streams"], step)
    reporter = report.Report(job.run.run_dir, chief, step, run["total_steps"])

    total_steps, eval_every = run["total_steps"], run["eval_every"]
    checkpoint_every = job.run.checkpoint_every or eval_every
    steps_per_loop = job.device.steps_per_loop or STEPS_PER_LOOP[cluster.device_kind(strategy)]
    with passport.ending(job.run.run_dir, run, chief) as ending:
        while step < total_steps and not progress.exhausted(job.run.patience):
            stop = min(
                step + steps_per_loop,
                step - step % eval_every + eval_every,
                step - step % checkpoint_every + checkpoint_every,
                total_steps,
            )
            start = time.monotonic()
            with pipeline.explained(data_dir, manifest, "train"):
                sums = {key: float(x) for key, x in loop(batches, tf.constant(stop - step)).items()}
            seconds, num_steps, step = time.monotonic() - start, stop - step, stop
            figures = {
                "loss": sums["loss"] / num_steps,
                "gradient_norm": sums["gradient_norm"] / num_steps,
                "learning_rate": float(descent.learning_rate.numpy()),
                "images_per_second": num_steps * job.data.batch_size / seconds,
                "input_share": min(1.0, sums["wait_seconds"] / seconds),
            }
            check_finite(figures, step, run["precision"], checkpoints.steps())
            reporter.train(step, figures)

            if step % eval_every == 0 or step == total_steps:
                shown: list[evaluation.Case] = []
                figures = evaluation.figures(evaluator("val", first_cases(shown, job.run.panels)))
                reporter.validation(step, figures, pictures(shown, manifest, "val"))
                progress = progress.after(step, job.run.best_metric, figures)
                if progress.best_step == step:
                    best.save(step, dataclasses.asdict(progress))
            if step % checkpoint_every == 0 or step == total_steps:
                checkpoints.save(step, dataclasses.asdict(progress))
        ending.reason = "finished" if step == total_steps else "stopped early"

        cluster.wait_for_workers(strategy)  # until the chief has written what all now read
        best.restore()
        split = "test" if "test" in manifest.splits else "val"
        worst = evaluation.Worst(job.run.worst_cases)
        scores = evaluator(split, worst.offer)
        if chief:
            folder = os.path.join(job.run.run_dir, "evaluation", split)
            evaluation.write(folder, scores, worst.cases(), manifest, split)
            if split == "test":  # val has been reported
                reporter.test(progress.best_step, evaluation.figures(scores))
            logging.info("%s", closing_lines(job, scores, split, progress.best_step, ending.reason))
        reporter.close()


@dataclasses.dataclass(frozen=True)
class Progress:
    """How the evaluations of the val split went so far; kept in every checkpoint.

    Attributes:
        best: the best score; None before the first evaluation.
        best_step: its step.
        worse: evaluations since then.
    """

    best: float | None = None
    best_step: int = 0
    worse: int = 0

    def after(self, step: int, metric: str, figures: dict[str, float]) -> "Progress":
        """Returns the progress after one more evaluation; an undefined score is the worst."""
        sign = -1 if metric == "loss" else 1
        score = figures.get(metric, -sign * float("inf"))
        if self.best is None or sign * score > sign * self.best:
            return Progress(score, step, 0)
        return dataclasses.replace(self, worse=self.worse + 1)

    def exhausted(self, patience: int) -> bool:
        """Says whether `patience` evaluations in a row were no better; patience 0 is endless."""
        return 0 < patience <= self.worse


def open_run(
    job: config.Job, strategy: tf.distribute.Strategy, manifest: records.Manifest
) -> dict[str, Any]:
    """Returns the run's passport, written anew or, where the run goes on, as its start chose.

    Raises:
        InputError: the devices do not divide the batch, there is no val split, or the run folder
            holds another run.
    """
    num_workers = cluster.worker_of(strategy)[1]
    parts = strategy.num_replicas_in_sync * job.optimization.accumulate_steps
    if job.data.batch_size % parts:
        raise InputError(
            f"--batch_size={job.data.batch_size} does not divide among "
            f"{strategy.num_replicas_in_sync} replicas × --accumulate_steps="
            f"{job.optimization.accumulate_steps}; use a multiple of {parts}."
        )
    if "val" not in manifest.splits:
        raise InputError(
            f"--data_dir={job.data.data_dir} has no val split, which picks the best checkpoint; "
            "prepare the data with one."
        )
    train_split = manifest.splits["train"]
    fingerprint = records.fingerprint(manifest)
    old = passport.read(job.run.run_dir)
    if old:
        passport.check_same_run(old, job, fingerprint)
    chosen = old or {}
    precision, jit_compile = cluster.choose_arithmetic(
        chosen.get("precision", "auto") if job.device.precision == "auto" else job.device.precision,
        str(chosen.get("jit_compile", "auto")).lower()
        if job.device.jit_compile == "auto"
        else job.device.jit_compile,
        strategy,
        deterministic=job.device.deterministic,
        synchronized=job.model.norm == "sync_batch",
    )
    total_steps = job.optimization.total_steps(train_split.examples, job.data.batch_size)
    run = passport.describe(
        job,
        flags.command_line(job),
        strategy,
        data_fingerprint=fingerprint,
        channels=manifest.channels,
        classes=[entry.name for entry in manifest.classes],
        streams=chosen.get("streams")
        or pipeline.num_streams(train_split, num_workers, job.data.streams),
        total_steps=total_steps,
        eval_every=job.run.eval_every or max(1, total_steps // EVALUATIONS),
        precision=precision,
        jit_compile=jit_compile,
    )
    if cluster.worker_of(strategy)[0] == 0:
        passport.write(job.run.run_dir, run)
    logging.info(
        "Training %s for %d steps on %d × %s, %s%s, into %s",
        job.model.model,
        total_steps,
        strategy.num_replicas_in_sync,
        cluster.device_kind(strategy),
        precision,
        " with XLA" if jit_compile else "",
        job.run.run_dir,
    )
    return run


def build_optimizer(
    settings: config.Optimization, total_steps: int, precision: str
) -> keras.optimizers.Optimizer:
    """Builds the optimizer with its schedule, and with loss scaling for float16."""
    schedule = optimizer.build_schedule(
        settings.schedule, settings.learning_rate, total_steps, settings.warmup_steps
    )
    decay = settings.weight_decay
    if decay is None:
        decay = 1e-4 if settings.optimizer == "adamw" else 0.0
    descent = optimizer.build_optimizer(settings.optimizer, schedule, decay, settings.momentum)
    return keras.optimizers.LossScaleOptimizer(descent) if precision == "float16" else descent


def open_stream(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    manifest: records.Manifest,
    num_streams: int,
    step: int,
) -> Iterator:
    """Returns the iterator over the training batches from `step` on, over all replicas."""
    worker, num_workers = cluster.worker_of(strategy)

    def stream_of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return pipeline.training_stream(
            data_dir,
            manifest,
            batch_size=job.data.batch_size,
            crop=job.data.crop,
            seed=job.run.seed,
            augment=job.data.augment,
            normalize=job.data.normalize,
            start_step=step,
            num_streams=num_streams,
            shuffle_block=job.data.shuffle_block,
            worker=worker,
            num_workers=num_workers,
            num_replicas=strategy.num_replicas_in_sync // num_workers,
        )

    return iter(strategy.distribute_datasets_from_function(stream_of_worker))


def check_finite(
    figures: dict[str, float], step: int, precision: str, saved_steps: list[int]
) -> None:
    """Raises InputError if training has left the finite numbers.

    The gradient counts too, for it spoils the weights one step before the loss shows it; except in
    float16, where steps with an infinite gradient are left out and the loss scale is lowered.
    """
    names = ["loss"] if precision == "float16" else ["loss", "gradient_norm"]
    for name in names:
        if not np.isfinite(figures[name]):
            kept = (
                f"the checkpoint of step {saved_steps[-1]} is kept"
                if saved_steps
                else ("there is no checkpoint yet")
            )
            raise InputError(
                f"The {name} is {figures[name]} at step {step}; {kept}. Try a lower "
                "--learning_rate, more --warmup_steps, a lower --clip_norm, or --precision=float32."
            )


def first_cases(shown: list[evaluation.Case], number: int) -> Any:
    """Returns a function that adds the split's first `number` cases to `shown`."""

    def offer(case: evaluation.Case) -> None:
        if case.index < number:
            shown.append(case)

    return offer


def pictures(
    cases: list[evaluation.Case], manifest: records.Manifest, split: str
) -> dict[str, np.ndarray]:
    """Draws cases, by name, in the order in which they stand in the split."""
    ordered = sorted(cases, key=lambda case: case.index)
    names = manifest.splits[split].cases
    return {names[case.index]: evaluation.panel_of(case, manifest, split) for case in ordered}


def closing_lines(
    job: config.Job, scores: evaluation.Scores, split: str, best_step: int, reason: str
) -> str:
    """Returns what the command says last: the scores, and where everything is."""
    dice = scores.summary["dice"]
    return "\n".join(
        [
            evaluation.table(scores.summary),
            "",
            f"{split} Dice, mean per image: {'undefined' if dice is None else f'{dice:.4f}'}"
            f"   ({reason}; best checkpoint: step {best_step})",
            f"run folder: {job.run.run_dir}",
            f"tensorboard --logdir {os.path.join(job.run.run_dir, 'tensorboard')}",
        ]
    )
