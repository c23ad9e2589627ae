"""Whether a run may be begun or resumed, and what is chosen for it."""

import functools
import types

import numpy as np
import pytest

from tests.devices import strategy_of
from tests.shards import write_balls
from tests.volumes import write_volumes
from trainer import config
from trainer.checkpointing import open_run, run_metadata
from trainer.data.dataset import schema
from trainer.distributed import arithmetic, strategies
from trainer.errors import InputError
from trainer.training import xla_trial


def describe(job=None, **found):
    return run_metadata.describe(
        job or config.Job(), strategy_of(1), data_fingerprint="abc", **found
    )


def test_the_same_settings_resume_a_run():
    open_run.check_same_run(describe(), config.Job(), "abc")


def test_other_settings_are_refused_and_listed():
    job = config.Job(data=config.Data(crop=64), model=config.Model(filters=8))
    with pytest.raises(InputError) as error:
        open_run.check_same_run(describe(), job, "abc")
    assert str(error.value) == (
        "--run_dir=runs/demo holds a run with other settings: --crop=64 (was 256), "
        "--filters=8 (was 16); give the same flags to resume it, or another --run_dir."
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
def test_a_run_resumes_wherever_its_norm_computes_the_same(before, now):
    (old, begun), (_, job) = described(*before), described(*now)
    assert refusal(old, job, now[1]) is None
    prints = (open_run.fingerprint(job, "abc", n) for job, n in ((begun, before[1]), (job, now[1])))
    assert len(set(prints)) == 1


def refusal(old, job, num_replicas):
    try:
        open_run.check_same_run(old, job, "abc", num_replicas)
        open_run.check_same_replicas(old, job, num_replicas)
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
            "takes its statistics from each replica's part of the batch; resume it on as many "
            "replicas, or resume it with --norm=auto, whose statistics are the whole batch's on "
            "any number.",
        ),
        (
            ("batch", 2),
            ("batch", 1),
            "--run_dir=runs/demo was begun on 2 replicas and this job has 1, but --norm=batch "
            "takes its statistics from each replica's part of the batch; resume it on as many "
            "replicas, or begin a run with --norm=auto, group or instance, which any number may "
            "resume.",
        ),
        (
            ("auto", 2),
            ("batch", 2),
            "--run_dir=runs/demo holds a run with other settings: --norm=batch (was auto); give "
            "the same flags to resume it, or another --run_dir.",
        ),
        (
            ("batch", 1),
            ("group", 1),
            "--run_dir=runs/demo holds a run with other settings: --norm=group (was batch); give "
            "the same flags to resume it, or another --run_dir.",
        ),
    ],
)
def test_a_run_does_not_resume_where_its_norm_computes_something_else(before, now, message):
    (old, _), (_, job) = described(*before), described(*now)
    assert refusal(old, job, now[1]) == message


def test_a_run_with_dropout_resumes_on_any_number_of_replicas():
    old, job = described("auto", 2, dropout=0.1)
    assert refusal(old, job, 2) is None
    assert refusal(old, job, 4) is None


def test_the_weights_that_a_run_begins_with_are_part_of_its_fingerprint():
    prints = {
        open_run.fingerprint(config.Job(), "abc", 1, origin)
        for origin in (None, {"weights": "a"}, {"weights": "b"})
    }
    assert len(prints) == 3


def test_fewer_steps_than_before_are_refused_and_more_are_not():
    open_run.check_length(describe(total_steps=100), config.Job(), 100)
    open_run.check_length(describe(total_steps=100), config.Job(), 101)
    with pytest.raises(InputError) as error:
        open_run.check_length(describe(total_steps=100), config.Job(), 99)
    assert str(error.value) == (
        "--run_dir=runs/demo holds a run of 100 steps, and this is one of 99; give --steps=100 to "
        "resume it, more steps to train further, or another --run_dir."
    )


def test_other_data_are_refused():
    with pytest.raises(InputError, match="has fingerprint xyz, the run's had abc; name the same"):
        open_run.check_same_run(describe(), config.Job(), "xyz")


def write_commit(run_dir, kind="checkpoints"):
    folder = run_dir / kind / "00000004"
    folder.mkdir(parents=True)
    (folder / "commit.json").write_text("{}")


