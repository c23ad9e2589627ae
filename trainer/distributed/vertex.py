"""What Vertex AI tells a job by its environment, and the forms in which it reads reports.

https://docs.cloud.google.com/vertex-ai/docs/training/code-requirements
"""

import datetime
import logging
import os
import sys
import time
import traceback
import types
from collections.abc import Mapping
from typing import Any

from absl import logging as absl_logging

from trainer import json_text

# The variable by which gcloud, too, is led to another address.
ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
# The job's region, from launch.vertex: Vertex AI's own CLOUD_ML_REGION is in no document.
REGION = "UNET_TRAINER_REGION"


def is_here(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether the process runs in a Vertex AI job."""
    return "CLOUD_ML_JOB_ID" in environment


def is_trial(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether the process is a trial of a hyperparameter tuning job."""
    return any(environment.get(f"CLOUD_ML_{name}") for name in ("TRIAL_ID", "HP_METRIC_FILE"))


def job_folder(environment: Mapping[str, str] = os.environ) -> str:
    """Returns the job's folder, in which AIP_CHECKPOINT_DIR is; empty if it has none."""
    return environment.get("AIP_CHECKPOINT_DIR", "").rstrip("/").removesuffix("/checkpoints")


def defaults(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the defaults of trainer.task's flags that the environment gives.

    The run folder is what AIP_CHECKPOINT_DIR is in, so that checkpoints are there.
    """
    found = {}
    if folder := job_folder(environment):
        found["run_dir"] = folder
    if curves := environment.get("AIP_TENSORBOARD_LOG_DIR", "").rstrip("/"):
        found["tensorboard_dir"] = curves
    if model := environment.get("AIP_MODEL_DIR", "").rstrip("/"):
        found["model_dir"] = model
    return found


class Formatter(logging.Formatter):
    """One JSON object a line, with the names that Cloud Logging takes for severity and time.

    Without it, all that is written to standard error counts as errors.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as a line, with a mark if a restart would not help."""
        fields: dict[str, Any] = {"time": _time(record.created)}
        if getattr(record, "refused", False):
            fields["refused"] = True
        return entry(record.levelname, super().format(record), **fields)


def entry(severity: str, message: str, **fields: Any) -> str:
    """Returns a line of the log.

    Args:
        severity: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        message: may have several lines.
        **fields: more of it.
    """
    line = {"severity": severity, "message": message, **fields}
    return json_text.dumps(line, ensure_ascii=False)


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()


def report_defects() -> None:
    """Lets an exception that ends the process be one entry of the log, with its traceback."""

    def report(
        kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
    ) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        print(entry("CRITICAL", text), file=sys.stderr, flush=True)

    sys.excepthook = report


class Trial:
    """Reports a trial of a hyperparameter tuning job, in the file that Vertex AI reads."""

    def __init__(self, environment: Mapping[str, str] = os.environ):
        """Does nothing outside of a tuning job."""
        self._path = environment.get("CLOUD_ML_HP_METRIC_FILE", "")
        self._trial = environment.get("CLOUD_ML_TRIAL_ID", "0")
        self._lines: dict[str, str] = {}

    def report(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """Reports figures as val/dice and the like; of each name the newest is kept.

        Where the file cannot be written a warning says so once, and nothing more is reported: the
        run itself is sound, and its folder has all of its figures.
        """
        if not self._path:
            return
        try:
            self._write(step, split, figures)
        except OSError as error:
            absl_logging.warning(
                "%s cannot be written (%s), so the search learns nothing of this trial; run trials "
                "as root: launch.vertex --run_as=root.",
                self._path,
                error.strerror,
            )
            self._path = ""

    def _write(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            line = {
                "timestamp": time.time(),
                "trial": self._trial,
                f"{split}/{name}": str(float(value)),
                "global_step": str(step),
                "checkpoint_path": "",
            }
            self._lines[f"{split}/{name}"] = json_text.dumps(line) + "\n"
        os.makedirs(os.path.dirname(self._path) or ".", exist_ok=True)
        with open(self._path, "w", encoding="utf-8") as file:
            file.writelines(self._lines.values())
