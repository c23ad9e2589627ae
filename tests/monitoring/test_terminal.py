"""What people see while a job runs."""

import io
import sys

import pytest
from absl import logging

from trainer.monitoring import metrics_log, terminal


class Screen(io.StringIO):
    """A terminal that keeps what it is sent."""

    encoding = "utf-8"

    def isatty(self):
        """Says that it is one."""
        return True


def open_screen(monkeypatch):
    """Lets stderr be a terminal; within a test, for pytest sets stderr again after its fixtures."""
    monkeypatch.setattr(sys, "stderr", Screen())
    return sys.stderr


@pytest.fixture
def notices():
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    yield
    logging.set_verbosity(before)


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert terminal.sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert terminal.sparkline([0.3, 0.3]) == "▁▁"
    assert terminal.sparkline([]) == ""


@pytest.mark.usefixtures("notices")
def test_a_bar_shows_loss_dice_their_course_and_speed(monkeypatch):
    screen = open_screen(monkeypatch)
    shown = terminal.Terminal(True, 0, 10)
    for step, dice in ((1, 0.2), (2, 0.6)):
        shown.validation(step, {"loss": 0.4, "dice": dice, "dice/a": dice})
    shown.train(5, {"loss": 0.5, "images_per_second": 12.0})
    shown._bar.refresh()
    shown.close()
    last = screen.getvalue().split("\r")[-1]
    assert "5/10" in last
    assert "loss 0.5000  val dice 0.6000 ▁█  12.0 images/s" in last
    assert "step 2/10  val loss 0.4000  dice 0.6000  0:0" in screen.getvalue()
    assert "dice/a" not in screen.getvalue()


@pytest.mark.usefixtures("notices")
def test_what_is_said_at_the_end_begins_on_a_line_of_its_own(monkeypatch, tmp_path):
    screen = open_screen(monkeypatch)
    with metrics_log.MetricsLog(str(tmp_path), True, 0, 10) as reporter:
        reporter.train(10, {"loss": 0.5, "images_per_second": 12.0})
        reporter.end(lambda: None)
        assert "10/10" in screen.getvalue().splitlines()[-1]
        assert screen.getvalue().endswith("\n")


@pytest.mark.usefixtures("notices")
def test_other_workers_show_nothing(monkeypatch):
    screen = open_screen(monkeypatch)
    shown = terminal.Terminal(False, 0, 10)
    shown.validation(1, {"dice": 0.1})
    shown.train(5, {"loss": 0.5, "images_per_second": 12.0})
    shown.close()
    assert screen.getvalue() == ""


@pytest.mark.usefixtures("notices")
def test_nothing_but_warnings_means_no_bar(monkeypatch):
    screen = open_screen(monkeypatch)
    logging.set_verbosity(logging.WARNING)
    terminal.Terminal(True, 0, 10).close()
    assert screen.getvalue() == ""


def test_a_box_frames_lines_on_a_terminal_only(monkeypatch):
    open_screen(monkeypatch)
    assert terminal.boxed("done", "a\nlonger").splitlines() == [
        "┌─ done ─┐",
        "│ a      │",
        "│ longer │",
        "└────────┘",
    ]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal.boxed("done", "a\nlonger") == "a\nlonger"
