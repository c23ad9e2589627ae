"""run.json: what made a run, written at its start and read by all that use the run.

Starts without TensorFlow, because a report of runs must be quick.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from trainer import config, json_text, version
from trainer.config import flags
from trainer.data import demo
from trainer.data.dataset import schema
from trainer.data.dataset.volume_examples import Volumes
from trainer.distributed import preemption, rendezvous
from trainer.errors import InputError, RetryableError
from trainer.storage import files

if TYPE_CHECKING:
    import tensorflow as tf

NAME = "run.json"
CHOICE = "configurations.json"  # of a cross-validation of several: which of them is the best


@dataclasses.dataclass(frozen=True)
class Data:
    """Of the data a run was trained on. Only the card of an export needs the optional fields."""

    dtype: str
    class_values: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ignore_value: int | None
    origin: str | None
    licence: str | None
    images: dict[str, int] | None
    pixels: dict[str, tuple[int, ...]] | None
    volumes: Volumes | None
    folds: int | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the settings, those that are read by their names. The others may be of another release."""

    norm: str
    data_dir: str


@dataclasses.dataclass(frozen=True)
class RunMetadata:
    """What programs read of run.json. It has more, for people."""

    settings: Settings
    command: tuple[str, ...]
    data_fingerprint: str
    fingerprint: str
    channels: int
    classes: tuple[str, ...]
    data: Data | None  # see `data_of`
    num_replicas: int
    streams: int
    total_steps: int
    precision: str
    exit_reason: str | None


def describe(job: config.Job, strategy: "tf.distribute.Strategy", **found: Any) -> dict[str, Any]:
    """Returns the content of run.json for a job that starts now.

    Args:
        job: its settings.
        strategy: the devices.
        **found: what was found or chosen at the start: data, streams, steps, arithmetic.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    return {
        "settings": config.to_dict(job),
        "command": ["python", "-m", "trainer.task", *flags.command_line(job)],
        **found,
        "devices": list(strategy.extended.worker_devices),
        "num_replicas": strategy.num_replicas_in_sync,
        "versions": {
            "trainer": version.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "git_revision": _git_revision(),
        "started": _now(),
        "exit_reason": None,
    }


def describe_data(manifest: schema.Manifest) -> dict[str, Any]:
    """Returns what prediction and export need of the data, so that they work without them."""
    return {
        "dtype": manifest.dtype,
        "class_values": [entry.value for entry in manifest.classes],
        "ignore_value": manifest.ignore_value,
        "mean": list(manifest.splits["train"].mean),
        "std": list(manifest.splits["train"].std),
        "origin": manifest.origin,
        "licence": manifest.licence,
        "images": {name: split.examples for name, split in manifest.splits.items()},
        "pixels": {name: list(split.pixels) for name, split in manifest.splits.items()},
        "volumes": manifest.volumes and schema.as_json(manifest.volumes),
        "folds": manifest.folds and len(manifest.folds),
    }


def data_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns what run.json says of the run's data, see `describe_data`.

    Runs before release 0.1.0 lack it; then the data folder is read.
    """
    if "data" in metadata:
        return metadata["data"]
    data_dir = metadata["settings"]["data_dir"] or demo.folder()
    return describe_data(schema.read_manifest(data_dir))


def volumes_of(metadata: dict[str, Any]) -> Volumes | None:
    """Returns how the volumes of a run were prepared; None if it is a run on images."""
    described = data_of(metadata).get("volumes")
    return schema.build(Volumes, described, "data.volumes") if described else None


def rank_of(metadata: dict[str, Any]) -> int:
    """Returns the number of spatial axes of a run's data: 2 of images, 3 of volumes."""
    return 2 if volumes_of(metadata) is None else 3


def write(run_dir: str, metadata: dict[str, Any]) -> None:
    """Writes run.json into `run_dir`."""
    files.make_folder(run_dir)
    files.write_whole(os.path.join(run_dir, NAME), json_text.dumps(metadata, indent=1) + "\n")


def find(run_dir: str) -> dict[str, Any] | None:
    """Returns the content of run.json, or None where there is none.

    Raises:
        InputError: it is not JSON, or lacks or garbles what RunMetadata has.
    """
    path = os.path.join(run_dir, NAME)
    if not files.exists(path):
        return None
    with files.open_file(path, "rb") as file:
        try:
            found = json.loads(file.read())
            schema.build(RunMetadata, found, "")
        except (ValueError, RecursionError) as error:  # also for bytes that are not text
            raise InputError(
                f"{path} is not JSON ({error}); restore it, or name another run folder."
            ) from None
        except TypeError as error:
            raise InputError(
                f"{path} does not describe a run ({error}); restore it, or name another run folder."
            ) from None
    return found


