"""Times what TensorBoard, metrics.jsonl and the terminal cost, as a share of a training job.

    python -m benchmarks.watching [--run_dir=runs/watching and the other flags of trainer.task]

Runs a job, by default the demo, with a clock around each function that writes for
people: of the wall, and of the CPU time of all the process's threads, which other work on the
machine stretches little. What an evaluation counts for its pictures and curves is part of its
compiled step, and is timed by itself, on a batch of the val split's largest images, as often as
there are such batches.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import table
from trainer import cli, config

DEMO = ("--filters=8", "--crop=128", "--steps=400", "--learning_rate=2e-3", "--warmup_steps=30")


def main(job: config.Job) -> None:
    """Runs the job and prints seconds and shares."""
    from trainer import loop
    from trainer.data.input.training_batches import TrainingBatches
    from trainer.monitoring import tensorboard
    from trainer.monitoring.metrics_log import MetricsLog
    from trainer.monitoring.resource_stats import ResourceStats

    spent: dict[str, np.ndarray] = {}

    def clocked(owner: Any, name: str, label: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = clocks()
            try:
                return function(*arguments, **named)
            finally:
                spent[label] = spent.get(label, 0.0) + clocks() - start

        setattr(owner, name, call)

    clocked(TrainingBatches, "first_examples", "first training batch, read")
    clocked(MetricsLog, "start", "settings, layers, first batch, written")
    clocked(tensorboard, "write_evaluation", "panels, curves, confusions")
    clocked(ResourceStats, "figures", "weight norm, memory")
    clocked(MetricsLog, "train", "training figures, written")
    clocked(MetricsLog, "validation", "validation figures, written")
    start = clocks()
    loop.train(job)
    total = clocks() - start
    spent["validation figures, written"] -= spent["panels, curves, confusions"]
    spent["counted in evaluations"] = count_seconds(job)
    spent["all of it"] = sum(spent.values(), np.zeros(2))
    spent["the job"] = total
    rows = {}
    for name, seconds in spent.items():
        columns = zip(("s", "CPU s"), seconds, 100 * seconds / total, strict=True)
        rows[name] = {
            title: value
            for unit, taken, share in columns
            for title, value in ((unit, taken), (f"{unit}, %", share))
        }
    table.show("What watching costs", rows)


def clocks() -> np.ndarray:
    """Returns the wall's and the process's CPU time, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def count_seconds(job: config.Job, repeats: int = 5) -> np.ndarray:
    """Returns the seconds (wall, CPU) in which all evaluations count for pictures and curves."""
    import tensorflow as tf

    from trainer.data import demo
    from trainer.data.dataset import schema
    from trainer.evaluate import counting

    manifest = schema.read_manifest(job.data.data_dir or demo.folder())
    split, classes = manifest.splits["val"], manifest.num_classes
    height, width, _ = max(split.sizes, key=lambda size: size[0] * size[1])
    shape = (job.data.batch_size, height, width)
    logits = tf.random.stateless_normal((*shape, 1 if classes == 2 else classes), (0, 0))
    labels = tf.random.stateless_uniform(shape, (0, 1), 0, classes, tf.int32)

    @tf.function
    def count() -> tuple[tf.Tensor, ...]:
        valid = tf.ones(shape)
        return (
            counting.confidence(logits),
            counting.count_confusions(labels, logits, valid, classes),
            counting.count_probabilities(labels, logits, valid, classes),
        )

    count()
    start = clocks()
    for _ in range(repeats):
        count()[-1].numpy()
    seconds = (clocks() - start) / repeats
    batches = -(-split.examples // job.data.batch_size)
    return seconds * batches * 10  # evaluations of a run


if __name__ == "__main__":
    cli.run(config.Job, main, [sys.argv[0], "--run_dir=runs/watching", *DEMO, *sys.argv[1:]])
