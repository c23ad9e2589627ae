"""The end of a process without the destructors of C++."""

import atexit
import ctypes
import functools
import os
import sys


@functools.cache
def skip_destructors() -> None:
    """Lets this process end when Python has ended, with the exit status that it had.

    Two libraries crash in what C++ runs after that, and the status of a command that is done
    becomes 139 or 134: oneDNN frees its compiled kernels while input of TensorFlow that reads ahead
    still computes with them, and tensorflow-io's S3 client aborts. Files are closed by then.
    """
    if sys.platform == "linux":
        # The last function registered is called first, and kernels are registered when first used.
        atexit.register(_end_at_once)
        atexit.register(_forget_what_nobody_reads)


def _forget_what_nobody_reads() -> None:
    """Keeps the exit status where who read the output has ended: Python would make it 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (OSError, ValueError):  # a full disk, or a file that is closed
            continue


def _end_at_once() -> None:
    libc = ctypes.CDLL(None)
    libc.on_exit(libc._exit, None)
