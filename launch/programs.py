"""What a job runs: a command of the trainer, the flags it takes, and where its results are."""

import dataclasses
from collections.abc import Callable, Sequence

from launch import check, prediction, settings
from launch.hardware import Machines
from trainer.errors import InputError

Lines = Callable[[settings.Vertex, Sequence[str]], list[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A command of the trainer.

    Attributes:
        noun: what it makes, in messages.
        folder: in --bucket, of its jobs' own folders.
        command: of the container; empty for that of the image.
        is_together: whether its workers need each other, so that all are restarted with any.
        check_flags: of the command's settings, machines and what follows after --, returns the
            flags that differ from their defaults, or raises InputError.
        flags_for: adds to these what follows from machines.
        links: of the command's settings and a job's flags, where it can be followed.
        results: of the same, where its results are once it has succeeded.
        again: said of a job that had succeeded before the same command came again.
        resumes: what the same command does once a job has failed.
    """

    noun: str
    folder: str
    command: tuple[str, ...] = ()
    is_together: bool
    check_flags: Callable[[settings.Vertex, Machines, Sequence[str]], list[str]]
    flags_for: Callable[[Machines, Sequence[str]], list[str]]
    links: Lines
    results: Lines
    again: str = ""
    resumes: str


def _links_of_run(asked: settings.Vertex, args: Sequence[str]) -> list[str]:
    return [f"curves   tensorboard --logdir {asked.job_dir()}"] if asked.job.bucket else []


def _results_of_run(asked: settings.Vertex, args: Sequence[str]) -> list[str]:
    if not asked.job.bucket:
        return []
    folder = asked.job_dir()
    return [
        f"run folder: {folder}",
        f"model: {folder}/model",
        f"tensorboard --logdir {folder}",
    ]


TRAIN = ("python", "-m", "trainer.task")  # as the image has it
PROGRAMS = {
    "run": Program(
        noun="run",
        folder="runs",
        is_together=True,
        check_flags=check.check_flags,
        flags_for=check.flags_for,
        links=_links_of_run,
        results=_results_of_run,
        resumes="The same command starts it again, from its last checkpoint.",
    ),
    "predict": Program(
        noun="prediction",
        folder="predictions",
        command=("python", "-m", "trainer.predict"),
        is_together=False,
        check_flags=prediction.check_flags,
        flags_for=prediction.flags_for,
        links=prediction.links,
        results=prediction.results,
        again="For images that came since, choose another --name; masks that are there are kept.",
        resumes="The same command starts it again, and skips the masks that are there.",
    ),
}


def of(command: Sequence[str]) -> Program:
    """Returns the program of a container's command; that of the image trains."""
    found = (one for one in PROGRAMS.values() if one.command == tuple(command))
    return next(found, PROGRAMS["run"])


def check_same(name: str, program: Program, commands: Sequence[Sequence[str]]) -> None:
    """Raises InputError if jobs of a name, by their containers' commands, run something else."""
    for other in map(of, commands):
        if other is not program:
            raise InputError(
                f"--name={name} is that of a {other.noun}; choose another for this {program.noun}."
            )
