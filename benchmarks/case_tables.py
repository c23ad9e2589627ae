"""Measures the memory of an evaluation of many cases, and of its tables.

    python -m benchmarks.case_tables [--cases=1000000 --classes=5]

No network predicts: the counts of each case are drawn by its number. All else is what
`trainer.evaluate` does with a case of one pixel.
"""

import dataclasses
import os
import resource
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import table
from trainer import cli, config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cases(config.Settings):
    """Evaluates cases that are only numbers, and measures memory and time."""

    cases: int = config.setting(1_000_000, "Cases.", low=1)
    classes: int = config.setting(5, "Classes.", low=2)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Cases) -> None:
    """Evaluates them once and prints the figures."""
    import tensorflow as tf

    from trainer.data.dataset import schema
    from trainer.distributed import strategies
    from trainer.evaluate import case_tables, cases, evaluator, output
    from trainer.training import losses

    number, num_classes = settings.cases, settings.classes
    case_tables.check("val", number)
    names = tuple(f"case-{n:08d}" for n in range(number))
    nothing = {"shards": (), "sizes": (), "ignored_pixels": 0, "mean": (0.0,), "std": (1.0,)}
    split = schema.Split(examples=number, cases=names, pixels=(0,) * num_classes, **nothing)
    classes = [f"class{k}" for k in range(num_classes)]
    manifest = schema.Manifest(
        classes=tuple(schema.Class(name, k) for k, name in enumerate(classes)),
        channels=1,
        bit_depth=8,
        dtype="uint8",
        encoding="png",
        splits={"val": split},
    )

    class Numbers:
        """A source of cases that are only numbers."""

        def check(self, *splits: str) -> None: ...

        def read(self, split: str, worker: int, num_workers: int) -> tf.data.Dataset:
            return tf.data.Dataset.range(worker, number, num_workers)

        def read_ahead(self, split: str) -> int:
            return 1

        def score(self, element: Any, forward: Any, score: Any) -> cases.Scored:
            index = int(element)
            drawn = np.random.default_rng(index).integers(0, 64, (num_classes, 3))
            counts = np.sort(drawn)[:, ::-1]
            blank = np.zeros((1, 1), np.uint8)
            maps = blank[..., np.newaxis], blank, blank + 1.0, blank, blank
            case = cases.Case(index, cases.mean_dice(counts), *maps, (1.0, 1.0))
            return cases.Scored({}, [(case, counts, counts / 3)])

    strategy = strategies.connect("one_device")
    evaluate = evaluator.Evaluator(
        strategy,
        lambda images, training: images,
        "",
        manifest,
        Numbers(),
        terms=losses.LOSSES["ce_dice"],
        class_weights=tf.ones(num_classes),
    )
    selected = cases.CaseSelector(worst=2, best=2)
    before, start = peak(), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        case_tables.CaseTables(names, classes) as tables,
    ):
        scores = evaluate("val", selected.add, tolerance=1.0, keep=tables.keep)
        evaluated = peak()
        output.write(folder, scores, tables, selected, manifest, "val", strategy)
        files = [os.path.join(folder, name) for name in os.listdir(folder) if "cases" in name]
        size = sum(map(os.path.getsize, files))
    figures = {
        "MiB, evaluated": (evaluated - before) / 2**20,
        "MiB, written": (peak() - before) / 2**20,
        "MB of tables": size / 1e6,
        "s": time.monotonic() - start,
    }
    title = "Memory above that of the process before"
    table.show(title, {f"{number:,} cases": figures}, settings.json)


def peak() -> float:
    """Returns the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    cli.run(Cases, main)
