"""metrics.jsonl and the events of TensorBoard."""

import json
import threading

import numpy as np
import pytest
import tensorflow as tf

from tests.servers import gcs_server
from trainer.monitoring import metrics_log, tensorboard
from trainer.storage import files

FIGURES = {"loss": 0.5, "images_per_second": 10.0}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_each_report_is_a_line_with_step_and_split(tmp_path):
    reporter = metrics_log.MetricsLog(str(tmp_path), True, 0, 10)
    reporter.train(5, FIGURES)
    reporter.validation(5, {"loss": 0.4, "dice": 0.8})
    reporter.test(10, {"dice": 0.7})
    reporter.close()
    assert lines(tmp_path) == [
        {"step": 5, "split": "train", "loss": 0.5, "images_per_second": 10.0},
        {"step": 5, "split": "val", "loss": 0.4, "dice": 0.8},
        {"step": 10, "split": "test", "dice": 0.7},
    ]


def test_a_figure_that_is_no_finite_number_is_null(tmp_path):
    with metrics_log.MetricsLog(str(tmp_path), True, 0, 10) as reporter:
        reporter.train(5, {**FIGURES, "gradient_norm": float("inf")})
        reporter.validation(5, {"loss": float("nan")})
    assert lines(tmp_path)[0] == {"step": 5, "split": "train", **FIGURES, "gradient_norm": None}
    assert lines(tmp_path)[1] == {"step": 5, "split": "val", "loss": None}


def test_a_run_that_resumes_drops_lines_of_later_steps_and_a_cut_line(tmp_path):
    reporter = metrics_log.MetricsLog(str(tmp_path), True, 0, 10)
    for step in (2, 4, 6):
        reporter.train(step, FIGURES)
    reporter.test(2, {"dice": 0.7})  # of the best step; the resumed run writes it again
    reporter.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "spl')
    metrics_log.MetricsLog(str(tmp_path), True, 4, 10).close()
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]


