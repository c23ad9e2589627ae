"""The tables of an evaluation: a line for each case and class, in CSV and in Parquet.

Up to MOST_IN_CSV cases there is one cases.csv. Where pyarrow is installed (extra `parquet`), each
worker writes the cases that it evaluated into a Parquet file of its own beside it, as it goes: its
rows neither stay in memory nor go through the network. More cases are in Parquet alone.
"""

import contextlib
import csv
import dataclasses
import importlib.util
import io
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import IO, Any

import numpy as np

from trainer.errors import InputError
from trainer.evaluate import case_rows, scores
from trainer.evaluate.case_rows import CaseRows
from trainer.storage import files

SUMMARY = "summary.json"  # beside the tables
CSV = "cases.csv"
PARQUET = re.compile(r"cases-(\d{5})-of-(\d{5})\.parquet")
MOST_IN_CSV = 100_000  # cases
DECIMALS = 6  # of figures in CSV, to which those of Parquet are rounded where they are read
COUNTS = ("truth", "prediction", "intersection")


@dataclasses.dataclass(frozen=True)
class CaseTable:
    """Columns of an evaluation of N cases and K classes.

    Attributes:
        cases: N names, in the order of the split.
        classes: K names.
        columns: float64 [N, K] by name; NaN where a figure is undefined.
    """

    cases: tuple[str, ...]
    classes: tuple[str, ...]
    columns: Mapping[str, np.ndarray]


def has_parquet() -> bool:
    """Returns whether tables can be written in Parquet."""
    return importlib.util.find_spec("pyarrow") is not None


def check(split: str, num_cases: int) -> None:
    """Raises InputError if there are more cases than a CSV gets, and they cannot be in Parquet."""
    if num_cases > MOST_IN_CSV and not has_parquet():
        raise InputError(
            f"The split {split} has {num_cases:,} cases; the scores of more than {MOST_IN_CSV:,} "
            f'are written in Parquet, which needs pyarrow: pip install ".[parquet]".'
        )


def is_table(name: str) -> bool:
    """Returns whether a file's name is that of a table, of any worker."""
    return name == CSV or PARQUET.fullmatch(name) is not None


def file_name(worker: int, num_workers: int) -> str:
    """Returns the name of a worker's table in Parquet."""
    return f"cases-{worker:05d}-of-{num_workers:05d}.parquet"


class CaseTables:
    """The rows of the cases that a worker evaluates, kept to be written: a context manager.

    Those in Parquet are in a file in TMPDIR until they are saved, so that whatever ends the process
    leaves nothing.
    """

    def __init__(self, cases: Sequence[str], classes: Sequence[str]):
        """Has no rows.

        Args:
            cases: names of all cases of the split.
            classes: K names.
        """
        self._cases, self._classes = cases, classes
        self._ending = contextlib.ExitStack()
        self._file: IO[bytes] | None = None
        self._writer: Any = None
        self._rows: list[CaseRows] | None = [] if len(cases) <= MOST_IN_CSV else None

    def __enter__(self) -> "CaseTables":
        """Opens the file of Parquet, where that can be written; returns the object itself."""
        if has_parquet():
            with contextlib.ExitStack() as opening:
                self._file = opening.enter_context(tempfile.TemporaryFile())
                self._ending = opening.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Removes the file in TMPDIR."""
        self._ending.close()

    def keep(self, rows: CaseRows, **more: np.ndarray) -> None:
        """Keeps rows, and more columns, integers [N]; the first call says which columns there are.

        It may be one of no rows.
        """
        if self._file:
            from pyarrow import parquet

            table = _arrow(self._cases, self._classes, rows, more)
            if self._writer is None:
                writer = parquet.ParquetWriter(self._file, table.schema)
                self._writer = self._ending.enter_context(writer)
            self._writer.write_table(table)
        if self._rows is not None:
            self._rows.append(rows)

    @property
    def rows(self) -> CaseRows | None:
        """All that was kept, where a CSV takes so many cases; otherwise None."""
        return None if self._rows is None else case_rows.concatenate(self._rows)

    def save(self, path: str) -> None:
        """Copies the table in Parquet to where readers find it; nothing can be kept after that."""
        assert self._file is not None
        self._writer.close()
        self._file.seek(0)
        with files.writing(path, "wb") as file:
            shutil.copyfileobj(self._file, file)


def write(
    folder: str, cases: Sequence[str], classes: Sequence[str], rows: CaseRows, **more: np.ndarray
) -> None:
    """Writes rows of one process as tables, in place of all that a folder has; see `to_csv`."""
    with CaseTables(cases, classes) as tables:
        tables.keep(rows, **more)
        is_small = len(cases) <= MOST_IN_CSV
        replace(folder, to_csv(cases, classes, rows, **more) if is_small else None)
        if has_parquet():
            tables.save(os.path.join(folder, file_name(0, 1)))


def is_there(folder: str) -> bool:
    """Returns whether a folder has a table."""
    return any(map(is_table, files.list_folder(folder)))


def replace(folder: str, text: str | None) -> None:
    """Removes all tables of a folder, and writes a CSV of this text, if there is one."""
    for name in filter(is_table, files.list_folder(folder)):
        if name != CSV or text is None:
            files.remove(os.path.join(folder, name))
    if text is not None:
        files.write_whole(os.path.join(folder, CSV), text)


def _columns(rows: CaseRows, more: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the columns [N, K] after those of names: integers, and the metrics as float64."""
    counts = dict(zip(COUNTS, np.moveaxis(rows.counts, -1, 0), strict=True))
    shape = rows.counts.shape[:2]
    wide = {name: np.broadcast_to(value[:, np.newaxis], shape) for name, value in more.items()}
    return {**counts, **scores.per_case(rows.counts, rows.measured), **wide}


