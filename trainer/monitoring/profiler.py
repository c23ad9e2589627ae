"""Traces some training steps for the profile tab of TensorBoard."""

import contextlib

import tensorflow as tf

from trainer.monitoring import metrics_log


class Profiler:
    """Traces the steps from `first` to `last`, once; used as a context, which ends it early."""

    def __init__(self, steps: tuple[int, int] | None, log: metrics_log.MetricsLog, chief: bool):
        """Traces nothing yet.

        Args:
            steps: the first and last step, counted from 1; none if None.
            log: whose TensorBoard folder takes the trace.
            chief: whether this worker traces.
        """
        self._steps = steps
        self._log = log
        self._chief = chief
        self._runs = False

    def begin(self, step: int) -> None:
        """Begins the trace after `step` steps, if its first or a later one of its steps is next."""
        if self._steps is None or not self._steps[0] <= step + 1 <= self._steps[1]:
            return
        if self._chief and not self._runs:
            tf.profiler.experimental.start(self._log.attachments())
            self._runs = True

    def marked(self, step: int) -> contextlib.AbstractContextManager[object]:
        """Marks what is done within as a step, if it is traced."""
        if not self._runs:
            return contextlib.nullcontext()
        return tf.profiler.experimental.Trace("train", step_num=step, _r=1)  # _r: a root event

    def end(self, step: int) -> None:
        """Ends the trace and writes it, if `step` was its last."""
        if self._runs and self._steps is not None and step >= self._steps[1]:
            tf.profiler.experimental.stop()
            self._log.attach()
            self._runs, self._steps = False, None

    def __enter__(self) -> "Profiler":
        """Does nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drops a trace whose last step was not reached."""
        if self._runs:
            tf.profiler.experimental.stop(save=False)
