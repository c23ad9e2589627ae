"""The last line of a terminal: what it shows, and how it fits."""

import io
import logging as standard_logging
import re
import sys

import pytest
from absl import logging

from trainer import terminal


class Screen(io.StringIO):
    """A terminal that keeps what it is sent; of 80 columns, as it does not say how many."""

    encoding = "utf-8"

    def isatty(self):
        """Says that it is one."""
        return True


@pytest.fixture
def open_screen(monkeypatch):
    """A function that lets stderr be a terminal: pytest sets stderr again after its fixtures."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)

    def opened():
        monkeypatch.setattr(sys, "stderr", Screen())
        return sys.stderr

    yield opened
    logging.set_verbosity(before)


def test_a_bar_has_what_fits_and_the_rest_is_left_out(open_screen):
    open_screen()
    bar = terminal.Bar(20000, done=10000)
    figures = ["loss 0.1234", "val dice 0.9012"], ["162 images/s", "▁▂▃▄▅▆▇█"]
    bar.update(0, *figures)
    shown = "10000/20000  loss 0.1234  val dice 0.9012  162 images/s"
    assert bar.text(120) == f"{'█' * 20}{'░' * 20} {shown}  ▁▂▃▄▅▆▇█"
    assert bar.text(71) == f"{'█' * 7}{'░' * 7} {shown}"
    assert bar.text(50) == f"{'█' * 12}{'░' * 12} 10000/20000  loss 0.1234"
    assert all(len(bar.text(columns)) < columns for columns in range(2, 200))


def test_a_terminal_that_cannot_clear_a_line_is_sent_none_to_be_cleared(open_screen, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = open_screen()
    with terminal.shown(), terminal.Bar(10) as bar:
        bar.update()
        logging.info("one line")
    assert "\x1b" not in screen.getvalue()
    assert terminal.ruled("title", "text") == "text"


def test_a_bar_of_many_steps_and_hours_fits_into_80_columns(open_screen, monkeypatch):
    open_screen()
    clock = iter([0.0, 5000.0, 5000.0, 5000.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    bar = terminal.Bar(20000)
    bar.update(10000, ["loss 0.1234", "val dice 0.9012"], ["162 images/s"])
    shown = "10000/20000  loss 0.1234  val dice 0.9012  1:23:20 left  162 images/s"
    assert bar.text(80) == f"████▌░░░░ {shown}"


def test_what_is_logged_takes_the_place_of_the_last_line(open_screen, monkeypatch):
    screen = open_screen()
    monkeypatch.setattr(terminal, "TICK_SECONDS", 1e6)
    record = standard_logging.LogRecord("absl", logging.INFO, "x", 1, "said", (), None)
    form = terminal.Formatter("%(message)s")
    with terminal.shown():
        assert form.format(record) == "said"
        terminal.busy("compiling")
        terminal.part("2 of 3")
        assert form.format(record) == f"{terminal.CLEAR}said"
        with terminal.Bar(2, "reading", "images") as bar:
            bar.update()
            bar.update()
        terminal.busy("writing")
    drawn = screen.getvalue().split(terminal.CLEAR)
    assert drawn[1].startswith("compiling …  0:00")
    assert re.fullmatch(r"reading █{10,} 2/2 images  0:00 left  \d+ images/s\n", drawn[-3])
    assert drawn[-2:] == ["writing …  0:00", ""]


def test_nothing_is_drawn_outside_a_command_elsewhere_and_where_notices_are_off(
    open_screen, monkeypatch
):
    def draw():
        terminal.busy("compiling")
        with terminal.Bar(1) as bar:
            bar.update()

    screen = open_screen()
    draw()
    with terminal.shown():
        logging.set_verbosity(logging.WARNING)
        draw()
    assert screen.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with terminal.shown():
        logging.set_verbosity(logging.INFO)
        draw()
    assert sys.stderr.getvalue() == ""


def test_rules_are_as_wide_as_the_text_or_the_terminal(open_screen, monkeypatch):
    open_screen()
    assert terminal.ruled("done", "a\n1234567890123").splitlines() == [
        *("── done ─────", "a", "1234567890123", "─────────────")
    ]
    assert terminal.ruled("done", "x" * 99).splitlines()[-1] == "─" * 80
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal.ruled("done", "a\nlonger") == "a\nlonger"
