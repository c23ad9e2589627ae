"""The time of a compiled step, of programs small enough to work out by hand."""

from tensorflow.compiler.xla import xla_data_pb2

from tests.preflight.programs import array, instruction, program
from trainer.preflight import estimate


def times_of(module):
    """Returns name → cycles of a program, on a chip of one cycle per second."""
    return {one.name: one.seconds for one in estimate.estimate(module, clock=1.0)}


def test_a_step_takes_its_compilers_cycles_the_costliest_operation_first():
    module = program(
        [
            instruction("parameter"),
            instruction("copy", cycles=600, op_name="gradient_tape/activation_1/ReluGrad"),
            instruction("fusion", cycles=3000, op_name="conv2d_3/conv2d_3_1/Conv2D", called=[2]),
        ],
        [instruction("convolution", cycles=9999)],  # inside a fusion, whose cycles count
    )
    first, second = estimate.estimate(module, clock=1.5e9)
    assert first == estimate.Operation("conv2d_3 Conv2D", "bf16[8]", 2e-6)
    assert second == estimate.Operation("activation_1 ReluGrad", "bf16[8]", 0.4e-6)


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    module = program(
        [instruction("while", called=[2, 3])],
        [instruction("add", cycles=100, op_name="while/activation/Relu")],
        [instruction("constant", limit=5), instruction("compare")],
    )
    assert times_of(module) == {"activation Relu": 500}


def test_a_loop_of_unknown_length_counts_once_and_is_named(caplog):
    module = program(
        [instruction("while", called=[2, 3])],
        [instruction("add", cycles=100, op_name="Relu")],
        [instruction("compare")],
    )
    assert times_of(module) == {"Relu": 100}
    assert "does not say how often" in caplog.text


def test_of_a_conditional_the_longest_branch_counts():
    module = program(
        [instruction("conditional", called=[2, 3])],
        [instruction("add", cycles=10, op_name="short"), instruction("call", called=[4])],
        [instruction("add", cycles=10, op_name="other"), instruction("add", op_name="none")],
        [instruction("add", cycles=1, op_name="called")],
    )
    assert times_of(module) == {"short": 10, "called": 1}


def test_what_has_one_name_is_one_operation_with_the_largest_array_that_it_writes():
    both = instruction("fusion", cycles=2, op_name="conv2d/Cast", called=[2])
    both.shape.CopyFrom(xla_data_pb2.ShapeProto(tuple_shapes=[array(3), array(2, 4)]))
    module = program([instruction("copy", cycles=1, op_name="conv2d/Cast", shape=(4,)), both], [])
    (only,) = estimate.estimate(module, clock=1.0)
    assert only == estimate.Operation("conv2d Cast", "bf16[2,4]", 3)


def test_a_fusion_without_a_name_has_that_of_the_last_one_inside():
    module = program(
        [instruction("fusion", cycles=7, called=[2]), instruction("copy", cycles=1)],
        [instruction("add", op_name="first"), instruction("add", op_name="last")],
    )
    assert times_of(module) == {"last": 7, "copy": 1}
