"""What tests of preparing data start from."""

import signal

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _keep_signal_handler():
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def folder(tmp_path):
    """A folder with images/ and masks/ of ten cases, 00 … 09: grey, 8×6, 12 nucleus pixels each."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for case in range(10):
        mask = np.zeros((8, 6), np.uint8)
        mask[2:5, 1:5] = 255
        Image.fromarray(mask // 5 + np.uint8(case)).save(tmp_path / f"images/{case:02}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{case:02}.png")
    return tmp_path
