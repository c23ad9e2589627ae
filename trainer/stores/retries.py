"""Counts how often requests to gs:// were sent again, so that a slow command can say why.

TensorFlow's client has no counter and says it only in its log. So the log of that one file is
switched on, and what C++ writes on standard error goes through a small process, which counts those
lines, drops what `trainer.flags` would have switched off, and passes on the rest. It is a process
rather than a thread so that the last words of a crash get through.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from absl import logging

from trainer.stores import bucket

LOGGED = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "retrying_utils=1"}
FILTER = r"""
import contextlib, os, re, sys
count = 0
log = re.compile(
    rb"[IWE]\d{4} |\d{4}-\d\d-\d\d .*: [IWE] |"
    rb"WARNING: All log messages before|To enable the following instructions|\t when "
)
for line in sys.stdin.buffer:
    if b"will be automatically retried" in line:
        count += 1
    elif not log.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
with contextlib.suppress(BrokenPipeError):  # whoever would have read it has crashed
    os.write(1, str(count).encode())
"""
SECONDS = 5  # to wait for the count; another process may hold on to standard error


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Says at the end how many requests were sent again; to be entered before TensorFlow is loaded.

    Whoever has set TF_CPP_MIN_LOG_LEVEL below 3, or TF_CPP_VMODULE, sees TensorFlow's log itself,
    and the line counts only the requests of google-cloud-storage.
    """
    before = bucket.retries()
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3" or "TF_CPP_VMODULE" in os.environ:
        counted: contextlib.AbstractContextManager[list[int]] = contextlib.nullcontext([0])
    else:
        counted = _counted()
    with counted as tensorflows:
        yield
    total = bucket.retries() - before + tensorflows[0]
    logging.info("gs://: %d requests were sent again.", total)


@contextlib.contextmanager
def _counted() -> Iterator[list[int]]:
    """Yields a list whose one number is TensorFlow's count when the context has been left."""
    count, old = [0], {name: os.environ.get(name) for name in LOGGED}
    os.environ.update(LOGGED)
    sys.stderr.flush()
    kept, python = os.dup(2), sys.stderr
    handler = logging.get_absl_handler().python_handler
    stream = handler.stream
    process = subprocess.Popen(
        [sys.executable, "-ISc", FILTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process
    )
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    process.stdin = None
    own = os.fdopen(kept, "w", buffering=1, encoding=python.encoding, errors="backslashreplace")
    if python is sys.__stderr__:  # Python's own lines need no filter, and may be for a terminal
        sys.stderr = own
        handler.stream = own
    try:
        yield count
    finally:
        own.flush()
        os.dup2(kept, 2)
        sys.stderr, handler.stream = python, stream
        with contextlib.suppress(subprocess.TimeoutExpired):
            count[0] = int(process.communicate(timeout=SECONDS)[0] or 0)
        for name, value in old.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        own.close()
