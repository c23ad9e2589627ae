"""The page: one HTML file with all that it shows in it."""

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import json_text
from trainer.report import curves
from trainer.report.runs import Run
from trainer.watch.figures import FIGURES, unit_of

# Okabe and Ito's colours, in an order that begins with the most distinct on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

# By which a page is known: now, and before it named its generator.
MARKS = ('content="trainer.report"', "Thick: val. Thin: train.")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 1340px;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .8rem;
  white-space: nowrap; }
th { text-align: left; border-bottom: 2px solid #999; font-weight: 600; }
td { border-bottom: 1px solid #e4e4e4; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } .mark { font-size: 1.2em; }
.curves { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); }
svg text { font: 11px system-ui, sans-serif; fill: #555; } svg .title { font-size: 13px;
  font-weight: 600; fill: #222; } svg .up { text-anchor: end; } svg .across { text-anchor: middle; }
svg .grid { stroke: #e4e4e4; fill: none; } svg polyline { fill: none; stroke-width: 2; }
svg .thin { stroke-width: 1; opacity: .7; } svg .lead { stroke-width: .7; opacity: .6; }
svg .name { fill: #222; }
figure { margin: 1rem 0; } figure img { max-width: 100%; display: block; }
figcaption, .note { color: #666; font-size: .9em; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; } summary { cursor: pointer; }
"""


def draw(runs: Sequence[Run]) -> str:
    """Returns the page of some runs."""
    title = runs[0].folder if len(runs) == 1 else f"{len(runs)} runs"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta name="generator" {MARKS[0]}>',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{html.escape(title)}</h1>",
            _runs(runs),
            "<h2>Curves</h2>",
            '<p class="note">Thick: val. Thin: train. Point at a line for its last figure.</p>',
            f'<div class="curves">{"".join(_curves(runs))}</div>',
            *(_details(run, colour) for run, colour in zip(runs, _colours(runs), strict=True)),
            "</body></html>",
        ]
    )


def _runs(runs: Sequence[Run]) -> str:
    """Returns the table of runs, with the settings in which they differ."""
    settings = [run.passport["settings"] for run in runs]
    names = [name for name in settings[0] if any(name in entry for entry in settings)]
    differing = [
        name
        for name in names
        if name != "run_dir" and len({json_text.dumps(entry.get(name)) for entry in settings}) > 1
    ]
    rows = [_row(run) for run in runs]
    heads = ["", "run", *rows[0], *differing]
    cells = [
        [f'<span class="mark" style="color:{colour}">●</span>', html.escape(run.folder)]
        + [html.escape(value) for value in row.values()]
        + [html.escape(_shown(entry.get(name))) for name in differing]
        for run, row, entry, colour in zip(runs, rows, settings, _colours(runs), strict=True)
    ]
    return _table(heads, cells)


def _row(run: Run) -> dict[str, str]:
    dice = run.curve("val", "dice")
    best = max(dice, key=lambda point: point[1], default=None)
    speed = [value for _, value in run.curve("train", "images_per_second")][1:]  # after compiling
    loss = run.curve("train", "loss")
    step = loss[-1][0] if loss else 0
    return {
        "state": run.passport["exit_reason"] or "not ended",
        "step": f"{step:g} of {run.passport['total_steps']}",
        "best val Dice": f"{best[1]:.4f} at step {best[0]:g}" if best else "–",
        "evaluated": run.split or "–",
        "Dice": _score(run.summary.get("dice")),
        "IoU": _score(run.summary.get("iou")),
        "images/s": f"{sum(speed) / len(speed):.1f}" if speed else "–",
        "devices": f"{run.passport['num_replicas']} × {run.passport['precision']}",
    }


def _curves(runs: Sequence[Run]) -> list[str]:
    """Returns a chart of each figure that a run has, in the order of `figures.FIGURES`."""
    names = [name for run in runs for line in run.lines for name in line]
    parts = sorted({name for name in names if "/" in name})
    wholes = [name for name in FIGURES if name in names]
    charts = []
    for name in [part for whole in wholes for part in (whole, *_of(whole, parts))]:
        lines = {}
        for split, thin in (("val", False), ("train", True)):
            for place, (run, short) in enumerate(zip(runs, _short_names(runs), strict=True)):
                line = curves.Line(run.curve(split, name), _colours(runs)[place], thin)
                dashes = curves.DASHES[place // len(COLOURS) % len(curves.DASHES)]
                lines[f"{short} {split}".strip()] = line._replace(dashes=dashes)
        unit = unit_of(name)
        charts.append(curves.draw(f"{name}, {unit}" if unit else name, lines))
    return charts


def _short_names(runs: Sequence[Run]) -> list[str]:
    """Returns what tells the runs apart: the ends of their folders' names; of one run nothing."""
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


def _details(run: Run, colour: str) -> str:
    """Returns the section of one run."""
    parts = [f'<h2><span style="color:{colour}">●</span> {html.escape(run.folder)}</h2>']
    if run.summary:
        parts.append(f"<h3>Scores on {run.split}, {run.summary['images']} images</h3>")
        parts.append(_scores(run.summary))
    for kind, pictures in run.pictures.items():
        if pictures:
            parts.append(f"<h3>The {kind} cases</h3>")
        parts += [_picture(name, png) for name, png in pictures]
    command = shlex.join(run.passport["command"])
    parts.append(f"<h3>Command</h3><pre>{html.escape(command)}</pre>")
    passport = html.escape(json_text.dumps(run.passport, indent=1, ensure_ascii=False))
    parts.append(f"<details><summary>Passport (run.json)</summary><pre>{passport}</pre></details>")
    return "\n".join(parts)


def _scores(summary: Mapping[str, Any]) -> str:
    heads = ["class", "Dice, per image", "IoU, per image", "Dice, pooled", "precision", "recall"]
    rows = [
        [html.escape(name)]
        + [_score(entry["per_image"][score]) for score in ("dice", "iou")]
        + [_score(entry["pooled"][score]) for score in ("dice", "precision", "recall")]
        for name, entry in summary["classes"].items()
    ]
    return _table(heads, rows)


def _picture(name: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    name = html.escape(name)
    return (
        f'<figure><img alt="{name}" loading="lazy" src="data:image/png;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table of cells that are HTML already."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _colours(runs: Sequence[Run]) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(len(runs))]
