"""Being asked to stop: SIGTERM, as spot machines send it 30 s before they end, and Ctrl-C."""

import contextlib
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator

EXIT_STATUS = 143  # 128 + SIGTERM
INTERRUPTED = 130  # 128 + SIGINT: nothing was to be saved


class StoppedError(Exception):
    """The job was asked to stop and has saved its state; commands exit with EXIT_STATUS."""


class Request:
    """Whether, how and when the process was asked to stop."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.name = ""
        self._time = 0.0

    def __bool__(self) -> bool:
        """Returns whether the process was asked to stop."""
        return bool(self.name)

    @property
    def age_seconds(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._time

    def stopped(self, step: int) -> StoppedError:
        """Returns what to raise once the state of a step is saved, here or on another worker."""
        if not self:
            return StoppedError(
                f"Stopped at step {step}, as another worker was asked to; the checkpoint is "
                "complete."
            )
        return StoppedError(
            f"Stopped by {self.name} at step {step}; the checkpoint was complete "
            f"{self.age_seconds:.1f} s after the signal. The same command resumes."
        )

    def _receive(self, number: int, frame: types.FrameType | None) -> None:
        if self and number == signal.SIGINT:  # the second: at once
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        if not self:
            self.name, self._time = signal.Signals(number).name, time.monotonic()


@contextlib.contextmanager
def interruptible(say: Callable[[], None]) -> Iterator[None]:
    """Lets the first Ctrl-C raise KeyboardInterrupt, and the second end the process at once.

    What fails after the first one is KeyboardInterrupt, too: a module in C whose import it stops
    raises ImportError.

    Args:
        say: says that the first one stops the command, before anything is tidied up.
    """

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        say()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _is_main():
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception as error:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            raise KeyboardInterrupt from error
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets a Ctrl-C wait for the end of the block, which writes files that belong together."""
    if not _is_main():
        yield
        return
    received: list[int] = []
    old = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)
        if received:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Lets processes that are started meanwhile get no Ctrl-C, which is their parent's to handle.

    They inherit that; a handler of their own would come too late, after their imports. Here a
    Ctrl-C waits until they have been told what to do, also if another thread receives it.
    """
    with uninterrupted():
        old = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)


@contextlib.contextmanager
def listening() -> Iterator[Request]:
    """Yields the request that SIGTERM and SIGINT set while the block runs.

    Only the main thread receives signals; in others, nothing is changed.
    """
    request = Request()
    if not _is_main():
        yield request
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    old = {number: signal.signal(number, request._receive) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _is_main() -> bool:
    """Returns whether this is the thread that receives signals."""
    return threading.current_thread() is threading.main_thread()
