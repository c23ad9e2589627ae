"""Takes a set of a million small images through every command, and says what memory each takes.

    python -m benchmarks.soak [--images=1000000 --output=runs/soak]

The images are made up by a seed, 3 GB of them; they are prepared, trained on with a kill in the
middle, evaluated and predicted. What is finished is not done again, so that hours can be divided:
the figures of each command are kept in OUTPUT/figures.json.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import table
from trainer import cli, config, json_text
from trainer.errors import InputError

SIDE = 64
IN_FOLDER = 1000  # images of a folder
TRAIN = (
    *("--crop=64", "--batch_size=32", "--filters=8", "--depth=3"),
    *("--panels=0", "--worst_cases=0", "--verbosity=warning"),
)
SECONDS = 0.2  # between two looks at the memory of a command's processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soak(config.Settings):
    """Takes many small images through every command."""

    images: int = config.setting(1_000_000, "How many.", low=100)
    workers: int = config.setting(0, "Processes of preparing; 0: one for each core.", low=0)
    steps: int = config.setting(500, "Of training.", low=10)
    output: str = config.setting("runs/soak", "Folder for everything.")
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Soak) -> dict[str, dict[str, float]]:
    """Does what is not finished, and prints all figures."""
    out = pathlib.Path(settings.output).absolute()
    data, run, raw = out / "data", out / "run", out / "raw"
    pairs = [f"--images={raw}/images", f"--masks={raw}/masks"]
    commands = {
        "make": lambda: _Clock().timed(make, raw, settings.images),
        "prepare": lambda: measured(
            *("trainer.data.prepare", *pairs, f"--output={data}", "--classes=0,255"),
            f"--workers={settings.workers}",
        ),
        "train, killed": lambda: measured(
            *_training(data, run, settings.steps), kill_at=settings.steps // 2, run=run
        ),
        "train, resumed": lambda: measured(*_training(data, run, settings.steps)),
        "evaluate": lambda: measured("trainer.evaluate", f"--run_dir={run}", "--worst_cases=0"),
        "predict": lambda: measured(
            *("trainer.predict", f"--run_dir={run}", pairs[0], f"--output={out}/masks")
        ),
    }
    path = out / "figures.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.setdefault("images", settings.images) != settings.images:
        raise InputError(
            f"--output={settings.output} has a soak of {found['images']} images, and --images="
            f"{settings.images} are asked for; name another folder."
        )
    for name, command in commands.items():
        if name not in found:
            found[name] = command()
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(json_text.dumps(found, indent=1) + "\n")
    rows = {name: found[name] for name in commands}
    table.show(f"{settings.images} images of {SIDE}×{SIDE}", rows, settings.json)
    return rows


def _training(data: pathlib.Path, run: pathlib.Path, steps: int) -> tuple[str, ...]:
    every = (f"--steps={steps}", f"--eval_every={steps}", f"--checkpoint_every={steps // 5}")
    warmup = f"--warmup_steps={steps // 10}"
    return ("trainer.task", f"--data_dir={data}", f"--run_dir={run}", *every, warmup, *TRAIN)


# The images ---------------------------------------------------------------------------------------


def make(folder: pathlib.Path, count: int) -> None:
    """Writes images and masks, a folder for each thousand of them."""
    starts = range(0, count, IN_FOLDER)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for _ in pool.map(_make, [(folder, k, min(count, k + IN_FOLDER)) for k in starts]):
            pass


def _make(task: tuple[pathlib.Path, int, int]) -> None:
    """Writes a folder of images: a disc, brighter than its noisy surroundings."""
    folder, first, end = task
    rng = np.random.default_rng(first)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    places = [folder / kind / f"{first // IN_FOLDER:05d}" for kind in ("images", "masks")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    for number in range(first, end):
        y, x, radius = rng.uniform((16, 16, 6), (48, 48, 16))
        mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        noise = rng.integers(0, 16, (SIDE, SIDE), np.uint8)  # 4 bits, which PNG packs
        for place, values in zip(
            places, (mask * np.uint8(64) + np.uint8(64) + noise, mask * np.uint8(255)), strict=True
        ):
            Image.fromarray(values).save(place / f"{number:08d}.png", compress_level=1)


# Time and memory ----------------------------------------------------------------------------------


class _Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 1)

    def timed(self, function: Any, *arguments: Any) -> dict[str, float | None]:
        function(*arguments)
        return {"seconds": self.seconds(), "processes": None, "peak MB": None, "others' MB": None}


def measured(
    module: str, *flags: str, kill_at: int = 0, run: pathlib.Path | None = None
) -> dict[str, float | None]:
    """Runs a command and returns its seconds, and the most memory of its processes in MB.

    Args:
        module: the command.
        flags: of it.
        kill_at: a step at which to kill it; 0: never.
        run: its run folder, which tells the step.
    """
    clock, peaks = _Clock(), collections.Counter[int]()
    with subprocess.Popen([sys.executable, "-m", module, *flags]) as process:
        while process.poll() is None:
            for pid in _tree(process.pid):
                with contextlib.suppress(OSError, IndexError):
                    status = pathlib.Path(f"/proc/{pid}/status").read_text()
                    peak = int(status.split("VmHWM:")[1].split()[0])
                    peaks[pid] = max(peaks[pid], peak)
            if run and _last_step(run / "metrics.jsonl") >= kill_at:
                process.send_signal(signal.SIGKILL)
            time.sleep(SECONDS)
    if process.returncode != (-signal.SIGKILL if kill_at else 0):
        sys.exit(process.returncode)  # it has said why
    others = [peak for pid, peak in peaks.items() if pid != process.pid]
    return {
        "seconds": clock.seconds(),
        "processes": len(peaks),
        "peak MB": round(peaks[process.pid] / 1024),
        "others' MB": round(max(others) / 1024) if others else None,
    }


def _tree(pid: int) -> Iterator[int]:
    """Yields a process and all that it has started."""
    yield pid
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                yield from _tree(int(child))


def _last_step(metrics: pathlib.Path) -> int:
    if not metrics.exists():
        return 0
    lines: Sequence[str] = metrics.read_text().splitlines()
    return max((json.loads(line).get("step", 0) for line in lines if line.endswith("}")), default=0)


if __name__ == "__main__":
    cli.run(Soak, main)
