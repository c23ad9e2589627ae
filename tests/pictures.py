"""Small pictures, and what is said of those that are refused."""

import numpy as np
import pytest
from PIL import Image

from trainer.data import sources
from trainer.errors import InputError

LIMIT = 10**6
GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)


def source_of(path, row=None):
    return sources.Source("x", str(path), row, "X")


def save(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return source_of(path)


def save_pages(path, pages, **options):
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, "TIFF", save_all=True, append_images=others, **options)


def refusal(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message
