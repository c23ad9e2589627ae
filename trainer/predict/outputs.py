"""The folder that predictions are written to: whole files only, under the names of their images.

    DIR/NAME.png|tif|npy                the mask, in the training masks' values
    DIR/probabilities/NAME.npy          float32 [H, W], or [H, W, K] of more than two classes
    DIR/overlays/NAME.png               the image with outlines
    DIR/instances/NAME.png|tif|npy, NAME.csv
    DIR/prediction.json                 which weights and settings made them

Files are made in a scratch folder and moved, or uploaded, when all of an image are done, its mask
last: what has a mask is whole.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from trainer import config, json_text
from trainer.data import masks, rasters, sources
from trainer.data.rowfile import RowFile
from trainer.errors import InputError
from trainer.predict import instances, predictor
from trainer.stores import files
from trainer.watch import panels

NAME = "prediction.json"
SCRATCH = ".unfinished"
LONGEST_OVERLAY = 2048  # pixels; of larger images every second, third, … pixel is shown


class Folder:
    """Where predictions go, and what is there already."""

    def __init__(self, settings: config.Predict, facts: dict[str, Any]):
        """Makes the folder, or goes on in it.

        Args:
            settings: of the command.
            facts: what the masks depend on; a folder holds those of one set of facts.

        Raises:
            InputError: if the folder cannot be made or holds other predictions.
        """
        self.path, self._settings = settings.output, settings
        try:
            files.make_folder(self.path)
        except OSError as error:
            raise InputError(f"--output={self.path} cannot be made: {error.strerror}.") from None
        self._remote = files.is_remote(self.path)
        self.scratch = tempfile.mkdtemp() if self._remote else os.path.join(self.path, SCRATCH)
        files.remove_folder(self.scratch)  # of a process that was killed
        os.makedirs(self.scratch)
        self._claim(facts)
        self._there = {
            f"{folder}{name}"
            for folder in ("", "probabilities/", "overlays/", "instances/")
            for name in files.list_folder(os.path.join(self.path, folder).rstrip("/"))
        }

    def _claim(self, facts: dict[str, Any]) -> None:
        path = os.path.join(self.path, NAME)
        if not files.exists(path):
            files.write_whole(path, json_text.dumps(facts, indent=1) + "\n")
            return
        try:
            old = json.loads(files.read_text(path))
        except json.JSONDecodeError:
            old = {}
        for name, value in facts.items():
            if old.get(name) != value:
                raise InputError(
                    f"--output={self.path} holds predictions with another {name} ({old.get(name)} "
                    f"instead of {value}); name another folder, or remove that one first."
                )

    def names(self, name: str, path: str) -> list[str]:
        """Returns the files of an image, its mask last.

        Args:
            name: of the image.
            path: of the file it is in.
        """
        kind = masks.format_of(path) if self._settings.format == "auto" else self._settings.format
        wanted = {
            f"probabilities/{name}.npy": self._settings.probabilities,
            f"overlays/{name}.png": self._settings.overlays,
            f"instances/{name}.csv": self._settings.instances,
            f"instances/{name}.{kind}": self._settings.instances,
            f"{name}.{kind}": True,
        }
        return [file for file, is_wanted in wanted.items() if is_wanted]

    def has(self, names: Sequence[str]) -> bool:
        """Says whether files are there from an earlier start."""
        return self._there.issuperset(names)

    def place(self, names: Sequence[str]) -> None:
        """Moves finished files from the scratch folder to where they belong."""
        for name in names:
            local, path = os.path.join(self.scratch, name), os.path.join(self.path, name)
            if self._remote:
                files.copy_to_store(local, path)
                os.remove(local)
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.replace(local, path)

    def close(self) -> None:
        """Removes the scratch folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)


