"""Whole jobs, as processes: train, refuse, evaluate."""

import csv
import json
import os
import pathlib
import resource
import shutil
import subprocess

import keras
import numpy as np
import pytest

import trainer
from tests import rounding
from tests.devices import has_bfloat16
from tests.jobs import SECRET, command, lines, only, start, start_workers, train
from tests.shards import index_cases, write_data
from trainer import config, loop
from trainer.checkpointing import __main__ as checkpoints
from trainer.data.dataset import schema
from trainer.distributed import arithmetic
from trainer.errors import InputError
from trainer.evaluate import case_tables
from trainer.evaluate import scores as scoring
from trainer.evaluate.cases import mean_dice
from trainer.evaluate.evaluate_run import evaluate_run
from trainer.predict import predict_images
from trainer.report import __main__ as report
from trainer.storage import files


@pytest.mark.slow
def test_a_job_ends_with_the_dice_the_folder_and_the_tensorboard_line(finished):
    run_dir, said = finished, (finished.parent / "said").read_text()
    *_, dice, speed, folder, page, predict, export, tensorboard = said.strip().splitlines()
    assert dice.startswith("test Dice, mean per image: 0.")
    assert speed.endswith(" images/s in training")
    assert folder == f"run folder: {run_dir}"
    assert predict.startswith(f"python -m trainer.predict --run_dir={run_dir} --images=")
    assert export == f"python -m trainer.export --run_dir={run_dir}"
    assert page == f"report: {run_dir}/report.html"
    assert tensorboard == f"tensorboard --logdir {run_dir}"


@pytest.mark.slow
def test_a_job_leaves_the_run_folder_that_is_promised(finished):
    run_dir = finished
    entries = lines(run_dir)
    assert only(entries, "train", "step") == [[2], [3], [4], [6]]
    assert only(entries, "val", "step") == [[3], [6]]
    assert only(entries, "test", "dice", "iou")
    facts = json.loads((run_dir / "run.json").read_text())
    assert (facts["exit_reason"], facts["streams"], facts["total_steps"]) == (
        "finished",
        2,
        6,
    )
    assert (facts["settings"]["norm"], facts["norm"]) == ("auto", "batch")
    assert facts["peak_learning_rate"] == 0.001
    assert not (run_dir / "lease.json").exists()
    for path in (
        "checkpoints/00000006/commit.json",
        "evaluation/test/cases.csv",
        "evaluation/test/summary.json",
        "tensorboard/train",
        "tensorboard/val",
    ):
        assert (run_dir / path).exists(), path
    assert len(list((run_dir / "best").glob("*/commit.json"))) == 1


@pytest.mark.slow
def test_nothing_of_the_environment_reaches_the_log_or_the_run_folder(finished):
    run_dir = finished
    assert SECRET not in (run_dir.parent / "said").read_text()
    written = [path for path in run_dir.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_computing_on_the_only_core_is_no_wait_for_the_input(data_dir, tmp_path):
    core = min(os.sched_getaffinity(0))
    argv = ["--filters=64", "--steps=8", "--eval_every=8", "--augment=none"]
    job = start(data_dir, tmp_path, *argv, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    _, output = job.communicate(timeout=120)
    assert job.returncode == 0, output
    *_, last = only(lines(tmp_path), "train", "input_share", "share_input")
    assert max(last) < 0.4


@pytest.mark.slow
def test_a_run_folder_with_other_settings_is_refused_and_kept(data_dir, finished):
    run_dir = finished
    before = (run_dir / "run.json").read_bytes()
    result = train(data_dir, run_dir, "--learning_rate=0.5")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"--run_dir={run_dir} holds a run with other settings: --learning_rate=0.5 (was 0.001); "
        "give the same flags to resume it, or another --run_dir."
    )
    assert (run_dir / "run.json").read_bytes() == before


@pytest.mark.slow
def test_evaluation_as_a_command_gives_what_the_job_said(finished, tmp_path):
    run_dir = finished
    (expected,) = only(lines(run_dir), "test", "dice", "iou")
    result = command(
        "trainer.evaluate", f"--run_dir={run_dir}", "--batch_size=2", f"--json={tmp_path / 's'}"
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "s").read_text())
    # Batches of another size may round a pixel of some 500 to the other class.
    assert [summary["dice"], summary["iou"]] == pytest.approx(expected, abs=0.005)
    assert "mean, foreground" in result.stderr


