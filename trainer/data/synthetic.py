"""Makes volumes, or images, of which the truth is known: `python -m trainer.data.synthetic`.

Each shows a body with a core in it, both ellipsoids, in noise and under a field that brightens one
side, as the coils of a scanner do. So everything can be tried without data, and a volume that is
measured in a prediction can be compared with the formula.
"""

import csv
import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator

import numpy as np
from absl import logging
from PIL import Image

from trainer import cli, commands, config, json_text
from trainer.data import geometry
from trainer.data.formats import medical
from trainer.errors import InputError
from trainer.storage import files

NEW = 8  # of so many cases one is new: without a mask beside it, to predict
LEVELS = (40.0, 100.0, 130.0)  # of background, body and core
NOISE = 12.0  # standard deviation
FIELD = 0.25  # by which the field brightens the one side and darkens the other
CORE = (0.4, 0.6)  # of the body's axes
GREYS = (0, 128, 255)  # of the masks of images, so that a viewer shows them
CLASSES = {"background": 0, "body": 1, "core": 2}


@dataclasses.dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, or an ellipse.

    Attributes:
        centre: float64 [rank], in mm from the first voxel, along the axes of the array.
        axes: float64 [rank], half of its diameters, in mm.
        turn: float64 [rank, rank], a rotation.
    """

    centre: np.ndarray
    axes: np.ndarray
    turn: np.ndarray

    @property
    def content(self) -> float:
        """Its volume, or area: 4/3 π abc, or π ab."""
        return float(np.prod(self.axes)) * math.pi * (4 / 3 if len(self.axes) == 3 else 1)

    def has(self, points: np.ndarray) -> np.ndarray:
        """Which of [..., rank] points are inside, bool [...]."""
        return (((points - self.centre) @ self.turn / self.axes) ** 2).sum(-1) <= 1


@dataclasses.dataclass(frozen=True)
class Case:
    """A volume or image with its truth.

    Attributes:
        values: int16 [D, H, W], or [H, W].
        mask: uint8, as long: class ids.
        contents: of body and core by the formula, in mm³ or pixels; the body is what is around
            the core.
    """

    values: np.ndarray
    mask: np.ndarray
    contents: tuple[float, float]


def main(settings: config.Synthetic) -> None:
    """Writes a folder that prepare and predict take as it is.

    Raises:
        InputError: there is something in the folder.
    """
    where = settings.output.rstrip("/")
    if not where:
        raise InputError("--output is missing; name a folder to write.")
    files.check_folder("output", where)
    if files.list_folder(where):
        raise InputError(f"--output={where} is not empty; name another folder, or remove it.")
    write = _write_volumes if settings.kind == "volumes" else _write_images
    with tempfile.TemporaryDirectory() as scratch:
        folder = scratch if files.is_remote(where) else where
        os.makedirs(folder, exist_ok=True)
        write(folder, settings)
        if files.is_remote(where):
            for path in _files_below(folder):
                files.copy_to_store(path, where + path.removeprefix(folder))
    logging.info("Wrote %d %s to %s. %s", settings.cases, settings.kind, where, _next(settings))


def draw_case(rng: np.random.Generator, shape: tuple[int, ...], spacing: np.ndarray) -> Case:
    """Draws a body, its core, the field and the noise.

    Args:
        rng: the source of all that is random.
        shape: of the array.
        spacing: float64 [rank], mm between its voxels.
    """
    ends = (np.array(shape) - 1) * spacing  # of the last voxel
    longest = 0.45 * ends.min()
    axes = rng.uniform(0.6, 1.0, len(shape)) * longest
    turn = np.linalg.qr(rng.normal(size=(len(shape),) * 2))[0]
    body = Ellipsoid(rng.uniform(longest, ends - longest), axes, turn)
    share = rng.uniform(*CORE)
    aside = rng.normal(size=len(shape))  # at most so far that the core stays inside
    aside *= rng.uniform(0, 0.9 * (1 - share)) / np.linalg.norm(aside)
    core = Ellipsoid(body.centre + turn @ (aside * axes), share * axes, turn)
    points = np.moveaxis(np.indices(shape), 0, -1) * spacing
    mask = body.has(points).astype(np.uint8)
    mask[core.has(points)] = CLASSES["core"]
    slope = rng.normal(size=len(shape))
    field = 1 + FIELD * ((2 * points / ends - 1) @ slope) / np.abs(slope).sum()
    values = np.array(LEVELS)[mask] * field + rng.normal(0, NOISE, shape)
    values = np.maximum(values.round(), 0).astype(np.int16)
    return Case(values, mask, (body.content - core.content, core.content))


def _write_volumes(folder: str, settings: config.Synthetic) -> None:
    """Writes nnU-Net's layout."""
    rows = []
    for number, name, is_new in _names(settings.cases):
        rng = np.random.default_rng([settings.seed, number])
        spacing = np.array([rng.uniform(2.5, 3.5), *[rng.uniform(0.9, 1.1)] * 2])
        shape = (int(rng.integers(20, 29)), *map(int, rng.integers(56, 73, 2)))
        case = draw_case(rng, shape, spacing)
        angle = rng.uniform(-0.2, 0.2)
        grid = geometry.Geometry(
            tuple(spacing.tolist()),
            tuple(rng.uniform(-200, 200, 3).tolist()),
            (
                *(math.cos(angle), -math.sin(angle), 0.0),
                *(math.sin(angle), math.cos(angle), 0.0),
                *(0.0, 0.0, 1.0),
            ),
        )
        part = "Ts" if is_new else "Tr"
        _write_volume(f"{folder}/images{part}/{name}_0000.nii.gz", case.values, grid)
        _write_volume(f"{folder}/labels{part}/{name}.nii.gz", case.mask, grid)
        rows += _rows(name, case, float(np.prod(spacing)))
    description = {
        "name": "ellipsoids",
        "description": f"Made by trainer.data.synthetic, --seed={settings.seed}",
        "channel_names": {"0": "MR"},
        "labels": CLASSES,
        "numTraining": settings.cases - settings.cases // NEW,
        "file_ending": ".nii.gz",
    }
    with open(f"{folder}/dataset.json", "x", encoding="utf-8") as file:
        file.write(json_text.dumps(description, indent=2) + "\n")
    _write_truth(folder, rows, "mm3")