def test_scalars_and_panels_are_in_the_event_files(tmp_path):
    reporter = metrics_log.MetricsLog(str(tmp_path), True, 0, 10)
    reporter.train(5, FIGURES)
    picture = np.zeros((4, 4, 3), np.uint8)
    reporter.validation(5, {"dice": 0.8}, lambda: tensorboard.image("cases/a", picture, "A case."))
    reporter.close()
    tags = set()
    for path in (tmp_path / "tensorboard").glob("*/events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            tags |= {(path.parent.name, value.tag) for value in event.summary.value}
    assert tags == {
        ("train", "loss"),
        ("train", "speed/images_per_second"),
        ("val", "scores/dice"),
        ("val", "cases/a"),
    }


def test_other_workers_write_nothing(tmp_path):
    reporter = metrics_log.MetricsLog(str(tmp_path), False, 0, 10)
    reporter.train(5, FIGURES)
    reporter.validation(5, {"dice": 0.8})
    reporter.close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_resumes_begins_its_event_files_again(tmp_path):
    def scalars(split):
        return sorted(
            (event.step, round(float(tf.make_ndarray(value.tensor)), 3))
            for path in (tmp_path / "tensorboard" / split).glob("events*")
            for event in tf.compat.v1.train.summary_iterator(str(path))
            for value in event.summary.value
            if value.tag == "loss"
        )

    with metrics_log.MetricsLog(str(tmp_path), True, 0, 10) as reporter:
        for step in (1, 2):
            reporter.train(step, {**FIGURES, "loss": 0.1 * step})
        reporter.rotate(2)
        for step in (3, 4):
            reporter.train(step, {**FIGURES, "loss": 9.0})
    with metrics_log.MetricsLog(str(tmp_path), True, 2, 10) as reporter:
        assert reporter.steps_to_redo == 2
        reporter.train(3, {**FIGURES, "loss": 0.3})
    assert scalars("train") == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_what_a_run_begins_with_is_written_once_however_often_it_resumes(tmp_path):
    def texts():
        return sorted(
            (event.step, value.tag)
            for path in (tmp_path / "tensorboard").glob("events*")
            for event in tf.compat.v1.train.summary_iterator(str(path))
            for value in event.summary.value
        )

    def begin():
        tf.summary.text("run.json", "x")

    for _ in range(2):  # killed before its first checkpoint, and begun again
        with metrics_log.MetricsLog(str(tmp_path), True, 0, 10) as reporter:
            reporter.start(begin)
            reporter.rotate(2)
            reporter.end(lambda: tf.summary.text("end", "x"))
    with metrics_log.MetricsLog(str(tmp_path), True, 2, 10) as reporter:
        reporter.end(lambda: tf.summary.text("end", "x"))
    assert texts() == [(0, "run.json"), (10, "end")]


def test_a_figure_is_described_where_it_is_written_first(tmp_path):
    with metrics_log.MetricsLog(str(tmp_path), True, 0, 10) as reporter:
        for step in (1, 2):
            reporter.train(step, FIGURES)
    (path,) = (tmp_path / "tensorboard" / "train").iterdir()
    found = [
        value.metadata.summary_description
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tag == "speed/images_per_second"
    ]
    assert found == ["Training images, over all replicas, in the loop. Unit: images/s.", ""]


def test_an_evaluation_that_its_checkpoint_does_not_know_of_is_dropped(tmp_path):
    with metrics_log.MetricsLog(str(tmp_path), True, 0, 10) as reporter:
        reporter.train(4, FIGURES)
        reporter.validation(4, {"dice": 0.5})
    metrics_log.MetricsLog(str(tmp_path), True, 4, 10, evaluated_step=2).close()
    assert [(line["step"], line["split"]) for line in lines(tmp_path)] == [(4, "train")]


def test_a_report_does_not_wait_for_an_upload_and_flushes_keep_their_order(
    gcs, bucket, monkeypatch
):
    began, go, texts = threading.Event(), threading.Event(), []

    def write_slowly(path, text):
        texts.append(text)
        began.set()
        assert go.wait(60)

    monkeypatch.setattr(files, "write_whole", write_slowly)
    with metrics_log.MetricsLog(bucket, True, 0, 10) as reporter:
        reporter.train(1, FIGURES)
        flushes = [threading.Thread(target=reporter.flush) for _ in range(2)]
        flushes[0].start()
        assert began.wait(60)
        reporter.train(2, FIGURES)  # returns though the first is being uploaded
        reporter.rotate(2)
        flushes[1].start()
        assert len(texts) == 1
        go.set()
        for flush in flushes:
            flush.join()
    steps = [[json.loads(line)["step"] for line in text.splitlines()] for text in texts]
    assert steps == [[1], [1, 2]]


def test_a_flush_that_failed_is_made_up_for_by_the_next(tmp_path, gcs, bucket, monkeypatch):
    def fail(path, text):
        raise OSError("no")

    for folder, verb in ((str(tmp_path), "append"), (bucket, "write_whole")):
        with metrics_log.MetricsLog(folder, True, 0, 10) as reporter:
            with monkeypatch.context() as patch:
                patch.setattr(files, verb, fail)
                reporter.train(1, FIGURES)
                with pytest.raises(OSError, match="no"):
                    reporter.flush()
            reporter.train(2, FIGURES)
        text = files.read_text(f"{folder}/metrics.jsonl")
        assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2]


@pytest.mark.slow
def test_what_an_object_store_is_sent_is_linear_in_what_was_written(gcs, bucket):
    sent = []
    for cycles in (4, 8):
        folder = f"{bucket}/run{cycles}"
        gcs.begin(gcs_server.Faults())
        with metrics_log.MetricsLog(folder, True, 0, 1000) as reporter:
            for cycle in range(cycles):
                for step in range(50):
                    reporter.train(50 * cycle + step, FIGURES)
                reporter.rotate(50 * (cycle + 1))
                reporter.flush()
        events = [name for name in gcs.names(f"{folder}/tensorboard/") if "tfevents" in name]
        assert len(events) == cycles
        metrics = len(gcs.read(f"{folder}/metrics.jsonl"))
        # metrics.jsonl, which is small, is sent whole each time: 1 + 2 + … of its parts.
        sent.append(gcs.counts().bytes_up - metrics * (cycles + 1) / 2)
    assert sent[1] == pytest.approx(2 * sent[0], rel=0.1)


