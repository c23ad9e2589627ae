"""Runs what a CustomJob asks for as processes, with the environment that Vertex AI documents.

https://docs.cloud.google.com/vertex-ai/docs/training/understanding-training-service and
…/distributed-training: all replicas start at once; one that exits with another status than 0 is
started again, with the whole job if the job asks for that; the job has succeeded when its chief has
exited with 0, and the others are stopped then. TF_CONFIG is set where there are several replicas,
CLUSTER_SPEC always. A container without a command has the entry point of the image.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from tests.jobs import ROOT

ENTRY_POINT = ("python", "-m", "trainer.task")
ROLES = ("chief", "worker", "ps", "evaluator")
GRACE_SECONDS = 5
PROJECT_NUMBER = "123456789"  # code runs in a project that is not the user's
Replica = tuple[int, int]  # pool, index


class Machines:
    """The machines of one job; give `run` to the server as its runner.

    Attributes:
        processes: of the replicas that are up.
        starts: how often each was started.
        exits: statuses of each, in order.
    """

    def __init__(self, environment: Mapping[str, str], max_restarts: int = 5):
        """Starts nothing yet.

        Args:
            environment: of all replicas, beside Vertex AI's own.
            max_restarts: of each replica, after which the job has failed.
        """
        self.processes: dict[Replica, subprocess.Popen] = {}
        self.starts: dict[Replica, int] = {}
        self.exits: dict[Replica, list[int]] = {}
        self._environment = dict(environment)
        self._max_restarts = max_restarts
        self._readers: list[threading.Thread] = []
        self.lock = threading.Lock()

    def run(self, server: Any, job: Any) -> None:
        """Runs the job to its end."""
        try:
            self._run(server, job)
        finally:
            self.stop()

    def kill(self, replica: Replica) -> None:
        """Takes a machine away without a warning."""
        with self.lock:
            self.processes[replica].send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """Stops all that is up, by force after a while."""
        with self.lock:
            for process in self.processes.values():
                if process.poll() is None:
                    process.terminate()
            for process in self.processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_SECONDS)
                process.kill()
                process.wait()

    def _run(self, server: Any, job: Any) -> None:
        pools = job.job_spec.worker_pool_specs
        replicas = [(p, i) for p, pool in enumerate(pools) for i in range(pool.replica_count)]
        addresses = {replica: _free_address() for replica in replicas}
        self._start(server, job, replicas, addresses)
        server.set_state(job, "RUNNING")
        while True:
            time.sleep(0.05)
            if server.jobs[job.name].state.name.endswith("CANCELLING"):
                self.stop()
                server.set_state(job, "CANCELLED")
                return
            ended = [(r, self.processes[r].poll()) for r in replicas]
            if ended[0][1] == 0:
                self.stop()
                self._finish_reading()
                server.set_state(job, "SUCCEEDED")
                return
            broken = [(replica, status) for replica, status in ended if status]
            if not broken:
                continue
            again = replicas if job.job_spec.scheduling.restart_job_on_worker_restart else None
            for replica, status in broken:
                self.exits.setdefault(replica, []).append(status)
            (pool, index), status = broken[0]
            if self.starts[pool, index] > self._max_restarts:
                self.stop()
                self._finish_reading()
                name = f"workerpool{pool}-{index}"
                error = f"The replica {name} exited with a non-zero status of {status}."
                server.set_state(job, "FAILED", error)
                return
            if again:
                self.stop()
            self._start(server, job, again or [replica for replica, _ in broken], addresses)

    def _start(
        self, server: Any, job: Any, replicas: list[Replica], addresses: Mapping[Replica, str]
    ) -> None:
        with self.lock:
            for replica in replicas:
                pool, index = replica
                container = job.job_spec.worker_pool_specs[pool].container_spec
                python, *words = container.command or ENTRY_POINT
                assert python == "python"
                process = subprocess.Popen(
                    [sys.executable, *words, *container.args],
                    env=self._environment | environment(job, replica, addresses),
                    cwd=ROOT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    start_new_session=True,
                )
                self.processes[replica] = process
                self.starts[replica] = self.starts.get(replica, 0) + 1
                reader = threading.Thread(
                    target=_read, args=(server, job, f"workerpool{pool}-{index}", process)
                )
                reader.start()
                self._readers.append(reader)

    def _finish_reading(self) -> None:
        for reader in self._readers:
            reader.join(10)


def environment(job: Any, replica: Replica, addresses: Mapping[Replica, str]) -> dict[str, str]:
    """Returns the variables of a replica.

    Args:
        job: the CustomJob.
        replica: pool and index.
        addresses: host:port of each replica.
    """
    spec, (pool, index) = job.job_spec, replica
    job_id, region = job.name.rpartition("/")[2], job.name.split("/")[3]
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONUNBUFFERED": "1",
        "CLOUD_ML_JOB_ID": job_id,
        "CLOUD_ML_PROJECT_ID": PROJECT_NUMBER,
        "CLOUD_ML_REGION": region,
    }
    if base := spec.base_output_directory.output_uri_prefix.rstrip("/"):
        variables["AIP_MODEL_DIR"] = f"{base}/model/"
        variables["AIP_CHECKPOINT_DIR"] = f"{base}/checkpoints/"
        variables["AIP_TENSORBOARD_LOG_DIR"] = f"{base}/logs/"
    by_pool: dict[int, list[str]] = {}
    for (number, _), address in addresses.items():
        by_pool.setdefault(number, []).append(address)
    variables["CLUSTER_SPEC"] = json.dumps(
        {
            "cluster": {f"workerpool{number}": found for number, found in by_pool.items()},
            "environment": "cloud",
            "task": {"type": f"workerpool{pool}", "index": index, "trial": ""},
            "job": "{}",
        }
    )
    if len(addresses) > 1:
        cluster = {ROLES[number]: found for number, found in by_pool.items() if number < 3}
        variables["TF_CONFIG"] = json.dumps(
            {
                "cluster": cluster,
                "environment": "cloud",
                "task": {"type": ROLES[pool], "index": index, "cloud": "x", "trial": ""},
                "job": "{}",
            }
        )
    container = spec.worker_pool_specs[pool].container_spec
    return variables | {variable.name: variable.value for variable in container.env}


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _read(server: Any, job: Any, replica: str, process: subprocess.Popen) -> None:
    """Brings what a replica says into the job's log."""
    assert process.stdout
    for line in process.stdout:
        server.log(job, replica, line.rstrip("\n"))
