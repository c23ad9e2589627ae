"""Functions of many shapes, and TensorFlow's warning of those that are traced for nothing."""

import logging

import tensorflow as tf

from trainer.distributed import tracing


def warnings_of(function, caplog):
    """Calls a function twice with each of eight shapes; returns what TensorFlow warns of."""
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for size in range(1, 9):
                assert function(tf.ones(size)) == 2 * size
    return [record.getMessage() for record in caplog.records]


def test_each_shape_is_traced_once_and_not_warned_of(caplog):
    traces = []

    @tracing.for_each_shape
    def twice_the_sum(values):
        traces.append(values.shape.as_list())
        return 2.0 * tf.reduce_sum(values)

    assert warnings_of(twice_the_sum, caplog) == []
    assert traces == [[size] for size in range(1, 9)]


def test_a_function_that_is_made_at_each_call_is_warned_of(caplog):
    def twice_the_sum(values):
        return tf.function(lambda x: 2.0 * tf.reduce_sum(x))(values)

    assert "triggered tf.function retracing" in warnings_of(twice_the_sum, caplog)[0]
