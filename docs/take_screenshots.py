"""Takes the pictures of the README, docs/tensorboard.md and docs/report.md: `make screenshots`.

Trains the demo, and a second run beside which it is shown, in a folder that is removed. A picture
of the profile tab takes the extra [profile].
"""

import importlib.util
import io
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tensorflow as tf
from PIL import Image

from tests import browser
from trainer import load
from trainer.data import demo
from trainer.data.dataset import schema
from trainer.drawing import overlays, panels
from trainer.report import page, runs

HERE = pathlib.Path(__file__).absolute().parent / "images"
SIZES = {  # of the window, for the tabs of one run
    "timeseries": (1400, 1000),
    "custom_scalars": (1300, 820),
    "images": (1400, 1000),
    "pr_curves": (1300, 820),
    "graphs": (1300, 820),
}
SETTLED = 4000  # milliseconds until curves and pictures are drawn
COLOURS = 200
# Test images that the README shows.
DEMO = ("2246874c8b5ba218", "da5f98f2b8a64eee", "c1afe66cd139f996", "c901794d1a421d52")


def save(name: str, png: bytes) -> None:
    """Writes a picture of few colours, which is small."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        HERE / f"{name}.png", optimize=True
    )


def save_photos(name: str, png: bytes) -> None:
    """Writes a picture with photos in it, of which few colours would make others."""
    Image.open(io.BytesIO(png)).convert("RGB").save(HERE / f"{name}.jpg", quality=88, optimize=True)


def take_tabs(chromium, address: str) -> None:
    """Takes the tabs of one run."""
    for tab, size in SIZES.items():
        shown = browser.open_tab(chromium, address, tab, size)
        shown.wait_for_timeout(SETTLED)
        if tab == "images":  # the cases are below the training batch
            shown.get_by_text("val_cases", exact=True).first.evaluate("at => at.scrollIntoView()")
            shown.wait_for_timeout(SETTLED)
            save_photos(f"tensorboard_{tab}", shown.screenshot())
        else:
            save(f"tensorboard_{tab}", shown.screenshot())
        shown.close()


def take_table(chromium, address: str) -> None:
    """Takes the table of runs, with scores beside the settings that matter."""
    shown = browser.open_tab(chromium, address, "hparams", (1500, 420))
    for name in ("crop", "steps", "warmup_steps"):
        shown.locator("paper-checkbox", has_text=name).first.click()
    shown.wait_for_timeout(SETTLED)
    save("tensorboard_hparams", shown.screenshot())


def take_trace(chromium, address: str, plane: pathlib.Path) -> None:
    """Takes the traced steps, in the row of Python's thread."""
    host = plane.name.removesuffix(".xplane.pb")
    shown, frame = browser.open_trace(chromium, address, plane.parent.name, host, (1500, 700))
    browser.wait_for(shown, " of ")
    frame.get_by_text("python", exact=True).first.scroll_into_view_if_needed()
    shown.wait_for_timeout(SETTLED)
    save("tensorboard_profile", shown.screenshot())


def take_report(chromium, folder: pathlib.Path) -> None:
    """Takes the top of a run's report, and its worst cases."""
    report = folder / "report.html"
    report.write_text(page.draw([runs.read(str(folder), 2)]), "utf-8")
    shown = chromium.new_page(viewport={"width": 1300, "height": 1000})
    shown.goto(report.resolve().as_uri())
    save("report", shown.screenshot())
    shown.get_by_text("The worst cases").evaluate("head => head.scrollIntoView()")
    shown.wait_for_timeout(SETTLED)
    save_photos("report_cases", shown.screenshot())


def train(folder: pathlib.Path, *more: str) -> None:
    """Trains the demo, with further settings."""
    flags = f"--flagfile={HERE.parents[1]}/configs/demo.cfg", f"--run_dir={folder}", *more
    subprocess.run([sys.executable, "-m", "trainer.task", *flags], check=True)


def take_predictions(run_dir: pathlib.Path) -> None:
    """Draws what a run of the demo finds in four of its test images, in a row."""
    manifest = schema.read_manifest(demo.folder())
    network = load(str(run_dir))
    row = []
    for name in (shard.name for shard in manifest.splits["test"].shards):
        for record in tf.data.TFRecordDataset(f"{demo.folder()}/{name}"):
            example = schema.decode(record, manifest)
            if example["name"].numpy().decode() in DEMO:
                image = example["image"].numpy()
                mask = network.predict(image) > 0
                row.append(overlays.draw_outlines(overlays.display(image), mask.astype(np.uint8)))
    save_photos("demo", panels.encode_png(np.concatenate(row, axis=1)))


def main(run_dir: pathlib.Path, other: pathlib.Path) -> None:
    """Trains two runs in one folder, opens each tab, and the report, and takes its picture."""
    train(run_dir, "--profile=10,20", "--histograms")
    train(other, "--learning_rate=5e-4", "--steps=200")
    take_predictions(run_dir)
    planes = list(run_dir.glob("tensorboard/plugins/profile/*/*.xplane.pb"))
    with browser.chromium() as chromium:
        take_report(chromium, run_dir)
        with browser.tensorboard(run_dir / "tensorboard") as address:
            take_tabs(chromium, address)
            if planes and importlib.util.find_spec("tensorboard_plugin_profile"):
                take_trace(chromium, address, planes[0])
        with browser.tensorboard(run_dir.parent) as address:
            take_table(chromium, address)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that pictures show short names
        main(pathlib.Path("runs/first"), pathlib.Path("runs/second"))
