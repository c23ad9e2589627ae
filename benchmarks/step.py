"""Times the training step, beside a plain PyTorch U-Net of the same architecture.

    python -m benchmarks.step [--filters=16 --crop=256 --batch_size=4 --rounds=10]
    python -m benchmarks.step --depth=3 --crop=40,56,40 --channels=1 [--norm=instance]
    python -m benchmarks.step --precision=both [--xla]

Each contender lives in a process of its own; they take single steps in turn, so that whatever else
the machine does hits all alike. PyTorch takes part where the extra [bench] is installed.
"""

import dataclasses
import importlib.util
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import table
from trainer import cli, config

PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step(config.Settings):
    """Times the training step of U-Net, cross-entropy + soft Dice and AdamW on random numbers."""

    filters: int = config.setting(16, "Channels of the first level.", low=1)
    depth: int = config.setting(4, "Times that the resolution is halved.", low=1)
    norm: str = config.setting("batch", "Normalisation.", choices=("batch", "instance"))
    crop: config.PerAxis = config.setting(
        256, "Side of the images, or three sides, of volumes.", low=1
    )
    channels: int = config.setting(3, "Channels of the images.", low=1)
    batch_size: int = config.setting(4, "Images per step.", low=1)
    precision: str = config.setting(
        "float32", "Arithmetic, or both, in turn.", choices=(*PRECISIONS, "both")
    )
    xla: bool = config.setting(False, "Our step takes part as XLA compiles it, too.")
    threads: int = config.setting(2, "Threads of each contender.", low=1)
    warmup: int = config.setting(3, "Steps before the first that counts.", low=1)
    rounds: int = config.setting(10, "Steps that count, of each contender.", low=1)
    json: str = config.setting("", "Also write the figures to this file.")

    @property
    def box(self) -> tuple[int, ...]:
        """Sides of the images, or of the volumes."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


def main(settings: Step) -> None:
    """Lets the contenders step in turn and prints what they took."""
    functions: dict[str, tuple[Callable[..., Any], Any]] = {"ours, graph": (ours, False)}
    if settings.xla:
        functions["ours, XLA"] = (ours, True)
    if importlib.util.find_spec("torch"):
        functions["PyTorch, eager, channels-last"] = (pytorch, False)
        functions["PyTorch, compiled, channels-last"] = (pytorch, True)
    else:
        print("PyTorch is not installed, so it does not take part: pip install '.[bench]'")
    precisions = PRECISIONS if settings.precision == "both" else (settings.precision,)
    contenders = {
        f"{name}, {precision}": (
            function,
            dataclasses.replace(settings, precision=precision),
            option,
        )
        for name, (function, option) in functions.items()
        for precision in precisions
    }
    context = multiprocessing.get_context("spawn")
    ends = {}
    for name, contender in contenders.items():
        end, other = context.Pipe()
        context.Process(target=serve, args=(other, *contender), daemon=True).start()
        ends[name] = end
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in ends}
    for number in range(settings.warmup + settings.rounds):
        for name, end in ends.items():
            end.send(True)
            taken = end.recv()
            if number >= settings.warmup:
                rounds[name].append(taken)
    rows = {}
    for name, end in ends.items():
        end.send(False)
        walls = [wall for wall, _ in rounds[name]]
        rows[name] = {
            "s/step": table.summarize(walls),
            "CPU s/step": table.summarize([cpu for _, cpu in rounds[name]]),
            "steps/s": table.summarize([1 / wall for wall in walls]),
            "images/s": table.summarize([settings.batch_size / wall for wall in walls]),
            "peak MB": end.recv(),
        }
    title = (
        f"{settings.filters} filters, depth {settings.depth}, {settings.norm} norm, "
        f"{'×'.join(map(str, settings.box))}×{settings.channels}, batch {settings.batch_size}, "
        f"{settings.threads} threads; median (quartiles) of "
        f"{settings.rounds} steps"
    )
    table.show(title, rows, settings.json)


def serve(end: Connection, contender: Callable[..., Any], settings: Step, option: Any) -> None:
    """Takes a step at each True that arrives, and sends its wall and CPU seconds."""
    step = contender(settings, option)
    while end.recv():
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        end.send((time.perf_counter() - wall, time.process_time() - cpu))
    end.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def ours(settings: Step, jit_compile: bool, accumulate_steps: int = 1) -> Callable[[], Any]:
    """Returns a function that takes one of our training steps."""
    cli.prepare_environment()
    with cli.importing():
        import keras
        import tensorflow as tf

        from trainer.distributed import arithmetic, strategies
        from trainer.models import build
        from trainer.training import losses, optimizers, train_step

    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    keras.mixed_precision.set_global_policy(arithmetic.POLICIES[settings.precision])
    strategy = strategies.connect("one_device")
    with strategy.scope():
        network = config.Model(filters=settings.filters, depth=settings.depth, norm=settings.norm)
        model = build.build_model(network, settings.channels, 2, rank=len(settings.box))
        optimizer = optimizers.build_optimizer("adamw", 1e-3, 1e-4)
        optimizer.build(model.trainable_variables)
    shape = (settings.batch_size, *settings.box)
    batch = {
        "images": tf.random.stateless_normal((*shape, settings.channels), (0, 0)),
        "labels": tf.random.stateless_uniform(shape, (0, 1), 0, 2, tf.int32),
        "valid": tf.ones(shape),
    }
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    loop = train_step.train_loop(
        strategy,
        model,
        optimizer,
        losses.LOSSES["ce_dice"],
        tf.ones(2),
        clip_norm=1.0,
        accumulate_steps=accumulate_steps,
        jit_compile=jit_compile,
    )
    return lambda: float(loop(batches, tf.constant(1))["loss"][0])


def pytorch(settings: Step, compiled: bool) -> Callable[[], Any]:
    """Returns a function that takes the same step in PyTorch, eagerly or by torch.compile."""
    import torch

    from benchmarks import pytorch_step

    torch.set_num_threads(settings.threads)
    _, step = pytorch_step.training_step(
        image=(*settings.box, settings.channels),
        classes=2,
        filters=settings.filters,
        depth=settings.depth,
        norm=settings.norm,
        precision=settings.precision,
        batch_size=settings.batch_size,
        compiled=compiled,
    )
    return lambda: step().item()


if __name__ == "__main__":
    cli.run(Step, main)
