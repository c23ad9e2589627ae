"""Trains with each method of docs/methods.md, and says by how much the test Dice changes.

    python -m benchmarks.methods --data=DATA [--seeds=2 --methods=deep_supervision,nesterov]

DATA holds a folder for each set, as for `benchmarks.scores`. Each run is compared with the one of
its seed that has none of them. What is finished is not done again, and a stopped run resumes.
"""

import dataclasses
import os
import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks import scores, table
from trainer import cli, config
from trainer.errors import InputError

NESTEROV = (
    *("--optimizer=sgd", "--nesterov", "--momentum=0.99", "--learning_rate=0.01"),
    *("--schedule=polynomial", "--weight_decay=3e-3", "--clip_norm=12"),
)
METHODS: Mapping[str, tuple[str, ...]] = {
    "ce_linear_dice": ("--loss=ce_linear_dice",),
    "ce_batch_dice": ("--loss=ce_batch_dice",),
    "ce_dice_boundary": ("--loss=ce_dice_boundary",),
    "top_k_dice": ("--loss=top_k_dice",),
    "deep_supervision": ("--deep_supervision",),
    "foreground": ("--foreground=0.33",),
    "balance_cases": ("--balance_cases=0.5",),
    "nesterov": NESTEROV,
    "residual_encoder": ("--model=residual_encoder_unet",),
    "unet_plus_plus": ("--model=unet_plus_plus",),
}
TRAINED = {
    "dsb2018_nuclei": ("--flagfile=configs/nuclei.cfg",),
    "msd_hippocampus": (
        *("--flagfile=configs/volumes.cfg", "--filters=8"),
        *("--loss=ce_dice", "--foreground=0"),  # the preset has these two of the methods
    ),
}
EVALUATED = {  # of the runs without a method
    "tta": ("--tta=flips", "--components=none"),
    "components": (),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Methods(config.Settings):
    """Trains with methods and without, and prints what each changes."""

    data: str = config.setting("", "Folder of the sets.")
    sets: str = config.setting(",".join(TRAINED), "Which of them.")
    methods: str = config.setting(",".join((*METHODS, *EVALUATED)), "Which methods.")
    steps: int = config.setting(500, "Of each training.", low=50)
    seeds: int = config.setting(2, "Runs with each method.", low=1)
    output: str = config.setting("runs/methods", "Folder for what is prepared and trained.")
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Methods) -> None:
    """Trains what is not trained, and prints everything after each method."""
    sets, methods = settings.sets.split(","), settings.methods.split(",")
    _check("sets", sets, TRAINED)
    _check("methods", methods, {**METHODS, **EVALUATED})
    before: dict[str, list[float]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for method in ("none", *methods):
        for name in sets:
            dice = [
                evaluate(settings, name, method, seed)
                if method in EVALUATED
                else train(settings, name, method, seed)
                for seed in range(settings.seeds)
            ]
            without = before.setdefault(name, dice)
            change = [one - other for one, other in zip(dice, without, strict=True)]
            rows[f"{name}: {method}"] = {
                "Dice": round(statistics.mean(dice), 4),
                "change": round(statistics.mean(change), 4),
                "lowest": round(min(change), 4),
                "highest": round(max(change), 4),
            }
        title = f"Test Dice, mean per image, {settings.steps} steps, {settings.seeds} seeds"
        table.show(title, rows, settings.json)


def train(settings: Methods, name: str, method: str, seed: int) -> float:
    """Returns the test Dice, mean over images and foreground classes, of a run."""
    data = scores.prepare(name, settings.data, settings.output)
    flags = (
        *(*TRAINED[name], f"--data_dir={data}", f"--steps={settings.steps}", f"--seed={seed}"),
        *(f"--eval_every={settings.steps}", "--panels=0", "--worst_cases=0", "--verbosity=warning"),
        *METHODS.get(method, ()),
    )
    return scores.train(_run_dir(settings, name, method, seed), flags)["dice"]


def evaluate(settings: Methods, name: str, method: str, seed: int) -> float:
    """Returns the test Dice of the run without a method, evaluated with it."""
    run_dir = _run_dir(settings, name, "none", seed)
    output = f"{run_dir}-{method}"
    if not os.path.exists(f"{output}/summary.json"):
        run = f"--run_dir={run_dir}"
        if method == "components":
            scores.start("trainer.evaluate", run, "--split=val", "--components=decide")
        scores.start(
            "trainer.evaluate", run, "--split=test", f"--output={output}", *EVALUATED[method]
        )
    return scores.read(f"{output}/summary.json")["dice"]


def _run_dir(settings: Methods, name: str, method: str, seed: int) -> str:
    return f"{settings.output}/{name}-{method}-{settings.steps}-{seed}"


def _check(flag: str, given: list[str], known: Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"--{flag} has {name!r}; name some of {', '.join(known)}.")


if __name__ == "__main__":
    cli.run(Methods, main)
