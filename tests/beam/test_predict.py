"""Predicting on engines of Beam: the masks of one machine."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time

import numpy as np
import pytest
import tifffile

from tests import runs
from tests.beam.conftest import ROOT, command, content, run

PREDICT = "trainer.predict"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    # One image a step on one device: images that share a step differ in rounding.
    return runs.write_run(tmp_path_factory.mktemp("run"), depth=1)


@pytest.fixture
def asked(run_dir, folder):
    return [f"--run_dir={run_dir}", f"--images={folder}/images", "--strategy=one_device"]


def masks(folder):
    return {name: one for name, one in content(folder).items() if name.endswith(".png")}


def test_parts_of_an_engine_are_joined(asked, folder):
    assert run(PREDICT, *asked, f"--output={folder}/one").status == 0
    direct = [*asked, f"--output={folder}/two", "--runner=direct", "--review"]
    ended = run(PREDICT, *direct)
    assert ended.status == 0, ended.said
    (line,) = [line for line in ended.said if line.startswith("Wrote ")]
    assert line.startswith(f"Wrote 0 masks to {folder}/two in ")
    assert line.endswith("; 20 existed already.")
    assert masks(folder / "two") == masks(folder / "one")
    assert len(masks(folder / "two")) == 20
    assert not (folder / "two/parts").exists()
    assert len((folder / "two/review.csv").read_text().splitlines()) == 21
    before = {path: path.stat().st_mtime_ns for path in folder.glob("two/*.png")}
    assert run(PREDICT, *direct).status == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("two/*.png")}


def test_workers_predict_bands_of_a_large_image(asked, folder):
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 1000), np.uint8)
    tifffile.imwrite(folder / "images/huge.tif", pixels)  # two bands of a megabyte
    asked += ["--tile=256", "--probabilities"]
    assert run(PREDICT, *asked, f"--output={folder}/one").status == 0
    direct = [*asked, f"--output={folder}/two", "--runner=direct", "--band_megabytes=1"]
    process = subprocess.Popen(command(PREDICT, *direct), cwd=ROOT)
    seen = set()
    while process.poll() is None:
        seen |= {path.name for path in folder.glob("two/parts/bands/*/?-of-2")}
        time.sleep(0.01)
    assert process.returncode == 0
    assert seen == {"1-of-2", "2-of-2"}
    assert not (folder / "two/parts").exists()
    for name in ("huge.tif", "probabilities/huge.npy"):
        assert (folder / "two" / name).read_bytes() == (folder / "one" / name).read_bytes()


def test_a_worker_that_is_killed_has_its_part_tried_again(asked, folder):
    assert run(PREDICT, *asked, f"--output={folder}/one").status == 0
    process = subprocess.Popen(
        command(PREDICT, *asked, f"--output={folder}/two", "--runner=direct"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(folder.glob("two/*.png")):
        assert process.poll() is None
        time.sleep(0.01)
    for worker in workers():  # and the shell that it was started by
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert "Warning: a worker process was killed" in said
    assert masks(folder / "two") == masks(folder / "one")


def workers():
    """Returns the processes of Beam's that work."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if b"sdk_worker_main" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_an_image_that_cannot_be_read_gives_one_line(asked, folder):
    path = folder / "images/05.png"
    path.write_bytes(path.read_bytes()[:90])
    direct = [*asked, f"--output={folder}/out", "--runner=direct"]
    ended = run(PREDICT, *direct)
    assert ended.status == 2
    assert ended.said[-1].startswith(f"{path} cannot be read")
    assert ended.said[-1].endswith("Fix or remove it, or skip it with --skip_bad.")
    ended = run(PREDICT, *direct, "--skip_bad")
    assert ended.status == 0
    assert ended.said[-1].endswith("1 could not be read and were left out.")
    assert len(masks(folder / "out")) == 19


def test_a_part_is_not_divided_again(asked, folder):
    ended = run(PREDICT, *asked, f"--output={folder}/out", "--runner=direct", "--part=1/2")
    assert ended.status == 2
    assert ended.said == [
        "--part=1/2 is for machines that start by themselves, and --runner=direct divides the "
        "images; drop one of them."
    ]
