"""The configurations among which a cross-validation chooses: flag files on top of its own flags."""

import os
from typing import Any

from trainer import config
from trainer.config import flags
from trainer.errors import InputError

SHARED = ("data_dir", "fold", "model_dir", "strategy", "tolerance_mm")  # one for all of them


def read(settings: config.CrossValidation) -> dict[str, config.Job]:
    """Returns the settings of each configuration by its name, that of its file.

    Where no file is named, the flags alone are the only one, and its name is empty.

    Raises:
        InputError: a file is no flag file of trainer.task, or the files are not to be compared.
    """
    text = settings.cross.configurations
    if not text:
        return {"": settings.job}
    found: dict[str, config.Job] = {}
    for path in filter(None, (part.strip() for part in text.split(","))):
        name = os.path.splitext(os.path.basename(path))[0]
        if name in found:
            raise InputError(
                f"--configurations={text} names two files {name}, whose runs would have one "
                "folder; rename one."
            )
        if name.startswith("fold-") or name in ("evaluation", ".", ".."):
            raise InputError(
                f"--configurations={text}: {name} would be a folder that a cross-validation has "
                "for itself; rename the file."
            )
        found[name] = _job(path, name, settings.job)
    if len(found) < 2:
        raise InputError(
            f"--configurations={text} names fewer than two files, and nothing to choose from; name "
            "more, or give one as --flagfile."
        )
    _check_apart(found)
    return found


def _job(path: str, name: str, common: config.Job) -> config.Job:
    """Returns the settings of a flag file; those that it leaves out are the common ones."""
    try:
        job = flags.parse(config.Job, ["", f"--flagfile={path}"], config.to_dict(common))
    except InputError as error:
        raise InputError(f"--configurations, {path}: {error}") from None
    values, others = config.to_dict(job), config.to_dict(common)
    for key in SHARED:
        if values[key] != others[key]:
            raise InputError(
                f"--configurations, {path}: --{key}={config.as_text(values[key])} is not that of "
                f"the command line, {config.as_text(others[key]) or 'which has none'}; all "
                "configurations have the same."
            )
    # Where the file's runs would be by themselves does not count.
    places: dict[str, Any] = {
        key: others[key] and os.path.join(others[key], name)
        for key in ("run_dir", "tensorboard_dir")
    }
    return config.from_dict(config.Job, {**values, **places})


def _check_apart(jobs: dict[str, config.Job]) -> None:
    """Raises InputError if two configurations are the same."""
    seen: dict[str, str] = {}
    for name, job in jobs.items():
        key = repr(config.identifying(job))
        if key in seen:
            raise InputError(
                f"--configurations: {seen[key]} and {name} have the same settings; change one."
            )
        seen[key] = name
