"""Whether XLA compiles the step of several GPUs with their sums in it, tried in another process.

Replicas wait for each other inside such a program, and a fault there may be a wait without end. So
a small step like the job's is taken first, where it can be ended.
"""

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from trainer import config, json_text, models
from trainer.distributed import arithmetic, child_process, strategies
from trainer.models.build import build_model
from trainer.training import losses, optimizers, train_step

SECONDS = 120.0  # for start, compilation and steps
NUM_STEPS = 2
WIDEST = 8  # filters of the network that is tried
COMMAND = (sys.executable, "-m", "trainer.training.xla_trial")

# The largest relative difference between the step that XLA compiled and the one that it did not.
# What is lost if one of two replicas is left out of a sum is above a tenth.
TOLERANCES = {"float32": 1e-2, "bfloat16": 5e-2, "float16": 2e-2}


@dataclasses.dataclass(frozen=True)
class Step:
    """A step to try.

    Attributes:
        job: its settings, as few of them as make a difference.
        channels: of the images.
        num_classes: of the data.
        rank: number of spatial axes.
    """

    job: config.Job
    channels: int
    num_classes: int
    rank: int


def small_step(
    job: config.Job, norm: str, precision: str, channels: int, num_classes: int, rank: int
) -> Step:
    """Returns a step like that of a job, of a narrower network without encoder, on few pixels.

    Args:
        job: the settings.
        norm: the row of `norms.NORMS` that sums over replicas, if any layer does.
        precision: that the layers compute in.
        channels: of the images.
        num_classes: of the data.
        rank: number of spatial axes.
    """
    model = dataclasses.replace(
        job.model,
        filters=min(job.model.filters, WIDEST),
        norm=norm,
        dropout=0.0,  # XLA draws other masks
        encoder="none",
        encoder_weights="none",
    )
    optimization = dataclasses.replace(
        job.optimization,
        accumulate_steps=min(job.optimization.accumulate_steps, 2),
        schedule="constant",
        warmup_steps=0,
        encoder_rate=1.0,
        freeze_until=0,
    )
    crop = tuple(2 * stride for stride in model.stride(rank))
    small = config.Job(
        data=config.Data(crop=crop, batch_size=optimization.accumulate_steps),  # of a replica
        model=model,
        optimization=optimization,
        device=config.Device(precision=precision, virtual_devices=job.device.virtual_devices),
    )
    return Step(small, channels, num_classes, rank)


