"""A `.npy` file that is written row by row and read band by band, without mapping it."""

import io
import os
from collections.abc import Iterator

import numpy as np


class RowFile:
    """A local `.npy` file of known shape, written from its first row to its last.

    Mapping a file would count all that was touched as this process's memory.
    """

    def __init__(self, path: str, shape: tuple[int, ...], dtype: np.dtype):
        """Makes the file."""
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._file = io.BufferedRandom(io.FileIO(path, "w+"))
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._begin = self._file.tell()
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def append(self, rows: np.ndarray) -> None:
        """Writes the next rows."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).data)

    def read(self, top: int, bottom: int) -> np.ndarray:
        """Returns rows that have been written."""
        self._file.seek(self._begin + top * self._row_bytes)
        data = self._file.read((bottom - top) * self._row_bytes)
        self._file.seek(0, os.SEEK_END)
        return np.frombuffer(data, self.dtype).reshape(bottom - top, *self.shape[1:])

    def bands(self, pixels: int) -> Iterator[np.ndarray]:
        """Yields all rows of [H, W], or slices of [D, H, W], about so many pixels at a time."""
        step = max(1, pixels // int(np.prod(self.shape[1:])))
        for top in range(0, self.shape[0], step):
            yield self.read(top, min(top + step, self.shape[0]))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
