"""A metric from outside the package: how to add one."""

import csv
import io
import json

import numpy as np
import pytest
from scipy import ndimage

from tests.evaluations import evaluate, evaluator_of, pointwise_model
from trainer import config, json_text
from trainer.evaluate import case_tables, metrics
from trainer.evaluate import scores as scoring
from trainer.monitoring import scalars
from trainer.report import page
from trainer.training.progress import Progress


def hausdorff(truth, prediction, num_classes, spacing):
    """Returns the largest distance from one region to the other, in units of `spacing`."""
    found = np.full(num_classes, np.nan)
    for k in range(num_classes):
        one, other = truth == k, prediction == k
        if one.any() and other.any():
            pairs = ((one, other), (other, one))
            found[k] = max(ndimage.distance_transform_edt(~b, spacing)[a].max() for a, b in pairs)
    return found


ROW = metrics.CaseMetric(
    "Hausdorff distance",
    "Largest distance between the regions of truth and prediction",
    "undefined where the class is missing from truth or prediction",
    "maps",
    hausdorff,
    higher_is_better=False,
    unit="pixels",
    form=".2f",
)


@pytest.fixture
def row(monkeypatch):
    """The row above, and its name among the choices of --best_metric."""
    monkeypatch.setitem(metrics.METRICS, "hausdorff", ROW)
    config.add_choice(config.Run, "best_metric", "hausdorff")
    yield
    config.Run.__dataclass_fields__["best_metric"].metadata["choices"].remove("hausdorff")


def test_a_metric_of_maps_is_that_of_the_hand(row):
    truth, prediction = np.zeros((2, 8, 8), np.uint8)
    truth[1, 1], prediction[4, 5] = 1, 1  # 3 rows and 4 columns apart
    truth[0, 0] = prediction[0, 0] = 1  # does not count
    valid = np.ones((8, 8))
    valid[0, 0] = 0
    found = metrics.measure(truth, prediction, valid, 3, (1.0, 1.0), None)["hausdorff"]
    assert found[1] == 5.0
    assert np.isnan(found[2])


@pytest.mark.parametrize("replicas", [1, 2])
def test_all_that_is_said_of_an_evaluation_follows_from_the_row(row, data, replicas):
    found = evaluate(evaluator_of(data, pointwise_model(replicas), replicas=replicas), "val")
    values = found.measured["hausdorff"]
    assert values.shape == (7, 3)

    names = [entry.name for entry in data[1].classes]
    text = case_tables.to_csv(data[1].splits["val"].cases, names, found.rows)
    lines = list(csv.DictReader(io.StringIO(text)))
    shown = [float(line["hausdorff"] or "nan") for line in lines]
    np.testing.assert_allclose(shown, values.ravel(), atol=1e-6)

    summary = json.loads(json_text.dumps(found.summary))
    means = [np.nanmean(column) for column in values.T]
    assert summary["hausdorff"] == pytest.approx(np.mean(means[1:]))
    assert summary["classes"]["class2"]["per_image"]["hausdorff"] == pytest.approx(means[2])
    assert "hausdorff" not in summary["pooled"]["foreground"]  # it cannot be had of counts
    assert summary["metrics"]["hausdorff"] == {
        "meaning": ROW.meaning,
        "absent": ROW.absent,
        "better": "lower",
        "unit": "pixels",
    }
    assert "per image hausdorff (pixels)" in scoring.table(summary)
    assert f"{means[1]:.2f}" in scoring.table(summary)
    assert "per image hausdorff (pixels)" in page.scores(summary)["heads"]

    figures = scoring.figures_of(found.scores)
    assert figures["hausdorff/class1"] == pytest.approx(means[1])
    assert scalars.description("hausdorff/class1").endswith("Unit: pixels.")
    assert scalars.charts([], [])["Does it learn?"]["hausdorff"] == "scores/hausdorff$"


def test_a_metric_that_is_better_where_lower_picks_the_best_checkpoint(row):
    metric = config.Run(best_metric="hausdorff").best_metric
    progress = Progress()
    for step, value in ((1, 9.0), (2, 4.0), (3, 6.0)):
        higher = metrics.higher_is_better(metric)
        progress = progress.after(step, metric, {"hausdorff": value}, higher)
    assert (progress.best, progress.best_step, progress.worse) == (4.0, 2, 1)
