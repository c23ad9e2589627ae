"""Tests of the command as a process: what it prints, and what it leaves when it is stopped."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests import preparing, terminals
from tests.jobs import ROOT


def _start(folder, *others):
    command = [sys.executable, "-m", "trainer.data.prepare", *preparing.arguments(folder, *others)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_prepares_and_then_refuses_to_do_it_twice(folder):
    process = _start(folder, "--workers=2")
    _, said = process.communicate()
    assert process.returncode == 0
    assert said.splitlines()[-1].startswith(f"Wrote 10 images to {folder}/out in ")
    assert said.splitlines()[-1].endswith(
        ": train 7 in 7 shards, val 2 in 2 shards, test 1 in 1 shards."
    )
    process = _start(folder, "--workers=2")
    _, said = process.communicate()
    assert process.returncode == 2
    assert said.splitlines()[-1].startswith(f"--output={folder}/out already has a manifest.json")
    assert "Traceback" not in said


@pytest.mark.slow
def test_on_a_terminal_bars_show_speed_and_the_time_that_is_left(folder):
    process = terminals.Session(80, "trainer.data.prepare", *preparing.arguments(folder))
    assert process.end() == 0
    bars = [line for line in process.screen() if "█" in line]
    for bar, what in zip(bars, ("reading", "writing"), strict=True):
        assert re.fullmatch(rf"{what} █{{10,}} 10/10 images  0:00 left  [\d.]+ images/s", bar)
        assert len(bar) < 80


def _arrays(folder):
    return f"--images={folder}/x.npy", f"--masks={folder}/y.npy"


def _save_many(folder):
    rng = np.random.default_rng(0)
    np.save(folder / "x.npy", rng.integers(0, 256, (60, 512, 512, 3), np.uint8))
    np.save(folder / "y.npy", rng.integers(0, 2, (60, 512, 512), np.uint8))


def _started_writing(folder):
    _save_many(folder)
    process = _start(folder, *_arrays(folder), "--workers=2")
    while not list(folder.glob("out/*.tfrecord")):
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_is_stopped_goes_on_and_gives_the_same_bytes(folder, number):
    process = _started_writing(folder)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(number, -number)
    assert "Traceback" not in said
    whole = {path.name: path.stat().st_mtime_ns for path in folder.glob("out/*.tfrecord")}
    kept = {path.name for path in folder.glob("out/unfinished/shard-*")}
    assert list(folder.glob("out/unfinished/reading-*"))
    again = _start(folder, *_arrays(folder), "--workers=2")
    assert again.wait() == 0
    same = [
        name for name, when in whole.items() if (folder / "out" / name).stat().st_mtime_ns == when
    ]
    assert len(same) == len(kept)  # a shard whose result was not yet kept is written again
    assert not (folder / "out/unfinished").exists()
    other = _start(folder, *_arrays(folder), f"--output={folder}/other", "--workers=1")
    assert other.wait() == 0
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == sorted(path.name for path in (folder / "other").iterdir())
    for name in names:
        assert (folder / "out" / name).read_bytes() == (folder / "other" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "known"), [("reading ", []), ("writing ", ["Classes", "Splits"])]
)
def test_ctrl_c_is_one_line_ends_all_workers_and_leaves_only_whole_files(folder, moment, known):
    _save_many(folder)
    argv = preparing.arguments(folder, *_arrays(folder), "--workers=2", "--shard_mb=1")
    process = terminals.Session(80, "trainer.data.prepare", *argv)
    process.wait_for(moment)
    process.interrupt()
    assert process.end() == 130
    *before, last = process.lines()
    assert [line.split()[0] for line in before] == known
    assert last == (
        "Stopped by Ctrl-C; --output keeps what has been read and written, and the same command "
        "resumes."
    )
    assert process.others() == []
    names = [path.name for path in folder.glob("out/*")]
    assert all(name.endswith(".tfrecord") or name == "unfinished" for name in names)
    again = terminals.Session(80, "trainer.data.prepare", *argv)
    assert again.end() == 0, again.said
    assert not (folder / "out/unfinished").exists()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
def test_workers_end_when_the_command_is_killed(folder):
    process = _started_writing(folder)
    tasks = pathlib.Path(f"/proc/{process.pid}/task")
    children = [pid for path in tasks.glob("*/children") for pid in path.read_text().split()]
    assert len(children) >= 2
    process.kill()
    process.communicate()
    assert not (folder / "out/manifest.json").exists()
    deadline = time.monotonic() + 60
    while any(_is_alive(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_alive(pid):
    try:
        return "State:\tZ" not in pathlib.Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
