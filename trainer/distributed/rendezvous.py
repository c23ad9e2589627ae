"""How the workers of a job connect, and the connections that they keep."""

import contextlib
import dataclasses
import json
import os
import selectors
import socket
import time

from trainer import json_text
from trainer.distributed.membership import Membership
from trainer.errors import RetryableError

LONGEST_LINE = 2**16
ANSWER_SECONDS = 5.0  # for the chief's answer to arrive


class LostWorkerError(Exception):
    """Another worker is lost; commands print the line and exit with EXIT_STATUS."""

    def __init__(self, cause: str, consequence: str):
        """Takes the cause and the consequence, each a text."""
        super().__init__(f"{cause}; {consequence}")
        self.cause = cause


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """How long to wait for other workers.

    Attributes:
        join_seconds: until all have joined.
        heartbeat_seconds: until one that sends no heartbeat counts as lost.
    """

    join_seconds: float = 60.0
    heartbeat_seconds: float = 45.0  # so that the rest takes less than a minute

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats."""
        return min(5.0, self.heartbeat_seconds / 6)


TIMEOUTS = Timeouts()


class Link:
    """A connection that carries lines both ways."""

    def __init__(self, connection: socket.socket, index: int | None = None):
        """Takes a connected socket, and the worker at its other end if it is known."""
        self.index = index
        self.silence = 0.0  # seconds
        self.leaving = False
        self._socket, self._text = connection, b""
        connection.setblocking(False)

    def fileno(self) -> int:
        """Returns the descriptor that a selector waits for."""
        return self._socket.fileno()

    def send(self, line: str) -> None:
        """Sends a line; a closed connection is noticed when it is read."""
        with contextlib.suppress(OSError):
            self._socket.send(line.encode()[:LONGEST_LINE] + b"\n")

    def receive(self, most: int = LONGEST_LINE) -> list[str] | None:
        """Returns the received lines, or None if the other end is closed or not a worker."""
        try:
            data = self._socket.recv(most)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data or len(self._text) > LONGEST_LINE:
            return None
        self.silence = 0.0
        *lines, self._text = (self._text + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def receive_one(self) -> list[str] | None:
        """As `receive`, but leaves the rest after the first line for the next call."""
        try:
            ahead = self._socket.recv(LONGEST_LINE, socket.MSG_PEEK)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self.receive(ahead.find(b"\n") + 1 or len(ahead))

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()


def meet(members: Membership, timeouts: Timeouts) -> list[Link]:
    """Waits until all workers have joined; returns the chief's links to them, or one to the chief.

    Raises:
        LostWorkerError: one has not joined in time.
        RetryableError: this worker's port is taken, or the workers have different lists of workers.
    """
    with _listen(members) as listener:
        if members.index == 0:
            return _gather(members, listener, timeouts)
        return [_greet(members, timeouts)]


def _listen(members: Membership) -> socket.socket:
    """Opens this worker's own port, if only to see that TensorFlow will be able to."""
    address = members.addresses[members.index]
    try:
        return socket.create_server(("", int(address.rsplit(":", 1)[1])), backlog=128)
    except OSError as error:
        raise RetryableError(
            f"Worker {members.index}'s own address {address} cannot be opened for listening "
            f"({os.strerror(error.errno or 0)}); end the process that holds the port, or name "
            "another in TF_CONFIG."
        ) from None


def _gather(members: Membership, listener: socket.socket, timeouts: Timeouts) -> list[Link]:
    """Returns a link to each of the other workers."""
    deadline = time.monotonic() + timeouts.join_seconds
    here: dict[int, Link] = {}
    listener.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ, None)
        while len(here) < len(members.addresses) - 1 and time.monotonic() < deadline:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                link = key.data
                if link is None:
                    with contextlib.suppress(OSError):  # it has disconnected
                        link = Link(listener.accept()[0])
                        selector.register(link, selectors.EVENT_READ, link)
                elif not _welcome(link, members, here):
                    selector.unregister(link)
                    link.close()
    absent = [i for i in range(1, len(members.addresses)) if i not in here]
    for link in here.values():
        link.send("go" if not absent else f"absent {json_text.dumps(absent)}")
    if absent:
        raise _absent(members, absent, timeouts)
    return [here[index] for index in sorted(here)]


def _welcome(link: Link, members: Membership, here: dict[int, Link]) -> bool:
    """Reads the greeting of a new connection; returns False if the connection is to be closed."""
    lines = link.receive()
    if lines is None:
        if link.index is not None:  # it may connect again after a restart
            del here[link.index]
        return False
    for line in lines if link.index is None else ():
        try:
            greeting = json.loads(line)
            index, addresses = int(greeting["index"]), tuple(greeting["addresses"])
        except (ValueError, KeyError, TypeError):
            return False  # another program
        if addresses != members.addresses or not 0 < index < len(addresses):
            link.send(f"refused of the workers {', '.join(members.addresses)}")
            return False
        if index in here:
            link.send(f"refused while another process is worker {index}")
            return False
        link.index = index
        here[index] = link
    return True


def _greet(members: Membership, timeouts: Timeouts) -> Link:
    """Returns a link to the chief, once it has seen all workers."""
    host, port = members.addresses[0].rsplit(":", 1)
    greeting = json_text.dumps({"index": members.index, "addresses": members.addresses})
    deadline = time.monotonic() + timeouts.join_seconds
    while time.monotonic() < deadline:
        try:
            link = Link(socket.create_connection((host.strip("[]"), int(port)), timeout=2.0), 0)
        except OSError:
            time.sleep(0.2)
            continue
        link.send(greeting)
        if _is_accepted(link, members, timeouts):
            return link
        link.close()  # perhaps the previous chief, which is about to end
        time.sleep(0.2)
    raise _absent(members, [0], timeouts)


def _is_accepted(link: Link, members: Membership, timeouts: Timeouts) -> bool:
    """Waits for the chief's answer; returns False if it is not a chief that waits for workers."""
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        while selector.select(timeouts.join_seconds + ANSWER_SECONDS):
            lines = link.receive_one()
            for line in lines or ():
                word, _, rest = line.partition(" ")
                if word == "go":
                    return True
                if word == "absent":
                    raise _absent(members, json.loads(rest), timeouts)
                if word == "refused":
                    raise RetryableError(
                        f"Worker {members.index} was refused by the chief, {members.addresses[0]}, "
                        f"{rest}; give all workers the same cluster in TF_CONFIG, each its own "
                        "index."
                    )
                return False
            if lines is None:
                return False
    return False


def _absent(members: Membership, absent: list[int], timeouts: Timeouts) -> LostWorkerError:
    names = ", ".join(members.name(index) for index in absent)
    words = "has not joined within" if len(absent) == 1 else "have not joined within"
    return LostWorkerError(
        f"{names} {words} {timeouts.join_seconds:g} s (--join_timeout)",
        "start all workers within that time.",
    )
