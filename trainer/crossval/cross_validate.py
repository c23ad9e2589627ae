"""The story of a cross-validation: train each fold, evaluate it on what it did not see, summarise.

A fold is a run like any other, in CV/fold-0, CV/fold-1 …: it may be looked at, resumed or evaluated
by itself, or be trained elsewhere.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from trainer import config
from trainer.checkpointing import run_metadata
from trainer.config import flags
from trainer.crossval import summary
from trainer.data.dataset import folds, schema
from trainer.distributed import child_process, membership, preemption
from trainer.errors import InputError
from trainer.evaluate import components
from trainer.storage import files

STOPPED = (0, preemption.EXIT_STATUS, 128 + signal.SIGINT)  # how a process ends that got a signal
ENDED = ("finished", "stopped early")  # reasons for which a run ends by itself


@dataclasses.dataclass(frozen=True)
class Fold:
    """A fold as a job.

    Attributes:
        number: of the fold.
        job: its settings.
        total_steps: of its training.
        fingerprint: of the data.
    """

    number: int
    job: config.Job
    total_steps: int
    fingerprint: str

    @property
    def run_dir(self) -> str:
        """The run folder."""
        return self.job.run.run_dir

    @property
    def evaluation(self) -> str:
        """The summary of its evaluation."""
        return os.path.join(self.run_dir, "evaluation", "val", summary.SUMMARY)

    @property
    def counts(self) -> str:
        """What its evaluation counted of each case, for the decision on components."""
        return os.path.join(self.run_dir, "evaluation", "val", components.COUNTS)

    def is_trained(self) -> bool:
        """Returns whether its run has ended with these settings.

        Raises:
            InputError: it has ended with others.
        """
        run = run_metadata.find(self.run_dir)
        if run is None or run["exit_reason"] not in ENDED:
            return False  # what it began with is checked where it resumes
        changes = config.differences(run["settings"], self.job)
        if self.total_steps < run["total_steps"]:
            changes.append(f"{self.total_steps} steps (were {run['total_steps']})")
        if run["data_fingerprint"] != self.fingerprint:
            changes.append("other data")
        if changes:
            raise InputError(
                f"{self.run_dir} was trained with other settings: {', '.join(changes)}; give the "
                "same flags to resume the cross-validation, or another --run_dir."
            )
        return run["total_steps"] == self.total_steps

    def is_evaluated(self) -> bool:
        """Returns whether the weights that it ended with were evaluated with these settings."""
        if not (files.exists(self.evaluation) and files.exists(self.counts)):
            return False
        try:
            found = json.loads(files.read_text(self.evaluation))
        except ValueError:
            return False
        tolerance = (found.get("tolerance") or {}).get("value")
        facts = found.get("data_fingerprint"), tolerance, found.get("components")
        return facts == (self.fingerprint, self.job.run.tolerance_mm, "all")


def cross_validate(settings: config.CrossValidation) -> None:
    """Runs what is left of a cross-validation, then writes and prints its summary.

    Raises:
        InputError: settings and data do not go together, or a fold was trained otherwise.
        preemption.StoppedError: it was asked to stop; the fold that was running saved its state.
    """
    _check(settings)
    manifest = schema.read_manifest(settings.job.data.data_dir)
    _check_folds(settings, manifest)
    parts = [_fold(settings.job, k, manifest) for k in range(settings.cross.folds)]
    trained = [part.is_trained() for part in parts]  # all are checked before any is trained
    with _commands() as run:
        for part, is_trained in zip(parts, trained, strict=True):
            if is_trained:
                logging.info("Fold %d is trained: %s", part.number, part.run_dir)
            else:
                logging.info("Training fold %d of 0 … %d.", part.number, len(parts) - 1)
                for path in (part.counts, part.evaluation):  # of weights that will change
                    files.remove(path)
                run("trainer.task", flags.command_line(part.job))
            if not part.is_evaluated():
                run("trainer.evaluate", _evaluation_flags(part))
    run_dir = settings.job.run.run_dir
    tolerance = settings.job.run.tolerance_mm
    found = summary.read([part.run_dir for part in parts], manifest, tolerance)
    summary.write(run_dir, found, parts[0].fingerprint)
    print(f"{summary.table(found)}\n\n{_decide(parts, manifest)}")
    logging.info(
        "Written to %s\nAn ensemble of all folds predicts by\n"
        "python -m trainer.predict --run_dir=%s --images=… --output=…",
        os.path.join(run_dir, "evaluation", "val"),
        run_dir,
    )


def _decide(parts: Sequence[Fold], manifest: schema.Manifest) -> str:
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


def _fold(job: config.Job, number: int, manifest: schema.Manifest) -> Fold:
    """Returns a fold of a cross-validation with these settings."""
    train = folds.choose(manifest, number, job.data.data_dir).splits["train"]
    places = {"run_dir": run_metadata.fold_folder(job.run.run_dir, number)}
    if job.run.tensorboard_dir:
        places["tensorboard_dir"] = run_metadata.fold_folder(job.run.tensorboard_dir, number)
    changed: dict[str, Any] = {**config.to_dict(job), **places, "fold": number}
    return Fold(
        number,
        config.from_dict(config.Job, changed),
        job.optimization.total_steps(train.examples, job.data.batch_size),
        schema.fingerprint(manifest),
    )


def _evaluation_flags(fold: Fold) -> list[str]:
    """Returns the flags by which a fold is evaluated as its job would have done it."""
    job = fold.job
    evaluate = config.Evaluate(
        run_dir=fold.run_dir,
        data_dir=job.data.data_dir,
        split="val",
        components="decide",
        batch_size=job.run.eval_batch_size or job.data.batch_size,
        tile=job.run.tile,
        worst_cases=job.run.worst_cases,
        best_cases=job.run.best_cases,
        tolerance_mm=job.run.tolerance_mm,
        skip_bad_records=job.data.skip_bad_records,
        strategy=job.device.strategy,
        tpu=job.device.tpu,
        virtual_devices=job.device.virtual_devices,
    )
    return flags.command_line(evaluate)


@contextlib.contextmanager
def _commands() -> Iterator[Callable[[str, Sequence[str]], None]]:
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
