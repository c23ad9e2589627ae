"""What is due at which step."""

import math

import pytest

from trainer.training.schedule import StepSchedule

SCHEDULE = StepSchedule(total_steps=25, eval_every=10, checkpoint_every=8, report_every=6)


def calls(schedule, step=0, seconds_per_step=0.1):
    """Returns where each call of the loop stops, from a step to the last."""
    stops = []
    while step < schedule.total_steps:
        step = schedule.next_stop(step, seconds_per_step)
        stops.append(step)
    return stops


def test_an_evaluation_is_due_at_each_multiple_and_at_the_last_step():
    assert [step for step in range(26) if SCHEDULE.evaluates_at(step, 0)] == [10, 20, 25]


def test_an_evaluation_is_due_once_and_again_where_it_was_cut_short():
    assert SCHEDULE.evaluates_at(20, evaluated_step=10)
    assert not SCHEDULE.evaluates_at(20, evaluated_step=20)


def test_a_checkpoint_is_due_at_each_multiple_and_at_the_last_step():
    assert [step for step in range(1, 26) if SCHEDULE.saves_at(step)] == [8, 16, 24, 25]


def test_a_report_is_due_at_its_multiples_and_with_each_evaluation():
    due = [step for step in range(1, 26) if SCHEDULE.reports_at(step)]
    assert due == [6, 10, 12, 18, 20, 24, 25]


def test_a_call_never_passes_a_step_at_which_something_is_due():
    assert calls(SCHEDULE) == [6, 8, 10, 12, 16, 18, 20, 24, 25]


@pytest.mark.parametrize("step", range(25))
def test_a_resumed_run_stops_where_an_unstopped_one_does(step):
    assert calls(SCHEDULE, step) == [stop for stop in calls(SCHEDULE) if stop > step]


def test_a_call_takes_five_seconds_at_most_and_one_step_at_least():
    assert SCHEDULE.next_stop(0, seconds_per_step=2.0) == 2
    assert SCHEDULE.next_stop(0, seconds_per_step=60.0) == 1
    assert SCHEDULE.next_stop(0, seconds_per_step=math.inf) == 1


def test_each_traced_step_is_a_call_of_its_own():
    schedule = StepSchedule(
        total_steps=20, eval_every=20, checkpoint_every=20, report_every=5, traced=(7, 9)
    )
    assert calls(schedule) == [5, 6, 7, 8, 9, 10, 15, 20]
    assert calls(schedule, step=7) == [8, 9, 10, 15, 20]


def test_no_call_goes_past_the_step_from_which_the_encoder_is_trained():
    schedule = StepSchedule(
        total_steps=20, eval_every=10, checkpoint_every=10, report_every=5, freeze_until=7
    )
    assert calls(schedule) == [5, 7, 10, 15, 20]
