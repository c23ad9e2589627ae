"""Tests of what images and masks are called."""

import glob

import pytest

from trainer.data.formats import naming


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [
        ("photos/a.png", "photos", "a"),
        ("./photos//p1/a.b.tif", "./photos/", "p1/a.b"),
        ("/data/x/p1/s2/a.png", "/data/x", "p1/s2/a"),
        ("gs://bucket/raw/p1/a.png", "gs://bucket/raw", "p1/a"),
    ],
)
def test_files_of_a_folder_are_called_by_their_path_below_it(path, folder, name):
    assert naming.below_folder(path, folder) == name


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.png", ["a"]),
        ("*.png", ["a"]),
        ("p*/img/*.png", ["p1/a", "p2/a"]),
        ("*/img/a.png", ["p1", "p2"]),
        ("p1/img/*.*", ["a"]),
        ("**/*.png", ["a", "p1/img/a", "p2/img/a", "p2/img/deep/b"]),
        ("p2/**/*.png", ["img/a", "img/deep/b"]),
        ("**/img/**/*.png", ["p1/img/a", "p2/img/a", "p2/img/deep/b"]),
        ("**/img/a.png", ["p1", "p2"]),
    ],
)
def test_files_of_a_glob_are_called_by_the_parts_with_wildcards(
    tmp_path, monkeypatch, pattern, names
):
    for path in ("a.png", "p1/img/a.png", "p2/img/a.png", "p2/img/deep/b.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    monkeypatch.chdir(tmp_path)
    for root in ("", "./", f"{tmp_path}/"):
        found = glob.glob(f"{root}{pattern}", recursive=True)
        assert sorted(naming.by_glob(path, f"{root}{pattern}") for path in found) == names
