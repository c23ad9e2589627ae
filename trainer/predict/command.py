"""What predictions of images and of volumes have in common as commands."""

import os
import posixpath
from collections.abc import Collection, Iterable, Sequence

from absl import logging

from trainer import config
from trainer.checkpointing import run_metadata
from trainer.data.formats import discovery, reading
from trainer.errors import InputError
from trainer.evaluate import ensemble
from trainer.predict import parts
from trainer.storage import files


def check(settings: config.Predict) -> list[str]:
    """Returns the run folders; raises InputError for settings that do not go together."""
    settings.check_given()
    if not files.is_remote(settings.output) and os.path.isfile(settings.output):
        raise InputError(f"--output={settings.output} is a file; name a folder.")
    parts.parse(settings.part)
    return run_metadata.folders(settings.run_dir)


def check_place(settings: config.Predict, names: Iterable[str], folders: Collection[str]) -> None:
    """Raises InputError if masks would be written among the images, and later read as images.

    Args:
        settings: the user's.
        names: of the images.
        folders: that hold them.
    """
    output = settings.output
    remote = files.is_remote(output)
    output = posixpath.normpath(output) if remote else os.path.realpath(output)
    for folder in folders:
        same = posixpath.normpath(folder) == output
        if not (same or remote) and os.path.exists(output) and os.path.exists(folder):
            same = os.path.samefile(folder, output)  # by another path, such as a bind mount
        if same:
            raise InputError(
                f"--output={settings.output} is where the images are; masks would take their "
                "names: name another folder."
            )
    root = discovery.root_of(settings.images)
    root = posixpath.normpath(root) if remote else os.path.realpath(root)
    is_nested = any("/" in name for name in names)
    if is_nested and f"{output}/".startswith(f"{root}/"):
        raise InputError(
            f"--output={settings.output} is among the folders of --images={settings.images}, where "
            "masks would be taken for images at the next start; name a folder elsewhere."
        )


def facts(
    settings: config.Predict, networks: ensemble.Ensemble, names: Sequence[str]
) -> dict[str, object]:
    """Returns what the masks depend on: the weights, the classes, and settings by their names."""
    return {
        "weights": [member.weights for member in networks.members],
        **{name: getattr(settings, name) for name in names},
        "components": networks.kept.described(networks.classes) or None,
        "temperatures": networks.temperatures,
        "classes": dict(zip(networks.classes, networks.values, strict=True)),
    }


def skip(error: InputError, may_skip: bool) -> None:
    """Names an image that cannot be read, which is left out.

    Raises:
        InputError: unless it is unreadable and --skip_bad is given.
    """
    if not isinstance(error, reading.UnreadableError):
        raise error
    if not may_skip:
        raise InputError(f"{error} Fix or remove it, or skip it with --skip_bad.")
    logging.warning("Skipped: %s", error)


def closing_line(
    output: str, *, written: int, speed: str, there: int, bad: int, seconds: float
) -> str:
    """Returns the last line of a prediction.

    Args:
        output: the folder.
        written: number of masks.
        speed: at which they were.
        there: masks that were there already.
        bad: images that cannot be read.
        seconds: that it took.
    """
    parts = [f"Wrote {written} masks to {output} in {seconds:.1f} s"]
    if written:
        parts[0] += f" ({speed}, loading the network included)"
    if there:
        parts.append(f"{there} existed already")
    if bad:
        parts.append(f"{bad} could not be read and were left out")
    return "; ".join(parts) + "."
