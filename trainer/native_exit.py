"""The end of a process without the destructors of C++."""

import atexit
import ctypes
import functools
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


def _end_at_once() -> None:
    libc = ctypes.CDLL(None)
    libc.on_exit(libc._exit, None)
