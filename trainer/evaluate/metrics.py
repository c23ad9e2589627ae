"""What is measured of each class in each case: a row a metric, from which all else follows.

The columns of cases.csv, the scores and their conventions in summary.json, the figures in
metrics.jsonl with their charts in TensorBoard, the tables of commands and the report are made of
these rows. docs/metrics.md names the conventions.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from trainer.ignore_label import IGNORE


class CaseMetric(NamedTuple):
    """A metric of each class in a case.

    Attributes:
        title: its name in charts.
        meaning: what it is of one class in one case, without a full stop.
        absent: its convention for a class that is absent from the truth, the prediction or both.
        needs: what `compute` takes. "counts" are integers [..., K, 3], pixels of truth, of
            prediction and of both; such a metric is also pooled. "maps" are the truth and the
            prediction of a case, uint8 [H, W], both IGNORE where a pixel does not count, the number
            of classes K, and the spacing of pixels along each axis.
        compute: returns floats [..., K] of counts, [K] of maps; NaN where the metric is undefined.
        higher_is_better: the direction in which a network improves.
        tracked: whether each evaluation reports it, as a figure that --best_metric may name;
            otherwise only the final tables have it.
        unit: of its values; empty if they have none.
        form: how a person reads a value, as a format.
    """

    title: str
    meaning: str
    absent: str
    needs: Literal["counts", "maps"]
    compute: Callable[..., np.ndarray]
    higher_is_better: bool = True
    tracked: bool = True
    unit: str = ""
    form: str = ".4f"


def divide(numerator, denominator):
    """Returns the quotient, float64, NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    empty = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator != 0)


def _dice(counts):
    truth, prediction, both = np.moveaxis(counts, -1, 0)
    return divide(2 * both, truth + prediction)


def _iou(counts):
    truth, prediction, both = np.moveaxis(counts, -1, 0)
    return divide(both, truth + prediction - both)


def _precision(counts):
    return divide(counts[..., 2], counts[..., 1])


def _recall(counts):
    return divide(counts[..., 2], counts[..., 0])


IN_NEITHER = "undefined where the class is in neither truth nor prediction"

METRICS: dict[str, CaseMetric] = {
    "dice": CaseMetric("Dice", "2 both / (truth + prediction)", IN_NEITHER, "counts", _dice),
    "iou": CaseMetric("IoU", "Both / (truth or prediction)", IN_NEITHER, "counts", _iou),
    "precision": CaseMetric(
        "Precision",
        "Both / prediction",
        "undefined where the class is not predicted",
        "counts",
        _precision,
        tracked=False,
    ),
    "recall": CaseMetric(
        "Recall",
        "Both / truth",
        "undefined where the class is not in the truth",
        "counts",
        _recall,
        tracked=False,
    ),
}


def tracked() -> dict[str, CaseMetric]:
    """Returns the rows that each evaluation reports."""
    return {name: metric for name, metric in METRICS.items() if metric.tracked}


def of_maps() -> dict[str, CaseMetric]:
    """Returns the rows that need the whole truth and prediction of a case."""
    return {name: metric for name, metric in METRICS.items() if metric.needs == "maps"}


def conventions() -> dict[str, dict[str, str]]:
    """Returns the entries of summary.json about each metric."""
    return {
        name: {
            "meaning": metric.meaning,
            "absent": metric.absent,
            "better": "higher" if metric.higher_is_better else "lower",
            "unit": metric.unit,
        }
        for name, metric in METRICS.items()
    }


def higher_is_better(figure: str) -> bool:
    """Says in which direction a figure of an evaluation is better: a metric, or a loss."""
    return figure in METRICS and METRICS[figure].higher_is_better


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics of counts, integers [..., K, 3], by name: float64 [..., K]."""
    counts = np.asarray(counts, np.int64)
    rows = METRICS.items()
    return {name: metric.compute(counts) for name, metric in rows if metric.needs == "counts"}


def measure(
    labels: np.ndarray, predicted: np.ndarray, valid: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
    """Returns the metrics of one case that need its maps, by name: float64 [K].

    Args:
        labels: integers [H, W], class ids.
        predicted: integers [H, W], class ids.
        valid: [H, W], 0 where a pixel does not count.
        num_classes: K.
    """
    rows = of_maps()
    if not rows:
        return {}
    truth, prediction = (
        np.where(valid > 0, ids, IGNORE).astype(np.uint8) for ids in (labels, predicted)
    )
    spacing = (1.0,) * truth.ndim
    return {
        name: np.asarray(metric.compute(truth, prediction, num_classes, spacing), np.float64)
        for name, metric in rows.items()
    }


class Column(NamedTuple):
    """A column of the tables of classes.

    Attributes:
        head: its name.
        group: "per_image" or "pooled", where it is among the scores of a class in summary.json.
        name: of the metric.
    """

    head: str
    group: str
    name: str

    def shown(self, entry: Mapping[str, Mapping[str, float | None]]) -> str:
        """Returns a class's entry of a summary; a dash if there is none."""
        value = entry[self.group].get(self.name)
        is_number = isinstance(value, int | float)
        return f"{value:{METRICS[self.name].form}}" if is_number else str(value or "–")


def columns() -> Iterator[Column]:
    """Yields the columns of the tables of classes: tracked metrics first, per image and pooled."""
    for name in tracked():
        yield Column(f"per image {name}", "per_image", name)
    for name in tracked():
        if METRICS[name].needs == "counts":
            yield Column(f"pooled {name}", "pooled", name)
    for name, metric in METRICS.items():
        if not metric.tracked:
            yield Column(name, "pooled" if metric.needs == "counts" else "per_image", name)
