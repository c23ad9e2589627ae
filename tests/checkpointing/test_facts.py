"""Lists of run folders, whatever their names are."""

import pytest

from trainer.checkpointing import facts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ,", ["a", "b"]),
        ("lr=0.1,bs=4", ["lr=0.1,bs=4"]),
        ("a,lr=0.1,bs=4,b", ["a", "lr=0.1,bs=4", "b"]),
        ("lr=0.1,bs=4,lr=0.1,bs=4,x", ["lr=0.1,bs=4", "lr=0.1,bs=4,x"]),
        ("no,run", ["no", "run"]),
        ("", []),
    ],
)
def test_run_folders_with_commas_in_their_names_are_found_in_a_list(
    tmp_path, monkeypatch, text, found
):
    for name in ("a", "b", "lr=0.1,bs=4", "lr=0.1,bs=4,x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
    monkeypatch.chdir(tmp_path)
    assert facts.folders(text) == found
