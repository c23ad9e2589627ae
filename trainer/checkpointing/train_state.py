"""What training changes, network, average, optimizer and progress, as the run folder keeps it."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from trainer import config, models
from trainer.checkpointing import best_weights, checkpoint, encoder_weights, init_from
from trainer.data.dataset import schema
from trainer.distributed import arithmetic, strategies
from trainer.models import encoders
from trainer.models.build import build_model
from trainer.training import optimizers
from trainer.training.progress import Progress

LOSS_SCALE = "loss_scale"


@dataclasses.dataclass(frozen=True)
class StateSnapshot:
    """A copy of the state at a step, and of the best weights where they are new."""

    state: checkpoint.Snapshot
    best: checkpoint.Snapshot | None


class TrainState:
    """The state of a run, its checkpoints and its best weights.

    Attributes:
        model: the network that is trained.
        average: a network whose weights are the moving average of `model`'s; None without --ema.
        optimizer: of `model`.
        step: steps taken.
        progress: scores so far, and what else a resumed run must know.
    """

    def __init__(
        self,
        model: keras.Model,
        average: keras.Model | None,
        optimizer: keras.optimizers.Optimizer,
        run_dir: str,
        fingerprint: str = "",
        keep_checkpoints: int = 1,
    ):
        """Takes what was built; reads and writes nothing yet.

        Args:
            model: see the attributes, as the next two.
            average: None where weights are not averaged.
            optimizer: built for the model's trainable variables.
            run_dir: whose checkpoints/ and best/ keep the state.
            fingerprint: see `Checkpoints`.
            keep_checkpoints: number of checkpoints that stay.
        """
        self.model, self.average, self.optimizer = model, average, optimizer
        self.step, self.progress = 0, Progress()
        self._checkpoints = checkpoint.Checkpoints(
            os.path.join(run_dir, "checkpoints"),
            variables_of(model, average, optimizer),
            fingerprint,
            optional=[LOSS_SCALE],
        )
        self._best = best_weights.best_checkpoints(run_dir, self.evaluated)
        self._best_snapshot: checkpoint.Snapshot | None = None
        self._keep = keep_checkpoints
        self._saved = (0, 0)

    @property
    def evaluated(self) -> keras.Model:
        """The network that is evaluated and used: the average, where there is one."""
        return self.average or self.model

    def restore(self, strategy: tf.distribute.Strategy) -> bool:
        """Restores the newest complete checkpoint; returns whether there is one.

        Raises:
            InputError: it does not fit, or the workers see different ones.
        """
        commit = _restore_together(self._checkpoints, strategy)
        if commit is None:
            return False
        self.step, self.progress = commit["step"], Progress(**commit["progress"])
        self._saved = (self.step, self.progress.evaluated_step)
        return True

    def restore_best(self, strategy: tf.distribute.Strategy) -> bool:
        """Restores the best weights; returns whether there are any that are whole."""
        return _restore_together(self._best, strategy) is not None

    def add_evaluation(
        self, metric: str, figures: Mapping[str, float], higher_is_better: bool
    ) -> None:
        """Notes an evaluation of this step, and copies its weights if they are the best so far."""
        self.progress = self.progress.after(self.step, metric, figures, higher_is_better)
        if self.progress.best_step == self.step:
            self._best_snapshot = self._best.snapshot(self.step, {})

    @property
    def is_saved(self) -> bool:
        """Whether this step, with its evaluation if it had one, has been copied to be written."""
        return (self.step, self.progress.evaluated_step) <= self._saved

    def snapshot(
        self, unreported: Mapping[str, Sequence[float]], seconds: Mapping[str, float]
    ) -> StateSnapshot:
        """Returns a copy of the state, which `write` writes while training continues.

        Args:
            unreported: figures of the steps since the last report, see `Progress`.
            seconds: see `Progress`.
        """
        progress = dataclasses.replace(self.progress, unreported=unreported, seconds=seconds)
        self._saved = (self.step, self.progress.evaluated_step)
        copied = self._checkpoints.snapshot(self.step, progress.to_dict())
        return StateSnapshot(copied, self._best_snapshot)

    def write(self, snapshot: StateSnapshot) -> None:
        """Writes a snapshot, in the order in which a kill does no harm; may run in another thread.

        The best weights are there before the checkpoint that speaks of them; what they replace is
        removed after it. May be called again where it failed.
        """
        if snapshot.best is not None and snapshot.best.step not in self._best.steps():
            self._best.write(snapshot.best)
        self._checkpoints.write(snapshot.state)
        self._remove_replaced(snapshot.state.progress["best_step"])

    def remove_leftovers(self) -> None:
        """Removes what a kill left: files of no checkpoint, and checkpoints that were replaced."""
        self._checkpoints.remove_strays()
        self._best.remove_strays()
        self._remove_replaced(self.progress.best_step)

    def _remove_replaced(self, best_step: int) -> None:
        """Removes all but the last checkpoints, and all best weights but those of `best_step`."""
        found = set(self._best.steps())
        if (
            not best_step or best_step in found
        ):  # after a damaged checkpoint, only newer may be there
            self._best.remove(found - {best_step})
        self._checkpoints.remove_replaced(self._keep)

    def saved_steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are whole, ascending."""
        return self._checkpoints.steps()


