"""Measures what a process takes to open data of many cases: CPU time, and memory beside modules.

    python -m benchmarks.manifest [--cases=1000000 --val_cases=100000 --classes=5]

The shards are not there. Each row is a process of its own, of the cases in the manifest, as data of
an earlier release have them, and in indexes.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import table
from trainer import cli, config, json_text
from trainer.data.dataset import case_index, schema

SHARDS = 1024
PURPOSES = {
    "train": lambda data_dir, manifest: case_index.with_cases(data_dir, manifest, ["val"]),
    "train, --balance_cases": lambda data_dir, manifest: case_index.with_marks(
        data_dir, case_index.with_cases(data_dir, manifest, ["val"]), "train"
    ),
    "evaluate val": lambda data_dir, manifest: list(
        case_index.with_cases(data_dir, manifest, ["val"]).splits["val"].names
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opening(config.Settings):
    """Writes manifests of so many cases, and opens them."""

    cases: int = config.setting(1_000_000, "Training cases.", low=SHARDS)
    val_cases: int = config.setting(100_000, "Validation cases.", low=SHARDS)
    classes: int = config.setting(5, "Classes.", low=2)
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Opening) -> None:
    """Prints the figures of each process."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for where in ("manifest", "indexes"):
            data_dir = os.path.join(folder, where)
            os.mkdir(data_dir)
            _write(settings, data_dir, in_indexes=where == "indexes")
            for purpose in PURPOSES:
                argv = [sys.executable, "-m", "benchmarks.manifest", data_dir, purpose]
                found = subprocess.run(argv, check=True, capture_output=True, text=True)
                rows[f"{purpose}: cases in {where}"] = json.loads(found.stdout)
    title = f"{settings.cases:,} training and {settings.val_cases:,} validation cases"
    table.show(title, rows, settings.json)


def _write(settings: Opening, data_dir: str, *, in_indexes: bool) -> None:
    sizes = {"train": settings.cases, "val": settings.val_cases}
    splits, indexes = {}, []
    for name, total in sizes.items():
        names = [f"case-{n:08d}" for n in range(total)]
        marks = [f"{n % 2**settings.classes:0{settings.classes}b}" for n in range(total)]
        shards, start = [], 0
        for k in range(SHARDS):
            end = total * (k + 1) // SHARDS
            shard = schema.Shard(schema.shard_name(name, k, SHARDS), end - start, 1, "00000000")
            place = schema.Rows(case_index.file_name(name), start) if in_indexes else None
            present = tuple(map("".join, zip(*marks[start:end], strict=True)))
            present = None if in_indexes else present
            shards.append(dataclasses.replace(shard, rows=place, present=present))
            start = end
        if in_indexes:
            rows = zip(names, marks, strict=True)
            indexes.append(case_index.write(data_dir, case_index.file_name(name), rows))
        splits[name] = schema.Split(
            examples=total,
            shards=tuple(shards),
            cases=None if in_indexes else tuple(names),
            sizes=((64, 64, total),),
            pixels=(1,) * settings.classes,
            ignored_pixels=0,
            mean=(0.0,),
            std=(1.0,),
        )
    manifest = schema.Manifest(
        classes=tuple(schema.Class(f"class{k}", k) for k in range(settings.classes)),
        channels=1,
        bit_depth=8,
        dtype="uint8",
        encoding="png",
        splits=splits,
        indexes=tuple(indexes) or None,
    )
    schema.write_manifest(manifest, data_dir)


def _open(data_dir: str, purpose: str) -> dict[str, Any]:
    """Opens a data folder in this process, and returns what that takes."""
    before, start = _peak(), time.process_time()
    manifest = schema.read_manifest(data_dir)
    schema.fingerprint(manifest)
    kept = PURPOSES[purpose](data_dir, manifest)
    seconds = time.process_time() - start
    del kept
    return {"CPU s": seconds, "MB": (_peak() - before) / 1e6}


def _peak() -> float:
    """Returns the most bytes that this process has held, without those of the one it is from."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(1024.0 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2] in PURPOSES:
        print(json_text.dumps(_open(sys.argv[1], sys.argv[2])))
    else:
        cli.run(Opening, main)
