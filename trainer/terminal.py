"""The terminal: its last line changes in place, and what is logged goes above it.

That line is a bar (`Bar`), or what the command is busy with (`busy`). It is drawn while a command
runs (`shown`), on a terminal, unless notices are turned off. Elsewhere nothing is drawn.
"""

import contextlib
import logging as standard_logging
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence

from absl import logging
from tqdm.std import Bar as Glyphs

CLEAR = "\r\x1b[K"  # the line, whatever is on it
FEWEST_CELLS, MOST_CELLS = 8, 40  # of a bar
SECONDS_BETWEEN_DRAWINGS = 0.1
TICK_SECONDS = 1.0  # after which the line is drawn again, with the time passed


class _LastLine:
    """The last line of the terminal, and the thread that draws it again."""

    def __init__(self) -> None:
        self.text: Callable[[int], str] | None = None  # columns → text
        self.part = self.what = ""  # what: of `busy`
        self.since = 0.0
        self._drawn = 0.0
        self._lock = threading.RLock()
        self._ended = threading.Event()
        threading.Thread(target=self._tick, name="terminal", daemon=True).start()

    def show(self, text: Callable[[int], str], what: str = "", part: str = "") -> None:
        """Shows a text from now on; draws it unless it has just been drawn."""
        if what != self.what:
            self.since, self._drawn = time.monotonic(), 0.0
        self.text, self.what, self.part = text, what, part
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    def draw(self) -> None:
        """Draws the text as it is now."""
        with self._lock:
            if self.text is not None and logging.level_info():
                self._drawn = time.monotonic()
                _write(CLEAR + self.text(columns()))

    def leave(self) -> None:
        """Leaves the text as it is now, on a line of its own."""
        with self._lock:
            if self.text is not None and logging.level_info():
                self.draw()
                _write("\n")
            self.text = None

    def end(self) -> None:
        """Removes the text; draws no more."""
        self._ended.set()
        with self._lock:
            if self.text is not None and logging.level_info():
                _write(CLEAR)
            self.text = None

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            self.draw()


_line: _LastLine | None = None


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Lets the last line be drawn during the block, if standard error is a terminal."""
    global _line
    if _line is not None or not is_here():
        yield
        return
    _line = _LastLine()
    try:
        yield
    finally:
        _line.end()
        _line = None


def busy(what: str, so_far: str = "") -> None:
    """Says what the command does from now on, until a bar moves or this is called again.

    Args:
        what: it does, and for how long is shown.
        so_far: how much of it is done.
    """
    if _line is not None:
        line = _line

        def text(width: int) -> str:
            passed = clock(time.monotonic() - line.since)
            said = [f"{what} {'…' if can_draw() else '...'}", passed, so_far, *_parts()]
            return "  ".join(filter(None, said))[: width - 1]

        line.show(text, what)


def part(what: str) -> None:
    """Says how far the work on one image, or another item of the last line, is."""
    if _line is not None and _line.text is not None:
        _line.show(_line.text, _line.what, what)


class Bar:
    """How much of the work is done, and what is known of it."""

    def __init__(
        self, total: int, what: str = "", unit: str = "", done: int = 0, silent: bool = False
    ):
        """Shows nothing yet.

        Args:
            total: items to do.
            what: is done with them.
            unit: their name in the plural, by which their number per second is shown.
            done: items that were done before.
            silent: whether it is never drawn.
        """
        self.total, self.done, self._first = total, done, done
        self._what, self._unit, self._silent = what, unit, silent
        self._started = time.monotonic()
        self._figures: Sequence[str] = ()
        self._extras: Sequence[str] = ()

    def update(
        self, count: int = 1, figures: Sequence[str] = (), extras: Sequence[str] = ()
    ) -> None:
        """Adds items that are done.

        Args:
            count: of them.
            figures: to be shown before the time left.
            extras: to be shown after it, where the line is long enough.
        """
        self.done += count
        self._figures, self._extras = figures, extras
        self.draw()

    def draw(self) -> None:
        """Draws the bar in place of what was on the last line."""
        if _line is not None and not self._silent:
            _line.show(self.text)

    def left(self) -> str:
        """Returns how long the rest takes at the speed so far."""
        passed, done = time.monotonic() - self._started, max(1, self.done - self._first)
        return clock(passed / done * (self.total - self.done))

    def text(self, width: int) -> str:
        """Returns the bar as a line that leaves the last of `width` columns empty."""
        known = self.done > self._first
        speed = (self.done - self._first) / max(1e-9, time.monotonic() - self._started)
        count = f"{self.done}/{self.total} {self._unit}".rstrip()
        timed = [f"{self.left()} left"] if known else []
        if known and self._unit:
            timed.append(f"{rate(speed)} {self._unit}/s")
        figures = [count, *_parts(), *self._figures, *timed, *self._extras]
        head = f"{self._what} " if self._what else ""
        while (cells := width - 2 - len(head + "  ".join(figures))) < FEWEST_CELLS and figures[1:]:
            figures.pop()
        share = min(1.0, self.done / self.total) if self.total else 1.0
        charset, rest = ("u", "░") if can_draw() else ("a", ".")
        glyphs = f"{Glyphs(share):{min(max(1, cells), MOST_CELLS)}{charset}}".replace(" ", rest)
        return f"{head}{glyphs} {'  '.join(figures)}"[: width - 1]

    def close(self) -> None:
        """Leaves the bar as it is, if it has moved; draws it no more."""
        if _line is not None and not self._silent and self.done > self._first:
            _line.show(self.text)
            _line.leave()
            self._silent = True

    def __enter__(self) -> "Bar":
        """Draws the bar, if there is anything to do."""
        if self.total > self.done:
            self.draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Leaves the bar as it is."""
        self.close()


class Formatter(standard_logging.Formatter):
    """Log lines that take the place of the last line, which is drawn again below them."""

    def format(self, record: standard_logging.LogRecord) -> str:
        """Returns the text of a record."""
        is_drawn = _line is not None and _line.text is not None
        return (CLEAR if is_drawn else "") + super().format(record)


def cut_in(text: str) -> None:
    """Writes a line in place of the last line, also while this thread writes another.

    So a handler of signals may call it, which must not write by Python's files.
    """
    before = ""
    if _line is not None and _line.text is not None:
        _line.text, before = None, CLEAR
    with contextlib.suppress(AttributeError, OSError, ValueError):  # without stderr
        os.write(sys.stderr.fileno(), f"{before}{text}\n".encode(errors="replace"))


def ruled(title: str, text: str) -> str:
    """Returns lines between two rules on a terminal that can draw them, else as they are."""
    if not is_here() or not can_draw():
        return text
    width = min(columns(), max(map(len, (*text.splitlines(), f"── {title} ──"))))
    return "\n".join([f"── {title} ".ljust(width, "─"), text, "─" * width])


def is_here() -> bool:
    """Returns whether standard error is a terminal that can draw a line again."""
    can_clear = os.environ.get("TERM") != "dumb"
    return can_clear and sys.stderr is not None and sys.stderr.isatty()


def columns() -> int:
    """Returns how many columns it has; 80 where it does not say so."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def can_draw() -> bool:
    """Returns whether it shows characters such as lines and blocks."""
    return (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"


def clock(seconds: float) -> str:
    """Returns a duration as m:ss or h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def rate(number: float) -> str:
    """Returns how many a second, with at least two digits that count."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}"


def _parts() -> list[str]:
    return [_line.part] if _line is not None and _line.part else []


def _write(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that was closed
        sys.stderr.write(text)
        sys.stderr.flush()
