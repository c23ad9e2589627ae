"""Lowers the training step of a job to the XLA program of one replica."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import config
from trainer.data import demo
from trainer.data.dataset import folds, schema
from trainer.distributed.arithmetic import POLICIES, precision_of
from trainer.models import build, channel_packing, encoders
from trainer.preflight import arithmetic
from trainer.preflight.accelerators import Accelerator, Gpu
from trainer.training import losses, optimizers, train_step


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of the program.

    Attributes:
        name: `images`, `labels` or `valid`, a variable's path, or `constant`.
        shape: of the array.
        dtype: as NumPy names it.
        draw: how to draw values like those of the job's first step: {"values": those}, {"constant":
            the value of all}, {"normal": [mean, standard deviation]} or {"integers": [low, high]},
            of which high is left out.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    draw: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowered:
    """The program of one replica's training step, and its properties.

    Attributes:
        program: a serialized HLO module.
        batch_size: images per replica.
        flops: multiplications and additions of the network's convolutions in a step, without the
            zeros that channel packing adds.
        precision: that the layers compute in.
        image: its shape, (H, W, C).
        sizes: bytes of what stays on the chip: `weights`, `optimizer`, `average`, `batch`.
        inputs: of the program, in order; its outputs are loss, norm of the gradient, and the new
            values of the variables that its `input_output_alias` names.
        num_classes: of the data.
        parameters: numbers that are trained.
    """

    program: bytes
    batch_size: int
    flops: int
    precision: str
    image: tuple[int, ...]
    sizes: dict[str, int]
    inputs: tuple[Input, ...]
    num_classes: int
    parameters: int


def lower(job: config.Job, accelerator: Accelerator, batch_size: int, num_replicas: int) -> Lowered:
    """Returns the step that `trainer.task` would run with these settings on each replica.

    Args:
        job: the settings; its batch size, strategy and devices are not looked at.
        accelerator: for which `--precision=auto` is decided.
        batch_size: images per replica.
        num_replicas: by which `--norm=auto` is decided.
    """
    data_dir = job.data.data_dir or demo.folder()
    manifest = folds.choose(schema.read_manifest(data_dir), job.data.fold, data_dir)
    precision = _precision(job, accelerator)
    split = manifest.splits["train"]
    keras.backend.clear_session()  # restarts layer numbers: the same settings, the same program
    keras.mixed_precision.set_global_policy(POLICIES[precision])
    model = build.build_model(
        job.model,
        manifest.channels,
        manifest.num_classes,
        num_replicas,
        manifest.rank,
        job.data.normalize,
    )
    average = keras.models.clone_model(model) if job.optimization.ema else None
    total_steps = job.optimization.total_steps(split.examples, job.data.batch_size)
    optimizer = optimizers.optimizer_of(
        job.optimization, total_steps, precision, encoders.variables_of(model)
    )
    optimizer.build(model.trainable_variables)
    step = train_step.step_of_one_replica(
        model,
        optimizer,
        losses.LOSSES[job.optimization.loss],
        losses.class_weights(job.optimization.class_weights, split.pixels),
        clip_norm=job.optimization.clip_norm,
        accumulate_steps=job.optimization.accumulate_steps,
        average=average,
        average_decay=job.optimization.ema,
        lane_width=channel_packing.LANE_WIDTHS[accelerator.kind],
    )
    specs = train_step.batch_spec(batch_size, job.data.box(manifest.rank), manifest.channels)
    image = tuple(specs[0].shape[1:])
    return Lowered(
        program=step.experimental_get_compiler_ir(*specs)(stage="hlo_serialized"),
        batch_size=batch_size,
        flops=arithmetic.training_flops(model, image, batch_size),
        precision=precision,
        image=image,
        sizes={
            "weights": _size(model.variables),
            "optimizer": _size(optimizer.variables),
            "average": _size(average.variables) if average else 0,
            "batch": sum(int(np.prod(spec.shape)) * spec.dtype.size for spec in specs),
        },
        inputs=(
            *_batch_inputs(specs, manifest.num_classes),
            *_captured_inputs(step.get_concrete_function(*specs), model, optimizer, average),
        ),
        num_classes=manifest.num_classes,
        parameters=sum(int(np.prod(v.shape)) for v in model.trainable_variables),
    )


def _batch_inputs(specs: tuple[tf.TensorSpec, ...], num_classes: int) -> Iterator[Input]:
    draws: dict[str, dict[str, Any]] = {
        "images": {"normal": [0.0, 1.0]},
        "labels": {"integers": [0, num_classes]},
        "valid": {"constant": 1.0},
    }
    for spec, (name, draw) in zip(specs, draws.items(), strict=True):
        yield Input(name, tuple(spec.shape), spec.dtype.name, draw)


def _captured_inputs(
    step: Any, model: keras.Model, optimizer: Any, average: keras.Model | None
) -> Iterator[Input]:
    """Yields what the traced step takes besides its batch, in the order of the program."""
    # Without those that raw operations update.
    named = [(variable.name, variable) for variable in step.variables]
    named += [(v.path, v.value) for v in (*model.variables, *optimizer.variables)]
    if average is not None:
        named += [(f"average/{v.path}", v.value) for v in average.variables]
    of_handle = {id(variable.handle): (name, variable) for name, variable in named}
    for tensor in step.captured_inputs:
        if id(tensor) in of_handle:
            name, variable = of_handle[id(tensor)]
            value = variable.numpy()
            yield Input(name, value.shape, value.dtype.name, _draw(value))
        else:
            value = tensor.numpy()
            yield Input("constant", value.shape, value.dtype.name, {"values": value.tolist()})


def _draw(value: np.ndarray) -> dict[str, Any]:
    if (value == value.flat[0]).all():
        return {"constant": value.flat[0].item()}
    if np.issubdtype(value.dtype, np.floating):
        return {"normal": [float(value.mean()), float(value.std())]}
    return {"values": value.tolist()}


def _precision(job: config.Job, accelerator: Accelerator) -> str:
    if job.device.precision != "auto":
        return job.device.precision
    capability = accelerator.capability if isinstance(accelerator, Gpu) else (0, 0)
    return precision_of(accelerator.kind, capability)[0]


def _size(variables: list) -> int:
    return sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in variables)
