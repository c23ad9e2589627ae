"""Workers that never come, die, hang or fail, and what the others say. No TensorFlow here."""

import ctypes
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from launch.local import reserve_ports
from trainer import cli, config
from trainer.distributed import heartbeat, membership, rendezvous
from trainer.errors import InputError, RetryableError

pytestmark = pytest.mark.slow


WRONG = {"wrong": InputError, "in the way": RetryableError}

# Short only where it is waited for: a busy machine may hold any process for some seconds.
TIMEOUTS = {
    "alone": rendezvous.Timeouts(join_seconds=5.0),
    "hanging": rendezvous.Timeouts(heartbeat_seconds=5.0),
}


class AbortedError(Exception):
    """What a collective raises here when it is aborted."""


def work(settings, addresses, index, how):
    """What each process does: joins, says so, and waits as in a collective until it is aborted."""
    members = membership.Membership(tuple(addresses), index)
    others = heartbeat.join(members, TIMEOUTS.get(how, rendezvous.TIMEOUTS))
    if how == "locked":
        with others.watched_from_outside():
            print("joined", flush=True)
            ctypes.PyDLL(None).sleep(60)  # which keeps Python's lock
    aborted = threading.Event()
    others.watch(aborted.set, (AbortedError,))
    print("joined", flush=True)
    if how == "all wrong":
        heartbeat.OWN_ERROR_SECONDS = 120.0  # a busy machine may hold any process for some seconds
    if how == "all wrong" and index != 1:
        time.sleep(1 + index)  # as long as they take to see that theirs is wrong, too
        print(time.time(), flush=True)
        raise InputError("--crop=0 is wrong; use 256.")
    if how in (*WRONG, "all wrong") and index == 1:
        raise WRONG.get(how, InputError)("--crop=0 is wrong; use 256.")
    if how == "failing" and index == 1:
        raise ZeroDivisionError("by zero")
    if how == "done":
        time.sleep(2 * (index > 0))
        return
    aborted.wait()
    raise AbortedError


def start(addresses, indices, how="waiting"):
    """Starts the workers `indices`; returns them by index, once they have joined."""
    return {
        index: subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.test_heartbeat", how, str(index), *addresses],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in indices
    }


def free_addresses(number):
    return [f"127.0.0.1:{port}" for port in reserve_ports(number)]


def joined(workers):
    for worker in workers.values():
        assert worker.stdout.readline() == "joined\n", worker.stderr.read()
    return workers


def ends(workers):
    """Returns (exit status, what it said on stderr) of each worker, by index."""
    outputs = {index: worker.communicate(timeout=300)[1] for index, worker in workers.items()}
    return {index: (workers[index].returncode, output) for index, output in outputs.items()}


@pytest.mark.parametrize("lost", [0, 2])
def test_a_worker_that_is_killed_is_named_by_all_others(lost):
    addresses = free_addresses(3)
    workers = joined(start(addresses, range(3)))
    workers.pop(lost).kill()
    for index, (status, output) in ends(workers).items():
        assert status == heartbeat.EXIT_STATUS
        assert output == (
            f"Worker {lost} ({addresses[lost]}) is gone: killed, or its machine is lost; worker "
            f"{index} stops, too. The same command resumes from the last checkpoint.\n"
        )


@pytest.mark.parametrize("lost", [0, 1])
def test_a_worker_that_hangs_is_named_by_all_others_and_ends_when_it_wakes(lost):
    addresses = free_addresses(3)
    workers = joined(start(addresses, range(3), "hanging"))
    hanging = workers.pop(lost)
    hanging.send_signal(signal.SIGSTOP)
    for index, (status, output) in ends(workers).items():
        assert status == heartbeat.EXIT_STATUS
        assert output.startswith(
            f"Worker {lost} ({addresses[lost]}) has sent no heartbeat for 5 s "
            f"(--worker_timeout); worker {index} stops, too."
        )
    hanging.send_signal(signal.SIGCONT)
    assert ends({lost: hanging})[lost][0] == heartbeat.EXIT_STATUS


@pytest.mark.parametrize(("coming", "missing"), [([0, 1], 2), ([1, 2], 0)])
def test_a_worker_that_never_comes_is_named(coming, missing):
    addresses = free_addresses(3)
    for status, output in ends(start(addresses, coming, "alone")).values():
        assert status == heartbeat.EXIT_STATUS
        assert output == (
            f"Worker {missing} ({addresses[missing]}) has not joined within 5 s (--join_timeout); "
            "start all workers within that time.\n"
        )


