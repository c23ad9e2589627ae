"""Tables of cases: what is written in CSV and in Parquet, and read from either."""

import importlib.util
import sys

import numpy as np
import pytest
from pyarrow import parquet

from trainer.errors import InputError
from trainer.evaluate import case_rows, case_tables
from trainer.evaluate.case_tables import COUNTS, CaseTables

CLASSES = ("background", "a", "b")
NAMES = ("x/1", "two\nlines", "a,b", "é", "not read", "6", "7")


def rows_of(cases, seed=0):
    """Returns rows of cases, among them undefined scores and one that six decimals cannot hold."""
    rng = np.random.default_rng(seed)
    counts = np.sort(rng.integers(0, 40, (len(NAMES), 3, 3)))[..., ::-1]
    counts[1, 2] = 0
    nsd = np.where(counts[..., 0] > 20, np.nan, rng.random((len(NAMES), 3)))
    nsd[0, 1] = 2.5e-6  # as a float it is less, and rounds down
    found = [case_rows.of_case(n, counts[n], counts[n] / 3, {"nsd": nsd[n]}) for n in cases]
    return case_rows.concatenate(found)


def write_parts(folder, *parts):
    """Writes the tables of several workers, each with rows of some cases, block by block."""
    for worker, blocks in enumerate(parts):
        with CaseTables(NAMES, CLASSES) as tables:
            tables.keep(case_rows.empty(3, ["nsd"]))
            for block in blocks:
                tables.keep(rows_of(block))
            tables.save(str(folder / case_tables.file_name(worker, len(parts))))


def read(folder):
    return case_tables.read(str(folder), (*COUNTS, "dice"), ("nsd", "hd95"))


def same(a, b):
    assert a.cases == b.cases
    assert a.classes == b.classes
    assert list(a.columns) == list(b.columns) == [*COUNTS, "dice", "nsd"]
    for name, values in a.columns.items():
        np.testing.assert_array_equal(values, b.columns[name])


def test_parquet_of_any_number_of_workers_reads_as_csv_does(tmp_path):
    """A case has been left out, and each worker has had its cases in an order of its own."""
    seen = [0, 1, 2, 3, 5, 6]
    for name, parts in (("one", [[seen]]), ("three", [[[6, 1], [3]], [], [[5, 0, 2]]])):
        (tmp_path / name).mkdir()
        write_parts(tmp_path / name, *parts)
    (tmp_path / "csv").mkdir()
    text = case_tables.to_csv(NAMES, CLASSES, rows_of(seen))
    case_tables.replace(str(tmp_path / "csv"), text)
    expected = read(tmp_path / "csv")
    assert expected.cases == tuple(NAMES[n] for n in seen)
    assert np.isnan(expected.columns["dice"][1, 2])
    same(read(tmp_path / "one"), expected)
    same(read(tmp_path / "three"), expected)


def test_parquet_has_the_columns_of_the_csv_and_its_figures_in_full(tmp_path):
    write_parts(tmp_path, [[0, 1]])
    table = parquet.read_table(tmp_path / "cases-00000-of-00001.parquet").to_pydict()
    head = case_tables.to_csv(NAMES, CLASSES, rows_of([0])).splitlines()[0].split(",")
    assert list(table) == ["index", *head]
    rows = rows_of([0, 1])
    assert table["class"] == [*CLASSES, *CLASSES]
    assert table["case"] == [NAMES[0]] * 3 + [NAMES[1]] * 3
    assert table["truth"] == rows.counts[..., 0].ravel().tolist()
    assert table["dice"][5] is None
    assert table["nsd"][1] == 2.5e-6


def test_more_cases_than_a_csv_gets_need_pyarrow_before_anything_is_done(monkeypatch):
    case_tables.check("test", 100_001)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    case_tables.check("test", 100_000)
    message = (
        r"^The split test has 100,001 cases; the scores of more than 100,000 are written in "
        r'Parquet, which needs pyarrow: pip install "\.\[parquet\]"\.$'
    )
    with pytest.raises(InputError, match=message):
        case_tables.check("test", 100_001)


def test_tables_that_are_not_whole_are_refused(tmp_path, monkeypatch):
    write_parts(tmp_path, [[0, 1]], [[2]])
    second = tmp_path / "cases-00001-of-00002.parquet"
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(InputError, match=r"\(cases-00001-of-00002\.parquet is missing\); evaluate"):
        read(tmp_path)
    second.write_bytes((tmp_path / "cases-00000-of-00002.parquet").read_bytes())
    with pytest.raises(InputError, match=r"\(a case is there twice\); evaluate again\.$"):
        read(tmp_path)
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="is not the table of an evaluation"):
        read(tmp_path)
    second.write_bytes(content)
    with pytest.raises(InputError, match=r"\('hd95'\); evaluate again\.$"):
        case_tables.read(str(tmp_path), ["hd95"])
    (tmp_path / "cases-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"\(.*of-00001\.parquet is of another evaluation\)"):
        read(tmp_path)


def test_a_reader_without_pyarrow_says_what_it_needs(tmp_path, monkeypatch):
    write_parts(tmp_path, [[0, 1]])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'is read by pyarrow; pip install "\.\[parquet\]"\.$'):
        read(tmp_path)


def test_of_one_process_all_tables_are_written_at_once_with_more_columns(tmp_path, monkeypatch):
    for most in (7, 6):
        monkeypatch.setattr(case_tables, "MOST_IN_CSV", most)
        folds = np.array([0, 1, 1])
        rows = rows_of([0, 2, 3])
        case_tables.write(str(tmp_path), NAMES, CLASSES, rows, fold=folds)
        assert (tmp_path / "cases.csv").exists() == (most == 7)
        found = case_tables.read(str(tmp_path), ["fold"])
        np.testing.assert_array_equal(found.columns["fold"], np.repeat(folds, 3).reshape(3, 3))
        assert found.cases == ("x/1", "a,b", "é")


def test_a_folder_without_a_table_or_a_case_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cases\.csv is not the table of an evaluation"):
        read(tmp_path)
    write_parts(tmp_path, [])
    with pytest.raises(InputError, match=r"\(it has no case\); evaluate again\.$"):
        read(tmp_path)
