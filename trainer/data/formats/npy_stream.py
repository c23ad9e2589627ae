"""Arrays that are written row by row and read band by band, without mapping a file.

Mapping one would count all that was touched as this process's memory.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

IN_MEMORY = 2**20  # bytes; larger temporary rows are in a file


class Rows:
    """The rows of an array of known shape, from the first to the last."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype):
        """Writes from where the file is."""
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._file, self._begin = file, file.tell()
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


class RowFile(Rows):
    """A local `.npy` file."""

    def __init__(self, path: str, shape: tuple[int, ...], dtype: np.dtype):
        """Makes the file."""
        file = io.BufferedRandom(io.FileIO(path, "w+"))
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        super().__init__(file, shape, dtype)


class TemporaryRows(Rows):
    """Rows that are gone when they are closed, or with the process."""

    def __init__(self, folder: str, shape: tuple[int, ...], dtype: np.dtype):
        """Has none.

        Args:
            folder: where a file without a name holds what is too large for memory.
            shape: of the array.
            dtype: of the array.
        """
        file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=folder)  # noqa: SIM115
        super().__init__(file, shape, dtype)
