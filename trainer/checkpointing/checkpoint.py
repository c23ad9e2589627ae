"""Checkpoints that count only when they are complete.

A checkpoint is a folder named by its step: tensors in TensorFlow's format, as
`tf.train.load_checkpoint` reads them, and then `commit.json`, which names their files with size and
crc32c. A folder whose commit cannot be read, or whose files differ from it, is not a checkpoint.
This needs no rename, which object stores lack.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from trainer import json_text
from trainer.errors import InputError
from trainer.storage import files

COMMIT = "commit.json"
OURS = re.compile(r"state\.(index|data-).*|commit\.json.*|\..*\.tmp")  # what we write into a folder


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The state at a step, copied, so that training can continue while it is written.

    Attributes:
        step: number of training steps behind it.
        tensors: name → values.
        progress: what else a resumed run must know, as JSON.
    """

    step: int
    tensors: Mapping[str, np.ndarray]
    progress: Mapping[str, Any]


class Checkpoints:
    """The numbered checkpoints in one folder."""

    def __init__(
        self,
        directory: str,
        state: Mapping[str, Sequence[Any]],
        fingerprint: str = "",
        optional: Collection[str] = (),
    ):
        """Touches nothing yet.

        Args:
            directory: local path or address in an object store.
            state: group → variables, of Keras or TensorFlow; each is saved by its group, its place
                there and its shape. Names do not work: Keras counts them over the process.
            fingerprint: of the settings and data that the state belongs to; checkpoints of another
                are not restored. Empty: not compared.
            optional: groups that a checkpoint may lack, which then stay as they are.
        """
        self.directory = directory
        self._state, self._optional = state, optional
        self._fingerprint = fingerprint
        self._restored_step: int | None = None
        self._damaged: set[int] = set()  # found so by `restore`, and not written again since

    def snapshot(self, step: int, progress: Mapping[str, Any]) -> Snapshot:
        """Returns a copy of the state."""
        tensors = {
            f"{group}/{place:04d}/{_shown(variable.shape)}": np.array(variable.numpy())
            for group, variables in self._state.items()
            for place, variable in enumerate(variables)
        }
        return Snapshot(step, tensors, progress)

    def write(self, snapshot: Snapshot) -> None:
        """Writes a snapshot; what is there counts as a checkpoint only once this returns."""
        folder = self._folder(snapshot.step)
        if snapshot.step == self._restored_step:  # the state is there; only the progress is new
            described = (read_commit(folder) or {})["files"]
        else:
            described = _write_files(folder, snapshot.tensors)
        commit = {
            "step": snapshot.step,
            "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "fingerprint": self._fingerprint,
            "files": described,
            "progress": dict(snapshot.progress),
        }
        files.write_whole(os.path.join(folder, COMMIT), json_text.dumps(commit, indent=1) + "\n")
        self._damaged.discard(snapshot.step)

    def restore(self) -> dict[str, Any] | None:
        """Restores the newest complete checkpoint; returns its commit, or None if there is none.

        Raises:
            InputError: if it belongs to other settings or data, or does not fit the state.
        """
        for step in reversed(self.steps()):
            folder = self._folder(step)
            commit = read_commit(folder)
            fault = find_fault(folder, commit) if commit else f"{COMMIT} cannot be read"
            if fault:
                logging.warning("Checkpoint %s is skipped: %s.", folder, fault)
                self._damaged.add(step)
                continue
            assert commit
            if self._fingerprint and commit["fingerprint"] != self._fingerprint:
                raise InputError(
                    f"{folder} is a checkpoint of other settings or data (fingerprint "
                    f"{commit['fingerprint'][:12]} instead of {self._fingerprint[:12]}); choose "
                    "another --run_dir."
                )
            self._load(folder, commit["files"])
            self._restored_step = step
            return commit
        return None

    def steps(self) -> list[int]:
        """Returns the steps of the committed checkpoints, ascending."""
        return [
            int(name)
            for name in files.list_folder(self.directory)
            if name.isdecimal() and files.exists(os.path.join(self.directory, name, COMMIT))
        ]

    def remove_strays(self) -> None:
        """Removes what a writer that was killed left behind: folders without a commit."""
        for name in files.list_folder(self.directory):
            folder = os.path.join(self.directory, name)
            is_ours = name.isdecimal() and folder == self._folder(int(name))
            if is_ours and not files.exists(os.path.join(folder, COMMIT)):
                logging.info("Removing %s, an unfinished checkpoint.", folder)
                _clear(folder)

    def remove(self, steps: Collection[int]) -> None:
        """Removes checkpoints, each commit first, so that no checkpoint lacks files."""
        for step in steps:
            files.remove(os.path.join(self._folder(step), COMMIT))
            _clear(self._folder(step))

    def remove_replaced(self, keep: int) -> None:
        """Removes what is older than the newest `keep` of those that `restore` found no fault in.

        A damaged one is no replacement: it stays until sound ones are newer.
        """
        steps = self.steps()
        kept = [step for step in steps if step not in self._damaged][-keep:]
        self.remove([step for step in steps if kept and step < kept[0]])

    def _folder(self, step: int) -> str:
        return os.path.join(self.directory, f"{step:08d}")

    def _load(self, folder: str, names: Iterable[str]) -> None:
        import tensorflow as tf  # `list` and `verify` start without it

        with _readable(folder, names) as prefix:
            # `tf.train.load_checkpoint` first asks whether this is a folder, which az:// affirms of
            # all.
            reader = tf.compat.v1.train.NewCheckpointReader(prefix)
            shapes = reader.get_variable_to_shape_map()
            # By place: the third part was a name, in checkpoints of earlier releases.
            found = {tuple(name.split("/")[:2]): name for name in shapes}
            pairs: list[tuple[Any, str]] = []
            for group, variables in self._state.items():
                places = sorted((place for one, place in found if one == group), key=int)
                if not places and group in self._optional:
                    continue
                saved = [found[group, place] for place in places]
                expected = [_shown(variable.shape) for variable in variables]
                _check_fit(folder, group, [_shown(shapes[name]) for name in saved], expected)
                pairs += zip(variables, saved, strict=True)
            for variable, name in pairs:
                variable.assign(reader.get_tensor(name))


