"""The scores of a split: all of them by their names, those of each evaluation, and a table."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer import text_table
from trainer.errors import one_line
from trainer.evaluate import exact_sum, metrics
from trainer.evaluate.metrics import divide

NVIDIA_EPSILON = 1e-6  # NVIDIA's smoothing term, in numerator and denominator


@dataclasses.dataclass(frozen=True)
class Scores:
    """What was counted over a split of N images and K classes.

    Attributes:
        evaluated: bool [N], False for an unreadable image, which counts for nothing.
        confusions: int64 [K, K], see `counting.count_confusions`.
        probabilities: int64 [K - 1, BINS + 1, 2], see `counting.count_probabilities`.
        summary: of all cases, see `summarize`; the loss, its parts and the unreadable images.
    """

    evaluated: np.ndarray
    confusions: np.ndarray
    probabilities: np.ndarray
    summary: dict[str, Any]

    def of_data(self, fingerprint: str, kept: str = "") -> "Scores":
        """Returns these scores, with what they are of in their summary.

        Args:
            fingerprint: of the data.
            kept: which components of the predictions, in words; empty: all.
        """
        summary = {**self.summary, "data_fingerprint": fingerprint, "components": kept or "all"}
        return dataclasses.replace(self, summary=summary)


def summarize(
    counts: np.ndarray,
    soft: np.ndarray,
    classes: Sequence[str],
    measured: Mapping[str, np.ndarray] = types.MappingProxyType({}),
    *,
    length: str = "px",
    tolerance: float | None = None,
) -> dict[str, Any]:
    """Returns every score of a split, each convention by its own name.

    Args:
        counts: integers [N, K, 3], what `counting.count_pixels` counted for N images.
        soft: floats [N, K, 3], what `counting.soft_sums` summed.
        classes: the K names, background first.
        measured: floats [N, K] by name, of the metrics that need the maps of a case.
        length: unit of lengths.
        tolerance: up to which two surfaces agreed; None if no surface was measured.

    Returns:
        dict for JSON: floats, integers, and None for what is undefined (a class that occurs in no
        image). The tracked metrics at its top are those of per_image.foreground.
    """
    sums = sum_up(counts, soft, measured)
    return summary_of(sums, classes, length=length, tolerance=tolerance)


OF_IMAGES = "per_image/"  # with the name of a metric, among sums


def sum_up(
    counts: np.ndarray, soft: np.ndarray, measured: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns all that the scores of a split need of its cases, or of a part of them, by name.

    It is int64, of shapes that do not depend on the number of cases. Those of the parts of a split
    add up to those of the split, exactly. Arguments are those of `summarize`.
    """
    counts, soft = np.asarray(counts, np.int64), np.asarray(soft, np.float64)
    values = {
        "soft": soft,
        "soft_dice": soft_dice_nvidia(soft),
        "right": divide(counts[..., 2].sum(axis=1), counts[..., 0].sum(axis=1)),
        "accuracy": _accuracy(counts),
        **{f"{OF_IMAGES}{name}": value for name, value in per_case(counts, measured).items()},
    }
    return {
        "cases": np.array(len(counts)),
        "images": np.any(counts[..., :2] > 0, axis=-1).sum(axis=0),
        "counts": counts.sum(axis=0),
        **{name: exact_sum.exact_sum(value) for name, value in values.items()},
    }


def summary_of(
    sums: Mapping[str, np.ndarray], classes: Sequence[str], *, length: str, tolerance: float | None
) -> dict[str, Any]:
    """Returns the scores of what `sum_up` returns; see `summarize`."""
    counts, soft = sums["counts"], exact_sum.total(sums["soft"])
    # Over the images in which a score is defined; then over classes, see `_over_classes`.
    per_image = {
        name.removeprefix(OF_IMAGES): exact_sum.mean(value)
        for name, value in sums.items()
        if name.startswith(OF_IMAGES)
    }
    pooled = metrics.score(counts)
    # Of each class against the others; no row, for its mean over classes has no name.
    accuracies = exact_sum.mean(sums["accuracy"]), _accuracy(counts)
    return {
        **{name: _mean(per_image[name][1:]) for name in metrics.tracked()},
        "images": int(sums["cases"]),
        "accuracy": {
            "per_image": _mean(exact_sum.mean(sums["right"])),
            "pooled": _mean(divide(counts[:, 2].sum(), counts[:, 0].sum())),
        },
        "per_image": _over_classes(per_image),
        "pooled": _over_classes(pooled),
        "soft_dice_nvidia": {
            "per_image": _mean(exact_sum.mean(sums["soft_dice"].sum(axis=0))),
            "pooled": _mean(soft_dice_nvidia(soft)),
        },
        "classes": {
            name: {
                "images": int(sums["images"][k]),
                "pixels": dict(
                    zip(("truth", "prediction", "both"), counts[k].tolist(), strict=True)
                ),
                "per_image": _of_class(per_image, accuracies[0], k),
                "pooled": _of_class(pooled, accuracies[1], k),
            }
            for k, name in enumerate(classes)
        },
        "metrics": metrics.conventions(per_image, length),
        "tolerance": None if tolerance is None else {"value": tolerance, "unit": length},
    }


