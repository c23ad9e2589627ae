"""The page: one HTML file with all that it shows in it, from the template beside this module."""

import base64
import datetime
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

from trainer import json_text
from trainer.evaluate import metrics
from trainer.monitoring import scalars
from trainer.report import curves, evaluation, templates
from trainer.report.runs import Run

# Okabe and Ito's colours, in an order that begins with the most distinct on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

# Figures whose curves are open; the others are folded.
FIRST = ("loss", "dice", "iou", "learning_rate", "gradient_norm", "images_per_second")
MOST_CLASSES = 30  # of a table of confusions

# By which a page is known: now, and before it named its generator.
MARKS = ('content="trainer.report"', "Thick: val. Thin: train.")


def draw(runs: Sequence[Run]) -> str:
    """Returns the page of some runs."""
    heads, rows = _runs(runs)
    charts = _curves(runs)
    return templates.render(
        "page.html",
        title=runs[0].folder if len(runs) == 1 else f"{len(runs)} runs",
        heads=heads,
        rows=rows,
        first_curves=[chart for name, chart in charts.items() if name in FIRST],
        more_curves=[chart for name, chart in charts.items() if name not in FIRST],
        runs=[_details(run, colour) for run, colour in zip(runs, _colours(runs), strict=True)],
    )


def _runs(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Returns heads and rows of the table of runs, with the settings in which they differ."""
    settings = [run.metadata["settings"] for run in runs]
    names = [name for name in settings[0] if any(name in entry for entry in settings)]
    differing = [
        name
        for name in names
        if name != "run_dir" and len({json_text.dumps(entry.get(name)) for entry in settings}) > 1
    ]
    mark = markupsafe.Markup('<span class="mark" style="color:{}">●</span>')
    rows = [_row(run) for run in runs]
    cells = [
        [mark.format(colour), run.folder, *row.values()]
        + [_shown(entry.get(name)) for name in differing]
        for run, row, entry, colour in zip(runs, rows, settings, _colours(runs), strict=True)
    ]
    return ["", "run", *rows[0], *differing], cells


def _row(run: Run) -> dict[str, str]:
    """Returns a run's cells of the table of runs."""
    evaluated = {
        "evaluated": run.split or "–",
        **{
            metric.title: _score(run.summary.get(name), metric.form)
            for name, metric in metrics.tracked().items()
        },
    }
    return {**_of_training(run), **evaluated}


def _of_training(run: Run) -> dict[str, str]:
    dice = run.curve("val", "dice")
    best = max(dice, key=lambda point: point[1], default=None)
    speed = [value for _, value in run.curve("train", "images_per_second")][1:]  # after compiling
    loss = run.curve("train", "loss")
    step = loss[-1][0] if loss else 0
    return {
        "state": run.metadata["exit_reason"] or "not ended",
        "step": f"{step:g} of {run.metadata['total_steps']}",
        "best val Dice": f"{best[1]:.4f} at step {best[0]:g}" if best else "–",
        "images/s": f"{sum(speed) / len(speed):.1f}" if speed else "–",
        "devices": f"{run.metadata['num_replicas']} × {run.metadata['precision']}",
    }


def _curves(runs: Sequence[Run]) -> dict[str, markupsafe.Markup]:
    """Returns a chart of each figure that a run has, by name, in the order of `scalars.figures`."""
    names = [name for run in runs for line in run.lines for name in line]
    parts = sorted({name for name in names if "/" in name})
    wholes = [name for name in scalars.figures() if name in names]
    charts = {}
    for name in [part for whole in wholes for part in (whole, *_of(whole, parts))]:
        lines = {}
        for split, thin in (("val", False), ("train", True)):
            for place, (run, short) in enumerate(zip(runs, _short_names(runs), strict=True)):
                line = curves.Line(run.curve(split, name), _colours(runs)[place], thin)
                dashes = curves.DASHES[place // len(COLOURS) % len(curves.DASHES)]
                lines[f"{short} {split}".strip()] = line._replace(dashes=dashes)
        unit = scalars.unit_of(name)
        charts[name] = curves.draw(f"{name}, {unit}" if unit else name, lines)
    return charts


def _short_names(runs: Sequence[Run]) -> list[str]:
    """Returns names that distinguish the runs: the ends of their folders' names; "" for one run."""
    if len(runs) == 1:
        return [""]
    parts = [run.folder.split("/") for run in runs]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(part) for part in parts]


def _of(whole: str, parts: Sequence[str]) -> list[str]:
    """Returns the names of the parts of a figure; a single one is the whole."""
    found = [part for part in parts if part.startswith(f"{whole}/")]
    return found if len(found) > 1 else []


def _details(run: Run, colour: str) -> dict[str, Any]:
    """Returns what the section of one run says."""
    return {
        "colour": colour,
        "folder": run.folder,
        "headline": headline(run),
        "facts": {**_of_training(run), **_facts(run.metadata)},
        "split": run.split,
        "images": run.summary.get("images"),
        "scores": scores(run.summary, run.cases) if run.summary else None,
        "cases": run.cases,
        "bars": _bars(run.cases.histogram()) if run.cases else [],
        "is_few": run.cases is not None and len(run.cases.dice) < evaluation.FEW,
        "confusions": confusions(run),
        "pictures": {
            kind: [(name, base64.b64encode(png).decode()) for name, png in pictures]
            for kind, pictures in run.pictures.items()
        },
        "command": shlex.join(run.metadata["command"]),
        "metadata": json_text.dumps(run.metadata, indent=1, ensure_ascii=False),
    }


def headline(run: Run) -> str:
    """Returns the Dice of an evaluation in words, with its interval."""
    if not run.split:
        return "Not evaluated yet."
    words = f"{run.split} Dice {_score(run.summary.get('dice'), '.4f')}"
    if run.cases is None:
        return words
    number, interval = len(run.cases.dice), _interval(*run.cases.intervals[-1])
    if number == 1:
        return f"{words} (of one case, so without an interval)"
    return f"{words} (95 % interval over {number} cases: {interval})"


def _facts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Returns when a run was trained, of what and with what, by name, as far as run.json says."""
    started, ended = (_time(metadata.get(name)) for name in ("started", "ended"))
    # A run that resumed has the times of its last process, and the seconds of all.
    times = {"started": started, "ended": ended}
    found = {name: time and f"{time:%Y-%m-%d %H:%M} UTC" for name, time in times.items()}
    if isinstance(seconds := metadata.get("seconds"), int | float):
        found["trained for"] = _duration(seconds)
    if isinstance(number := metadata.get("parameters"), int):
        found["parameters"] = f"{number:,}"
    data = metadata.get("data") or {}
    images = data.get("images") or {}
    counts = ", ".join(f"{count} {split}" for split, count in images.items())
    found["data"] = f"{metadata['settings'].get('data_dir') or 'demo'}{counts and f': {counts}'}"
    versions = metadata.get("versions") or {}
    found["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {name: text for name, text in found.items() if text}


def _time(text: Any) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def scores(
    summary: Mapping[str, Any], cases: evaluation.Cases | None = None
) -> dict[str, Sequence[Any]]:
    """Returns heads and rows of the table of classes and their means, with intervals if known."""
    columns = list(metrics.columns(summary))
    heads = ["class", *(column.head for column in columns)]
    means = metrics.means(summary)
    rows = [
        [name, *(column.shown(entry) for column in columns)]
        for name, entry in (*summary["classes"].items(), *means.items())
    ]
    if cases is not None:
        named = (*cases.classes, next(iter(means)))
        of_name = zip(named, cases.intervals, strict=True)
        intervals = {name: _interval(*interval) for name, interval in of_name}
        heads.insert(2, "95 % interval")
        for row in rows:
            row.insert(2, intervals.get(row[0], "–"))
    return {"heads": heads, "rows": rows}


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{low:.3f} – {high:.3f}"


def _bars(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the bars of a histogram over 0 … 1: where each begins, its count and its height."""
    highest = max(1, *counts)
    return [
        {"low": n / len(counts), "high": (n + 1) / len(counts), "count": count, "of": highest}
        for n, count in enumerate(counts)
    ]


def confusions(run: Run) -> dict[str, Any] | None:
    """Returns the table of confusions: of each true class the share that each prediction has."""
    if run.confusions is None:
        return None
    names = list(run.summary["classes"])[:MOST_CLASSES]
    counts = run.confusions[: len(names), : len(names)]
    totals = run.confusions.sum(axis=1)[: len(names)]
    rows = [
        [(int(count), count / total if total else None) for count in row]
        for row, total in zip(counts.tolist(), totals.tolist(), strict=True)
    ]
    return {"names": names, "rows": rows, "left_out": len(run.confusions) - len(names)}


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _score(value: Any, form: str) -> str:
    return f"{value:{form}}" if isinstance(value, int | float) else _shown(value)


def _colours(runs: Sequence[Run]) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(runs))]
