"""The file of --export: the lowered step, and what jax and NumPy need to run it.

A zip of `step.mlirbc`, StableHLO's portable artifact, and `step.json`:

    format        1
    title         the step in words
    accelerator   that it is lowered for: on TPUs narrow levels are packed
    batch_size    of one replica
    flops         of the network's convolutions in a step
    network       model, filters, depth, norm, precision, image (H, W, C), classes, parameters
    settings      the flags of network, loss and optimizer that differ from their defaults
    figures       names of the outputs that come before the variables' new values
    inputs        of each its name, shape, dtype and `draw` (see `lowering.Input`)
    updated       numbers of the inputs whose new values the other outputs are, in their order
    estimate      what preflight found: step_ms (TPUs), memory_gib; null if it did not compile
    versions      of the packages
"""

import dataclasses
import importlib.metadata
import zipfile
from typing import Any

import keras
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2

from trainer import config, json_text, version
from trainer.models import norms
from trainer.preflight import report, stablehlo
from trainer.preflight.accelerators import Accelerator
from trainer.preflight.lowering import Lowered
from trainer.storage import files

FIGURES = ("loss", "gradient_norm")


def write(
    path: str,
    job: config.Job,
    accelerator: Accelerator,
    num_replicas: int,
    lowered: Lowered,
    found: dict[str, Any] | None,
) -> None:
    """Writes the file.

    Args:
        path: of the file, on the disk or in a store.
        job: the settings.
        accelerator: for which the step is lowered.
        num_replicas: among which the batch is divided.
        lowered: the step of one of them.
        found: its `report.figures`; None if it has not been compiled.
    """
    header = {
        "format": 1,
        "title": f"{report.step_title(job, lowered.image, lowered.precision)}, "
        f"batch {lowered.batch_size}",
        "accelerator": accelerator.title,
        "batch_size": lowered.batch_size,
        "flops": lowered.flops,
        "network": {
            "model": job.model.title,
            "filters": job.model.filters,
            "depth": len(job.model.levels(len(lowered.image) - 1)) - 1,
            "norm": norms.choose(job.model.norm, num_replicas),
            "precision": lowered.precision,
            "image": lowered.image,
            "classes": lowered.num_classes,
            "parameters": lowered.parameters,
        },
        "settings": _changed(job.model) | _changed(job.optimization),
        "figures": FIGURES,
        "inputs": [dataclasses.asdict(one) for one in lowered.inputs],
        "updated": _updated(lowered),
        "estimate": found
        and {
            "step_ms": found["step_ms_estimate"],
            "memory_gib": found["memory_gib"]["total"],
            "compiler": found["compiler"],
        },
        "versions": {
            "unet-trainer": version.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "jax": importlib.metadata.version("jax"),
        },
    }
    program = stablehlo.portable(lowered.program)
    with files.writing(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("step.json", json_text.dumps(header, ensure_ascii=False))
        archive.writestr("step.mlirbc", program, zipfile.ZIP_DEFLATED)


def _changed(settings: config.Settings) -> dict[str, Any]:
    defaults = config.to_dict(type(settings)())
    return {k: v for k, v in config.to_dict(settings).items() if v != defaults[k]}


def _updated(lowered: Lowered) -> list[int]:
    """Returns the inputs that the outputs after FIGURES update.

    Raises:
        RuntimeError: the program is not made as this module reads it.
    """
    module = hlo_pb2.HloModuleProto.FromString(lowered.program)
    shapes = module.host_program_shape
    of_output = {
        entry.output_shape_index[0]: entry.parameter_number
        for entry in module.input_output_alias.entries
    }
    outputs = range(len(FIGURES), len(shapes.result.tuple_shapes))
    taken = [tuple(parameter.dimensions) for parameter in shapes.parameters]
    if sorted(of_output) != list(outputs) or taken != [one.shape for one in lowered.inputs]:
        raise RuntimeError(
            f"TensorFlow {tf.__version__} lowers the step to {len(taken)} parameters and "
            f"{len(shapes.result.tuple_shapes)} results, {len(of_output)} of them new values; "
            f"{len(lowered.inputs)} inputs are known."
        )
    return [of_output[output] for output in outputs]
