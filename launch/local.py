"""Runs a job as several worker processes on this machine: `python -m launch.local --help`."""

import contextlib
import functools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent import futures
from typing import IO

from trainer import cli, config
from trainer.config import flags
from trainer.distributed import child_process, heartbeat, preemption
from trainer.errors import InputError

TERM_SECONDS = 5.0  # between SIGTERM and SIGKILL for a worker that does not end
USERS_FAULT = 2  # as an exit status
# Statuses from good to bad: others, such as 1 for a defect, rank before the user's.
RANKS = {0: 0, preemption.EXIT_STATUS: 1, heartbeat.EXIT_STATUS: 2, USERS_FAULT: 4}


def main(job_flags: Sequence[str], settings: config.Local) -> None:
    """Runs the job until it is done, asked to stop, wrong, or has failed once too often."""
    job = flags.parse(config.Job, ["trainer.task", *job_flags])
    if settings.workers > 1 and job.device.strategy not in ("auto", "multi_worker"):
        raise InputError(
            f"--strategy={job.device.strategy} does not go with --workers={settings.workers}; "
            "leave it out, or use --workers=1."
        )
    for failures in range(settings.restart + 1):
        status, stopped = run_workers(settings.workers, job_flags, settings.grace)
        if stopped or status in (0, USERS_FAULT, preemption.EXIT_STATUS):
            break
        left = settings.restart - failures
        say(f"The job failed with status {status}; {left} of --restart={settings.restart} left.")
    sys.exit(status)


def run_workers(number: int, job_flags: Sequence[str], grace: float) -> tuple[int, bool]:
    """Runs the workers once.

    Args:
        number: of workers.
        job_flags: of trainer.task.
        grace: seconds in which the others must end once one has failed.

    Returns:
        The worst exit status, and whether a signal asked the job to stop.
    """
    addresses = [f"127.0.0.1:{port}" for port in reserve_ports(number)]
    workers = [start(index, addresses, job_flags) for index in range(number)]
    statuses: dict[int, int] = {}
    means, deadline = [signal.SIGTERM, signal.SIGKILL], math.inf
    signals, pool = child_process.signals_passed_to(workers), futures.ThreadPoolExecutor(3 * number)
    with signals as received, pool as threads:
        for index, worker in enumerate(workers):
            for source, target in ((worker.stdout, sys.stdout), (worker.stderr, sys.stderr)):
                assert source is not None
                threads.submit(pass_on, index, source, target)
        running = {threads.submit(worker.wait): index for index, worker in enumerate(workers)}
        while running:
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            ended, _ = futures.wait(running, left, futures.FIRST_COMPLETED)
            if not ended:
                end = means.pop(0)
                for late in running.values():
                    say(f"Worker {late} has not ended; it gets {end.name}.")
                    workers[late].send_signal(end)
                deadline = time.monotonic() + TERM_SECONDS if means else math.inf
            for future in ended:
                index, code = running.pop(future), future.result()
                # A worker that had to be killed did not make the job fail.
                killed = not means and code < 0
                statuses[index] = heartbeat.EXIT_STATUS if killed else child_process.status_of(code)
                failed = statuses[index] not in (0, preemption.EXIT_STATUS)
                if failed and deadline == math.inf and means:
                    say(f"Worker {index} ended with status {statuses[index]}.")
                    deadline = time.monotonic() + grace
    return max(statuses.values(), key=lambda status: RANKS.get(status, 3)), bool(received)


def start(index: int, addresses: Sequence[str], job_flags: Sequence[str]) -> subprocess.Popen:
    """Starts a worker, which is asked to stop should the launcher be killed."""
    task = {"type": "worker", "index": index}
    cluster = json.dumps({"cluster": {"worker": list(addresses)}, "task": task})
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "trainer.task", *job_flags],
        env={**os.environ, "TF_CONFIG": cluster},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A terminal's Ctrl-C reaches all processes of a group; they get it once, from here.
        start_new_session=True,
        preexec_fn=child_process.ending_with_this_process(),
    )


def pass_on(index: int, source: IO[bytes], target: IO[str]) -> None:
    """Copies lines; each is written at once, so that those of several workers do not mix."""
    for line in source:
        target.write(f"[{index}] {line.decode(errors='replace').rstrip()}\n")
        target.flush()


def reserve_ports(number: int) -> list[int]:
    """Returns free loopback ports that the system gives to no other process for a minute.

    A connection that was closed from its server's side leaves the port waiting: the system does
    not choose it for others, but a process that asks for it by number, as the workers do, gets it.
    """
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        for server in servers:
            with socket.create_connection(server.getsockname()) as client:
                server.accept()[0].close()
                client.recv(1)
        return [server.getsockname()[1] for server in servers]


def say(text: str) -> None:
    """Prints a line of the launcher's own."""
    print(f"[launch] {text}", file=sys.stderr, flush=True)


def run(argv: Sequence[str]) -> None:
    """Runs the command: its own flags come before `--`, the job's after it."""
    own, job_flags = list(argv), []
    if "--" in own:
        place = own.index("--")
        own, job_flags = own[:place], own[place + 1 :]
    cli.run(config.Local, functools.partial(main, job_flags), own)


if __name__ == "__main__":
    run(sys.argv)
