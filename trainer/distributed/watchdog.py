"""Watches the other workers for a process that cannot; started by `peers`, ends with its input."""

import json
import os
import signal
import socket
import sys

from trainer.distributed import heartbeat, membership, rendezvous


def main(argument: str) -> None:
    """Watches; if a worker is lost, says so and kills the process that started this one."""
    content = json.loads(argument)
    members = membership.Roster(tuple(content["members"]["addresses"]), content["members"]["index"])
    links = [
        rendezvous.Link(socket.socket(fileno=int(number)), index)
        for number, index in content["links"].items()
    ]
    parent = os.getppid()
    others = heartbeat.Peers(members, links, rendezvous.Patience(**content["patience"]))
    loss = others.lost_worker(sys.stdin.fileno(), lambda: _is_stopped(parent))
    if loss is not None and os.getppid() == parent:
        print(loss, file=sys.stderr, flush=True)
        os.kill(parent, signal.SIGKILL)  # nothing less reaches it


def _is_stopped(pid: int) -> bool:
    """Says whether a process was stopped, which its guard must not hide from the others."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] in "tT"


if __name__ == "__main__":
    main(sys.argv[1])
