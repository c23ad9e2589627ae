"""The other workers of this job: who has come, who is alive, how each of them ended.

A collective operation waits forever for a worker that never came, died or hangs, and Python cannot
interrupt it. So every worker greets the chief on the chief's own port before TensorFlow opens it
for itself (`rendezvous`); the connections stay, and on each a line goes both ways every few
seconds. Whoever learns that a worker is lost ends, in one line that names it.

TensorFlow's coordination service does not do that, as was seen with TensorFlow 2.21 and three
workers. It waits forever for a worker that does not come. Of a killed worker it tells after its
timeout, and names those that had noticed and ended before. Of a chief that hangs it names nobody,
and calls to it do not return. So its heartbeats come second, with twice our timeout.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from absl import logging

from trainer import json_text
from trainer.distributed import preemption
from trainer.distributed.membership import Membership, shortened
from trainer.distributed.rendezvous import Link, LostWorkerError, Timeouts, meet
from trainer.errors import InputError, RetryableError

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the job is sound and may be started again
ESCAPE_SECONDS = 10.0  # in which a process must have ended by itself
OWN_ERROR_SECONDS = 3.0  # what is wrong with the input of one worker is often wrong for all
END_SECONDS = 30.0  # for which the chief waits for the others' ends


class Peers:
    """Watches the other workers in a thread: the chief all of them, each of them the chief."""

    def __init__(self, members: Membership, links: list[Link], timeouts: Timeouts):
        """Watches nothing yet."""
        self._members, self._links, self._timeouts = members, links, timeouts
        self._abort: Callable[[], None] = lambda: None
        self._signs: tuple[type[Exception], ...] = ()
        self._loss: LostWorkerError | InputError | None = None
        self._changed = threading.Condition()
        self._is_leaving = False

    def watch(self, abort: Callable[[], None], signs: tuple[type[Exception], ...]) -> None:
        """Watches from now on, in a thread.

        Args:
            abort: makes collectives that wait raise.
            signs: what they raise when a worker is lost, perhaps before this process knows it.
        """
        self._abort, self._signs = abort, signs
        threading.Thread(target=self._watch, name="peers", daemon=True).start()
        threading.Thread(target=self._escape_from_loss, name="escape", daemon=True).start()

    @contextlib.contextmanager
    def watched_from_outside(self) -> Iterator[None]:
        """Has another process watch during the block, in which no thread of Python's can run."""
        numbers = [link.fileno() for link in self._links]
        argument = json_text.dumps(
            {
                "members": dataclasses.asdict(self._members),
                "timeouts": dataclasses.asdict(self._timeouts),
                "links": {link.fileno(): link.index for link in self._links},
            }
        )
        watchdog = [sys.executable, "-m", "trainer.distributed.heartbeat", argument]
        # It ends with its input, which is closed after the block.
        with subprocess.Popen(watchdog, stdin=subprocess.PIPE, pass_fds=numbers):
            yield

    def loss_behind(self, error: Exception) -> Exception | None:
        """Returns the lost worker's error that caused another error, or None."""
        is_sign, seconds = isinstance(error, self._signs), OWN_ERROR_SECONDS
        if is_sign:
            seconds = self._timeouts.heartbeat_seconds + 2 * self._timeouts.interval
        with self._changed:
            self._changed.wait_for(lambda: self._loss is not None, seconds)
            if self._loss is None and is_sign:
                cause = f"The workers have lost each other ({shortened(error)})"
                return LostWorkerError(cause, _consequence(self._members))
            return self._loss

    def announce_exit(self, kind: str, text: str) -> None:
        """Tells the others how this worker ends, and waits for those that this would disturb.

        The chief that is done waits until they have ended: otherwise their connections would
        break, and gRPC would log that at length. A worker with wrong input waits until they have
        seen theirs: it may be wrong as well, and they may need a tensor of this worker to see it.
        The chief hears that from each of them, and the others see it by the chief's end.
        """
        with self._changed:
            self._is_leaving = True
            self._changed.notify_all()
            self._tell(f"leaving {self._members.index} {kind} {text}")
            if self._members.index == 0 and kind == "done":
                self._changed.wait_for(lambda: not self._links, END_SECONDS)
            elif kind == "input":
                is_chief = self._members.index == 0
                self._changed.wait_for(
                    lambda: all(is_chief and link.leaving for link in self._links),
                    OWN_ERROR_SECONDS,
                )

    def _tell(self, line: str) -> None:
        for link in self._links:
            link.send(line)

    def _watch(self, end: int | None = None, is_asleep: Callable[[], bool] = lambda: False) -> None:
        """Watches while there are workers to watch.

        With the descriptor `end` until a worker is lost, or something can be read from `end`.
        """
        interval = self._timeouts.interval
        with selectors.DefaultSelector() as selector:
            if end is not None:
                selector.register(end, selectors.EVENT_READ, None)
            for link in self._links:
                selector.register(link, selectors.EVENT_READ, link)
            checked = spoken = time.monotonic()
            while self._links and (end is None or self._loss is None):
                for key, _ in selector.select(interval):
                    link = key.data
                    if link is None:
                        return
                    lines = link.receive()
                    for line in lines or ():
                        self._hear(link, line)
                    if lines is None:
                        selector.unregister(link)
                        self._drop(link)
                now = time.monotonic()
                # A process that was itself stopped for long must not call the others lost.
                self._count_silence(min(now - checked, 2 * interval))
                checked = now
                if now - spoken >= interval and not is_asleep():
                    self._tell("alive")
                    spoken = now

    def _hear(self, link: Link, line: str) -> None:
        word, *rest = line.split(" ", 3)
        if word != "leaving":
            return
        index, kind, text = int(rest[0]), rest[1], rest[2]
        if index == link.index:
            with self._changed:
                link.leaving = True
                self._changed.notify_all()
        if kind in ("input", "retryable"):
            error = InputError if kind == "input" else RetryableError
            self._lose(line, error(f"{self._members.name(index)} ended: {text}"))
        elif kind == "failed":
            self._lose(line, _lost(self._members, index, f"failed ({text})"))
        elif kind == "lost":
            self._lose(line, _lost(self._members, index, text))

    def _drop(self, link: Link) -> None:
        with self._changed:
            self._links.remove(link)
            self._changed.notify_all()
        link.close()
        if not link.leaving:
            self._lose_silently(link, "is gone: killed, or its machine is lost")

    def _count_silence(self, seconds: float) -> None:
        for link in self._links:
            link.silence += seconds
            if link.silence > self._timeouts.heartbeat_seconds and not link.leaving:
                words = f"has sent no heartbeat for {self._timeouts.heartbeat_seconds:g} s"
                self._lose_silently(link, f"{words} (--worker_timeout)")

    def _lose_silently(self, link: Link, words: str) -> None:
        line = f"leaving {link.index} lost {words}"
        self._lose(line, _lost(self._members, link.index or 0, words))

    def _lose(self, line: str, loss: LostWorkerError | InputError) -> None:
        with self._changed:
            if self._loss is None:
                self._loss = loss
                self._changed.notify_all()
                if self._members.index == 0:
                    self._tell(line)

    def _escape_from_loss(self) -> None:
        """Lets the main thread end the process once a worker is lost; ends it if it does not."""
        with self._changed:
            self._changed.wait_for(lambda: self._loss is not None or self._is_leaving)
            if self._is_leaving:
                return
            if isinstance(self._loss, InputError):
                self._changed.wait_for(lambda: self._is_leaving, OWN_ERROR_SECONDS)
        # It may wait for the main thread; the process ends in any case.
        threading.Thread(target=self._abort, name="abort", daemon=True).start()
        with self._changed:
            if self._changed.wait_for(lambda: self._is_leaving, ESCAPE_SECONDS):
                return
        print(self._loss, file=sys.stderr)
        end_process(2 if isinstance(self._loss, InputError) else EXIT_STATUS)


