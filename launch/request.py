"""The request that asks Vertex AI for a job, as the JSON of its REST interface.

Enums are named; the client sends their numbers, which mean the same to the service.
"""

from collections.abc import Sequence
from typing import Any

from launch import attachments, programs, settings, tuning
from launch.hardware import Machines
from trainer.distributed import vertex

REDUCTION_SERVER = {
    "image": "us-docker.pkg.dev/vertex-ai-restricted/training/reductionserver:latest",
    "machine": "n1-highcpu-16",
}
COLLECTIONS = {"customJobs": "custom-jobs", "hyperparameterTuningJobs": "hp-tuning-jobs"}


def collection(asked: settings.Vertex) -> str:
    """Returns the kind of job, as it is called in the service's addresses."""
    return "hyperparameterTuningJobs" if asked.tuning.tune else "customJobs"


def build(
    asked: settings.Vertex, machines: Machines, image: str, args: Sequence[str], attempt: int
) -> dict[str, Any]:
    """Returns the body of the request.

    Args:
        asked: the command's settings.
        machines: what it runs on.
        image: address of the container's image.
        args: flags of the program.
        attempt: 1 for the first job of this name, then one more for each.
    """
    spec = _job_spec(asked, machines, image, args)
    body: dict[str, Any] = {"displayName": asked.job.name}
    if asked.tuning.tune:
        # A trial's folder would else hold the run of an earlier attempt's trial.
        spec["baseOutputDirectory"]["outputUriPrefix"] += f"/tuning-{attempt}"
        body["studySpec"] = tuning.build(asked.tuning, args)
        body["maxTrialCount"] = asked.tuning.trials
        body["parallelTrialCount"] = asked.tuning.parallel
        if asked.tuning.max_failed_trials:
            body["maxFailedTrialCount"] = asked.tuning.max_failed_trials
        body["trialJobSpec"] = spec
    else:
        body["jobSpec"] = spec
    body["labels"] = {
        "unet_run": asked.job.name,
        "unet_attempt": str(attempt),
        **settings.parse_labels(asked.access.labels),
    }
    if asked.access.kms_key:
        body["encryptionSpec"] = {"kmsKeyName": asked.access.kms_key}
    return body


def _job_spec(
    asked: settings.Vertex, machines: Machines, image: str, args: Sequence[str]
) -> dict[str, Any]:
    access, program = asked.access, programs.PROGRAMS[asked.job.action]
    spec: dict[str, Any] = {
        "workerPoolSpecs": _pools(asked, machines, image, args),
        "scheduling": _scheduling(asked.scheduling, program.is_together),
        "baseOutputDirectory": {"outputUriPrefix": asked.job_dir(program.folder)},
    }
    attachment = access.network_attachment
    optional = {
        "serviceAccount": access.service_account,
        "network": access.network,
        "pscInterfaceConfig": attachment and {"networkAttachment": attachment},
        "tensorboard": access.tensorboard,
        "enableWebAccess": access.web_access,
        "persistentResourceId": access.persistent_resource,
    }
    return spec | {name: value for name, value in optional.items() if value}


def _command(asked: settings.Vertex, machines: Machines) -> list[str]:
    """Returns the container's command; empty for that of the image."""
    command = programs.PROGRAMS[asked.job.action].command
    if machines.kind == "tpu" and not asked.image.image:  # our image has no ENTRYPOINT there
        command = command or programs.TRAIN
    return list(command)


def _pools(
    asked: settings.Vertex, machines: Machines, image: str, args: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the chief's pool, then those of the other workers and of Reduction Servers."""
    variables = {**machines.environment, vertex.REGION: machines.region}
    container: dict[str, Any] = {
        "imageUri": image,
        **({"command": command} if (command := _command(asked, machines)) else {}),
        "args": list(args),
        "env": [{"name": name, "value": value} for name, value in variables.items()],
    }
    machine: dict[str, Any] = {"machineType": machines.machine}
    if machines.accelerator_type:
        machine["acceleratorType"] = machines.accelerator_type
        machine["acceleratorCount"] = machines.count
    if machines.topology:
        machine["tpuTopology"] = machines.topology
    if affinity := attachments.reservation(asked.scheduling.reservation):
        machine["reservationAffinity"] = affinity
    disk = {"bootDiskType": machines.disk, "bootDiskSizeGb": asked.hardware.boot_disk_gb}
    pools = [_pool(machine, replicas, disk, container) for replicas in (1, machines.workers - 1)]
    if machines.workers == 1:
        pools.pop()
    if mounts := attachments.shares(asked.access.nfs):
        pools = [{**pool, "nfsMounts": mounts} for pool in pools]
    if asked.hardware.reduction_servers:
        pools.append(
            _pool(
                {"machineType": REDUCTION_SERVER["machine"]},
                asked.hardware.reduction_servers,
                {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 100},
                {"imageUri": REDUCTION_SERVER["image"]},
            )
        )
    return pools


def _pool(
    machine: dict[str, Any], replicas: int, disk: dict[str, Any], container: dict[str, Any]
) -> dict[str, Any]:
    return {
        "machineSpec": machine,
        "replicaCount": str(replicas),  # 64-bit integers are strings in this JSON
        "diskSpec": disk,
        "containerSpec": container,
    }


def _scheduling(when: settings.Scheduling, is_together: bool) -> dict[str, Any]:
    spec: dict[str, Any] = {"timeout": f"{settings.seconds('timeout', when.timeout)}s"}
    if is_together and when.restart_on_worker_restart and not when.disable_retries:
        spec["restartJobOnWorkerRestart"] = True
    if when.spot:
        spec["strategy"] = "SPOT"
    if when.flex_start:
        spec["strategy"] = "FLEX_START"
        if when.max_wait:
            spec["maxWaitDuration"] = f"{settings.seconds('max_wait', when.max_wait)}s"
    if when.disable_retries:
        spec["disableRetries"] = True
    return spec
