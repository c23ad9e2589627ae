"""Trains on public sets, several seeds each, and prints the test scores beside those of peers.

    python -m benchmarks.scores --data=DATA [--plan --minutes=4 --seeds=3 --sets=wbc1]

DATA holds a folder for each set: images/, masks/ and splits.json. What is finished is not done
again, and a stopped run resumes, so that hours of training can be divided. With --plan the settings
are those of `trainer.plan`, without it those that were best by hand.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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
        classes: of its masks, a flag of `trainer.data.prepare`.
        scores: name → place in summary.json, and the best of the peers after four minutes (of
            volumes after twelve), or None where there is none.
        prepare: by hand: more flags of `trainer.data.prepare`.
        train: by hand: flags of `trainer.task`.
        long: by hand: more of them, of LONG minutes and more.
        steps_per_minute: by hand: no more than two cores with bfloat16 do (docs/results.md); 0 of a
            set that has only been planned.
    """

    classes: str
    scores: Mapping[str, tuple[tuple[str, ...], float | None]]
    prepare: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    long: tuple[str, ...] = ()
    steps_per_minute: float = 0.0


def _of_class(name: str, kind: str) -> tuple[str, ...]:
    return ("classes", name, kind, "dice")


SETS = {
    "dsb2018_nuclei": Set(
        "background:0,nucleus:255",
        {
            "nucleus Dice, mean per image": (_of_class("nucleus", "per_image"), 0.8638),
            "nucleus Dice, pooled": (_of_class("nucleus", "pooled"), 0.9023),
        },
        prepare=("--tile=256",),
        train=("--crop=128",),
        long=("--augment=strong",),
        steps_per_minute=337.5,
    ),
    "isbi2012_em": Set(
        "membrane:0,cell:255",
        {
            "soft Dice, NVIDIA's": (("soft_dice_nvidia", "per_image"), 0.8968),
            "membrane Dice": (_of_class("membrane", "per_image"), 0.797),
        },
        train=("--crop=256",),
        steps_per_minute=95,
    ),
    "wbc1": Set(
        "background:0,cytoplasm:128,nucleus:255",
        {
            "cytoplasm Dice, pooled": (_of_class("cytoplasm", "pooled"), 0.9543),
            "nucleus Dice, pooled": (_of_class("nucleus", "pooled"), 0.9688),
        },
        train=("--crop=112", "--norm=instance", "--filters=8", "--augment=strong"),
        steps_per_minute=1600,
    ),
    "axon_myelin_sem": Set(
        "background:0,myelin:1,axon:2",
        {
            "myelin Dice, pooled": (_of_class("myelin", "pooled"), None),
            "axon Dice, pooled": (_of_class("axon", "pooled"), None),
        },
    ),
    "msd_hippocampus": Set(
        "background:0,anterior:1,posterior:2",
        {
            "anterior Dice": (_of_class("anterior", "per_image"), 0.8914),
            "posterior Dice": (_of_class("posterior", "per_image"), 0.8712),
        },
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores(config.Settings):
    """Trains on public sets and prints their test scores."""

    data: str = config.setting("", "Folder of the sets.")
    sets: str = config.setting("", "Which of them; all that can be if empty.")
    plan: bool = config.setting(False, "By trainer.plan, with no other setting.")
    minutes: float = config.setting(
        4.0, "Of training each, counted in steps; with --plan those that it is given.", low=0.01
    )
    seeds: int = config.setting(3, "Runs of each set.", low=1)
    output: str = config.setting("runs/scores", "Folder for what is prepared and trained.")
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Scores) -> None:
    """Runs what is not finished, and prints everything."""
    possible = [name for name in SETS if settings.plan or SETS[name].steps_per_minute]
    names = settings.sets.split(",") if settings.sets else possible
    if unknown := sorted(set(names) - set(possible)):
        raise InputError(
            f"--sets={','.join(unknown)} is not known{'' if settings.plan else ' without --plan'}; "
            f"name some of {', '.join(possible)}."
        )
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        data = prepare(name, settings.data, settings.output, settings.plan)
        flags = plan(settings, name, data) if settings.plan else by_hand(settings, name, data)
        runs = f"{settings.output}/{name}-{'plan' if settings.plan else 'hand'}"
        found = [
            train(f"{runs}-{settings.minutes:g}min-{seed}", (*flags, f"--seed={seed}"))
            for seed in range(settings.seeds)
        ]
        for score, (place, peer) in SETS[name].scores.items():
            samples = [look_up(summary, place) for summary in found]
            rows[f"{name}: {score}"] = {
                "mean": round(float(np.mean(samples)), 4),
                "lowest": round(min(samples), 4),
                "highest": round(max(samples), 4),
                "best peer": peer,
            }
    by = "by plan" if settings.plan else "by hand"
    title = f"Test scores after {settings.minutes:g} minutes, {settings.seeds} seeds, {by}"
    table.show(title, rows, settings.json)


def prepare(name: str, source: str, output: str, by_plan: bool = False) -> str:
    """Returns the folder of a set's shards, made of source/NAME if it is not there."""
    data = os.path.join(output, "data", f"{name}-plan" if by_plan else name)
    if not os.path.exists(os.path.join(data, "manifest.json")):
        raw = os.path.join(source, name)
        start(
            "trainer.data.prepare",
            *(f"--images={raw}/images", f"--masks={raw}/masks", f"--splits={raw}/splits.json"),
            *(f"--output={data}", f"--classes={SETS[name].classes}"),
            *(("--plan",) if by_plan else SETS[name].prepare),
        )
    return data


def by_hand(settings: Scores, name: str, data: str) -> list[str]:
    """Returns the settings of a set that were best by hand."""
    chosen = SETS[name]
    steps = round(chosen.steps_per_minute * settings.minutes)
    return [
        *(f"--data_dir={data}", f"--steps={steps}", f"--eval_every={max(1, steps // 5)}"),
        *(*COMMON, *chosen.train, *(chosen.long if settings.minutes >= LONG else ())),
    ]


def plan(settings: Scores, name: str, data: str) -> list[str]:
    """Returns the settings that `trainer.plan` chooses for a set on this machine."""
    path = os.path.join(settings.output, f"{name}-{settings.minutes:g}min.cfg")
    if not os.path.exists(path):
        start(
            "trainer.plan",
            *(f"--data_dir={data}", f"--minutes={settings.minutes:g}", f"--output={path}"),
        )
    return [f"--flagfile={path}", "--verbosity=warning"]


def train(run_dir: str, flags: Sequence[str]) -> dict[str, Any]:
    """Returns the scores of a run's test split from summary.json."""
    summary = os.path.join(run_dir, "evaluation/test/summary.json")
    if not os.path.exists(summary):
        began = time.monotonic()
        start("trainer.task", *flags, f"--run_dir={run_dir}")
        print(f"{run_dir}: {time.monotonic() - began:.0f} s", flush=True)
    return read(summary)


def read(summary: str) -> dict[str, Any]:
    """Returns what a summary.json says."""
    with open(summary, encoding="utf-8") as file:
        return json.load(file)


def look_up(summary: Mapping[str, Any], place: tuple[str, ...]) -> float:
    """Returns a figure by the names that lead to it."""
    found: Any = summary
    for name in place:
        found = found[name]
    return float(found)


def start(module: str, *arguments: str) -> None:
    """Runs a command; ends if it fails."""
    ended = subprocess.run([sys.executable, "-m", module, *arguments])
    if ended.returncode:  # it has said why
        sys.exit(ended.returncode)


if __name__ == "__main__":
    cli.run(Scores, main)
