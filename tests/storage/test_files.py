"""Tests of files, local and in an object store."""

import importlib.util
import os
import stat
import threading

import pytest

from trainer import cli, config, task
from trainer.data import inspect
from trainer.data.prepare import preparation
from trainer.errors import InputError
from trainer.evaluate import __main__ as evaluate
from trainer.storage import files


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "a" / "b")
    return f"{request.getfixturevalue('bucket')}/a/b"


def test_files_are_written_in_place_of_others_and_removed(folder):
    files.make_folder(folder)
    with files.writing(f"{folder}/y", "wb") as file:
        file.write(b"old")
    with files.writing(f"{folder}/y") as file:
        file.write("é")
    with files.open_file(f"{folder}/y", "rb") as file:
        assert file.read() == "é".encode()
    assert files.list_folder(folder) == ["y"]
    files.remove(f"{folder}/y")
    files.remove(f"{folder}/y")
    assert not files.exists(f"{folder}/y")


def _break_off(path, content, mode="w"):
    with files.writing(path, mode) as file:
        file.write(content)
        raise KeyError


@pytest.mark.parametrize("place", ["local", "ram", "gs"])
def test_a_writer_that_raises_publishes_nothing(place, tmp_path, request):
    folder = {"local": str(tmp_path), "ram": "ram://unfinished"}.get(place)
    folder = folder or request.getfixturevalue("bucket")
    with pytest.raises(KeyError):
        _break_off(f"{folder}/new", "some of it")
    assert not files.exists(f"{folder}/new")
    files.write_whole(f"{folder}/old", "whole")
    with pytest.raises(KeyError):
        _break_off(f"{folder}/old", b"n" * 2**21, "wb")
    assert files.read_text(f"{folder}/old") == "whole"
    assert files.list_folder(folder) == ["old"]


def test_a_file_is_written_through_its_link_and_keeps_its_mode(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    files.write_whole(str(tmp_path / "link"), "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_files_that_are_beside_a_written_one_are_left_alone(tmp_path):
    for name in ("x.tmp", ".x.tmp"):
        (tmp_path / name).write_text("mine")
    files.write_whole(str(tmp_path / "x"), "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.tmp", "x", "x.tmp"]
    assert (tmp_path / "x.tmp").read_text() == "mine"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    found = []
    read.start()
    files.write_whole(str(tmp_path / "pipe"), "through it")
    read.join()
    assert found == ["through it"]
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    files.write_whole("/dev/null", "lost")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_only_folders_that_were_made_are_named_and_only_empty_ones_removed(tmp_path):
    made = files.make_folder(str(tmp_path / "a" / "b"))
    assert made == [str(tmp_path / "a" / "b"), str(tmp_path / "a")]
    assert files.make_folder(str(tmp_path / "a")) == []
    (tmp_path / "a" / "x").write_text("")
    for path in made:
        files.remove_empty_folder(path)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


needs_no_tensorflow_io = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_io") is not None, reason="tensorflow-io is here"
)


@needs_no_tensorflow_io
@pytest.mark.parametrize("path", ["s3://bucket/folder", "az://account/container/folder"])
def test_stores_that_take_tensorflow_io_say_what_to_install(path):
    with pytest.raises(InputError) as error:
        files.exists(path)
    assert str(error.value) == (
        f"{path} needs tensorflow-io, which works with TensorFlow 2.17 only; install both in an "
        'environment of their own: pip install ".[io]".'
    )


@needs_no_tensorflow_io
@pytest.mark.parametrize(
    ("cls", "main", "arguments"),
    [
        (config.Job, task.main, ["--run_dir=s3://bucket/run"]),
        (config.Job, task.main, ["--data_dir=s3://bucket/data"]),
        (
            config.Prepare,
            preparation.prepare,
            ["--images=x", "--masks=y", "--output=s3://bucket/data"],
        ),
    ],
)
def test_commands_end_with_that_line(capsys, cls, main, arguments):
    with pytest.raises(SystemExit) as stop:
        cli.run(cls, main, ["command", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(arguments[-1].partition("=")[2])
    assert " needs tensorflow-io, " in line


@pytest.mark.parametrize(
    ("cls", "main", "arguments"),
    [
        (config.Job, task.main, ["--run_dir=http://x"]),
        (config.Job, task.main, ["--data_dir=http://x"]),
        (config.Inspect, inspect.main, ["--data_dir=GS://x"]),
        (config.Inspect, inspect.main, ["--sheet=ftp://x/y.png"]),
        (config.Prepare, preparation.prepare, ["--images=x", "--masks=y", "--output=ftp://x"]),
        (config.Evaluate, evaluate.main, ["--json=http://x"]),
    ],
)
def test_an_unknown_scheme_is_refused_in_one_line_that_lists_the_known_ones(
    capsys, cls, main, arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.run(cls, main, ["command", *arguments])
    assert stop.value.code == 2
    assert list(tmp_path.iterdir()) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(arguments[-1].partition("=")[2])
    assert line.endswith(
        " has an unknown scheme; name a local path, or one that begins with gs://, s3:// or az://."
    )


def test_images_of_an_unknown_scheme_are_refused(tmp_path):
    settings = config.Prepare(images="http://x", masks="y", output=str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"^http://x has an unknown scheme; name a local path, or"):
        preparation.prepare(settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["NoSuchBucket", "AccessDenied", "AuthenticationFailed"])
def test_a_refusal_of_s3_or_azure_becomes_one_line(code):
    said = files.explain(f"{code}: The specified thing\nis not for you")
    assert said.startswith(f"The store refused a request ({code}: The specified thing is not for")
    assert said.endswith("check the name of the bucket, and what your credentials may do there.")
    assert "\n" not in said


def test_an_error_that_is_no_refusal_is_not_explained():
    assert files.explain("Shapes must be equal rank, but are 1 and 2") is None


def test_a_report_has_a_folder_before_the_work_or_one_line(tmp_path):
    files.prepare_file("json", str(tmp_path / "new" / "rows.json"), ["rows"])
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "file" / "rows.json", "cannot be written: File exists; name another file."),
        ("/proc/rows.json", "cannot be written: No such file or directory; name another file."),
        (tmp_path / "new", "is a folder; name a file."),
    ):
        with pytest.raises(InputError) as error:
            files.prepare_file("json", str(path), ["rows"])
        assert str(error.value) == f"--json={path} {reason}"


@pytest.mark.parametrize("path", ["gs://", "gs://rows.json", "gs://bucket/"])
def test_a_bucket_is_no_file(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        files.prepare_file("json", path, ["rows"])
    assert str(error.value) == (
        f"--json={path} names no file; name one in a bucket: gs://BUCKET/FILE."
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["local", "gs"])
def test_only_files_like_those_that_are_written_are_replaced(place, tmp_path, request):
    folder = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    path = f"{folder}/x.json"
    for content in ("", '{"rows": 1}'):
        files.check_replaceable("json", path, ['"rows"'])
        files.write_whole(path, content)
    files.check_replaceable("json", path, ['"columns"', '"rows"'])
    with pytest.raises(InputError) as error:
        files.check_replaceable("json", path, ['"columns"'])
    assert str(error.value) == (
        f"--json={path} exists, and no such command wrote it; move it away, or name another file."
    )
    files.check_replaceable("json", "/dev/null", ['"columns"'])
