"""Made the images of the demo data: `python make.py DSB2018_FOLDER CROPS_FOLDER`, then prepare.

From each split of the nuclei set, images are drawn at random, each kind of stain by its share (one
at least); a 256×256 window of each is drawn at random, too. Nothing is looked at before.
"""

import csv
import json
import pathlib
import sys

import numpy as np
from PIL import Image

NUMBERS = {"train": 80, "val": 16, "test": 24}
SIDE = 256


def draw(source: pathlib.Path, target: pathlib.Path) -> None:
    """Writes images/, masks/ and splits.json into `target`."""
    rng = np.random.default_rng(0)
    with open(source / "index.csv", newline="") as file:
        kinds = {
            row["name"]: f"{row['colour']} on {row['background']}" for row in csv.DictReader(file)
        }
    splits = json.loads((source / "splits.json").read_text())
    drawn = {split: draw_names(rng, splits[split], kinds, n) for split, n in NUMBERS.items()}
    for folder in ("images", "masks"):
        (target / folder).mkdir(parents=True)
    for name in (name for names in drawn.values() for name in names):
        picture = Image.open(source / "images" / f"{name}.png")
        x, y = (int(rng.integers(0, length - SIDE + 1)) for length in picture.size)
        for folder in ("images", "masks"):
            whole = Image.open(source / folder / f"{name}.png")
            whole.crop((x, y, x + SIDE, y + SIDE)).save(target / folder / f"{name}.png")
    with open(target / "splits.json", "x") as file:
        file.write(json.dumps(drawn))


def draw_names(
    rng: np.random.Generator, names: list[str], kinds: dict[str, str], number: int
) -> list[str]:
    """Draws names, each kind by its share of the split, one at least."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(kinds[name], []).append(name)
    rest = number
    drawn: list[str] = []
    for kind in sorted(groups, key=lambda kind: len(groups[kind])):
        share = max(1, round(number * len(groups[kind]) / len(names)))
        share = rest if len(groups[kind]) == max(map(len, groups.values())) else share
        drawn += rng.choice(groups[kind], share, replace=False).tolist()
        rest -= share
    return drawn


if __name__ == "__main__":
    draw(*map(pathlib.Path, sys.argv[1:3]))