@pytest.mark.slow
def test_the_scores_of_turned_images_are_those_of_predicted_masks(data_dir, finished, tmp_path):
    run_dir = finished
    before = (run_dir / "evaluation" / "test" / "summary.json").read_bytes()
    result = command(
        "trainer.evaluate", f"--run_dir={run_dir}", "--tta=d4", f"--json={tmp_path / 's'}"
    )
    assert result.returncode == 0, result.stderr
    assert f"on test of {data_dir}, mean of 8 turned images:" in result.stderr
    assert (run_dir / "evaluation" / "test-d4" / "cases.csv").is_file()
    assert (run_dir / "evaluation" / "test" / "summary.json").read_bytes() == before
    counts = np.zeros(3, np.int64)
    networks = trainer.load(str(run_dir), tta="d4")
    manifest = schema.read_manifest(str(data_dir))
    for shard in manifest.splits["test"].shards:
        for serialized in schema.read_shard(str(data_dir), shard):
            example = schema.decode(serialized, manifest)
            truth = example["mask"].numpy() == 1
            predicted = networks.predict(example["image"].numpy()) == manifest.classes[1].value
            counts += [truth.sum(), predicted.sum(), (truth & predicted).sum()]
    pixels = json.loads((tmp_path / "s").read_text())["classes"]["class1"]["pixels"]
    found = [pixels[name] for name in ("truth", "prediction", "both")]
    np.testing.assert_allclose(found, counts, atol=2)


@pytest.mark.slow
def test_a_run_that_cannot_be_written_to_is_evaluated_into_another_folder(finished, tmp_path):
    run_dir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run_dir / "evaluation")
    (run_dir / "evaluation").touch()  # which keeps root, too, from writing there
    settings = {"run_dir": str(run_dir), "strategy": "one_device"}
    with pytest.raises(InputError) as error:
        evaluate_run(config.Evaluate(**settings))
    assert str(error.value) == (
        f"--output={run_dir}/evaluation/test cannot be created: Not a directory; name another "
        "folder."
    )
    for _ in range(2):  # of which the second replaces what the first wrote
        evaluate_run(config.Evaluate(**settings, output=str(tmp_path / "out")))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    tables = ["cases-00000-of-00001.parquet", "cases.csv", "confusion.csv"]
    assert names == ["best", *tables, "summary.json", "worst"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cases.csv").write_text("my own")
    with pytest.raises(InputError, match=r"holds cases\.csv that no evaluation wrote"):
        evaluate_run(config.Evaluate(**settings, output=str(tmp_path / "mine")))
    assert (tmp_path / "mine" / "cases.csv").read_text() == "my own"


@pytest.mark.slow
def test_evaluation_of_data_of_another_kind_is_refused(finished, tmp_path):
    run_dir = finished
    for channels, classes, message in (
        (3, 2, "takes 1 channels and the data have 3; prepare them with --channels=1."),
        (1, 3, "has the classes class0, class1 and the data class0, class1, class2; prepare"),
    ):
        folder = tmp_path / f"{channels}{classes}"
        folder.mkdir()
        write_data(folder, {"train": [(16, 16)]}, channels=channels, num_classes=classes)
        result = command("trainer.evaluate", f"--run_dir={run_dir}", f"--data_dir={folder}")
        assert result.returncode == 2
        assert message in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_evaluation_without_a_run_or_a_split_is_refused(finished, data_dir, tmp_path):
    run_dir = finished
    result = command("trainer.evaluate", f"--run_dir={tmp_path}")
    assert (result.returncode, result.stderr) == (
        2,
        f"--run_dir={tmp_path} has no run.json; name a folder that trainer.task wrote.\n",
    )
    folder = tmp_path / "no_test"
    folder.mkdir()
    write_data(folder, {"train": [(16, 16)], "val": [(16, 16)]})
    result = command("trainer.evaluate", f"--run_dir={run_dir}", f"--data_dir={folder}")
    assert result.stderr.splitlines()[-1] == (
        f"--split=test is not in {folder}, which has train, val; name one of them."
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--batch_size=3", "--virtual_devices=2"],
            "--batch_size=3 does not divide among 2 replicas × --accumulate_steps=1; "
            "use a multiple of 2.",
        ),
        (["--learning_rate=1e30", "--optimizer=sgd", "--clip_norm=0"], "--learning_rate, more"),
        (["--data_dir=/nowhere"], "/nowhere has no manifest.json"),
        (["--streams=3"], "--streams=3 is not a power of two up to 2"),
        (["--warmup_steps=6"], "--warmup_steps=6 must be at least 0 and less than 6, the steps"),
    ],
)
def test_a_job_that_cannot_be_is_one_line_and_status_2(data_dir, tmp_path, argv, message):
    result = train(data_dir, tmp_path / "run", *argv)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    # Only training finds that a rate is too high; what is refused before it leaves nothing.
    assert (tmp_path / "run").exists() == ("more" in message)


