"""The story of a job: connect, build, restore, train until the last step, evaluate the best."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf
from absl import logging

from trainer import config, export, report, terminal
from trainer.checkpointing import run_metadata, train_state
from trainer.checkpointing.background_writer import Writer
from trainer.checkpointing.session import Session, open_session
from trainer.checkpointing.train_state import TrainState
from trainer.data.dataset import sample, schema
from trainer.data.input import balancing, pipeline
from trainer.data.input.training_batches import TrainingBatches
from trainer.data.planning import data_plan
from trainer.distributed import strategies
from trainer.evaluate import case_tables, eval_step, metrics, output
from trainer.evaluate.case_tables import CaseTables
from trainer.evaluate.cases import CaseSelector
from trainer.evaluate.evaluator import CancelledError, Evaluator, source_of
from trainer.evaluate.scores import figures_of
from trainer.export import output_folder
from trainer.models import channel_packing, encoders, functional
from trainer.monitoring.reporter import Reporter, reporting
from trainer.training import losses, train_step
from trainer.training.progress import check_finite
from trainer.training.schedule import STEPS_PER_LOOP, StepSchedule

TrainSteps = Callable[[Iterator, tf.Tensor], dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop uses.

    Attributes:
        state: what training changes.
        schedule: what is due at which step.
        train_steps: the compiled loop, see `train_step.train_loop`.
        batches: for it.
        iterator: over `batches`.
        manifest: of the data, with the val split that is evaluated while training.
        evaluate: evaluates a split of it.
        reporter: says how far the run is.
        writer: writes checkpoints while training continues.
    """

    state: TrainState
    schedule: StepSchedule
    train_steps: TrainSteps
    batches: TrainingBatches
    iterator: Iterator
    manifest: schema.Manifest
    evaluate: Evaluator
    reporter: Reporter
    writer: Writer


def train(job: config.Job) -> None:
    """Trains until the last step, resuming where the run stopped, then evaluates the best weights.

    Raises:
        InputError: settings, data and devices do not go together, another job writes into the run
            folder, the loss is not finite, or no checkpoint can be written.
        preemption.StoppedError: the job was asked to stop; its state is saved.
    """
    started = time.monotonic()
    terminal.busy("opening the data and the run folder")
    with open_session(job) as session:
        terminal.busy("building the network")
        state = train_state.create(job, session.strategy, session.manifest, session.metadata)
        with build_parts(session, state, started) as parts:
            session.ending.reason = fit(session, parts)
            parts.writer.drain()
            evaluate_best(session, parts)


def fit(session: Session, parts: Parts) -> str:
    """Evaluates, saves and takes steps, each where it is due; returns why the run ended.

    Raises:
        preemption.StoppedError: a worker was asked to stop; the state is saved.
    """
    state, schedule = parts.state, parts.schedule
    first = state.step
    while True:
        if schedule.evaluates_at(state.step, state.progress.evaluated_step):
            validate(session, parts)

        session.run_lock.check()
        stopping, seconds_per_step = strategies.agree(
            session.strategy, session.is_cancelled(), parts.reporter.seconds_per_step
        )
        finished = state.step == schedule.total_steps
        ended = finished or state.progress.exhausted(session.job.run.patience)
        due = schedule.saves_at(state.step) or ended or stopping
        if due and session.is_chief and not state.is_saved:
            save(parts)
        if stopping:
            parts.writer.drain()
            raise session.request.stopped(state.step)
        if ended:
            return "finished" if finished else "stopped early"

        if state.step == first:
            terminal.busy("compiling the training step")
        take_steps(session, parts, schedule.next_stop(state.step, seconds_per_step))


def validate(session: Session, parts: Parts) -> None:
    """Evaluates the val split; where a signal cuts that short, it is due again on resuming."""
    settings, state = session.job.run, parts.state
    selected = CaseSelector(first=settings.panels, worst=settings.worst_panels)
    spending = parts.reporter.goodput.spending
    with spending("evaluation"), contextlib.suppress(CancelledError):
        scores = parts.evaluate("val", selected.add, session.is_cancelled)
        figures = figures_of(scores)
        parts.reporter.validated(figures, scores, selected)
        higher_is_better = metrics.higher_is_better(settings.best_metric)
        state.add_evaluation(settings.best_metric, figures, higher_is_better)


def save(parts: Parts) -> None:
    """Copies the state, which is written while training continues, after the reports before it."""
    state, reporter = parts.state, parts.reporter
    with reporter.goodput.spending("checkpoint"):
        reporter.log.rotate(state.step)
        snapshot = state.snapshot(reporter.unreported(), reporter.goodput.seconds())

        def write() -> None:
            reporter.log.flush()
            state.write(snapshot)

        parts.writer.submit(write)


