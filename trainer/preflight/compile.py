"""Compiles one program with an accelerator's own compiler: `python -m trainer.preflight.compile`.

A process of its own, because jax and TensorFlow, and the compilers of TPUs and GPUs, do not share
one well, and because a compiler that runs out of memory takes its process along. `compilation.py`
starts it.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import sys
import time
from typing import Any

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir
from jax.experimental import topologies
from jaxlib import _jax

_COUNTER = re.compile(r"a_inference_\w+")  # in the program's name; differs between two lowerings
PACKAGES = {
    "tpu": ("jax", "jaxlib", "libtpu"),
    "cuda": ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cudnn-cu12"),
}


def main(request_path: str) -> None:
    """Answers a request.

    Args:
        request_path: a JSON file: paths of the `program`, the `cache` and the `answer` to write,
            the `target` that jax takes, and the user's own `flags` for the compiler.
    """
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    with open(request["program"], "rb") as file:
        program = file.read()
    versions = _versions(request["target"]["platform"])
    key = _fingerprint(program, [request["target"], request["flags"], versions])
    folder = os.path.join(request["cache"], key)
    answer = os.path.join(folder, "answer.json")
    cached = os.path.exists(answer)
    if not cached:
        os.makedirs(folder, exist_ok=True)
        start = time.monotonic()
        result = _compile(program, request["target"], os.path.join(folder, "optimized.txt"))
        result["seconds"] = time.monotonic() - start
        result["compiler"] = versions
        temporary = f"{answer}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(result, file)
        os.replace(temporary, answer)  # last, so that an answer that is there is whole
    with open(request["answer"], "w", encoding="utf-8") as file:
        json.dump({"folder": folder, "cached": cached}, file)


def _versions(platform: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES[platform]}


def _fingerprint(program: bytes, settings: list[dict[str, Any]]) -> str:
    """Returns what programs that compile to the same have in common, and others have not."""
    text = _COUNTER.sub("", xla_client.XlaComputation(program).as_hlo_text(True))
    whole = text + json.dumps(settings, sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:24]


def _compile(program: bytes, target: dict[str, Any], text_path: str) -> dict[str, Any]:
    """Compiles a serialized HLO module and writes its optimised text.

    Returns:
        `flops` of the program before optimisation; `memory` in bytes; of a TPU the compiler's
        `cost`. Where the program does not fit: `error`, the compiler's report, and no memory.
    """
    result: dict[str, Any] = {"flops": _flops(program)}
    topology = topologies.get_topology_desc(**target)
    device = topology.devices[0]
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    try:
        devices = _jax.DeviceList((device,))
        executable = device.client.compile(_to_stablehlo(program), devices, options)
    except _jax.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        return {**result, "error": str(error)}
    memory = executable.get_compiled_memory_stats()
    result["memory"] = {
        name: getattr(memory, f"{name}_size_in_bytes")
        for name in ("argument", "output", "alias", "temp", "generated_code")
    }
    if "TPU" in device.device_kind:
        cost = executable.cost_analysis()
        result["cost"] = {"flops": cost["flops"], "bytes": cost["bytes accessed"]}
    with open(text_path, "w", encoding="utf-8") as file:
        file.write(executable.hlo_modules()[0].to_string())
    return result


def _flops(program: bytes) -> float:
    """Returns the floating-point operations of the program as it was written."""
    module = xla_client.XlaComputation(program).get_hlo_module()
    client = jax.devices("cpu")[0].client
    return _jax.hlo_module_cost_analysis(client, module)["flops"]


def _to_stablehlo(program: bytes) -> ir.Module:
    context = mlir.make_ir_context()
    context.allow_unregistered_dialects = True
    with context, ir.Location.unknown():
        module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(program))
        _drop_copies(module.operation)
    return module


def _drop_copies(operation: Any) -> None:
    """Removes TensorFlow's mhlo.copy, which is the identity and has no form in StableHLO."""
    for region in operation.regions:
        for block in region.blocks:
            for child in list(block.operations):
                if child.operation.name == "mhlo.copy":
                    child.operation.results[0].replace_all_uses_with(child.operation.operands[0])
                    child.operation.erase()
                else:
                    _drop_copies(child.operation)


if __name__ == "__main__":
    main(sys.argv[1])
