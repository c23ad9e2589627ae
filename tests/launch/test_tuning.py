"""What is varied, and by which figure it is judged."""

import pytest

from launch import settings, tuning
from trainer.errors import InputError


def build(tune, metric="val/dice:max", args=(), **asked):
    return tuning.build(settings.Tuning(tune=tune, metric=metric, **asked), args)


def test_a_trial_counts_by_its_best_figure_and_the_rest_is_left_to_vertex_ai():
    found = build("filters:8|16")
    assert found["measurementSelectionType"] == "BEST_MEASUREMENT"
    assert found.keys() == {"metrics", "parameters", "measurementSelectionType"}


def test_algorithm_and_early_stopping_can_be_chosen():
    found = build("filters:8|16,depth:2..4", algorithm="grid", early_stopping="median")
    assert found["algorithm"] == "GRID_SEARCH"
    assert found["medianAutomatedStoppingSpec"] == {}
    found = build("learning_rate:1e-4..1e-2", algorithm="random", early_stopping="curve")
    assert found["algorithm"] == "RANDOM_SEARCH"
    assert found["decayCurveStoppingSpec"] == {}


def test_a_grid_takes_values_that_can_be_counted():
    with pytest.raises(InputError) as error:
        build("dropout:0..0.5", algorithm="grid")
    assert str(error.value) == (
        "--algorithm=grid tries every value, and --tune=dropout:0..0.5 has a range of dropout; "
        "write choices, as dropout:0.1|0.2, or use another --algorithm."
    )


def test_ranges_scales_and_choices_become_parameters():
    found = build(
        "learning_rate:1e-4..1e-2:log,depth:2..4,filters:32|64,dropout:0.1|0.0,augment:none|flip"
    )
    assert found["metrics"] == [{"metricId": "val/dice", "goal": "MAXIMIZE"}]
    assert found["parameters"] == [
        {
            "parameterId": "learning_rate",
            "doubleValueSpec": {"minValue": 1e-4, "maxValue": 1e-2},
            "scaleType": "UNIT_LOG_SCALE",
        },
        {
            "parameterId": "depth",
            "integerValueSpec": {"minValue": "2", "maxValue": "4"},
            "scaleType": "UNIT_LINEAR_SCALE",
        },
        {"parameterId": "filters", "categoricalValueSpec": {"values": ["32", "64"]}},
        {"parameterId": "dropout", "discreteValueSpec": {"values": [0.0, 0.1]}},
        {"parameterId": "augment", "categoricalValueSpec": {"values": ["none", "flip"]}},
    ]


def test_optional_numbers_can_be_varied():
    (parameter,) = build("weight_decay:1e-6..1e-3:log")["parameters"]
    assert parameter["doubleValueSpec"] == {"minValue": 1e-6, "maxValue": 1e-3}


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("lr:1..2", "--tune=lr:1..2: --lr is not a flag of trainer.task."),
        (
            "filters:32",
            "--tune=filters:32: 'filters:32' has another form than learning_rate:1e-4..1e-2:log,"
            "filters:32|64.",
        ),
        ("filters:9..8", "--tune=filters:9..8: 9 is not below 8; swap them."),
        (
            "filters:a|b",
            "--tune=filters:a|b: --filters=a is not a whole number.",
        ),
        ("dropout:x..1", "--tune=dropout:x..1: 'x' is not a number of --dropout."),
        (
            "dropout:0..2",
            "--tune=dropout:0..2: --dropout=2.0 is above 0.95, its largest value.",
        ),
        (
            "learning_rate:0..1:log",
            "--tune=learning_rate:0..1:log: 0 has no logarithm; use linear, or begin above 0.",
        ),
        (
            "augment:none|all",
            "--tune=augment:none|all: --augment=all is not one of none, flip, standard, strong.",
        ),
        (
            "filters:8|16,filters:2|4",
            "--tune=filters:8|16,filters:2|4 names filters twice; drop one of them.",
        ),
    ],
)
def test_what_trainer_task_would_refuse_is_refused(tune, message):
    with pytest.raises(InputError) as error:
        build(tune)
    assert str(error.value) == message


def test_a_value_must_go_with_the_other_flags():
    with pytest.raises(InputError, match=r"--crop=40 is not a multiple of 16"):
        build("depth:2..4", args=["--crop=40"])


@pytest.mark.parametrize("metric", ["dice", "val/dice", "val/dice:best", "all/dice:max"])
def test_a_metric_has_a_form(metric):
    with pytest.raises(InputError) as error:
        build("filters:8|16", metric)
    assert str(error.value) == (
        f"--metric={metric} is not a figure and a goal; write val/dice:max or val/loss:min."
    )
