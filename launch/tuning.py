"""What a hyperparameter tuning job varies, and the metric that it optimises."""

import re
from collections.abc import Sequence
from typing import Any

from launch import settings
from trainer import config
from trainer.config import flags
from trainer.errors import InputError

SCALES = {
    "linear": "UNIT_LINEAR_SCALE",
    "log": "UNIT_LOG_SCALE",
    "reverse_log": "UNIT_REVERSE_LOG_SCALE",
}
ALGORITHMS = {"random": "RANDOM_SEARCH", "grid": "GRID_SEARCH"}  # Vertex AI's own is Bayesian
STOPPING = {"median": "medianAutomatedStoppingSpec", "curve": "decayCurveStoppingSpec"}
GOALS = {"max": "MAXIMIZE", "min": "MINIMIZE"}
SPLITS = ("train", "val", "test")
FORM = "learning_rate:1e-4..1e-2:log,filters:32|64"


def build(asked: settings.Tuning, args: Sequence[str]) -> dict[str, Any]:
    """Returns the study of `--tune` and `--metric`.

    Args:
        asked: the command's settings.
        args: flags of trainer.task that all trials have; each value tried must go with them.

    Raises:
        InputError: for another form, or a value that trainer.task would refuse.
    """
    parameters = [_parameter(asked.tune, entry, args) for entry in asked.tune.split(",")]
    names = [parameter["parameterId"] for parameter in parameters]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--tune={asked.tune} names {name} twice; drop one of them.")
    for parameter in parameters:
        if asked.algorithm == "grid" and "doubleValueSpec" in parameter:
            name = parameter["parameterId"]
            raise InputError(
                f"--algorithm=grid tries every value, and --tune={asked.tune} has a range of "
                f"{name}; write choices, as {name}:0.1|0.2, or use another --algorithm."
            )
    study: dict[str, Any] = {
        "metrics": [_metric(asked.metric)],
        "parameters": parameters,
        # A run keeps its best weights, whatever follows.
        "measurementSelectionType": "BEST_MEASUREMENT",
    }
    if asked.algorithm in ALGORITHMS:
        study["algorithm"] = ALGORITHMS[asked.algorithm]
    if asked.early_stopping in STOPPING:
        study[STOPPING[asked.early_stopping]] = {}
    return study


def _metric(text: str) -> dict[str, str]:
    found = re.fullmatch(rf"(({'|'.join(SPLITS)})/\w+):({'|'.join(GOALS)})", text)
    if found is None:
        raise InputError(
            f"--metric={text} is not a figure and a goal; write val/dice:max or val/loss:min."
        )
    return {"metricId": found[1], "goal": GOALS[found[3]]}


def _parameter(tune: str, entry: str, args: Sequence[str]) -> dict[str, Any]:
    name, _, values = entry.strip().partition(":")
    kinds = _kinds()
    if name not in kinds:
        raise InputError(f"--tune={tune}: --{name} is not a flag of trainer.task.")
    if "|" in values:
        return _choice(tune, name, kinds[name], values.split("|"), args)
    found = re.fullmatch(rf"([^:]+)\.\.([^:]+?)(?::({'|'.join(SCALES)}))?", values)
    if found is None or kinds[name] not in (int, float):
        raise InputError(f"--tune={tune}: {entry!r} has another form than {FORM}.")
    low, high = (_number(tune, name, kinds[name], text, args) for text in found.group(1, 2))
    if low >= high:
        raise InputError(f"--tune={tune}: {low:g} is not below {high:g}; swap them.")
    scale = found[3] or "linear"
    if scale != "linear" and low <= 0:
        raise InputError(f"--tune={tune}: {low:g} has no logarithm; use linear, or begin above 0.")
    # Zeros go without saying in this JSON, and 64-bit integers are strings.
    bounds = {key: bound for key, bound in (("minValue", low), ("maxValue", high)) if bound}
    form = "doubleValueSpec"
    if kinds[name] is int:
        form, bounds = "integerValueSpec", {key: str(bound) for key, bound in bounds.items()}
    return {"parameterId": name, form: bounds, "scaleType": SCALES[scale]}


def _choice(
    tune: str, name: str, kind: type, values: Sequence[str], args: Sequence[str]
) -> dict[str, Any]:
    """Returns a parameter with few values.

    Whole numbers go as words: as numbers they are floating, and may reach the flag as 32.0.
    """
    if kind is float:
        numbers = sorted(_number(tune, name, kind, text, args) for text in values)
        return {"parameterId": name, "discreteValueSpec": {"values": numbers}}
    for text in values:
        _check(tune, name, text, args)
    return {"parameterId": name, "categoricalValueSpec": {"values": list(values)}}


def _number(tune: str, name: str, kind: type, text: str, args: Sequence[str]) -> Any:
    try:
        number = kind(text)
    except ValueError:
        raise InputError(f"--tune={tune}: {text!r} is not a number of --{name}.") from None
    _check(tune, name, text, args)
    return number


def _check(tune: str, name: str, text: str, args: Sequence[str]) -> None:
    """Raises InputError if trainer.task would refuse this value."""
    try:
        flags.parse(config.Job, ["trainer.task", *args, f"--{name}={text}"])
    except InputError as error:
        raise InputError(f"--tune={tune}: {error}") from None


def _kinds() -> dict[str, type]:
    """Returns the flags of trainer.task, name → type of the value."""
    return {field.name: flags.kind(field) for field, _ in flags.fields(config.Job)}