def take_steps(session: Session, parts: Parts, stop: int) -> None:
    """Trains up to `stop` in one call of the compiled loop."""
    state, first = parts.state, parts.state.step
    with parts.reporter.profiling(first, stop), parts.batches.translate_errors(first, stop):
        start = time.monotonic()
        tensors = parts.train_steps(parts.iterator, tf.constant(stop - first))
        figures = {name: values.numpy() for name, values in tensors.items()}
        seconds = time.monotonic() - start

    def saved_steps() -> list[int]:
        parts.writer.drain()
        return state.saved_steps()

    check_finite(figures, first + 1, session.metadata["precision"], saved_steps)
    state.step = stop
    parts.reporter.trained(stop - first, seconds, figures)


def evaluate_best(session: Session, parts: Parts) -> None:
    """Evaluates the best weights on the test split, or on val, and exports them if asked to.

    Raises:
        preemption.StoppedError: a worker was asked to stop.
    """
    settings, state, split = session.job.run, parts.state, session.final_split
    strategies.wait_for_workers(session.strategy)  # until the chief has written what all now read
    if not state.restore_best(session.strategy):
        logging.warning(
            "%s/best has no complete checkpoint: the last weights are evaluated.", settings.run_dir
        )
    selected = CaseSelector(worst=settings.worst_cases, best=settings.best_cases)
    evaluate = parts.evaluate
    if split == "val" and parts.manifest is not session.manifest:  # of which that has a sample
        evaluate = build_evaluator(session, state, session.manifest)
    folder = os.path.join(settings.run_dir, "evaluation", split)
    classes = [entry.name for entry in session.manifest.classes]
    with CaseTables(session.manifest.splits[split].names, classes) as tables:
        try:
            scores = evaluate(
                split,
                selected.add,
                session.is_cancelled,
                tolerance=settings.tolerance_mm,
                keep=tables.keep,
            )
        except CancelledError:
            raise session.request.stopped(state.step) from None
        scores = scores.of_data(session.metadata["data_fingerprint"])
        output.write(folder, scores, tables, selected, session.manifest, split, session.strategy)
    if not session.is_chief:
        return
    if split == "test":  # val has been reported
        parts.reporter.log.test(state.progress.best_step, figures_of(scores))
    if settings.model_dir:
        export.write(settings.run_dir, settings.model_dir, flag="model_dir")
    parts.reporter.log.flush()
    session.metadata["seconds"] = sum(parts.reporter.goodput.seconds().values())
    ending = run_metadata.ended(session.ending.reason)
    report.write(settings.run_dir, {**session.metadata, **ending})
    parts.reporter.end(scores, split, session.ending.reason)


@contextlib.contextmanager
def build_parts(session: Session, state: TrainState, started: float) -> Iterator[Parts]:
    """Builds what the loop uses, and begins or resumes the run once nothing can be refused.

    Args:
        session: of the job.
        state: of the run, restored.
        started: when the job began, by `time.monotonic`.
    """
    job, strategy, manifest = session.job, session.strategy, session.manifest
    metadata, kind = session.metadata, strategies.device_kind(strategy)
    schedule = StepSchedule(
        total_steps=metadata["total_steps"],
        eval_every=metadata["eval_every"],
        checkpoint_every=job.run.checkpoint_every or metadata["eval_every"],
        report_every=job.device.steps_per_loop or STEPS_PER_LOOP[kind],
        traced=job.run.traced_steps(),
        freeze_until=job.optimization.freeze_until,
    )
    train_steps = build_train_steps(session, state)
    validated = sample.of_validation(manifest, job.run.eval_images)
    evaluate = build_evaluator(session, state, validated)
    begin_run(session, state, evaluate)
    batches = TrainingBatches(
        job.data,
        strategy,
        session.data_dir,
        manifest,
        seed=job.run.seed,
        num_streams=metadata["streams"],
        start_step=state.step,
        cache=session.cache,
    )
    iterator = pipeline.keep_alive(iter(batches))
    with reporting(job, strategy, validated, state, schedule, started) as reporter:
        if session.is_chief and state.step == 0:
            terminal.busy("reading and drawing the first batch")
            reporter.begin(metadata, batches)
        with Writer(job.run.checkpoint_patience) as writer:
            yield Parts(
                state=state,
                schedule=schedule,
                train_steps=train_steps,
                batches=batches,
                iterator=iterator,
                manifest=validated,
                evaluate=evaluate,
                reporter=reporter,
                writer=writer,
            )


