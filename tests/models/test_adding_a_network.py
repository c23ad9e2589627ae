"""A network from outside the package, with several outputs: how to add one.

Each output is trained by the labels at its own resolution (deep supervision). `logits`, the one at
the image's resolution, is the prediction.
"""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import jobs, rounding
from tests.devices import strategy_of
from tests.runs import draw, write_run
from tests.shards import write_data
from tests.training.test_adding_a_loss import BRIER
from trainer import config, loop, models
from trainer.checkpointing import best_weights, run_metadata
from trainer.errors import InputError
from trainer.evaluate import ensemble, eval_step, evaluator
from trainer.models import build, channel_packing, plain_keras
from trainer.training import losses, train_step


def supervised(input_shape, n_filters, num_classes, *, norm="batch", activation="silu", **options):
    """Builds a U-Net of depth 1, whose bottom is trained by labels at half the resolution."""
    styled = {"norm": norm, "activation": activation}
    images = keras.Input(input_shape)
    skip = models.conv_block(images, n_filters, **styled)
    x = models.conv_block(keras.layers.MaxPooling2D(2)(skip), 2 * n_filters, **styled)
    half = keras.layers.Conv2D(num_classes, 1, dtype="float32", name="half")(x)
    x = keras.layers.Concatenate()([skip, models.up_conv(x, n_filters, **styled)])
    full = keras.layers.Conv2D(num_classes, 1, dtype="float32", name="logits")(x)
    return keras.Model(images, {"half": half, "logits": full})


IMAGES = np.random.default_rng(0).normal(size=(8, 16, 16, 1)).astype(np.float32)
BATCH = {
    "images": IMAGES,
    "labels": (IMAGES[..., 0] > 0.5).astype(np.int32),
    "valid": np.ones((8, 16, 16), np.float32),
}


@pytest.fixture
def row(monkeypatch):
    """The row of `--model=unet` is the network above."""
    monkeypatch.setitem(models.MODELS, "unet", supervised)


def train(number=1, **options):
    """Trains two steps; returns the figures and the weights."""
    strategy = strategy_of(number)
    with strategy.scope():
        model = supervised((None, None, 1), 4, 1, norm="none")
        models.initialize_weights(model, 0)
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
    batch = {key: np.concatenate([x[r::number] for r in range(number)]) for key, x in BATCH.items()}
    data = tf.data.Dataset.from_tensor_slices(batch).batch(8 // number, drop_remainder=True)
    loop = train_step.train_loop(
        strategy, model, optimizer, losses.LOSSES["ce_dice"], tf.ones(2), **options
    )
    iterator = iter(strategy.distribute_datasets_from_function(lambda context: data.repeat()))
    series = {key: value.numpy() for key, value in loop(iterator, tf.constant(2)).items()}
    return series, model.get_weights()


@pytest.mark.slow
def test_every_output_is_trained_by_the_labels_at_its_resolution():
    model = supervised((None, None, 1), 4, 1, norm="none")
    models.initialize_weights(model, 0)
    outputs = model(IMAGES)
    labels, valid = tf.constant(BATCH["labels"]), tf.constant(BATCH["valid"])

    def loss(logits, labels, valid):
        entropy, dice = (
            losses.cross_entropy(labels, logits),
            losses.soft_dice(labels, logits, valid),
        )
        return float(tf.reduce_mean(entropy) + tf.reduce_mean(dice))

    full = loss(outputs["logits"], labels, valid)
    half = loss(outputs["half"], labels[:, 1::2, 1::2], valid[:, 1::2, 1::2])
    series, weights = train()
    # The full resolution counts twice as much as the half.
    expected = 2 / 3 * full + 1 / 3 * half
    assert series["loss"][0] == pytest.approx(expected, rel=rounding.tolerance(8 * 16 * 16))
    named = zip(model.variables, model.get_weights(), weights, strict=True)
    assert all(np.any(before != after) for _, before, after in named)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "options"),
    [(2, {}), (1, {"accumulate_steps": 4}), (1, {"lane_width": 16}), (1, {"jit_compile": True})],
)
def test_it_trains_alike_on_replicas_in_parts_and_packed(number, options):
    # As in test_train_step: two steps, 300 products each way, sums over 8 images.
    apart = rounding.tolerance(operations=2 * (2 * 300 + 8 * 16 * 16))
    (one, weights), (other, other_weights) = train(), train(number, **options)
    np.testing.assert_allclose(other["loss"], one["loss"], atol=apart)
    for ours, theirs in zip(other_weights, weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=apart)


