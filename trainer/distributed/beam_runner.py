"""Work on an engine of Apache Beam: Dataflow, Flink, Spark, or this machine's processes.

A function is called with each of many keys, on any machine, in any order, perhaps more than once;
what it does it keeps in a place that all machines share. Nothing else goes through the engine, so
that its shuffles and bundles decide nothing.
"""

import contextlib
import dataclasses
import importlib.util
import io
import logging
import multiprocessing
import os
import re
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

from trainer.distributed import preemption
from trainer.errors import InputError, RetryableError

LOCAL = "local"  # this machine's processes, without Beam
RUNNERS = {
    "direct": "this machine",
    "dataflow": "DataflowRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
}
# What each needs besides apache-beam: module, extra.
EXTRAS = {"dataflow": ("google.cloud.dataflow", "dataflow")}
KILLED = 75  # exit status where a process of Beam's has ended
ARGPARSE = 2  # exit status where it refuses a word
# Of a process on Dataflow: a thread each would hold an image each.
DATAFLOW = ("--number_of_worker_harness_threads=1", "--sdk_location=container")
ROLES = ("roles/dataflow.worker", "roles/storage.objectAdmin", "roles/artifactregistry.reader")

Build = Callable[[Any], None]  # adds the work to a pipeline


class KilledWorkerError(Exception):
    """A process that did the work was killed."""


class _PipelineError(Exception):
    """What Beam says of a pipeline that failed, with the traceback of the task."""


@dataclasses.dataclass(frozen=True)
class Beam:
    """An engine.

    Attributes:
        runner: a name of RUNNERS.
        options: Beam's own, as on its command line.
        workers: processes of `direct`.
    """

    runner: str
    options: tuple[str, ...]
    workers: int

    @property
    def is_elsewhere(self) -> bool:
        """Whether the work may be done on other machines."""
        return self.runner != "direct"

    def each(self, what: str, task: Callable[[str], Any], keys: Sequence[str]) -> None:
        """Calls `task(key)` for every key, and waits.

        Args:
            what: is done, a name for the engine's displays.
            task: a partial function of a module.
            keys: all.

        Raises:
            KilledWorkerError: a process on this machine was killed.
            Exception: what Beam says of a task that failed.
        """
        if keys:
            self._run(what, _Each(what, task, tuple(keys)))

    def _run(self, what: str, build: Build) -> None:
        """Runs a pipeline to its end.

        Raises:
            KilledWorkerError: a process on this machine was killed.
            RetryableError: what a task has raised, or Beam says of itself.
        """
        run = _run_apart if self.runner == "direct" else _run
        try:
            run(self._arguments(what), build)
        except _PipelineError as error:
            text = str(error)
            ours = re.search(r"trainer\.errors\.\w+: (.*?)(?: \[while running.*)?$", text, re.M)
            if ours:
                raise RetryableError(ours[1]) from None
            if "[while running" in text:  # a defect
                raise
            raise RetryableError(
                f"--runner={self.runner} failed ({' '.join(text.split()).rstrip(': ')}); check "
                "--runner_options, or start again: what is finished is kept."
            ) from None

    def _arguments(self, what: str) -> list[str]:
        """Returns all options as Beam takes them."""
        if self.runner == "direct":
            workers = f"--direct_num_workers={self.workers}"
            return [workers, "--direct_running_mode=multi_processing", *self.options]
        added = DATAFLOW if self.runner == "dataflow" else ()
        options = [
            f"{one}-{what}" if one.startswith("--job_name=") else one for one in self.options
        ]
        return [f"--runner={RUNNERS[self.runner]}", *added, *options]

    def check(self, paths: Sequence[tuple[str, str]]) -> None:
        """Refuses what would fail later.

        Args:
            paths: the flag and the value of each folder that the workers use.

        Raises:
            InputError: a package is missing, Beam refuses an option, or a folder is out of reach.
        """
        _check_packages(self.runner)
        if self.runner == "dataflow":
            for flag, path in paths:
                if path and "://" not in path:
                    raise InputError(
                        f"--{flag}={path} is a folder of this machine, and --runner=dataflow works "
                        f"on others; copy it to a bucket: gcloud storage cp -r {path} gs://BUCKET/"
                    )
        with _said_in_one_line():
            _options(self._arguments("check"))
        if self.runner == "dataflow" and not any("sdk_container_image=" in o for o in self.options):
            raise InputError(
                "--runner=dataflow needs this package on its machines; build the image with docker "
                "build --target=beam, push it, and name it: "
                "--runner_options=--sdk_container_image=IMAGE."
            )

    def described(self) -> str:
        """Returns Beam's options, and what the account of the machines needs."""
        lines = [shlex.quote(one) for one in self._arguments("STEP")]
        if self.runner == "dataflow":
            account = _value(self.options, "service_account_email") or "ACCOUNT"
            lines += [
                f"gcloud projects add-iam-policy-binding {_value(self.options, 'project')} "
                f"--member=serviceAccount:{account} --role={role}"
                for role in ROLES
            ]
        return "\n".join(lines)