def create(
    job: config.Job,
    strategy: tf.distribute.Strategy,
    manifest: schema.Manifest,
    metadata: Mapping[str, Any],
) -> TrainState:
    """Builds the state of a job, and restores it from the newest checkpoint if there is one.

    A new run begins with random weights, its encoder's own, or those of another run.

    Args:
        job: the settings.
        strategy: over whose devices the state is spread.
        manifest: of the data.
        metadata: see `open_run`.
    """
    keras.mixed_precision.set_global_policy(arithmetic.POLICIES[metadata["precision"]])
    settings = dataclasses.replace(job.optimization, learning_rate=metadata["peak_learning_rate"])
    with strategy.scope():
        model = build_model(
            job.model,
            manifest.channels,
            manifest.num_classes,
            strategy.num_replicas_in_sync,
            manifest.rank,
            job.data.normalize,
        )
        models.initialize_weights(model, job.run.seed)
        average = keras.models.clone_model(model) if job.optimization.ema else None
        optimizer = optimizers.optimizer_of(
            settings, metadata["total_steps"], metadata["precision"], encoders.variables_of(model)
        )
        optimizer.build(model.trainable_variables)
    state = TrainState(
        model,
        average,
        optimizer,
        job.run.run_dir,
        metadata["fingerprint"],
        job.run.keep_checkpoints,
    )
    if not state.restore(strategy):
        encoder_weights.begin(model, job.model)
        if metadata["init_from"]:
            init_from.begin(model, metadata["init_from"], job)
        if average is not None:
            average.set_weights(model.get_weights())
    state.progress = _with_length(state, settings, metadata)
    return state


def variables_of(
    model: keras.Model, average: keras.Model | None, optimizer: keras.optimizers.Optimizer
) -> dict[str, Any]:
    """Returns all variables of a run, in the groups of a checkpoint.

    The scale of float16's loss is a group of its own: a run that resumes in another precision has
    none, and one that resumes in float16 begins a new one.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    groups = {"model": model.variables, "optimizer": inner.variables}
    if inner is not optimizer:
        groups[LOSS_SCALE] = optimizer.variables[: -len(inner.variables)]
    if average is not None:
        groups["average"] = average.variables
    return groups


def _restore_together(
    checkpoints: checkpoint.Checkpoints, strategy: tf.distribute.Strategy
) -> dict[str, Any] | None:
    """Restores the newest checkpoint; returns its commit, on all workers the same, or None.

    Raises:
        InputError: if the workers see different ones.
    """
    commit = checkpoints.restore()
    add = functools.partial(strategies.sum_over_workers, strategy)
    worker, num_workers = strategies.worker_of(strategy)
    checkpoint.check_same(checkpoints.directory, commit, worker, num_workers, add)
    return commit


def _with_length(
    state: TrainState, settings: config.Optimization, metadata: Mapping[str, Any]
) -> Progress:
    """Returns the progress with the run's number of steps.

    A run that is to have more steps than before may again be as long without a better score.
    """
    progress, total_steps = state.progress, metadata["total_steps"]
    steps_before = progress.total_steps or metadata["begun_with_steps"]
    if state.step and steps_before < total_steps:
        _log_lengthened(settings, steps_before, total_steps, state.step)
        progress = dataclasses.replace(progress, worse=0)
    return dataclasses.replace(progress, total_steps=total_steps)


def _log_lengthened(
    settings: config.Optimization, steps_before: int, total_steps: int, step: int
) -> None:
    """Says what the learning rate is in a run that is to have more steps than before."""
    before, now = (
        optimizers.build_schedule(
            settings.schedule, settings.learning_rate, steps, settings.warmup_steps
        )(step)
        for steps in (steps_before, total_steps)
    )
    logging.info(
        "The run had %d steps and now has %d: from step %d on, the learning rate is that of the %s "
        "schedule over %d steps, %.3g there instead of %.3g.",
        *(steps_before, total_steps, step, settings.schedule, total_steps, now, before),
    )
