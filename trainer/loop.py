"""The story of a job: connect, build, restore, loop, evaluate, save."""

import contextlib
import dataclasses
import functools
import os
import shlex
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, export, models
from trainer.checkpointing import best_weights, checkpoint, facts, run_metadata, transfer
from trainer.checkpointing.background_writer import Writer
from trainer.config import flags
from trainer.data import demo
from trainer.data.dataset import integrity, schema
from trainer.data.input import pipeline, read_errors
from trainer.distributed import heartbeat, preemption, rendezvous, strategies
from trainer.errors import InputError
from trainer.evaluate import evaluator
from trainer.export import placement
from trainer.models import build, norms
from trainer.monitoring import metrics_log, tensorboard, terminal
from trainer.monitoring.goodput import Goodput, Speed
from trainer.monitoring.profiler import Trace
from trainer.monitoring.resource_stats import Vitals
from trainer.storage import files, lock
from trainer.training import losses, optimizers, train_step
from trainer.training.progress import Progress, Series, check_finite

STEPS_PER_LOOP = {"CPU": 10, "GPU": 50, "TPU": 100}
LOOP_SECONDS = 5.0  # so that a job that is asked to stop hears it in time
LOSS_SCALE = "loss_scale"  # of a checkpoint
EVALUATIONS = 10  # in a run, where --eval_every is silent


