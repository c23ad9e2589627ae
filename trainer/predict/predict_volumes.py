"""The story of a prediction of volumes: find them, leave out what is done, predict, write."""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from absl import logging
from PIL import Image

from trainer import config, terminal
from trainer.checkpointing import run_metadata
from trainer.data import preprocessing
from trainer.data.formats import discovery, reading, volume_discovery, volumes
from trainer.data.formats.npy_stream import RowFile, TemporaryRows
from trainer.data.formats.volume_discovery import VolumeCase
from trainer.data.formats.volume_header import Header
from trainer.data.preprocessing import Prepared
from trainer.distributed import arithmetic, strategies
from trainer.drawing import volumes as drawing
from trainer.errors import InputError
from trainer.predict import command, instances, masks, outputs, parts, record, review, uncertainty
from trainer.predict.volume_predictor import VolumePredictor
from trainer.storage import files

FORMATS = ("auto", "nii.gz", "nrrd", "mha", "npy")


def load(run_dirs: tuple[str, ...], settings: config.Predict) -> VolumePredictor:
    """Returns the networks of some runs on the devices that are asked for."""
    strategy = strategies.connect_alone(
        settings.strategy, settings.tpu, settings.virtual_devices, settings.require
    )
    keras.mixed_precision.set_global_policy(arithmetic.POLICIES[settings.precision])
    return VolumePredictor(run_dirs, strategy, tta=settings.tta, batch_size=settings.batch_size)


def predict(settings: config.Predict, load_networks: Callable[..., VolumePredictor] = load) -> None:
    """Writes the masks of all volumes that have none yet.

    Args:
        settings: the user's.
        load_networks: as `load`, which may have them already.

    Raises:
        InputError: a setting, a run or a volume breaks a rule; with --skip_bad, unreadable volumes
            are named and left out.
    """
    started = time.monotonic()
    run_dirs = tuple(command.check(settings))
    _check(settings)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        terminal.busy("finding the volumes")
        cases, left_out = _find(settings, run_dirs)
        part = parts.parse(settings.part)
        cases = [case for case in cases if part.has(case.images[0].name)]
        found = [case.images[0] for case in cases]
        origins = [
            record.origin_of_volume([source.path for source in case.images]) for case in cases
        ]
        folders = {one.path if one.is_series else os.path.dirname(one.path) for one in found}
        command.check_place(settings, [source.name for source in found], folders)
        terminal.busy("loading the network")
        networks = load_networks(run_dirs, dataclasses.replace(settings, part=""))
        facts = command.facts(settings, networks.networks, ("tta", "precision", "format"))
        folder, tasks = stack.enter_context(
            outputs.opened(settings, facts, found, origins, format_of)
        )
        work = Work(settings, networks, folder, scratch)
        with terminal.Bar(len(tasks), "predicting", "volumes") as bar:
            for task, case in zip(tasks, cases, strict=True):
                work.take(task, case)
                bar.update()
    closing = work.closing_line(time.monotonic() - started)
    logging.info("%s%s", closing, discovery.told(left_out))
    if folder.to_look_at():
        logging.info("%s", folder.to_look_at())


def items(settings: config.Predict) -> tuple[int, list[str]]:
    """Returns the number of volumes, and no bands: each is predicted as a whole.

    Raises:
        InputError: as `predict` does.
    """
    cases, _ = _find(settings, command.check(settings))
    return len(cases), []


