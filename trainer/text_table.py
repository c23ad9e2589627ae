"""Rows of text as aligned lines, as commands print them."""

from collections.abc import Collection, Sequence

WIDTH = 80  # columns of a terminal that is not wide


def folded(
    rows: Sequence[Sequence[str]], right: Collection[int], first: int = 1, width: int = WIDTH
) -> list[str]:
    """Returns rows as lines; columns that do not fit are tables of their own below an empty line.

    Args:
        rows: the cells, as many in each row.
        right: the columns that are set to the right.
        first: columns with which each table begins.
        width: of a line; one with a single column after the first ones may be wider.
    """
    every, lines = range(len(rows[0])), list[str]()
    others = list(every[first:])
    while others:
        for count in range(len(others), 0, -1):
            taken = [*every[:first], *others[:count]]
            places = [place for place, column in enumerate(taken) if column in right]
            table = aligned([[row[column] for column in taken] for row in rows], places)
            if max(map(len, table)) <= width:
                break
        lines += ["", *table] if lines else table
        del others[:count]
    return lines


def aligned(
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    gap: str = "  ",
    ruled: bool = False,
) -> list[str]:
    """Returns rows as lines with equally wide columns.

    Args:
        rows: the cells, as many in each row.
        right: the columns that are set to the right, such as numbers.
        gap: the text between columns.
        ruled: whether a line is drawn below the first row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        gap.join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if ruled:
        lines.insert(1, gap.join("─" * width for width in widths))
    return lines
