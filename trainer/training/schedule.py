"""What is due at which step of a run: an evaluation, a checkpoint, a report, a traced step."""

import dataclasses

STEPS_PER_LOOP = {"CPU": 10, "GPU": 50, "TPU": 100}
LOOP_SECONDS = 5.0  # of one call, so that a job told to stop notices it in time


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """Decides by the number of steps taken, so that a resumed run does what an unstopped one does.

    Attributes:
        total_steps: of the run.
        eval_every: steps between two evaluations.
        checkpoint_every: steps between two checkpoints.
        report_every: steps between two reports, and the most that one call takes.
        traced: the first and last step of the profile, counted from 1; None: no step is traced.
        freeze_until: steps that are taken without the encoder; no call goes past it.
    """

    total_steps: int
    eval_every: int
    checkpoint_every: int
    report_every: int
    traced: tuple[int, int] | None = None
    freeze_until: int = 0

    def evaluates_at(self, step: int, evaluated_step: int) -> bool:
        """Returns whether an evaluation is due after `step` steps.

        Args:
            step: steps taken.
            evaluated_step: of the last evaluation. One that was cut short is due again.
        """
        return step > evaluated_step and (step % self.eval_every == 0 or step == self.total_steps)

    def saves_at(self, step: int) -> bool:
        """Returns whether a checkpoint is due after `step` steps."""
        return step % self.checkpoint_every == 0 or step == self.total_steps

    def reports_at(self, step: int) -> bool:
        """Returns whether the means of the last steps are due after `step` steps."""
        at_multiple = step % self.report_every == 0 or step % self.eval_every == 0
        return at_multiple or step == self.total_steps

    def next_stop(self, step: int, seconds_per_step: float) -> int:
        """Returns up to which step one call of the compiled loop goes.

        Nothing is due before it, and it is reached within LOOP_SECONDS. Each traced step is a call
        of its own: the profile tab of TensorBoard counts calls as steps.

        Args:
            step: steps taken.
            seconds_per_step: measured; infinite where it is not known yet, and then one is taken.
        """
        periods = (self.eval_every, self.checkpoint_every, self.report_every)
        stop = min(
            step + max(1, int(LOOP_SECONDS / seconds_per_step)),
            *(step - step % every + every for every in periods),
            self.total_steps,
            *([self.freeze_until] if step < self.freeze_until else []),
        )
        if self.traced is None or step >= self.traced[1]:
            return stop
        before = self.traced[0] - 1
        return min(stop, before) if step < before else step + 1
