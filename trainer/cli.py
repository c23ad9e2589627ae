"""Runs a command: flags in; one-line errors and exit statuses out."""

import contextlib
import errno
import gc
import logging as standard_logging
import os
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags as absl_flags
from absl import logging

from trainer import config, native_exit, native_log, terminal
from trainer.config import flags
from trainer.distributed import (
    heartbeat,
    preemption,
    rendezvous,
    tpu_runtime,
    vertex,
    vertex_cancel,
)
from trainer.errors import InputError, RetryableError
from trainer.storage import files

# Keys of what --json writes: evaluate, preflight, selfcheck, benchmarks and compare.
JSON_MARKS = ('"per_image"', '"accelerator"', '"tolerance"', '"rows"', '"samples"')
EXIT_STATUS = 2  # when the input breaks a rule
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}
# Flags of training, prediction and preparation that decide how much memory is taken.
TAKE_MEMORY = ("batch_size", "crop", "filters", "tile", "workers")
GC_THRESHOLDS = (10_000, 10, 10)  # Python's own first one is 700


@heartbeat.ending()
def run(
    cls: type,
    main: Callable[[Any], None],
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
    is_job: bool = False,
    kept: str = "the same command starts again",
) -> None:
    """Parses the command line into settings of class `cls`, calls `main` and exits.

    Args:
        cls: a dataclass of settings.
        main: what to do with them.
        argv: the command line; the process's own if None.
        defaults: of flags, in place of those of `cls`.
        is_job: whether a Vertex AI job runs this command: if its input is refused, the job ends and
            is not restarted.
        kept: what a Ctrl-C leaves, and how to go on.

    Exit status: 0 when done; 2, after one line on stderr, when the input breaks a rule; 143 when
    the job was asked to stop and has saved its state; 130, after one line, for a Ctrl-C where there
    was no state to save; 75 when another worker of the job is lost.
    Any other exception is a defect and keeps its traceback.
    """
    argv = list(sys.argv if argv is None else argv)
    prepare_environment()
    native_exit.skip_destructors()
    _log_plainly()

    def say_stopped() -> None:
        terminal.cut_in(f"Stopped by Ctrl-C; {kept}.")

    try:
        with preemption.interruptible(say_stopped):
            if asked := {"--help", "-h", "-help", "--helpfull"}.intersection(argv[1:]):
                show(flags.describe(cls, _program(argv), full="--helpfull" in asked))
                sys.exit(0)
            settings = flags.parse(cls, argv, defaults)
            for name, value, _ in config.walk(settings):
                if name == "json" and value:
                    files.prepare_file(name, value, JSON_MARKS)
            with terminal.shown(), heartbeat.announce_exit():
                main(settings)
    except InputError as error:
        refused = not isinstance(error, RetryableError)
        logging.error("%s", error, extra={"refused": refused})
        # A command in the container's shell does not end the job that runs there.
        if refused and is_job and vertex.is_here() and not sys.stderr.isatty():
            vertex_cancel.end_job()
        sys.exit(EXIT_STATUS)
    except preemption.StoppedError as error:
        logging.info("%s", error)
        sys.exit(preemption.EXIT_STATUS)
    except KeyboardInterrupt:
        sys.exit(preemption.INTERRUPTED)
    except rendezvous.LostWorkerError as error:
        logging.error("%s", error)
        sys.exit(heartbeat.EXIT_STATUS)
    except OSError as error:
        message = _of_a_file(error)
        if message is None:
            raise
        _exit_with(message)
    except Exception as error:
        # The others are TensorFlow's, of a store and of a disk.
        message = _of_memory(error, cls) or files.explain(str(error))
        if os.strerror(errno.ENOSPC) in str(error):
            message = _without_space()
        if message is None:
            raise
        _exit_with(message)


def prepare_environment() -> None:
    """Sets what matters once TensorFlow is imported; variables only if the user has not."""
    # Importing and tracing make many objects and few cycles: Python may check less often.
    gc.set_threshold(*GC_THRESHOLDS)
    # TensorFlow leaves oneDNN's kernels off on CPUs that are not Intel's newest; where they were
    # off, they take a third less CPU time per training step (docs/performance.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # What one request to gs:// reads; TensorFlow's own 64 MB are slow, and kept for each stream
    # (docs/storage.md). The user's GCS_READ_CACHE_BLOCK_SIZE_MB comes before it.
    os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(8 * 2**20))
    tpu_runtime.set_variables(tpu_runtime.attached_chips())


def set_verbosity(level: str) -> None:
    """Sets the log level: error, warning, info or debug.

    To be called before TensorFlow is imported, of which debug also shows the notices.
    """
    logging.set_verbosity(level)
    if level == "debug":
        os.environ[native_log.LEVEL] = "0"


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Imports TensorFlow in two thirds of the time, without its notices.

    What is imported stays: Python neither looks for garbage among its objects meanwhile, nor ever
    after, nor counts them at its end, which alone takes a second on a slow core.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    gc.disable()
    terminal.busy("loading TensorFlow")
    native_log.begin()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def _program(argv: Sequence[str]) -> str:
    """Returns the name of the module that was started, or of its file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec and argv[0] == sys.argv[0] else argv[0]


def show(text: str) -> None:
    """Prints; a reader that stops early, such as `head`, is not an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush


def _log_plainly() -> None:
    absl_flags.FLAGS.mark_as_parsed()  # absl's own flags, which commands here do not offer
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.python_handler.setStream(sys.stderr)  # not the one at import
    form: type[standard_logging.Formatter] = terminal.Formatter
    if vertex.is_here():
        form = vertex.Formatter
        vertex.report_defects()
    handler.setFormatter(form("%(message)s"))
    handler.addFilter(_concerns_the_user)
    # Google's client warns years ahead; users of this package need not see it.
    warnings.filterwarnings("ignore", "You are using a Python version", FutureWarning)


def _concerns_the_user(record: standard_logging.LogRecord) -> bool:
    """Returns whether to show a record: of what TensorFlow logs through absl, only warnings."""
    if f"{os.sep}tensorflow{os.sep}" not in record.pathname or logging.level_debug():
        return True
    return record.levelno >= standard_logging.WARNING


def _of_a_file(error: OSError) -> str | None:
    """Returns a line on what is wrong with a file or its disk, or None for any other error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _without_space(error.filename)
    if error.errno in REFUSALS and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror}; name another path, or change who may use it."
    return None


def _without_space(path: str = "") -> str:
    place = path or f"the output, or of {tempfile.gettempdir()} for what is between"
    return f"No space is left on the disk of {place}; free some space."


def _of_memory(error: Exception, cls: type) -> str | None:
    """Returns a line on memory that a device or the machine lacks, or None for any other error."""
    found = re.search(
        r"(?im)(OOM |(ran )?out of memory|failed to allocate).*?(?= on /job| \[|$)", str(error)
    )
    if isinstance(error, MemoryError):
        said = str(error) or "the machine gives no more"
    elif type(error).__name__ == "ResourceExhaustedError" and found:
        said = found[0]
    else:
        return None
    names = {field.name for field, _ in flags.fields(cls)}
    lower = [f"--{name}" for name in TAKE_MEMORY if name in names]
    remedy = "free some, or use a larger machine"
    if lower:
        remedy = f"lower {' or '.join(filter(None, (', '.join(lower[:-1]), lower[-1])))}"
    if "accumulate_steps" in names:
        remedy += ", or raise --accumulate_steps"
    return f"There is too little memory ({said[:200].rstrip('. ')}); {remedy}."


def _exit_with(message: str) -> None:
    logging.error("%s", message)
    sys.exit(EXIT_STATUS)
