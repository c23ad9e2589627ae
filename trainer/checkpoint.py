"""Checkpoints that count only when they are whole.

A checkpoint is a folder named by its step. Its last file, `commit.json`, names every other file
with its size and crc32c; a folder without it, or whose files differ from it, is not a checkpoint.
"""

import json
import os
import tempfile
from typing import Any

import google_crc32c
import tensorflow as tf
from absl import logging

COMMIT = "commit.json"
CHUNK_BYTES = 1 << 24


class Checkpoints:
    """The numbered checkpoints of one folder."""

    def __init__(self, directory: str, state: tf.train.Checkpoint, keep: int, chief: bool = True):
        """Touches nothing yet.

        Args:
            directory: local path or gs:// address.
            state: all the variables to save and restore.
            keep: number of checkpoints to keep, the newest.
            chief: whether this worker's files are the ones that count. Saving reads variables
                that workers share, so each worker calls `save`; the others write to a temporary
                folder that is then removed.
        """
        self.directory = directory
        self._state = state
        self._keep = keep
        self._chief = chief

    def save(self, step: int, progress: dict[str, Any]) -> None:
        """Writes the state and `progress` (JSON) as the checkpoint of `step`."""
        if not self._chief:
            with tempfile.TemporaryDirectory() as scratch:
                self._state.write(os.path.join(scratch, "state"))
            return
        folder = os.path.join(self.directory, f"{step:08d}")
        if tf.io.gfile.exists(folder):
            tf.io.gfile.rmtree(folder)
        self._state.write(os.path.join(folder, "state"))
        files = {name: _describe(os.path.join(folder, name)) for name in _files(folder)}
        commit = {"step": step, "files": files, "progress": progress}
        with tf.io.gfile.GFile(os.path.join(folder, COMMIT), "w") as file:
            file.write(json.dumps(commit, indent=1))
        for old in self.steps()[: -self._keep]:
            tf.io.gfile.rmtree(os.path.join(self.directory, f"{old:08d}"))

    def restore(self) -> dict[str, Any] | None:
        """Restores the newest whole checkpoint; returns its commit, or None if there is none."""
        for step in reversed(self.steps()):
            folder = os.path.join(self.directory, f"{step:08d}")
            commit = read_commit(folder)
            fault = find_fault(folder, commit)
            if fault:
                logging.warning("Checkpoint %s is passed over: %s.", folder, fault)
                continue
            self._state.read(os.path.join(folder, "state")).assert_existing_objects_matched()
            return commit
        return None

    def steps(self) -> list[int]:
        """Returns the steps of the committed checkpoints, ascending."""
        if not tf.io.gfile.isdir(self.directory):
            return []
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(self.directory)]
        return sorted(
            int(name)
            for name in names
            if name.isdigit() and tf.io.gfile.exists(os.path.join(self.directory, name, COMMIT))
        )


def read_commit(folder: str) -> dict[str, Any]:
    """Returns the commit of a checkpoint's folder: step, files, progress."""
    with tf.io.gfile.GFile(os.path.join(folder, COMMIT)) as file:
        return json.loads(file.read())


def find_fault(folder: str, commit: dict[str, Any]) -> str:
    """Returns what is wrong with a checkpoint's files, reading every byte; empty if nothing is."""
    for name, expected in commit["files"].items():
        path = os.path.join(folder, name)
        if not tf.io.gfile.exists(path):
            return f"{name} is missing"
        found = _describe(path)
        for key in ("bytes", "crc32c"):
            if found[key] != expected[key]:
                return f"{name} has {key} {found[key]} where {expected[key]} was written"
    return ""


def _files(folder: str) -> list[str]:
    return sorted(name for name in tf.io.gfile.listdir(folder) if name != COMMIT)


def _describe(path: str) -> dict[str, Any]:
    checksum, size = google_crc32c.Checksum(), 0
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum.update(chunk)
            size += len(chunk)
    return {"bytes": size, "crc32c": checksum.hexdigest().decode()}