_JOINED: list[Peers] = []  # a process is a worker of one job at most


def join(members: Membership, timeouts: Timeouts) -> Peers:
    """Waits until all workers have joined.

    Raises:
        LostWorkerError: one has not joined in time.
        RetryableError: this worker's port is taken, or the workers have different lists of workers.
    """
    if not _JOINED:
        _JOINED.append(Peers(members, meet(members, timeouts), timeouts))
    return _JOINED[0]


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Turns what is raised because a worker is lost into the line that names it."""
    try:
        yield
    except (LostWorkerError, preemption.StoppedError, InputError):
        raise
    except Exception as error:
        loss = _JOINED[0].loss_behind(error) if _JOINED else None
        if loss is None:
            raise
        raise loss from None


@contextlib.contextmanager
def announce_exit() -> Iterator[None]:
    """Tells the other workers, if there are any, how the block ended."""
    try:
        with translate_errors():
            yield
    except BaseException as error:
        for peers in _JOINED:
            peers.announce_exit(*_kind_and_reason(error))
        raise
    for peers in _JOINED:
        peers.announce_exit("done", "")


def _kind_and_reason(error: BaseException) -> tuple[str, str]:
    """Returns how a worker that ends with an error tells the others of it."""
    if isinstance(error, preemption.StoppedError):
        return "done", ""
    if isinstance(error, InputError):
        kind = "retryable" if isinstance(error, RetryableError) else "input"
        return kind, " ".join(str(error).splitlines())  # whole, as the remedy comes last
    if isinstance(error, LostWorkerError):
        return "failed", error.cause
    return "failed", shortened(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Ends a process that is one of several workers at once, with the status that it had.

    TensorFlow's own shutdown waits 20 s for heartbeats of workers that have ended, and then logs
    errors.
    """
    try:
        yield
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else bool(error.code)
        if not _JOINED:
            raise
    except BaseException:
        if not _JOINED:
            raise
        traceback.print_exc()
        status = 1
    else:
        status = 0
    if _JOINED:
        end_process(status)


def end_process(status: int) -> None:
    """Ends without TensorFlow's shutdown, after the log is flushed."""
    logging.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _lost(members: Membership, index: int, words: str) -> LostWorkerError:
    return LostWorkerError(f"{members.name(index)} {words}", _consequence(members))


def _consequence(members: Membership) -> str:
    return f"worker {members.index} stops, too. The same command resumes from the last checkpoint."


def _watch_for_another(argument: str) -> None:
    """Watches for the process that started this one, and kills it if a worker is lost."""
    content = json.loads(argument)
    members = Membership(tuple(content["members"]["addresses"]), content["members"]["index"])
    links = [
        Link(socket.socket(fileno=int(number)), index) for number, index in content["links"].items()
    ]
    parent = os.getppid()
    peers = Peers(members, links, Timeouts(**content["timeouts"]))
    peers._watch(sys.stdin.fileno(), lambda: _is_stopped(parent))
    if peers._loss is not None and os.getppid() == parent:
        print(peers._loss, file=sys.stderr, flush=True)
        os.kill(parent, signal.SIGKILL)  # no other signal reaches it


def _is_stopped(pid: int) -> bool:
    """Returns whether a process was stopped, which its watchdog must not hide from the others."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] in "tT"


if __name__ == "__main__":
    _watch_for_another(sys.argv[1])