def check_same(
    directory: str,
    commit: Mapping[str, Any] | None,
    worker: int,
    num_workers: int,
    sum_over_workers: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Raises InputError, on all workers alike, unless each restored the same checkpoint.

    Args:
        directory: of the checkpoints.
        commit: what `Checkpoints.restore` returned on this worker.
        worker: index of this worker.
        num_workers: number of workers.
        sum_over_workers: adds up an array over the workers, each of which calls it alike.
    """
    mine = np.zeros([num_workers, 2], np.int64)
    if commit is not None:
        mine[worker] = commit["step"], commit["progress"].get("evaluated_step", 0)
    found = sum_over_workers(mine).tolist()
    if any(one != found[0] for one in found):
        of_one_step = len({step for step, _ in found}) == 1
        said = (
            f"worker {k}: "
            + (f"step {step}" if step else "none")
            + (f", evaluated at {evaluated}" if of_one_step else "")
            for k, (step, evaluated) in enumerate(found)
        )
        raise InputError(
            f"The workers do not see the same checkpoint in {directory}: {'; '.join(said)}. Give "
            "all workers one shared folder as --run_dir, and start again."
        )


def _check_fit(folder: str, group: str, saved: Sequence[str], expected: Sequence[str]) -> None:
    """Raises InputError unless a group's shapes in a checkpoint are those of its variables."""
    if len(saved) != len(expected):
        difference = f"{len(saved)} tensors of {group}, and this job has {len(expected)}"
    else:
        pairs = enumerate(zip(saved, expected, strict=True))
        other = [(place, *pair) for place, pair in pairs if pair[0] != pair[1]]
        if not other:
            return
        place, ours, theirs = other[0][0], other[0][2], other[0][1]
        difference = f"tensor {place} of {group} as {theirs}, and this job has it as {ours}"
    raise InputError(
        f"{folder} is a checkpoint of another network, optimizer or release: it has {difference}; "
        "choose another --run_dir, or the release that wrote it."
    )


def _shown(shape: Iterable[int]) -> str:
    """Returns a shape as in 3x3x1x16."""
    return "x".join(map(str, shape)) or "scalar"


def read_commit(folder: str) -> dict[str, Any] | None:
    """Returns the commit of a checkpoint's folder, or None if it is not complete."""
    path = os.path.join(folder, COMMIT)
    if not files.exists(path):
        return None
    try:
        return json.loads(files.read_text(path))
    except json.JSONDecodeError:
        return None


def find_fault(folder: str, commit: Mapping[str, Any], *, every_byte: bool = True) -> str:
    """Returns what is wrong with a checkpoint's files; empty if nothing is.

    Args:
        folder: of the checkpoint.
        commit: of that folder.
        every_byte: whether to read the files, not only to ask for their sizes.
    """
    for name, expected in commit["files"].items():
        path = os.path.join(folder, name)
        if not files.exists(path):
            return f"{name} is missing"
        found = _describe(path) if every_byte else {"bytes": files.size_of(path)}
        for key, value in found.items():
            if value != expected[key]:
                return f"{name} has {key} {value} where {expected[key]} was written"
    return ""


def _clear(folder: str) -> None:
    """Removes a checkpoint's files, and the folder if nothing else is in it."""
    names = files.list_folder(folder)
    if all(map(OURS.fullmatch, names)):
        files.remove_folder(folder)
        return
    for name in filter(OURS.fullmatch, names):
        files.remove(os.path.join(folder, name))


@contextlib.contextmanager
def _scratch(folder: str) -> Iterator[str]:
    """Yields where to write the files of `folder`: there, or for an object store on the disk."""
    if files.is_remote(folder):
        with tempfile.TemporaryDirectory() as scratch:
            yield scratch
    else:
        yield folder


@contextlib.contextmanager
def _readable(folder: str, names: Iterable[str]) -> Iterator[str]:
    """Yields the prefix of a checkpoint's files in a folder that TensorFlow can read from.

    It reads the prefix as a pattern, in which brackets and backslashes have another meaning.
    """
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            path, near = os.path.join(folder, name), os.path.join(scratch, name)
            if files.is_remote(path):
                files.copy_from_store(path, near)
            else:
                os.symlink(os.path.abspath(path), near)
        yield os.path.join(scratch, "state")


def _write_files(folder: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Writes tensors into a folder; returns the files' names, sizes and checksums."""
    _clear(folder)
    files.make_folder(folder)
    with _scratch(folder) as scratch:
        _save(os.path.join(scratch, "state"), tensors)
        names = [name for name in files.list_folder(scratch) if OURS.fullmatch(name)]
        for name in names:
            files.copy_to_store(os.path.join(scratch, name), os.path.join(folder, name))
        return {name: _describe(os.path.join(scratch, name)) for name in names}


def _save(prefix: str, tensors: Mapping[str, np.ndarray]) -> None:
    import tensorflow as tf  # `list` and `verify` start without it

    with tf.device("CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=prefix,
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=[tf.constant(values) for values in tensors.values()],
        )


def _describe(path: str) -> dict[str, Any]:
    return {"bytes": files.size_of(path), "crc32c": files.crc32c(path)}
