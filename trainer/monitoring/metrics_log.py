"""What a run writes while it trains: metrics.jsonl and the event files of TensorBoard."""

import hashlib
import json
import os
import re
import tempfile
import threading
import types
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from absl import logging
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar import summary_v2 as scalar

from trainer import json_text
from trainer.distributed import vertex
from trainer.errors import first_line
from trainer.monitoring import scalars as names
from trainer.monitoring.progress_lines import ProgressLines
from trainer.storage import files

METRICS = "metrics.jsonl"
ANY_OWNER = "(?:[0-9a-f]{8}[.])?"  # see `_owner`; earlier releases wrote none
ARRIVING, ATTACHED = "arriving", "attached"  # folders of files of other programs
SPLITS = ("", "train", "val", "test")  # folders of event files; those of the run are in none


class MetricsLog:
    """Writes the progress of one run; all of it on the chief, nothing on other workers.

    On a disk, each line and event is written as it comes. An object store takes whole objects only,
    so there both are held back until `flush`, which runs with each checkpoint: metrics.jsonl is
    written again, and each event file is uploaded once, for `rotate` begins the next. The names of
    event files end with a mark of the run and the step after which they begin; a run that resumes
    from a step removes its own that begin there or later, and so TensorBoard shows one curve.
    """

    def __init__(
        self,
        run_dir: str,
        chief: bool,
        step: int,
        total_steps: int,
        evaluated_step: int = 0,
        tensorboard_dir: str = "",
    ):
        """Opens nothing yet; drops what the run folder says of steps after `step`.

        Args:
            run_dir: the run folder.
            chief: whether this worker writes.
            step: from which the run resumes.
            total_steps: of the run.
            evaluated_step: of the last evaluation that counts; `step`'s may not have been finished.
            tensorboard_dir: of the event files; in the run folder if empty.
        """
        self._chief = chief
        self._total_steps = total_steps
        self._metrics_path = os.path.join(run_dir, METRICS)
        self.tensorboard_dir = tensorboard_dir or os.path.join(run_dir, "tensorboard")
        self._held_back = any(map(files.is_remote, (run_dir, self.tensorboard_dir)))
        self._trial = vertex.Trial()
        self._lock = threading.Lock()  # of what is to be written; never held while that is written
        self._flushing = threading.Lock()  # one flush after the other: the newest text stays
        self._lines: list[str] = []  # to be written
        self._kept: list[str] = []  # of an object store's file, which is always written whole
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._full: list[tuple[str, tf.summary.SummaryWriter, str]] = []  # to be closed
        is_remote = files.is_remote(self.tensorboard_dir)
        self._scratch = tempfile.TemporaryDirectory() if is_remote else None
        self._first_step = step  # of the next event file
        self._owner = _owner(run_dir)
        self._rotations = 0
        self._described: set[tuple[str, str]] = set()
        self.steps_to_redo = 0
        if chief:
            lines, self.steps_to_redo = _drop_after(self._metrics_path, step, evaluated_step)
            self._kept = lines if self._held_back else []
            _drop_events(self.tensorboard_dir, step, self._owner if tensorboard_dir else "")
        self._progress = ProgressLines(chief, step, total_steps)

    def start(self, write: Callable[[], None]) -> None:
        """Lets `write` write the summaries that a run begins with, of the run as a whole."""
        if self._chief:
            self._summarize("", 0, write)

    def train(self, step: int, figures: Mapping[str, float]) -> None:
        """Reports the means of the steps up to `step` since the last report."""
        self._write(step, "train", figures)
        self._progress.train(step, figures)

    def validation(
        self, step: int, figures: Mapping[str, float], write: Callable[[], None] = lambda: None
    ) -> None:
        """Reports an evaluation of the val split, of which `write` writes more summaries."""
        self._write(step, "val", figures)
        if self._chief:
            self._summarize("val", step, lambda: self._write_all(write))
        self._progress.validation(step, figures)

    def test(self, step: int, figures: Mapping[str, float]) -> None:
        """Reports the final evaluation of the test split, with the weights of `step`."""
        self._write(step, "test", figures)

    def end(self, write: Callable[[], None]) -> None:
        """Lets `write` write the summaries with which a run ends, of the run as a whole.

        The terminal's bar is left as it is, so that the next message has its own lines.
        """
        self._progress.close()
        if self._chief:
            self._summarize("", self._total_steps, write)

    def attachments(self) -> str:
        """Returns a folder for files of other programs, which `attach` brings to TensorBoard's."""
        if self._scratch:
            return os.path.join(self._scratch.name, ARRIVING)
        return self.tensorboard_dir

    def attach(self) -> None:
        """Lets the next `flush` upload what is in `attachments()`, if it is not there already."""
        if self._scratch:
            attached = os.path.join(self._scratch.name, ATTACHED)
            os.rename(os.path.join(self._scratch.name, ARRIVING), attached)

    def rotate(self, step: int) -> None:
        """Lets events after `step` go into new files; `flush` closes the old ones."""
        with self._lock:
            self._full += [
                (split, writer, self._events_dir(split)) for split, writer in self._writers.items()
            ]
            self._rotations += 1
        self._writers, self._first_step = {}, step

    def flush(self) -> None:
        """Writes what was held back; may run in another thread, and again where it failed.

        What is reported meanwhile waits for the next flush, and not for this one.
        """
        with self._flushing:
            with self._lock:
                lines, full = list(self._lines), list(self._full)
            if lines and self._held_back:
                files.write_whole(self._metrics_path, "".join(self._kept + lines))
                self._kept += lines
            elif lines:
                files.append(self._metrics_path, "".join(lines))
            with self._lock:
                del self._lines[: len(lines)]
            for split, writer, folder in full:
                self._close(split, writer, folder)
                with self._lock:
                    self._full.pop(0)
            if self._scratch:
                self._upload(os.path.join(self._scratch.name, ATTACHED))

    def _close(self, split: str, writer: tf.summary.SummaryWriter, folder: str) -> None:
        """Closes the event file of a split, and uploads what is in its local folder."""
        writer.close()
        if not self._scratch:
            return
        target = os.path.join(self.tensorboard_dir, split).rstrip("/")
        for name in files.list_folder(folder):
            local = os.path.join(folder, name)
            files.copy_to_store(local, f"{target}/{name}")
            os.remove(local)

    def _upload(self, attached: str) -> None:
        for folder, _, found in os.walk(attached):
            below = os.path.relpath(folder, attached)
            for name in found:
                local = os.path.join(folder, name)
                files.copy_to_store(local, f"{self.tensorboard_dir}/{below}/{name}")
                os.remove(local)

    def __enter__(self) -> "MetricsLog":
        """Does nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Writes and closes everything; if that fails, an error of the block comes first."""
        try:
            self.close()
        except files.failures() as failure:
            if error is None:
                raise
            logging.warning("metrics.jsonl and TensorBoard lack the last steps: %s", failure)

    def close(self) -> None:
        """Writes and closes everything."""
        self._progress.close()
        self.rotate(self._total_steps)
        self.flush()
        if self._scratch:
            self._scratch.cleanup()

    def _write(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        if not self._chief:
            return
        entry: dict[str, Any] = {"step": step, "split": split}
        entry.update((name, float(f"{value:.6g}")) for name, value in figures.items())
        with self._lock:
            self._lines.append(json_text.dumps(entry) + "\n")
        self._trial.report(step, split, figures)
        scalars = Summary()  # all in one event: the number of calls is what costs time
        for name, value in figures.items():
            text = self._description(split, name)
            scalars.MergeFrom(scalar.scalar_pb(names.tag(split, name), value, text))
        content = scalars.SerializeToString()
        self._summarize(split, step, lambda: tf.summary.experimental.write_raw_pb(content))
        if not self._held_back:
            try:
                self.flush()
            except files.failures() as error:  # the lines are kept
                logging.warning("metrics.jsonl cannot be written for now: %s", first_line(error))

    def _write_all(self, write: Callable[[], None]) -> None:
        """Calls `write`, and on a disk lets TensorBoard see what has been written."""
        write()
        if not self._held_back:
            for writer in self._writers.values():
                writer.flush()

    def _summarize(self, split: str, step: int, write: Callable[[], Any]) -> None:
        """Lets `write` write summaries; on a full disk they are lost, but the run continues."""
        try:
            with self._writer(split).as_default(step):
                write()
        except files.failures() as error:
            logging.warning("TensorBoard will lack some of step %d: %s", step, first_line(error))

    def _description(self, split: str, name: str) -> str | None:
        """Returns what a figure is where it is written first, which is where TensorBoard looks."""
        if (split, name) in self._described:
            return None
        self._described.add((split, name))
        return names.description(name)

    def _writer(self, split: str) -> tf.summary.SummaryWriter:
        if split not in self._writers:
            self._writers[split] = tf.summary.create_file_writer(
                self._events_dir(split), filename_suffix=f".{self._owner}{self._first_step:08d}"
            )
        return self._writers[split]

    def _events_dir(self, split: str) -> str:
        """Returns where the open event file of a split is: on the disk, to be uploaded whole.

        TensorFlow would ask an object store for the file before each event, and write all of it
        again at each flush.
        """
        if self._scratch:
            return os.path.join(self._scratch.name, f"{self._rotations}-{split}")
        return os.path.join(self.tensorboard_dir, split)


def _drop_after(path: str, step: int, evaluated_step: int) -> tuple[list[str], int]:
    """Removes what a run that resumes writes again, the test among it.

    Returns:
        The lines that stay, and how many training steps were removed.
    """
    if not files.exists(path):
        return [], 0
    with files.open_file(path, "r") as file:
        lines = [line for line in file.read().splitlines(keepends=True) if line.strip()]
    last = {"train": step, "val": evaluated_step}
    kept, reached = [], step
    for line in lines:
        try:
            entry = json.loads(line)
            reached = max(reached, entry["step"])
            if entry["step"] <= last.get(entry["split"], -1):
                kept.append(line)
        except (json.JSONDecodeError, KeyError):  # cut short when the process was killed
            continue
    if len(kept) < len(lines):
        files.write_whole(path, "".join(kept))
    return kept, reached - step


def _drop_events(folder: str, step: int, owner: str) -> None:
    """Removes the event files that begin at `step` or later.

    Args:
        folder: of TensorBoard's files.
        step: from which the run resumes.
        owner: of the files; empty if all that a run wrote are this one's.
    """
    begin = r"events\.out\.tfevents\.\d+\..+\.\d+\.\d+\."  # time, host, process, count
    ours = re.compile(rf"{begin}{re.escape(owner) or ANY_OWNER}(\d{{8,}})")
    for split in SPLITS:
        for name in files.list_folder(os.path.join(folder, split).rstrip("/")):
            found = ours.fullmatch(name)
            if found and int(found[1]) >= step:
                files.remove(os.path.join(folder, split, name))


def _owner(run_dir: str) -> str:
    """Returns what tells a run's event files in a folder that several share."""
    place = run_dir if files.is_remote(run_dir) else os.path.realpath(run_dir)
    return f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}."
