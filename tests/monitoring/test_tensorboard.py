"""What TensorBoard finds in the event files beside scalars, read by TensorBoard's own plugins."""

import dataclasses
import json
import time
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams

from tests import browser
from tests.shards import write_data
from trainer import config
from trainer.data.dataset.volume_examples import Volumes
from trainer.drawing import captions
from trainer.evaluate import counting
from trainer.evaluate.cases import Case, CaseSelector
from trainer.evaluate.scores import Scores
from trainer.models import build_unet
from trainer.monitoring import tensorboard


@pytest.fixture
def written(tmp_path):
    """Returns a function that calls another with a writer open and reads back what it wrote."""

    def write(function):
        writer = tf.summary.create_file_writer(str(tmp_path))
        with writer.as_default(3):
            function()
        writer.close()
        (path,) = tmp_path.glob("events*")
        events = list(tf.compat.v1.train.summary_iterator(str(path)))
        graphs = [event.graph_def for event in events if event.graph_def]
        return {value.tag: value for event in events for value in event.summary.value}, graphs

    return write


def test_a_run_begins_with_settings_run_json_network_and_training_batch(written, tmp_path):
    job = config.Job(
        run=config.Run(run_dir="all/first"),
        data=config.Data(data_dir="a b", crop=256),
        optimization=config.Optimization(steps=9),
    )
    run = {
        "command": ["python", "-m", "trainer.task", "--data_dir=a b", "--crop=256", "--steps=9"],
        "settings": {"steps": 7},
        "precision": "float32",
        "num_replicas": 2,
    }
    batch = {
        "images": np.random.default_rng(0).normal(size=(2, 16, 16, 5)),
        "labels": np.eye(16, dtype=np.int32)[None].repeat(2, 0),
        "valid": np.ones((2, 16, 16), np.float32),
    }
    model = build_unet((None, None, 5), 4, 1, depth=1)
    manifest = write_data(tmp_path, {"train": [(8, 8)]})
    values, graphs = written(lambda: tensorboard.write_start(job, run, model, batch, manifest))
    assert len(graphs) == 1
    layout = layout_pb2.Layout.FromString(
        tf.make_ndarray(values["custom_scalars__config__"].tensor).item()
    )
    assert [category.title for category in layout.category][0] == "Does it learn?"
    start = hparams.parse_session_start_info_plugin_data(
        values[hparams.SESSION_START_INFO_TAG].metadata.plugin_data.content
    )
    assert start.hparams["crop"].number_value == 256
    assert start.hparams["num_replicas"].number_value == 2
    assert "run_dir" not in start.hparams  # which changes nothing
    assert start.group_name == "first in all"
    experiment = hparams.parse_experiment_plugin_data(
        values[hparams.EXPERIMENT_TAG].metadata.plugin_data.content
    )
    assert {info.name for info in experiment.hparam_infos} == set(start.hparams)
    first = {info.name for info in experiment.hparam_infos if info.differs}
    assert first == {"data_dir", "steps"}  # 256 is the default crop
    text = tf.make_ndarray(values["run.json"].tensor).item().decode()
    assert "| settings steps | 7 |" in text
    assert b"'--data_dir=a b'" in tf.make_ndarray(values["command"].tensor).item()
    width, height, jpeg = tf.make_ndarray(values["training_batch"].tensor)
    assert tf.io.decode_jpeg(jpeg).shape[:2] == (int(height), int(width))


def test_a_name_stays_in_its_cell_of_the_table_of_run_json():
    assert tensorboard._table({"data": {"a|b\nc": "d|e\nf"}}).splitlines() == [
        "| setting | value |",
        "| --- | --- |",
        r'| data a\|b c | "d\|e\nf" |',
    ]


