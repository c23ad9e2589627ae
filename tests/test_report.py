"""metrics.jsonl and the events of TensorBoard."""

import json

import numpy as np
import tensorflow as tf

from trainer import report

FIGURES = {"loss": 0.5, "images_per_second": 10.0}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_report_is_a_line_with_step_and_split(tmp_path):
    reporter = report.Report(str(tmp_path), True, 0, 10)
    reporter.train(5, FIGURES)
    reporter.validation(5, {"loss": 0.4, "dice": 0.8}, {})
    reporter.test(10, {"dice": 0.7})
    reporter.close()
    assert lines(tmp_path) == [
        {"step": 5, "split": "train", "loss": 0.5, "images_per_second": 10.0},
        {"step": 5, "split": "val", "loss": 0.4, "dice": 0.8},
        {"step": 10, "split": "test", "dice": 0.7},
    ]


def test_a_run_that_goes_on_drops_lines_of_later_steps_and_a_cut_line(tmp_path):
    reporter = report.Report(str(tmp_path), True, 0, 10)
    for step in (2, 4, 6):
        reporter.train(step, FIGURES)
    reporter.test(2, {"dice": 0.7})  # of the best step; the run that goes on writes it again
    reporter.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "spl')
    report.Report(str(tmp_path), True, 4, 10).close()
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]


def test_scalars_and_panels_are_in_the_event_files(tmp_path):
    reporter = report.Report(str(tmp_path), True, 0, 10)
    reporter.train(5, FIGURES)
    reporter.validation(5, {"dice": 0.8}, {"a": np.zeros((4, 4, 3), np.uint8)})
    reporter.close()
    tags = set()
    for path in (tmp_path / "tensorboard").glob("*/events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {(path.parent.name, value.tag) for value in event.summary.value}
    assert tags == {
        ("train", "loss"),
        ("train", "images_per_second"),
        ("val", "dice"),
        ("val", "cases/a"),
    }


def test_other_workers_write_nothing(tmp_path):
    reporter = report.Report(str(tmp_path), False, 0, 10)
    reporter.train(5, FIGURES)
    reporter.validation(5, {"dice": 0.8}, {})
    reporter.close()
    assert list(tmp_path.iterdir()) == []
