"""The story of a cross-validation: train each fold, evaluate it on what it did not see, summarise.

A fold is a run like any other, in CV/fold-0, CV/fold-1 …: it may be looked at, resumed or evaluated
by itself, or be trained elsewhere. Of several configurations each has its folds in CV/NAME.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import logging

from trainer import cli, commands, config
from trainer.checkpointing import run_metadata
from trainer.config import flags
from trainer.crossval import choice, configurations, fold, summary
from trainer.data.dataset import schema
from trainer.distributed import child_process, membership, preemption
from trainer.errors import InputError
from trainer.evaluate import case_tables, components
from trainer.storage import files

Run = Callable[[str, Sequence[str]], None]  # a module and its flags, as a process
STOPPED = (0, preemption.EXIT_STATUS, 128 + signal.SIGINT)  # how a process ends that got a signal


def cross_validate(settings: config.CrossValidation) -> None:
    """Runs what is left of a cross-validation, then writes and prints its summary.

    Raises:
        InputError: settings and data do not go together, or a fold was trained otherwise.
        preemption.StoppedError: it was asked to stop; the fold that was running saved its state.
    """
    _check(settings)
    jobs = configurations.read(settings)
    manifest = schema.read_manifest(settings.job.data.data_dir)
    _check_folds(settings, manifest)
    each = {
        name: [fold.of(job, k, manifest) for k in range(settings.cross.folds)]
        for name, job in jobs.items()
    }
    parts = [part for of_one in each.values() for part in of_one]
    trained = [part.is_trained() for part in parts]  # all are checked before any is trained
    with _commands() as run:
        for part, is_trained in zip(parts, trained, strict=True):
            _complete(part, is_trained, run)
    dice = {name: _sum_up(of_one, manifest) for name, of_one in each.items()}
    run_dir = settings.job.run.run_dir
    if len(jobs) > 1:
        found = choice.choose(run_dir, dice, manifest.draw.group_by if manifest.draw else "")
        choice.write(run_dir, found, parts[0].fingerprint)
        cli.show(choice.table(found))
    logging.info(
        "An ensemble of all folds predicts by\n%s",
        commands.line("trainer.predict", f"--run_dir={run_dir}", "--images=…", "--output=…"),
    )


def _complete(part: fold.Fold, is_trained: bool, run: Run) -> None:
    """Does what is left of a fold: training, then evaluation."""
    if is_trained:
        logging.info("Fold %d is trained: %s", part.number, part.run_dir)
    else:
        logging.info("Training fold %d: %s", part.number, part.run_dir)
        for path in (part.counts, part.evaluation):  # of weights that will change
            files.remove(path)
        run("trainer.task", flags.command_line(part.job))
    if not part.is_evaluated():
        run("trainer.evaluate", fold.evaluation_flags(part))


def _sum_up(parts: Sequence[fold.Fold], manifest: schema.Manifest) -> float | None:
    """Writes and prints what the folds say together; returns the mean Dice over all cases."""
    run_dir = os.path.dirname(parts[0].run_dir)
    tolerance = parts[0].job.run.tolerance_mm
    found = summary.read([part.run_dir for part in parts], manifest, tolerance)
    summary.write(run_dir, found, parts[0].fingerprint)
    cli.show(f"{run_dir}\n{summary.table(found)}\n\n{_decide(parts, manifest)}\n")
    logging.info("Written to %s", os.path.join(run_dir, "evaluation", "val"))
    return found.summary["dice"]


def _decide(parts: Sequence[fold.Fold], manifest: schema.Manifest) -> str:
    """Decides for the ensemble, on the cases of all folds, which components are kept; says so."""
    classes = [entry.name for entry in manifest.classes]
    counts = [
        components.from_csv(files.read_text(part.counts), part.counts, len(classes))
        for part in parts
    ]
    run_dir = os.path.dirname(parts[0].run_dir)
    facts = {"split": "val of every fold", "data_fingerprint": parts[0].fingerprint}
    return components.settle(run_dir, np.concatenate(counts), classes, **facts)


def _check(settings: config.CrossValidation) -> None:
    """Raises InputError for settings that mean nothing to several runs."""
    job = settings.job
    if job.data.fold is not None:
        raise InputError(f"--fold={job.data.fold}: trainer.crossval trains every fold; drop it.")
    if job.run.model_dir:
        raise InputError(
            f"--model_dir={job.run.model_dir} is for one model, and each fold is one; drop it, and "
            "export a fold by trainer.export."
        )
    if not job.data.data_dir:
        raise InputError("--data_dir is missing; name a folder that was prepared with --folds.")
    members = membership.read()
    if job.device.strategy == "multi_worker" or (members and len(members.addresses) > 1):
        raise InputError(
            "trainer.crossval runs on one machine; on several, train each fold as a job of its "
            "own: trainer.task --fold=0 --run_dir=CV/fold-0, and so on."
        )
    if files.exists(os.path.join(job.run.run_dir, run_metadata.NAME)):
        raise InputError(
            f"--run_dir={job.run.run_dir} holds a run; name another folder, in which each fold "
            "gets one of its own."
        )
    several = bool(settings.cross.configurations)
    other = run_metadata.fold_folder("", 0) if several else run_metadata.CHOICE
    if files.exists(os.path.join(job.run.run_dir, other)):
        raise InputError(
            f"--run_dir={job.run.run_dir} holds a cross-validation "
            f"{'without' if several else 'with'} --configurations; name another folder."
        )


def _check_folds(settings: config.CrossValidation, manifest: schema.Manifest) -> None:
    """Raises InputError unless the data have as many folds as are asked for."""
    asked, data_dir = settings.cross.folds, settings.job.data.data_dir
    if manifest.folds is None:
        raise InputError(
            f"--data_dir={data_dir} has no folds; prepare the data again with --folds={asked}."
        )
    if len(manifest.folds) != asked:
        raise InputError(
            f"--folds={asked} and --data_dir={data_dir} has {len(manifest.folds)}; use --folds="
            f"{len(manifest.folds)}, or prepare the data again."
        )
    case_tables.check("val of all folds", sum(part.val.examples for part in manifest.folds))


@contextlib.contextmanager
def _commands() -> Iterator[Run]:
    """Yields what runs a command as a process, to which the signals of this one are passed.

    It exits with the process's status unless that is 0, and raises `preemption.StoppedError` if a
    signal came: then the process has saved its state.
    """
    running: list[subprocess.Popen] = []
    with child_process.signals_passed_to(running) as received:

        def run(module: str, argv: Sequence[str]) -> None:
            _raise_if_stopped(received)
            process = subprocess.Popen(
                [sys.executable, "-m", module, *argv],
                stdin=subprocess.DEVNULL,
                # A terminal's Ctrl-C reaches all processes of a group; it gets it once, from here.
                start_new_session=True,
                preexec_fn=child_process.ending_with_this_process(),
            )
            running[:] = [process]
            if received:  # before the process was among those that get it
                process.terminate()
            status = child_process.status_of(process.wait())
            running.clear()
            if status in STOPPED:
                _raise_if_stopped(received)
            if status:
                sys.exit(status)

        yield run
        _raise_if_stopped(received)


def _raise_if_stopped(received: Sequence[int]) -> None:
    if received:
        raise preemption.StoppedError(
            f"The cross-validation was stopped by {signal.Signals(received[0]).name}. The same "
            "command resumes."
        )
