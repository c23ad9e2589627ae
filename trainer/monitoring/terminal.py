"""What a run prints on the terminal: a progress bar or plain lines, and a box at the end."""

import sys
import time
from collections.abc import Mapping, Sequence

import tqdm
from absl import logging

from trainer.evaluate import metrics

SECONDS_BETWEEN_LINES = 30.0
SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE = 16  # evaluations


class Terminal:
    """Shows how far a run is: a bar on a terminal, else a line at each evaluation and at times."""

    def __init__(self, chief: bool, step: int, total_steps: int):
        """Shows nothing on workers other than the chief, nor if notices are turned off."""
        self._total_steps = total_steps
        self._start, self._start_step = time.monotonic(), step
        self._last_line = time.monotonic()
        self._val: Mapping[str, float] = {}
        self._curve: list[float] = []
        self._silent = not chief or not logging.level_info()
        self._bar = tqdm.tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            desc="train",
            dynamic_ncols=True,
            disable=self._silent or not sys.stderr.isatty(),
        )

    def train(self, step: int, figures: Mapping[str, float]) -> None:
        """Shows the figures of training up to `step`."""
        self._bar.set_postfix_str(self._summary(figures), refresh=False)
        self._bar.update(step - self._bar.n)
        if self._bar.disable and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line(step, self._summary(figures))

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Shows the figures of an evaluation."""
        self._val = figures
        if "dice" in figures:
            self._curve = [*self._curve, figures["dice"]][-SPARKLINE:]
        forms = {"loss": ".4f"} | {name: row.form for name, row in metrics.tracked().items()}
        shown = (
            f"{name} {figures[name]:{form}}" for name, form in forms.items() if name in figures
        )
        self._line(step, f"val {'  '.join(shown)}")

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def _summary(self, figures: Mapping[str, float]) -> str:
        parts = [f"loss {figures['loss']:.4f}"]
        if "dice" in self._val:
            curve = "" if self._bar.disable or not _can_draw() else f" {sparkline(self._curve)}"
            parts.append(f"val dice {self._val['dice']:.4f}{curve}")
        parts.append(f"{figures['images_per_second']:.1f} images/s")
        return "  ".join(parts)

    def _line(self, step: int, text: str) -> None:
        self._last_line = time.monotonic()
        if self._silent:
            return
        done = max(1, step - self._start_step)
        left = (time.monotonic() - self._start) / done * (self._total_steps - step)
        line = f"step {step}/{self._total_steps}  {text}  {clock(left)} left"
        if self._bar.disable:
            logging.info("%s", line)
        else:
            self._bar.write(line, file=sys.stderr)


def sparkline(values: Sequence[float]) -> str:
    """Returns numbers as a line of bars, the lowest flat and the highest full."""
    if not values:
        return ""
    low, high = min(values), max(values)
    steps = len(SPARKS) - 1
    return "".join(SPARKS[round(steps * (v - low) / (high - low or 1))] for v in values)


def boxed(title: str, text: str) -> str:
    """Returns lines in a frame on a terminal that can draw one, and as they are elsewhere."""
    if not sys.stderr.isatty() or not _can_draw():
        return text
    lines = text.splitlines()
    width = max(map(len, (*lines, title + "  ")))
    return "\n".join(
        [
            f"┌─ {title} {'─' * (width - len(title) - 1)}┐",
            *(f"│ {line.ljust(width)} │" for line in lines),
            f"└{'─' * (width + 2)}┘",
        ]
    )


def clock(seconds: float) -> str:
    """Returns a duration as m:ss or h:mm:ss."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _can_draw() -> bool:
    return (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"
