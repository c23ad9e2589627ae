"""Tests of what a run folder must hold for its model to be loaded."""

import dataclasses
import json

import pytest
import tensorflow as tf

from tests.runs import write_run
from trainer.checkpointing import best_weights, run_metadata
from trainer.data.dataset import schema
from trainer.data.dataset.volume_examples import Channel, Volumes
from trainer.errors import InputError


def test_the_model_of_a_run_of_before_new_settings_or_of_before_data_is_loaded(tmp_path):
    write_run(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["data"], run["settings"]["upsampling"]
    run["settings"]["learning_rate"] = 1  # as JSON of other programs has 1.0
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert run_metadata.read(str(tmp_path)) == run
    model, step = best_weights.best_model(str(tmp_path), run)
    assert step == 7
    assert model(tf.zeros([1, 16, 16, 1])).shape == (1, 16, 16, 1)


def test_volumes_on_another_grid_are_refused_and_other_figures_warned_of(caplog):
    channel = Channel("CT", "ct", mean=40.0, std=20.0, low=-10.0, high=90.0)
    volumes = Volumes((3.0, 0.7, 0.7), (channel,))
    run = {
        "channels": 1,
        "classes": ["background", "liver"],
        "data": {"volumes": json.loads(json.dumps(dataclasses.asdict(volumes)))},
    }

    def check(data):
        manifest = schema.Manifest(
            classes=(schema.Class("background", 0), schema.Class("liver", 1)),
            channels=1,
            bit_depth=32,
            dtype="float32",
            encoding="zlib",
            splits={},
            schema=2,
            volumes=data,
        )
        best_weights.check_same_kind("R", run, manifest)

    check(dataclasses.replace(volumes, block=(128, 128, 128)))
    for spacing, text in (((3.0, 0.8, 0.7), "3,0.8,0.7"), (None, "none")):
        with pytest.raises(InputError) as error:
            check(dataclasses.replace(volumes, spacing=spacing))
        assert str(error.value) == (
            f"The model of --run_dir=R takes volumes of --spacing=3,0.7,0.7 and the data have "
            f"{text}; prepare them with --spacing=3,0.7,0.7."
        )
    assert not caplog.messages
    check(dataclasses.replace(volumes, channels=(dataclasses.replace(channel, mean=41.0),)))
    assert "were normalised otherwise than those of --run_dir=R" in caplog.messages[0]
