"""Data to prepare and images to predict, and the command as a user starts it."""

import dataclasses
import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import skips

pytest_runtest_makereport = skips.pytest_runtest_makereport
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    said: list[str]


def command(module, *flags):
    """Returns the command of a module."""
    return [sys.executable, "-m", module, *map(str, flags)]


def run(module, *flags, **environment):
    """Runs a command to its end."""
    ended = subprocess.run(
        command(module, *flags),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Ended(ended.returncode, ended.stderr.splitlines())


def content(folder):
    """Returns the digest of each file of a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path):
    """A folder with images/ and masks/ of 20 cases, 00 … 19, of which the last two are equal."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for case in range(20):
        if case < 19:
            image = rng.integers(0, 256, (48, 40), np.uint8)
            mask = np.where(rng.random((48, 40)) < 0.5, 255, 0).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{case:02}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{case:02}.png")
    return tmp_path
