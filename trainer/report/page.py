"""The page: one HTML file with all that it shows in it, from the template beside this module."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

from trainer import json_text
from trainer.evaluate import metrics
from trainer.monitoring import scalars
from trainer.report import curves, templates
from trainer.report.runs import Run

# Okabe and Ito's colours, in an order that begins with the most distinct on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

# By which a page is known: now, and before it named its generator.
MARKS = ('content="trainer.report"', "Thick: val. Thin: train.")


def draw(runs: Sequence[Run]) -> str:
    """Returns the page of some runs."""
    heads, rows = _runs(runs)
    return templates.render(
        "page.html",
        title=runs[0].folder if len(runs) == 1 else f"{len(runs)} runs",
        heads=heads,
        rows=rows,
        curves=_curves(runs),
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
    dice = run.curve("val", "dice")
    best = max(dice, key=lambda point: point[1], default=None)
    speed = [value for _, value in run.curve("train", "images_per_second")][1:]  # after compiling
    loss = run.curve("train", "loss")
    step = loss[-1][0] if loss else 0
    return {
        "state": run.metadata["exit_reason"] or "not ended",
        "step": f"{step:g} of {run.metadata['total_steps']}",
        "best val Dice": f"{best[1]:.4f} at step {best[0]:g}" if best else "–",
        "evaluated": run.split or "–",
        **{
            metric.title: _score(run.summary.get(name), metric.form)
            for name, metric in metrics.tracked().items()
        },
        "images/s": f"{sum(speed) / len(speed):.1f}" if speed else "–",
        "devices": f"{run.metadata['num_replicas']} × {run.metadata['precision']}",
    }


def _curves(runs: Sequence[Run]) -> list[markupsafe.Markup]:
    """Returns a chart of each figure that a run has, in the order of `scalars.figures`."""
    names = [name for run in runs for line in run.lines for name in line]
    parts = sorted({name for name in names if "/" in name})
    wholes = [name for name in scalars.figures() if name in names]
    charts = []
    for name in [part for whole in wholes for part in (whole, *_of(whole, parts))]:
        lines = {}
        for split, thin in (("val", False), ("train", True)):
            for place, (run, short) in enumerate(zip(runs, _short_names(runs), strict=True)):
                line = curves.Line(run.curve(split, name), _colours(runs)[place], thin)
                dashes = curves.DASHES[place // len(COLOURS) % len(curves.DASHES)]
                lines[f"{short} {split}".strip()] = line._replace(dashes=dashes)
        unit = scalars.unit_of(name)
        charts.append(curves.draw(f"{name}, {unit}" if unit else name, lines))
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
        "split": run.split,
        "images": run.summary.get("images"),
        "scores": _scores(run.summary) if run.summary else None,
        "pictures": {
            kind: [(name, base64.b64encode(png).decode()) for name, png in pictures]
            for kind, pictures in run.pictures.items()
        },
        "command": shlex.join(run.metadata["command"]),
        "metadata": json_text.dumps(run.metadata, indent=1, ensure_ascii=False),
    }


def _scores(summary: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Returns heads and rows of the table of classes."""
    classes = summary["classes"]
    columns = list(metrics.columns(summary))
    rows = [[name, *(column.shown(entry) for column in columns)] for name, entry in classes.items()]
    return {"heads": ["class", *(column.head for column in columns)], "rows": rows}


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _score(value: Any, form: str) -> str:
    return f"{value:{form}}" if isinstance(value, int | float) else _shown(value)


def _colours(runs: Sequence[Run]) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(runs))]
