"""What a run reports while it trains, and the clocks behind it."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from trainer import commands, config, terminal
from trainer.checkpointing.train_state import TrainState
from trainer.data.dataset import schema
from trainer.data.input.training_batches import TrainingBatches
from trainer.distributed import strategies
from trainer.evaluate.cases import CaseSelector
from trainer.evaluate.scores import Scores, table
from trainer.monitoring import metrics_log, tensorboard
from trainer.monitoring.goodput import Goodput, Speed
from trainer.monitoring.profiler import Profiler
from trainer.monitoring.resource_stats import ResourceStats
from trainer.training.progress import Series
from trainer.training.schedule import StepSchedule


class Reporter:
    """Feeds metrics.jsonl, TensorBoard, the terminal and the profile; see `reporting`.

    Attributes:
        log: of the figures.
        goodput: where the time goes.
    """

    def __init__(
        self,
        job: config.Job,
        strategy: tf.distribute.Strategy,
        manifest: schema.Manifest,
        state: TrainState,
        schedule: StepSchedule,
        log: metrics_log.MetricsLog,
        profiler: Profiler,
        started: float,
    ):
        """Reports nothing yet; see `reporting` for the arguments."""
        self._job, self._manifest = job, manifest
        self._state, self._schedule = state, schedule
        self.log, self._profiler = log, profiler
        self.goodput = Goodput(started, state.progress.seconds)
        self._resources = ResourceStats(strategy, state.model)
        self._speed = Speed(job.data.batch_size)
        self._series = Series(state.progress.unreported)
        self._redo_until = state.step + log.steps_to_redo

    @property
    def seconds_per_step(self) -> float:
        """Seconds of a step in the last call of the loop; infinite where they are not known yet."""
        return self._speed.per_step

    def unreported(self) -> dict[str, list[float]]:
        """Returns the figures of each step since the last report, by name."""
        return self._series.values()

    def begin(self, metadata: Mapping[str, Any], batches: TrainingBatches) -> None:
        """Draws what is known before the first step of a run: settings, network, first batch."""
        with batches.translate_errors(0, 1):
            examples = batches.first_examples(tensorboard.SHEET)
        self.log.start(
            lambda: tensorboard.write_start(
                self._job, metadata, self._state.model, examples, self._manifest
            )
        )

    @contextlib.contextmanager
    def profiling(self, step: int, stop: int) -> Iterator[None]:
        """Traces the steps from `step` to `stop` that are taken within, if they are to be."""
        self._profiler.begin(step)
        with self._profiler.marked(stop):
            yield

    def trained(self, num_steps: int, seconds: float, figures: Mapping[str, np.ndarray]) -> None:
        """Notes one call of the loop, up to the state's step, and reports means where due.

        Args:
            num_steps: that it took.
            seconds: for which it ran.
            figures: what it returned, see `train_step.train_loop`.
        """
        step = self._state.step
        waited = float(figures["wait_seconds"].sum())
        self._series.add({name: f for name, f in figures.items() if name != "wait_seconds"})
        self._speed.add(num_steps, seconds, waited)
        self.goodput.add_steps(seconds, waited, redone=step <= self._redo_until)
        self._profiler.end(step)
        if self._schedule.reports_at(step):
            means = self._series.take_means()
            means["learning_rate"] = float(self._state.optimizer.learning_rate.numpy())
            means.update(self._resources.figures())
            self.log.train(step, {**means, **self._speed.take(), **self.goodput.shares()})

    def validated(
        self,
        figures: Mapping[str, float],
        scores: Scores,
        selected: CaseSelector,
    ) -> None:
        """Reports an evaluation of the val split at the state's step, and draws its cases."""
        weights = self._state.evaluated.trainable_variables if self._job.run.histograms else []
        draw = functools.partial(
            tensorboard.write_evaluation, scores, selected, self._manifest, "val", weights
        )
        self.log.validation(self._state.step, figures, draw)

    def end(self, scores: Scores, split: str, reason: str) -> None:
        """Logs the scores, how the run ended, where it is and the next commands.

        Args:
            scores: of the best weights.
            split: on which.
            reason: why the run ended.
        """
        self.log.end(tensorboard.write_end)
        seconds = sum(self.goodput.seconds().values())
        title = f"{self._state.step} steps, {terminal.clock(seconds)}"
        ending = reason if self._speed.has_steps() else f"already {reason}"
        lines = score_lines(
            scores.summary,
            split,
            f"{ending}; best checkpoint: step {self._state.progress.best_step}",
            self._speed.overall(),
        )
        logging.info("%s\n%s", terminal.ruled(title, lines), next_lines(self._job.run))


@contextlib.contextmanager
def reporting(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    manifest: schema.Manifest,
    state: TrainState,
    schedule: StepSchedule,
    started: float,
) -> Iterator[Reporter]:
    """Yields what reports a run; drops what the run folder says of steps after the state's.

    The chief alone writes. Other workers keep the same clocks, because they stop where it does.

    Args:
        job: the settings.
        strategy: the devices.
        manifest: of the data.
        state: of the run, restored.
        schedule: of the run.
        started: when the job began, by `time.monotonic`.
    """
    chief = strategies.worker_of(strategy)[0] == 0
    with (
        metrics_log.MetricsLog(
            job.run.run_dir,
            chief,
            state.step,
            schedule.total_steps,
            state.progress.evaluated_step,
            job.run.tensorboard_dir,
        ) as log,
        Profiler(schedule.traced, log, chief) as profiler,
    ):
        yield Reporter(job, strategy, manifest, state, schedule, log, profiler, started)


def score_lines(summary: dict[str, Any], split: str, remark: str, images_per_second: float) -> str:
    """Returns the scores and the speed.

    Args:
        summary: of the scores.
        split: that was evaluated.
        remark: how the run ended.
        images_per_second: in training; 0 where it is not known.
    """
    dice = summary["dice"]
    return "\n".join(
        [
            table(summary),
            "",
            f"{split} Dice, mean per image: {'undefined' if dice is None else f'{dice:.4f}'}"
            f"   ({remark})",
            *([f"{images_per_second:.1f} images/s in training"] if images_per_second else []),
        ]
    )


def next_lines(run: config.Run) -> str:
    """Returns where everything is, and the next commands, each on a line to be copied."""
    flag = f"--run_dir={run.run_dir}"
    # Not the folder of the curves: TensorBoard's table of runs finds no scores of a run named ".".
    curves = run.tensorboard_dir or run.run_dir
    return "\n".join(
        [
            f"run folder: {run.run_dir}",
            f"report: {os.path.join(run.run_dir, 'report.html')}",
            commands.line("trainer.predict", flag, "--images=…", "--output=…"),
            commands.line("trainer.export", flag),
            commands.script("tensorboard", "--logdir", curves),
        ]
    )
