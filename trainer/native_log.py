"""A filter of what TensorFlow's C++ writes on standard error: errors pass, notices do not.

TensorFlow has levels, but at each of them it prints notices while it is imported, and some false
errors. So standard error goes through a small process, which decides line by line. It is a
process rather than a thread so that the last lines of a crash pass.
"""

import atexit
import contextlib
import glob
import os
import subprocess
import sys

from absl import logging

LEVEL = "TF_CPP_MIN_LOG_LEVEL"
DETAIL = "TF_CPP_VMODULE"
# False errors: TensorFlow has an alternative, or does not need what is missing.
HARMLESS = (
    r"oneDNN supports DT_\w+ only on platforms with",
    r"Unable to register cu\w+ factory",
)
WITHOUT_GPU = r"failed call to cuInit"  # where the machine has none
# Warnings after which a job may compute elsewhere, slower, or not at all.
SERIOUS = r"out of memory|\bOOM\b|dlopen|dynamic library|cuda|cudnn|nccl|ptxas|\bGPU|\bTPU"
FILTER = r"""
import contextlib, re, sys
level, harmless, serious = sys.argv[1], *(re.compile(x.encode(), re.I) for x in sys.argv[2:])
record = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: ([IWEF]) ")
notice = re.compile(rb"WARNING: All log messages before|To enable the following instructions")
clear = b"\r\x1b[K" if sys.stderr.isatty() else b""  # what changes in place there
shown = True
for line in sys.stdin.buffer:
    if found := record.match(line):
        severity = (found[1] or found[2]).decode()
        if level:
            shown = "IWEF".index(severity) >= int(level)
        elif severity == "W":
            shown = bool(serious.search(line))
        else:
            shown = severity == "F" or severity == "E" and not harmless.search(line)
    elif not line[:1].isspace():  # not the next line of a record
        shown = not notice.match(line)
    if shown:
        with contextlib.suppress(BrokenPipeError):
            sys.stderr.buffer.write(clear + line)
            sys.stderr.flush()
"""
SECONDS = 5  # to wait for the last lines; another process may still hold standard error

_running: "_Filter | None" = None


def begin() -> None:
    """Filters from now on; to be called before TensorFlow is imported.

    A user who sets TF_CPP_MIN_LOG_LEVEL to 0, or TF_CPP_VMODULE, sees all of the log; at 1, 2 or 3
    what that level says. Where Python's standard error is not the process's own, as in a notebook,
    nothing changes.
    """
    global _running
    level = os.environ.get(LEVEL, "")
    if _running or DETAIL in os.environ or level not in ("", "1", "2", "3"):
        return
    if sys.stderr is None or sys.stderr is not sys.__stderr__:
        return
    with contextlib.suppress(OSError):  # if no process can be started, everything is shown
        _running = _Filter(level)
        atexit.register(end)


def end() -> None:
    """Stops filtering, after everything written has passed."""
    global _running
    ended, _running = _running, None
    if ended and ended.owner == os.getpid():
        ended.close()


class _Filter:
    """The process, and the standard error of this one, which it has taken over."""

    def __init__(self, level: str):
        self.owner = os.getpid()
        harmless = [*HARMLESS] + ([] if glob.glob("/dev/nvidia*") else [WITHOUT_GPU])
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", FILTER, level, "|".join(harmless), SERIOUS],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this process
        )
        assert self._process.stdin is not None
        self._level = os.environ.get(LEVEL)
        os.environ[LEVEL] = level or "1"
        sys.stderr.flush()
        self._kept, self._python = os.dup(2), sys.stderr
        os.dup2(self._process.stdin.fileno(), 2)
        self._process.stdin.close()
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

    def close(self) -> None:
        """Gives standard error back."""
        self._own.flush()
        os.dup2(self._kept, 2)
        if sys.stderr is self._own:
            sys.stderr = self._python
        if self._handler.stream is self._own:
            self._handler.stream = self._stream
        if self._level is None:
            del os.environ[LEVEL]
        else:
            os.environ[LEVEL] = self._level
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SECONDS)
        self._own.close()
