"""Several replicas train and evaluate like one; of several workers, test_selfcheck.py."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.devices import strategy_of, without_bfloat16
from trainer import config
from trainer.distributed import arithmetic
from trainer.models import norms
from trainer.selfcheck import hard_data, invariance
from trainer.training import losses, optimizers

FIRST = next(iter(invariance.CASES))
# What a sum over more than two replicas is part of: a norm's statistics, batches in parts, or only
# losses and gradients.
ON_FOUR = (
    *(FIRST, "loss=tversky, norm=none, dropout=0.3"),
    "loss=ce_dice_boundary, accumulate_steps=2, clip_norm=0.1",
)


@pytest.fixture(scope="module")
def folder():
    with hard_data.data_folder() as path:
        yield path


def trained(number, job):
    return invariance.train(invariance.open_side(strategy_of(number), job), job)


@pytest.fixture(scope="module")
def trained_alone(folder):
    return trained(1, invariance.job_of(FIRST, folder, 1))


def assert_same(rows):
    assert rows
    assert [row for row in rows if not row.same] == []


def test_the_cases_are_the_rows_of_the_tables():
    text = ", ".join(invariance.CASES)
    found = {flag: set(re.findall(rf"\b{flag}=(\w+)", text)) for flag in ("loss", "norm")}
    assert found["loss"] == set(losses.LOSSES)
    # auto is sync_batch on several replicas; batch is what differs.
    assert found["norm"] == {"auto", *norms.NORMS} - {"batch", "sync_batch"}
    assert set(ON_FOUR) <= set(invariance.CASES)
    precisions = {invariance.job_of(name, "", 2).device.precision for name in invariance.CASES}
    assert precisions == set(arithmetic.POLICIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", invariance.CASES)
def test_replicas_train_like_one(folder, name):
    job = invariance.job_of(name, folder, 1)
    if job.device.precision == "bfloat16":
        without_bfloat16()
    one = trained(1, job)
    for number in (2, 4) if name in ON_FOUR else (2,):
        assert job == invariance.job_of(name, folder, number)  # 1, 2 and 4 divide 8 images a step
        assert_same(invariance.compare_training(one, trained(number, job), job, name))


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("name", invariance.EVALUATED)
def test_replicas_evaluate_like_one_though_some_have_nothing(folder, trained_alone, name, number):
    job = invariance.job_of(name, folder, number)
    one = trained_alone if name == FIRST else trained(1, job)
    with strategy_of(number).scope():
        model = one.model.__class__.from_config(one.model.get_config())
    model.set_weights(one.weights)
    rows = invariance.compare_scores(
        invariance.evaluate(strategy_of(1), one.model, job),
        invariance.evaluate(strategy_of(number), model, job),
    )
    assert_same(rows)
    assert {"evaluation: dice", "evaluation: pooled.foreground.iou"} < {row.what for row in rows}


@pytest.mark.slow
def test_the_data_leave_a_replica_without_a_pixel_and_none_of_the_steps(folder):
    side = invariance.open_side(strategy_of(2), invariance.job_of(FIRST, folder, 2))
    counts = [
        [float(tf.reduce_sum(part)) for part in next(side.batches)["valid"].values]
        for _ in range(invariance.NUM_STEPS * len(invariance.CASES))
    ]
    assert min(min(step) for step in counts) == 0
    assert min(sum(step) for step in counts) > 0


@pytest.mark.slow
def test_batch_norm_of_each_replica_is_found_to_differ(folder, trained_alone):
    # What is documented in docs/replicas.md; if this passes as same, the proof sees nothing.
    job = config.from_dict(
        config.Job, {**config.to_dict(invariance.job_of(FIRST, folder, 2)), "norm": "batch"}
    )
    rows = invariance.compare_training(trained_alone, trained(2, job), job, "norm=batch")
    assert [row.same for row in rows] == [False] * 3


def test_what_is_not_a_number_is_not_the_same():
    nan = invariance.largest_difference([np.array([0.0, np.nan])], [np.array([0.0, np.nan])])
    assert not invariance.Row("loss", np.nan, np.nan, nan, 1e-5).same


def test_the_table_says_what_differs():
    rows = [
        invariance.Row("a: loss", 1.5, 1.5, 0.0, 1e-5),
        invariance.Row("a: weights", 2.0, 2.5, 0.25, 1e-5),
    ]
    head, same, different, _, last = invariance.table(rows, strategy_of(2)).splitlines()
    assert head.split() == [
        "what",
        "1",
        "replica",
        "2",
        "replicas",
        "difference",
        "tolerance",
        "verdict",
    ]
    assert same.split() == ["a:", "loss", "1.5", "1.5", "0.0e+00", "1e-05", "same"]
    assert different.split() == ["a:", "weights", "2", "2.5", "2.5e-01", "1e-05", "DIFFERENT"]
    assert last == "2 replicas (1 worker, CPU) differ from one in 1 of 2 figures."


def test_every_optimizer_has_a_tolerance(folder):
    for name in optimizers.OPTIMIZERS:
        values = {**config.to_dict(invariance.job_of(FIRST, folder, 2)), "optimizer": name}
        job = config.from_dict(config.Job, values)
        assert 0 < invariance.tolerance_of(job, "weights") < 0.01
