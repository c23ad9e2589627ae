"""Schedules and optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding
from tests.devices import strategy_of
from trainer import config
from trainer.errors import InputError
from trainer.training import optimizers

CLOSE = rounding.tolerance(operations=12, magnitude=2)  # of the formulas, on rates up to 2


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
def test_every_schedule_warms_up_in_a_line(name):
    schedule = optimizers.build_schedule(name, 0.8, steps=100, warmup_steps=4)
    assert rates(schedule, range(5)) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8], abs=CLOSE)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert float(optimizers.build_schedule("cosine", 0.5, steps=10)(0)) == 0.5


def test_schedules_fall_as_their_formula_says():
    steps = [10, 60, 110]  # begin, middle and end of what follows the warm-up
    expected = {
        "constant": [2.0, 2.0, 2.0],
        "cosine": [2.0, 1.0, 0.0],
        "polynomial": [2.0, 2.0 * 0.5**0.9, 0.0],
    }
    for name, values in expected.items():
        schedule = optimizers.build_schedule(name, 2.0, steps=110, warmup_steps=10)
        assert rates(schedule, steps) == pytest.approx(values, abs=CLOSE)


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
@pytest.mark.parametrize("steps", [7, 1000, 99_999])
def test_falling_schedules_end_at_exactly_0_and_stay_there(name, steps):
    schedule = optimizers.build_schedule(name, 1e-3, steps, warmup_steps=3)
    assert rates(schedule, [steps, steps + 1, 2 * steps]) == [0, 0, 0]
    assert float(schedule(steps - 1)) > 0


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
def test_schedules_are_float32_of_any_integer_and_survive_serialisation(name):
    schedule = optimizers.build_schedule(name, 1e-3, 50, 5)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    for step in (tf.constant(7, tf.int64), tf.constant(7), 7, np.int64(7)):
        assert schedule(step).dtype == tf.float32
        assert float(copy(step)) == float(schedule(step))


def weights_after_one_step_without_gradient(model, name, weight_decay):
    built = optimizers.build_optimizer(name, 0.1, weight_decay)
    built.build(model.trainable_variables)
    gradients = [tf.zeros(variable.shape) for variable in model.trainable_variables]
    built.apply(gradients, model.trainable_variables)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "norm",
    [keras.layers.BatchNormalization, lambda: keras.layers.GroupNormalization(groups=1)],
)
def test_weight_decay_spares_biases_and_norms(name, norm):
    inputs = keras.Input((4, 4, 2))
    x = norm()(keras.layers.Conv2DTranspose(2, 2)(inputs))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(x))
    for variable in model.trainable_variables:
        variable.assign(tf.ones(variable.shape))
    weights_after_one_step_without_gradient(model, name, 0.5)
    for variable in model.trainable_variables:
        # A kernel loses weight_decay * learning_rate of itself.
        expected = 0.95 if variable.name == "kernel" else 1.0
        np.testing.assert_allclose(variable, expected, rtol=CLOSE)


def test_momentum_reaches_sgd():
    variable = keras.Variable(0.0)
    built = optimizers.build_optimizer("sgd", 1.0, momentum=0.5)
    for _ in range(2):
        built.apply([tf.constant(1.0)], [variable])
    # Velocities -1 and -1.5.
    assert float(variable) == -2.5


def test_nesterovs_momentum_is_a_step_further_along_the_velocity():
    variable = keras.Variable(0.0)
    settings = config.Optimization(
        optimizer="sgd", learning_rate=1.0, momentum=0.5, nesterov=True, schedule="constant"
    )
    built = optimizers.optimizer_of(settings, 10, "float32")
    seen = []
    for _ in range(2):
        built.apply([tf.constant(1.0)], [variable])
        seen.append(float(variable))
    # Velocities -1 and -1.5: steps of -1 - 0.5 and of -1 - 0.75.
    assert seen == [-1.5, -3.25]


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_optimizers_follow_their_schedule(name):
    schedule = optimizers.build_schedule("cosine", 0.1, steps=2)
    built = optimizers.build_optimizer(name, schedule)
    variable = keras.Variable(1.0)
    seen = []
    for _ in range(3):
        seen.append(float(built.learning_rate))
        built.apply([tf.constant(1.0)], [variable])
    assert seen == pytest.approx([0.1, 0.05, 0.0], abs=CLOSE)


@pytest.mark.parametrize(
    ("rule", "batch_size", "rate"),
    [("none", 32, 0.1), ("linear", 32, 0.4), ("sqrt", 32, 0.2), ("linear", 4, 0.05)],
)
def test_the_rate_grows_with_the_batch_by_its_rule(rule, batch_size, rate):
    assert optimizers.scale_rate(rule, 0.1, batch_size, 8) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: optimizers.build_schedule("linear", 0.1, 10),
            "--schedule=linear is not a choice; use one of: constant, cosine, polynomial.",
        ),
        (
            lambda: optimizers.build_schedule("cosine", 0.0, 10),
            "--learning_rate=0.0 must be greater than 0.",
        ),
        (
            lambda: optimizers.build_schedule("cosine", 0.1, 10, 10),
            "--warmup_steps=10 must be at least 0 and less than 10, the steps of the run.",
        ),
        (
            lambda: optimizers.build_optimizer("lamb", 0.1),
            "--optimizer=lamb is not a choice; use one of: adam, adamw, sgd.",
        ),
        (
            lambda: optimizers.build_optimizer("adamw", 0.1, weight_decay=-1.0),
            "--weight_decay=-1.0 must be at least 0.",
        ),
        (
            lambda: optimizers.build_optimizer("sgd", 0.1, momentum=1.0),
            "--momentum=1.0 must be at least 0 and less than 1.",
        ),
        (
            lambda: optimizers.build_optimizer("adamw", 0.1, nesterov=True),
            "--nesterov does nothing with --optimizer=adamw; leave it out, or use --optimizer=sgd "
            "with a --momentum above 0.",
        ),
        (
            lambda: optimizers.build_optimizer("sgd", 0.1, momentum=0.0, nesterov=True),
            "--nesterov does nothing with --momentum=0.0; leave it out, or use --optimizer=sgd "
            "with a --momentum above 0.",
        ),
        (
            lambda: optimizers.build_optimizer("adam", 0.1, weight_decay=0.01),
            "--weight_decay=0.01 does nothing with adam; use adamw.",
        ),
        (
            lambda: optimizers.scale_rate("cubic", 0.1, 16, 8),
            "--lr_scaling=cubic is not a choice; use one of: none, linear, sqrt.",
        ),
    ],
)
def test_arguments_out_of_range_are_named(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert str(error.value) == message


def test_weight_decay_is_that_of_adamw_only_where_the_flag_is_unset():
    def decay_of(**values):
        settings = config.Optimization(learning_rate=1.0, schedule="constant", **values)
        kernel = keras.Variable(1.0, name="kernel")
        optimizers.optimizer_of(settings, 10, "float32").apply([tf.constant(0.0)], [kernel])
        return pytest.approx(1.0 - float(kernel), abs=CLOSE)

    assert decay_of() == 1e-4
    assert decay_of(optimizer="adam") == 0.0
    assert decay_of(optimizer="sgd", weight_decay=0.01) == 0.01


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_in_one_operation_is_that_of_keras(name, number):
    decay = {"weight_decay": 0.1} if name == "adamw" else {}
    schedule = optimizers.build_schedule("cosine", 0.1, steps=20, warmup_steps=3)
    keras_class = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[name]
    gradients = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)

    def trained(build):
        keras.backend.clear_session()  # or the second optimizer has another name
        strategy = strategy_of(number)
        with strategy.scope():
            built = build()
            kernel = keras.Variable(np.ones((2, 3), np.float32), name="kernel")
            built.build([kernel])

        @tf.function(autograph=False)
        def step(gradient):  # Keras sums those of the replicas
            strategy.run(lambda: built.apply([gradient / number], [kernel]))

        for gradient in gradients:
            step(gradient)
        return {v.path: v.numpy() for v in (kernel, *built.variables)}

    expected = trained(lambda: keras_class(schedule, **decay))
    found = trained(lambda: optimizers.build_optimizer(name, schedule, **decay))
    assert list(found) == list(expected)  # as checkpoints name them
    for path, value in expected.items():
        rounding.assert_close(found[path], value, operations=6 * 12, magnitude=2)


def steps_of(settings, gradients, frozen=0):
    """Takes steps of two kernels and a bias; returns each after every step.

    The second kernel is the encoder's, and so is the bias. They take no part in the first steps.
    """
    own, encoder = (keras.Variable(np.ones((1, 1), np.float32), name="kernel") for _ in range(2))
    bias = keras.Variable(np.ones(1, np.float32), name="bias")
    job = config.Optimization(**{"schedule": "constant", "weight_decay": 0.0, **settings})
    optimizer = optimizers.optimizer_of(job, 100, "float32", [encoder, bias])
    optimizer.build([own, encoder, bias])
    series = []
    for step, gradient in enumerate(gradients):
        variables = [own] if step < frozen else [own, encoder, bias]
        optimizer.apply([tf.fill(v.shape, gradient) for v in variables], variables)
        series.append([float(v.numpy().item()) for v in (own, encoder, bias)])
    return np.array(series)


def test_the_encoder_takes_its_share_of_the_rate():
    sgd = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.5, "encoder_rate": 0.25}
    assert steps_of(sgd, [1.0])[0] == pytest.approx([0.5, 0.875, 0.875], abs=CLOSE)
    # Decay takes its share as well, and only of kernels: 1 - 0.5 × 0.2, 1 - 0.125 × 0.2.
    decayed = steps_of({**sgd, "weight_decay": 0.2}, [0.0])[0]
    assert decayed == pytest.approx([0.9, 0.975, 1.0], abs=CLOSE)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_an_encoder_that_was_frozen_takes_the_steps_of_a_run_that_begins(name):
    settings = {"optimizer": name, "learning_rate": 0.1}
    gradients = [1.0, -0.5, 0.25]
    fresh = steps_of(settings, gradients)
    later = steps_of({**settings, "freeze_until": 4}, [3.0, -1.0, 2.0, 1.0, *gradients], frozen=4)
    np.testing.assert_array_equal(later[:4, 1:], 1.0)
    # The factor is a quotient of two that are as small as √0.001.
    np.testing.assert_allclose(later[4:, 1:], fresh[:, 1:], rtol=0, atol=100 * CLOSE)