def test_packing_and_folding_pass_all_outputs_through():
    model = supervised((None, None, 1), 4, 3)
    draw(model)
    expected = model(IMAGES, training=False)
    for forward in (channel_packing.packed(model, 16), models.fold(model)):
        found = forward(IMAGES, training=False)
        assert set(found) == {"half", "logits"}
        for name, value in expected.items():
            rounding.assert_close(found[name], value, rounding.operations_of(model))


@pytest.mark.slow
def test_evaluation_prediction_and_export_take_the_prediction(row, tmp_path):
    run_dir = write_run(tmp_path / "run")
    model, _ = best_weights.best_model(run_dir, run_metadata.read(run_dir))
    probability = tf.sigmoid(model(IMAGES)["logits"]).numpy()
    apart = rounding.tolerance(rounding.operations_of(model), magnitude=10)

    core = plain_keras.core(model)  # what is exported
    np.testing.assert_allclose(core(IMAGES)[..., 1:], probability, rtol=0, atol=apart)

    predicting = ensemble.Ensemble([run_dir]).members[0].model
    np.testing.assert_allclose(tf.sigmoid(predicting(IMAGES)), probability, rtol=0, atol=apart)

    manifest = write_data(tmp_path, {"train": [(8, 8)], "val": [(16, 16)]})
    data = str(tmp_path), manifest
    job = config.Job(model=config.Model(depth=1))
    evaluate = evaluator.Evaluator(
        strategy_of(1),
        eval_step.prediction_of(strategy_of(1), model),
        *data,
        evaluator.source_of(job, strategy_of(1), *data, batch_size=1, tile=64),
        terms=losses.LOSSES["dice"],
        class_weights=tf.ones(2),
    )
    assert evaluate("val").summary["images"] == 1


def test_the_settings_build_it(row):
    model = build.build_model(config.Model(filters=2, depth=1), channels=3, num_classes=4)
    assert model.output["half"].shape == (None, None, None, 4)


PROGRAM = """
from trainer import cli, config, task


def main(job):
    from tests.models.test_adding_a_network import supervised
    from tests.training.test_adding_a_loss import BRIER
    from trainer import models
    from trainer.training import losses

    models.MODELS["supervised"], losses.LOSSES["brier"] = supervised, BRIER
    task.main(job)


config.add_choice(config.Model, "model", "supervised")
config.add_choice(config.Optimization, "loss", "brier")
if __name__ == "__main__":
    cli.run(config.Job, main)
"""


@pytest.mark.slow
def test_a_program_trains_with_a_network_and_a_loss_of_its_own(data_dir, tmp_path):
    (tmp_path / "own.py").write_text(PROGRAM, encoding="utf-8")
    flags = [f"--data_dir={data_dir}", f"--run_dir={tmp_path / 'run'}", *jobs.SMALL]
    flags += ["--model=supervised", "--loss=brier", "--ema=0.9"]
    result = subprocess.run(
        [sys.executable, tmp_path / "own.py", *flags],
        env={**os.environ, **jobs.COMMON},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    terms = [f"loss/{term.name}" for term in BRIER]
    for split in ("train", "val"):
        rows = jobs.only(jobs.lines(tmp_path / "run"), split, "loss", *terms)
        for loss, square, fourth, recall in rows:
            assert loss == pytest.approx(square + fourth / 2 + recall, rel=1e-5)


@pytest.mark.slow
def test_a_prediction_of_another_size_is_refused_before_the_run_begins(
    data_dir, tmp_path, monkeypatch
):
    def halved(*arguments, **options):
        model = supervised(*arguments, **options)
        return keras.Model(model.inputs[0], model.output["half"])

    monkeypatch.setitem(models.MODELS, "unet", halved)
    settings = {"data_dir": data_dir, "run_dir": str(tmp_path / "run"), "strategy": "one_device"}
    settings |= {"crop": 32, "batch_size": 4, "filters": 4, "depth": 1, "steps": 1}
    with pytest.raises(InputError, match="predicts 16×16 pixels of images of 32×32; give the pred"):
        loop.train(config.from_dict(config.Job, settings))
    assert not (tmp_path / "run").exists()