@dataclasses.dataclass
class Page:
    """One image on its way to its files.

    Attributes:
        folder: where they go.
        networks: what predicts.
        source: the image, on the local disk.
        names: of its files, the mask last.
        raster: the image, open; None until it is.
    """

    folder: Folder
    networks: predictor.Predictor
    source: sources.Source
    names: Sequence[str]
    raster: rasters.Raster | None = None
    _ids: RowFile | None = None
    _probabilities: RowFile | None = None

    def open(self, max_pixels: int) -> rasters.Raster:
        """Opens the image."""
        self.raster = self.networks.open(self.source, max_pixels)
        return self.raster

    def add(self, rows: predictor.Rows) -> None:
        """Takes the next rows of its prediction."""
        if self._ids is None:
            self._ids = RowFile(self._local(self.names[-1]) + ".ids", rows.size, np.dtype(np.uint8))
        self._ids.append(predictor.class_ids(rows.probabilities))
        for name in self._named("probabilities/"):
            if self._probabilities is None:
                depth = rows.probabilities.shape[2]
                shape = rows.size if depth == 1 else (*rows.size, depth)
                self._probabilities = RowFile(self._local(name), shape, np.dtype(np.float32))
            self._probabilities.append(rows.probabilities)

    def finish(self) -> None:
        """Writes what is made of the whole prediction, and puts all files in their place."""
        assert self._ids is not None
        if self._probabilities is not None:
            self._probabilities.close()
        for name in self._named("overlays/"):
            Image.fromarray(self._overlay()).save(self._local(name))
        numbers = self._named("instances/")
        if numbers:
            self._write_instances(*numbers)
        mask = self._values()
        _format(self.names[-1])(self._local(self.names[-1]), mask, self.source)
        mask.close()
        self._ids.close()
        self.folder.place(self.names)
        self.discard()

    def discard(self) -> None:
        """Removes what is left in the scratch folder, and lets the image go."""
        self.raster = None
        for file in (self._ids, self._probabilities):
            if file is not None:
                file.close()
        for name in self.names:
            for suffix in ("", ".ids", ".values", ".numbers", ".numbers.first"):
                files.remove(os.path.join(self.folder.scratch, name) + suffix)

    def _named(self, folder: str) -> list[str]:
        return [name for name in self.names[:-1] if name.startswith(folder)]

    def _local(self, name: str) -> str:
        path = os.path.join(self.folder.scratch, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def _values(self) -> RowFile:
        """Returns the mask with the values of the training masks."""
        assert self._ids is not None
        values = self.networks.networks.values
        lookup = np.array(values, predictor.smallest_dtype(values))
        mask = RowFile(self._local(self.names[-1]) + ".values", self._ids.shape, lookup.dtype)
        for band in self._ids.bands(masks.BAND_PIXELS):
            mask.append(lookup[band])
        return mask

    def _write_instances(self, table_name: str, numbers_name: str) -> None:
        assert self._ids is not None
        numbers, table = instances.label(self._ids, self._local(numbers_name) + ".numbers")
        _format(numbers_name)(self._local(numbers_name), numbers, self.source)
        numbers.close()
        files.write_whole(self._local(table_name), table.to_csv(self.networks.networks.classes))

    def _overlay(self) -> np.ndarray:
        assert self._ids is not None
        assert self.raster is not None
        height, width = self._ids.shape
        step = -(-max(height, width) // LONGEST_OVERLAY)
        ids = _every(step, self._ids.bands(masks.BAND_PIXELS))
        pixels = _every(step, self.raster.bands())
        return panels.draw_outlines(panels.display(pixels), ids)


def _every(step: int, bands: Iterable[np.ndarray]) -> np.ndarray:
    """Returns each `step`-th row and column of an image that comes from top to bottom."""
    parts, top = [], 0
    for band in bands:
        parts.append(band[-top % step :: step, ::step].copy())  # a view would hold the whole band
        top += len(band)
    return np.concatenate(parts)


def _format(name: str) -> Any:
    return masks.FORMATS[name.rpartition(".")[2]]
