"""run.json: what it says, and what it refuses."""

import json

import pytest
import tensorflow as tf

from tests.devices import strategy_of
from tests.shards import write_data
from trainer import config
from trainer.checkpointing import best_weights, run_metadata
from trainer.errors import InputError, RetryableError


def describe(job=None, **facts):
    return run_metadata.describe(
        job or config.Job(), ["--crop=64"], strategy_of(1), data_fingerprint="abc", **facts
    )


def test_the_passport_says_settings_versions_and_devices():
    run = describe(streams=4)
    assert run["settings"]["batch_size"] == 8
    assert run["command"] == ["python", "-m", "trainer.task", "--crop=64"]
    assert run["streams"] == 4
    assert run["versions"]["tensorflow"] == tf.__version__
    assert (run["num_replicas"], run["exit_reason"]) == (1, None)


def test_the_passport_says_what_prediction_needs_of_the_data(tmp_path):
    manifest = write_data(tmp_path, {"train": [(8, 8)] * 2}, num_classes=3)
    data = run_metadata.describe_data(manifest)
    assert data["class_values"] == [0, 1, 2]
    assert (data["dtype"], data["ignore_value"]) == ("uint8", None)
    assert data["mean"] == list(manifest.splits["train"].mean)
    assert data["images"] == {"train": 2}
    assert best_weights.data_of({"data": data}) is data
    # Where an older passport says nothing, the data folder does.
    older = {"settings": {"data_dir": str(tmp_path)}}
    assert best_weights.data_of(older) == json.loads(json.dumps(data))


def test_nothing_of_the_environment_gets_into_the_passport(monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secret/key.json")
    monkeypatch.setenv("SOME_TOKEN", "sesame")
    text = json.dumps(describe())
    assert "secret" not in text
    assert "sesame" not in text


def test_the_same_settings_go_on_with_a_run():
    run_metadata.check_same_run(describe(), config.Job(), "abc")


def test_other_settings_are_refused_and_listed():
    job = config.Job(data=config.Data(crop=64), model=config.Model(filters=8))
    with pytest.raises(InputError) as error:
        run_metadata.check_same_run(describe(), job, "abc")
    assert str(error.value) == (
        "--run_dir=runs/demo holds a run with other settings: --crop=64 (was 256), "
        "--filters=8 (was 16); give the same flags to go on with it, or another --run_dir."
    )


def described(norm, num_replicas, **model):
    job = config.Job(model=config.Model(norm=norm, **model))
    return {**describe(job), "num_replicas": num_replicas}, job


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (("auto", 1), ("auto", 2)),
        (("auto", 4), ("auto", 1)),
        (("auto", 2), ("batch", 1)),
        (("batch", 1), ("auto", 2)),
        (("batch", 1), ("sync_batch", 4)),
        (("sync_batch", 2), ("auto", 4)),
        (("group", 1), ("group", 2)),
        (("batch", 2), ("batch", 2)),
    ],
)
def test_a_run_goes_on_wherever_its_norm_computes_the_same(before, now):
    (old, begun), (_, job) = described(*before), described(*now)
    assert refusal(old, job, now[1]) is None
    prints = (
        run_metadata.fingerprint(job, "abc", n) for job, n in ((begun, before[1]), (job, now[1]))
    )
    assert len(set(prints)) == 1


def refusal(old, job, num_replicas):
    try:
        run_metadata.check_same_run(old, job, "abc", num_replicas)
        run_metadata.check_same_replicas(old, job, num_replicas)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (
            ("batch", 1),
            ("batch", 2),
            "--run_dir=runs/demo was begun on 1 replicas and this job has 2, but --norm=batch "
            "takes its statistics from each replica's part of the batch; resume it on as many, "
            "or resume it with --norm=auto, whose statistics are the whole batch's on any number.",
        ),
        (
            ("batch", 2),
            ("batch", 1),
            "--run_dir=runs/demo was begun on 2 replicas and this job has 1, but --norm=batch "
            "takes its statistics from each replica's part of the batch; resume it on as many, "
            "or begin a run with --norm=auto, group or instance, which any number may resume.",
        ),
        (
            ("auto", 2),
            ("batch", 2),
            "--run_dir=runs/demo holds a run with other settings: --norm=batch (was auto); give "
            "the same flags to go on with it, or another --run_dir.",
        ),
        (
            ("batch", 1),
            ("group", 1),
            "--run_dir=runs/demo holds a run with other settings: --norm=group (was batch); give "
            "the same flags to go on with it, or another --run_dir.",
        ),
    ],
)
def test_a_run_does_not_go_on_where_its_norm_computes_something_else(before, now, message):
    (old, _), (_, job) = described(*before), described(*now)
    assert refusal(old, job, now[1]) == message


def test_a_run_with_dropout_goes_on_with_any_number_of_replicas():
    old, job = described("auto", 2, dropout=0.1)
    assert refusal(old, job, 2) is None
    assert refusal(old, job, 4) is None


def test_the_weights_that_a_run_begins_with_are_part_of_its_fingerprint():
    prints = {
        run_metadata.fingerprint(config.Job(), "abc", 1, origin)
        for origin in (None, {"weights": "a"}, {"weights": "b"})
    }
    assert len(prints) == 3


def test_fewer_steps_than_before_are_refused_and_more_are_not():
    run_metadata.check_length(describe(total_steps=100), config.Job(), 100)
    run_metadata.check_length(describe(total_steps=100), config.Job(), 101)
    with pytest.raises(InputError) as error:
        run_metadata.check_length(describe(total_steps=100), config.Job(), 99)
    assert str(error.value) == (
        "--run_dir=runs/demo holds a run of 100 steps, and this is one of 99; give --steps=100 to "
        "resume it, more to train it on, or another --run_dir."
    )


def test_other_data_are_refused():
    with pytest.raises(InputError, match="has fingerprint xyz, the run's had abc; name the same"):
        run_metadata.check_same_run(describe(), config.Job(), "xyz")


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


def test_a_run_that_is_refused_before_it_began_leaves_no_passport(tmp_path):
    with pytest.raises(InputError), run_metadata.ending(str(tmp_path), describe(), True):
        raise InputError("--warmup_steps=9 is too many.")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path):
    full = tf.errors.ResourceExhaustedError(None, None, "state.data: No space left on device")
    with pytest.raises(InputError) as error, run_metadata.ending(str(tmp_path), describe(), True):
        raise full
    assert str(error.value) == (
        f"No space is left on the disk of --run_dir={tmp_path}; free some and start again: the "
        "last whole checkpoint is kept."
    )
