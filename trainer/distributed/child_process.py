"""Commands that a command starts: they get its signals, and end with it."""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import types
from collections.abc import Callable, Iterator, Sequence

PR_SET_PDEATHSIG = 1


def ending_with_this_process() -> Callable[[], None]:
    """Returns what a child calls before its program, so that it gets SIGTERM if this one is killed.

    To be given to `subprocess.Popen` as `preexec_fn`.
    """
    return functools.partial(_end_with, os.getpid(), ctypes.CDLL(None))


def _end_with(parent: int, system: ctypes.CDLL) -> None:
    system.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended before
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def signals_passed_to(children: Sequence[subprocess.Popen]) -> Iterator[list[int]]:
    """Passes SIGTERM and SIGINT on to all children of a sequence, which may change meanwhile.

    Yields:
        A list of those that came.
    """
    received: list[int] = []

    def pass_to_all(number: int, frame: types.FrameType | None) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    numbers = (signal.SIGTERM, signal.SIGINT)
    old = {number: signal.signal(number, pass_to_all) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def status_of(code: int) -> int:
    """Returns a process's exit status as a shell would say it."""
    return 128 - code if code < 0 else code
