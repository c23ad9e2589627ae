"""Creates a job once, though requests may fail, and jobs of its name may be there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.client import Job, Service


def create(
    service: Service,
    collection: str,
    build: Callable[[int], Mapping[str, Any]],
    jobs: Sequence[Job],
    name: str,
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

    Returns:
        The job that stays, and whether it is ours.
    """
    number = 1 + max([int(job.labels.get("unet_attempt", 0)) for job in jobs], default=0)
    known = {job.name for job in jobs}
    sent: list[int] = []

    def create_or_find() -> Job:
        for job in service.find(name) if sent else ():
            if job.name not in known:
                return job
        sent.append(number)
        return service.create(collection, build(number))

    ours = service.retry("create the job", create_or_find)
    rivals = [job for job in service.find(name) if job.name not in known and not job.has_ended]
    first = min([*rivals, ours], key=lambda job: (job.created, job.name))
    if first.name == ours.name:
        return ours, True
    service.cancel(ours)
    return first, False
