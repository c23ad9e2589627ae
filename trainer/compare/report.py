"""What a comparison says: a table for people, figures for programs."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from trainer import config, text_table
from trainer.compare.evaluations import Evaluation
from trainer.compare.paired import Difference
from trainer.errors import one_line
from trainer.evaluate import metrics
from trainer.evaluate.bootstrap import CONFIDENCE

MEAN = "mean, foreground"


def table(
    a: Evaluation,
    b: Evaluation,
    found: Sequence[Difference],
    num_groups: int,
    settings: config.Compare,
) -> str:
    """Returns the lines for a terminal."""
    form = metrics.METRICS[settings.metric].form if settings.metric in metrics.METRICS else ".4f"
    form = form.lstrip("+")
    heads = ["class", "A", "B", "B - A", f"{CONFIDENCE:.0%} interval", "better"]
    rows, counts = [heads], [["class", "B wins", "ties", "losses"]]
    for name, one in zip(_names(a), _shown(found), strict=True):
        one = _in_units(one, a.better)
        is_known = not math.isnan(one.low)
        interval = f"{one.low:+{form}} … {one.high:+{form}}" if is_known else "–"
        figures = [f"{one.mean_a:{form}}", f"{one.mean_b:{form}}", f"{one.difference:+{form}}"]
        verdict = one.winner.upper() or "not told apart"
        rows.append([one_line(name), *figures, interval, verdict])
        counts.append([one_line(name), *map(str, (one.wins, one.ties, one.losses))])
    return "\n".join(
        [
            f"A: {a.folder}",
            f"B: {b.folder}",
            _what(a, num_groups, settings),
            "",
            *text_table.folded(rows, right=range(1, 5)),
            "",
            *text_table.aligned(counts, right=range(1, 4)),
            "",
            *_said(a, found),
        ]
    )


def as_dict(
    a: Evaluation,
    b: Evaluation,
    found: Sequence[Difference],
    num_groups: int,
    settings: config.Compare,
) -> dict[str, Any]:
    """Returns what --json writes."""
    entries = {
        name: {
            **dataclasses.asdict(_in_units(one, a.better)),
            "excludes_0": bool(one.winner),
        }
        for name, one in zip([*a.classes[1:], MEAN], found, strict=True)
    }
    return {
        "a": a.folder,
        "b": b.folder,
        "split": a.split,
        "metric": settings.metric,
        "convention": a.convention,
        "confidence": CONFIDENCE,
        "samples": settings.samples,
        "seed": settings.seed,
        "cases": len(a.cases),
        "groups": num_groups,
        "classes": {name: entries[name] for name in a.classes[1:]},
        "foreground": entries[MEAN],
    }


def _names(a: Evaluation) -> list[str]:
    names = list(a.classes[1:])
    return [*names, MEAN] if len(names) > 1 else names


def _shown(found: Sequence[Difference]) -> Sequence[Difference]:
    """Returns the differences of the table: one class has no mean over classes."""
    return found if len(found) > 2 else found[:1]


def _in_units(one: Difference, better: str) -> Difference:
    """Returns a difference with the metric's own signs, in place of those by which larger wins."""
    if better == "higher":
        return one
    return dataclasses.replace(
        one,
        mean_a=-one.mean_a,
        mean_b=-one.mean_b,
        difference=-one.difference,
        low=-one.high,
        high=-one.low,
    )


def _what(a: Evaluation, num_groups: int, settings: config.Compare) -> str:
    cases = f"{len(a.cases)} cases"
    if settings.group_by:
        cases += f" in {num_groups} groups"
    value = f"{settings.metric} ({a.better} is better)"
    if a.better == "near 0":
        value = f"the absolute value of {settings.metric} (lower is better)"
    return (
        f"{value} on {a.split}, {cases}; percentile bootstrap, {settings.samples} samples, "
        f"seed {settings.seed}."
    )


def _said(a: Evaluation, found: Sequence[Difference]) -> Iterator[str]:
    """Yields what follows from the last row, and which pairs it does not hold."""
    one = found[-1]
    if one.winner:
        yield f"{one.winner.upper()} is better: the interval of the difference does not hold 0."
    elif math.isnan(one.low):
        yield "A and B are not told apart: an interval takes two cases, or groups, that both have."
    else:
        yield "A and B are not told apart: the interval of the difference holds 0."
    if one.only_a or one.only_b:
        yield (
            f"Not compared: {one.only_a} values that only A has and {one.only_b} that only B has; "
            f"the metric is {a.convention['absent']}."
        )
