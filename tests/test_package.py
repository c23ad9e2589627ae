"""What is shipped, and the README's way through it."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

import trainer
from launch.image import PARTS
from tests.jobs import ROOT, SMALL
from tests.shards import draw_discs
from trainer.data import demo
from trainer.data.dataset import schema


def test_the_demo_data_are_whole_small_and_of_every_split():
    manifest = schema.read_manifest(demo.folder())
    counts = {name: split.examples for name, split in manifest.splits.items()}
    assert counts == {"train": 80, "val": 16, "test": 24}
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    for shard in shards:
        schema.verify_shard(demo.folder(), shard)
    assert sum(shard.bytes for shard in shards) < 8e6
    assert "CC0" in manifest.licence
    assert (pathlib.Path(demo.folder()) / "ORIGIN.md").exists()


def build_source_distribution(folder):
    """Returns the path of the archive, built of a copy: builds of one tree disturb each other."""
    source = folder / "source"
    source.mkdir()
    for name in PARTS:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source)
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(folder)]
    built = subprocess.run(command, cwd=source, check=False, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.mark.slow
@pytest.mark.long
def test_the_source_distribution_carries_the_demo_data(tmp_path):
    archive = build_source_distribution(tmp_path)
    assert trainer.__version__ in archive.name
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    folder = "trainer/data/demo"
    manifest = schema.read_manifest(demo.folder())
    for split in manifest.splits.values():
        assert {f"{folder}/{shard.name}" for shard in split.shards} <= names
    assert {f"{folder}/manifest.json", f"{folder}/ORIGIN.md", "LICENSE", "README.md"} <= names
    assert {f"trainer/drawing/{name}" for name in ("DejaVuSans.ttf", "LICENSE_DEJAVU")} <= names
    assert {"launch/vertex.py", "launch/hardware.json", "launch/prices.json"} <= names


@pytest.mark.slow
@pytest.mark.long
def test_the_source_distribution_is_a_python_package_for_vertex_ai(tmp_path, data_dir):
    archive = build_source_distribution(tmp_path)
    # What Vertex AI does with a package: pip, then the module; dependencies are here already.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    install += ["--no-build-isolation", "--target", str(tmp_path / "site"), str(archive)]
    subprocess.run(install, check=True, capture_output=True)
    for path in pathlib.Path(demo.folder()).glob("*.*"):  # by way of a wheel
        assert (tmp_path / "site/trainer/data/demo" / path.name).read_bytes() == path.read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    found = subprocess.run(
        [sys.executable, "-c", "import trainer.task as t; print(t.__file__)"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.startswith(str(tmp_path / "site"))
    result = subprocess.run(
        [sys.executable, "-m", "trainer.task", f"--data_dir={data_dir}", *SMALL, "--steps=3"],
        cwd=tmp_path,
        env={**environment, "AIP_MODEL_DIR": str(tmp_path / "model/")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model" / "model.keras").exists()


@pytest.mark.slow
def test_the_readmes_way_from_images_to_scores(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("photos", "masks", "new"):
        (tmp_path / folder).mkdir()
    for n in range(20):
        image, mask = draw_discs(rng, 40 + n, 50, 3, 2)
        mask[0, 0] = 0
        Image.fromarray(image).save(tmp_path / ("photos" if n else "new") / f"{n}.png")
        if n == 0:
            continue
        Image.fromarray(255 * mask).save(tmp_path / "masks" / f"{n}.png")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Your own images")[2].partition("##")[0]
    commands = [line.split() for line in section.splitlines() if line.startswith("    python")]
    assert len(commands) == 7
    for _, *argv in commands:
        argv = ["--steps=2" if word.startswith("--steps=") else word for word in argv]
        if "trainer.task" in argv:  # small enough for a test; all else as written
            argv += ["--filters=2", "--crop=32", "--depth=2", "--jit_compile=false"]
        result = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "sheet.png").exists()
    assert (tmp_path / "runs/first/evaluation/test/summary.json").exists()
    with Image.open(tmp_path / "predicted/0.png") as mask:
        assert mask.size == (50, 40)
        assert set(np.unique(mask)) <= {0, 255}
    assert (tmp_path / "runs/first/report.html").exists()
    assert (tmp_path / "runs/first/export/saved_model.pb").exists()
