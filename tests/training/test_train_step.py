"""The training step over 1, 2 and 4 devices."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from tests.devices import strategy_of
from tests.jobs import ROOT
from trainer import models
from trainer.errors import InputError
from trainer.evaluate import eval_step
from trainer.training import losses, optimizers, train_step

IMAGES = np.random.default_rng(0).normal(size=(8, 16, 16, 1)).astype(np.float32)
LABELS = (IMAGES[..., 0] > 0.5).astype(np.int32)
# Pixels that count are spread unevenly: the replica with the last examples has almost none.
VALID = np.ones((8, 16, 16), np.float32)
VALID[4:7] = 0
VALID[7, 1:] = 0


def network(norm="none", dropout=0.0):
    """Returns a small network, its weights and the masks of its dropout always the same."""
    # Without ReLU, whose derivative jumps where rounding decides on which side of 0 a number is.
    options = {"norm": norm, "dropout": dropout, "activation": "swish"}
    model = models.build_unet((None, None, 1), 4, depth=1, **options)
    models.initialize_weights(model, 0)
    return model


def train(
    number,
    *,
    num_steps=3,
    loss="ce_dice",
    norm="none",
    dropout=0.0,
    new_optimizer=None,
    **settings,
):
    """Trains on the batch above over `number` replicas; returns the totals and the weights."""
    strategy = strategy_of(number)
    with strategy.scope():
        model = network(norm, dropout)
        optimizer = new_optimizer() if new_optimizer else keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
        average = keras.models.clone_model(model) if settings.get("average_decay") else None
    if average is not None:
        average.set_weights(model.get_weights())
    batch = {"images": IMAGES, "labels": LABELS, "valid": VALID}
    # The n-th example goes to replica n mod R, as in `data.pipeline`.
    batch = {key: np.concatenate([x[r::number] for r in range(number)]) for key, x in batch.items()}
    data = tf.data.Dataset.from_tensor_slices(batch).batch(8 // number, drop_remainder=True)
    iterator = iter(strategy.distribute_datasets_from_function(lambda context: data.repeat()))
    loop = train_step.train_loop(
        strategy, model, optimizer, losses.LOSSES[loss], tf.ones(2), average=average, **settings
    )
    series_of = loop(iterator, tf.constant(num_steps))
    weights = (average or model).get_weights()
    for variable in (average or model).variables:  # every replica's own
        copies = [copy.numpy() for copy in strategy.experimental_local_results(variable.value)]
        assert all(np.array_equal(copy, copies[0]) for copy in copies)
    return {key: float(tf.reduce_sum(series)) for key, series in series_of.items()}, weights


@functools.cache
def trained_alone():
    return train(1)


# Each of three steps adds some 300 products forward and as many back, and sums gradients over 8
# images of 16×16 pixels. Losses, gradients and weights are of the order of 1.
TOLERANCE = rounding.tolerance(operations=3 * (2 * 300 + 8 * 16 * 16))


def assert_same(ours, theirs):
    (totals, weights), (other_totals, other_weights) = ours, theirs
    for key in ("loss", "gradient_norm"):
        assert totals[key] == pytest.approx(other_totals[key], abs=TOLERANCE)
    for one, other in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_replicas_train_like_one_device_though_valid_pixels_are_uneven():
    # One case, at every save; tests/selfcheck/test_invariance.py has all of them.
    assert_same(train(2), trained_alone())


def test_the_terms_of_the_loss_add_up_to_it():
    totals, _ = trained_alone()
    parts = totals["loss/cross_entropy"], totals["loss/soft_dice"]
    assert min(parts) > 0
    assert totals["loss"] == pytest.approx(sum(parts), abs=TOLERANCE)


@pytest.mark.slow
def test_replicas_train_like_one_device_by_a_dice_over_the_whole_batch():
    # Each has another Dice of its own: the last one has four images of nothing but background.
    assert_same(train(4, loss="ce_batch_dice"), train(1, loss="ce_batch_dice"))


def test_a_dice_over_the_whole_batch_is_refused_in_parts():
    with pytest.raises(InputError) as error:
        train(1, loss="ce_batch_dice", accumulate_steps=4)
    assert str(error.value) == (
        "--accumulate_steps=4 computes a batch in parts, and --loss has a Dice over the whole "
        "batch; use --loss=ce_linear_dice, or --accumulate_steps=1."
    )


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_batch_in_parts_trains_like_the_whole(jit_compile):
    assert_same(train(1, accumulate_steps=4, jit_compile=jit_compile), trained_alone())


@pytest.mark.slow
def test_parts_move_the_statistics_of_batch_normalisation_inside_xla_too():
    settings = {"accumulate_steps": 2, "norm": "batch", "dropout": 0.0}
    assert_same(train(1, jit_compile=True, **settings), train(1, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_parts_over_replicas_train_like_the_parts_of_one(norm):
    one = train(1, accumulate_steps=2, norm="batch", dropout=0.5)
    if norm == "batch":  # statistics of a replica's part are not those of the whole
        two, again = (train(2, accumulate_steps=2, norm=norm, dropout=0.5) for _ in range(2))
        assert_same(two, again)
    else:
        assert_same(train(2, accumulate_steps=2, norm=norm, dropout=0.5), one)


@pytest.mark.parametrize(("number", "norm"), [(1, "batch"), (2, "group"), (2, "sync_batch")])
def test_the_program_has_one_part_of_a_batch_for_all(monkeypatch, number, norm):
    computed = []

    def packed(model, lane_width, frozen):
        def forward(images, training):
            computed.append(images.shape[0])
            return model(images, training=training)

        return forward

    monkeypatch.setattr(train_step.channel_packing, "packed", packed)
    train(number, num_steps=1, norm=norm, accumulate_steps=4)
    assert computed == [2 // number] * number  # of the 8 examples; each replica has a trace


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}])
def test_replicas_drop_what_one_device_drops(settings):
    dropped = train(1, dropout=0.5, **settings)  # XLA draws other numbers
    assert abs(trained_alone()[0]["loss"] - dropped[0]["loss"]) > 1e-3
    assert_same(train(2, dropout=0.5, **settings), dropped)


@pytest.mark.slow
def test_the_statistics_of_batch_normalisation_are_the_mean_over_replicas():
    # After one step they are 0.9 of (0, 1) and a tenth of the batch's: of two halves, their mean.
    _, weights = train(2, num_steps=1, norm="batch")
    model = network("batch")
    layer = next(x for x in model.layers if isinstance(x, keras.layers.BatchNormalization))
    first = keras.Model(model.inputs, layer.input)
    halves = [first(IMAGES[r::2]) for r in range(2)]
    mean = np.mean([np.mean(half, axis=(0, 1, 2)) for half in halves], axis=0)
    variance = np.mean([np.var(half, axis=(0, 1, 2)) for half in halves], axis=0)
    model.set_weights(weights)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * mean, atol=TOLERANCE)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * variance, atol=TOLERANCE)


def scaled(**settings):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "settings"),
    [
        (1, {"norm": "batch", "clip_norm": 0.3, "average_decay": 0.75}),
        (1, {"accumulate_steps": 2, "new_optimizer": scaled}),
        (2, {}),
    ],
)
def test_xla_trains_like_the_graph(number, settings):
    assert_same(train(number, jit_compile=True, **settings), train(number, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_step_whose_scaled_loss_overflows_changes_no_weight(jit_compile):
    optimizer = scaled(initial_scale=np.inf)
    totals, weights = train(1, new_optimizer=lambda: optimizer, jit_compile=jit_compile)
    assert not np.isfinite(totals["gradient_norm"])
    for ours, first in zip(weights, network().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, first)
    assert int(optimizer.iterations) == 0


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_scale_of_the_loss_grows(jit_compile):
    optimizer = scaled(initial_scale=8.0, dynamic_growth_steps=2)
    train(1, new_optimizer=lambda: optimizer, jit_compile=jit_compile)
    assert (float(optimizer.dynamic_scale), int(optimizer.step_counter)) == (16.0, 1)
    assert int(optimizer.iterations) == 3


@pytest.mark.slow
def test_clipping_bounds_the_norm_of_the_summed_gradient():
    # SGD with rate 0.5 and a gradient clipped to 0.01 moves the weights by 0.005 in one step.
    before = network().get_weights()
    _, after = train(2, num_steps=1, clip_norm=0.01)
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)))
    assert moved == pytest.approx(0.005, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_the_average_follows_the_weights_by_its_decay(number):
    first = network().get_weights()
    _, second = train(number, num_steps=1)
    _, average = train(number, num_steps=1, average_decay=0.75)
    for a, b, mean in zip(first, second, average, strict=True):  # in the first step it is 1 / 10
        np.testing.assert_allclose(mean, 0.1 * a + 0.9 * b, rtol=0, atol=TOLERANCE)


def test_the_decay_of_the_average_is_warmed_up():
    decays = [float(train_step.warmed_up(0.75, tf.constant(step))) for step in (1, 6, 27, 28, 1000)]
    np.testing.assert_allclose(decays, [0.1, 0.4, 0.75, 0.75, 0.75], rtol=rounding.tolerance(3))


def test_a_keras_that_sums_gradients_in_another_way_is_refused():
    class Other:
        inner_optimizer = None

    with pytest.raises(InputError) as error:
        train_step._sum_gradients_once(Other())
    assert str(error.value) == (
        f"Keras {keras.__version__} sums gradients in another way than the releases tested here; "
        f"install one of those: pip install 'keras{train_step.TESTED_KERAS}'."
    )
    setup = (ROOT / "setup.py").read_text()
    assert f'"keras{train_step.TESTED_KERAS}"' in setup


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_keras_sums_gradients_nowhere_but_where_the_step_keeps_it_from_it(name, scaled):
    built = optimizers.build_optimizer(name, 0.1)
    inner = built
    if scaled:
        built = keras.optimizers.LossScaleOptimizer(inner)
    variable = keras.Variable([1.0])
    built.build([variable])
    train_step._sum_gradients_once(built)
    asked = []
    inner._all_reduce_sum_gradients = lambda pairs: asked.append(list(pairs)) or asked[0]
    built.apply([tf.constant([0.5])], [variable])
    assert len(asked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_loss_scaling_leaves_the_reported_norm_and_the_update_as_they_are(number):
    assert_same(train(number, new_optimizer=scaled, clip_norm=0.5), train(number, clip_norm=0.5))


@pytest.mark.slow
def test_prediction_over_replicas_keeps_the_order_of_the_examples():
    with strategy_of(4).scope():
        model = models.build_unet((None, None, 1), 2, depth=1)
    many = eval_step.forward_step(strategy_of(4), model)(tf.constant(IMAGES))
    expected = model(IMAGES, training=False)
    rounding.assert_close(many, expected, rounding.operations_of(model))


def test_the_score_of_a_batch_leaves_out_fillers():
    batch = {"labels": tf.constant(LABELS), "valid": tf.constant(VALID)}
    logits = tf.where(batch["labels"][..., tf.newaxis] == 1, 5.0, -5.0)
    result = eval_step.score(batch, logits, losses.LOSSES["ce_dice"], tf.ones(2), 2)
    np.testing.assert_array_equal(result["counts"][4:7], np.zeros((3, 2, 3)))
    # Four whole images and one row of 16 pixels; 5 of the 8 images have a valid pixel.
    np.testing.assert_array_equal(result["loss"][1::2], [4 * 256 + 16, 5])
    assert result["predicted"].dtype == tf.uint8


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_volumes_are_trained_by_the_same_step(number):
    volumes = np.random.default_rng(0).normal(size=(4, 4, 8, 6, 1)).astype(np.float32)
    labels = tf.cast(volumes[..., 0] > 0.5, tf.int32)
    strategy, terms = strategy_of(number), losses.LOSSES["ce_dice"]
    with strategy.scope():
        model = models.build_unet((None, None, None, 1), 4, rank=3, depth=1, norm="sync_batch")
        models.initialize_weights(model, 0)
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
    batch = {"images": volumes, "labels": labels, "valid": tf.ones(labels.shape)}
    data = tf.data.Dataset.from_tensor_slices(batch).batch(4 // number, drop_remainder=True)
    iterator = iter(strategy.distribute_datasets_from_function(lambda context: data.repeat()))
    sums = losses.sums(terms, labels, model(volumes, training=True), batch["valid"])
    loop = train_step.train_loop(strategy, model, optimizer, terms, tf.ones(2))
    found = loop(iterator, tf.constant(5))["loss"].numpy()
    apart = rounding.tolerance(4 * 4 * 8 * 6)
    assert found[0] == pytest.approx(float(tf.reduce_sum(sums / [4 * 4 * 8 * 6, 4])), rel=apart)
    assert np.all(np.diff(found) < 0)


@pytest.mark.slow
def test_the_step_of_one_replica_for_another_device_is_that_of_the_training_loop():
    strategy = strategy_of(1)
    results = []
    for lowered in (False, True):
        model = network("batch")
        # Not Adam, which makes a whole step of a gradient that is 0 up to rounding.
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)
        average = keras.models.clone_model(model)
        average.set_weights(model.get_weights())
        settings = {
            "clip_norm": 0.5,
            "accumulate_steps": 2,
            "average": average,
            "average_decay": 0.5,
        }
        terms = losses.LOSSES["ce_dice"]
        batch = {"images": IMAGES, "labels": LABELS, "valid": VALID}
        if lowered:
            step = train_step.step_of_one_replica(model, optimizer, terms, tf.ones(2), **settings)
            loss, norm = step(*batch.values())
        else:
            loop = train_step.train_loop(strategy, model, optimizer, terms, tf.ones(2), **settings)
            data = tf.data.Dataset.from_tensors(batch)
            series = loop(iter(data), tf.constant(1))
            loss, norm = series["loss"][0], series["gradient_norm"][0]
        totals = {"loss": float(loss), "gradient_norm": float(norm)}
        results.append((totals, model.get_weights() + average.get_weights()))
    assert_same(*results)


@pytest.mark.slow
def test_the_step_of_one_replica_lowers_to_a_program_of_static_shapes():
    model = models.build_unet((None, None, 1), 2, depth=1)
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    terms = losses.LOSSES["ce_dice"]
    step = train_step.step_of_one_replica(model, optimizer, terms, tf.ones(2), clip_norm=1.0)
    program = step.experimental_get_compiler_ir(*train_step.batch_spec(2, (16, 16), 1))(stage="hlo")
    assert "f32[2,16,16,1]" in program
    assert "<=" not in program  # how a dynamic dimension is written
