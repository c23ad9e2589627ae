"""Trains, or predicts, as a Vertex AI job: `python -m launch.vertex --help`, docs/vertex.md.

`python -m launch.vertex [predict|list|attach|cancel] --name=NAME … -- flags of trainer.task`, or of
trainer.predict.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from launch import (
    check,
    errors,
    hardware,
    image,
    messages,
    programs,
    request,
    settings,
    submit,
    watch,
)
from launch.client import Job, Service
from launch.cloud import NoRoomError
from launch.hardware import Machines
from trainer import cli, commands
from trainer.distributed import preemption
from trainer.errors import InputError


def run(asked: settings.Vertex, argv: Sequence[str]) -> None:
    """Starts the job, or attaches to it; exits with its status. Of folds, starts each."""
    if asked.job.folds:
        run_folds(asked, argv)
        return
    places, args, bodies = requested(asked, argv)
    for place in places:
        logging.info("%s", messages.describe(asked, place))
    if asked.job.dry_run:
        preflight(asked, places, args)
        print(json.dumps(bodies[0], indent=1), flush=True)
        print(messages.gcloud(asked, places[0], bodies[0]), file=sys.stderr)
        if asked.access.service_account:
            print(
                f"{asked.access.service_account} needs, once for the project:\n"
                f"{check.role_of(asked)}",
                file=sys.stderr,
            )
        return
    services = connect(asked, [place.region for place in places])
    jobs = find(asked, list(services.values()))
    program = programs.PROGRAMS[asked.job.action]
    programs.check_same(asked.job.name, program, [job.command for job in jobs])
    current = next((job for job in jobs if not job.has_ended), None)
    if current is not None:
        logging.info("%s is %s already; attaching to it.", asked.job.name, current.state.lower())
        messages.warn_of_other_flags(current, bodies[0])
        end(asked, current, stay(asked, services[current.region], current))
    if jobs and jobs[0].state == "SUCCEEDED":
        logging.info("%s", messages.closing_lines(asked, jobs[0]))
        messages.warn_of_other_flags(jobs[0], bodies[0])
        if program.again:
            logging.info("%s", program.again)
        return
    if jobs:
        logging.info("The last job was %s; its %s resumes.", jobs[0].state.lower(), program.noun)
    preflight(asked, places, args)
    tried = []
    for place in places:
        image.ensure(asked, place, image.address(asked, place))
        try:
            job = start(asked, services[place.region], place, args, jobs)
            final = stay(asked, services[place.region], job)
        except NoRoomError as error:
            tried.append((place, str(error)))
        else:
            if not has_no_room(final):
                end(asked, job, final)
            tried.append((place, final.error or final.state.lower()))
        logging.info("No room in %s: %s", *tried[-1])
        jobs = find(asked, list(services.values()))
    raise InputError(messages.no_room(tried))


def requested(
    asked: settings.Vertex, argv: Sequence[str]
) -> tuple[list[Machines], list[str], list[dict[str, Any]]]:
    """Returns the places to try, the flags of the program, and the request for each place."""
    places = list(hardware.choose(asked))
    program = programs.PROGRAMS[asked.job.action]
    args = [program.check_flags(asked, place, argv) for place in places][0]
    bodies = [
        request.build(
            asked, place, image.address(asked, place), program.flags_for(place, args), attempt=1
        )
        for place in places
    ]
    return places, args, bodies


def run_folds(asked: settings.Vertex, argv: Sequence[str]) -> None:
    """Starts a job for each fold, unless it runs or has succeeded; follows none of them.

    Raises:
        InputError: a fold is given, too.
    """
    if any(word.startswith(("--fold=", "-fold=")) for word in argv):
        raise InputError(f"--folds={asked.job.folds} trains every fold; drop --fold after --.")
    jobs = [(asked.of_fold(k), [*argv, f"--fold={k}"]) for k in range(asked.job.folds)]
    if asked.job.dry_run:
        bodies = [requested(*job)[2][0] for job in jobs]
        print(json.dumps(bodies, indent=1), flush=True)
        return
    for job in jobs:
        try:
            run(*job)
        except SystemExit as ending:  # of a command that does not follow its job
            if ending.code:
                raise
    logging.info(
        "When all of them have ended, sum up by\n%s",
        commands.line(
            "trainer.crossval", f"--folds={asked.job.folds}", f"--run_dir={asked.job_dir()}", *argv
        ),
    )


def preflight(asked: settings.Vertex, places: Sequence[Machines], args: Sequence[str]) -> None:
    """Compiles the step for each accelerator that may be chosen, if that is asked for."""
    if asked.job.preflight:
        for place in {place.accelerator: place for place in places}.values():
            check.preflight(place, args)


def connect(asked: settings.Vertex, regions: Sequence[str]) -> dict[str, Service]:
    """Returns the services of some regions."""
    project, patience = asked.job.project, asked.job.patience_seconds
    return {region: Service(project, region, patience) for region in regions}


def find(asked: settings.Vertex, services: Sequence[Service]) -> list[Job]:
    """Returns the jobs of this name in all regions, the newest first."""
    jobs = [job for service in services for job in service.find(asked.job.name)]
    return sorted(jobs, key=lambda job: job.created, reverse=True)


def start(
    asked: settings.Vertex,
    service: Service,
    machines: Machines,
    args: Sequence[str],
    jobs: Sequence[Job],
) -> Job:
    """Creates the job and says where it can be seen."""
    address = image.address(asked, machines)

    flags = programs.PROGRAMS[asked.job.action].flags_for(machines, args)

    def build(attempt: int) -> dict[str, Any]:
        return request.build(asked, machines, address, flags, attempt)

    job, ours = submit.create(
        service,
        request.collection(asked),
        build,
        jobs,
        asked.job.name,
    )
    if not ours:
        logging.info("Another command has just started %s; attaching to its job.", asked.job.name)
    return job


def stay(asked: settings.Vertex, service: Service, job: Job) -> Job:
    """Follows the job to its end; Ctrl-C, or --follow=false, leaves it running."""
    logging.info("%s", messages.links(asked, job))
    if not asked.job.follow:
        sys.exit(0)
    try:
        return watch.follow(asked, service, job)
    except KeyboardInterrupt:
        logging.info(
            "The job keeps running. To see it again, or to end it:\n  %s\n  %s",
            messages.command_for("attach", asked, job),
            messages.command_for("cancel", asked, job),
        )
        sys.exit(preemption.INTERRUPTED)


def has_no_room(job: Job) -> bool:
    """Returns whether a job ended because machines were not available."""
    return (job.state == "EXPIRED" and job.started is None) or (
        job.state == "FAILED" and errors.kind_of(job.error) in ("quota", "capacity")
    )


def end(asked: settings.Vertex, job: Job, final: Job) -> None:
    """Logs how the job ended and exits with its status."""
    if final.state == "SUCCEEDED":
        logging.info("%s", messages.closing_lines(asked, final))
        sys.exit(0)
    trouble = errors.explain(final.error)
    logging.info(
        "The job was %s%s%s",
        final.state.lower(),
        f": {' '.join(final.error.split())}" if final.error else ".",
        f"\n{trouble.remedy}" if trouble else "",
    )
    if final.state == "EXPIRED" and final.started is not None:
        logging.info("It has run for as long as its --timeout lets it.")
    status = errors.exit_status(final.error)
    if final.state == "CANCELLED" and status != cli.EXIT_STATUS:
        logging.info("If nobody did that, it refused its input: its last line in the log says why.")
    if status != cli.EXIT_STATUS:
        logging.info("%s", programs.of(job.command).resumes)
    sys.exit(status)


def attach(asked: settings.Vertex, argv: Sequence[str]) -> None:
    """Follows the newest job of this name, or shows how it went wrong; exits with its status."""
    services = connect(asked, asked.regions())
    job = newest(asked, find(asked, list(services.values())))
    over = job.state == "SUCCEEDED" or (job.has_ended and not asked.job.follow)
    end(asked, job, job if over else stay(asked, services[job.region], job))


def cancel(asked: settings.Vertex, argv: Sequence[str]) -> None:
    """Asks for the end of all jobs of this name that have not ended."""
    services = connect(asked, asked.regions())
    jobs = find(asked, list(services.values()))
    newest(asked, jobs)
    for job in jobs:
        if not job.has_ended:
            services[job.region].cancel(job)
            logging.info("%s is being cancelled.", job.name)


def newest(asked: settings.Vertex, jobs: Sequence[Job]) -> Job:
    """Returns the newest job.

    Raises:
        InputError: there is none.
    """
    if not jobs:
        raise InputError(
            f"--name={asked.job.name}: there is no such job in {', '.join(asked.regions())}; "
            "see launch.vertex list."
        )
    return jobs[0]


def list_jobs(asked: settings.Vertex, argv: Sequence[str]) -> None:
    """Prints the jobs that this command has started, the newest first."""
    for job in find(asked, list(connect(asked, asked.regions()).values())):
        print(
            f"{job.labels['unet_run']:24} {job.state.lower():10} {job.created:%Y-%m-%d %H:%M} "
            f"{watch.clock(watch.elapsed(job)):>9}  {job.region}  {job.id}"
        )


ACTIONS: Mapping[str, Callable[[settings.Vertex, Sequence[str]], None]] = {
    "run": run,
    "predict": run,
    "attach": attach,
    "cancel": cancel,
    "list": list_jobs,
}


def main(argv: Sequence[str]) -> None:
    """Runs the command; what follows a lone -- is for trainer.task, or trainer.predict."""
    argv = list(argv)
    own, trainers = argv, []
    if "--" in argv:
        own, trainers = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    if len(own) > 1 and own[1] in ACTIONS:
        own[1] = f"--action={own[1]}"
    cli.run(settings.Vertex, lambda asked: ACTIONS[asked.job.action](asked, trainers), own)


if __name__ == "__main__":
    main(sys.argv)