def read(run_dir: str, flag: str = "run_dir") -> dict[str, Any]:
    """Returns the content of run.json of a run whose model can be loaded.

    Args:
        run_dir: the run folder.
        flag: that named it, for messages.

    Raises:
        InputError: the folder holds no run, or its run.json lacks or garbles what that takes.
    """
    found = find(run_dir)
    if found is None:
        raise InputError(
            f"--{flag}={run_dir} has no {NAME}; name a folder that trainer.task wrote."
        )
    try:
        config.from_dict(config.Job, found["settings"])
    except InputError as error:
        reason = str(error).rstrip(".")
        raise InputError(
            f"{os.path.join(run_dir, NAME)} has a setting that this release does not take "
            f"({reason}); restore it, or use the release that wrote it."
        ) from None
    return found


def folders(text: str) -> list[str]:
    """Returns the run folders that a text names with commas between them.

    Their own names may have commas, such as lr=0.1,bs=4: each is the longest that is a run's.
    """
    parts, found = text.split(","), []
    while parts:
        longer = (",".join(parts[:end]).strip() for end in range(len(parts), 1, -1))
        runs = (name for name in longer if files.exists(os.path.join(name, NAME)))
        name = next(runs, parts[0].strip())
        parts = parts[name.count(",") + 1 :]
        found += [name] if name else []
    return found


def chosen(name: str) -> str:
    """Returns a folder, or that of the best configuration where a cross-validation chose one.

    Raises:
        InputError: the file that names it is damaged.
    """
    path = os.path.join(name, CHOICE)
    if not files.exists(path):
        return name
    try:
        best = json.loads(files.read_text(path))["best"]
        if not isinstance(best, str) or not best or best != os.path.basename(best):
            raise TypeError(f"best is {best!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not name the best configuration ({error}); let trainer.crossval write it "
            "again, or name the folder of a configuration."
        ) from None
    return os.path.join(name, best)


def with_folds(names: Sequence[str]) -> list[str]:
    """Returns run folders, those of its folds for each folder of a cross-validation.

    Of several configurations these are the folds of the best.

    Raises:
        InputError: a fold of it has not begun, or its choice of a configuration is damaged.
    """
    found = []
    for name in map(chosen, names):
        first = None if files.exists(os.path.join(name, NAME)) else find(fold_folder(name, 0))
        if first is None:
            found.append(name)
            continue
        count = (first.get("data") or {}).get("folds") or 1
        for fold in range(count):
            if not files.exists(os.path.join(fold_folder(name, fold), NAME)):
                raise InputError(
                    f"{name} is a cross-validation of {count} folds, of which fold {fold} has not "
                    "begun; let trainer.crossval finish it, or name the folders of its folds."
                )
            found.append(fold_folder(name, fold))
    return found


def fold_folder(run_dir: str, fold: int) -> str:
    """Returns the run folder of a fold of a cross-validation."""
    return os.path.join(run_dir, f"fold-{fold}")


def ended(reason: str) -> dict[str, str]:
    """Returns what run.json says of a run that ends now."""
    return {"ended": _now(), "exit_reason": reason}


class Ending:
    """Why a run ended; what `ending` writes."""

    reason = ""


@contextlib.contextmanager
def ending(run_dir: str, metadata: dict[str, Any], chief: bool) -> Iterator[Ending]:
    """Writes into run.json why and when the run ended, also if by an error.

    Where there is no run.json, the run was refused before it began, and none is made.

    Raises:
        RetryableError: in place of TensorFlow's error when the disk is full.
    """
    import tensorflow as tf

    found = Ending()
    try:
        yield found
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" not in str(error):
            raise
        raise RetryableError(
            f"No space is left on the disk of --run_dir={run_dir}; free some space and start "
            "again: the last complete checkpoint is kept."
        ) from None
    except BaseException as error:
        has_reason = (InputError, preemption.StoppedError, rendezvous.LostWorkerError)
        found.reason = str(error) if isinstance(error, has_reason) else type(error).__name__
        raise
    finally:
        if chief and found.reason:
            try:
                if files.exists(os.path.join(run_dir, NAME)):
                    write(run_dir, {**metadata, **ended(found.reason)})
            except files.failures() as error:  # which must not hide why the run ended
                logging.warning("%s cannot be written: %s", NAME, error)


def _git_revision() -> str | None:
    """Returns the commit of the source tree that this package runs from, if it is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        result = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return result.stdout.strip() or None


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
