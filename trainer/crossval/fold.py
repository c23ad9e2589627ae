"""A fold of a cross-validation as a job: its settings, and what is left to do of it."""

import dataclasses
import json
import os
from typing import Any

from trainer import config
from trainer.checkpointing import run_metadata
from trainer.config import flags
from trainer.data.dataset import folds, schema
from trainer.errors import InputError
from trainer.evaluate import calibration, case_tables, components
from trainer.storage import files

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
        return os.path.join(self.run_dir, "evaluation", "val", case_tables.SUMMARY)

    @property
    def counts(self) -> str:
        """What its evaluation counted of each case, for the decision on components."""
        return os.path.join(self.run_dir, "evaluation", "val", components.COUNTS)

    @property
    def temperature(self) -> str:
        """The file of the temperature that its evaluation fitted, for its part of the ensemble."""
        return os.path.join(self.run_dir, calibration.NAME)

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
        if not all(map(files.exists, (self.evaluation, self.counts, self.temperature))):
            return False
        if not case_tables.is_there(os.path.dirname(self.evaluation)):
            return False
        try:
            found = json.loads(files.read_text(self.evaluation))
        except ValueError:
            return False
        tolerance = (found.get("tolerance") or {}).get("value")
        facts = found.get("data_fingerprint"), tolerance, found.get("components")
        return facts == (self.fingerprint, self.job.run.tolerance_mm, "all")


def of(job: config.Job, number: int, manifest: schema.Manifest) -> Fold:
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


def evaluation_flags(fold: Fold) -> list[str]:
    """Returns the flags by which a fold is evaluated as its job would have done it."""
    job = fold.job
    evaluate = config.Evaluate(
        run_dir=fold.run_dir,
        data_dir=job.data.data_dir,
        split="val",
        components="decide",
        calibration="decide",
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
