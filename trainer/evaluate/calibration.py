"""Calibration: a temperature that divides the logits of a run, fitted on validation data.

It is the one of the least log loss over all valid pixels (Guo et al., 2017, "On calibration of
modern neural networks"), which is convex in the temperature's inverse. One pass sums the loss'
derivatives at INVERSES, however large the data are. A temperature changes no class: the largest
logit stays the largest, and one logit keeps its sign.
"""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from scipy import interpolate

from trainer import json_text
from trainer.errors import InputError
from trainer.evaluate.metrics import divide
from trainer.storage import files

NAME = "calibration.json"  # in the folder of a run
INVERSES = 2.0 ** (np.arange(-12, 13) / 4)  # of temperatures from 8 to 1/8
CONFIDENCE_BINS = 15  # of confidences, for the calibration error, as in Guo et al. (2017)
CONFIDENCE_UNITS = 2**20  # in which confidences are summed: integers add up exactly
AGAIN = "trainer.evaluate --split=val --calibration=decide"


def fit(slopes: np.ndarray) -> float | None:
    """Returns the temperature of the least log loss.

    Between two of INVERSES, the first derivative is the cubic that has its values and slopes.

    Args:
        slopes: float64 [len(INVERSES), 2], see `counting.loss_slopes`.

    Returns:
        The nearest in the range, with a warning, if it is beyond; None, with a warning, if the loss
        does not depend on the temperature, or is not finite.
    """
    first, second = slopes.T
    if not (np.isfinite(slopes).all() and second.any()):
        logging.warning(
            "Warning: no temperature is stored: the log loss of the split does not depend on one. "
            "No pixel counts, or the logits are constant or not finite; train further."
        )
        return None
    if first[0] >= 0 or first[-1] <= 0:
        inverse = float(INVERSES[0] if first[0] >= 0 else INVERSES[-1])
        logging.warning(
            "Warning: the log loss is least beyond the temperatures from %g to %g, and %g is "
            "taken; the split may be too easy, too small, or unlike what was trained on.",
            1 / INVERSES[-1],
            1 / INVERSES[0],
            1 / inverse,
        )
        return 1 / inverse
    at = int(np.flatnonzero(first < 0)[-1])  # the last one before the least
    ends = slice(at, at + 2)
    cubic = interpolate.CubicHermiteSpline(INVERSES[ends], first[ends], second[ends])
    roots = [*cubic.roots(extrapolate=False), INVERSES[at + 1]]  # rounding may miss one at its end
    return float(1 / roots[0])


def settle(folder: str, weights: str, facts: Mapping[str, Any]) -> str:
    """Writes calibration.json into the folder of a run; returns a line that says so.

    Args:
        folder: of the run.
        weights: sha256 of those that it was fitted to.
        facts: what `summarize` returned, and what the split was.
    """
    path = os.path.join(folder, NAME)
    files.write_whole(path, json_text.dumps({**facts, "weights": weights}, indent=1) + "\n")
    return (
        f"Calibration: the temperature {facts['temperature']:.4g} has the least log loss. {path} "
        "has it for evaluate, predict and export."
    )


def read(folder: str, weights: str, tta: str = "none") -> float | None:
    """Returns the temperature of a run; None if none was fitted.

    One of other weights is not taken, with a warning; one of other --tta is, with a warning.

    Args:
        folder: of the run.
        weights: sha256 of its best ones.
        tta: by which it predicts.

    Raises:
        InputError: the file is damaged.
    """
    path = os.path.join(folder, NAME)
    if not files.exists(path):
        return None
    try:
        content = json.loads(files.read_text(path))
        temperature, fitted = float(content["temperature"]), content["weights"]
        turned = content["tta"]
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature {temperature}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not say a temperature ({error}); fit it again by {AGAIN}, or remove it."
        ) from None
    if fitted != weights:
        logging.warning(
            "Warning: %s is of other weights than the run's best ones, and is not used; fit it "
            "again by %s, or remove it.",
            path,
            AGAIN,
        )
        return None
    if turned != tta:
        logging.warning(
            "Warning: %s was fitted with --tta=%s and is used with --tta=%s; %s with this --tta "
            "would fit it.",
            path,
            turned,
            tta,
            AGAIN,
        )
    return temperature


def expected_calibration_error(reliability):
    """Returns how far confidence and accuracy are apart in a bin, on average over the pixels.

    (Naeini et al., 2015; Guo et al., 2017: bins of equal width, of what is predicted.)

    Args:
        reliability: integers [CONFIDENCE_BINS, 3], see `counting.count_reliability`.

    Returns:
        float in [0, 1]; NaN of no pixels.
    """
    pixels, right, shares = np.asarray(reliability, np.int64).T
    apart = np.abs(right - shares / CONFIDENCE_UNITS).sum()
    return float(divide(apart, pixels.sum()))


def summarize(reliability: np.ndarray, temperature: float | None) -> dict[str, Any]:
    """Returns the expected calibration error for JSON; None where there is none.

    Args:
        reliability: int64 [1 or 2, CONFIDENCE_BINS, 3], see `counting.count_reliability`: of the
            network's own logits, and of those divided by the temperature.
        temperature: of the second one.
    """
    found = [expected_calibration_error(one) for one in reliability]
    before, after = (None if math.isnan(one) else one for one in (*found, math.nan)[:2])
    return {
        "expected_calibration_error": {"before": before, "after": after},
        "temperature": temperature,
        "bins": CONFIDENCE_BINS,
    }


def of_ensemble(summary: Mapping[str, Any], temperatures: list[float]) -> dict[str, Any]:
    """Returns the summary of networks that were calibrated before their mean was taken."""
    errors = {"before": None, "after": summary["expected_calibration_error"]["before"]}
    return {**summary, "expected_calibration_error": errors, "temperature": temperatures}


def described(summary: Mapping[str, Any]) -> str:
    """Returns a summary as a line."""
    found, said = summary["temperature"], []
    for name, error in summary["expected_calibration_error"].items():
        if error is not None:
            with_it = f" with the temperature {_shown(found)}" if name == "after" else ""
            said.append(f"{error:.4f}{with_it}")
    return f"Expected calibration error: {', '.join(said) or '–'}"


def _shown(temperature: float | list[float]) -> str:
    several = temperature if isinstance(temperature, list) else [temperature]
    return " / ".join(f"{one:.4g}" for one in several)
