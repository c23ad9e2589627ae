"""Run folders with drawn weights, made in a moment, for what reads them."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tests import rounding
from trainer import config, models
from trainer.checkpointing import best_weights, run_metadata
from trainer.evaluate import calibration
from trainer.models import build, functional

# By how much rounding may move a probability of these networks: they add up to 1800 products on the
# longest way, and their logits are below 10, of whose changes probabilities take a quarter.
CLOSE = rounding.tolerance(operations=1800, magnitude=10) / 4


def write_run(
    folder,
    *,
    channels=1,
    classes=("background", "nucleus"),
    values=(0, 255),
    dtype="uint8",
    normalize="image",
    seed=0,
    filters=4,
    depth=2,
    volumes=None,
    crop=256,
    **settings,
):
    """Writes run.json and best/ of a network whose statistics are drawn, too; returns the path.

    Of volumes (`volume_examples.Volumes`) it has three axes.
    """
    job = config.Job(
        data=config.Data(normalize=normalize, crop=crop),
        model=config.Model(filters=filters, depth=depth, **settings),
    )
    run = run_metadata.describe(
        job,
        tf.distribute.OneDeviceStrategy("/CPU:0"),
        fingerprint=f"{seed:064}",
        data_fingerprint="",
        channels=channels,
        classes=list(classes),
        streams=1,
        total_steps=7,
        precision="float32",
        data={
            "dtype": dtype,
            "class_values": list(values),
            "ignore_value": None,
            "mean": [100.0] * channels,
            "std": [50.0] * channels,
            "origin": "drawn",
            "licence": "CC0",
            "images": {"train": 1},
            "pixels": {"train": [1] * len(classes)},
            "volumes": volumes and dataclasses.asdict(volumes),
        },
    )
    run_metadata.write(str(folder), run)
    rank = 3 if volumes else 2
    model = build.build_model(job.model, channels, len(classes), rank=rank)
    draw(model, seed)
    best = best_weights.best_checkpoints(str(folder), model)
    best.write(best.snapshot(7, {}))
    return str(folder)


def draw(model, seed=0):
    """Draws weights, and statistics that a fold that forgets them would show."""
    models.initialize_weights(model, seed)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            ranges = ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 2))  # γ, β, mean, variance
            layer.set_weights([rng.uniform(*ends, shape) for ends in ranges])
    if model.input_shape[1] is None:  # both sides of a half, on noise
        sides = {2: (64, 64), 3: (16, 16, 16)}[len(model.input_shape) - 2]
        noise = rng.normal(size=(1, *sides, model.input_shape[-1])).astype(np.float32)
        kernel, bias = model.get_layer("logits").get_weights()
        logits = functional.prediction(model(noise, training=False))
        bias = bias - np.median(logits, axis=tuple(range(len(sides) + 1)))
        model.get_layer("logits").set_weights([kernel, bias])


def assert_same_mask(found, expected, probabilities):
    """Asserts that two masks are the same wherever more than rounding decides.

    Args:
        found: [..., H, W], of any values.
        expected: the same.
        probabilities: [..., H, W, C], by which either was made.
    """
    second, first = np.moveaxis(np.sort(probabilities, axis=-1)[..., -2:], -1, 0)
    decided = first - second > 2 * CLOSE
    assert decided.mean() > 0.95
    np.testing.assert_array_equal(np.asarray(found)[decided], np.asarray(expected)[decided])


def calibrate(run_dir, temperature, tta="none"):
    """Stores a temperature in a run, as if it had been fitted to its best weights."""
    model, _ = best_weights.best_model(run_dir, run_metadata.read(run_dir))
    facts = {"tta": tta, "temperature": temperature}
    calibration.settle(run_dir, best_weights.weights_digest(model), facts)
