"""Evaluation as a command, of cross-validations; that of single runs is in test_loop."""

import csv
import json
import logging

import numpy as np
import pytest

from tests import runs, shards
from trainer import config
from trainer.checkpointing import run_metadata
from trainer.data.dataset import schema
from trainer.errors import InputError
from trainer.evaluate.evaluate_run import evaluate_run
from trainer.predict.load import load

CLASSES = {"classes": ("class0", "class1"), "values": (0, 1)}


def write_folds(folder, data_dir, *, seeds=(0, 1), **settings):
    """Writes a cross-validation of drawn networks, each with figures of its own."""
    manifest = schema.read_manifest(data_dir)
    for fold, seed in enumerate(seeds):
        place = folder / f"fold-{fold}"
        kind = {**CLASSES, "seed": seed, **settings}
        run = run_metadata.read(runs.write_run(place, volumes=manifest.volumes, **kind))
        figures = {"mean": [80.0 + 20 * fold], "std": [40.0 + 10 * fold]}
        run["data"] = {**run["data"], "folds": len(seeds), **figures}
        run["settings"] = {**run["settings"], "data_dir": data_dir, "fold": fold}
        run_metadata.write(str(place), {**run, "data_fingerprint": schema.fingerprint(manifest)})
    return str(folder)


def evaluate(run_dir, **settings):
    evaluate_run(
        config.Evaluate(
            run_dir=run_dir, strategy="one_device", worst_cases=0, best_cases=0, **settings
        )
    )


def rows_of(folder):
    with open(folder / "cases.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["class"] == "class1"]


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["dataset", "image"])
def test_scores_of_a_cross_validation_are_those_of_the_masks_of_its_ensemble(
    folds_dir, tmp_path, caplog, normalize
):
    write_folds(tmp_path / "wide", folds_dir, normalize=normalize, depth=1)
    (tmp_path / run_metadata.CHOICE).write_text('{"best": "wide"}')  # of several configurations
    runs.calibrate(str(tmp_path / "wide/fold-0"), 0.3)
    with caplog.at_level(logging.INFO, logger="absl"):
        evaluate(str(tmp_path))
    assert f"Mean of 2 folds on test of {folds_dir}:" in caplog.text
    summary = json.loads((tmp_path / "wide/evaluation/test/summary.json").read_text())
    assert summary["calibration"]["temperature"] == [0.3, 1.0]
    networks, manifest = load(str(tmp_path)), schema.read_manifest(folds_dir)
    rows = rows_of(tmp_path / "wide/evaluation/test")
    examples = [
        schema.decode(serialized, manifest)
        for shard in manifest.splits["test"].shards
        for serialized in schema.read_shard(folds_dir, shard)
    ]
    assert [row["case"] for row in rows] == list(manifest.splits["test"].cases)
    for row, example in zip(rows, examples, strict=True):
        probabilities = networks.probabilities(example["image"].numpy())[..., 1]
        mask, predicted = example["mask"].numpy(), probabilities >= 0.5
        undecided = (np.abs(probabilities - 0.5) < 2 * runs.CLOSE).sum()
        valid = mask != schema.IGNORE
        assert abs(int(row["prediction"]) - (predicted & valid).sum()) <= undecided
        assert abs(int(row["intersection"]) - (predicted & (mask == 1)).sum()) <= undecided
        assert 0 < predicted.sum() < predicted.size


@pytest.mark.slow
def test_volumes_are_evaluated_by_the_mean_of_all_folds_and_what_they_decided_is_applied(tmp_path):
    sizes = [(8, 8, 8)]
    manifest = shards.write_balls(tmp_path, {"train": sizes, "val": sizes, "test": sizes * 2})
    settings = {"dtype": "float32", "crop": (8, 8, 8), "filters": 2, "depth": 1}
    cv = write_folds(tmp_path / "CV", str(tmp_path), seeds=(0, 0), **settings)
    evaluate(cv)
    evaluate(
        runs.write_run(tmp_path / "alone", volumes=manifest.volumes, **CLASSES, **settings),
        data_dir=str(tmp_path),
    )
    together, alone = (rows_of(tmp_path / f"{name}/evaluation/test") for name in ("CV", "alone"))
    assert together == alone  # the mean of equal networks
    assert [row["case"] for row in together] == list(manifest.splits["test"].cases)
    decision = {"keep_largest": {"foreground": True, "classes": []}}
    (tmp_path / "CV/postprocessing.json").write_text(json.dumps(decision))
    evaluate(cv)
    summary = json.loads((tmp_path / "CV/evaluation/test/summary.json").read_text())
    assert summary["components"] == "only the largest component of the foreground is kept"


def test_what_would_not_be_exact_of_a_cross_validation_is_refused(folds_dir, tmp_path):
    cv = write_folds(tmp_path, folds_dir, depth=1)
    for split in ("train", "val"):
        with pytest.raises(InputError, match=f"--split={split}: the cases of a cross-validation"):
            evaluate(cv, split=split)
    for name in ("components", "calibration"):
        with pytest.raises(InputError, match=f"--{name}=decide .*; run trainer.crossval"):
            evaluate(cv, split="val", **{name: "decide"})
    fold = str(tmp_path / "fold-1")
    run = run_metadata.read(fold)
    for part, changes in (
        ({"settings": {**run["settings"], "normalize": "none"}}, "--normalize=none (was image)"),
        ({"data_fingerprint": "e"}, "other data"),
    ):
        run_metadata.write(fold, {**run, **part})
        with pytest.raises(InputError) as error:
            evaluate(cv)
        assert str(error.value) == (
            f"{fold} was trained otherwise than {cv}/fold-0: {changes}; let trainer.crossval train "
            "all folds alike, or evaluate each by itself."
        )
    assert not (tmp_path / "evaluation").exists()
