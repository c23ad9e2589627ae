"""Who takes part in a job, as TF_CONFIG and CLUSTER_SPEC tell it."""

import json

import pytest

from trainer.distributed import membership
from trainer.errors import InputError


def environment(cluster, role, index, name="TF_CONFIG"):
    return {name: json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})}


def test_without_either_variable_there_is_no_membership():
    assert membership.read({}) is None
    assert membership.read({"TF_CONFIG": ""}) is None


@pytest.mark.parametrize("chief", ["chief", "master"])
def test_the_chief_comes_before_the_workers(chief):
    cluster = {"worker": ["b:1", "c:1"], chief: ["a:1"]}
    members = membership.read(environment(cluster, "worker", 1))
    assert members == membership.Membership(("a:1", "b:1", "c:1"), 2)
    assert members.name(2) == "Worker 2 (c:1)"
    assert membership.read(environment(cluster, chief, 0)).index == 0


def test_without_a_chief_the_first_worker_is_the_chief():
    assert membership.read(environment({"worker": ["a:1", "b:1"]}, "worker", 0)).index == 0


def test_tasks_that_do_not_train_are_no_workers():
    cluster = {"chief": ["a:1"], "worker": ["b:1"], "ps": ["r:1", "r:2"], "evaluator": ["e:1"]}
    assert membership.read(environment(cluster, "worker", 0)) == membership.Membership(
        ("a:1", "b:1"), 1
    )


def test_vertex_ais_pools_are_a_chief_workers_a_reduction_server_and_an_evaluator():
    pools = {"workerpool0": ["a:2222"], "workerpool1": ["b:2222"], "workerpool2": ["r:2222"]}
    members = membership.read(environment(pools, "workerpool1", 0, "CLUSTER_SPEC"))
    assert members == membership.Membership(("a:2222", "b:2222"), 1)


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (environment({"worker": ["a:1"]}, "ps", 3), "TF_CONFIG makes this process ps 3, which"),
        (
            environment({"chief": ["a:1"]}, "evaluator", 0),
            "TF_CONFIG makes this process evaluator 0, which",
        ),
        (
            environment({"workerpool0": ["a:1"]}, "workerpool2", 0, "CLUSTER_SPEC"),
            "CLUSTER_SPEC makes this process ps 0, which",
        ),
    ],
)
def test_a_process_that_does_not_train_is_told_so(variables, line):
    with pytest.raises(InputError) as error:
        membership.read(variables)
    assert str(error.value).startswith(line)
    assert str(error.value).endswith(
        "takes no part in training; start trainer commands for its chief and workers only."
    )


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:port"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "cook", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}}',
    ],
)
def test_a_malformed_tf_config_is_refused(text):
    with pytest.raises(InputError) as error:
        membership.read({"TF_CONFIG": text})
    assert str(error.value).startswith("TF_CONFIG names no address for its own task; it needs")
    assert "\n" not in str(error.value)


def test_a_tf_config_that_is_not_json_is_refused():
    with pytest.raises(InputError) as error:
        membership.read({"TF_CONFIG": "{"})
    assert str(error.value).startswith("TF_CONFIG is not JSON (")
