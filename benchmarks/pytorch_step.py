"""PyTorch's training step of our U-Net, as its users would write it.

    python -m benchmarks.pytorch_step FILE eager|compiled cpu|gpu

takes steps of the network of an exported step, as many at a time as the lines of its standard
input say; `benchmarks/run_exported.py` starts it. It needs PyTorch and NumPy, and nothing of the
package.
"""

import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import pytorch_unet

# Settings of network, loss and optimizer with which the step is made, or which take no time.
KNOWN = {"filters", "depth", "norm", "learning_rate", "weight_decay", "schedule", "warmup_steps"}
KNOWN |= {"lr_scaling", "lr_reference_batch", "steps", "epochs"}

DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # by jax's name


def training_step(
    *,
    image: Sequence[int],
    classes: int,
    filters: int,
    depth: int,
    norm: str,
    precision: str,
    batch_size: int,
    device: str = "cpu",
    compiled: bool = False,
) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """Returns the network, and a function that takes a step on a random batch, of one loss.

    Args:
        image: its shape, (H, W, C) or (D, H, W, C).
        classes: of the labels; two take one logit.
        filters: of the first level.
        depth: times that the resolution is halved.
        norm: "batch" or "instance".
        precision: "float32" or "bfloat16".
        batch_size: images per step.
        device: as PyTorch names it.
        compiled: whether `torch.compile` compiles the network and its loss.
    """
    *box, channels = image
    rank = len(box)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[rank]
    torch.backends.cudnn.benchmark = True
    outputs = 1 if classes == 2 else classes
    model = pytorch_unet.UNet(channels, filters, depth, outputs, rank=rank, norm=norm)
    model = model.to(device, memory_format=layout)
    optimizer = torch.optim.AdamW(
        model.parameters(), 1e-3, weight_decay=1e-4, fused=device != "cpu" or None
    )
    images = torch.randn(batch_size, channels, *box).to(device, memory_format=layout)
    labels = torch.randint(0, classes, (batch_size, *box)).to(device)

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(images)
        return pytorch_unet.ce_dice(logits.float(), labels)

    if compiled:
        loss_of = torch.compile(loss_of)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(images, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    return model, step


def main(path: str, form: str, platform: str) -> None:
    """Answers each line of standard input with a line of JSON on standard output."""
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read("step.json"))
    network, device = dict(header["network"]), DEVICES.get(platform, "")
    if refusal := why_not(header, platform):
        answer(error=refusal)
        return
    parameters = network.pop("parameters")
    del network["model"]
    network["norm"] = network["norm"].removeprefix("sync_")
    model, step = training_step(
        **network, batch_size=header["batch_size"], device=device, compiled=form == "compiled"
    )
    own = sum(parameter.numel() for parameter in model.parameters())
    if own != parameters:
        answer(error=f"PyTorch's network has {own} parameters, and the exported one {parameters}.")
        return
    answer(version=torch.__version__)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            loss = step()
        value = loss.item()  # waits for the device
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
        answer(seconds=seconds, loss=value, peak_bytes=peak)


def why_not(header: dict[str, Any], platform: str) -> str:
    """Returns why there is no such step here; empty if there is."""
    network = header["network"]
    if platform not in DEVICES or (platform == "gpu" and not torch.cuda.is_available()):
        return (
            f"jax runs on a {platform}, and PyTorch {torch.__version__} finds none; leave "
            "--pytorch out, or choose jax's device by JAX_PLATFORMS."
        )
    if unknown := sorted(set(header["settings"]) - KNOWN):
        flags = ", ".join(f"--{name}={header['settings'][name]}" for name in unknown)
        return f"PyTorch's step knows no {flags}; export one without, or leave --pytorch out."
    if network["norm"].removeprefix("sync_") not in ("batch", "instance"):
        return f"PyTorch's step knows no --norm={network['norm']}; use batch or instance."
    if network["precision"] not in ("float32", "bfloat16"):
        return f"PyTorch's step knows no --precision={network['precision']}; use bfloat16."
    return ""


def answer(**found: Any) -> None:
    """Writes a line of JSON."""
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
