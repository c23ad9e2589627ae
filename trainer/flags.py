"""Derives absl flags from settings, and runs a command with them."""

import contextlib
import dataclasses
import difflib
import errno
import gc
import logging as standard_logging
import os
import shutil
import sys
import tempfile
import textwrap
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags, logging

from trainer import config, native_log
from trainer.distributed import heartbeat, preemption, rendezvous, vertex, vertex_cancel
from trainer.errors import InputError, PassingError
from trainer.storage import files, gcs, retries

# Keys of what --json writes: evaluate, preflight, selfcheck and benchmarks.
JSON_MARKS = ('"per_image"', '"accelerator"', '"tolerance"', '"rows"')
EXIT_STATUS = 2  # when the input breaks a rule
REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG}
BOM = "\ufeff"
MOST_SHOWN = 15  # flags that --help shows
GC_THRESHOLDS = (10_000, 10, 10)  # Python's own first one is 700
DEFINERS: Mapping[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}
NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@heartbeat.ending()
def run(
    cls: type,
    main: Callable[[Any], None],
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
    counts_retries: bool = True,
    is_job: bool = False,
) -> None:
    """Parses the command line into settings of class `cls`, calls `main` and exits.

    Args:
        cls: a dataclass of settings.
        main: what to do with them.
        argv: the command line; the process's own if None.
        defaults: of flags, in place of those of `cls`.
        counts_retries: whether to say at the end how many requests to gs:// were sent again.
        is_job: whether this is what a Vertex AI job is there for: where its input is refused, the
            job is to end, and not to be started again.

    Exit status: 0 when done; 2, after one line on stderr, when the input breaks a rule; 143 when
    the job was asked to stop and has saved its state; 75 when another worker of the job is lost.
    Any other exception is a defect and keeps its traceback.
    """
    argv = list(sys.argv if argv is None else argv)
    prepare_environment()
    _log_plainly()
    try:
        if asked := {"--help", "-h", "-help", "--helpfull"}.intersection(argv[1:]):
            _print_for_readers(describe(cls, _program(argv), full="--helpfull" in asked))
            sys.exit(0)
        settings = parse(cls, argv, defaults)
        in_bucket = counts_retries and any(
            str(value).startswith(gcs.SCHEME) for _, value, _ in config.walk(settings)
        )
        for name, value, _ in config.walk(settings):
            if name == "json" and value:
                files.prepare_file(name, value, JSON_MARKS)
        with retries.reported() if in_bucket else contextlib.nullcontext(), heartbeat.parting():
            main(settings)
    except InputError as error:
        refused = not isinstance(error, PassingError)
        logging.error("%s", error, extra={"refused": refused})
        # A person in the container's shell does not end the job that runs beside it.
        if refused and is_job and vertex.is_here() and not sys.stderr.isatty():
            vertex_cancel.end_job()
        sys.exit(EXIT_STATUS)
    except preemption.StoppedError as error:
        logging.info("%s", error)
        sys.exit(preemption.EXIT_STATUS)
    except rendezvous.LostWorkerError as error:
        logging.error("%s", error)
        sys.exit(heartbeat.EXIT_STATUS)
    except OSError as error:
        message = _of_a_file(error)
        if message is None:
            raise
        _exit_with(message)
    except Exception as error:
        message = files.explain(str(error))  # TensorFlow's, of a store
        if message is None:
            raise
        _exit_with(message)


def prepare_environment() -> None:
    """Sets what matters once TensorFlow is imported; variables only if the user has not."""
    # Importing and tracing make many objects and few cycles: Python need not look so often.
    gc.set_threshold(*GC_THRESHOLDS)
    # TensorFlow leaves oneDNN's kernels off on CPUs that are not Intel's newest; where they were
    # off, they take a third less CPU time per training step (docs/performance.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # What one request to gs:// reads; 64 MB of TensorFlow's own are late, and held for each stream
    # (docs/storage.md). The user's GCS_READ_CACHE_BLOCK_SIZE_MB comes before it.
    os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(8 * 2**20))


def set_verbosity(level: str) -> None:
    """Says no less and no more than `level`: error, warning, info or debug.

    To be called before TensorFlow is imported, of which debug also shows the notices.
    """
    logging.set_verbosity(level)
    if level == "debug":
        os.environ[native_log.LEVEL] = "0"


