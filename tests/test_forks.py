"""Which commands of the tests are forked, and that they behave like started ones."""

import os

import pytest

from tests import forks, jobs
from trainer import cli, config


def test_a_command_is_forked_after_another_ran_in_this_process(capsys):
    with pytest.raises(SystemExit):
        cli.run(config.Checkpoint, print, ["trainer.checkpointing", "--help"])
    assert forks.is_able({**os.environ, **jobs.COMMON, "TF_CONFIG": "{}"})


def test_a_variable_that_an_import_may_read_takes_a_process_of_its_own():
    assert not forks.is_able({**os.environ, **jobs.COMMON, "GCS_READ_CACHE_BLOCK_SIZE_MB": "1"})


@pytest.mark.slow
def test_a_forked_command_has_its_own_folder_output_and_status(tmp_path):
    process = jobs.begin("trainer.checkpointing", "list", ".", cwd=tmp_path)
    assert isinstance(process, forks.Process)
    assert process.communicate() == (
        "",
        "--run_dir=. has no checkpoints; name a folder that trainer.task wrote.\n",
    )
    assert process.returncode == 2
