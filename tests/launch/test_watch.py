"""The status line."""

import datetime
import io

import pytest

from launch import watch
from launch.client import Job

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


class Terminal(io.StringIO):
    """Keeps what a terminal is sent."""

    def isatty(self):
        """Says that it is one."""
        return True


def job(state, seconds):
    ended = START + datetime.timedelta(seconds=seconds)
    name = "projects/p/locations/r/customJobs/1"
    return Job(name, state, "", {}, (), (), {}, START, None, ended)


def test_on_a_terminal_one_line_changes_in_place_and_logs_go_above(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    line = watch.StatusLine()
    line.show(job("PENDING", 9))
    line.show(job("RUNNING", 3725))
    line.print("workerpool0-0 | step 1")
    line.close()
    shown = [text.rstrip() for text in screen.getvalue().split("\r") if text.strip()]
    assert shown == [
        "pending  0:09  r  1",
        "running  1:02:05  r  1",
        "workerpool0-0 | step 1",
        "running  1:02:05  r  1",
        "running  1:02:05  r  1",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3600, "1:00:00")])
def test_times_are_short(seconds, text):
    assert watch.clock(datetime.timedelta(seconds=seconds)) == text
