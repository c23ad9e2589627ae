"""Which configuration is the best, by its Dice of the cases that it did not see, and how surely."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from trainer import config, json_text, text_table
from trainer.checkpointing import run_metadata
from trainer.compare import evaluations, paired
from trainer.data.prepare import splitting
from trainer.errors import one_line
from trainer.evaluate import bootstrap
from trainer.storage import files

METRIC = "dice"
BOOTSTRAP = config.Compare()  # its samples and seed


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best of several configurations.

    Attributes:
        run_dir: of the cross-validation.
        dice: mean over the foreground of each configuration, the best first; None: undefined.
        others: the best less each of the others, over the cases in which both are defined.
        num_cases: of all folds.
        num_groups: of cases that are drawn together.
    """

    run_dir: str
    dice: dict[str, float | None]
    others: dict[str, paired.Difference]
    num_cases: int
    num_groups: int

    @property
    def best(self) -> str:
        """The name of the best."""
        return next(iter(self.dice))


def choose(run_dir: str, dice: Mapping[str, float | None], group_by: str) -> Choice:
    """Returns the configuration with the largest Dice; of equal ones that which is named first.

    Args:
        run_dir: of the cross-validation; each configuration has its evaluation in a folder of it.
        dice: of each configuration, over the cases of all folds.
        group_by: the expression by which cases were dealt to folds in groups; empty: one by one.

    Raises:
        InputError: configurations were not evaluated on the same cases.
    """
    ranked = dict(sorted(dice.items(), key=lambda item: np.inf if item[1] is None else -item[1]))
    best, *others = (
        evaluations.read(os.path.join(run_dir, name), "val", METRIC) for name in ranked
    )
    _, groups = splitting.grouped(best.cases, group_by)
    found = {}
    for name, other in zip(list(ranked)[1:], others, strict=True):
        evaluations.check_comparable(other, best)
        values = other.of_foreground(), best.of_foreground()
        *_, found[name] = paired.compare(*values, groups, BOOTSTRAP.samples, BOOTSTRAP.seed)
    return Choice(run_dir, ranked, found, len(best.cases), int(groups.max()) + 1)


def write(run_dir: str, found: Choice, data_fingerprint: str) -> None:
    """Writes the choice into the folder of a cross-validation, which stands for the best then."""
    content = {
        "best": found.best,
        "metric": METRIC,
        "confidence": bootstrap.CONFIDENCE,
        "samples": BOOTSTRAP.samples,
        "seed": BOOTSTRAP.seed,
        "cases": found.num_cases,
        "groups": found.num_groups,
        "data_fingerprint": data_fingerprint,
        "configurations": {
            name: {
                METRIC: value,
                "best_less_this": dataclasses.asdict(found.others[name])
                if name in found.others
                else None,
            }
            for name, value in found.dice.items()
        },
    }
    path = os.path.join(run_dir, run_metadata.CHOICE)
    files.write_whole(path, json_text.dumps(content, indent=1) + "\n")


def table(found: Choice) -> str:
    """Returns the configurations, the best first, and by how much it is better."""
    heads = [
        "configuration",
        "dice",
        "best - it",
        f"{bootstrap.CONFIDENCE:.0%} interval",
        "the best",
    ]
    rows = [[*heads, "wins", "ties", "losses"]]
    for name, value in found.dice.items():
        cells = [one_line(name), "–" if value is None else f"{value:.4f}"]
        if name in found.others:
            one = found.others[name]
            verdict = {"b": "is better", "a": "is worse", "": "is not told apart"}[one.winner]
            cells += [f"{one.difference:+.4f}", f"{one.low:+.4f} … {one.high:+.4f}", verdict]
            cells += map(str, (one.wins, one.ties, one.losses))
        rows.append([*cells, *[""] * (len(rows[0]) - len(cells))])
    groups = f" in {found.num_groups} groups" if found.num_groups < found.num_cases else ""
    return "\n".join(
        [
            f"Configurations by their mean Dice of {found.num_cases} cases{groups}, and the paired "
            "difference of the best from each:",
            "",
            *text_table.aligned(rows, right=(1, 2, 3, 5, 6, 7)),
            "",
            f"The best is {found.best}: {os.path.join(found.run_dir, found.best)}",
        ]
    )