def train(job: config.Job) -> None:
    """Trains until the last step, going on from the run folder's newest checkpoint if it has one.

    Ends with the evaluation of the best checkpoint on the test split (val where there is no test).

    Raises:
        InputError: settings, data and devices do not go together, another job writes into the run
            folder, the loss is not finite, or no checkpoint can be written.
        preemption.StoppedError: the job was asked to stop; its state is saved.
    """
    started = time.monotonic()
    strategy = strategies.connect(
        job.device.strategy,
        job.device.tpu,
        job.device.virtual_devices,
        rendezvous.Timeouts(job.device.join_timeout, job.device.worker_timeout),
        job.device.collectives,
        job.device.require,
    )
    strategies.seed_everything(job.run.seed, job.device.deterministic)
    for name in ("tensorboard_dir", "model_dir"):
        if path := getattr(job.run, name):
            files.check_folder(name, path)
    data_dir = job.data.data_dir or demo.folder()
    manifest = schema.read_manifest(data_dir)
    chief = strategies.worker_of(strategy)[0] == 0

    with contextlib.ExitStack() as stack:
        request = stack.enter_context(preemption.listening())
        owner = stack.enter_context(lock.held(job.run.run_dir, job.run.lease_seconds, chief))
        run = open_run(job, strategy, manifest)
        ending = stack.enter_context(run_metadata.ending(job.run.run_dir, run, chief))
        stack.enter_context(heartbeat.translate_errors())
        manifest = check_data(job, strategy, data_dir, manifest, run)

        keras.mixed_precision.set_global_policy(strategies.POLICIES[run["precision"]])
        with strategy.scope():
            model = build.build_model(
                job.model,
                manifest.channels,
                manifest.num_classes,
                strategy.num_replicas_in_sync,
            )
            models.draw_weights(model, job.run.seed)
            average = keras.models.clone_model(model) if job.optimization.ema else None
            descent = build_optimizer(
                dataclasses.replace(job.optimization, learning_rate=run["peak_learning_rate"]),
                run["total_steps"],
                run["precision"],
            )
            descent.build(model.trainable_variables)
        evaluated = average or model  # where weights are averaged, their average is what is used

        checkpoints = checkpoint.Checkpoints(
            os.path.join(job.run.run_dir, "checkpoints"),
            state_of(model, descent, average),
            run["fingerprint"],
            optional=[LOSS_SCALE],
        )
        best = best_weights.best_checkpoints(job.run.run_dir, evaluated)
        restored = restore_together(checkpoints, strategy)
        if restored is None:
            restored = {"step": 0, "progress": {}}
            if run["init_from"]:
                transfer.begin(model, run["init_from"], job)
            if average is not None:
                average.set_weights(model.get_weights())
        step, progress = restored["step"], progress_of(restored, job, run)
        if chief:
            checkpoints.remove_strays()
            best.remove_strays()
            remove_replaced(checkpoints, job.run.keep_checkpoints, best, progress.best_step)

        kind = strategies.device_kind(strategy)
        terms = losses.LOSSES[job.optimization.loss]
        pixels = manifest.splits["train"].pixels
        class_weights = losses.class_weights(job.optimization.class_weights, pixels)
        loop = train_step.train_loop(
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
            lanes=models.packing.LANES[kind],
            timed=not job.device.deterministic and kind != "TPU",
        )
        evaluate = evaluator.Evaluator(
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
        final_split = "test" if "test" in manifest.splits else "val"
        evaluate.check_tile("val", final_split)
        if chief and job.run.model_dir:
            placement.check("model_dir", job.run.model_dir, will_differ=step < run["total_steps"])
        if chief:  # what can be refused has been, and from here on the folder is this run's
            run_metadata.write(job.run.run_dir, run)
        log_start(job, strategy, run, step)
        opened, stream = open_stream(job, strategy, data_dir, manifest, run["streams"], step)
        batches = pipeline.keep_alive(iter(opened))
        reading = functools.partial(
            reading_explained, job, strategy, data_dir, manifest, run["streams"]
        )

        total_steps, eval_every = run["total_steps"], run["eval_every"]
        checkpoint_every = job.run.checkpoint_every or eval_every
        report_every = job.device.steps_per_loop or STEPS_PER_LOOP[kind]
        reporter = stack.enter_context(
            metrics_log.Journal(
                job.run.run_dir,
                chief,
                step,
                total_steps,
                progress.evaluated_step,
                job.run.tensorboard_dir,
            )
        )
        if chief and step == 0:
            with reading(0, 1):
                batch = first_examples(stream)
            classes = [entry.name for entry in manifest.classes]
            reporter.start(lambda: tensorboard.write_start(job, run, model, batch, classes))
        writer = stack.enter_context(Writer(job.run.checkpoint_patience))
        trace = stack.enter_context(Trace(job.run.traced_steps(), reporter, chief))
        vitals = Vitals(strategy, model)
        goodput = Goodput(started, progress.seconds)
        series, speed = Series(progress.unreported), Speed(job.data.batch_size)
        redo_until = step + reporter.steps_to_redo
        saved, best_snapshot = (step, progress.evaluated_step), None

        def is_cancelled() -> bool:
            return bool(request)

        def saved_steps() -> list[int]:
            writer.drain()
            return checkpoints.steps()

        while True:
            # Evaluate.
            due = step % eval_every == 0 or step == total_steps
            if due and step > progress.evaluated_step:
                gallery = evaluator.Gallery(first=job.run.panels, worst=job.run.worst_panels)
                with goodput.spending("evaluation"), contextlib.suppress(evaluator.CancelledError):
                    scores = evaluate("val", gallery.offer, is_cancelled)
                    figures = evaluator.figures(scores)
                    weights = evaluated.trainable_variables if job.run.histograms else []
                    draw = functools.partial(
                        tensorboard.write_evaluation, scores, gallery, manifest, "val", weights
                    )
                    reporter.validation(step, figures, draw)
                    progress = progress.after(step, job.run.best_metric, figures)
                    if progress.best_step == step:
                        best_snapshot = best.snapshot(step, {})

            # Save.
            owner.check()
            stopping, seconds_per_step = strategies.agree(strategy, bool(request), speed.per_step)
            ended = step == total_steps or progress.exhausted(job.run.patience)
            due = step % checkpoint_every == 0 or ended or stopping
            if due and chief and (step, progress.evaluated_step) > saved:
                with goodput.spending("checkpoint"):
                    reporter.rotate(step)
                    now = dataclasses.replace(
                        progress, unreported=series.values(), seconds=goodput.seconds()
                    )
                    writer.submit(
                        functools.partial(
                            save,
                            reporter,
                            checkpoints.snapshot(step, now.to_dict()),
                            checkpoints,
                            job.run.keep_checkpoints,
                            best_snapshot,
                            best,
                        )
                    )
                saved = (step, progress.evaluated_step)
            if stopping:
                writer.drain()
                raise preemption.StoppedError(closing_words(request, step))
            if ended:
                break

            # Train.
            stop = min(
                step + max(1, int(LOOP_SECONDS / seconds_per_step)),
                *(step - step % every + every for every in (report_every, eval_every)),
                step - step % checkpoint_every + checkpoint_every,
                total_steps,
            )
            stop = trace.begin(step, stop)
            start = time.monotonic()
            with trace.marked(stop), reading(step, stop):
                tensors = loop(batches, tf.constant(stop - step))
                taken = {name: numbers.numpy() for name, numbers in tensors.items()}
            seconds, waited = time.monotonic() - start, float(taken.pop("wait_seconds").sum())
            check_finite(taken, step + 1, run["precision"], saved_steps)
            series.add(taken)
            speed.add(stop - step, seconds, waited)
            goodput.add_steps(seconds, waited, redone=stop <= redo_until)
            step = stop
            trace.end(step)
            if step % report_every == 0 or step % eval_every == 0 or step == total_steps:
                figures = series.take_means()
                figures["learning_rate"] = float(descent.learning_rate.numpy())
                figures.update(vitals.figures())
                reporter.train(step, {**figures, **speed.take(), **goodput.shares()})
        ending.reason = "finished" if step == total_steps else "stopped early"

        writer.drain()
        strategies.wait_for_workers(strategy)  # until the chief has written what all now read
        if restore_together(best, strategy) is None:
            logging.warning(
                "%s has no whole checkpoint: the last weights are evaluated.", best.directory
            )
        gallery = evaluator.Gallery(worst=job.run.worst_cases, best=job.run.best_cases)
        try:
            scores = evaluate(final_split, gallery.offer, is_cancelled)
        except evaluator.CancelledError:
            raise preemption.StoppedError(closing_words(request, step)) from None
        if chief:
            folder = os.path.join(job.run.run_dir, "evaluation", final_split)
            evaluator.write(folder, scores, gallery, manifest, final_split)
            if final_split == "test":  # val has been reported
                reporter.test(progress.best_step, evaluator.figures(scores))
            if job.run.model_dir:
                export.write(job.run.run_dir, job.run.model_dir, flag="model_dir")
            reporter.end(tensorboard.write_end)
            lines = closing_lines(
                job, scores, final_split, progress.best_step, ending.reason, speed
            )
            title = f"{step} steps, {terminal.clock(sum(goodput.seconds().values()))}"
            logging.info("%s", terminal.boxed(title, lines))


def state_of(
    model: keras.Model, descent: keras.optimizers.Optimizer, average: keras.Model | None
) -> dict[str, Any]:
    """Returns all variables of a run, in groups.

    The scale of float16's loss is a group of its own: a run that goes on in another precision has
    none, and one that goes on in float16 begins a new one.
    """
    inner = getattr(descent, "inner_optimizer", descent)
    state = {"model": model.variables, "optimizer": inner.variables}
    if inner is not descent:
        state[LOSS_SCALE] = descent.variables[: -len(inner.variables)]
    if average is not None:
        state["average"] = average.variables
    return state


def restore_together(
    checkpoints: checkpoint.Checkpoints, strategy: tf.distribute.Strategy
) -> dict[str, Any] | None:
    """Restores the newest checkpoint; returns its commit, on all workers the same, or None.

    Raises:
        InputError: if the workers see different ones.
    """
    commit = checkpoints.restore()
    add = functools.partial(strategies.sum_over_workers, strategy)
    checkpoint.check_same(checkpoints.directory, commit, *strategies.worker_of(strategy), add)
    return commit


def save(
    reporter: metrics_log.Journal,
    snapshot: checkpoint.Snapshot,
    checkpoints: checkpoint.Checkpoints,
    keep: int,
    best_snapshot: checkpoint.Snapshot | None,
    best: checkpoint.Checkpoints,
) -> None:
    """Writes what makes a step one to go on from, in the order in which a kill does no harm.

    Reports and the best weights are there before the checkpoint that speaks of them; what they
    replace is removed after it. May be called again where it failed.
    """
    reporter.flush()
    if best_snapshot is not None and best_snapshot.step not in best.steps():
        best.write(best_snapshot)
    checkpoints.write(snapshot)
    remove_replaced(checkpoints, keep, best, snapshot.progress["best_step"])


def remove_replaced(
    checkpoints: checkpoint.Checkpoints, keep: int, best: checkpoint.Checkpoints, best_step: int
) -> None:
    """Removes all checkpoints but the last `keep`, and all best weights but those of a step.

    At the start, too: a kill comes before it, or leaves weights of which no checkpoint speaks.
    """
    found = set(best.steps())
    if not best_step or best_step in found:  # after a damaged checkpoint there may be newer alone
        best.remove(found - {best_step})
    checkpoints.remove_replaced(keep)


def open_run(
    job: config.Job, strategy: tf.distribute.Strategy, manifest: schema.Manifest
) -> dict[str, Any]:
    """Returns the run's passport, new or, where the run goes on, as its start chose.

    Raises:
        InputError: the devices do not divide the batch, there is no val split, or the run folder
            holds another run.
    """
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
    fingerprint = schema.fingerprint(manifest)
    old = facts.read(job.run.run_dir)
    folders = (os.path.join(job.run.run_dir, name) for name in ("checkpoints", "best"))
    begun = any(checkpoint.Checkpoints(folder, {}).steps() for folder in folders)
    if not (old or begun):
        metrics_log.check_unused(job.run.run_dir)
    if not begun:
        old = None  # there is nothing to go on from, and nothing that other settings would spoil
    total_steps = job.optimization.total_steps(train_split.examples, job.data.batch_size)
    if old:
        run_metadata.check_same_run(old, job, fingerprint, strategy.num_replicas_in_sync)
        run_metadata.check_length(old, job, total_steps)
        run_metadata.check_same_replicas(old, job, strategy.num_replicas_in_sync)
    origin = transfer.origin(job.run, old)
    chosen = old or {}
    norm = norms.choose(job.model.norm, strategy.num_replicas_in_sync)
    synchronized = norm == "sync_batch" and strategy.num_replicas_in_sync > 1
    precision, jit_compile = strategies.choose_arithmetic(
        chosen.get("precision", "auto") if job.device.precision == "auto" else job.device.precision,
        str(chosen.get("jit_compile", "auto")).lower()
        if job.device.jit_compile == "auto" and not synchronized  # begun on one replica, with XLA
        else job.device.jit_compile,
        strategy,
        deterministic=job.device.deterministic,
        synchronized=synchronized,
    )
    if old and old["precision"] != precision:
        logging.info("The run was begun in %s and goes on in %s.", old["precision"], precision)
    return run_metadata.describe(
        job,
        flags.command_line(job),
        strategy,
        data_fingerprint=fingerprint,
        # Of a run that is the same, though another release may compute another fingerprint.
        fingerprint=chosen.get("fingerprint")
        or run_metadata.fingerprint(job, fingerprint, strategy.num_replicas_in_sync, origin),
        init_from=origin,
        channels=manifest.channels,
        classes=[entry.name for entry in manifest.classes],
        data=run_metadata.describe_data(manifest),
        streams=pipeline.num_streams(
            train_split,
            strategies.num_input_hosts(strategy),
            chosen.get("streams") or job.data.streams,
        ),
        begun_with_steps=chosen.get("begun_with_steps", chosen.get("total_steps", total_steps)),
        total_steps=total_steps,
        eval_every=job.run.eval_every
        or chosen.get("eval_every")  # also where the run has more steps now
        or max(1, total_steps // EVALUATIONS),
        peak_learning_rate=optimizers.scale_rate(
            job.optimization.lr_scaling,
            job.optimization.learning_rate,
            job.data.batch_size,
            job.optimization.lr_reference_batch,
        ),
        norm=norm,
        precision=precision,
        jit_compile=jit_compile,
    )


def log_start(
    job: config.Job, strategy: tf.distribute.Strategy, run: dict[str, Any], step: int
) -> None:
    """Says what is trained, how long, on what and from which step on."""
    logging.info(
        "Training %s for %d steps on %d × %s, %s%s, into %s",
        job.model.model,
        run["total_steps"],
        strategy.num_replicas_in_sync,
        strategies.device_kind(strategy),
        run["precision"],
        " with XLA" if run["jit_compile"] else "",
        job.run.run_dir,
    )
    if step:
        logging.info("Going on from step %d of %s.", step, job.run.run_dir)


def progress_of(commit: dict[str, Any], job: config.Job, run: dict[str, Any]) -> Progress:
    """Returns the progress that a checkpoint knows of.

    A run that is to have more steps than it was to have then gets its patience again.
    """
    step, progress = commit["step"], Progress(**commit["progress"])
    steps_before = progress.total_steps or run["begun_with_steps"]
    if step and steps_before < run["total_steps"]:
        log_lengthened(job, run, steps_before, step)
        progress = dataclasses.replace(progress, worse=0)
    return dataclasses.replace(progress, total_steps=run["total_steps"])


def log_lengthened(job: config.Job, run: dict[str, Any], steps_before: int, step: int) -> None:
    """Says how the learning rate goes on in a run that is to have more steps than before."""
    before, now = (
        optimizers.build_schedule(
            job.optimization.schedule,
            run["peak_learning_rate"],
            total_steps,
            job.optimization.warmup_steps,
        )(step)
        for total_steps in (steps_before, run["total_steps"])
    )
    logging.info(
        "The run had %d steps and now has %d: from step %d on, the learning rate is that of the %s "
        "schedule over %d steps, %.3g there instead of %.3g.",
        *(steps_before, run["total_steps"], step, job.optimization.schedule, run["total_steps"]),
        *(now, before),
    )


def check_data(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    manifest: schema.Manifest,
    run: dict[str, Any],
) -> schema.Manifest:
    """Returns the manifest to read by; enters what is unreadable into the passport `run`.

    Raises:
        InputError: shards are not the manifest's, or damaged beyond what was allowed.
    """
    worker, num_workers = strategies.worker_of(strategy)
    manifest, lost = integrity.check(
        data_dir,
        manifest,
        [split for split in ("train", "val", "test") if split in manifest.splits],
        skip_bad_records=job.data.skip_bad_records,
        worker=worker,
        num_workers=num_workers,
        sum_over_workers=functools.partial(strategies.sum_over_workers, strategy),
    )
    run["unreadable_records"] = [str(record) for record in lost]
    return manifest


def build_optimizer(
    settings: config.Optimization, total_steps: int, precision: str
) -> keras.optimizers.Optimizer:
    """Builds the optimizer with its schedule, and with loss scaling for float16."""
    schedule = optimizers.build_schedule(
        settings.schedule, settings.learning_rate, total_steps, settings.warmup_steps
    )
    decay = settings.weight_decay
    if decay is None:
        decay = 1e-4 if settings.optimizer == "adamw" else 0.0
    descent = optimizers.build_optimizer(settings.optimizer, schedule, decay, settings.momentum)
    return keras.optimizers.LossScaleOptimizer(descent) if precision == "float16" else descent


def open_stream(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    manifest: schema.Manifest,
    num_streams: int,
    step: int,
) -> tuple[tf.distribute.DistributedDataset, tf.data.Dataset]:
    """Opens the training batches from `step` on.

    Returns:
        The batches of all replicas, and the stream that is read for them on this worker.
    """
    streams = []

    def stream_of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        stream = pipeline.training_stream(
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
            worker=context.input_pipeline_id,
            num_workers=context.num_input_pipelines,
            num_replicas=strategy.num_replicas_in_sync // context.num_input_pipelines,
        )
        streams.append(stream)
        return stream

    batches = strategy.distribute_datasets_from_function(stream_of_host)
    return batches, streams[0]


def reading_explained(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    data_dir: str,
    manifest: schema.Manifest,
    num_streams: int,
    step: int,
    stop: int,
) -> contextlib.AbstractContextManager[None]:
    """Explains what is wrong with the data of the steps from `step` to before `stop`."""
    worker, num_workers = strategies.worker_of(strategy)
    places = functools.partial(
        read_errors.training_shards,
        manifest.splits["train"],
        range(step * job.data.batch_size, stop * job.data.batch_size),
        seed=job.run.seed,
        num_streams=num_streams,
        shuffle_block=job.data.shuffle_block,
        worker=worker,
        num_workers=num_workers,
    )
    return read_errors.translate_errors(data_dir, manifest, "train", places)


def first_examples(stream: tf.data.Dataset) -> dict[str, np.ndarray]:
    """Returns examples of the first batch of a stream, which begins anew for it."""
    batch = next(iter(stream))
    return {name: value[: tensorboard.SHEET].numpy() for name, value in batch.items()}


def closing_words(request: preemption.Request, step: int) -> str:
    """Returns what a job that was asked to stop says last."""
    if not request:
        return f"Stopped at step {step}, as another worker was asked to; the checkpoint is whole."
    return (
        f"Stopped by {request.name} at step {step}; the checkpoint was whole "
        f"{request.age_seconds:.1f} s after the signal. The same command goes on."
    )


def closing_lines(
    job: config.Job,
    scores: evaluator.Scores,
    split: str,
    best_step: int,
    reason: str,
    speed: Speed,
) -> str:
    """Returns what the command says last: the scores, the speed, and where everything is."""
    dice = scores.summary["dice"]
    run_dir, flag = (shlex.quote(f"{text}{job.run.run_dir}") for text in ("", "--run_dir="))
    curves = job.run.tensorboard_dir or os.path.join(job.run.run_dir, "tensorboard")
    return "\n".join(
        [
            evaluator.table(scores.summary),
            "",
            f"{split} Dice, mean per image: {'undefined' if dice is None else f'{dice:.4f}'}"
            f"   ({reason}; best checkpoint: step {best_step})",
            f"{speed.overall():.1f} images/s in training",
            f"run folder: {job.run.run_dir}",
            f"python -m trainer.predict {flag} --images=… --output=…",
            f"python -m trainer.export {flag}",
            f"python -m trainer.report {run_dir}",
            f"tensorboard --logdir {shlex.quote(curves)}",
        ]
    )
