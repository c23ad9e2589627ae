"""Small pictures, and what is said of those that are refused."""

import functools
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from trainer.data.formats import discovery
from trainer.errors import InputError

LIMIT = 10**6
GREY = np.array([[0, 50, 100], [150, 200, 255]], np.uint8)


def source_of(path, row=None):
    return discovery.Source("x", str(path), row, "X")


def save(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return source_of(path)


def save_pages(path, pages, **options):
    first, *others = (Image.fromarray(page) for page in pages)
    first.save(path, "TIFF", save_all=True, append_images=others, **options)


@functools.cache
def bomb():
    """Returns a PNG of 0.4 MB that becomes 600 megapixels: 20000 rows of 30000 bits."""
    header = struct.pack(">IIBBBBB", 30000, 20000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(20000 * (1 + 30000 // 8)), level=1)
    return png([(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")])


def png(chunks):
    """Returns a PNG of chunks (kind, data)."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def refusal(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


def png16(values):
    """Returns a 16-bit PNG of [H, W, C], which Pillow cannot write."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])