class Work:
    """The volumes, one after the other."""

    def __init__(
        self,
        settings: config.Predict,
        networks: VolumePredictor,
        folder: outputs.Folder,
        scratch: str,
    ):
        """Begins with nothing done."""
        self._settings, self._networks = settings, networks
        self._folder, self._scratch = folder, scratch
        self._written = self._there = self._bad = self._voxels = 0

    def take(self, task: outputs.Task, case: VolumeCase) -> None:
        """Predicts a volume and writes its files, if they are not there yet.

        Raises:
            InputError: it cannot be read; with --skip_bad only if it is no volume for this run.
        """
        if task.is_done:
            self._there += 1
            return
        try:
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                copies = [
                    discovery.local_copy(source, os.path.join(folder, str(k)))
                    for k, source in enumerate(case.images)
                ]
                self._predict(task, copies)
        except reading.UnreadableError as error:
            command.skip(error, self._settings.skip_bad)
            self._bad += 1

    def closing_line(self, seconds: float) -> str:
        """Returns the last line of the command."""
        return command.closing_line(
            self._settings.output,
            written=self._written,
            speed=f"{self._voxels / 1e6 / seconds:.2f} megavoxels/s",
            there=self._there,
            bad=self._bad,
            seconds=seconds,
        )

    def _predict(self, task: outputs.Task, sources: Sequence[discovery.Source]) -> None:
        """Predicts a volume, whose files are on the local disk, and puts its own in their place."""
        values, header = self._read(task, sources)
        spacing, box = header.grid.spacing, preprocessing.nonzero_box(values)
        made_by = self._networks.preprocessing
        made_by.check_size(task.source.label, box, spacing, self._settings.max_pixels)
        prepared = made_by.apply(values, spacing, box)
        local = {name: self._folder.local(name) for name in task.names}
        strip = local.get(f"overlays/{task.source.name}.png")
        preview = local.get(f"previews/{task.source.name}.png")
        shape, picture = values.shape[:3], values if strip else None
        del values  # which would be in memory as long as the networks take
        ids = np.zeros(shape, np.uint8)
        expected = self._fill(ids, prepared, header, task, sources[0].path)
        ids = self._networks.networks.kept.apply(ids)
        classes = self._networks.networks.classes
        if strip and picture is not None:
            drawn = drawing.draw_strip(
                picture, ids, spacing, task.source.name, classes, self._settings.overlay_opacity
            )
            Image.fromarray(drawn).save(strip)
        if preview:
            dark = np.zeros((*shape, 1), np.uint8)
            drawn = drawing.draw_strip(dark, ids, spacing, task.source.name, classes, opacity=1.0)
            Image.fromarray(drawn).save(preview)
        if f"instances/{task.names[-1]}" in local:
            numbers, table = _label(ids, self._folder.scratch)
            _write(local[f"instances/{task.names[-1]}"], numbers, header, sources[0].path)
            path = local[f"instances/{task.source.name}.csv"]
            files.write_whole(path, table.to_csv(classes))
        mask = masks.lookup(self._networks.networks.values)[ids]
        _write(local[task.names[-1]], mask, header, sources[0].path)
        self._folder.place(task, expected)
        self._written += 1
        self._voxels += ids.size

    def _read(
        self, task: outputs.Task, sources: Sequence[discovery.Source]
    ) -> tuple[np.ndarray, Header]:
        """Returns the values of a volume [D, H, W, C], and the header of its first file."""
        label = task.source.label
        if sum(map(_bytes, sources)) != task.origin.bytes:
            raise InputError(f"{label} was written again meanwhile; start again.")
        channels = self._networks.networks.channels
        if len(sources) == 1:
            header = volumes.read_header(sources[0], channels)
            self._networks.check_channels(header.channels, label)
        values, header = volumes.read_volume(sources, self._settings.max_pixels, channels)
        if self._networks.preprocessing.spacing is not None and not header.has_spacing:
            logging.warning("%s does not say how far its voxels are apart; 1 mm is assumed.", label)
        return values, header

    def _fill(
        self, ids: np.ndarray, prepared: Prepared, header: Header, task: outputs.Task, image: str
    ) -> review.Expected | None:
        """Predicts a prepared volume into its mask, and writes what its probabilities tell.

        Args:
            ids: uint8 [D, H, W], zeros; it becomes the class ids before post-processing.
            prepared: the volume.
            header: of its first file.
            task: of the volume.
            image: path of its first file.

        Returns:
            The expected Dice of the mask, where that is recorded.
        """
        networks, classes = self._networks, len(self._networks.networks.classes)
        slabs = networks.fill(ids, prepared, header.grid.spacing)
        maps = [name for name in task.names if name.startswith("uncertainty/")]
        shares = [name for name in task.names if name.startswith("probabilities/")]
        if not (maps or shares or self._folder.reviews):
            for _ in slabs:
                pass
            return None
        uncertain = np.zeros(ids.shape, np.float32) if maps else None
        sums = review.Sums(classes) if self._folder.reviews else None
        shape = (*ids.shape, classes) if classes > 2 else ids.shape
        with contextlib.ExitStack() as stack:
            written = [
                RowFile(self._folder.local(name), shape, np.dtype(np.float32)) for name in shares
            ]
            for file in written:
                stack.enter_context(contextlib.closing(file))
            for first, slab in networks.whole_probabilities(slabs, prepared.box, ids.shape):
                for file in written:
                    file.append(slab)
                here = slice(first, first + len(slab))
                if sums is not None:
                    sums.add(review.sums_of(slab, ids[here]))
                if uncertain is not None:
                    uncertain[here] = uncertainty.predictive_entropy(slab)
        if uncertain is not None:
            _write(self._folder.local(maps[0]), uncertain, header, image)
        return sums.expected() if sums else None


def _label(ids: np.ndarray, folder: str) -> tuple[np.ndarray, instances.Table]:
    """Returns the numbers of regions, integers [D, H, W], and their table; see `instances.label`.

    Args:
        ids: uint8 [D, H, W], class ids.
        folder: for what does not fit into memory.
    """
    with contextlib.closing(TemporaryRows(folder, ids.shape, ids.dtype)) as rows:
        rows.append(ids)
        numbers, table = instances.label(rows, folder)
    with contextlib.closing(numbers):
        return numbers.read(0, len(ids)), table


def _write(path: str, values: np.ndarray, header: Header, image: str) -> None:
    """Writes what has the grid of its image [D, H, W], in the format of the path's suffix."""
    if path.endswith(".npy"):
        np.save(path, values)
    else:
        volumes.write(path, values, header.grid, image)


def format_of(path: str) -> str:
    """Returns the format of the mask of a volume where none is asked for."""
    suffix = path.lower().rpartition(".")[2]
    return {"nrrd": "nrrd", "mha": "mha", "mhd": "mha", "npy": "npy"}.get(suffix, "nii.gz")


def _check(settings: config.Predict) -> None:
    """Raises InputError for settings that are for images."""
    of = f"--run_dir={settings.run_dir} was trained on volumes"
    if settings.format not in FORMATS:
        raise InputError(
            f"--format={settings.format} is for images, and {of}; use {', '.join(FORMATS[1:])}."
        )
    if settings.tile != config.Predict().tile:
        raise InputError(
            f"--tile={settings.tile} is for images, and {of}, which are predicted in windows of "
            "the training crop's size; leave it out."
        )


def _find(
    settings: config.Predict, run_dirs: Sequence[str]
) -> tuple[Sequence[VolumeCase], Mapping[str, int]]:
    """Returns the volumes and counts what else is there; raises InputError if there are none."""
    first, *_ = run_metadata.with_folds(run_dirs)
    channels = run_metadata.read(first)["channels"]
    try:
        return volume_discovery.find_images(settings.images, "images", True, channels)
    except InputError as error:
        raise InputError(f"{error} --run_dir={settings.run_dir} was trained on volumes.") from None


def _bytes(source: discovery.Source) -> int:
    names = os.listdir(source.path) if source.is_series else [""]
    paths = (os.path.join(source.path, name).rstrip("/") for name in names)
    return sum(map(os.path.getsize, paths))
