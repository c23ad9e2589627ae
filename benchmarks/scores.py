"""Trains on public sets, several seeds each, and prints the test scores beside those of peers.

    python -m benchmarks.scores --data=DATA [--minutes=4 --seeds=3 --sets=wbc1 --output=runs/scores]

DATA holds a folder for each set: images/, masks/ and splits.json. What is finished is not done
again, and a stopped run resumes, so that hours of training can be divided.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import table
from trainer import cli, config
from trainer.errors import InputError

COMMON = (
    *("--filters=16", "--batch_size=8", "--learning_rate=2e-3", "--warmup_steps=30"),
    *("--panels=0", "--worst_cases=0", "--verbosity=warning"),
)

LONG = 6.0  # minutes of training, in which stronger augmentation pays


@dataclasses.dataclass(frozen=True)
class Set:
    """A set of images, how it is trained on, and its score.

    Attributes:
        prepare: flags of `trainer.data.prepare`.
        train: flags of `trainer.task`.
        long: more of them, of LONG minutes and more.
        steps_per_minute: no more than two cores with bfloat16 do (docs/results.md).
        scores: name → place in summary.json, and the best of three peers after four minutes.
    """

    prepare: tuple[str, ...]
    train: tuple[str, ...]
    long: tuple[str, ...]
    steps_per_minute: float
    scores: Mapping[str, tuple[tuple[str, ...], float]]


SETS = {
    "dsb2018_nuclei": Set(
        ("--classes=background:0,nucleus:255", "--tile=256"),
        ("--crop=128",),
        ("--augment=strong",),
        337.5,
        {
            "nucleus Dice, mean per image": (("classes", "nucleus", "per_image", "dice"), 0.8638),
            "nucleus Dice, pooled": (("classes", "nucleus", "pooled", "dice"), 0.9023),
        },
    ),
    "isbi2012_em": Set(
        ("--classes=membrane:0,cell:255",),
        ("--crop=256",),
        (),
        95,
        {
            "soft Dice, NVIDIA's": (("soft_dice_nvidia", "per_image"), 0.8968),
            "membrane Dice": (("classes", "membrane", "per_image", "dice"), 0.797),
        },
    ),
    "wbc1": Set(
        ("--classes=background:0,cytoplasm:128,nucleus:255",),
        ("--crop=112", "--norm=instance", "--filters=8", "--augment=strong"),
        (),
        1600,
        {
            "cytoplasm Dice, pooled": (("classes", "cytoplasm", "pooled", "dice"), 0.9543),
            "nucleus Dice, pooled": (("classes", "nucleus", "pooled", "dice"), 0.9688),
        },
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores(config.Settings):
    """Trains on public sets and prints their test scores."""

    data: str = config.setting("", "Folder of the sets.")
    sets: str = config.setting(",".join(SETS), "Which of them.")
    minutes: float = config.setting(4.0, "Of training each, counted in steps.", low=0.01)
    seeds: int = config.setting(3, "Runs of each set.", low=1)
    output: str = config.setting("runs/scores", "Folder for what is prepared and trained.")
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Scores) -> None:
    """Runs what is not finished, and prints everything."""
    rows: dict[str, dict[str, Any]] = {}
    names = settings.sets.split(",")
    if unknown := sorted(set(names) - set(SETS)):
        raise InputError(
            f"--sets={','.join(unknown)} is not known; name some of {', '.join(SETS)}."
        )
    for name in names:
        chosen = SETS[name]
        data = prepare(settings, name)
        steps = round(chosen.steps_per_minute * settings.minutes)
        found = [train(settings, name, data, steps, seed) for seed in range(settings.seeds)]
        for score, (place, peer) in chosen.scores.items():
            samples = [look_up(summary, place) for summary in found]
            rows[f"{name}: {score}"] = {
                "mean": round(float(np.mean(samples)), 4),
                "lowest": round(min(samples), 4),
                "highest": round(max(samples), 4),
                "best peer": peer,
            }
    title = f"Test scores after {settings.minutes:g} minutes' steps, {settings.seeds} seeds"
    table.show(title, rows, settings.json)


def prepare(settings: Scores, name: str) -> str:
    """Returns the folder of a set's shards."""
    data = os.path.join(settings.output, "data", name)
    if not os.path.exists(os.path.join(data, "manifest.json")):
        raw = os.path.join(settings.data, name)
        _start(
            "trainer.data.prepare",
            *(f"--images={raw}/images", f"--masks={raw}/masks", f"--splits={raw}/splits.json"),
            *(f"--output={data}", *SETS[name].prepare),
        )
    return data


def train(settings: Scores, name: str, data: str, steps: int, seed: int) -> dict[str, Any]:
    """Returns the scores of a run's test split from summary.json."""
    run_dir = os.path.join(settings.output, f"{name}-{steps}-{seed}")
    summary = os.path.join(run_dir, "evaluation/test/summary.json")
    if not os.path.exists(summary):
        began = time.monotonic()
        _start(
            "trainer.task",
            *(f"--data_dir={data}", f"--run_dir={run_dir}", f"--seed={seed}", f"--steps={steps}"),
            *(f"--eval_every={max(1, steps // 5)}", *COMMON, *SETS[name].train),
            *(SETS[name].long if settings.minutes >= LONG else ()),
        )
        print(f"{run_dir}: {time.monotonic() - began:.0f} s", flush=True)
    with open(summary, encoding="utf-8") as file:
        return json.load(file)


def look_up(summary: Mapping[str, Any], place: tuple[str, ...]) -> float:
    """Returns a figure by the names that lead to it."""
    found: Any = summary
    for name in place:
        found = found[name]
    return float(found)


def _start(module: str, *arguments: str) -> None:
    ended = subprocess.run([sys.executable, "-m", module, *arguments])
    if ended.returncode:  # it has said why
        sys.exit(ended.returncode)


if __name__ == "__main__":
    cli.run(Scores, main)
