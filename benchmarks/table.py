"""What every benchmark prints: median and spread of each figure, as a table and as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainer import json_text, text_table
from trainer.storage import files


def summarize(samples: Sequence[float]) -> dict[str, float]:
    """Returns median, and first and third quartile."""
    if len(samples) == 1:
        return dict.fromkeys(("median", "q1", "q3"), samples[0])
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3}


def show(title: str, rows: Mapping[str, Mapping[str, Any]], json_path: str = "") -> None:
    """Prints rows of figures, each a number, a summary or None; writes `json_path` if given."""
    names = list(next(iter(rows.values())))
    cells = [["", *names]]
    cells += [[row, *(_text(figures[name]) for name in names)] for row, figures in rows.items()]
    print("\n".join([title, *text_table.aligned(cells, right=range(1, len(names) + 1))]))
    if json_path:
        text = json_text.dumps({"title": title, "rows": rows}, indent=1)
        files.write_whole(json_path, text + "\n")


def _text(figure: Any) -> str:
    if isinstance(figure, Mapping):
        return f"{figure['median']:.3g} ({figure['q1']:.3g}–{figure['q3']:.3g})"
    return "" if figure is None else f"{figure:.3g}"
