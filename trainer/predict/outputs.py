"""The folder that predictions are written to: whole files only, under the names of their images.

    DIR/NAME.png|tif|npy                the mask, in the training masks' values
    DIR/probabilities/NAME.npy          float32 [H, W], or [H, W, K] of more than two classes
    DIR/uncertainty/NAME.tif|npy        float32 [H, W], see `uncertainty`
    DIR/overlays/NAME.png               the image with its classes tinted and outlined
    DIR/previews/NAME.png               the mask in the colours of its classes
    DIR/instances/NAME.png|tif|npy, NAME.csv
    DIR/review.csv                      all masks, that of the lowest expected Dice first
    DIR/prediction.json                 which weights and settings made them, of which images
    DIR/parts/2-of-8/                   of --part=2/8: its prediction.json and review.csv
    DIR/parts/bands/                    bands of large images, until they are joined, see `bands`

Files are made in a scratch folder and moved, or uploaded, when all of an image are done, its mask
last: what has a mask is whole. What is in the folder and not this command's own is left alone.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import shutil
import tempfile
import unicodedata
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from trainer import config
from trainer.data.formats import discovery, mask_writer, regions
from trainer.data.formats.npy_stream import RowFile, Rows, TemporaryRows
from trainer.data.packed import Packed, reduce_to_fields
from trainer.drawing import overlays
from trainer.errors import InputError, RetryableError
from trainer.predict import instances, masks, parts, predictor, review, uncertainty
from trainer.predict import record as records
from trainer.storage import files, listing, lock

NAME = "prediction.json"
SCRATCH = ".unfinished"
LINES = "record.jsonl"  # in the scratch folder: what prediction.json does not list yet
BATCH = 16  # images that are uploaded, and recorded, together
LONGEST_OVERLAY = 2048  # pixels; of larger images every second, third, … pixel is shown
FOLDERS = frozenset(("probabilities", "uncertainty", "overlays", "previews", "instances"))
MAPS = {"png": "tif"}  # format of a mask → of a map of floats; that of the mask if not here


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """An image and its files.

    Attributes:
        source: the image.
        origin: what tells it from others.
        names: of its files, the mask last.
        is_done: whether they are there.
    """

    source: discovery.Source
    origin: records.Origin
    names: Sequence[str]
    is_done: bool = False

    __reduce__ = reduce_to_fields


class Folder:
    """Where predictions go, and what is there already; see `opened`."""

    def __init__(
        self, settings: config.Predict, owner: lock.Lease, format_of: Callable[[str], str]
    ):
        """Reads what is there and changes nothing."""
        self._format_of = format_of
        self.path, self._settings, self._owner = settings.output, settings, owner
        self._part = parts.parse(settings.part)
        self.overlay_opacity = settings.overlay_opacity
        self._home = _home(self.path, self._part.folder)
        self._remote = files.is_remote(self.path)
        self._facts: Mapping[str, Any] = {}
        self._record: records.Record = {}
        self._elsewhere: records.Record = {}  # of other parts, where this is one
        self._digest = b""  # of the text of prediction.json
        self._waiting: list[records.Record] = []  # images that are finished, to be uploaded
        self.reviews = settings.review  # whether expected Dice is recorded, once that is asked for
        # For a store, a folder on the disk for files to upload.
        self._made: set[str] = set()  # folders in `scratch`
        self.scratch = tempfile.mkdtemp() if self._remote else os.path.join(self._home, SCRATCH)

    def plan(
        self,
        facts: Mapping[str, Any],
        found: Sequence[discovery.Source],
        origins: Sequence[records.Origin],
    ) -> Sequence[Task]:
        """Returns the tasks of each image.

        Args:
            facts: what the masks depend on; a folder holds those of one set of facts.
            found: the images.
            origins: of them.

        Raises:
            InputError: the folder holds other predictions, a file that is there would be replaced
                and is not of this image by this command, or two images have files of one name.
        """
        self._facts = facts
        self._check_others()
        self._record = self._recorded(self._part.folder)
        for folder in self._others():
            # Another part of as many has other images, and may be at work.
            is_idle = self._part.may_meet(folder)
            self._elsewhere.update(self._recorded(folder, is_idle))
        if not self._part.folder:
            self._record, self._elsewhere = {**self._elsewhere, **self._record}, {}
        self.reviews |= bool(self._expected())
        self._check_review()
        folders = set(FOLDERS)
        for source in found:
            folders |= _folders_of(self.names(source.name, source.path))
        there = records.present(self.path, sorted(folders))
        key = _key_of(self.path)
        self._check_names(found, key)
        present = {key(name): (name, entry) for name, entry in there.items()}
        if not self._remote:
            for folder in sorted(folders & there.keys()):
                self._check_folder(folder)
        tasks, changed = Packed[Task](), []
        for source, origin in zip(found, origins, strict=True):
            task = Task(source, origin, self.names(source.name, source.path))
            states = [self._state(task, name, present.get(key(name))) for name in task.names]
            if "changed" in states:
                changed.append(source.label)
                task = self._with_earlier(task, there)
                states = [self._state(task, name, present.get(key(name))) for name in task.names]
            is_done = all(state == "done" for state in states)
            tasks.append(dataclasses.replace(task, is_done=is_done))
        if changed:
            logging.warning(
                "%d images have changed since their masks were written, and are predicted again: "
                "%s%s",
                len(changed),
                ", ".join(changed[:3]),
                ", …" if len(changed) > 3 else "",
            )
        return tasks

    def begin(self) -> None:
        """Writes what is known so far; from now on the folder belongs to this prediction."""
        self._write_record()
        files.remove_folder(os.path.join(self._home, SCRATCH))  # of a process that was killed
        os.makedirs(self.scratch, exist_ok=True)

    def local(self, name: str) -> str:
        """Returns where a file is made, in a folder that is there."""
        path = os.path.join(self.scratch, name)
        folder = os.path.dirname(path)
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)
        return path

    def _others(self) -> list[str]:
        """Returns where other parts, or a start of all images, keep their own files."""
        return [name for name in ("", *parts.folders(self.path)) if name != self._part.folder]

    def _check_others(self) -> None:
        """Raises RetryableError while a part is at work that may have images of this one."""
        for folder in filter(self._part.may_meet, self._others()):
            home = _home(self.path, folder)
            if lock.is_held(home, lock.SECONDS):
                mine = f"--part={self._settings.part}" if self._part.folder else "no --part"
                raise RetryableError(
                    f"{os.path.join(home, lock.NAME)}: another process writes masks of images that "
                    f"a start with {mine} has, too; wait for it, or stop it."
                )

    def _recorded(self, folder: str, is_idle: bool = True) -> records.Record:
        """Returns what earlier starts wrote, of all images or of a part that has such a folder.

        Args:
            folder: of the part, empty of all images.
            is_idle: whether no process can be writing there, so that what a killed one left counts.

        Raises:
            InputError: if they were other predictions, or none of this command.
        """
        home = _home(self.path, folder)
        path = os.path.join(home, NAME)
        if not files.exists(path):
            scratch = os.path.join(home, SCRATCH)
            if files.exists(scratch):
                raise InputError(_foreign(scratch))
            return {}
        text, old = _read(self.path, path, self._facts)
        if folder == self._part.folder:
            self._digest = _digest([text])
        found = records.from_json(old.get("files", {}), path)
        scratch = os.path.join(home, SCRATCH)
        for name in files.list_folder(scratch) if is_idle else ():
            if name.endswith(LINES):
                lines = os.path.join(scratch, name)
                found.update(records.from_lines(files.read_text(lines), lines))
        return found

    def _expected(self) -> dict[str, review.Expected]:
        """Returns the expected Dice of each mask that has one."""
        found = ((name, entry.expected) for name, entry in self._record.items())
        return {name: expected for name, expected in found if expected is not None}

    def _check_review(self) -> None:
        """Raises InputError if a file of others has the name of the list to look at."""
        path = os.path.join(self._home, review.NAME)
        if not (self.reviews and files.exists(path)):
            return
        try:
            is_ours = review.is_ours(files.read_text(path), list(self._facts["classes"]))
        except ValueError:  # bytes that are not text
            is_ours = False
        if not is_ours:
            raise InputError(_foreign(path))

    def to_look_at(self) -> str:
        """Returns which masks to look at first, for a terminal; empty where that is not known."""
        found = self._expected()
        return review.described(found, os.path.join(self._home, review.NAME)) if found else ""

    def _write_record(self) -> None:
        digest = _digest(records.to_json(self._facts, self._record))
        if digest != self._digest:
            with files.writing(os.path.join(self._home, NAME)) as file:
                file.writelines(records.to_json(self._facts, self._record))
            self._digest = digest

    def names(self, name: str, path: str, is_all: bool = False) -> list[str]:
        """Returns the files of an image, its mask last.

        Args:
            name: of the image.
            path: of the file it is in.
            is_all: whether to name those, too, that this start was not asked for.
        """
        kind = kind_of_mask(self._settings, path, self._format_of)
        wanted = {
            f"probabilities/{name}.npy": self._settings.probabilities,
            f"uncertainty/{name}.{MAPS.get(kind, kind)}": self._settings.uncertainty,
            f"overlays/{name}.png": self._settings.overlays,
            f"previews/{name}.png": self._settings.previews,
            f"instances/{name}.csv": self._settings.instances,
            f"instances/{name}.{kind}": self._settings.instances,
            f"{name}.{kind}": True,
        }
        return [file for file, is_wanted in wanted.items() if is_wanted or is_all]

    def _check_names(self, found: Sequence[discovery.Source], key: Callable[[str], str]) -> None:
        """Raises InputError if two images would have a file in the same place."""
        owners: dict[str, int] = {}
        for place, source in enumerate(found):
            for name in self.names(source.name, source.path):
                other = owners.setdefault(key(name), place)
                if other != place:
                    raise InputError(
                        f"{found[other].label} and {source.label} would both be written to {name}; "
                        "rename one, or narrow --images."
                    )

    def _with_earlier(self, task: Task, there: Mapping[str, listing.Entry]) -> Task:
        """Returns the task with what an earlier start was asked for, and this one was not."""
        every = self.names(task.source.name, task.source.path, is_all=True)
        folders = {
            name.partition("/")[0]
            for name in every[:-1]
            if name in there and (written := self._written(name))
            if written.image.is_place_of(task.origin)
        }
        names = [name for name in every[:-1] if name.partition("/")[0] in folders]
        return dataclasses.replace(
            task, names=[name for name in every if name in (*names, *task.names)]
        )

    def _written(self, name: str) -> records.Written | None:
        return self._record.get(name) or self._elsewhere.get(name)

    def _check_folder(self, name: str) -> None:
        path = os.path.join(self.path, name)
        if not os.path.isdir(path):
            raise InputError(f"{path} is a file, but a folder is needed; {REMEDY}")

    def _state(self, task: Task, name: str, found: tuple[str, listing.Entry] | None) -> str:
        """Returns "missing", "done", or "changed" of a file whose image has changed since.

        Raises:
            InputError: a file is there that this command did not write, or made of another image.
        """
        if found is None:
            return "missing"
        there, entry = found
        path = os.path.join(self.path, there)
        written = self._written(there)
        if written is None:
            raise InputError(_foreign(path))
        if self.reviews and name == task.names[-1] and written.expected is None:
            return "missing"
        if not written.is_at(path, entry):
            raise InputError(f"{path} has changed since this command wrote it; {REMEDY}")
        if not written.image.is_place_of(task.origin):
            raise InputError(
                f"{path} was made from {_shown(written.image)}, not from {_shown(task.origin)}; "
                "name another --output, or remove what was made from the other images."
            )
        return "done" if written.image == task.origin else "changed"

    def place(self, task: Task, expected: review.Expected | None = None) -> None:
        """Moves an image's finished files from the scratch folder to where they belong.

        Those for a store wait until there are some.

        Args:
            task: of the image.
            expected: the expected Dice of its mask, where that is recorded.
        """
        self._owner.check()  # another process would have removed the scratch folder
        *others, mask = task.names
        known = dict.fromkeys(others) | {mask: expected}
        self._waiting.append(
            {
                name: records.Written.describe(os.path.join(self.scratch, name), task.origin, one)
                for name, one in known.items()
            }
        )
        if not self._remote or len(self._waiting) == BATCH:
            self._place_waiting()

    def _place_waiting(self) -> None:
        """Records the files that wait, and then lets them be seen."""
        waiting = {name: entry for image in self._waiting for name, entry in image.items()}
        if not waiting:
            return
        scratch = os.path.join(self._home, SCRATCH)
        if self._remote:  # which cannot append
            lines = os.path.join(scratch, f"{uuid.uuid4().hex}-{LINES}")
            files.write_whole(lines, records.to_lines(waiting))
        else:
            files.append(os.path.join(scratch, LINES), records.to_lines(waiting))
        for name in waiting:
            local, path = os.path.join(self.scratch, name), os.path.join(self.path, name)
            if self._remote:
                files.copy_to_store(local, path)
                os.remove(local)
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.replace(local, path)
        self._record.update(waiting)
        self._waiting.clear()

    def end(self) -> None:
        """Places what is finished, and writes all that is known into prediction.json."""
        self._owner.check()
        self._place_waiting()
        self._write_record()
        if self.reviews:
            table = review.to_csv(self._expected(), list(self._facts["classes"]))
            files.write_whole(os.path.join(self._home, review.NAME), table)
        files.remove_folder(os.path.join(self._home, SCRATCH))
        if not self._part.folder:  # whose record has all that the parts have
            parts.remove(self.path)

    def close(self) -> None:
        """Removes the scratch folder of a store."""
        if self._remote:
            shutil.rmtree(self.scratch, ignore_errors=True)


REMEDY = "move it away, or name another --output."


@contextlib.contextmanager
def opened(
    settings: config.Predict,
    facts: Mapping[str, Any],
    found: Sequence[discovery.Source],
    origins: Sequence[records.Origin],
    format_of: Callable[[str], str] = mask_writer.format_of,
) -> Iterator[tuple[Folder, Sequence[Task]]]:
    """Opens the folder for this process alone, and returns the tasks; see `Folder.plan`.

    Args:
        settings: the user's.
        facts: see `Folder.plan`.
        found: the images.
        origins: of them.
        format_of: path of an image → format of its mask, where none is asked for.

    Raises:
        InputError: if the folder cannot be written or is being written, or from `Folder.plan`.
    """
    home = _home(settings.output, parts.parse(settings.part).folder)
    with lock.held(home, lock.SECONDS, flag="output") as owner:
        folder = Folder(settings, owner, format_of)
        try:
            tasks = folder.plan(facts, found, origins)
            folder.begin()
            try:
                yield folder, tasks
            finally:
                folder.end()
        finally:
            folder.close()


def kind_of_mask(
    settings: config.Predict,
    path: str,
    format_of: Callable[[str], str] = mask_writer.format_of,
) -> str:
    """Returns the suffix of the mask of an image in such a file, see `opened`."""
    return format_of(path) if settings.format == "auto" else settings.format


def check_facts(output: str, facts: Mapping[str, Any]) -> None:
    """Raises InputError if a folder holds predictions that depend on other facts."""
    paths = (os.path.join(_home(output, part), NAME) for part in ("", *parts.folders(output)))
    for path in itertools.islice(filter(files.exists, paths), 1):  # all records have the same
        _read(output, path, facts)


def _read(output: str, path: str, facts: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the text and the content of a prediction.json.

    Args:
        output: the folder, for messages.
        path: of the file.
        facts: see `Folder.plan`.

    Raises:
        InputError: it is none of this command, or of a prediction with other facts.
    """
    try:
        text = files.read_text(path)
        old = records.parse(text)
    except ValueError:  # also for bytes that are not text
        old = None
    if not isinstance(old, dict) or "weights" not in old:
        raise InputError(_foreign(path))
    for name, value in facts.items():
        if not are_same(old.get(name), value):
            raise InputError(
                f"--output={output} holds predictions with another {name} "
                f"({_said(old.get(name))} instead of {_said(value)}); name another folder, or "
                "remove that one first."
            )
    return text, old


