"""Programs as a TPU's compiler leaves them, of a few instructions."""

import json

from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2


def instruction(opcode, *, cycles=0, op_name="", shape=(8,), called=(), limit=None):
    """Returns an instruction of bfloat16 whose cycles the TPU's compiler has estimated."""
    found = hlo_pb2.HloInstructionProto(
        opcode=opcode,
        shape=array(*shape),
        metadata=xla_data_pb2.OpMetadata(op_name=op_name),
        called_computation_ids=called,
    )
    if cycles:
        settings = {"window_config": {"estimated_cycles": str(cycles)}}
        found.backend_config = json.dumps(settings).encode()
    if limit is not None:
        found.literal.s32s.append(limit)
    return found


def array(*dims):
    return xla_data_pb2.ShapeProto(element_type=xla_data_pb2.BF16, dimensions=dims)


def program(*computations):
    """Returns the module of computations 1, 2, …, of which the first is entered."""
    return hlo_pb2.HloModuleProto(
        entry_computation_id=1,
        computations=[
            hlo_pb2.HloComputationProto(id=number, instructions=instructions)
            for number, instructions in enumerate(computations, start=1)
        ],
    )
