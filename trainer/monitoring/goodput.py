"""Where the wall time of a run goes, added up over all its restarts."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping

PARTS = ("steps", "redone", "input", "evaluation", "checkpoint", "startup")


class Goodput:
    """Seconds by part.

    `steps` are those that advanced the run; `redone` those that had been taken before the
    run was stopped, after its last checkpoint; `input` is what steps waited for their batch;
    `checkpoint` what they waited for a snapshot or for the writer; `startup` the time from the
    start of the job to the end of its first step. Time in which no process ran is not included.
    """

    def __init__(
        self,
        started: float,
        seconds: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ):
        """Continues from earlier processes of the run.

        Args:
            started: when this process began with the job, by `clock`.
            seconds: what `seconds()` returned in the last checkpoint, or nothing.
            clock: in seconds.
        """
        self._seconds = {part: float(seconds.get(part, 0.0)) for part in PARTS}
        self._clock = clock
        self._started: float | None = started  # until the first step is taken

    @contextlib.contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Adds the time until the end of the block to a part."""
        start = self._clock()
        try:
            yield
        finally:
            self.add(part, self._clock() - start)

    def add(self, part: str, seconds: float) -> None:
        """Adds seconds to a part."""
        self._seconds[part] += seconds
        if self._started is not None:  # else they would count as startup, too
            self._started += seconds

    def add_steps(self, seconds: float, waited: float, *, redone: bool) -> None:
        """Adds the seconds of some steps, of which they waited for their input."""
        if self._started is not None:  # the first steps of a process, which were also compiled
            self._seconds["startup"] += self._clock() - self._started
            self._started = None
            return
        self.add("input", waited)
        self.add("redone" if redone else "steps", seconds - waited)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds by part."""
        return {part: round(seconds, 3) for part, seconds in self._seconds.items()}

    def shares(self) -> dict[str, float]:
        """Returns `goodput`, the share of steps in the whole time, and `share_…` of the rest."""
        total = sum(self._seconds.values()) or 1.0
        shares = {part: seconds / total for part, seconds in self._seconds.items()}
        return {
            "goodput": shares.pop("steps"),
            **{f"share_{part}": share for part, share in shares.items()},
        }


class Speed:
    """How fast steps are, since the last report and at the last call."""

    def __init__(self, batch_size: int):
        """Takes the number of images of a step."""
        self._batch_size = batch_size
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        self.per_step = math.inf  # seconds; not known before the second call: the first compiles
        self._calls = 0
        self._all_steps, self._all_seconds = 0, 0.0  # except the first call

    def add(self, steps: int, seconds: float, waited: float) -> None:
        """Adds one call of the loop."""
        self._steps += steps
        self._seconds += seconds
        self._waited += waited
        self._calls += 1
        if self._calls > 1:
            self.per_step = seconds / steps
            self._all_steps += steps
            self._all_seconds += seconds

    def has_steps(self) -> bool:
        """Returns whether any step was taken."""
        return self._calls > 0

    def overall(self) -> float:
        """Returns the images per second of all calls but the first, which also compiles.

        It is 0 if there was no second call.
        """
        return self._all_steps * self._batch_size / (self._all_seconds or math.inf)

    def take(self) -> dict[str, float]:
        """Returns the figures of speed for metrics.jsonl, and resets them."""
        figures = {
            "images_per_second": self._steps * self._batch_size / self._seconds,
            "input_share": min(1.0, self._waited / self._seconds),
        }
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0
        return figures
