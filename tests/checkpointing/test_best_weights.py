"""Tests of what a run folder must hold for its model to be loaded."""

import json

import tensorflow as tf

from tests.runs import write_run
from trainer.checkpointing import best_weights, run_metadata


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
