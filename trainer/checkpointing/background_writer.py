"""Writes in the background while training continues, and retries what fails.

An executor of concurrent.futures with tenacity would queue the states behind one that fails, each
as large as the network. Here a newer state takes the place of the failing one.
"""

import contextlib
import threading
import types
from collections.abc import Callable

from absl import logging

from trainer.errors import RetryableError, first_line
from trainer.storage import files

LONGEST_PAUSE_SECONDS = 60.0


class Writer:
    """Does one task at a time; used as a context, which ends when everything is written.

    A task that fails is tried again after 1, 2, 4, … seconds. While it fails, a newer task takes
    its place, so that no more than one state is kept in memory.
    """

    def __init__(self, patience: int, first_pause_seconds: float = 1.0):
        """Starts nothing yet.

        Args:
            patience: failures in a row after which the writer gives up.
            first_pause_seconds: after the first failure; doubled after each one more.
        """
        self._patience = patience
        self._first_pause = first_pause_seconds
        self._changed = threading.Condition()
        self._task: Callable[[], None] | None = None  # to be done, or being done
        self._failures = 0
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def __enter__(self) -> "Writer":
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Waits until what was submitted is written or given up."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            if error is None:
                self.drain()
            else:  # the user must see it
                with self._changed:
                    self._changed.wait_for(lambda: self._task is None or self._error is not None)

    def submit(self, task: Callable[[], None]) -> None:
        """Hands over a task; waits for the one before, unless that one fails.

        Raises:
            RetryableError: the writer has given up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._task is None or self._failures or self._error)
            self._raise_error()
            self._task = task
            self._changed.notify_all()

    def drain(self) -> None:
        """Waits until all that was submitted is written.

        Raises:
            RetryableError: the writer has given up.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._task is None or self._error is not None)
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._task is not None or self._closed)
                task = self._task
            if task is None:
                return
            try:
                task()
            except files.failures() as error:
                self._failed(error)
            except BaseException as error:  # a defect: the thread that waits raises it
                self._give_up(error)
            else:
                self._done(task)
            if self._error is not None:
                return

    def _done(self, task: Callable[[], None]) -> None:
        with self._changed:
            self._failures = 0
            if self._task is task:
                self._task = None
            self._changed.notify_all()

    def _failed(self, error: Exception) -> None:
        reason = first_line(error)
        with self._changed:
            self._failures += 1
            failures = self._failures
            self._changed.notify_all()
        if failures >= self._patience:
            self._give_up(
                RetryableError(
                    f"No checkpoint could be written, {failures} times in a row: {reason}. The "
                    "last complete one is kept; fix the cause and start again, or allow more with "
                    "--checkpoint_patience."
                )
            )
            return
        pause = min(LONGEST_PAUSE_SECONDS, self._first_pause * 2 ** (failures - 1))
        logging.warning(
            "A checkpoint could not be written (%s); training continues. Next attempt in %.3g s.",
            reason,
            pause,
        )
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=pause)

    def _give_up(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()