def parse(runner: str, options: str, workers: int) -> Beam | None:
    """Returns the engine that `--runner` and `--runner_options` name; None: none of Beam's.

    Raises:
        InputError: options without an engine to take them, or no options.
    """
    if runner == LOCAL:
        if options:
            raise InputError(
                f"--runner_options={options} is for Beam, and --runner=local does without it; name "
                "a runner, or drop it."
            )
        return None
    try:
        words = tuple(shlex.split(options))
    except ValueError as error:
        raise InputError(f"--runner_options={options} cannot be read ({error}); fix it.") from None
    return Beam(runner, words, workers or os.cpu_count() or 1)


def _value(options: Sequence[str], name: str) -> str:
    prefix = f"--{name}="
    return next((one.removeprefix(prefix) for one in options if one.startswith(prefix)), "")


def _check_packages(runner: str) -> None:
    module, extra = EXTRAS.get(runner, ("apache_beam", "beam"))
    try:
        is_there = bool(
            importlib.util.find_spec("apache_beam") and importlib.util.find_spec(module)
        )
    except ModuleNotFoundError:  # of a package around it
        is_there = False
    if not is_there:
        raise InputError(
            f"--runner={runner} needs Apache Beam, which is not installed; install it in an "
            f'environment of its own: pip install ".[{extra}]".'
        )


@contextlib.contextmanager
def _said_in_one_line() -> Iterator[None]:
    """Turns what Beam says of options into one line."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("apache_beam.options.pipeline_options")
    was, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            yield
    except (SystemExit, ValueError) as error:
        if isinstance(error, SystemExit) and error.code != ARGPARSE:
            raise
        text = errors.getvalue().rpartition("error: ")[2] or str(error)
        raise InputError(_refusal(text)) from None
    finally:
        logger.removeHandler(handler)
        logger.propagate = was
    if said:
        raise InputError(_refusal(" ".join(said)))


def _refusal(text: str) -> str:
    return f"Beam refuses --runner_options: {' '.join(text.split()).rstrip('.')}; change them."


def _options(arguments: Sequence[str]) -> Any:
    """Returns Beam's options; raises what Beam raises of those that it does not take."""
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    options = PipelineOptions(list(arguments))
    options.get_all_options()  # warns of what it does not know
    if name := options.view_as(StandardOptions).runner:
        errors = PipelineOptionsValidator(options, create_runner(name)).validate()
        if errors:
            raise ValueError(" ".join(errors))
    return options


def _run(arguments: Sequence[str], build: Build) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.runners.portability.fn_api_runner import fn_runner

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    options = _options(arguments)
    # Without a name it would be "DirectRunner", which downloads another one.
    runner = None if options.view_as(StandardOptions).runner else fn_runner.FnApiRunner()
    try:
        with beam.Pipeline(runner=runner, options=options) as pipeline:
            build(pipeline)
    except Exception as error:
        raise _PipelineError(f"{type(error).__name__}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Each:
    what: str
    task: Callable[[str], Any]
    keys: tuple[str, ...]

    def __call__(self, pipeline: Any) -> None:
        import apache_beam as beam

        keys = pipeline | beam.Create(self.keys) | beam.Reshuffle()
        _ = keys | self.what >> beam.Map(self.task)


# Several processes on this machine ----------------------------------------------------------------


def _run_apart(arguments: Sequence[str], build: Build) -> None:
    """Runs in a process of its own, because Beam waits forever for one of its own that is killed.

    Raises:
        KilledWorkerError: one was.
        _PipelineError: a task failed.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_lead, args=(theirs, arguments, build))
    with preemption.starting_processes():
        process.start()
    theirs.close()
    said = ""
    try:
        with contextlib.suppress(EOFError):
            said = ours.recv()
        process.join()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            assert process.pid is not None
            os.killpg(process.pid, signal.SIGKILL)  # and those that it has started
        process.kill()
        process.join()
    if process.exitcode == KILLED or (process.exitcode or 0) < 0:
        raise KilledWorkerError
    if said:
        raise _PipelineError(said)


def _lead(answer: connection.Connection, arguments: Sequence[str], build: Build) -> None:
    """Leads the processes of Beam; says what went wrong."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.excepthook = _end_when_killed
    try:
        _run(arguments, build)
    except Exception as error:
        answer.send(str(error))
    answer.close()
    os._exit(0)


def _end_with_parent() -> None:
    process = multiprocessing.parent_process()
    assert process is not None
    connection.wait([process.sentinel])
    os.killpg(0, signal.SIGKILL)


def _end_when_killed(args: threading.ExceptHookArgs) -> None:
    if "Worker subprocess exited" in str(args.exc_value):
        os._exit(KILLED)
