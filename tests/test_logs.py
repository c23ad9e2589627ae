"""The code has the words of the lines that docs/logs.md lists for programs that search for them.

Of those in docs/troubleshooting.md, too, which people search for.
"""

import ast
import re

import pytest

from tests.pages import ROOT

PAGE = (ROOT / "docs/logs.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\| `([^`]+)` \|", PAGE, re.M)
TROUBLES = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
LINES += re.findall(r"^\*\*`([^`]*<[^`]+)`", TROUBLES, re.M)  # others are not ours
HOLE = "\0"


def text_of(node):
    """Returns the text of a string in the code, with a hole for each value; "" for other nodes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[.\d]*[a-z]", HOLE, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else HOLE for part in node.values
        )
    return ""


def texts_of_the_code():
    """Returns all strings of the two packages."""
    paths = [path for package in ("trainer", "launch") for path in (ROOT / package).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    return HOLE.join({text_of(node) for tree in trees for node in ast.walk(tree)})


CODE = texts_of_the_code()


def words(line):
    """Returns what is fixed in a line: the parts between its values and its clauses."""
    parts = re.split(r"<[\w ]+>|\[launch\] |[;()] ?", line)
    return [part.strip() for part in parts if re.search(r"\w", part)]


def test_the_fixed_words_of_a_line_are_what_is_between_its_values():
    assert words("[launch] Step <step> of <run_dir>; worker <index> stops.") == [
        *("Step", "of", "worker", "stops.")
    ]


@pytest.mark.parametrize("line", LINES)
def test_the_code_has_the_words_of_each_line(line):
    assert [part for part in words(line) if part not in CODE] == []
