"""What the command says: before a job, while it runs, and after it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from launch import cost, errors, programs, request, settings, watch
from launch.client import Job
from launch.hardware import Machines
from trainer import commands

CONSOLE = "https://console.cloud.google.com"


def describe(asked: settings.Vertex, machines: Machines) -> str:
    """Returns what is known of a place before anything is sent."""
    lines = [str(machines), f"  cost: {cost.estimate(asked, machines)}"]
    lines.append(f"  quota: {machines.quota or 'name not known; see the console'}")
    return "\n".join(lines)


def gcloud(asked: settings.Vertex, machines: Machines, body: Mapping[str, Any]) -> str:
    """Returns the gcloud commands that create the same job."""
    body = dict(body)
    file = f"{asked.job.name}.json"
    command = ["gcloud", "ai", request.COLLECTIONS[request.collection(asked)], "create"]
    command += [f"--project={asked.job.project}", f"--region={machines.region}"]
    command += [f"--display-name={body.pop('displayName')}", f"--config={file}"]
    labels = body.pop("labels")
    command.append("--labels=" + ",".join(f"{key}={value}" for key, value in labels.items()))
    if "encryptionSpec" in body:
        command.append(f"--kms-key={body.pop('encryptionSpec')['kmsKeyName']}")
    if "maxTrialCount" in body:
        command.append(f"--max-trial-count={body.pop('maxTrialCount')}")
        command.append(f"--parallel-trial-count={body.pop('parallelTrialCount')}")
    spec = json.dumps(body.get("jobSpec", body), indent=1)
    return f"cat > {file} <<'END'\n{spec}\nEND\n{shlex.join(command)}"


def warn_of_other_flags(job: Job, body: Mapping[str, Any]) -> None:
    """Warns if a job that is there was started with other flags."""
    spec = body.get("jobSpec") or body["trialJobSpec"]
    wanted = tuple(spec["workerPoolSpecs"][0]["containerSpec"]["args"])
    if job.args != wanted:
        runs = "had" if job.has_ended else "runs with"
        logging.warning("It %s other flags: %s", runs, shlex.join(job.args))


def command_for(action: str, asked: settings.Vertex, job: Job) -> str:
    """Returns the command that does something with a job."""
    where = (f"--project={asked.job.project}", f"--region={job.region}")
    return commands.line("launch.vertex", action, f"--name={asked.job.name}", *where)


def links(asked: settings.Vertex, job: Job) -> str:
    """Returns where a job can be looked at."""
    project = asked.job.project
    query = f'resource.type="ml_job" resource.labels.job_id="{job.id}"'
    query = query.replace('"', "%22").replace(" ", "%0A").replace("=", "%3D")
    lines = [
        f"job      {job.name}",
        f"console  {CONSOLE}/agent-platform/locations/{job.region}/training/{job.id}"
        f"?project={project}",
        f"logs     {CONSOLE}/logs/query;query={query}?project={project}",
    ]
    lines += programs.of(job.command).links(asked, job.args)
    if asked.access.tensorboard:
        experiment = f"{asked.access.tensorboard}/experiments/{job.id}".replace("/", "+")
        host = f"https://{job.region}.tensorboard.googleusercontent.com"
        lines.append(f"         {host}/experiment/{experiment}")
    return "\n".join(lines)


def no_room(tried: Sequence[tuple[Machines, str]]) -> str:
    """Returns the line about all that was tried."""
    attempts = "; ".join(
        f"{place.accelerator} in {place.region}: {' '.join(reason.split())}"
        for place, reason in tried
    )
    trouble = errors.explain(tried[-1][1])
    remedy = trouble.remedy if trouble else "try again later, or other --regions or --accelerators"
    return f"No machines were available ({attempts}); {remedy}."


def closing_lines(asked: settings.Vertex, job: Job) -> str:
    """Returns the lines about a finished job."""
    lines = [f"{asked.job.name} has finished after {watch.clock(watch.elapsed(job))}."]
    return "\n".join([*lines, *programs.of(job.command).results(asked, job.args)])
