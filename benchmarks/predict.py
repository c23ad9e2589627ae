"""Times prediction of a large image in tiles, beside MONAI's sliding_window_inference.

    python -m benchmarks.predict [--filters=16 --size=896 --tile=512 --rounds=5]

Both cut the same image into as many tiles of the same size, by networks of the same architecture,
and blend smoothly. Each lives in a process of its own; they take turns. MONAI and PyTorch take
part where the extra [bench] is installed.
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
    """Times tiled prediction of one image of noise by a U-Net with random weights."""

    filters: int = config.setting(16, "Channels of the first level.", low=1)
    depth: int = config.setting(4, "Times that the resolution is halved.", low=1)
    channels: int = config.setting(3, "Channels of the image.", low=1)
    size: int = config.setting(896, "Side of the image.", low=64)
    tile: int = config.setting(512, "Side of the tiles.", low=64)
    precision: str = config.setting("float32", "Arithmetic.", choices=("float32", "bfloat16"))
    threads: int = config.setting(2, "Threads of each contender.", low=1)
    warmup: int = config.setting(1, "Images before the first that counts.", low=1)
    rounds: int = config.setting(5, "Images that count, of each contender.", low=1)
    json: str = config.setting("", "Also write the figures to this file.")


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
    megapixels = settings.size**2 / 1e6
    rows = {}
    for name, end in ends.items():
        end.send(False)
        rows[name] = {
            "s/megapixel": table.summarize([wall / megapixels for wall, _ in rounds[name]]),
            "CPU s/megapixel": table.summarize([cpu / megapixels for _, cpu in rounds[name]]),
            "peak MB": end.recv(),
        }
    title = (
        f"{settings.filters} filters, depth {settings.depth}, image {settings.size}×"
        f"{settings.size}×{settings.channels}, tiles of {settings.tile}, overlap "
        f"{overlap(settings):.2f}, {settings.precision}, {settings.threads} threads; median "
        f"(quartiles) of {settings.rounds} images"
    )
    table.show(title, rows, settings.json)


def overlap(settings: Predict) -> float:
    """Returns the share of a tile that its neighbour covers, too."""
    from trainer.evaluate import sliding_window

    network = config.Model(depth=settings.depth)
    halo, stride = sliding_window.halo_of(network.levels(rank=2))[0], network.stride(rank=2)[0]
    return (2 * halo + stride) / settings.tile


def noise(settings: Predict) -> np.ndarray:
    """Returns the image, uint8 [size, size, C]."""
    shape = (settings.size, settings.size, settings.channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def ours(settings: Predict, option: None) -> Callable[[], Any]:
    """Returns a function that predicts the image, from uint8 to probabilities."""
    cli.prepare_environment()
    with cli.importing():
        import keras
        import tensorflow as tf

        from trainer.checkpointing import best_weights, run_metadata
        from trainer.distributed import strategies
        from trainer.models import build
        from trainer.predict import load

    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    keras.mixed_precision.set_global_policy(strategies.POLICIES[settings.precision])
    job = config.Job(model=config.Model(filters=settings.filters, depth=settings.depth))
    data = {"dtype": "uint8", "class_values": [0, 1], "mean": [0.0], "std": [1.0]}
    run = {
        "settings": config.to_dict(job),
        "channels": settings.channels,
        "classes": ["background", "object"],
        "fingerprint": "",
        "data": data,
    }
    with tempfile.TemporaryDirectory() as folder:
        run_metadata.write(folder, run)
        best = best_weights.best_checkpoints(
            folder, build.build_model(job.model, settings.channels, 2)
        )
        best.write(best.snapshot(0, {}))
        networks = load.load(os.fspath(folder), tile=settings.tile)
    image = noise(settings)
    return lambda: networks.probabilities(image)


def monai(settings: Predict, option: None) -> Callable[[], Any]:
    """Returns a function that predicts the same image with MONAI, from uint8 to probabilities."""
    import torch
    from monai.inferers import sliding_window_inference

    from benchmarks import pytorch_unet

    torch.set_num_threads(settings.threads)
    model = pytorch_unet.UNet(settings.channels, settings.filters, settings.depth).eval()
    model = model.to(memory_format=torch.channels_last)
    image = noise(settings)
    bfloat16 = settings.precision == "bfloat16"

    def predict() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
            deviation, mean = torch.std_mean(pixels, (2, 3), keepdim=True)
            pixels = ((pixels - mean) / deviation).to(memory_format=torch.channels_last)
            logits = sliding_window_inference(
                pixels, settings.tile, 1, model, overlap(settings), mode="gaussian"
            )
            return torch.sigmoid(logits.float()).numpy()

    return predict


if __name__ == "__main__":
    cli.run(Predict, main)
