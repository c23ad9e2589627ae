"""Text in pictures."""

import numpy as np
import pytest

from trainer.drawing import captions

UNKNOWN = "\U0010ffff"  # no font has it


@pytest.mark.parametrize("text", ["défaut", "Größe", "αβγΩ", "Ядро", "łódź", "5 µm², ≥ 3 …"])
def test_letters_of_many_languages_are_not_the_box_of_a_missing_one(text):
    (box, _), *letters = [captions.font().getmask2(one) for one in (UNKNOWN, *text) if one != " "]
    for letter, _ in letters:
        assert (letter.size, bytes(letter)) != (box.size, bytes(box))


def test_an_accent_beside_its_letter_is_drawn_on_it():
    composed, apart = "d\u00e9faut", "de\u0301faut"  # the latter in names of files from macOS
    first, second = (captions.text_line(text, 90) for text in (composed, apart))
    np.testing.assert_array_equal(first, second)
    legends = [captions.legend_lines(90, [(text, None)]) for text in (composed, apart)]
    np.testing.assert_array_equal(*legends)


def test_a_long_name_keeps_beginning_and_end():
    name = "défaut-" * 30
    assert captions.font().getlength(captions.cut(name, 120)) <= 120
    beginning, _, end = captions.cut(name, 120).partition("…")
    assert name.startswith(beginning)
    assert name.endswith(end)
    assert len(beginning) - len(end) in (0, 1)


def test_a_legend_that_is_too_wide_goes_on_below():
    entries = [(f"class {k}", (250, 10 * k, 0)) for k in range(12)]
    legend = captions.legend_lines(200, entries)
    assert legend.shape[0] % captions.LINE == 0
    found = {tuple(int(v) for v in pixel) for pixel in legend.reshape(-1, 3)}
    assert found >= {colour for _, colour in entries}
    assert (legend[:, -1] == captions.PAPER).all()  # no name is cut by the edge
    for width in (20, 5000):
        assert len(captions.legend_lines(width, entries[:1])) == captions.LINE


def test_the_words_of_a_legend_stay_with_their_colours():
    names = [(f"class {k}", (10, 20, 30 + k)) for k in range(3)]
    ends = ("50%", (250, 1, 1)), ("100%", (1, 250, 1))
    length = captions.font().getlength
    first = captions.GAP + sum(
        length(name) + captions.TEXT + 2 + 2 * captions.GAP for name, _ in names
    )
    width = round(first + length("confidence:50%") + captions.TEXT + 6 * captions.GAP)
    legend = captions.legend_lines(width, [*names, ("confidence:", None), *ends])
    assert len(legend) == 2 * captions.LINE
    for _, colour in ends:
        rows = np.flatnonzero((legend == colour).all(axis=2).any(axis=1))
        assert rows.min() > captions.LINE
