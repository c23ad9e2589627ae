"""Creates a job once, though requests may fail, and jobs of its name may be there."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from launch.client import BusyError, Job, Service
from trainer.errors import InputError

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


def patiently(
    call: Callable[[], Any], patience_seconds: float, what: str, service: str = "Vertex AI"
) -> Any:
    """Returns what a call returns, made again while the service is busy.

    Raises:
        InputError: when it has been busy for longer than `patience_seconds`.
    """
    give_up, pause = time.monotonic() + patience_seconds, FIRST_PAUSE
    while True:
        try:
            return call()
        except BusyError as error:
            pause = _wait(error, pause, give_up, what, service)


def create(
    service: Service,
    collection: str,
    build: Callable[[int], Mapping[str, Any]],
    jobs: Sequence[Job],
    name: str,
    patience_seconds: float,
) -> tuple[Job, bool]:
    """Creates a job, unless another has just been created under its name.

    A request that failed may have been carried out. So each job of a name has a number, and before
    a request is sent again the service is asked for a job with this number. Two commands at the
    same time both see that there are two, and only the older stays.

    Args:
        service: of the region.
        collection: kind of the job.
        build: attempt → body of the request.
        jobs: of this name, so far.
        name: of the run.
        patience_seconds: for which the service may be busy.

    Returns:
        The job that stays, and whether it is ours.
    """
    attempt = 1 + max([int(job.labels.get("unet_attempt", 0)) for job in jobs], default=0)
    known = {job.name for job in jobs}
    give_up, pause = time.monotonic() + patience_seconds, FIRST_PAUSE
    ours = None
    while ours is None:
        try:
            ours = service.create(collection, build(attempt))
        except BusyError as error:
            pause = _wait(error, pause, give_up, "create the job")
            found = patiently(functools.partial(service.find, name), patience_seconds, "list jobs")
            ours = next((job for job in found if job.name not in known), None)
    found = patiently(functools.partial(service.find, name), patience_seconds, "list jobs")
    rivals = [job for job in found if job.name not in known and not job.has_ended]
    first = min([*rivals, ours], key=lambda job: (job.created, job.name))
    if first.name == ours.name:
        return ours, True
    patiently(functools.partial(service.cancel, ours), patience_seconds, "cancel the second job")
    return first, False


def _wait(
    error: BusyError, pause: float, give_up: float, what: str, service: str = "Vertex AI"
) -> float:
    """Sleeps, and returns the next pause."""
    if time.monotonic() + pause > give_up:
        raise InputError(
            f"{service} could not be made to {what} ({_line(error)}); try again later, or raise "
            "--patience_seconds."
        )
    logging.info("%s is busy (%s); trying again in %.0f s.", service, _line(error), pause)
    time.sleep(pause)
    return min(2 * pause, LONGEST_PAUSE)


def _line(error: BusyError) -> str:
    return " ".join(str(error).split())[:200]
