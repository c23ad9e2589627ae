"""Times the training step of several replicas with each form of batch normalisation.

    python -m benchmarks.replicas [--replicas=2 --filters=16 --crop=128 --batch_size=8 --rounds=10]

Then prints how far `--norm=batch`, whose statistics are each replica's own, is from one replica.
"""

import dataclasses
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from benchmarks import step, table
from trainer import cli, config

CLUSTERS = "--tf_xla_auto_jit=2 --tf_xla_cpu_global_jit"  # XLA, except what it cannot compile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Replicas(config.Settings):
    """Times the training step of several CPU replicas, by normalisation and compilation."""

    replicas: int = config.setting(2, "Parts of the CPU.", low=2)
    filters: int = config.setting(16, "Channels of the first level.", low=1)
    depth: int = config.setting(4, "Times that the resolution is halved.", low=1)
    crop: int = config.setting(128, "Side of the images.", low=8)
    batch_size: int = config.setting(8, "Images per step, over all replicas.", low=1)
    warmup: int = config.setting(2, "Steps before the first that counts.", low=1)
    rounds: int = config.setting(10, "Steps that count, of each contender.", low=1)
    xla: bool = config.setting(True, "Also time XLA, which takes minutes to compile.")
    json: str = config.setting("", "Also write the figures to this file.")


def main(settings: Replicas) -> None:
    """Lets each contender step, one after the other, and prints their times."""
    contenders = {
        "batch": ("batch", ""),
        "sync_batch": ("sync_batch", ""),
        "sync_batch, Keras' own": ("keras", ""),
    }
    if settings.xla:
        contenders["batch, XLA"] = ("batch", "step")
        contenders["sync_batch, XLA clusters"] = ("sync_batch", "clusters")
    context = multiprocessing.get_context("spawn")
    rows = {}
    for name, option in contenders.items():
        end, other = context.Pipe()
        arguments = (other, replicated, settings, option)
        process = context.Process(target=step.serve, args=arguments)
        process.start()
        taken = []
        for _ in range(settings.warmup + settings.rounds):
            end.send(True)
            taken.append(end.recv())
        end.send(False)
        end.recv()
        process.join()
        first, counted = taken[0], taken[settings.warmup :]
        rows[name] = {
            "s/step": table.summarize([wall for wall, _ in counted]),
            "CPU s/step": table.summarize([cpu for _, cpu in counted]),
            "first step, CPU s": first[1],
        }
    title = (
        f"{settings.replicas} replicas, {settings.filters} filters, depth {settings.depth}, "
        f"{settings.crop}×{settings.crop}×3, batch {settings.batch_size}, float32; "
        f"median (quartiles) of {settings.rounds} steps"
    )
    table.show(title, rows, settings.json)
    print()
    process = context.Process(target=show_difference, args=(settings.replicas,))
    process.start()
    process.join()


def replicated(settings: Replicas, option: tuple[str, str]) -> Callable[[], Any]:
    """Returns a function that takes one training step of all replicas."""
    norm, xla = option
    if xla == "clusters":
        os.environ["TF_XLA_FLAGS"] = CLUSTERS
    cli.prepare_environment()
    with cli.importing():
        import keras
        import tensorflow as tf

        from trainer import models
        from trainer.distributed import strategies
        from trainer.models import norms
        from trainer.training import losses, optimizers, train_step

    norms.NORMS["keras"] = lambda channels: keras.layers.BatchNormalization(
        momentum=norms.BATCH_MOMENTUM, synchronized=True
    )
    strategy = strategies.connect("mirrored", virtual_devices=settings.replicas)
    with strategy.scope():
        model = models.build_unet(
            (None, None, 3), settings.filters, depth=settings.depth, norm=norm
        )
        optimizer = optimizers.build_optimizer("adamw", 1e-3, 1e-4)
        optimizer.build(model.trainable_variables)
    shape = (settings.batch_size // settings.replicas, settings.crop, settings.crop)
    batch = {
        "images": tf.random.stateless_normal((*shape, 3), (0, 0)),
        "labels": tf.random.stateless_uniform(shape, (0, 1), 0, 2, tf.int32),
        "valid": tf.ones(shape),
    }
    data = tf.data.Dataset.from_tensors(batch).repeat()
    batches = iter(strategy.distribute_datasets_from_function(lambda context: data))
    loop = train_step.train_loop(
        strategy,
        model,
        optimizer,
        losses.LOSSES["ce_dice"],
        tf.ones(2),
        clip_norm=1.0,
        jit_compile=xla == "step",
    )
    return lambda: float(loop(batches, tf.constant(1))["loss"][0])


def show_difference(replicas: int) -> None:
    """Prints what `trainer.selfcheck` would print for norm=batch."""
    cli.prepare_environment()
    with cli.importing():
        from trainer.distributed import strategies
        from trainer.selfcheck import hard_data, invariance

    strategy = strategies.connect("mirrored", virtual_devices=replicas)
    name = next(iter(invariance.CASES))
    with hard_data.data_folder() as data_dir:
        values = config.to_dict(invariance.job_of(name, data_dir, replicas))
        job = config.from_dict(config.Job, {**values, "norm": "batch"})
        many = invariance.train(invariance.open_side(strategy, job), job)
        one = invariance.train_alone({name: job}, strategy.extended.worker_devices[0])[name]
        rows = invariance.compare_training(one, many, job, "norm=batch")
        print(invariance.table(rows, strategy))


if __name__ == "__main__":
    cli.run(Replicas, main)
