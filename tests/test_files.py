"""Tests of files, local and in an object store; TensorFlow's ram:// stands for the latter."""

import pytest

from trainer import files


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    return str(tmp_path / "a" / "b") if request.param == "local" else "ram://files/a/b"


def test_files_are_written_moved_and_removed(folder):
    files.make_folder(folder)
    with files.open_file(f"{folder}/x", "w") as file:
        file.write("é")
    with files.open_file(f"{folder}/y", "wb") as file:
        file.write(b"old")
    files.move(f"{folder}/x", f"{folder}/y")
    assert not files.exists(f"{folder}/x")
    with files.open_file(f"{folder}/y", "rb") as file:
        assert file.read() == "é".encode()
    files.remove(f"{folder}/y")
    files.remove(f"{folder}/y")
    assert not files.exists(f"{folder}/y")


def test_only_folders_that_were_made_are_named_and_only_empty_ones_removed(tmp_path):
    made = files.make_folder(str(tmp_path / "a" / "b"))
    assert made == [str(tmp_path / "a" / "b"), str(tmp_path / "a")]
    assert files.make_folder(str(tmp_path / "a")) == []
    (tmp_path / "a" / "x").write_text("")
    for path in made:
        files.remove_empty_folder(path)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]
