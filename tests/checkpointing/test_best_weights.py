"""Tests of what a run folder must hold for its model to be loaded."""

import json

import pytest
import tensorflow as tf

from tests.runs import write_run
from trainer.checkpointing import best_weights
from trainer.errors import InputError


@pytest.fixture(scope="module")
def passport(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return (folder / "run.json").read_text()


def refusal(folder, content):
    (folder / "run.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        best_weights.read_run(str(folder))
    message = str(error.value)
    assert "\n" not in message
    return message.replace(str(folder), "RUN")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "settings is missing, not an object"),
        (b"[]", "it is [], not an object"),
        (b'"x"', "it is 'x', not an object"),
        (b'{"settings": []}', "settings is [], not an object"),
        (b'{"settings": {}}', "settings.norm is missing, not a text"),
    ],
)
def test_json_that_is_no_passport_is_refused(tmp_path, content, reason):
    assert refusal(tmp_path, content) == (
        f"RUN/run.json is not the passport of a run ({reason}); restore it, or name another run "
        "folder."
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff{", "'utf-8' codec can't decode byte 0xff in position 0"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
        (b"1" * 5000, "Exceeds the limit (4300 digits)"),
    ],
)
def test_what_python_cannot_read_as_json_is_refused(tmp_path, content, reason):
    message = refusal(tmp_path, content)
    assert message.startswith(f"RUN/run.json is not JSON ({reason}")
    assert message.endswith("; restore it, or name another run folder.")


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        (None, {"channels": None}, "channels is missing, not a whole number of at most 18 digits"),
        (None, {"classes": ["background", 1]}, "classes[1] is 1, not a text"),
        (None, {"data": {}}, "data.dtype is missing, not a text"),
        ("data", {"mean": ["x"]}, "data.mean[0] is 'x', not a finite number"),
        ("data", {"std": [10**400]}, "data.std[0] is 100000000000000000..."),
        ("data", {"pixels": 3}, "data.pixels is 3, not an object"),
    ],
)
def test_a_passport_that_no_model_can_be_loaded_by_is_refused(
    tmp_path, passport, part, change, reason
):
    run = json.loads(passport)
    (run[part] if part else run).update(change)
    message = refusal(tmp_path, json.dumps(run).encode())
    assert message.startswith(f"RUN/run.json is not the passport of a run ({reason}")
    assert message.endswith("); restore it, or name another run folder.")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"crop": "x"}, "--crop='x' is not of type int"),
        ({"deterministic": 1}, "--deterministic=1 is not of type bool"),
        ({"steps": "9"}, "--steps='9' is not of type int or NoneType"),
        ({"depth": 99}, "--depth=99 is above 7, its largest value"),
    ],
)
def test_settings_that_this_release_does_not_know_are_refused(tmp_path, passport, change, reason):
    run = json.loads(passport)
    run["settings"].update(change)
    message = refusal(tmp_path, json.dumps(run).encode())
    start = "RUN/run.json has a setting that this release does not take"
    assert message.startswith(f"{start} ({reason}")
    assert message.endswith("); restore it, or use the release that wrote it.")


def test_a_passport_of_before_new_settings_or_of_before_data_is_read(tmp_path):
    write_run(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["data"], run["settings"]["upsampling"]
    run["settings"]["learning_rate"] = 1  # as JSON of other programs has 1.0
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert best_weights.read_run(str(tmp_path)) == run
    model, step = best_weights.best_model(str(tmp_path), run)
    assert step == 7
    assert model(tf.zeros([1, 16, 16, 1])).shape == (1, 16, 16, 1)
