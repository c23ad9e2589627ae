"""What a run says of itself, and when."""

import json
import math

import numpy as np
import pytest

from tests.checkpointing.test_train_state import build, save
from tests.devices import strategy_of
from tests.shards import write_data
from trainer import config
from trainer.evaluate import scores
from trainer.monitoring.reporter import next_lines, reporting, score_lines
from trainer.training.schedule import StepSchedule

SCHEDULE = StepSchedule(total_steps=6, eval_every=6, checkpoint_every=6, report_every=3)


def open_reporter(folder, state):
    manifest = write_data(folder, {"train": [(16, 16)]})
    job = config.Job(run=config.Run(run_dir=str(folder)), data=config.Data(batch_size=2))
    return reporting(job, strategy_of(1), manifest, state, SCHEDULE, started=0.0)


def take(state, reporter, *losses):
    """Reports one call of the loop that took a step for each loss, in half a second each."""
    state.step += len(losses)
    figures = {"loss": np.float32(losses), "wait_seconds": np.float32([0.1] * len(losses))}
    reporter.trained(len(losses), 0.5 * len(losses), figures)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_means_are_reported_where_the_schedule_says_and_kept_until_then(tmp_path):
    state = build(tmp_path)
    with open_reporter(tmp_path, state) as reporter:
        take(state, reporter, 1.0, 2.0)
        assert not (tmp_path / "metrics.jsonl").exists()
        assert reporter.unreported() == {"loss": [1.0, 2.0]}
        take(state, reporter, 6.0)
        assert reporter.unreported() == {}
    (line,) = lines(tmp_path)
    assert (line["step"], line["split"], line["loss"]) == (3, "train", 3.0)
    assert line["learning_rate"] == pytest.approx(0.1)
    assert line["images_per_second"] == 4.0  # two images a step
    assert line["input_share"] == pytest.approx(0.2)


def test_a_mean_does_not_depend_on_a_stop_before_it(tmp_path):
    state = build(tmp_path)
    with open_reporter(tmp_path, state) as reporter:
        take(state, reporter, 1.0, 2.0)
        state.write(state.snapshot(reporter.unreported(), reporter.goodput.seconds()))
    resumed = build(tmp_path)
    resumed.restore(strategy_of(1))
    with open_reporter(tmp_path, resumed) as reporter:
        take(resumed, reporter, 6.0)
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(3, 3.0)]


def test_steps_that_were_reported_before_a_kill_count_as_redone(tmp_path):
    state = build(tmp_path)
    save(state)
    with open_reporter(tmp_path, state) as reporter:
        take(state, reporter, 1.0, 1.0, 1.0)
    killed = build(tmp_path)
    killed.restore(strategy_of(1))
    with open_reporter(tmp_path, killed) as reporter:
        take(killed, reporter, 1.0)  # the first of a process counts as its start
        take(killed, reporter, 1.0, 1.0)
        take(killed, reporter, 1.0)
        seconds = reporter.goodput.seconds()
    assert (seconds["redone"], seconds["steps"]) == pytest.approx((0.8, 0.4))


def test_the_time_of_a_step_is_not_known_before_the_second_call(tmp_path):
    state = build(tmp_path)
    with open_reporter(tmp_path, state) as reporter:
        assert reporter.seconds_per_step == math.inf
        take(state, reporter, 1.0)
        take(state, reporter, 1.0)
        assert reporter.seconds_per_step == 0.5


def test_the_last_lines_say_the_score_and_what_to_do_next():
    nothing = np.zeros((1, 2, 3), np.int64)  # neither in the truth nor in the prediction
    summary = scores.summarize(nothing, nothing, ["background", "nucleus"])
    run = config.Run(run_dir="runs/a b")
    text = score_lines(summary, "val", "finished; best checkpoint: step 4", 12.34)
    assert text.splitlines()[-2:] == [
        "val Dice, mean per image: undefined   (finished; best checkpoint: step 4)",
        "12.3 images/s in training",
    ]
    assert next_lines(run).splitlines() == [
        "run folder: runs/a b",
        "report: runs/a b/report.html",
        "python -m trainer.predict '--run_dir=runs/a b' --images=… --output=…",
        "python -m trainer.export '--run_dir=runs/a b'",
        "tensorboard --logdir 'runs/a b'",
    ]
    again = score_lines(summary, "val", "already finished; best checkpoint: step 4", 0.0)
    assert "images/s" not in again