def to_csv(cases: Sequence[str], classes: Sequence[str], rows: CaseRows, **more: np.ndarray) -> str:
    """Returns a table with a line per case and class; a score that is undefined is left empty.

    Args:
        cases: names of all cases of the split.
        classes: K names.
        rows: of those that were evaluated.
        **more: columns, integers [N].
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = _columns(rows, more)
    table.writerow(["case", "class", *columns])
    for n, case in enumerate(rows.cases):
        for k, name in enumerate(classes):
            table.writerow([cases[case], name, *(_cell(value[n, k]) for value in columns.values())])
    return text.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, np.integer):
        return str(value)
    return "" if np.isnan(value) else f"{value:.{DECIMALS}f}"


def _arrow(
    cases: Sequence[str], classes: Sequence[str], rows: CaseRows, more: Mapping[str, np.ndarray]
) -> Any:
    """Returns rows as a table of pyarrow, with the columns of a CSV, and first a case's place."""
    import pyarrow

    number = len(classes)
    names = [cases[case] for case in rows.cases for _ in range(number)]
    return pyarrow.table(
        {
            "index": np.repeat(rows.cases, number),
            "case": pyarrow.array(names, pyarrow.string()),
            "class": pyarrow.array(list(classes) * len(rows.cases), pyarrow.string()),
            **{
                name: pyarrow.array(value.ravel(), from_pandas=True)  # NaN is null
                for name, value in _columns(rows, more).items()
            },
        }
    )


def read(
    folder: str,
    needed: Collection[str],
    optional: Collection[str] = (),
    *,
    remedy: str = "evaluate again",
) -> CaseTable:
    """Returns columns of an evaluation: of its CSV or, if it has none, of its tables in Parquet.

    Args:
        folder: of the evaluation.
        needed: columns that there must be.
        optional: columns that there may be.
        remedy: the end of the message where a table is damaged.

    Raises:
        InputError: there is no table, it is damaged or not whole, or pyarrow is missing.
    """
    names = files.list_folder(folder)
    found = {name: match for name in names if (match := PARQUET.fullmatch(name))}
    in_csv = not found or CSV in names
    path = os.path.join(folder, CSV if in_csv else min(found))
    try:
        if in_csv:
            return _read_csv(files.read_text(path), needed, optional)
        _check_whole(found)
        return _read_parquet(
            [os.path.join(folder, name) for name in sorted(found)], needed, optional
        )
    except ModuleNotFoundError:
        raise InputError(f'{path} is read by pyarrow; pip install ".[parquet]".') from None
    except (KeyError, TypeError, ValueError, csv.Error, OSError) as error:
        raise InputError(f"{path} is not the table of an evaluation ({error}); {remedy}.") from None


def _check_whole(found: Mapping[str, re.Match[str]]) -> None:
    """Raises ValueError unless there is the table of every worker, and no other."""
    numbers = {int(match[2]) for match in found.values()}
    expected = {file_name(worker, max(numbers)) for worker in range(max(numbers))}
    if differing := expected ^ set(found):
        what = "is missing" if min(differing) in expected else "is of another evaluation"
        raise ValueError(f"{min(differing)} {what}")


def _read_csv(text: str, needed: Collection[str], optional: Collection[str]) -> CaseTable:
    table = csv.DictReader(io.StringIO(text, newline=""))
    columns = [*needed, *(name for name in optional if name in (table.fieldnames or ()))]
    found: dict[str, dict[str, list[float]]] = {}
    for row in table:
        of_case = found.setdefault(row["case"], {})
        if row["class"] in of_case:
            raise ValueError(f"{row['case']!r} is there twice")
        of_case[row["class"]] = [float(row[name] or "nan") for name in columns]
    if not found:
        raise ValueError("it has no case")
    classes = tuple(next(iter(found.values())))
    if any(tuple(of_case) != classes for of_case in found.values()):
        raise ValueError("cases differ in their classes")
    values = np.array([[*of_case.values()] for of_case in found.values()], np.float64)
    values = values.reshape(len(found), len(classes), len(columns))
    named = {name: values[..., k] for k, name in enumerate(columns)}
    return CaseTable(tuple(found), classes, named)


def _read_parquet(
    paths: Sequence[str], needed: Collection[str], optional: Collection[str]
) -> CaseTable:
    import pyarrow
    from pyarrow import parquet

    parts = []
    for path in paths:
        with files.opened(path) as file:
            part = parquet.ParquetFile(pyarrow.BufferReader(file.read()))
        names = part.schema_arrow.names
        columns = [*needed, *(name for name in optional if name in names)]
        parts.append(part.read(["index", "case", "class", *columns]))
    whole = pyarrow.concat_tables(parts)
    if missing := {"index", "case", "class", *columns} - set(whole.column_names):
        raise KeyError(min(missing))
    named = whole["class"].to_pylist()
    if not named:
        raise ValueError("it has no case")
    classes = tuple(dict.fromkeys(named))
    number = len(classes)
    index = whole["index"].to_numpy()
    order = np.argsort(index[::number], kind="stable")
    if named != list(classes) * (len(named) // number):
        raise ValueError("cases differ in their classes")
    if len(np.unique(index)) * number != len(index):
        raise ValueError("a case is there twice")
    cases = whole["case"].to_pylist()[::number]
    values = {
        name: np.array([round(value, DECIMALS) for value in whole[name].to_numpy().tolist()])
        for name in columns
    }
    return CaseTable(
        tuple(cases[n] for n in order),
        classes,
        {
            name: value.astype(np.float64).reshape(len(cases), len(classes))[order]
            for name, value in values.items()
        },
    )
