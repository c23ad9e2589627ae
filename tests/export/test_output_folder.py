"""Tests of where exports go: whole, in place of earlier ones and of nothing else."""

import errno
import json
import os
import stat

import pytest

from trainer.errors import InputError
from trainer.export import output_folder
from trainer.storage import files


def fill(folder, weights, *more):
    """Writes a stand-in for an export."""
    os.makedirs(os.path.join(folder, "variables"))
    for name in ("saved_model.pb", "variables/variables.index", "model_card.md", *more):
        with open(os.path.join(folder, name), "w") as file:
            file.write(weights)
    output_folder.seal(folder, {"weights": weights, "differences": {}})


def export(output, weights, *more):
    with output_folder.opened("output", str(output)) as folder:
        fill(folder, weights, *more)


def refusal(output):
    with pytest.raises(InputError) as error:
        export(output, "new")
    return str(error.value)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "signature.json"
    }


def of(weights, *more):
    names = ("saved_model.pb", "variables/variables.index", "model_card.md", *more)
    return dict.fromkeys(names, weights)


@pytest.mark.parametrize("is_there", [True, False])
def test_an_export_takes_the_place_of_an_earlier_one_with_all_its_files(tmp_path, is_there):
    output = tmp_path / "deep" / "out"
    if is_there:
        output.mkdir(parents=True)
    export(output, "old", "model.onnx")
    assert contents(output) == of("old", "model.onnx")
    output.chmod(0o750)
    export(output, "new")
    assert contents(output) == of("new")
    assert stat.S_IMODE(output.stat().st_mode) == 0o750
    assert os.listdir(tmp_path / "deep") == ["out"]


def test_a_new_folder_has_the_mode_that_the_user_gives_all_folders(tmp_path):
    old = os.umask(0o027)
    try:
        export(tmp_path / "out", "new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750


def test_a_reader_finds_the_old_export_until_the_new_one_is_whole(tmp_path):
    output = tmp_path / "out"
    export(output, "old")
    with output_folder.opened("output", str(output)) as folder:
        os.makedirs(f"{folder}/variables")
        for name in ("saved_model.pb", "variables/variables.index", "model_card.md"):
            with open(os.path.join(folder, name), "w") as file:
                file.write("new")
            assert contents(output) == of("old")
        output_folder.seal(folder, {"weights": "new"})
    assert contents(output) == of("new")


def test_an_export_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    def fail(output):
        with output_folder.opened("output", str(output)) as folder:
            with open(os.path.join(folder, "saved_model.pb"), "w") as file:
                file.write("new")
            raise KeyError

    export(tmp_path / "out", "old")
    for output in ("out", "deep/out"):
        with pytest.raises(KeyError):
            fail(tmp_path / output)
    assert contents(tmp_path / "out") == of("old")
    assert os.listdir(tmp_path) == ["out"]


def test_what_a_killed_export_left_is_removed_and_what_another_writes_is_not(tmp_path):
    output = tmp_path / "out"
    left = tmp_path / f".out.{'0' * 32}.unfinished"
    left.mkdir()
    (left / "saved_model.pb").write_text("half")
    others = tmp_path / ".out.mine.unfinished"
    others.mkdir()
    with output_folder.opened("output", str(output)) as folder:
        export(output, "other")
        assert os.path.exists(folder)
        fill(folder, "new")
    assert contents(output) == of("new")
    assert sorted(os.listdir(tmp_path)) == [".out.mine.unfinished", "out"]


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "saved_model.pb", "variables/mine", "deep/x", "assets/a", "signature.json"],
)
def test_files_of_others_are_named_and_stay(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"theirs": 1}')
    named = tmp_path / "out" / name.replace("deep/x", "deep")
    assert refusal(tmp_path / "out") == (
        f"{named} exists, and no signature.json lists it as part of an export; move it away, or "
        "name another --output."
    )
    assert path.read_text() == '{"theirs": 1}'


def test_so_do_files_that_are_put_beside_an_export_and_a_card_that_was_edited(tmp_path):
    output = tmp_path / "out"
    export(output, "old")
    (output / "notes.txt").write_text("mine")
    assert f"{output}/notes.txt exists, and no signature.json lists it" in refusal(output)
    (output / "notes.txt").unlink()
    (output / "model_card.md").write_text("odl")  # as long as it was
    assert refusal(output) == (
        f"{output}/model_card.md has changed since an export wrote it; move it away, or name "
        "another --output."
    )
    assert contents(output) == {**of("old"), "model_card.md": "odl"}
    (output / "model_card.md").unlink()
    export(output, "new")
    assert contents(output) == of("new")