def test_what_the_chief_says_at_once_after_go_is_not_lost():
    addresses = free_addresses(3)
    members = membership.Membership(tuple(addresses), 2)
    with socket.create_server(("127.0.0.1", int(addresses[0].rsplit(":", 1)[1]))) as listener:

        def welcome():
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(b"go\nleaving 1 input bad\nleaving 0 input worse\n")

        chief = threading.Thread(target=welcome)
        chief.start()
        (link,) = rendezvous.meet(members, rendezvous.TIMEOUTS)
        chief.join()
        assert link.receive() == ["leaving 1 input bad", "leaving 0 input worse"]
        link.close()


@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_with_one_worker_is_what_the_others_end_with(how, monkeypatch):
    monkeypatch.setenv("CLOUD_ML_JOB_ID", "1")  # so that the log says what starting again helps
    addresses = free_addresses(3)
    for index, (status, output) in ends(start(addresses, range(3), how)).items():
        entry = json.loads(output)
        by = "" if index == 1 else f"Worker 1 ({addresses[1]}) ended: "
        assert (status, entry["message"]) == (2, f"{by}--crop=0 is wrong; use 256.")
        assert entry.get("refused", False) is (how == "wrong")


def test_a_worker_with_wrong_input_stays_until_the_others_have_seen_theirs():
    workers = start(free_addresses(3), range(3), "all wrong")
    joined(workers)
    assert workers[1].wait() == 2
    ended = time.time()
    assert all(float(workers[index].stdout.readline()) < ended for index in (0, 2))
    for status, output in ends(workers).values():
        assert (status, output) == (2, "--crop=0 is wrong; use 256.\n")


def test_a_defect_of_one_worker_is_named_by_the_others():
    addresses = free_addresses(3)
    found = ends(start(addresses, range(3), "failing"))
    assert found[1][0] == 1
    assert found[1][1].rstrip().endswith("ZeroDivisionError: by zero")
    for index in (0, 2):
        assert found[index][0] == heartbeat.EXIT_STATUS
        assert f"Worker 1 ({addresses[1]}) failed (ZeroDivisionError: by zero)" in found[index][1]


def test_the_chief_ends_last():
    workers = start(free_addresses(3), range(3), "done")
    assert ends({0: workers[0]}) == {0: (0, "")}
    # The others have ended, or are about to; they would else take two seconds more.
    assert [workers[index].wait(1) for index in (1, 2)] == [0, 0]
    ends({1: workers[1], 2: workers[2]})


def test_a_process_that_cannot_watch_is_ended_from_outside():
    addresses = free_addresses(2)
    workers = joined(start(addresses, range(2), "locked"))
    workers[1].kill()
    workers[1].communicate()
    status, output = ends({0: workers[0]})[0]
    assert status == -signal.SIGKILL
    assert output.startswith(f"Worker 1 ({addresses[1]}) is gone")


def test_workers_that_differ_about_who_they_are_are_told_so():
    addresses = free_addresses(3)
    workers = {
        **start(addresses[:2], [0], "alone"),
        **start([addresses[0], addresses[2]], [1], "alone"),
    }
    assert ends(workers)[1] == (
        2,
        f"Worker 1 was refused by the chief, {addresses[0]}, of the workers "
        f"{', '.join(addresses[:2])}; give all workers the same cluster in TF_CONFIG, each its own "
        "index.\n",
    )


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError) as error:
            heartbeat.join(membership.Membership((address, "127.0.0.1:1"), 0), rendezvous.TIMEOUTS)
    assert str(error.value) == (
        f"Worker 0's own address {address} cannot be opened for listening (Address already in "
        "use); end the process that holds the port, or name another in TF_CONFIG."
    )


def test_what_is_no_worker_is_sent_away_and_stops_nobody():
    addresses = free_addresses(2)
    chief = start(addresses, [0])
    host, port = addresses[0].split(":")
    for _attempt in range(100):
        try:
            stranger = socket.create_connection((host, int(port)))
            break
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
    with stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert stranger.recv(1) == b""
        workers = joined({**chief, **start(addresses, [1])})
    for worker in workers.values():
        worker.kill()
        worker.communicate()


if __name__ == "__main__":
    how, index, *addresses = sys.argv[1:]
    cli.run(config.Local, lambda settings: work(settings, addresses, int(index), how), sys.argv[:1])