def begin_run(session: Session, state: TrainState, evaluate: Evaluator) -> None:
    """Makes the last checks, then writes run.json, which makes the run folder this run's.

    Raises:
        InputError: an output of the network does not fit the crop, images cannot be cut into tiles,
            --model_dir holds files of others, or the scores of so many cases cannot be written.
    """
    job, metadata = session.job, session.metadata
    functional.strides(state.model, job.data.box(session.manifest.rank))
    evaluate.check("val", session.final_split)
    case_tables.check(session.final_split, session.manifest.splits[session.final_split].examples)
    if session.is_chief:
        if job.run.model_dir:
            will_differ = state.step < metadata["total_steps"]
            output_folder.check("model_dir", job.run.model_dir, will_differ=will_differ)
        state.remove_leftovers()
        metadata["parameters"] = state.model.count_params()
        run_metadata.write(job.run.run_dir, metadata)
    logging.info(
        "Training %s for %d steps on %d × %s, %s%s, into %s",
        job.model.title,
        metadata["total_steps"],
        session.strategy.num_replicas_in_sync,
        strategies.device_kind(session.strategy),
        metadata["precision"],
        " with XLA" if metadata["jit_compile"] else "",
        job.run.run_dir,
    )
    if state.step == 0 and (reason := metadata["precision_reason"]):
        logging.info("Computes in %s (--precision=auto): %s.", metadata["precision"], reason)
    asked, every = job.run.eval_images, session.manifest.splits["val"].examples
    if 0 < asked < every:
        logging.info("Validated on %d of %d cases while training (--eval_images).", asked, every)
    if job.data.balance_cases:
        shards = session.manifest.splits["train"].shards
        balancing.tell(shards, metadata["classes"], job.data.balance_cases)
    if state.step:
        logging.info("Resuming from step %d of %s.", state.step, job.run.run_dir)
    elif session.is_chief:
        for remark in (data_plan.suggestion(job), data_plan.padding(job.data, session.manifest)):
            if remark:
                logging.info("%s", remark)


def build_train_steps(session: Session, state: TrainState) -> TrainSteps:
    """Returns the compiled loop over training steps, see `train_step.train_loop`.

    While the encoder is frozen it is another program, which computes no gradient of it.
    """
    freeze_until = session.job.optimization.freeze_until
    whole = _train_loop(session, state)
    if state.step >= freeze_until:
        return whole
    frozen = _train_loop(session, state, encoders.layers_of(state.model))

    def train_steps(iterator: Iterator, num_steps: tf.Tensor) -> dict[str, tf.Tensor]:
        steps = frozen if state.step < freeze_until else whole
        return steps(iterator, num_steps)

    return train_steps


def _train_loop(
    session: Session, state: TrainState, frozen: Sequence[keras.layers.Layer] = ()
) -> TrainSteps:
    job, kind = session.job, strategies.device_kind(session.strategy)
    return train_step.train_loop(
        session.strategy,
        state.model,
        state.optimizer,
        losses.LOSSES[job.optimization.loss],
        class_weights_of(session),
        clip_norm=job.optimization.clip_norm,
        accumulate_steps=job.optimization.accumulate_steps,
        average=state.average,
        average_decay=job.optimization.ema,
        jit_compile=session.metadata["jit_compile"],
        collectives_in_xla=session.metadata["collectives_in_xla"],
        lane_width=channel_packing.LANE_WIDTHS[kind],
        frozen=frozen,
        timed=not job.device.deterministic and kind != "TPU",
    )


def build_evaluator(session: Session, state: TrainState, manifest: schema.Manifest) -> Evaluator:
    """Returns the evaluator of the splits of a manifest, with the weights that are used."""
    job = session.job
    source = source_of(
        job,
        session.strategy,
        session.data_dir,
        manifest,
        batch_size=job.run.eval_batch_size or job.data.batch_size,
        tile=job.run.tile,
        most_shapes=eval_step.most_shapes(session.strategy, [state.evaluated]),
        cache=session.cache,
    )
    return Evaluator(
        session.strategy,
        eval_step.prediction_of(session.strategy, state.evaluated),
        session.data_dir,
        manifest,
        source,
        terms=losses.LOSSES[job.optimization.loss],
        class_weights=class_weights_of(session),
    )


def class_weights_of(session: Session) -> tf.Tensor:
    """Returns the weight of each class in the loss, float32 [num_classes]."""
    pixels = session.manifest.splits["train"].pixels
    return losses.class_weights(session.job.optimization.class_weights, pixels)
