"""The background writer: in order, again where it failed, and never silently given up."""

import threading

import pytest

from trainer.checkpointing import background_writer
from trainer.errors import RetryableError


def test_tasks_are_done_in_order_and_all_before_the_end():
    done = []
    with background_writer.Writer(patience=3) as background:
        for number in range(5):
            background.submit(lambda number=number: done.append(number))
    assert done == [0, 1, 2, 3, 4]


def test_submitting_does_not_wait_for_its_own_task_but_for_the_one_before():
    release, done = threading.Event(), []

    def slow():
        release.wait(10)
        done.append("slow")

    with background_writer.Writer(patience=3) as background:
        background.submit(slow)
        assert done == []
        release.set()
        background.submit(lambda: done.append("next"))
        assert done[0] == "slow"
    assert done == ["slow", "next"]


def test_a_task_that_fails_is_tried_again(caplog):
    attempts = []

    def fails_twice():
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("the disk is full")

    with background_writer.Writer(patience=3, first_pause_seconds=0.01) as background:
        background.submit(fails_twice)
    assert len(attempts) == 3
    assert caplog.text.count("could not be written (the disk is full); training continues") == 2


def test_while_a_task_fails_a_newer_one_takes_its_place():
    failed, done = threading.Event(), []

    def fails():
        failed.set()
        raise OSError("no")

    with background_writer.Writer(patience=9, first_pause_seconds=0.2) as background:
        background.submit(fails)
        assert failed.wait(10)
        background.submit(lambda: done.append("newer"))
    assert done == ["newer"]


def test_after_too_many_failures_in_a_row_it_gives_up_with_the_cause():
    def fails():
        raise OSError("the bucket is gone")

    with (
        pytest.raises(RetryableError) as error,
        background_writer.Writer(patience=2, first_pause_seconds=0.01) as background,
    ):
        background.submit(fails)
    assert str(error.value) == (
        "No checkpoint could be written, 2 times in a row: the bucket is gone. The last complete "
        "one is kept; fix the cause and start again, or allow more with --checkpoint_patience."
    )


def test_a_success_forgives_earlier_failures():
    outcomes = iter([False, True, False, True])

    def task():
        if not next(outcomes):
            raise OSError("no")

    with background_writer.Writer(patience=2, first_pause_seconds=0.01) as background:
        background.submit(task)
        background.drain()
        background.submit(task)


def test_a_defect_is_raised_as_it_is():
    with pytest.raises(ZeroDivisionError), background_writer.Writer(patience=2) as background:
        background.submit(lambda: 1 // 0)


def test_an_error_of_the_block_waits_for_what_is_being_written():
    done = []

    def fail_after_submitting():
        with background_writer.Writer(patience=2) as background:
            background.submit(lambda: done.append(1))
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_submitting()
    assert done == [1]