def test_lines_for_an_object_store_are_complete_and_continue(gcs, bucket):
    with metrics_log.MetricsLog(bucket, True, 0, 10) as reporter:
        for step in (1, 2, 3):
            reporter.train(step, FIGURES)
        assert gcs.names(f"{bucket}/metrics") == []
        reporter.flush()
    with metrics_log.MetricsLog(bucket, True, 2, 10) as reporter:
        reporter.train(3, FIGURES)
    entries = [json.loads(line) for line in gcs.read(f"{bucket}/metrics.jsonl").splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 3]


def test_what_a_run_begins_with_reaches_an_object_store(gcs, bucket):
    with metrics_log.MetricsLog(bucket, True, 0, 10) as reporter:
        reporter.start(lambda: tf.summary.text("run.json", "x"))
        reporter.train(1, FIGURES)
        reporter.rotate(1)
        assert [name for name in gcs.names(bucket) if "tfevents" in name] == []
        reporter.flush()
        names = [name for name in gcs.names(f"{bucket}/tensorboard/") if "tfevents" in name]
        assert sorted(name.count("/") for name in names) == [0, 1]  # of the run, and train


def test_a_run_in_an_object_store_may_have_its_curves_on_the_disk(gcs, bucket, tmp_path):
    with metrics_log.MetricsLog(
        f"{bucket}/run", True, 0, 4, tensorboard_dir=str(tmp_path)
    ) as reporter:
        reporter.train(2, FIGURES)
    assert gcs.names(f"{bucket}/run/") == ["metrics.jsonl"]
    assert [path.parent.name for path in tmp_path.glob("*/events*")] == ["train"]


THEIRS = (
    "events.out.tfevents.1700000000.host.123.0",  # as PyTorch names them
    "events.out.tfevents.1700000000.host.123.0.v2",
    "notes.00000003",
)


@pytest.mark.parametrize("external", [True, False])
def test_event_files_of_other_programs_stay(tmp_path, external):
    folder = tmp_path / ("curves" if external else "run/tensorboard") / "train"
    folder.mkdir(parents=True)
    for name in THEIRS:
        (folder / name).write_text("theirs")
    (tmp_path / "run").mkdir(exist_ok=True)
    place = str(tmp_path / "curves") if external else ""
    for _ in range(2):
        with metrics_log.MetricsLog(
            str(tmp_path / "run"), True, 0, 4, tensorboard_dir=place
        ) as reporter:
            reporter.train(1, FIGURES)
    names = {path.name for path in folder.iterdir()}
    assert names > set(THEIRS)
    assert len(names) == len(THEIRS) + 1


def test_event_files_of_another_run_in_the_same_folder_stay(tmp_path):
    for run in ("first", "second", "second"):
        (tmp_path / run).mkdir(exist_ok=True)
        with metrics_log.MetricsLog(
            str(tmp_path / run), True, 0, 4, tensorboard_dir=str(tmp_path / "curves")
        ) as reporter:
            reporter.train(1, FIGURES)
    assert len(list((tmp_path / "curves" / "train").iterdir())) == 2


def test_a_run_that_was_moved_drops_its_own_event_files(tmp_path):
    with metrics_log.MetricsLog(str(tmp_path / "run"), True, 0, 4) as reporter:
        reporter.train(1, FIGURES)
    (tmp_path / "run").rename(tmp_path / "moved")
    with metrics_log.MetricsLog(str(tmp_path / "moved"), True, 0, 4) as reporter:
        reporter.train(1, FIGURES)
    assert len(list((tmp_path / "moved" / "tensorboard" / "train").iterdir())) == 1
