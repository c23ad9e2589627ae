"""Lowers the training step of a job to the XLA program of one replica."""

import dataclasses

import keras
import numpy as np

from trainer import config
from trainer.data import demo
from trainer.data.dataset import folds, schema
from trainer.distributed.arithmetic import POLICIES, precision_of
from trainer.models import build, channel_packing, encoders
from trainer.preflight import arithmetic
from trainer.preflight.accelerators import Accelerator, Gpu
from trainer.training import losses, optimizers, train_step


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
    """

    program: bytes
    batch_size: int
    flops: int
    precision: str
    image: tuple[int, ...]
    sizes: dict[str, int]


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
    )


def _precision(job: config.Job, accelerator: Accelerator) -> str:
    if job.device.precision != "auto":
        return job.device.precision
    capability = accelerator.capability if isinstance(accelerator, Gpu) else (0, 0)
    return precision_of(accelerator.kind, capability)[0]


def _size(variables: list) -> int:
    return sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in variables)
