"""What all plans have in common."""

import dataclasses

from trainer import config
from trainer.data.dataset import schema
from trainer.data.planning import data_plan


def test_a_plan_is_in_the_data_folder_unless_that_is_remote():
    assert data_plan.default_path("data") == "data/plan.cfg"
    assert data_plan.default_path("gs://bucket/data") == data_plan.default_path("") == "plan.cfg"


def test_a_run_is_named_after_its_data():
    names = {choice.name: choice.value for choice in data_plan.folders("some/cells/")}
    assert names == {"data_dir": "some/cells/", "run_dir": "runs/cells"}
    assert data_plan.folders("") == []


def test_who_trains_with_the_defaults_is_told_of_plans(tmp_path):
    data = config.Data(data_dir=str(tmp_path))
    assert data_plan.suggestion(config.Job(data=data)) == (
        "Crop, batch, filters and depth are the defaults; python -m trainer.plan --data_dir="
        f"{tmp_path} chooses those for these data."
    )
    (tmp_path / "plan.cfg").touch()
    assert data_plan.suggestion(config.Job(data=data)) == (
        f"Crop, batch, filters and depth are the defaults; {tmp_path}/plan.cfg has those for these "
        "data."
    )
    assert data_plan.suggestion(config.Job(data=data, model=config.Model(filters=8))) == ""
    assert data_plan.suggestion(config.Job()) == ""  # the demo


def test_who_trains_mostly_on_padding_is_told(data_dir):
    manifest = schema.read_manifest(str(data_dir))
    train = dataclasses.replace(manifest.splits["train"], sizes=((64, 64, 3), (128, 96, 1)))
    manifest = dataclasses.replace(manifest, splits={**manifest.splits, "train": train})
    # (3 × 1/4 + 3/4) / 4 = 3/8 are image.
    assert data_plan.padding(config.Data(crop=128), manifest) == (
        "62% of a crop of 128×128 is padding on average, as examples are smaller; a smaller "
        "--crop trains faster."
    )
    assert data_plan.padding(config.Data(crop=64), manifest) == ""