def _write_images(folder: str, settings: config.Synthetic) -> None:
    """Writes images, masks and new images as PNG."""
    for part in ("images", "masks", "new", "new_masks"):
        os.makedirs(f"{folder}/{part}")
    rows = []
    for number, name, is_new in _names(settings.cases):
        rng = np.random.default_rng([settings.seed, number])
        case = draw_case(rng, tuple(map(int, rng.integers(96, 161, 2))), np.ones(2))
        image, mask = ("new", "new_masks") if is_new else ("images", "masks")
        Image.fromarray(case.values.clip(0, 255).astype(np.uint8)).save(
            f"{folder}/{image}/{name}.png"
        )
        Image.fromarray(np.array(GREYS, np.uint8)[case.mask]).save(f"{folder}/{mask}/{name}.png")
        rows += _rows(name, case, 1.0)
    _write_truth(folder, rows, "pixels")


def _next(settings: config.Synthetic) -> str:
    """Returns how to go on."""
    where = settings.output.rstrip("/")
    places = [f"--images={where}"]
    if settings.kind == "images":
        classes = ",".join(f"{name}:{GREYS[index]}" for name, index in CLASSES.items())
        places = [f"--images={where}/images", f"--masks={where}/masks", f"--classes={classes}"]
    return f"Next: {commands.line('trainer.data.prepare', *places, '--output=DATA')}"


def _names(count: int) -> Iterator[tuple[int, str, bool]]:
    """Yields the number of each case, its name, and whether it is one of the new ones, the last."""
    for number in range(count):
        yield number, f"case_{number:03}", number >= count - count // NEW


def _write_volume(path: str, values: np.ndarray, grid: geometry.Geometry) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    medical.write(path, values, grid)


def _rows(name: str, case: Case, voxel: float) -> list[tuple[str, str, str, str]]:
    """Returns the truth of a case: by the formula, and as its mask has it."""
    return [
        (name, kind, f"{content:.2f}", f"{voxel * int((case.mask == CLASSES[kind]).sum()):.2f}")
        for kind, content in zip(("body", "core"), case.contents, strict=True)
    ]


def _write_truth(folder: str, rows: list[tuple[str, str, str, str]], unit: str) -> None:
    with open(f"{folder}/truth.csv", "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("case", "class", unit, f"mask_{unit}"))
        writer.writerows(rows)


def _files_below(folder: str) -> Iterator[str]:
    for where, _, names in os.walk(folder):
        yield from (os.path.join(where, name) for name in sorted(names))


if __name__ == "__main__":
    cli.run(config.Synthetic, main)
