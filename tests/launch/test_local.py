"""A job as several processes of this machine."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from launch import local
from tests.jobs import SMALL, wait_for

BUSY = "import time; time.sleep(60)"


@pytest.mark.slow
def test_launching_needs_no_tensorflow():
    code = "import sys, launch.local; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert output == "False False\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--workers=0"], "--workers=0 is below 1, its smallest value."),
        (["--worker=2"], "--worker is not a flag; did you mean --workers?"),
        (["--", "--stepz=3"], "--stepz is not a flag; did you mean --steps?"),
        (["--", "--crop=250"], "--crop=250 is not a multiple of 16, the stride of the deepest"),
        (
            ["--workers=2", "--", "--strategy=mirrored"],
            "--strategy=mirrored does not go with --workers=2; leave it out, or use --workers=1.",
        ),
    ],
)
def test_a_command_line_that_cannot_be_is_one_line_and_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as ending:
        local.run(["launch.local", *argv])
    assert ending.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)


def test_reserved_ports_are_free_for_whoever_names_them():
    ports = local.reserve_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def run_workers(monkeypatch, capfd, *programs, grace=0.5):
    """Runs a Python program for each worker; returns what the launcher returns and says."""

    def start(index, addresses, job_flags):
        return subprocess.Popen(
            [sys.executable, "-c", programs[index]], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    monkeypatch.setattr(local, "start", start)
    monkeypatch.setattr(local, "TERM_SECONDS", 0.5)
    return local.run_workers(len(programs), [], grace), capfd.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("codes", "worst"),
    [([0, 0], 0), ([0, 143], 143), ([143, 75], 75), ([75, 1], 1), ([1, 2], 2), ([75, 134], 134)],
)
def test_the_worst_status_is_returned(monkeypatch, capfd, codes, worst):
    programs = [f"raise SystemExit({code})" for code in codes]
    assert run_workers(monkeypatch, capfd, *programs)[0] == (worst, False)


@pytest.mark.slow
def test_when_one_fails_the_others_are_ended(monkeypatch, capfd):
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {BUSY}"
    start = time.monotonic()
    result, output = run_workers(monkeypatch, capfd, "import sys; sys.exit(1)", BUSY, deaf)
    assert result == (1, False)
    assert time.monotonic() - start < 50  # the 60 that they would take
    assert "[launch] Worker 0 ended with status 1." in output.err
    assert "[launch] Worker 1 has not ended; it gets SIGTERM." in output.err
    assert "[launch] Worker 2 has not ended; it gets SIGKILL." in output.err
    assert "Worker 1 has not ended; it gets SIGKILL" not in output.err


@pytest.mark.slow
def test_each_line_is_passed_on_after_its_workers_index(monkeypatch, capfd):
    programs = ["print('one\\ntwo')", "import sys; print('three', file=sys.stderr, end='')"]
    _, output = run_workers(monkeypatch, capfd, *programs)
    assert output.out == "[0] one\n[0] two\n"
    assert output.err == "[1] three\n"


def children(pid):
    """Returns the processes that a process started, in order."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(number) for number in file.read().split()]


@pytest.mark.slow
def test_a_job_whose_worker_hangs_is_restarted_resumes_and_stops_when_asked(data_dir, tmp_path):
    run_dir = tmp_path / "run"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "launch.local", "--restart=1", "--grace=0.5", "--"]
        + [f"--data_dir={data_dir}", f"--run_dir={run_dir}", *SMALL, "--norm=group"]
        + ["--steps=100000", "--checkpoint_every=3", "--eval_every=50000", "--worker_timeout=8"],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(launcher, run_dir / "checkpoints" / "00000003" / "commit.json")
    os.kill(children(launcher.pid)[1], signal.SIGSTOP)
    said = []
    for line in launcher.stderr:
        said.append(line)
        if "[0] Resuming from step " in line:
            break
    output = "".join(said)
    assert "has sent no heartbeat for 8 s (--worker_timeout); worker 0 stops, too." in output
    assert "[0] Worker 1 (127.0.0.1:" in output
    assert "[launch] Worker 0 ended with status 75." in output
    assert "[launch] Worker 1 has not ended; it gets SIGKILL." in output
    assert "[launch] The job failed with status 75; 1 of --restart=1 left." in output
    step = int(said[-1].split("from step ")[1].split()[0])
    assert step >= 3
    wait_for(launcher, run_dir / "checkpoints" / f"{step // 3 * 3 + 6:08d}" / "commit.json")
    launcher.send_signal(signal.SIGTERM)
    _, output = launcher.communicate(timeout=300)
    assert launcher.returncode == 143, output
    assert "[0] Stopped by SIGTERM at step " in output
    assert "[1] Stopped by SIGTERM at step " in output
    assert "rpc" not in output.lower()  # the chief ends last, so that nobody misses it
