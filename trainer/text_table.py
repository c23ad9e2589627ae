"""Rows of text as aligned lines, as commands print them."""

from collections.abc import Collection, Sequence


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
