"""The setup that suits the time at hand, by what steps would take."""

import pytest

from tests.data.planning.test_auto_rules import images
from tests.data.planning.test_nnunet_rules import HIPPOCAMPUS
from trainer.data.planning import auto_rules
from trainer.plan import timed
from trainer.plan.timed import Measured

CELLS, NUCLEI = images(180, 120, 120), images(332, 256, 320)


def fit(data, minutes, seconds, *, start=10.0, evaluation=4.0, final=1.0):
    """Returns what fits, where a step of 8 examples with 16 filters takes so many seconds."""

    def measure(setup):
        # Twice the width takes twice the time, as does twice the batch.
        step = seconds * setup.filters / 16 * setup.batch_size / 8
        return Measured(start=start, step=step, evaluation=evaluation, precision="float32")

    return timed.fit(auto_rules.for_cpu(data), data.rank, minutes, 5.0, final, measure)


def sizes(fitted):
    return fitted.setup.filters, fitted.setup.batch_size


def test_start_and_evaluation_are_taken_off_the_time():
    fitted = fit(NUCLEI, 4, 0.1)
    # 240 s less 5 + 10 s to start, 3 · 4 s, and 1.5 · 4 s for the last evaluation; 95 % of it.
    assert fitted.steps == pytest.approx(0.95 * 207 / 0.1, abs=1)
    assert (fitted.evaluations, sizes(fitted)) == (3, (16, 8))
    assert fitted.reason.startswith(
        "0.1 s a step in float32 on this machine, in the 197 s that 15 "
    )


def test_a_short_time_takes_fewer_filters_then_smaller_batches():
    # There are 197 s, as above.
    assert sizes(fit(NUCLEI, 4, 0.16)) == (16, 8)  # 1229 steps
    assert sizes(fit(NUCLEI, 4, 0.17)) == (8, 8)
    assert sizes(fit(NUCLEI, 4, 0.65)) == (8, 8)  # 605 steps
    assert sizes(fit(NUCLEI, 4, 0.66)) == (8, 4)


def test_a_short_time_takes_smaller_batches_of_volumes_then_fewer_filters():
    # A step of 4 volumes takes half of the seconds of 8.
    assert sizes(fit(HIPPOCAMPUS, 4, 0.32)) == (16, 4)  # 1229 steps
    assert sizes(fit(HIPPOCAMPUS, 4, 0.34)) == (16, 2)
    assert sizes(fit(HIPPOCAMPUS, 4, 1.3)) == (16, 2)  # 605 steps
    assert sizes(fit(HIPPOCAMPUS, 4, 1.33)) == (8, 2)


def test_a_long_time_takes_more_filters():
    # 95 % of 3600 s less 15, 5 · 4 and 6 s are 3381 s: 6036 steps of 0.56 s with 32 filters.
    assert sizes(fit(NUCLEI, 60, 0.28)) == (32, 8)
    assert sizes(fit(NUCLEI, 60, 0.29)) == (16, 8)
    assert sizes(fit(CELLS, 12, 0.12)) == (8, 8)  # 654 s are 5450 steps of 16 filters


def test_evaluations_that_take_long_are_fewer():
    # A third of 240 s at most: 1.5 · 20 s for the last and 2 · 20 s.
    assert fit(NUCLEI, 4, 0.1, evaluation=20).evaluations == 2
    assert fit(NUCLEI, 20, 0.1, evaluation=20).evaluations == 5
    assert fit(NUCLEI, 4, 0.1, evaluation=100).evaluations == 1


def test_a_time_that_is_too_short_is_said():
    fitted = fit(NUCLEI, 0.5, 1)
    # 30 s less 15 to start, one evaluation of 4 s and the last of 6: 19 steps of 0.25 s; 81 more.
    assert (fitted.steps, sizes(fitted)) == (100, (8, 4))
    assert fitted.warning == (
        "Warning: --minutes=0.5 is short for these data on this machine: 100 steps take about 0.86 "
        "minutes, and a network needs 600; give it more."
    )
    assert not fit(NUCLEI, 4, 0.1).warning
