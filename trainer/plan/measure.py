"""Measures on this machine what a job's start, steps and evaluation take."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Sequence

import keras
import tensorflow as tf

from trainer import config, loop
from trainer.checkpointing import session, train_state
from trainer.data.dataset import sample
from trainer.data.input import pipeline
from trainer.data.input.training_batches import TrainingBatches
from trainer.evaluate.evaluator import CancelledError
from trainer.plan.timed import Measured

STEPS = 3  # in a call of the compiled loop
CALLS = 3  # at least, of which the median counts
EVALUATION_SECONDS = 10.0  # for which cases are evaluated, after the first batch
SECONDS = 4.0  # for which steps are taken, at least


def measure(job: config.Job) -> Measured:
    """Takes some training steps of a job, with its data and devices, in a folder of no duration.

    Args:
        job: the settings; its run folder is not touched.
    """
    keras.backend.clear_session()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        job = dataclasses.replace(job, run=dataclasses.replace(job.run, run_dir=f"{folder}/run"))
        with session.open_session(job) as opened:
            state = train_state.create(job, opened.strategy, opened.manifest, opened.metadata)
            steps = loop.build_train_steps(opened, state)
            batches = TrainingBatches(
                job.data,
                opened.strategy,
                opened.data_dir,
                opened.manifest,
                seed=job.run.seed,
                num_streams=opened.metadata["streams"],
            )
            iterator = pipeline.keep_alive(iter(batches))
            _take(steps, iterator, 1)
            start = time.monotonic() - started
            return Measured(
                start=start,
                step=_seconds_per_step(steps, iterator),
                evaluation=_evaluation(opened, state),
                precision=opened.metadata["precision"],
            )


def _take(steps, iterator, number: int) -> float:
    """Returns the seconds that so many steps take."""
    started = time.monotonic()
    figures = steps(iterator, tf.constant(number))
    figures["loss"].numpy()  # waits for them
    return time.monotonic() - started


def _seconds_per_step(steps, iterator) -> float:
    """Returns the seconds of a step in a typical call, the median; other work may hit one."""
    taken: list[float] = []
    while len(taken) < CALLS or sum(taken) < SECONDS:
        taken.append(_take(steps, iterator, STEPS))
    return sorted(taken)[len(taken) // 2] / STEPS


def _evaluation(opened: session.Session, state: train_state.TrainState) -> float:
    """Returns the seconds of an evaluation, from as many cases as there was time for.

    The first batch also compiles, so that others are measured after it.
    """
    manifest = sample.of_validation(opened.manifest, opened.job.run.eval_images)
    evaluate = loop.build_evaluator(opened, state, manifest)
    seen: list[int] = []
    marks: list[tuple[float, int]] = []  # after each batch: the time, and the cases so far
    started = time.monotonic()

    def is_over() -> bool:  # asked before each batch
        if seen:
            marks.append((time.monotonic(), len(seen)))
        return bool(marks) and marks[-1][0] - marks[0][0] > EVALUATION_SECONDS

    with contextlib.suppress(CancelledError):
        evaluate("val", lambda case: seen.append(case.index), is_over)
        return time.monotonic() - started
    return extrapolated(started, marks, manifest.splits["val"].examples)


def extrapolated(started: float, marks: Sequence[tuple[float, int]], total: int) -> float:
    """Returns the seconds of all cases: of the first batch as it was, of the rest by their rate.

    Args:
        started: when the evaluation began.
        marks: after the first batch and later ones, the time and the number of cases so far.
        total: cases.
    """
    (first, begun), (last, reached) = marks[0], marks[-1]
    return first - started + (last - first) * (total - begun) / max(1, reached - begun)
