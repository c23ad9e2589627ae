"""run.json: what it says, and what it refuses."""

import json

import pytest
import tensorflow as tf

from tests.devices import strategy_of
from tests.runs import write_run
from tests.shards import write_data
from trainer import config
from trainer.checkpointing import run_metadata
from trainer.errors import InputError, RetryableError


def describe(job=None, **found):
    return run_metadata.describe(
        job or config.Job(), strategy_of(1), data_fingerprint="abc", **found
    )


def test_run_json_says_settings_versions_and_devices():
    run = describe(config.Job(data=config.Data(crop=64)), streams=4)
    assert run["settings"]["crop"] == 64
    assert run["command"] == ["python", "-m", "trainer.task", "--crop=64"]
    assert run["streams"] == 4
    assert run["versions"]["tensorflow"] == tf.__version__
    assert (run["num_replicas"], run["exit_reason"]) == (1, None)


def test_run_json_says_what_prediction_needs_of_the_data(tmp_path):
    manifest = write_data(tmp_path, {"train": [(8, 8)] * 2}, num_classes=3)
    data = run_metadata.describe_data(manifest)
    assert data["class_values"] == [0, 1, 2]
    assert (data["dtype"], data["ignore_value"]) == ("uint8", None)
    assert data["mean"] == list(manifest.splits["train"].mean)
    assert data["images"] == {"train": 2}
    assert run_metadata.data_of({"data": data}) is data
    # Where an older one says nothing, the data folder does.
    older = {"settings": {"data_dir": str(tmp_path)}}
    assert run_metadata.data_of(older) == json.loads(json.dumps(data))


def test_nothing_of_the_environment_gets_into_run_json(monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secret/key.json")
    monkeypatch.setenv("SOME_TOKEN", "sesame")
    text = json.dumps(describe())
    assert "secret" not in text
    assert "sesame" not in text


@pytest.mark.parametrize(
    ("raised", "expected", "reason"),
    [
        (InputError("The loss is nan."), InputError, "The loss is nan."),
        (KeyboardInterrupt(), KeyboardInterrupt, "KeyboardInterrupt"),
        (tf.errors.ResourceExhaustedError(None, None, "x; No space left"), RetryableError, ""),
    ],
)
def test_the_reason_of_an_end_by_error_is_written(tmp_path, raised, expected, reason):
    run_metadata.write(str(tmp_path), describe())
    with pytest.raises(expected), run_metadata.ending(str(tmp_path), describe(), True):
        raise raised
    assert json.loads((tmp_path / "run.json").read_text())["exit_reason"] == (reason or None)


def test_a_run_that_is_refused_before_it_began_leaves_no_run_json(tmp_path):
    with pytest.raises(InputError), run_metadata.ending(str(tmp_path), describe(), True):
        raise InputError("--warmup_steps=9 is too many.")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path):
    full = tf.errors.ResourceExhaustedError(None, None, "state.data: No space left on device")
    with pytest.raises(InputError) as error, run_metadata.ending(str(tmp_path), describe(), True):
        raise full
    assert str(error.value) == (
        f"No space is left on the disk of --run_dir={tmp_path}; free some space and start again: "
        "the last complete checkpoint is kept."
    )


@pytest.fixture(scope="module")
def run_json(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return (folder / "run.json").read_text()


def refusal(folder, content):
    (folder / "run.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        run_metadata.read(str(folder))
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
def test_json_that_describes_no_run_is_refused(tmp_path, content, reason):
    assert refusal(tmp_path, content) == (
        f"RUN/run.json does not describe a run ({reason}); restore it, or name another run folder."
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
def test_a_run_json_that_no_model_can_be_loaded_by_is_refused(
    tmp_path, run_json, part, change, reason
):
    run = json.loads(run_json)
    (run[part] if part else run).update(change)
    message = refusal(tmp_path, json.dumps(run).encode())
    assert message.startswith(f"RUN/run.json does not describe a run ({reason}")
    assert message.endswith("); restore it, or name another run folder.")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"crop": "x"}, "--crop='x' is not of type int"),
        ({"deterministic": 1}, "--deterministic=1 is not of type bool"),
        ({"steps": "9"}, "--steps='9' is not of type int or NoneType"),
        ({"depth": 99}, "--depth=99 is above 10, its largest value"),
    ],
)
def test_settings_that_this_release_does_not_know_are_refused(tmp_path, run_json, change, reason):
    run = json.loads(run_json)
    run["settings"].update(change)
    message = refusal(tmp_path, json.dumps(run).encode())
    start = "RUN/run.json has a setting that this release does not take"
    assert message.startswith(f"{start} ({reason}")
    assert message.endswith("); restore it, or use the release that wrote it.")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b", ["a", "b"]),
        (" a , b ,", ["a", "b"]),
        ("lr=0.1,bs=4", ["lr=0.1,bs=4"]),
        ("a,lr=0.1,bs=4,b", ["a", "lr=0.1,bs=4", "b"]),
        ("lr=0.1,bs=4,lr=0.1,bs=4,x", ["lr=0.1,bs=4", "lr=0.1,bs=4,x"]),
        ("no,run", ["no", "run"]),
        ("", []),
    ],
)
def test_run_folders_with_commas_in_their_names_are_found_in_a_list(
    tmp_path, monkeypatch, text, found
):
    for name in ("a", "b", "lr=0.1,bs=4", "lr=0.1,bs=4,x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()
    monkeypatch.chdir(tmp_path)
    assert run_metadata.folders(text) == found


def test_a_cross_validation_is_its_folds_where_runs_are_named(tmp_path):
    cv, single = tmp_path / "CV", write_run(tmp_path / "single")
    for fold in range(2):
        run = run_metadata.read(write_run(cv / f"fold-{fold}"))
        run_metadata.write(str(cv / f"fold-{fold}"), {**run, "data": {**run["data"], "folds": 3}})
    with pytest.raises(InputError) as error:
        run_metadata.with_folds([single, str(cv)])
    assert str(error.value) == (
        f"{cv} is a cross-validation of 3 folds, of which fold 2 has not begun; let "
        "trainer.crossval finish it, or name the folders of its folds."
    )
    write_run(cv / "fold-2")
    folds = [str(cv / f"fold-{fold}") for fold in range(3)]
    assert run_metadata.with_folds([single, str(cv)]) == [single, *folds]
