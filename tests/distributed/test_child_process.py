"""Commands that a command starts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from trainer.distributed import child_process


def test_a_signal_is_passed_on_to_those_that_run_now_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    children = []
    with child_process.signals_passed_to(children) as received:
        os.kill(os.getpid(), signal.SIGTERM)
        children.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        os.kill(os.getpid(), signal.SIGTERM)
        assert child_process.status_of(children[0].wait()) == 143
    assert received == [signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_a_child_ends_with_a_process_that_is_killed(tmp_path):
    code = f"""import subprocess, sys, time
from trainer.distributed import child_process
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         preexec_fn=child_process.ending_with_this_process())
open({str(tmp_path / "pid")!r}, "w").write(f"{{child.pid}}\\n")
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "pid").exists() or "\n" not in (tmp_path / "pid").read_text():
        assert parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}") and _state(pid) != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
