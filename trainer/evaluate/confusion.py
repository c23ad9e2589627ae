"""confusion.csv: the pixels of each true class, by the class that was predicted."""

import csv
import io
import os
from collections.abc import Sequence

import numpy as np

from trainer.errors import InputError
from trainer.storage import files

NAME = "confusion.csv"  # in the folder of an evaluation
CORNER = "truth / prediction"


def write(folder: str, confusions: np.ndarray, classes: Sequence[str]) -> None:
    """Writes a table with a row for each true class.

    Args:
        folder: of the evaluation.
        confusions: integers [K, K], truth by prediction, of all pixels that count.
        classes: the K names.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([CORNER, *classes])
    table.writerows([name, *row] for name, row in zip(classes, confusions.tolist(), strict=True))
    files.write_whole(os.path.join(folder, NAME), text.getvalue())


def read(folder: str) -> np.ndarray | None:
    """Returns the table of an evaluation, int64 [K, K]; None if an earlier release wrote none.

    Raises:
        InputError: the file is damaged.
    """
    path = os.path.join(folder, NAME)
    if not files.exists(path):
        return None
    try:
        rows = list(csv.reader(io.StringIO(files.read_text(path))))
        table = np.array([row[1:] for row in rows[1:]], np.int64)
        if table.shape != (len(rows[0]) - 1,) * 2:
            raise ValueError(f"it has the shape {table.shape}")
    except (ValueError, IndexError) as error:
        raise InputError(
            f"{path} is not a table of confusions ({error}); evaluate again."
        ) from None
    return table
