"""What a run says while it trains: metrics.jsonl, TensorBoard, a progress bar or plain lines."""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tqdm
from absl import logging

SECONDS_BETWEEN_LINES = 30.0


class Report:
    """Writes the progress of one run; all of it on the chief, nothing on other workers."""

    def __init__(self, run_dir: str, chief: bool, step: int, total_steps: int):
        """Opens the writers and drops what metrics.jsonl says of steps after `step`."""
        self._chief = chief
        self._total_steps = total_steps
        self._metrics_path = os.path.join(run_dir, "metrics.jsonl")
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._tensorboard_dir = os.path.join(run_dir, "tensorboard")
        self._last_line = time.monotonic()
        self._val: Mapping[str, float] = {}
        self._start, self._start_step = time.monotonic(), step
        if chief:
            _drop_after(self._metrics_path, step)
        self._bar = tqdm.tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            desc="train",
            dynamic_ncols=True,
            disable=not chief or not sys.stderr.isatty(),
        )

    def train(self, step: int, figures: Mapping[str, float]) -> None:
        """Reports the means of the steps up to `step` since the last report."""
        self._write(step, "train", figures)
        self._bar.set_postfix_str(self._summary(figures), refresh=False)
        self._bar.update(step - self._bar.n)
        if self._bar.disable and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line(step, self._summary(figures))

    def validation(
        self, step: int, figures: Mapping[str, float], panels: Mapping[str, np.ndarray]
    ) -> None:
        """Reports an evaluation of the val split, with pictures uint8 [H, W, 3] by name."""
        self._val = figures
        self._write(step, "val", figures)
        if self._chief:
            with self._writer("val").as_default(step):
                for name, panel in panels.items():
                    tf.summary.image(f"cases/{name}", panel[np.newaxis])
            for writer in self._writers.values():
                writer.flush()
        self._line(step, "val " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()))

    def test(self, step: int, figures: Mapping[str, float]) -> None:
        """Reports the final evaluation of the test split, with the weights of `step`."""
        self._write(step, "test", figures)

    def close(self) -> None:
        """Flushes and closes everything."""
        self._bar.close()
        for writer in self._writers.values():
            writer.close()

    def _summary(self, figures: Mapping[str, float]) -> str:
        parts = [f"loss {figures['loss']:.4f}"]
        if "dice" in self._val:
            parts.append(f"val dice {self._val['dice']:.4f}")
        parts.append(f"{figures['images_per_second']:.1f} images/s")
        return "  ".join(parts)

    def _line(self, step: int, text: str) -> None:
        self._last_line = time.monotonic()
        if not self._chief:
            return
        done = max(1, step - self._start_step)
        left = (time.monotonic() - self._start) / done * (self._total_steps - step)
        line = f"step {step}/{self._total_steps}  {text}  {_clock(left)} left"
        if self._bar.disable:
            logging.info("%s", line)
        else:
            self._bar.write(line, file=sys.stderr)

    def _write(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        if not self._chief:
            return
        entry: dict[str, Any] = {"step": step, "split": split}
        entry.update((name, float(f"{value:.6g}")) for name, value in figures.items())
        with tf.io.gfile.GFile(self._metrics_path, "a") as file:
            file.write(json.dumps(entry) + "\n")
        with self._writer(split).as_default(step):
            for name, value in figures.items():
                tf.summary.scalar(name, value)

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            folder = os.path.join(self._tensorboard_dir, split)
            self._writers[split] = tf.summary.create_file_writer(folder)
        return self._writers[split]


def _drop_after(path: str, step: int) -> None:
    """Removes what a run that goes on writes again: steps after `step`, and the test."""
    if not tf.io.gfile.exists(path):
        return
    with tf.io.gfile.GFile(path) as file:
        lines = [line for line in file.read().splitlines() if line.strip()]
    kept = [line for line in lines if _step_of(line) <= step]
    with tf.io.gfile.GFile(path, "w") as file:
        file.write("".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    """Returns the step of a line; the test, and a line that was cut short, come after all steps."""
    try:
        entry = json.loads(line)
        return entry["step"] if entry["split"] != "test" else float("inf")
    except (json.JSONDecodeError, KeyError):
        return float("inf")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