def per_case(counts: np.ndarray, measured: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the metrics of each case and class, float64 [N, K] by name, in their rows' order."""
    found = {**metrics.score(counts), **measured}
    return {name: found[name] for name in metrics.METRICS if name in found}


def _of_class(
    values: Mapping[str, np.ndarray], accuracy: np.ndarray, index: int
) -> dict[str, float | None]:
    return {
        **{name: _mean(values[name][index]) for name in values},
        "accuracy": _mean(accuracy[index]),
    }


def _over_classes(values: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | None]]:
    """Averages each score [K] over the foreground, and over all classes."""
    return {
        "foreground": {name: _mean(values[name][1:]) for name in values},
        "all_classes": {name: _mean(values[name]) for name in values},
    }


def _accuracy(counts: np.ndarray) -> np.ndarray:
    """Returns the share of valid pixels [..., K] that are rightly of a class or rightly not.

    Takes counts [..., K, 3] of all classes, whose truth adds up to the valid pixels.
    """
    truth, prediction, both = np.moveaxis(counts, -1, 0)
    valid = truth.sum(axis=-1, keepdims=True)
    return divide(valid - truth - prediction + 2 * both, valid)


def soft_dice_nvidia(soft: np.ndarray) -> np.ndarray:
    """Returns NVIDIA's soft Dice [...] of sums [..., 3].

    It is (2 sum(p y) + e) / (sum(p p) + sum(y y) + e), e = 1e-6: softmax probabilities, squared
    denominator, background a class like the others, 1 for a class that is absent and not predicted.
    """
    both, probability, truth = np.moveaxis(np.asarray(soft, np.float64), -1, 0)
    return (2 * both + NVIDIA_EPSILON) / (probability + truth + NVIDIA_EPSILON)


def mean_over_images(values: np.ndarray) -> np.ndarray:
    """Averages [N, K] over the images in which it is defined: [K], NaN where none is."""
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def _mean(values: np.ndarray) -> float | None:
    """Returns the mean of the defined values as a float, None if there are none."""
    values = np.asarray(values)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def figures_of(scores: Scores) -> dict[str, float]:
    """Returns the figures of an evaluation for metrics.jsonl, without undefined scores.

    A loss of several terms and foreground classes come as `loss/TERM`, `dice/CLASS`, `iou/CLASS`.
    """
    summary, names = scores.summary, list(metrics.tracked())
    found = {name: summary[name] for name in ("loss", *names)}
    if len(summary["loss_parts"]) > 1:
        found.update((f"loss/{name}", part) for name, part in summary["loss_parts"].items())
    for label, entry in list(summary["classes"].items())[1:]:
        found.update((f"{name}/{label}", entry["per_image"][name]) for name in names)
    return {name: value for name, value in found.items() if value is not None}


def table(summary: Mapping[str, Any]) -> str:
    """Returns the scores of each class, and their means, as lines for a terminal.

    Tracked metrics and the others are tables of their own, and of more than fit into a line.
    """
    groups = {
        **{name: (entry, str(entry["images"])) for name, entry in summary["classes"].items()},
        **{name: (entry, "") for name, entry in metrics.means(summary).items()},
    }
    columns, tables = list(metrics.columns(summary)), []
    for is_tracked in (True, False):
        shown = [x for x in columns if metrics.METRICS[x.name].tracked == is_tracked]
        rows = [["class", *(column.head for column in shown), *["images"][:is_tracked]]]
        for name, (entry, images) in groups.items():
            cells = [column.shown(entry) for column in shown]
            rows.append([one_line(name), *cells, *[images][:is_tracked]])
        tables.append("\n".join(text_table.folded(rows, right=range(1, len(rows[0])))))
    return "\n\n".join(tables)
