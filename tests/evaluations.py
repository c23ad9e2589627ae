"""Evaluations that NumPy can compute, too: of hand-made images, by a model of each pixel alone."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tests import rounding
from tests.devices import strategy_of
from trainer import config
from trainer.data.dataset import schema
from trainer.data.input import normalization
from trainer.evaluate import case_rows, components, eval_step
from trainer.evaluate.case_rows import CaseRows
from trainer.evaluate.evaluator import Evaluator, source_of
from trainer.evaluate.scores import Scores
from trainer.training import losses

# Seven images of three sizes: no batch size but 1 and 7 divides them, and sides are not multiples
# of the stride.
SIZES = {"train": [(32, 32)], "val": [(40, 33)] * 3 + [(70, 65)] * 3 + [(9, 21)]}

SLOPES, OFFSETS = np.array([[-1.0, 0.1, 1.0]], np.float32), np.array([0.0, 0.2, -0.3], np.float32)


def pointwise_model(replicas=1):
    """Returns a model whose logits NumPy computes, too: brightness × SLOPES + OFFSETS."""
    with strategy_of(replicas).scope():
        images = keras.Input((None, None, 1))
        model = keras.Model(images, keras.layers.Conv2D(3, 1)(images))
    model.set_weights([SLOPES[np.newaxis, np.newaxis], OFFSETS])
    return model


def evaluator_of(
    data,
    model,
    *,
    replicas=1,
    batch_size=2,
    tile=1024,
    normalize="image",
    tta="none",
    kept=components.ALL,
    most_shapes=0,
):
    strategy = strategy_of(replicas)
    job = config.Job(data=config.Data(normalize=normalize), model=config.Model(depth=2))
    return Evaluator(
        strategy,
        eval_step.prediction_of(strategy, model),
        *data,
        source_of(job, strategy, *data, batch_size=batch_size, tile=tile, most_shapes=most_shapes),
        terms=losses.LOSSES["ce_dice"],
        class_weights=tf.ones(3),
        tta=tta,
        kept=kept,
    )


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The scores of a split, and the rows of its cases in the order of the split."""

    scores: Scores
    rows: CaseRows

    summary = property(lambda self: self.scores.summary)
    counts = property(lambda self: self.rows.counts)
    soft = property(lambda self: self.rows.soft)
    measured = property(lambda self: self.rows.measured)


def evaluate(evaluator, split, *arguments, **named):
    """Evaluates a split on one worker and keeps the rows."""
    kept = []
    scores = evaluator(split, *arguments, keep=kept.append, **named)
    rows = case_rows.concatenate(kept)
    return Evaluated(scores, case_rows.gather(rows, len(scores.evaluated), lambda values: values))


def assert_decided(data):
    """Asserts that no pixel is of two classes up to rounding: counts do not depend on a batch."""
    for image, _ in read_split(data, "val"):
        operations = tf.size(image).numpy()  # of a mean over all pixels
        image = normalization.normalize(image, "image", (), ()).numpy()
        second, first = np.moveaxis(np.sort(image @ SLOPES + OFFSETS, axis=-1)[..., 1:], -1, 0)
        assert (first - second).min() > rounding.tolerance(operations, magnitude=3)


def read_split(data, split):
    """Yields (image, mask) of a split, read without the pipeline."""
    folder, manifest = data
    for shard in manifest.splits[split].shards:
        for serialized in schema.read_shard(folder, shard):
            example = schema.decode(serialized, manifest)
            yield example["image"], example["mask"].numpy()
