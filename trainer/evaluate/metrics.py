"""What is measured of each class in each case: a row a metric, from which all else follows.

The columns of cases.csv, the scores and their conventions in summary.json, the figures in
metrics.jsonl with their charts in TensorBoard, the tables of commands and the report are made of
these rows. docs/metrics.md names the conventions.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from trainer.evaluate import surfaces
from trainer.ignore_label import IGNORE

LENGTH = "mm or px"  # a unit: millimetres in volumes, pixels in images


class CaseMetric(NamedTuple):
    """A metric of each class in a case.

    Attributes:
        title: its name in charts.
        meaning: what it is of one class in one case, without a full stop.
        absent: its convention for a class that is absent from the truth, the prediction or both.
        needs: what `compute` takes. "counts" are integers [..., K, 3], pixels of truth, of
            prediction and of both; such a metric is also pooled. "maps" are the truth and the
            prediction of a case, uint8 [*S], both IGNORE where a pixel does not count, the number
            of classes K, and the spacing of pixels along each axis. "surfaces" are the
            `surfaces.Distances` of one foreground class that is in truth or prediction.
        compute: returns floats [..., K] of counts, [K] of maps, one float of surfaces; NaN where
            the metric is undefined.
        higher_is_better: the direction in which a network improves; None: towards 0.
        tracked: whether each evaluation reports it, as a figure that --best_metric may name;
            otherwise only the final tables have it, and only for them maps are measured.
        unit: of its values; empty if they have none.
        form: how a person reads a value, as a format.
    """

    title: str
    meaning: str
    absent: str
    needs: Literal["counts", "maps", "surfaces"]
    compute: Callable[..., Any]
    higher_is_better: bool | None = True
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


def _volume_error(counts):
    return divide(counts[..., 1] - counts[..., 0], counts[..., 0])


IN_NEITHER = "undefined where the class is in neither truth nor prediction"
NO_SURFACE = "undefined where it is in neither, and for the background"
IN_ONE = f"the diagonal of the map where the class is in only one of the two; {NO_SURFACE}"

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
    "volume_error": CaseMetric(
        "Volume error",
        "(prediction - truth) / truth",
        "undefined where the class is not in the truth",
        "counts",
        _volume_error,
        higher_is_better=None,
        tracked=False,
        form="+.4f",
    ),
    "hd95": CaseMetric(
        "Hausdorff distance, 95 %",
        "The larger of the 95th percentiles of the distances from each surface to the other",
        IN_ONE,
        "surfaces",
        surfaces.hd95,
        higher_is_better=False,
        tracked=False,
        unit=LENGTH,
        form=".2f",
    ),
    "assd": CaseMetric(
        "Average surface distance",
        "Mean distance of the voxels of both surfaces to the other surface",
        IN_ONE,
        "surfaces",
        surfaces.assd,
        higher_is_better=False,
        tracked=False,
        unit=LENGTH,
        form=".3f",
    ),
    "nsd": CaseMetric(
        "Normalised surface Dice",
        "Share of the voxels of both surfaces within the tolerance of the other surface",
        f"0 where the class is in only one of the two; {NO_SURFACE}",
        "surfaces",
        surfaces.nsd,
        tracked=False,
    ),
}


def tracked() -> dict[str, CaseMetric]:
    """Returns the rows that each evaluation reports."""
    return {name: metric for name, metric in METRICS.items() if metric.tracked}


def of_maps(is_final: bool) -> dict[str, CaseMetric]:
    """Returns the rows that need the maps of a case: the tracked ones, or all in the end."""
    rows = METRICS.items()
    return {name: row for name, row in rows if row.needs != "counts" and (row.tracked or is_final)}


BETTER = {True: "higher", False: "lower", None: "near 0"}


def conventions(names: Collection[str], length: str = LENGTH) -> dict[str, dict[str, str]]:
    """Returns the entries of summary.json about these metrics; `length` is the unit of lengths."""
    return {
        name: {
            "meaning": metric.meaning,
            "absent": metric.absent,
            "better": BETTER[metric.higher_is_better],
            "unit": length if metric.unit == LENGTH else metric.unit,
        }
        for name, metric in METRICS.items()
        if name in names
    }


def higher_is_better(figure: str) -> bool:
    """Says in which direction a figure of an evaluation is better: a metric, or a loss."""
    return figure in METRICS and bool(METRICS[figure].higher_is_better)


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics of counts, integers [..., K, 3], by name: float64 [..., K]."""
    counts = np.asarray(counts, np.int64)
    rows = METRICS.items()
    return {name: metric.compute(counts) for name, metric in rows if metric.needs == "counts"}


def measure(
    labels: np.ndarray,
    predicted: np.ndarray,
    valid: np.ndarray,
    num_classes: int,
    spacing: Sequence[float],
    tolerance: float | None,
) -> dict[str, np.ndarray]:
    """Returns the metrics of one case that need its maps, by name: float64 [K].

    Args:
        labels: integers [*S], class ids.
        predicted: integers [*S], class ids.
        valid: [*S], 0 where a pixel does not count, neither of truth nor of prediction.
        num_classes: K.
        spacing: of the pixels, along each axis.
        tolerance: up to which two surfaces agree; None: only tracked metrics are measured.
    """
    rows = of_maps(tolerance is not None)
    if not rows:
        return {}
    truth, prediction = (
        np.where(valid > 0, ids, IGNORE).astype(np.uint8) for ids in (labels, predicted)
    )
    found = {
        name: np.asarray(row.compute(truth, prediction, num_classes, spacing), np.float64)
        for name, row in rows.items()
        if row.needs == "maps"
    }
    of_surfaces = {name: row for name, row in rows.items() if row.needs == "surfaces"}
    if of_surfaces:
        apart = surfaces.distances(truth, prediction, num_classes, spacing, tolerance or 0.0)
        for name, row in of_surfaces.items():
            values = [np.nan if one is None else row.compute(one) for one in apart]
            found[name] = np.array([np.nan, *values])
    return found


class Column(NamedTuple):
    """A column of the tables of classes.

    Attributes:
        head: its name, with the unit.
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


def columns(summary: Mapping[str, Any]) -> Iterator[Column]:
    """Yields the columns of a table of classes, for the metrics that a summary has.

    Tracked metrics come first, per image and pooled; others are pooled where they can be.
    """
    pooled = {name for name, row in METRICS.items() if row.needs == "counts"}
    named = [(f"per image {name}", "per_image", name) for name in tracked()]
    named += [(f"pooled {name}", "pooled", name) for name in tracked() if name in pooled]
    others = [name for name in METRICS if name not in tracked()]
    named += [(name, "pooled" if name in pooled else "per_image", name) for name in others]
    for head, group, name in named:
        if any(name in entry[group] for entry in summary["classes"].values()):
            unit = summary.get("metrics", {}).get(name, {}).get("unit")
            yield Column(f"{head} ({unit})" if unit else head, group, name)


def means(summary: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, float | None]]]:
    """Returns the means over classes as entries like those of the classes, by their names."""
    groups = {kind: summary.get(kind, {}) for kind in ("per_image", "pooled")}
    return {
        name: {kind: group.get(key, {}) for kind, group in groups.items()}
        for name, key in (("mean, foreground", "foreground"), ("mean, all", "all_classes"))
    }