def _digest(parts: Iterable[str]) -> bytes:
    """Returns what tells a text, in parts, from others."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape"))
    return digest.digest()


def _home(path: str, part: str) -> str:
    """Returns where the record of a part is, which has a folder of its own unless it is all."""
    return os.path.join(path, part) if part else path


def _folders_of(names: Iterable[str]) -> set[str]:
    """Returns all folders on the way to files."""
    return {str(folder) for name in names for folder in pathlib.PurePosixPath(name).parents[:-1]}


def _key_of(folder: str) -> Callable[[str], str]:
    """Returns names as a file system compares them: some treat two different names as equal."""
    if files.is_remote(folder):
        return str
    stem = f".{uuid.uuid4().hex}"
    probe = os.path.join(folder, f"{stem}A\u00e9")
    with open(probe, "x"):
        folds_case = os.path.exists(os.path.join(folder, f"{stem}a\u00e9"))
        folds_form = os.path.exists(os.path.join(folder, f"{stem}Ae\u0301"))
    os.remove(probe)

    def key(name: str) -> str:
        name = unicodedata.normalize("NFC", name) if folds_form else name
        return name.casefold() if folds_case else name

    return key


def _foreign(path: str) -> str:
    return f"{path} exists, and no earlier start of this command wrote it; {REMEDY}"


def _shown(image: records.Origin) -> str:
    return image.path if image.row is None else f"{image.path}[{image.row}]"


def _said(fact: Any) -> str:
    """Returns a fact as messages show it."""
    if isinstance(fact, list):
        return ", ".join(map(_said, fact))
    if isinstance(fact, dict) and "run_dir" in fact:
        return f"{fact['run_dir']} at step {fact['step']}, weights {fact['sha256'][:12]}"
    return str(fact)


def are_same(fact: Any, other: Any) -> bool:
    """Whether masks do not differ by a fact."""
    return bool(_compared(fact) == _compared(other))


def _compared(fact: Any) -> Any:
    """Returns a fact without what may change: the place of a run is not what makes its masks."""
    if isinstance(fact, list):
        return [_compared(entry) for entry in fact]
    if isinstance(fact, dict) and "run_dir" in fact:
        return {name: value for name, value in fact.items() if name != "run_dir"}
    return fact


@dataclasses.dataclass
class Page:
    """One image on its way to its files.

    Attributes:
        folder: where they go.
        networks: what predicts.
        task: of the image.
        source: the image, on the local disk.
        raster: the image, open; None until it is.
    """

    folder: Folder
    networks: predictor.Predictor
    task: Task
    source: discovery.Source
    raster: regions.Raster | None = None
    _ids: Rows | None = None
    _probabilities: Rows | None = None
    _uncertainty: Rows | None = None
    _sums: review.Sums | None = None

    @property
    def names(self) -> Sequence[str]:
        """The files of the image, the mask last."""
        return self.task.names

    def open(self, max_pixels: int) -> regions.Raster:
        """Opens the image."""
        self.raster = self.networks.open(self.source, max_pixels)
        return self.raster

    @property
    def needs(self) -> set[str]:
        """What its outputs are made of, see `values_of`."""
        maps = {name for name in ("uncertainty", "probabilities") if self._named(f"{name}/")}
        return {"ids", *maps, *(("sums",) if self.folder.reviews else ())}

    def add(self, rows: predictor.Rows) -> None:
        """Takes the next rows of its prediction."""
        self.add_values(rows.size, values_of(rows, self.needs))

    def add_values(self, size: tuple[int, ...], values: Mapping[str, np.ndarray]) -> None:
        """Takes what is made of the next rows.

        Args:
            size: height and width of the image.
            values: see `values_of`; what no output needs may be among them.
        """
        if self._ids is None:
            self._ids = TemporaryRows(self.folder.scratch, size, np.dtype(np.uint8))
        self._ids.append(values["ids"])
        if self.folder.reviews:
            self._sums = self._sums or review.Sums(self.networks.num_classes)
            self._sums.add(values["sums"])
        if self._named("uncertainty/"):
            if self._uncertainty is None:
                self._uncertainty = TemporaryRows(self.folder.scratch, size, np.dtype(np.float32))
            self._uncertainty.append(values["uncertainty"])
        for name in self._named("probabilities/"):
            probabilities = values["probabilities"]
            if self._probabilities is None:
                depth = probabilities.shape[2]
                shape = size if depth == 1 else (*size, depth)
                self._probabilities = RowFile(self.folder.local(name), shape, np.dtype(np.float32))
            self._probabilities.append(probabilities)

    def finish(self) -> None:
        """Writes the outputs of the whole prediction, and puts all files in their place."""
        assert self._ids is not None
        if self._probabilities is not None:
            self._probabilities.close()
        for name in self._named("uncertainty/"):
            _format(name)(self.folder.local(name), self._uncertainty, self.source)
        kept = self.networks.networks.kept
        if kept:
            self._ids = instances.keep(self._ids, self.folder.scratch, kept)
        for name in self._named("overlays/"):
            Image.fromarray(self._overlay()).save(self.folder.local(name))
        for name in self._named("previews/"):
            _, ids = self._thinned()
            Image.fromarray(overlays.paint(ids)).save(self.folder.local(name))
        numbers = self._named("instances/")
        if numbers:
            self._write_instances(*numbers)
        mask = self._values()
        _format(self.names[-1])(self.folder.local(self.names[-1]), mask, self.source)
        mask.close()
        self._close()
        self.folder.place(self.task, self._sums.expected() if self._sums else None)

    def discard(self) -> None:
        """Removes what is in the scratch folder, and closes the image."""
        self._close()
        for name in self.names:
            files.remove(os.path.join(self.folder.scratch, name))

    def _close(self) -> None:
        self.raster = None
        for rows in (self._ids, self._probabilities, self._uncertainty):
            if rows is not None:
                rows.close()

    def _named(self, folder: str) -> list[str]:
        return [name for name in self.names[:-1] if name.startswith(folder)]

    def _values(self) -> Rows:
        """Returns the mask with the values of the training masks."""
        assert self._ids is not None
        values = self.networks.networks.values
        lookup = masks.lookup(values)
        mask = TemporaryRows(self.folder.scratch, self._ids.shape, lookup.dtype)
        for band in self._ids.bands(mask_writer.BAND_PIXELS):
            mask.append(lookup[band])
        return mask

    def _write_instances(self, table_name: str, numbers_name: str) -> None:
        assert self._ids is not None
        numbers, table = instances.label(self._ids, self.folder.scratch)
        _format(numbers_name)(self.folder.local(numbers_name), numbers, self.source)
        numbers.close()
        files.write_whole(
            self.folder.local(table_name), table.to_csv(self.networks.networks.classes)
        )

    def _thinned(self) -> tuple[int, np.ndarray]:
        """Returns by how many pixels a picture of the mask goes on, and its classes there."""
        assert self._ids is not None
        step = -(-max(self._ids.shape) // LONGEST_OVERLAY)
        return step, _every(step, self._ids.bands(mask_writer.BAND_PIXELS))

    def _overlay(self) -> np.ndarray:
        assert self.raster is not None
        step, ids = self._thinned()
        pixels = _every(step, self.raster.bands())
        return overlays.draw_overlay(overlays.display(pixels), ids, self.folder.overlay_opacity)


def values_of(rows: predictor.Rows, names: Collection[str]) -> dict[str, np.ndarray]:
    """Returns what outputs are made of.

    Args:
        rows: of an image.
        names: of what is needed besides the class ids.

    Returns:
        "ids": uint8 [rows, W]; "uncertainty": float32 [rows, W]; "probabilities": as the rows have
        them; "sums": of `review.sums_of`.
    """
    ids = masks.class_ids(rows.probabilities)
    found = {"ids": ids}
    if "uncertainty" in names:
        found["uncertainty"] = uncertainty.predictive_entropy(rows.probabilities)
    if "probabilities" in names:
        found["probabilities"] = rows.probabilities
    if "sums" in names:
        found["sums"] = review.sums_of(rows.probabilities, ids)
    return found


def _every(step: int, bands: Iterable[np.ndarray]) -> np.ndarray:
    """Returns each `step`-th row and column of an image that comes from top to bottom."""
    parts, top = [], 0
    for band in bands:
        parts.append(band[-top % step :: step, ::step].copy())  # a view would hold the whole band
        top += len(band)
    return np.concatenate(parts)


def _format(name: str) -> Any:
    return mask_writer.FORMATS[name.rpartition(".")[2]]