def test_what_comes_while_the_folder_is_exchanged_is_kept(tmp_path, monkeypatch):
    output = tmp_path / "out"
    export(output, "old")
    exchange = output_folder._exchange

    def write_then_exchange(folder, output):
        with open(os.path.join(output, "notes.txt"), "w") as file:
            file.write("mine")
        return exchange(folder, output)

    monkeypatch.setattr(output_folder, "_exchange", write_then_exchange)
    export(output, "new")
    (kept,) = [path for path in tmp_path.iterdir() if path != output]
    assert contents(kept) == {"notes.txt": "mine"}


def test_a_list_of_files_that_leaves_the_folder_is_no_list(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (tmp_path / "mine").write_text("mine")
    entry = {"bytes": 4, "crc32c": files.crc32c(str(tmp_path / "mine"))}
    listed = {"contents": {"../mine": entry}}
    (output / "signature.json").write_text(json.dumps(listed))
    assert "signature.json exists, and no signature.json lists it" in refusal(output)
    assert (tmp_path / "mine").exists()


def test_a_link_to_a_folder_stays_one(tmp_path):
    export(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    export(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == of("new")


def test_file_systems_without_exchange_rename_twice(tmp_path, monkeypatch):
    class System:
        @staticmethod
        def renameat2(*arguments):
            output_folder.ctypes.set_errno(errno.EINVAL)
            return -1

    export(tmp_path / "out", "old", "model.onnx")
    monkeypatch.setattr(output_folder.ctypes, "CDLL", lambda *arguments, **options: System)
    export(tmp_path / "out", "new")
    assert contents(tmp_path / "out") == of("new")
    assert os.listdir(tmp_path) == ["out"]


def test_a_mounted_folder_takes_one_export_and_no_other(tmp_path, monkeypatch):
    output = tmp_path / "7"
    output.mkdir()
    monkeypatch.setattr(output_folder, "_can_swap", lambda output: False)
    export(output, "old")
    assert contents(output) == of("old")
    assert refusal(output) == (
        f"--output={output} holds another export, which cannot be exchanged there in one step; "
        f"name another folder, such as {tmp_path}/8, or remove that one first."
    )
    assert contents(output) == of("old")


def test_in_a_store_the_file_that_makes_it_loadable_comes_last(gcs, bucket, monkeypatch):
    sent = []
    upload = files.copy_to_store
    monkeypatch.setattr(
        output_folder.files,
        "copy_to_store",
        lambda local, path: (sent.append(path.removeprefix(f"{bucket}/out/")), upload(local, path)),
    )
    export(f"{bucket}/out", "old")
    assert (sent[0], sent[-1]) == ("signature.json", "saved_model.pb")
    assert gcs.names(f"{bucket}/out/") == [
        "model_card.md",
        "saved_model.pb",
        "signature.json",
        "variables/variables.index",
    ]


def test_in_a_store_an_export_is_continued_kept_and_never_mixed_with_another(
    gcs, bucket, monkeypatch
):
    output = f"{bucket}/models/1"
    upload = files.copy_to_store

    def fail_at_the_end(local, path):
        if path.endswith(".pb"):
            raise KeyError
        upload(local, path)

    with monkeypatch.context() as patch:
        patch.setattr(output_folder.files, "copy_to_store", fail_at_the_end)
        with pytest.raises(KeyError):
            export(output, "half", "model.onnx")
    assert "model.onnx" in gcs.names(f"{output}/")
    export(output, "old")
    assert "model.onnx" not in gcs.names(f"{output}/")
    export(output, "old")  # which is there already
    line = (
        f"--output={output} holds another export, which cannot be exchanged there in one step; "
        f"name another folder, such as {bucket}/models/2, or remove that one first."
    )
    assert refusal(output) == line
    assert gcs.read(f"{output}/saved_model.pb") == b"old"
    output_folder.check("model_dir", output)
    with pytest.raises(InputError, match=f"^--model_dir={output} holds another export"):
        output_folder.check("model_dir", output, will_differ=True)
    gcs.write(f"{output}/variables/mine", b"mine")
    assert f"{output}/variables/mine exists, and no signature.json lists it" in refusal(output)
