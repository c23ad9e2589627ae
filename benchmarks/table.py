"""What every benchmark prints: median and spread of each figure, as a table and as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import json_text
from trainer.storage import files


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Returns median, and first and third quartile."""
    if len(samples) == 1:
        return dict.fromkeys(("median", "q1", "q3"), samples[0])
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def show(title: str, rows: Mapping[str, Mapping[str, Any]], json_path: str = "") -> None:
    """Prints rows of figures, each a number or a summary; writes them to `json_path` if given."""
    names = list(next(iter(rows.values())))
    cells = [["", *names]]
    cells += [[row, *(_text(figures[name]) for name in names)] for row, figures in rows.items()]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names) + 1)]
    print(title)
    for first, *rest in cells:
        columns = zip(rest, widths[1:], strict=True)
        print("  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in columns)]))
    if json_path:
        text = json_text.dumps({"title": title, "rows": rows}, indent=1)
        files.write_whole(json_path, text + "\n")


def _text(figure: Any) -> str:
    if isinstance(figure, Mapping):
        return f"{figure['median']:.3g} ({figure['q1']:.3g}–{figure['q3']:.3g})"
    return f"{figure:.3g}"
