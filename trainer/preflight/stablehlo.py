"""Turns TensorFlow's HLO into StableHLO, with jax's bindings.

`python -m trainer.preflight.stablehlo` does it in a process of its own, because jax and TensorFlow
do not share one well: HLO comes on standard input, StableHLO goes to standard output.
"""

import os
import subprocess
import sys
from typing import Any


def portable(program: bytes) -> bytes:
    """Returns a serialized HLO module as StableHLO's portable artifact.

    Every jax reads it whose StableHLO is at most twelve weeks older than that of the jax installed
    here, or newer by at most five years, as StableHLO promises.
    """
    process = subprocess.run(
        [sys.executable, "-m", "trainer.preflight.stablehlo"],
        input=program,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        check=False,
    )
    if process.returncode:
        raise RuntimeError(
            f"The conversion to StableHLO ended with status {process.returncode}:\n"
            + "\n".join(process.stderr.decode(errors="replace").splitlines()[-30:])
        )
    return process.stdout


def from_hlo(program: bytes) -> Any:
    """Returns a serialized HLO module as an MLIR module of jax's bindings."""
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir
    from jaxlib import _jax

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


def _convert() -> None:
    """Does what `portable` asks for, in the process of its own."""
    from jaxlib.mlir.dialects import stablehlo

    module = from_hlo(sys.stdin.buffer.read())
    target = stablehlo.get_version_from_compatibility_requirement(
        stablehlo.StablehloCompatibilityRequirement.WEEK_12
    )
    sys.stdout.buffer.write(stablehlo.serialize_portable_artifact(module, target))


if __name__ == "__main__":
    _convert()
