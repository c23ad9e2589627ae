"""What a run prints while it trains: a bar on a terminal, elsewhere plain lines."""

import time
from collections.abc import Mapping, Sequence

from absl import logging

from trainer import terminal
from trainer.evaluate import metrics

SECONDS_BETWEEN_LINES = 30.0
SPARKS = "▁▂▃▄▅▆▇█"
SPARKLINE = 16  # evaluations


class ProgressLines:
    """Shows how far a run is, and a line for each evaluation."""

    def __init__(self, chief: bool, step: int, total_steps: int):
        """Shows nothing on workers other than the chief, nor if notices are turned off."""
        self._last_line = time.monotonic()
        self._loss = self._speed = self._dice = ""
        self._curve: list[float] = []
        self._silent = not chief
        self._bar = terminal.Bar(total_steps, done=step, silent=self._silent)

    def train(self, step: int, figures: Mapping[str, float]) -> None:
        """Shows the figures of training up to `step`."""
        self._loss = f"loss {figures['loss']:.4f}"
        self._speed = f"{terminal.rate(figures['images_per_second'])} images/s"
        self._show(step)
        if not terminal.is_here() and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line("  ".join(filter(None, (self._loss, self._dice, self._speed))))

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Shows the figures of an evaluation, and from now on its Dice."""
        if "dice" in figures:
            self._dice = f"val dice {figures['dice']:.4f}"
            self._curve = [*self._curve, figures["dice"]][-SPARKLINE:]
        forms = {"loss": ".4f"} | {name: row.form for name, row in metrics.tracked().items()}
        shown = (
            f"{name} {figures[name]:{form}}" for name, form in forms.items() if name in figures
        )
        self._show(step)
        self._line(f"val {'  '.join(shown)}")

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def _show(self, step: int) -> None:
        curve = sparkline(self._curve) if terminal.can_draw() else ""
        figures, extras = filter(None, (self._loss, self._dice)), filter(None, (self._speed, curve))
        self._bar.update(step - self._bar.done, list(figures), list(extras))

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        if not self._silent:
            step, total = self._bar.done, self._bar.total
            logging.info("step %d/%d  %s  %s left", step, total, text, self._bar.left())


def sparkline(values: Sequence[float]) -> str:
    """Returns numbers as a line of bars, the lowest flat and the highest full."""
    if not values:
        return ""
    low, high = min(values), max(values)
    steps = len(SPARKS) - 1
    return "".join(SPARKS[round(steps * (v - low) / (high - low or 1))] for v in values)
