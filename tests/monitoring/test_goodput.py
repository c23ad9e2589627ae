"""Where the time of a run goes; the clock is the test's."""

import math

import pytest

from trainer.monitoring.goodput import Goodput, Speed


class Clock:
    """Seconds that a test sets."""

    now = 100.0


def test_shares_add_up_to_one_and_each_second_counts_once():
    clock = Clock()
    goodput = Goodput(clock.now, {}, lambda: clock.now)
    clock.now += 10  # building
    with goodput.spending("evaluation"):
        clock.now += 5
    clock.now += 5  # compiling the first steps
    goodput.add_steps(5.0, 0.0, redone=False)
    goodput.add_steps(70.0, 10.0, redone=False)
    goodput.add_steps(10.0, 0.0, redone=True)
    assert goodput.seconds() == {
        "steps": 60.0,
        "redone": 10.0,
        "input": 10.0,
        "evaluation": 5.0,
        "checkpoint": 0.0,
        "startup": 15.0,
    }
    shares = goodput.shares()
    assert shares["goodput"] == 0.6
    assert sum(shares.values()) == pytest.approx(1)


def test_a_run_that_resumes_adds_to_what_it_had():
    clock = Clock()
    goodput = Goodput(clock.now, {"steps": 30.0, "startup": 5.0}, lambda: clock.now)
    clock.now += 5
    goodput.add_steps(5.0, 0.0, redone=False)
    goodput.add_steps(60.0, 0.0, redone=False)
    assert goodput.shares()["goodput"] == 0.9
    assert goodput.shares()["share_startup"] == 0.1


def test_speed_is_over_all_calls_since_it_was_taken():
    speed = Speed(batch_size=8)
    speed.add(1, 3.0, 0.0)
    assert speed.per_step == math.inf
    speed.add(3, 1.0, 0.4)
    assert speed.per_step == pytest.approx(1 / 3)
    assert speed.take() == {"images_per_second": 8.0, "input_share": pytest.approx(0.1)}
    speed.add(2, 4.0, 0.0)
    assert speed.take() == {"images_per_second": 4.0, "input_share": 0.0}
