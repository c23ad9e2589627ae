"""What the trainer takes from Vertex AI's environment, and how it speaks there."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from tests.jobs import ROOT, SMALL
from trainer import config
from trainer.config import flags
from trainer.distributed import vertex
from trainer.monitoring.metrics_log import MetricsLog

BASE = "gs://b/runs/nuclei"
AIP = {
    "AIP_CHECKPOINT_DIR": f"{BASE}/checkpoints/",
    "AIP_MODEL_DIR": f"{BASE}/model/",
    "AIP_TENSORBOARD_LOG_DIR": f"{BASE}/logs/",
}


def test_folders_come_from_the_environment_where_flags_are_unset():
    job = flags.parse(config.Job, ["trainer.task"], vertex.defaults(AIP))
    assert job.run.run_dir == BASE
    assert job.run.model_dir == f"{BASE}/model"
    assert job.run.tensorboard_dir == f"{BASE}/logs"
    argv = ["trainer.task", "--run_dir=runs/mine", "--model_dir="]
    job = flags.parse(config.Job, argv, vertex.defaults(AIP))
    assert (job.run.run_dir, job.run.model_dir) == ("runs/mine", "")
    assert job.run.tensorboard_dir == f"{BASE}/logs"
    assert vertex.defaults({}) == {}


def test_another_checkpoint_folder_is_the_run_folder_itself():
    assert vertex.defaults({"AIP_CHECKPOINT_DIR": "gs://b/x/"}) == {"run_dir": "gs://b/x"}


def run_flags(code, *argv, environment):
    script = f"from absl import logging\nfrom trainer import cli, config\ndef main(job): {code}\n"
    script += "cli.run(config.Job, main)"
    return subprocess.run(
        [sys.executable, "-c", script, *argv],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_there_each_entry_of_the_log_is_a_json_object_with_its_severity():
    code = "logging.info('step %d\\nmore', 3); logging.warning('höher')"
    result = run_flags(code, environment={"CLOUD_ML_JOB_ID": "1", "PYTHONIOENCODING": "utf-8"})
    entries = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(entry["severity"], entry["message"]) for entry in entries] == [
        ("INFO", "step 3\nmore"),
        ("WARNING", "höher"),
    ]
    assert entries[0]["time"].endswith("+00:00")
    assert (
        run_flags(code, environment={"PYTHONIOENCODING": "utf-8"}).stderr == "step 3\nmore\nhöher\n"
    )


@pytest.mark.parametrize(
    ("code", "argv", "status", "severity", "words", "refused"),
    [
        ("pass", ["--crop=250"], 2, "ERROR", "--crop=250 is not a multiple of 16", True),
        ("raise KeyError('ours')", [], 1, "CRITICAL", "Traceback (most recent call last)", False),
        ("raise cli.RetryableError('gs://b')", [], 2, "ERROR", "gs://b", False),
    ],
)
def test_there_errors_are_one_entry_too(code, argv, status, severity, words, refused):
    result = run_flags(code, *argv, environment={"CLOUD_ML_JOB_ID": "1"})
    assert result.returncode == status
    (entry,) = [json.loads(line) for line in result.stderr.splitlines()]
    assert entry["severity"] == severity
    assert entry["message"].startswith(words)
    assert entry.get("refused", False) is refused


def test_a_trial_reports_in_the_form_that_vertex_ai_reads(tmp_path, monkeypatch):
    path = tmp_path / "hypertune" / "output.metrics"
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(path))
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "7")
    with MetricsLog(str(tmp_path / "run"), True, 0, 200) as report:
        (tmp_path / "run").mkdir()
        for step in range(1, 71):
            report.validation(step, {"dice": step / 100, "loss": 1.0})
    last, loss = (json.loads(line) for line in path.read_text().splitlines())
    assert loss["val/loss"] == "1.0"
    assert last.pop("timestamp") > 1.6e9
    assert last == {
        "trial": "7",
        "val/dice": "0.7",
        "global_step": "70",
        "checkpoint_path": "",
    }


STRANGER = 65534  # nobody
# A stranger may find no Python here, so all of it is loaded before, by a run as root.
AS_A_STRANGER = f"""
import os, sys
from trainer import cli, config, task

def train(run_dir):
    try:
        cli.run(config.Job, task.main, ["trainer.task", f"--run_dir={{run_dir}}", *sys.argv[4:]])
    except SystemExit as end:
        return end.code

assert train(sys.argv[1]) in (0, None)
os.environ |= {{"CLOUD_ML_HP_METRIC_FILE": sys.argv[3], "CLOUD_ML_TRIAL_ID": "3"}}
os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})
sys.exit(train(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_trial_that_may_not_report_says_so_once_and_trains(data_dir):
    if os.getuid() != 0:
        pytest.skip("only root can start a process as another user")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to strangers
        os.chmod(folder, 0o755)
        shutil.copytree(data_dir, f"{folder}/data")
        os.chmod(f"{folder}/data", 0o755)
        for name, owner in (("hypertune", 0), ("home", STRANGER)):
            os.mkdir(f"{folder}/{name}", mode=0o755)
            os.chown(f"{folder}/{name}", owner, owner)
        reports = f"{folder}/hypertune/output.metrics"  # which Vertex AI may mount for root alone
        runs = [f"{folder}/root", f"{folder}/home/run"]
        result = subprocess.run(
            [sys.executable, "-c", AS_A_STRANGER, *runs, reports]
            + [f"--data_dir={folder}/data", *SMALL, "--panels=0", "--worst_cases=0"],
            env={
                "PATH": os.environ["PATH"],
                "HOME": f"{folder}/home",
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert os.path.isdir(f"{folder}/home/run/best")
        assert os.stat(f"{folder}/home/run/run.json").st_uid == STRANGER
        assert os.listdir(f"{folder}/hypertune") == []
    said = [line for line in result.stderr.splitlines() if "learns nothing of this trial" in line]
    assert said == [
        f"{reports} cannot be written (Permission denied), so the search learns nothing "
        "of this trial; run trials as root: launch.vertex --run_as=root."
    ]


def test_outside_of_a_tuning_job_no_trial_is_reported(tmp_path):
    vertex.Trial({}).report(1, "val", {"dice": 1.0})
    assert list(tmp_path.iterdir()) == []