@pytest.mark.parametrize("name", ["model_dir", "tensorboard_dir"])
def test_a_folder_that_cannot_be_is_found_before_training(tmp_path, name):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "folder"
    settings = {"run_dir": str(tmp_path / "run"), name: str(path), "strategy": "one_device"}
    with pytest.raises(InputError) as error:
        loop.train(config.from_dict(config.Job, settings))
    assert str(error.value) == (
        f"--{name}={path} cannot be created: Not a directory; name another folder."
    )
    assert not (tmp_path / "run").exists()
    files.check_folder(name, str(tmp_path / "new" / "folder"))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_model_dir_with_files_of_others_is_refused_before_training(data_dir, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    result = train(data_dir, tmp_path / "run", f"--model_dir={tmp_path}/model")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"{tmp_path}/model/mine.txt exists, and no signature.json lists it as part of an export; "
        "move it away, or name another --model_dir."
    )
    assert not (tmp_path / "run").exists()
    assert os.listdir(tmp_path / "model") == ["mine.txt"]


def forget_after(run_dir, step):
    """Removes what a run has saved after a step, as if it had been killed there."""
    for kind in ("checkpoints", "best"):
        for folder in (run_dir / kind).iterdir():
            if int(folder.name) > step:
                shutil.rmtree(folder)


IN_PROCESS = {"strategy": "one_device", "jit_compile": "false", "precision": "float32"}
IN_PROCESS |= {"crop": 32, "filters": 4, "depth": 1, "batch_size": 4, "steps": 3, "eval_every": 1}
IN_PROCESS |= {"keep_checkpoints": 9, "panels": 0, "worst_panels": 0, "worst_cases": 1}


def train_here(data_dir, run_dir, **settings):
    """Trains in this process."""
    given = {**IN_PROCESS, "data_dir": str(data_dir), "run_dir": str(run_dir), **settings}
    loop.train(config.from_dict(config.Job, given))
    return lines(run_dir)


