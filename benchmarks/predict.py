"""Times prediction of a large image in tiles, beside MONAI's sliding_window_inference.

    python -m benchmarks.predict [--filters=16 --size=896 --tile=512 --rounds=5]
    python -m benchmarks.predict --depth=3 --channels=1 --size=96 --tile=40,56,40 --batch_size=4

Both cut the same image, or volume, into as many tiles of the same size, by networks of the same
architecture, and blend smoothly. Each lives in a process of its own; they take turns. MONAI and
PyTorch take part where the extra [bench] is installed.
"""

import dataclasses
import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import step, table
from trainer import cli, config


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(config.Settings):
    """Times tiled prediction of an image, or volume, of noise by a U-Net with random weights."""

    filters: int = config.setting(16, "Channels of the first level.", low=1)
    depth: int = config.setting(4, "Times that the resolution is halved.", low=1)
    channels: int = config.setting(3, "Channels of the image.", low=1)
    size: int = config.setting(896, "Side of the image, or of the cubic volume.", low=64)
    tile: config.PerAxis = config.setting(
        512, "Side of the tiles, or three sides, of the windows of volumes.", low=8
    )
    batch_size: int = config.setting(1, "Tiles, or windows, at once.", low=1)
    precision: str = config.setting("float32", "Arithmetic.", choices=("float32", "bfloat16"))
    threads: int = config.setting(2, "Threads of each contender.", low=1)
    warmup: int = config.setting(1, "Images before the first that counts.", low=1)
    rounds: int = config.setting(5, "Images that count, of each contender.", low=1)
    json: str = config.setting("", "Also write the figures to this file.")

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return 2 if isinstance(self.tile, int) else len(self.tile)


def main(settings: Predict) -> None:
    """Lets the contenders predict in turn and prints what a megapixel took."""
    contenders = {"ours": ours}
    if importlib.util.find_spec("monai") and importlib.util.find_spec("torch"):
        contenders["MONAI, PyTorch eager"] = monai
    else:
        print("MONAI is not installed, so it does not take part: pip install '.[bench]'")
    context = multiprocessing.get_context("spawn")
    ends, rounds = {}, {}
    for name, contender in contenders.items():
        ends[name], other = context.Pipe()
        arguments = (other, contender, settings, None)
        context.Process(target=step.serve, args=arguments, daemon=True).start()
        rounds[name] = []
    for number in range(settings.warmup + settings.rounds):
        for name, end in ends.items():
            end.send(True)
            taken = end.recv()
            if number >= settings.warmup:
                rounds[name].append(taken)
    megapixels = settings.size**settings.rank / 1e6
    unit = {2: "megapixel", 3: "megavoxel"}[settings.rank]
    rows = {}
    for name, end in ends.items():
        end.send(False)
        rows[name] = {
            f"s/{unit}": table.summarize([wall / megapixels for wall, _ in rounds[name]]),
            f"CPU s/{unit}": table.summarize([cpu / megapixels for _, cpu in rounds[name]]),
            "peak MB": end.recv(),
        }
    title = (
        f"{settings.filters} filters, depth {settings.depth}, "
        f"{f'{settings.size}×' * settings.rank}{settings.channels}, tiles of "
        f"{config.as_text(settings.tile)}, {settings.batch_size} at once, overlap "
        f"{overlap(settings):.2f}, {settings.precision}, {settings.threads} threads; median "
        f"(quartiles) of {settings.rounds} images"
    )
    table.show(title, rows, settings.json)


def overlap(settings: Predict) -> float:
    """Returns the share of a tile that its neighbour covers, too."""
    from trainer.evaluate import sliding_window

    if not isinstance(settings.tile, int):
        return 0.5
    network = config.Model(depth=settings.depth)
    halo, stride = sliding_window.halo_of(network.levels(rank=2))[0], network.stride(rank=2)[0]
    return (2 * halo + stride) / settings.tile


def noise(settings: Predict) -> np.ndarray:
    """Returns the image, uint8 [size, size, C], or the volume, uint8 [size, size, size, C]."""
    shape = (*(settings.size,) * settings.rank, settings.channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def ours(settings: Predict, option: None) -> Callable[[], Any]:
    """Returns a function that predicts the image, from uint8 to probabilities."""
    cli.prepare_environment()
    with cli.importing():
        import keras
        import tensorflow as tf

        from trainer.checkpointing import best_weights, run_metadata
        from trainer.distributed import arithmetic
        from trainer.models import build
        from trainer.predict import load

    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    keras.mixed_precision.set_global_policy(arithmetic.POLICIES[settings.precision])
    model = config.Model(filters=settings.filters, depth=settings.depth)
    job = config.Job(data=config.Data(crop=settings.tile), model=model)
    data = {"dtype": "uint8", "class_values": [0, 1], "mean": [0.0], "std": [1.0]}
    if settings.rank == 3:
        channels = [{"name": str(n), "scheme": "zscore"} for n in range(settings.channels)]
        data |= {"dtype": "float32", "volumes": {"spacing": None, "channels": channels}}
    run = run_metadata.describe(
        job,
        tf.distribute.OneDeviceStrategy("/CPU:0"),
        fingerprint="",
        data_fingerprint="",
        channels=settings.channels,
        classes=["background", "object"],
        streams=1,
        total_steps=1,
        precision=settings.precision,
        data=data,
    )
    with tempfile.TemporaryDirectory() as folder:
        run_metadata.write(folder, run)
        best = best_weights.best_checkpoints(
            folder, build.build_model(job.model, settings.channels, 2, rank=settings.rank)
        )
        best.write(best.snapshot(0, {}))
        tile = {} if settings.rank == 3 else {"tile": settings.tile}
        networks = load.load(os.fspath(folder), batch_size=settings.batch_size, **tile)
    image = noise(settings)
    return lambda: networks.probabilities(image)


def monai(settings: Predict, option: None) -> Callable[[], Any]:
    """Returns a function that predicts the same image with MONAI, from uint8 to probabilities."""
    import torch
    from monai.inferers import sliding_window_inference

    from benchmarks import pytorch_unet

    torch.set_num_threads(settings.threads)
    sizes = settings.channels, settings.filters, settings.depth
    model = pytorch_unet.UNet(*sizes, rank=settings.rank).eval()
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[settings.rank]
    model = model.to(memory_format=layout)
    image = noise(settings)
    bfloat16 = settings.precision == "bfloat16"

    def predict() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            pixels = torch.from_numpy(image).movedim(-1, 0)[None].float()
            space = tuple(range(2, pixels.ndim))
            deviation, mean = torch.std_mean(pixels, space, keepdim=True)
            pixels = ((pixels - mean) / deviation).to(memory_format=layout)
            logits = sliding_window_inference(
                *(pixels, settings.tile, settings.batch_size, model, overlap(settings)),
                mode="gaussian",
            )
            return torch.sigmoid(logits.float()).numpy()

    return predict


if __name__ == "__main__":
    cli.run(Predict, main)
