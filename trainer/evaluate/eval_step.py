"""The compiled steps of evaluation and prediction: logits of a batch, and its score."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.data.input import padded_shapes
from trainer.distributed import strategies, tracing
from trainer.evaluate import counting
from trainer.models import channel_packing, functional, partial_images
from trainer.training import losses

Batch = Mapping[str, tf.Tensor]
OF_CASE = ("counts", "soft", "predicted", "confidence")  # of `score`; all else is of a batch
NO_TEMPERATURE = (1.0,)


def prediction_of(strategy: tf.distribute.Strategy, model: keras.Model) -> Callable[..., tf.Tensor]:
    """Returns the prediction of a network, images → logits, as the devices compute it best.

    It is a function of `channel_packing.predicting`.
    """
    lane_width = channel_packing.LANE_WIDTHS[strategies.device_kind(strategy)]
    return channel_packing.predicting(functional.prediction_model(model), lane_width)


def of_parts(network: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    """Returns a function of images, or of (images, sizes) where they are a part of their tensor.

    Args:
        network: a function of `channel_packing.predicting`, or like it.

    Returns:
        a function of images [B, *S, C], or of them and their sizes, int32 [B, rank], at the
        beginning of each axis, see `partial_images`.
    """

    def forward(inputs: Any, training: bool = False) -> tf.Tensor:
        if not isinstance(inputs, tuple):
            return network(inputs, training=training)
        images, sizes = inputs
        return network(images, training=training, inside=partial_images.inside(images, sizes))

    return forward


def most_shapes(strategy: tf.distribute.Strategy, networks: Sequence[keras.Model]) -> int:
    """Returns in how many shapes images are to be predicted at most; 0: in any number.

    XLA takes long to compile a shape. Networks with a layer of which it is not known that it gives
    the same results in a larger tensor take each image in its own.
    """
    if strategies.device_kind(strategy) == "CPU":
        return 0
    predicting = map(functional.prediction_model, networks)
    return padded_shapes.MOST if all(map(partial_images.is_known, predicting)) else 0


def forward_step(
    strategy: tf.distribute.Strategy,
    model: Callable[..., tf.Tensor],
    *,
    jit_compile: bool = False,
    trace_once: bool = False,
    gather_on: str | None = None,
) -> Callable[[Any], tf.Tensor]:
    """Returns a function of images float32 [B, *S, C] → logits float32 [B, *S, K].

    B must be a multiple of this worker's replicas, among which it is split. What `model` takes may
    also be a tuple of tensors with B rows each.

    Args:
        strategy: the strategy in whose scope the model was built.
        model: called with `training=False`.
        jit_compile: whether XLA compiles it.
        trace_once: whether one graph serves all sizes, rather than one for each.
        gather_on: the device on which the logits are put together; where TensorFlow likes if None.
    """
    forward = forward_of_one_replica(model) if jit_compile else functools.partial(_forward, model)

    def step(images: Any) -> tf.Tensor:
        parts = strategy.experimental_local_results(strategy.run(forward, args=(images,)))
        with tf.device(gather_on):
            return tf.concat(parts, 0)

    traced = (tracing.for_all_shapes if trace_once else tracing.for_each_shape)(step)
    return lambda images: traced(_split_over_replicas(strategy, images))


def forward_of_one_replica(model: keras.Model) -> Any:
    """Returns a `tf.function` of images → logits, which is one XLA program for each shape."""
    return tf.function(functools.partial(_forward, model), jit_compile=True, autograph=False)


def score_step(
    terms: Sequence[losses.Term], class_weights: tf.Tensor, num_classes: int
) -> Callable[[Batch, tf.Tensor, Sequence[tf.Tensor]], dict[str, tf.Tensor]]:
    """Returns `score` of (batch, logits, temperatures), as a graph of all shapes."""
    return tracing.for_all_shapes(
        lambda batch, logits, temperatures: score(
            batch, logits, terms, class_weights, num_classes, temperatures
        )
    )


def score(
    batch: Batch,
    logits: tf.Tensor,
    terms: Sequence[losses.Term],
    class_weights: tf.Tensor,
    num_classes: int,
    temperatures: Sequence[float | tf.Tensor] = NO_TEMPERATURE,
) -> dict[str, tf.Tensor]:
    """Compares logits [B, *S, K] with an evaluation batch.

    Returns:
        `counts` int32 and `soft` float32 [B, num_classes, 3] (see `metrics`), `predicted` and
        `confidence` uint8 [B, *S]; and for the batch as a whole `confusions`, `probabilities`,
        `reliability` at each of T `temperatures` (see `counting`) and `loss` (see
        `losses.statistics`).
    """
    labels, valid = batch["labels"], batch["valid"]
    return {
        "counts": counting.count_pixels(labels, logits, valid, num_classes),
        "soft": counting.soft_sums(labels, logits, valid, num_classes),
        "predicted": tf.cast(counting.predict_labels(logits), tf.uint8),
        "confidence": counting.confidence(logits),
        "confusions": counting.count_confusions(labels, logits, valid, num_classes),
        "probabilities": counting.count_probabilities(labels, logits, valid, num_classes),
        "reliability": tf.stack(
            [counting.count_reliability(labels, logits, valid, one) for one in temperatures]
        ),
        "loss": losses.statistics(terms, labels, logits, valid, class_weights),
    }


def _forward(model: keras.Model, images: tf.Tensor) -> tf.Tensor:
    return model(images, training=False)


def _split_over_replicas(strategy: tf.distribute.Strategy, images: Any) -> Any:
    replicas = len(strategy.extended.worker_devices)
    if replicas == 1:
        return images

    def part(context: Any, values: tf.Tensor) -> tf.Tensor:
        return tf.split(values, replicas)[context.replica_id_in_sync_group % replicas]

    return tf.nest.map_structure(
        lambda values: strategy.experimental_distribute_values_from_function(
            lambda context: part(context, values)
        ),
        images,
    )
