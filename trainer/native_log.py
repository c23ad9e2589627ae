"""What TensorFlow's C++ writes on standard error: errors get through, notices do not.

TensorFlow has levels, but prints its notices while it is imported at any of them, and among its
errors some that are none. So standard error goes through a small process, which decides line by
line, and counts how often requests to gs:// were sent again, of which TensorFlow tells in its log
alone. It is a process rather than a thread so that the last words of a crash get through.
"""

import atexit
import contextlib
import glob
import os
import subprocess
import sys
from collections.abc import Iterator

from absl import logging

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
DETAIL = "TF_CPP_VMODULE"
RETRIES = {LEVEL: "0", DETAIL: "retrying_utils=1"}  # by which TensorFlow tells of them
# Errors that are none: another way is taken, or what is missing is not missed.
HARMLESS = (
    r"oneDNN supports DT_\w+ only on platforms with",
    r"Unable to register cu\w+ factory",
)
WITHOUT_GPU = r"failed call to cuInit"  # where the machine has none
# Of the warnings those after which a job may compute elsewhere, slower, or not at all.
SERIOUS = r"out of memory|\bOOM\b|dlopen|dynamic library|cuda|cudnn|nccl|ptxas|\bGPU|\bTPU"
FILTER = r"""
import contextlib, os, re, sys
level, harmless, serious = sys.argv[1], *(re.compile(x.encode(), re.I) for x in sys.argv[2:])
record = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: ([IWEF]) ")
notice = re.compile(rb"WARNING: All log messages before|To enable the following instructions")
count, shown = 0, True
for line in sys.stdin.buffer:
    if b"will be automatically retried" in line:
        count += 1
    if found := record.match(line):
        severity = (found[1] or found[2]).decode()
        if level:
            shown = "IWEF".index(severity) >= int(level)
        elif severity == "W":
            shown = bool(serious.search(line))
        else:
            shown = severity == "F" or severity == "E" and not harmless.search(line)
    elif not line[:1].isspace():  # of nobody's record
        shown = not notice.match(line)
    if shown:
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.buffer.write(line)
            sys.stderr.flush()
with contextlib.suppress(BrokenPipeError):  # whoever would have read it has crashed
    os.write(1, str(count).encode())
"""
SECONDS = 5  # to wait for the count; another process may hold on to standard error

_counting = False
_running: "_Filter | None" = None


def begin() -> None:
    """Filters from now on; to be called before TensorFlow is imported.

    Whoever sets TF_CPP_MIN_LOG_LEVEL to 0, or TF_CPP_VMODULE, sees all of the log; who sets it to
    1, 2 or 3 what it says. Where Python's standard error is not the process's own, as in a
    notebook, nothing is touched.
    """
    global _running
    wanted = os.environ.get(LEVEL, "")
    if _running or DETAIL in os.environ or (wanted and wanted not in ("1", "2", "3")):
        return
    if sys.stderr is None or sys.stderr is not sys.__stderr__:
        return
    with contextlib.suppress(OSError):  # where no process can be started, all is shown
        _running = _Filter(wanted)
        atexit.register(end)


def end() -> int:
    """Stops filtering; returns how many requests TensorFlow has sent again."""
    global _running
    ended, _running = _running, None
    return ended.close() if ended and ended.owner == os.getpid() else 0


@contextlib.contextmanager
def counting() -> Iterator[list[int]]:
    """Yields a list whose one number is TensorFlow's count when the context has been left.

    To be entered before `begin` is called, if it is. Whoever has set a level sees the log itself,
    and nothing is counted.
    """
    global _counting
    count, _counting = [0], LEVEL not in os.environ
    try:
        yield count
    finally:
        _counting = False
        count[0] = end()


class _Filter:
    """The process, and the standard error of this one, which it has taken over."""

    def __init__(self, level: str):
        self.owner = os.getpid()
        harmless = [*HARMLESS] + ([] if glob.glob("/dev/nvidia*") else [WITHOUT_GPU])
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", FILTER, level, "|".join(harmless), SERIOUS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process
        )
        assert self._process.stdin is not None
        environment = RETRIES if _counting else {LEVEL: level or "1"}
        self._old = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        sys.stderr.flush()
        self._kept, self._python = os.dup(2), sys.stderr
        os.dup2(self._process.stdin.fileno(), 2)
        self._process.stdin.close()
        self._process.stdin = None
        # Python's own lines need no filter, and may be for a terminal.
        self._own = os.fdopen(
            self._kept,
            "w",
            buffering=1,
            encoding=self._python.encoding,
            errors="backslashreplace",
        )
        self._handler = logging.get_absl_handler().python_handler
        self._stream = self._handler.stream
        sys.stderr = self._handler.stream = self._own

    def close(self) -> int:
        """Gives standard error back; returns the count of requests that were sent again."""
        self._own.flush()
        os.dup2(self._kept, 2)
        if sys.stderr is self._own:
            sys.stderr = self._python
        if self._handler.stream is self._own:
            self._handler.stream = self._stream
        for name, value in self._old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        count = b""
        with contextlib.suppress(subprocess.TimeoutExpired):
            count = self._process.communicate(timeout=SECONDS)[0]
        self._own.close()
        return int(count or 0)
