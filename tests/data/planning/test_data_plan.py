"""What all plans have in common."""

from trainer.data.planning import data_plan


def test_a_plan_is_in_the_data_folder_unless_that_is_remote():
    assert data_plan.default_path("data") == "data/plan.cfg"
    assert data_plan.default_path("gs://bucket/data") == data_plan.default_path("") == "plan.cfg"


def test_a_run_is_named_after_its_data():
    names = {choice.name: choice.value for choice in data_plan.folders("some/cells/")}
    assert names == {"data_dir": "some/cells/", "run_dir": "runs/cells"}
    assert data_plan.folders("") == []
