"""Prediction on an engine of Apache Beam: an item is a part of the images, as `--part` names it.

So each part resumes where a worker was killed, and a retry does nothing twice. A worker predicts
one part after the other with the same networks. Before that, each band of an image of a large file
is an item; the image's part joins them. This process joins the records at the end.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any

from absl import logging

from trainer import cli, config
from trainer.distributed import beam_runner
from trainer.errors import InputError, RetryableError

MOST_PARTS, IMAGES = 100, 8  # of a prediction; at least so many images to a part
_LOCK = threading.Lock()  # a process has several threads of Beam's


def engine(settings: config.Predict) -> beam_runner.Beam | None:
    """Returns the engine that is asked for, if one is, and has checked it.

    Raises:
        InputError: it is refused, or does not go with --part.
    """
    beam = beam_runner.parse(settings.runner, settings.runner_options, workers=1)
    if beam is None:
        if settings.dry_run:
            raise InputError("--dry_run prints what --runner is given; name a runner.")
        return None
    if settings.part:
        raise InputError(
            f"--part={settings.part} is for machines that start by themselves, and --runner="
            f"{settings.runner} divides the images; drop one of them."
        )
    runs = [("run_dir", one) for one in settings.run_dir.split(",")]
    beam.check([*runs, ("images", settings.images), ("output", settings.output)])
    return beam


def predict(settings: config.Predict, beam: beam_runner.Beam, story: Any) -> None:
    """Predicts all images on an engine; what it has left is predicted by the caller.

    Args:
        settings: the user's.
        beam: the engine.
        story: the module that predicts images, or volumes.

    Raises:
        InputError: a part is refused, or the engine fails.
    """
    images, bands = story.items(settings)
    count = max(1, min(MOST_PARTS, images // IMAGES))
    keys = [f"{number}/{count}" for number in range(1, count + 1)]
    alone = dataclasses.replace(settings, runner=beam_runner.LOCAL, runner_options="")
    for _ in range(2):
        try:
            if bands:
                task = functools.partial(_predict_band, story.predict_band, story.load, alone)
                beam.each("predicting-bands", task, bands)
            task = functools.partial(_predict, story.predict, story.load, alone)
            beam.each("predicting", task, keys)
            return
        except beam_runner.KilledWorkerError:
            logging.warning(
                "Warning: a worker process was killed, most likely because memory ran out; what is "
                "left is tried again."
            )
    raise RetryableError(
        f"A worker process was killed twice, most likely because memory ran out; use a smaller "
        f"--tile than {settings.tile}, or --runner=local. What is finished is kept."
    )


def _predict(
    predict_part: Callable[..., None], load: Callable[..., Any], settings: config.Predict, key: str
) -> None:
    cli.prepare_environment()
    with _LOCK:
        part = dataclasses.replace(settings, part="" if key == "1/1" else key)
        predict_part(part, functools.partial(_loaded, load))


def _predict_band(
    predict_band: Callable[..., None],
    load: Callable[..., Any],
    settings: config.Predict,
    key: str,
) -> None:
    cli.prepare_environment()
    with _LOCK:
        predict_band(settings, functools.partial(_loaded, load), key)


@functools.lru_cache(1)
def _loaded(load: Callable[..., Any], run_dirs: tuple[str, ...], settings: config.Predict) -> Any:
    """Returns networks, once for all parts of a process."""
    return load(run_dirs, settings)
