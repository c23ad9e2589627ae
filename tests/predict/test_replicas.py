"""Replicas of a job that predict a part each."""

import json

import pytest

from trainer import config
from trainer.errors import InputError
from trainer.predict import replicas


def environment(folder, index):
    cluster = {"workerpool0": ["a:2222"], "workerpool1": ["b:2222", "c:2222"]}
    pool, place = ("workerpool0", 0) if index == 0 else ("workerpool1", index - 1)
    return {
        "CLOUD_ML_JOB_ID": "77",
        "AIP_CHECKPOINT_DIR": f"{folder}/checkpoints",
        "CLUSTER_SPEC": json.dumps(
            {"cluster": cluster, "task": {"type": pool, "index": place}, "environment": "cloud"}
        ),
    }


def test_each_replica_predicts_its_part_once_and_the_first_joins_all(tmp_path):
    done = []
    settings = config.Predict(part="auto")

    def predict(asked):
        done.append(asked.part)

    for index in (2, 1, 0):
        replicas.predict(settings, predict, environment(tmp_path, index))
    assert done == ["3/3", "2/3", "1/3", ""]
    for index in (2, 0):  # started again: what is finished is not done again, joining is
        replicas.predict(settings, predict, environment(tmp_path, index))
    assert done[4:] == [""]


def test_outside_a_job_there_is_no_replica():
    with pytest.raises(InputError, match=r"^--part=auto finds no Vertex AI job with replicas"):
        replicas.predict(config.Predict(part="auto"), print, {})