@pytest.mark.slow
def test_folders_may_have_any_name(data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "lr=0.1,b[s]=4 *?{x}%d\\n \"ü\" 'é'"
    shutil.copytree(data_dir, f"data {name}")
    settings = {**IN_PROCESS, "data_dir": f"data {name}", "run_dir": name}
    settings |= {"model_dir": f"model {name}", "tensorboard_dir": f"curves {name}"}
    job = config.from_dict(config.Job, settings)
    loop.train(job)
    forget_after(pathlib.Path(name), 2)
    loop.train(job)
    evaluate_run(config.Evaluate(run_dir=name, strategy="one_device"))
    images = np.zeros((2, 40, 40), np.uint8)
    np.save(f"{name}.npy", images)
    both = {"run_dir": f"{name},{name}", "images": f"{name}.npy", "output": f"masks {name}"}
    predict_images.predict(config.Predict(**both))
    report.main(config.Report(runs=f"{name},{name}"))
    checkpoints.main(config.Checkpoint(action="verify", run_dir=name))
    keras.saving.load_model(f"model {name}/model.keras")


@pytest.mark.slow
def test_a_run_resumes_in_another_precision_and_in_the_process_that_began_it(data_dir, tmp_path):
    losses = []
    last = "bfloat16" if has_bfloat16() else "float32"
    for precision in ("float32", "float16", last):  # a scale of the loss comes, and goes
        entries = train_here(data_dir, tmp_path, precision=precision)
        found = dict(only(entries, "val", "step", "loss"))
        assert list(found) == [1, 2, 3]
        losses.append(found[3])
        assert json.loads((tmp_path / "run.json").read_text())["precision"] == precision
        forget_after(tmp_path, 2)
    assert losses == pytest.approx(losses[:1] * 3, rel=0.05)  # bfloat16 has three digits


@pytest.mark.slow
def test_a_new_run_says_why_it_has_its_precision_and_what_may_suit_its_data(
    data_dir, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr(loop.data_plan, "suggestion", lambda job: "there is a plan")
    monkeypatch.setattr(arithmetic, "_of_cpu", lambda rank: ("float32", "a reason"))
    told = ["Computes in float32 (--precision=auto): a reason.", "there is a plan"]
    train_here(data_dir, tmp_path, precision="auto", steps=1)
    assert [line for line in caplog.messages if line in told] == told
    assert json.loads((tmp_path / "run.json").read_text())["precision_reason"] == "a reason"
    caplog.clear()
    train_here(data_dir, tmp_path, precision="auto", steps=2)
    assert not set(told).intersection(caplog.messages)


@pytest.mark.slow
def test_a_finished_run_trains_on_with_more_steps_wherever_its_data_are(
    data_dir, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", logger="absl")
    train_here(data_dir, tmp_path / "run", steps=2, eval_every=0)
    shutil.copytree(data_dir, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    # Eight images in batches of four: two epochs are four steps, evaluated as often as before.
    entries = train_here("moved/", tmp_path / "run", steps=None, epochs=2, eval_every=0)
    assert [step for (step,) in only(entries, "val", "step")] == [1, 2, 3, 4]
    # Of the cosine over 4 steps: half of 1 + cos(π / 2) at its middle, and not the 0 of 2 steps.
    assert caplog.messages.count(
        "The run had 2 steps and now has 4: from step 2 on, the learning rate is that of the "
        "cosine schedule over 4 steps, 0.0005 there instead of 0."
    )
    rates = dict(only(entries, "train", "step", "learning_rate"))
    assert rates == pytest.approx({1: 5e-4, 2: 0, 3: 1e-3 * (1 - 0.5**0.5) / 2, 4: 0}, rel=1e-4)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    found = [facts[key] for key in ("begun_with_steps", "total_steps", "exit_reason")]
    assert found == [2, 4, "finished"]
    train_here("moved/", tmp_path / "run", steps=None, epochs=2, eval_every=0)
    assert "(already finished; best checkpoint: step " in caplog.messages[-1]
    assert "images/s" not in caplog.messages[-1]
    with pytest.raises(InputError, match="holds a run of 4 steps, and this is one of 3; give"):
        train_here("moved/", tmp_path / "run", steps=3, eval_every=0)


@pytest.mark.slow
def test_a_run_that_stopped_early_gets_its_patience_again_with_more_steps(data_dir, tmp_path):
    def evaluated(steps):
        settings = {"learning_rate": 1e-30, "norm": "none", "patience": 1, "steps": steps}
        return [step for (step,) in only(train_here(data_dir, tmp_path, **settings), "val", "step")]

    assert evaluated(steps=8) == [1, 2]
    assert evaluated(steps=9) == [1, 2, 3]


@pytest.mark.slow
def test_names_of_any_kind_in_older_data_end_no_training(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    path = tmp_path / "data" / "manifest.json"
    content = json.loads(path.read_text())
    names = ["two\nlines", "p1/a\\b,c", 300 * "é"]
    for split in ("val", "test"):
        content["splits"][split]["cases"] = names
    content["classes"][1]["name"] = "disc\n|,"
    path.write_text(json.dumps(content))
    settings = {"steps": 1, "panels": 3, "worst_panels": 1, "worst_cases": 3, "best_cases": 1}
    entries = train_here(tmp_path / "data", tmp_path / "run", **settings)
    assert "dice/disc\n|," in entries[1]
    folder = tmp_path / "run" / "evaluation" / "test"
    with open(folder / "cases.csv", newline="") as file:
        assert {row["case"] for row in csv.DictReader(file)} == set(names)
    assert len(list((folder / "worst").iterdir())) == 3
    summary = json.loads((folder / "summary.json").read_text())
    assert len(scoring.table(summary).splitlines()) == 2 * (1 + 2 + 2) + 1
    report.main(config.Report(runs=str(tmp_path / "run")))


@pytest.mark.slow
def test_a_job_takes_cases_from_indexes_as_from_the_manifest(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "data")
    index_cases(tmp_path / "data")
    settings = {"steps": 2, "eval_every": 2, "panels": 2, "worst_cases": 2, "eval_images": 2}
    expected = train_here(data_dir, tmp_path / "listed", **settings)
    assert train_here(tmp_path / "data", tmp_path / "run", **settings)[-1] == expected[-1]
    for name in ("listed", "run"):
        evaluate_run(config.Evaluate(run_dir=str(tmp_path / name), split="val"))
    for name in ("test/cases.csv", "val/cases.csv"):
        tables = [tmp_path / run / "evaluation" / name for run in ("run", "listed")]
        assert tables[0].read_text() == tables[1].read_text()
    names = [
        sorted(path.name for path in (tmp_path / run).rglob("*-test?.png"))
        for run in ("run", "listed")
    ]
    assert names[0] == names[1] != []
    train_here(tmp_path / "data", tmp_path / "balanced", **settings, balance_cases=1.0)
    path = tmp_path / "data" / "train-cases.jsonl"
    path.write_text(path.read_text().replace("train0", "train1"))
    for more in ({}, {"balance_cases": 1.0}, {"skip_bad_records": 1}):
        with pytest.raises(InputError) as error:
            train_here(tmp_path / "data", tmp_path / "refused", **settings, **more)
        begin = f"{path} is not the index of the manifest: crc32c "
        assert str(error.value).startswith(begin)
    assert not (tmp_path / "refused" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_run_begins_with_the_best_weights_of_another_and_resumes_without_it(data_dir, tmp_path):
    settings = {"norm": "none", "steps": 2, "schedule": "constant", "keep_checkpoints": 1}
    entries = train_here(data_dir, tmp_path / "a", **settings, learning_rate=0.01)
    best = json.loads((tmp_path / "a" / "run.json").read_text())["fingerprint"]
    step = int(next((tmp_path / "a" / "best").iterdir()).name)
    (expected,) = (loss for number, loss in only(entries, "val", "step", "loss") if number == step)
    settings |= {"learning_rate": 1e-30, "init_from": str(tmp_path / "a"), "ema": 0.9}
    entries = train_here(data_dir, tmp_path / "b", **settings)
    origin = json.loads((tmp_path / "b" / "run.json").read_text())["init_from"]
    assert (origin["run_dir"], origin["fingerprint"], origin["step"]) == (
        str(tmp_path / "a"),
        best,
        step,
    )
    shutil.rmtree(tmp_path / "a")
    entries = train_here(data_dir, tmp_path / "b", **{**settings, "steps": 3})
    losses = [loss for (loss,) in only(entries, "val", "loss")]
    assert losses == pytest.approx([expected] * 3, rel=1e-4)


@pytest.mark.slow
def test_a_job_trains_on_the_other_folds_and_is_evaluated_on_its_own(folds_dir, tmp_path):
    manifest, run_dir = schema.read_manifest(folds_dir), tmp_path / "run"
    job = train(folds_dir, run_dir, "--fold=1", "--steps=3", "--eval_every=3")
    assert job.returncode == 0, job.stderr
    run = json.loads((run_dir / "run.json").read_text())
    assert run["data"]["images"] == {"train": 8, "val": 4, "test": 4}
    assert (run["data"]["folds"], run["settings"]["fold"]) == (3, 1)
    assert run["data_fingerprint"] == schema.fingerprint(manifest)  # that of the whole folder
    evaluate_run(config.Evaluate(run_dir=str(run_dir), split="val", worst_cases=0, best_cases=0))
    with open(run_dir / "evaluation/val/cases.csv", newline="") as file:
        cases = [row["case"] for row in csv.DictReader(file)]
    assert cases[::2] == list(manifest.folds[1].val.cases)
    other = train(folds_dir, run_dir, "--fold=2", "--steps=3", "--eval_every=3")
    assert other.returncode == 2
    assert "with other settings: --fold=2 (was 1)" in other.stderr


@pytest.mark.slow
def test_a_large_val_split_is_sampled_while_training_and_whole_at_the_end(tmp_path, caplog):
    sizes = {"train": [(40, 40)] * 4, "val": [(40, 40)] * 7}
    manifest = write_data(tmp_path, sizes, num_shards=3)
    with caplog.at_level("INFO", logger="absl"):
        entries = train_here(tmp_path, tmp_path / "run", steps=2, eval_every=2, eval_images=4)
    assert "Validated on 4 of 7 cases while training (--eval_images)." in caplog.messages
    with open(tmp_path / "run/evaluation/val/cases.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == manifest.classes[1].name]
    assert [row["case"] for row in rows] == list(manifest.splits["val"].cases)
    # Shards of 3, 2 and 2 cases: 12/7, 20/7 and 4 of them, as whole numbers, are taken.
    dice = {row["case"]: float(row["dice"]) for row in rows}
    expected = np.mean([dice[case] for case in ("val0", "val3", "val5", "val6")])
    (validated,) = only(entries, "val", "dice")
    assert validated == [pytest.approx(expected, abs=1e-6)]


@pytest.mark.slow
def test_a_fold_of_data_without_folds_is_refused_and_leaves_nothing(data_dir, tmp_path):
    job = train(data_dir, tmp_path / "run", "--fold=0")
    assert job.returncode == 2
    assert job.stderr.splitlines()[-1].endswith(
        f"--fold=0: --data_dir={data_dir} has no folds; prepare the data again with --folds=5, or "
        "drop --fold."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_diverges_keeps_its_last_good_checkpoint(data_dir, tmp_path):
    argv = ["--optimizer=sgd", "--clip_norm=0", "--norm=none", "--schedule=constant"]
    argv += ["--learning_rate=1e4", "--checkpoint_every=1", "--steps_per_loop=1"]
    result = train(data_dir, tmp_path, *argv)
    assert result.returncode == 2, result.stderr
    message = result.stderr.strip().splitlines()[-1]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert f"the checkpoint of step {int(kept[-1])} is kept" in message
    assert json.loads((tmp_path / "run.json").read_text())["exit_reason"] == message


@pytest.mark.slow
def test_a_run_that_gets_no_better_stops_early_and_is_finished(data_dir, tmp_path):
    argv = ["--learning_rate=1e-30", "--patience=2", "--best_metric=iou", "--eval_every=1"]
    argv += ["--loss=tversky", "--class_weights=balanced", "--schedule=polynomial"]
    argv += ["--precision=float16", "--ema=0.9", "--norm=none", "--steps=20"]
    for said in ("(stopped early; best checkpoint: step 1)", "Resuming from step 3"):
        result = train(data_dir, tmp_path, *argv)
        assert result.returncode == 0, result.stderr
        assert said in result.stderr
        assert json.loads((tmp_path / "run.json").read_text())["exit_reason"] == "stopped early"
        assert [step for (step,) in only(lines(tmp_path), "val", "step")] == [1, 2, 3]
        assert (tmp_path / "best" / "00000001" / "commit.json").exists()


def strictly(text):
    """Reads JSON as other languages do, which know no NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.slow
def test_without_foreground_in_val_the_loss_picks_the_best_weights_and_all_json_is_strict(tmp_path):
    (tmp_path / "data").mkdir()
    sizes = {"train": [(40, 40)] * 8, "val": [(40, 40)] * 3}
    write_data(tmp_path / "data", sizes, bare=["val"])
    argv = ["--eval_every=1", "--checkpoint_every=1", "--steps=5"]
    result = train(tmp_path / "data", tmp_path / "run", *argv)
    assert result.returncode == 0, result.stderr
    losses = dict(only(lines(tmp_path / "run"), "val", "step", "loss"))
    best = min(losses, key=losses.get)
    assert best > 1
    assert f"best checkpoint: step {best})" in result.stderr
    assert f"the lower loss decides: step {best}." in result.stderr
    for path in (tmp_path / "run").rglob("*.json"):
        strictly(path.read_text())
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        strictly(line)


@pytest.mark.slow
def test_a_damaged_shard_stops_the_job_with_its_name_and_offset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_data(folder, {"train": [(40, 40)] * 8, "val": [(40, 40)], "test": [(40, 40)]})
    shard = folder / "train-00001-of-00002.tfrecord"
    shard.write_bytes(shard.read_bytes()[:-10])
    result = train(folder, tmp_path / "run")
    assert result.returncode == 2, result.stderr
    assert f"{shard} is damaged at byte " in result.stderr.strip().splitlines()[-1]


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def damaged_dir(tmp_path_factory):
    """Data with a wrong byte in the first record of a shard of train and of one of test."""
    folder = tmp_path_factory.mktemp("damaged")
    write_data(folder, {"train": [(40, 40)] * 8, "val": [(40, 40)] * 3, "test": [(48, 33)] * 3})
    for split in ("train", "test"):
        flip(folder / f"{split}-00001-of-00002.tfrecord", 100)
    return folder


@pytest.mark.slow
def test_a_wrong_byte_stops_the_job_before_its_first_step(damaged_dir, tmp_path):
    result = train(damaged_dir, tmp_path / "run")
    assert result.returncode == 2, result.stderr
    assert result.stderr.strip().splitlines()[-1] == (
        f"{damaged_dir}/train-00001-of-00002.tfrecord is damaged at byte 0: the checksum of a "
        "record is wrong; copy it again or prepare the data again. `python -m trainer.data.inspect "
        f"{damaged_dir} --verify` checks every shard."
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_job_continues_without_damaged_records_and_always_in_the_same_way(damaged_dir, tmp_path):
    argv = ["--skip_bad_records=2", "--deterministic"]
    result = train(damaged_dir, tmp_path / "one", *argv)
    assert result.returncode == 0, result.stderr
    named = [line for line in result.stderr.splitlines() if line.startswith("Unreadable")]
    assert ["(train4) at byte 0: " in named[0], "(test2) at byte 0: " in named[1]] == [True] * 2
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    again = tmp_path / "other" / "checkpoints" / "00000006"
    for path in again.iterdir():
        path.unlink()
    again.rmdir()
    resumed = train(damaged_dir, tmp_path / "other", *argv)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step 3 of" in resumed.stderr
    for split, keys in (
        ("train", ("step", "loss")),
        ("val", ("loss", "dice")),
        ("test", ("dice",)),
    ):
        one, other = (only(lines(tmp_path / name), split, *keys) for name in ("one", "other"))
        assert one == other != []
    described = json.loads((tmp_path / "one" / "run.json").read_text())
    assert [line.split(" at byte ")[0] for line in described["unreadable_records"]] == [
        f"{damaged_dir}/{split}-00001-of-00002.tfrecord: record 0 ({case})"
        for split, case in (("train", "train4"), ("test", "test2"))
    ]
    evaluated = tmp_path / "one" / "evaluation" / "test"
    cases = (evaluated / "cases.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in cases] == ["test0", "test0", "test1", "test1"]
    summary = json.loads((evaluated / "summary.json").read_text())
    assert (summary["images"], summary["unreadable"]) == (2, ["test2"])


@pytest.mark.slow
def test_evaluation_as_a_command_continues_without_damaged_records(damaged_dir, finished, tmp_path):
    argv = [f"--run_dir={finished}", f"--data_dir={damaged_dir}", f"--json={tmp_path / 's'}"]
    result = command("trainer.evaluate", *argv)
    assert result.returncode == 2
    assert "test-00001-of-00002.tfrecord is damaged at byte 0" in result.stderr.splitlines()[-1]
    result = command("trainer.evaluate", *argv, "--skip_bad_records=1")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "s").read_text())["unreadable"] == ["test2"]


@pytest.mark.slow
def test_a_run_does_not_resume_with_other_data(data_dir, finished, tmp_path):
    run_dir = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "data").mkdir()
    write_data(tmp_path / "data", {"train": [(40, 40)] * 8, "val": [(40, 40)] * 3}, seed=1)
    # As if these had taken the place of those that it was begun with.
    text = (run_dir / "run.json").read_text().replace(data_dir, str(tmp_path / "data"))
    (run_dir / "run.json").write_text(text)
    result = train(tmp_path / "data", run_dir)
    assert result.returncode == 2
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith(f"--run_dir={run_dir} holds a run on other data: ")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 600 kB, in memory."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_training_continues_then_stops_in_one_line_and_keeps_what_is_whole(
    data_dir, small_disk
):
    run_dir = small_disk / "run"
    argv = ["--filters=16", "--checkpoint_patience=2"]
    result = train(data_dir, run_dir, *argv)
    assert result.returncode == 2, result.stderr
    assert "; training continues. Next attempt in 1 s." in result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("No checkpoint could be written, 2 times in a row: ")
    assert message.endswith(
        ". The last complete one is kept; fix the cause and start again, or allow more with "
        "--checkpoint_patience."
    )
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    result = train(data_dir, run_dir, *argv)
    assert result.returncode == 0, result.stderr
    assert json.loads((run_dir / "run.json").read_text())["exit_reason"] == "finished"


def assert_cases_of_all_workers(data_dir, folder):
    """Asserts that figures and pictures of an evaluation by two workers are of all cases."""
    assert len(list(folder.glob("cases-*-of-00002.parquet"))) == 2
    needed = (*case_tables.COUNTS, "dice")
    in_csv = case_tables.read(str(folder), needed, ["hd95", "assd", "nsd"])
    assert in_csv.cases == schema.read_manifest(str(data_dir)).splits["test"].cases
    (folder / "cases.csv").rename(folder / "moved")
    found = case_tables.read(str(folder), needed, ["hd95", "assd", "nsd"])
    assert found.cases == in_csv.cases
    for name, values in found.columns.items():
        np.testing.assert_array_equal(values, in_csv.columns[name])
    # Sums that workers added up are those of all rows, to the last bit.
    counts = np.stack([found.columns[name] for name in case_tables.COUNTS], axis=-1)
    summary = json.loads((folder / "summary.json").read_text())
    expected = scoring.summarize(counts, np.zeros(counts.shape), found.classes)
    for name in ("dice", "iou", "precision", "recall", "volume_error"):
        assert summary["per_image"]["foreground"][name] == expected["per_image"]["foreground"][name]
    assert summary["pooled"]["foreground"] == expected["pooled"]["foreground"]
    dice = [mean_dice(of_case) for of_case in counts]
    for kind, sign in (("worst", 1), ("best", -1)):
        order = np.argsort(sign * np.array(dice), kind="stable")
        pictures = sorted(path.stem for path in (folder / kind).iterdir())
        names = [f"{rank:02d}-{found.cases[n]}" for rank, n in enumerate(order, 1)]
        assert pictures == [name.replace("/", "_") for name in names[: len(pictures)]]
        assert len(pictures) > 1


@pytest.mark.slow
def test_two_workers_train_like_one_read_only_their_shards_and_write_only_their_cases(
    data_dir, tmp_path
):
    argv = ["--norm=none", "--optimizer=sgd", "--augment=none", "--filters=8", "--depth=2"]
    argv += ["--activation=swish"]  # ReLU's derivative jumps where rounding decides
    argv += ["--worst_cases=3", "--best_cases=2"]  # of both workers' cases
    argv += ["--profile=1,1"]  # at which all stop, though the chief alone writes
    folders = [tmp_path / "0", tmp_path / "1"]
    for index, folder in enumerate(folders):
        shutil.copytree(data_dir, folder / "data")
        for shard in folder.glob(f"data/*-0000{1 - index}-of-00002.tfrecord"):  # the other's
            shard.unlink()
        assert len(list(folder.glob("data/*.tfrecord"))) == 3
    # No file of the other worker's can be as large as a checkpoint.
    limits = [None, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))]
    places = [
        {"cwd": folder, "preexec_fn": limit} for folder, limit in zip(folders, limits, strict=True)
    ]
    processes = start_workers(2, "data", tmp_path / "two", *argv, places=places)
    outputs = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    result = train(data_dir, tmp_path / "one", *argv)
    assert result.returncode == 0, result.stderr
    # Six steps of some 1000 products forward and back, and sums over 4 images of 32×32 pixels. Of
    # masks, a pixel of some 500 may round to the other class.
    apart = {"step": 0, "loss": rounding.tolerance(6 * (2 * 1000 + 4 * 32 * 32)), "dice": 0.005}
    for split, keys in (
        ("train", ("step", "loss")),
        ("val", ("loss", "dice")),
        ("test", ("dice",)),
    ):
        one, two = (only(lines(tmp_path / name), split, *keys) for name in ("one", "two"))
        assert len(one) == len(two) > 0
        for ours, theirs in zip(one, two, strict=True):
            for key, mine, yours in zip(keys, ours, theirs, strict=True):
                assert mine == pytest.approx(yours, abs=apart[key])
    one, two = (sorted((tmp_path / name).rglob("*")) for name in ("one", "two"))
    assert len(one) + 1 == len(two)  # the second worker's table
    assert_cases_of_all_workers(data_dir, tmp_path / "two" / "evaluation" / "test")
    state = next(path for path in two if path.name.startswith("state.data"))
    assert state.stat().st_size > 2**16
