"""A job as the holder of its run folder."""

import json

import pytest

from tests.shards import write_data
from trainer import config
from trainer.checkpointing import run_metadata
from trainer.checkpointing.session import open_session
from trainer.errors import InputError


def job_of(tmp_path, splits=("train", "val")):
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data", {split: [(16, 16)] * 4 for split in splits})
    settings = {"data_dir": str(tmp_path / "data"), "run_dir": str(tmp_path / "run")}
    settings |= {"strategy": "one_device", "precision": "float32", "jit_compile": "false"}
    return config.from_dict(config.Job, settings)


def test_a_session_holds_the_run_folder_until_it_ends(tmp_path):
    with open_session(job_of(tmp_path)) as session:
        session.run_lock.check()
        assert (tmp_path / "run" / "lease.json").exists()
        assert session.is_chief
        assert not session.is_cancelled()
        assert session.metadata["unreadable_records"] == []
    assert not (tmp_path / "run").exists()  # nothing was written into it


@pytest.mark.parametrize(
    ("splits", "final"), [(("train", "val"), "val"), (("train", "val", "test"), "test")]
)
def test_the_test_split_is_the_final_one_where_there_is_one(tmp_path, splits, final):
    with open_session(job_of(tmp_path, splits)) as session:
        assert session.final_split == final


def test_why_a_run_ended_is_written_into_the_run_json_it_has(tmp_path):
    with open_session(job_of(tmp_path)) as session:
        run_metadata.write(session.job.run.run_dir, session.metadata)
        session.ending.reason = "finished"
    found = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (found["exit_reason"], found["unreadable_records"]) == ("finished", [])


def test_a_second_session_on_a_run_folder_is_refused(tmp_path):
    job = job_of(tmp_path)
    with open_session(job), pytest.raises(InputError, match="is being written by process"):
        open_session(job).__enter__()