def test_an_evaluation_gives_pictures_and_precision_recall(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    manifest = write_data(folder, {"train": [(8, 8)], "val": [(24, 16)] * 3}, num_classes=3)
    selected = CaseSelector(first=2, worst=1)
    blank = np.zeros((24, 16), np.uint8)
    for index, dice in enumerate((0.5, 0.9, 0.1)):
        image = np.zeros((24, 16, 1), np.uint16)
        selected.add(Case(index, dice, image, blank, blank + 1.0, blank, blank, (1.0, 1.0)))
    probabilities = np.zeros((2, counting.BINS + 1, 2), np.int64)
    probabilities[:, 75] = 1, 3
    scores = Scores(np.ones(3, bool), np.eye(3), probabilities, {})
    weight = build_unet((None, None, 1), 4, 1, depth=1).trainable_variables[0]
    values, _ = written(
        lambda: tensorboard.write_evaluation(scores, selected, manifest, "val", [weight])
    )
    assert set(values) == {
        "val_cases/val0",
        "val_cases/val1",
        "val_worst/1",
        "val_charts/confusion",
        "val_charts/reliability",
        "class1/pr_curves",
        "class2/pr_curves",
        f"weights/{weight.path}",
    }
    curve = tf.make_ndarray(values["class1/pr_curves"].tensor)
    assert curve.shape == (6, 101)
    assert curve[:, 75].tolist() == [3.0, 1.0, 0.0, 0.0, 0.75, 1.0]
    assert curve[:, 76].tolist() == [0.0, 0.0, 1.0, 3.0, 1.0, 0.0]


def test_volumes_are_drawn_by_their_slices(written, tmp_path_factory):
    manifest = write_data(tmp_path_factory.mktemp("data"), {"train": [(8, 8)], "val": [(8, 8)]})
    manifest = dataclasses.replace(manifest, volumes=Volumes((4.0, 1.0, 2.0), ()))
    image, blank = np.zeros((4, 16, 8, 1), np.float32), np.zeros((4, 16, 8), np.uint8)
    batch = {"images": image[None], "labels": blank[None], "valid": blank[None] + 1.0}
    selected = CaseSelector(worst=1)
    selected.add(Case(0, 0.5, image, blank, blank + 1.0, blank, blank, (4.0, 1.0, 2.0)))
    side, gap, line = 160, captions.GAP, captions.LINE  # 16 mm at 10 pixels each
    sheet = tensorboard._sheet(batch, manifest)
    assert sheet.shape == (side + 4 * gap + 2 * line, 3 * (side + gap) + 3 * gap, 3)
    counts = np.zeros((1, counting.BINS + 1, 2), np.int64)
    scores = Scores(np.ones(1, bool), np.eye(2), counts, {})
    values, _ = written(lambda: tensorboard.write_evaluation(scores, selected, manifest, "val"))
    width, height, _ = tf.make_ndarray(values["val_worst/1"].tensor)
    assert int(width) == 4 * (side + gap) + gap
    assert int(height) >= 3 * (side + gap + line) + gap + 2 * line


@pytest.mark.slow
def test_the_table_of_runs_has_scores_in_the_folder_that_is_printed(finished):
    printed = (finished.parent / "said").read_text().splitlines()[-1]
    assert printed == f"tensorboard --logdir {finished}"
    statuses = ["STATUS_SUCCESS"]
    asked = json.dumps({"experimentName": "", "allowedStatuses": statuses, "sliceSize": 9}).encode()
    with browser.tensorboard(finished) as address:
        request = urllib.request.Request(
            f"{address}data/plugin/hparams/session_groups",
            asked,
            headers={"Content-Type": "application/json"},
        )
        tags, deadline = set(), time.monotonic() + 120
        shown = {"scores/dice", "loss", "speed/images_per_second"}
        while not tags >= shown:  # until it has read the files
            assert time.monotonic() < deadline, tags
            time.sleep(0.5)
            with urllib.request.urlopen(request) as answer:
                groups = json.load(answer).get("sessionGroups", [])
            tags = {value["name"]["tag"] for group in groups for value in group["metricValues"]}