def parse(
    cls: type,
    argv: Sequence[str],
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> Any:
    """Returns settings of class `cls` from a command line, `argv[0]` being the program.

    Flags that are silent take their value from `defaults`, or else from `cls`.

    Raises:
        InputError: for an unknown flag, a value that is not of the flag's type or breaks its rule.
    """
    values = flags.FlagValues()
    for field, _ in fields(cls):
        default = defaults.get(field.name, field.default)
        DEFINERS[kind(field)](field.name, default, field.metadata["text"], flag_values=values)
    try:
        lines = values.read_flags_from_files(list(argv[1:]), force_gnu=False)
        while any(line.startswith(BOM) for line in lines):  # may name another file
            lines = values.read_flags_from_files(list(_without_marks(lines)), force_gnu=False)
        rest = values([argv[0], *lines])[1:]
    except flags.UnrecognizedFlagError as error:
        raise InputError(_unknown_flag(error.flagname, list(values))) from None
    except flags.IllegalFlagValueError as error:
        raise InputError(_wrong_type(str(error), cls)) from None
    except flags.CantOpenFlagFileError as error:
        path = getattr(error.__context__, "filename", "")
        reason = getattr(error.__context__, "strerror", error)
        raise InputError(f"--flagfile={path} cannot be read: {reason}; name another.") from None
    except UnicodeDecodeError:
        raise InputError(
            "--flagfile names a file that is no text in UTF-8; save it so, with a flag a line."
        ) from None
    except flags.Error as error:  # a flag without its value
        raise InputError(f"{' '.join(str(error).split())}; write --name=value.") from None
    if rest:
        raise InputError(f"{rest[0]!r} is not a flag; write --name=value, see --help.")
    return config.from_dict(cls, {field.name: values[field.name].value for field, _ in fields(cls)})


def _without_marks(lines: Sequence[str]) -> Iterator[str]:
    """Yields the lines of flag files without the byte-order mark by which editors begin a file."""
    for line in lines:
        kept = line.removeprefix(BOM)
        if kept == line or (kept and not kept.startswith(("#", "//"))):
            yield kept


def describe(cls: type, program: str, *, full: bool = False) -> str:
    """Returns the text of `--help`: what the command does and its flags, group by group.

    Args:
        cls: the command's class of settings.
        program: the module that is run, or its file.
        full: whether to show all flags, as `--helpfull` does, or the common ones alone.
    """
    width = min(100, shutil.get_terminal_size().columns)
    module = program.removesuffix(".py").replace(os.sep, ".").removesuffix(".__main__")
    for package in ("trainer.", "launch."):
        module = module[module.find(package) :] if package in module else module
    lines = [f"python -m {module} [--flag=value …] [--flagfile=FILE]", ""]
    lines += textwrap.wrap(_first_line(cls), width)
    group = None
    every = list(fields(cls))
    shown = [field for field, _ in every] if full else common(cls)
    for field, owner in every:
        if field not in shown:
            continue
        if owner is not group:
            group = owner
            lines += ["", _first_line(owner) if owner is not cls else "Flags:"]
        lines.append(f"  --{field.name}={_default(field)}")
        text = field.metadata["text"]
        if field.metadata["choices"]:
            text += f" One of: {', '.join(field.metadata['choices'])}."
        lines += textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if len(shown) < len(every):
        lines += ["", f"--helpfull shows {len(every) - len(shown)} more."]
    return "\n".join(lines)


def fields(cls: type) -> Iterator[tuple[dataclasses.Field, type]]:
    """Yields (field, class that holds it) of `cls` and of its nested groups."""
    for field in dataclasses.fields(cls):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from fields(field.type)
        else:
            yield field, cls


def common(cls: type) -> list[dataclasses.Field]:
    """Returns the fields that `--help` shows: all if they are few, else those marked as common."""
    every = [field for field, _ in fields(cls)]
    return every if len(every) <= MOST_SHOWN else list(_marked(cls))


def kind(field: dataclasses.Field) -> type:
    """Returns the type of a field's values, but for None."""
    return next(kind for kind in typing.get_args(field.type) or (field.type,) if kind in DEFINERS)


def command_line(settings: Any) -> list[str]:
    """Returns the flags, in order, that differ from their defaults."""
    defaults = config.to_dict(type(settings)())
    return [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in config.to_dict(settings).items()
        if value != defaults[name]
    ]


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Imports TensorFlow in two thirds of the time, and without its notices.

    What is imported stays: Python neither looks for garbage among its objects meanwhile, nor ever
    after, nor counts them at its end, which alone takes a second on a slow core.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    gc.disable()
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


def _print_for_readers(text: str) -> None:
    """Prints; a reader that has seen enough, such as `head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush


def _marked(cls: type) -> Iterator[dataclasses.Field]:
    """Yields the fields marked as common; of a group for which names are given, those."""
    for field in dataclasses.fields(cls):
        if not (isinstance(field.type, type) and dataclasses.is_dataclass(field.type)):
            if field.metadata["common"]:
                yield field
        elif "common" in field.metadata:
            names = field.metadata["common"]
            yield from (inner for inner, _ in fields(field.type) if inner.name in names)
        else:
            yield from _marked(field.type)


def _default(field: dataclasses.Field) -> str:
    return "" if field.default is None else str(field.default)


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").splitlines()[0]


def _unknown_flag(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean --{near[0]}?" if near else "see --helpfull."
    return f"--{name} is not a flag; {remedy}"


def _wrong_type(text: str, cls: type) -> str:
    """Returns absl's words on a value of another type, "flag --NAME=VALUE: WHY", in ours."""
    given = text.removeprefix("flag ").partition(": ")[0]
    name = given.removeprefix("--").partition("=")[0]
    (field,) = (field for field, _ in fields(cls) if field.name == name)
    return f"{given} is not {NOUNS[kind(field)]}."


def _log_plainly() -> None:
    flags.FLAGS.mark_as_parsed()  # absl's own flags, which commands here do not offer
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.python_handler.setStream(sys.stderr)  # not that of the moment of import
    form = standard_logging.Formatter
    if vertex.is_here():
        form = vertex.Formatter
        vertex.report_defects()
    handler.setFormatter(form("%(message)s"))
    handler.addFilter(_concerns_the_user)
    # Of Google's client, years ahead; what it means for this package is for us to know.
    warnings.filterwarnings("ignore", "You are using a Python version", FutureWarning)


def _concerns_the_user(record: standard_logging.LogRecord) -> bool:
    """Says whether to show a record: of what TensorFlow logs through absl, only warnings."""
    if f"{os.sep}tensorflow{os.sep}" not in record.pathname or logging.level_debug():
        return True
    return record.levelno >= standard_logging.WARNING


def _of_a_file(error: OSError) -> str | None:
    """Returns a line on what is wrong with a file or its disk, or None for any other error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = error.filename or f"the output, or of {tempfile.gettempdir()} for what is between"
        return f"No space is left on the disk of {place}; free some."
    if error.errno in REFUSALS and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror}; name another path, or change who may use it."
    return None


def _exit_with(message: str) -> None:
    logging.error("%s", message)
    sys.exit(EXIT_STATUS)