@pytest.mark.parametrize("kind", ["checkpoints", "best"])
def test_settings_bind_only_a_run_that_has_weights(data_dir, tmp_path, kind):
    manifest = schema.read_manifest(str(data_dir))
    settings = {"data_dir": str(data_dir), "run_dir": str(tmp_path), "precision": "float32"}
    settings["jit_compile"] = "false"
    wrong = config.from_dict(config.Job, {**settings, "learning_rate": 1e9})
    run_metadata.write(str(tmp_path), open_run.open_run(wrong, strategy_of(1), manifest, "data"))
    job = config.from_dict(config.Job, settings)
    assert (
        open_run.open_run(job, strategy_of(1), manifest, "data")["settings"]["learning_rate"]
        == 1e-3
    )
    write_commit(tmp_path, kind)
    with pytest.raises(InputError, match=r"other settings: --learning_rate=0.001 \(was 1000000000"):
        open_run.open_run(job, strategy_of(1), manifest, "data")
    (tmp_path / "run.json").write_text('{"settings": {}}')
    with pytest.raises(InputError, match="does not describe a run"):
        open_run.open_run(job, strategy_of(1), manifest, "data")


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluation/test/summary.json"])
def test_a_folder_with_results_of_another_program_is_no_run_folder(data_dir, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    theirs = tmp_path / name.split("/")[0]
    (tmp_path / name).write_text('{"step": 3, "loss": 0.1}\n')
    settings = {"data_dir": str(data_dir), "run_dir": str(tmp_path), "precision": "float32"}
    job = config.from_dict(config.Job, {**settings, "jit_compile": "false"})
    manifest = schema.read_manifest(str(data_dir))
    with pytest.raises(InputError) as error:
        open_run.open_run(job, strategy_of(1), manifest, "data")
    assert str(error.value) == (
        f"{theirs} exists, but there is no run.json that it belongs to; move it away, or name "
        "another --run_dir."
    )


def test_a_run_does_not_resume_on_workers_that_do_not_divide_its_streams(
    data_dir, tmp_path, monkeypatch
):
    settings = {"data_dir": str(data_dir), "run_dir": str(tmp_path), "precision": "float32"}
    job = config.from_dict(config.Job, {**settings, "jit_compile": "false"})
    manifest = schema.read_manifest(str(data_dir))
    begun = open_run.open_run(job, strategy_of(1), manifest, "data")
    run_metadata.write(str(tmp_path), {**begun, "streams": 1})
    write_commit(tmp_path)
    assert open_run.open_run(job, strategy_of(1), manifest, "data")["streams"] == 1
    monkeypatch.setattr(strategies, "num_input_hosts", lambda strategy: 2)
    with pytest.raises(InputError, match="2 workers do not divide the 1 input streams"):
        open_run.open_run(job, strategy_of(1), manifest, "data")


@pytest.mark.parametrize(
    ("crop", "depth", "remedy"),
    [
        (
            (64, 48, 48),
            3,
            "--crop=64,48,48 is larger than every training example, whose sides are "
            "at most 38×60×47 voxels; use --crop=32,48,40.",
        ),
        ((40, 64, 48), 3, None),  # the next multiples of 8
        (64, 6, None),
        (
            128,
            6,
            "--crop=128 is larger than every training example, whose sides are at most "
            "38×60×47 voxels; use --crop=64,64,64.",
        ),
    ],
)
def test_a_crop_larger_than_all_volumes_is_refused_with_the_median_size(
    tmp_path, crop, depth, remedy
):
    manifest = write_volumes(
        tmp_path, [[np.ones(size, np.uint8)] for size in [(38, 51, 40), (35, 60, 47), (37, 50, 41)]]
    )
    job = config.Job(data=config.Data(crop=crop), model=config.Model(depth=depth))
    if remedy is None:
        open_run._check_crop(job, manifest)
    else:
        with pytest.raises(InputError) as error:
            open_run._check_crop(job, manifest)
        assert str(error.value) == remedy


def test_volumes_are_not_normalised_again(tmp_path):
    shapes = {"train": [(8, 8, 8)] * 2, "val": [(8, 8, 8)]}
    manifest = write_balls(tmp_path, shapes)
    data = config.Data(data_dir=str(tmp_path), crop=8, batch_size=2, normalize="dataset")
    job = config.Job(data=data, model=config.Model(depth=1), run=config.Run(run_dir=str(tmp_path)))
    with pytest.raises(InputError, match="--normalize=dataset is for images; volumes were normali"):
        open_run.open_run(job, strategy_of(1), manifest, "data")


def choose_xla(job, number, norm, chosen=None):
    manifest = types.SimpleNamespace(channels=1, num_classes=2, rank=2)
    return open_run._choose_xla(job, strategy_of(number), chosen or {}, norm, "float32", manifest)


@pytest.mark.parametrize(
    ("model", "loss", "flag"),
    [
        ({"norm": "auto"}, "ce_batch_dice", "--norm=sync_batch"),
        ({"norm": "instance"}, "ce_batch_dice", "--loss=ce_batch_dice"),
        ({"norm": "instance"}, "ce_linear_dice", None),
    ],
)
def test_what_sums_over_replicas_in_the_forward_pass_does_not_go_with_xla(model, loss, flag):
    job = config.Job(
        model=config.Model(**model),
        optimization=config.Optimization(loss=loss),
        device=config.Device(precision="float32", jit_compile="true"),
    )
    norm = "sync_batch" if model["norm"] == "auto" else model["norm"]
    compiled = {"jit_compile": True, "collectives_in_xla": False, "xla_trial": None}
    assert choose_xla(job, 1, norm) == compiled
    if flag is None:
        assert choose_xla(job, 2, norm) == compiled
        return
    with pytest.raises(InputError) as error:
        choose_xla(job, 2, norm)
    assert str(error.value) == (
        f"--jit_compile=true does not go with {flag} on several replicas; use --jit_compile=auto."
    )


def test_a_run_resumes_with_the_arithmetic_of_its_start(monkeypatch):
    monkeypatch.setattr(arithmetic, "_of_cpu", lambda rank: ("float32", "of this CPU"))
    job = config.Job()
    choose = functools.partial(open_run._choose_precision, job, strategy_of(1))
    assert choose({}, 2) == ("float32", "of this CPU")
    kept = {"precision": "float16", "precision_reason": "of another machine"}
    assert choose(kept, 2) == ("float16", "of another machine")
    assert choose({"precision": "float16"}, 2) == ("float16", "")  # of an older release
    for norm in ("batch", "sync_batch"):
        assert choose_xla(job, 1, norm, {"jit_compile": True})["jit_compile"]
        assert not choose_xla(job, 1, norm)["jit_compile"]


PASSED = {"passed": True, "reason": ""}
HUNG = {"passed": False, "reason": "no result in 120 s"}


@pytest.fixture
def gpus(monkeypatch):
    """Takes the CPUs for GPUs; returns what the next trials find, and those that were held."""
    verdicts, held = [], []

    def verdict(step, strategy, before):
        held.append((step.job.model.norm, before))
        return verdicts.pop(0)

    monkeypatch.setattr(strategies, "device_kind", lambda strategy: "GPU")
    monkeypatch.setattr(xla_trial, "verdict", verdict)
    return verdicts, held


@pytest.mark.parametrize(
    ("norm", "verdict", "compiles", "left"),
    [
        ("sync_batch", PASSED, True, None),
        ("sync_batch", HUNG, False, "it compiles nothing of the step"),
        ("group", PASSED, True, None),
        ("group", HUNG, True, "it compiles what is between them"),
    ],
)
def test_xla_with_sums_of_several_gpus_is_tried_first(gpus, caplog, norm, verdict, compiles, left):
    verdicts, held = gpus
    verdicts += [verdict, verdict]
    found = choose_xla(config.Job(), 2, norm)
    assert found == {
        "jit_compile": compiles,
        "collectives_in_xla": verdict["passed"],
        "xla_trial": verdict,
    }
    assert held == [(norm, {})]
    said = [record.getMessage() for record in caplog.records]
    reason = f"XLA does not compile the sums of these devices (no result in 120 s): {left}."
    assert said == ([reason] if left else [])
    # A run that resumes asks by the verdict of its start, see `xla_trial.verdict`.
    assert choose_xla(config.Job(), 2, norm, found) == found
    assert held[1] == (norm, verdict)
    alone = choose_xla(config.Job(), 1, norm, found)
    assert alone == {"jit_compile": True, "collectives_in_xla": False, "xla_trial": verdict}


def test_xla_with_sums_is_not_tried_where_the_flag_decides(gpus):
    for flag in ("true", "false"):
        job = config.Job(device=config.Device(jit_compile=flag))
        found = {"jit_compile": flag == "true", "collectives_in_xla": flag == "true"}
        assert choose_xla(job, 2, "sync_batch") == {**found, "xla_trial": None}
    job = config.Job(device=config.Device(deterministic=True))
    assert not choose_xla(job, 2, "sync_batch")["jit_compile"]


def test_replicas_that_meet_in_a_loop_are_not_compiled_on_gpus(gpus):
    optimization = config.Optimization(accumulate_steps=2)
    assert not choose_xla(config.Job(optimization=optimization), 2, "sync_batch")["jit_compile"]
    job = config.Job(optimization=optimization, device=config.Device(jit_compile="true"))
    assert choose_xla(job, 2, "group")["collectives_in_xla"]
    with pytest.raises(InputError) as error:
        choose_xla(job, 2, "sync_batch")
    assert str(error.value) == (
        "--jit_compile=true does not go with --norm=sync_batch and --accumulate_steps=2 on several "
        "replicas; use --jit_compile=auto."
    )
