"""The proof as a command: what it prints, how it ends, and on several workers."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tests.devices import strategy_of
from tests.jobs import environments
from trainer import config
from trainer.distributed import strategies
from trainer.errors import InputError
from trainer.selfcheck import __main__ as selfcheck
from trainer.selfcheck import invariance
from trainer.training import losses

FIRST = next(iter(invariance.CASES))
# What is summed over workers: a norm's statistics, batches in parts, only losses and gradients.
THREE = ("norm=auto", "accumulate", "norm=none")


def divided_by_its_own_weight(terms, weights, labels, logits, valid, class_weights, total):
    sums = losses.sums(terms, labels, logits, valid, class_weights)
    own = losses.weights(terms, labels, valid, class_weights)
    replicas = tf.distribute.get_replica_context().num_replicas_in_sync
    return tf.math.divide_no_nan(sums, own * replicas)


@pytest.mark.slow
def test_the_check_fails_where_a_replica_divides_by_its_own_pixels(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(strategies, "connect_several", lambda *given: strategy_of(2))
    monkeypatch.setattr(losses, "partial_losses", divided_by_its_own_weight)
    with pytest.raises(SystemExit) as error:
        selfcheck.main(config.SelfCheck(only="norm=none", json=str(tmp_path / "rows")))
    assert error.value.code == 1
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "2 replicas (1 worker, CPU) differ from one in 3 of 3 figures."
    rows = json.loads((tmp_path / "rows").read_text())
    assert [row["same"] for row in rows] == [False] * 3


@pytest.mark.slow
def test_two_workers_train_and_evaluate_like_one(tmp_path):
    argv = [sys.executable, "-m", "trainer.selfcheck", "--strategy=multi_worker"]
    argv += [f"--only={','.join(THREE)}", f"--json={tmp_path / 'rows'}"]
    workers = [
        subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        for environment in environments(2)
    ]
    outputs = [worker.communicate(timeout=600) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert outputs[0][0].splitlines()[-1] == "2 replicas (2 workers, CPU) train like one."
    assert outputs[1][0] == ""  # one worker speaks
    rows = json.loads((tmp_path / "rows").read_text())
    cases = [name for name in invariance.CASES if any(part in name for part in THREE)]
    assert len(cases) == 3
    assert {row["what"].split(":")[0] for row in rows} == {*cases, "evaluation"}
    assert [row for row in rows if not row["same"]] == []


@pytest.mark.slow
def test_one_replica_of_gpus_is_trained_in_a_process_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(strategies, "connect_several", lambda *given: strategy_of(2))
    of_gpus = invariance._apart("GPU", "/GPU:0")
    monkeypatch.setattr(invariance, "_apart", lambda kind, device: of_gpus)
    monkeypatch.setattr(tf.distribute, "OneDeviceStrategy", None)  # here it would raise
    selfcheck.main(config.SelfCheck(only="norm=auto"))
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "2 replicas (1 worker, CPU) train like one."


def test_without_only_every_case_is_compared(monkeypatch, capsys):
    compared = []
    monkeypatch.setattr(strategies, "connect_several", lambda *given: strategy_of(2))
    monkeypatch.setattr(invariance, "compare", lambda strategy, jobs: compared.extend(jobs) or [])
    assert invariance.check(config.SelfCheck())
    assert compared == list(invariance.CASES)


def test_nothing_to_compare_is_one_line(monkeypatch):
    monkeypatch.setattr(strategies, "connect_several", lambda *given: strategy_of(1))
    with pytest.raises(InputError) as error:
        invariance.check(config.SelfCheck())
    assert str(error.value) == (
        "--strategy=auto has one replica only, so there is nothing to compare; use "
        "--virtual_devices=2, or a machine with several devices."
    )


def test_a_name_of_no_case_is_one_line(monkeypatch):
    monkeypatch.setattr(strategies, "connect_several", lambda *given: strategy_of(2))
    with pytest.raises(InputError) as error:
        invariance.check(config.SelfCheck(only="norm=layer"))
    assert str(error.value).startswith(
        f"--only=norm=layer matches no case; the names are: {FIRST}; "
    )
