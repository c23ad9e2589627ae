"""Advice is given where something is sure to be better, and only there."""

import pytest

from trainer.preflight import advice
from trainer.preflight.accelerators import ACCELERATORS, GIB


def advise(name, total, *, filters=64, precision="bfloat16"):
    accelerator = ACCELERATORS[name]
    return list(advice.advise(accelerator, precision=precision, filters=filters, total=total))


def test_nothing_is_advised_where_nothing_is_sure_to_be_better():
    assert advise("v5e", 12 * GIB) == []
    assert advise("v5e", 12 * GIB, filters=12) == []
    assert advise("h100", 60 * GIB) == []
    assert advise("t4", 10 * GIB, precision="float32", filters=12)[1:] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ("v5e", 12 * GIB, 64, "float32"),
            "--precision=bfloat16 stores each activation in two bytes in place of four.",
        ),
        (
            ("t4", 10 * GIB, 64, "float32"),
            "--precision=float16 stores each activation in two bytes in place of four.",
        ),
        (
            ("v100", 10 * GIB, 64, "bfloat16"),
            "This GPU's matrix units multiply float16 and not bfloat16; use --precision=float16.",
        ),
        (
            ("h100", 60 * GIB, 12, "bfloat16"),
            "--filters=12 is not a multiple of 8, by which this GPU's matrix units multiply; 16 "
            "fills them.",
        ),
        (
            ("v5e", 3.15 * GIB, 64, "bfloat16"),
            "The step takes 20% of the memory; --find_batch doubles --batch_size while it fits.",
        ),
    ],
)
def test_advice_is_given_where_it_is_sure(arguments, line):
    name, total, filters, precision = arguments
    assert advise(name, total, filters=filters, precision=precision) == [line]
