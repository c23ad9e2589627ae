"""What run.json must say, for those who go on with a run, load its model or show it.

Never imports TensorFlow: a page of runs is written in a moment.
"""

import dataclasses
import json
import os
from typing import Any

from trainer.data.dataset import schema
from trainer.errors import InputError
from trainer.storage import files

NAME = "run.json"


@dataclasses.dataclass(frozen=True)
class Data:
    """Of the data the run was trained on; only the card of an export tells the optional fields."""

    dtype: str
    class_values: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ignore_value: int | None
    origin: str | None
    licence: str | None
    images: dict[str, int] | None
    pixels: dict[str, tuple[int, ...]] | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the settings, those that are read by their names. The others may be of another release."""

    norm: str
    data_dir: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is read of a run. Its passport says more, for people."""

    settings: Settings
    command: tuple[str, ...]
    data_fingerprint: str
    fingerprint: str
    channels: int
    classes: tuple[str, ...]
    data: Data | None  # see `network.data_of`
    num_replicas: int
    streams: int
    total_steps: int
    precision: str
    exit_reason: str | None


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


def read(run_dir: str) -> dict[str, Any] | None:
    """Returns the passport in `run_dir`, or None where there is none.

    Raises:
        InputError: what is there is not JSON, or lacks or garbles one of the facts.
    """
    path = os.path.join(run_dir, NAME)
    if not files.exists(path):
        return None
    with files.open_file(path, "rb") as file:
        try:
            found = json.loads(file.read())
            schema.build(Facts, found, "")
        except (ValueError, RecursionError) as error:  # also of bytes that are no text
            raise InputError(
                f"{path} is not JSON ({error}); restore it, or name another run folder."
            ) from None
        except TypeError as error:
            raise InputError(
                f"{path} is not the passport of a run ({error}); restore it, or name another run "
                "folder."
            ) from None
    return found
