"""Names and charts of the figures."""

import re

import pytest

from trainer.monitoring import scalars


def test_every_chart_shows_figures_that_exist_and_every_figure_is_in_one():
    names = [*scalars.figures(), "dice/a", "iou/a", "loss/cross_entropy"]
    charts = [tag for shown in scalars.charts().values() for tag in shown.values()]
    shown = {tag: [name for name in names if re.match(tag, name)] for tag in charts}
    assert all(shown.values()), shown
    assert set().union(*shown.values()) == set(names)


def test_a_figure_of_one_class_says_so():
    assert scalars.description("dice/a b").startswith(
        "**a b** alone. 2 both / (truth + prediction)"
    )
    assert scalars.description("host_memory_gib").endswith("Unit: GiB.")


def test_an_unknown_figure_is_a_defect():
    with pytest.raises(KeyError):
        scalars.description("speed")