def verdict(
    step: Step, strategy: tf.distribute.Strategy, before: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Returns what run.json keeps: whether XLA's step `passed`, else the `reason`, and where.

    Args:
        step: to try.
        strategy: the devices, of one worker; of several it is not tried.
        before: an earlier verdict, which holds if it is of such devices and this TensorFlow.
    """
    if strategies.worker_of(strategy)[1] > 1:
        reason = "not tried between workers, where --jit_compile=true compiles them untried"
        return {"passed": False, "reason": reason}
    where = {"devices": strategies.device_names(strategy), "tensorflow": tf.__version__}
    if where.items() <= before.items():
        return before
    logging.info(
        "Trying XLA with sums between %d devices, at most %g s.", len(where["devices"]), SECONDS
    )
    reason = reason_against(step)
    return {"passed": not reason, "reason": reason, **where}


@functools.cache
def reason_against(step: Step, command: Sequence[str] = COMMAND, seconds: float = SECONDS) -> str:
    """Returns why XLA should not compile a step with its sums; empty if nothing was found.

    Args:
        step: to try.
        command: the process that is given the step and prints how far XLA's is from TensorFlow's.
        seconds: after which it is ended.
    """
    values = {**dataclasses.asdict(step), "job": config.to_dict(step.job)}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is the job's, and says nothing about XLA
        preexec_fn=child_process.ending_with_this_process(),
    )
    try:
        found, errors = process.communicate(json_text.dumps(values), timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"no result in {seconds:g} s"
    finally:
        _end(process)
    if process.returncode:
        named = re.findall(r"^[\w.]+Error\b.*", errors, re.MULTILINE) or [""]
        status = child_process.status_of(process.returncode)
        return f"its process ended with status {status}: {named[-1][:200]}".rstrip(": ")
    difference = json.loads(found.splitlines()[-1])
    tolerance = TOLERANCES[step.job.device.precision]
    if difference is None or not difference <= tolerance:  # None: NaN in JSON
        return f"it differs from the step without XLA by {difference}, more than {tolerance:g}"
    return ""


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def largest_difference(step: Step, strategy: tf.distribute.Strategy) -> float:
    """Returns how far a step that XLA compiles is from the same without XLA.

    Compared are the losses and gradient norms of NUM_STEPS steps and the weights after them, each
    by the norm of the difference over the norm.
    """
    plain, compiled = (_train(step, strategy, jit_compile) for jit_compile in (False, True))
    pairs = zip(plain, compiled, strict=True)
    return float(np.max([np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in pairs]))


def _train(
    step: Step, strategy: tf.distribute.Strategy, jit_compile: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns losses and gradient norms, float32 [NUM_STEPS], and weights float32 [N]."""
    settings = step.job.optimization
    with strategy.scope():
        model = build_model(
            step.job.model,
            step.channels,
            step.num_classes,
            strategy.num_replicas_in_sync,
            step.rank,
        )
        models.initialize_weights(model, 0)
        average = keras.models.clone_model(model) if settings.ema else None
        optimizer = optimizers.optimizer_of(settings, NUM_STEPS, step.job.device.precision)
        optimizer.build(model.trainable_variables)
    if average is not None:
        average.set_weights(model.get_weights())
    loop = train_step.train_loop(
        strategy,
        model,
        optimizer,
        losses.LOSSES[settings.loss],
        tf.ones(step.num_classes),
        clip_norm=settings.clip_norm,
        accumulate_steps=settings.accumulate_steps,
        average=average,
        average_decay=settings.ema,
        jit_compile=jit_compile,
        collectives_in_xla=jit_compile and strategies.compiles_collectives(strategy),
    )
    data = tf.data.Dataset.from_tensor_slices(_batch(step, strategy.num_replicas_in_sync))
    data = data.batch(step.job.data.batch_size, drop_remainder=True).repeat()
    batches = iter(strategy.distribute_datasets_from_function(lambda context: data))
    series = loop(batches, tf.constant(NUM_STEPS))
    weights = [w.ravel() for w in (average or model).get_weights()]
    return series["loss"].numpy(), series["gradient_norm"].numpy(), np.concatenate(weights)


def _batch(step: Step, num_replicas: int) -> dict[str, np.ndarray]:
    """Returns a batch in which each example is brighter than the one before, all of them random.

    Statistics of one replica's part are far from those of the whole.
    """
    number = num_replicas * step.job.data.batch_size
    shape = (number, *step.job.data.box(step.rank))
    random = np.random.default_rng(0)
    brightness = np.arange(number).reshape(-1, *[1] * (len(shape)))
    images = (random.normal(size=(*shape, step.channels)) + brightness).astype(np.float32)
    labels = random.integers(0, step.num_classes, shape).astype(np.int32)
    return {"images": images, "labels": labels, "valid": np.ones(shape, np.float32)}


def main() -> None:
    """Reads a step from standard input, and prints the difference as JSON."""
    values = json.loads(sys.stdin.read())
    step = Step(**{**values, "job": config.from_dict(config.Job, values["job"])})
    strategy = strategies.connect("mirrored", virtual_devices=step.job.device.virtual_devices)
    tf.config.experimental.enable_tensor_float_32_execution(False)  # the arithmetic is no matter
    keras.mixed_precision.set_global_policy(arithmetic.POLICIES[step.job.device.precision])
    print(json_text.dumps(largest_difference(step, strategy)))


if __name__ == "__main__":
    main()
