"""Names and charts of the figures."""

import re

import pytest

from trainer.monitoring import scalars

PARTS = ["dice/a", "dice/b (1)", "iou/a", "iou/b (1)", "loss/cross_entropy", "loss/dice"]


def test_every_chart_shows_one_figure_and_every_figure_is_in_one():
    names = [*scalars.figures(), *PARTS]
    charts = scalars.charts(["a", "b (1)"], ["cross_entropy", "dice"])
    shown = {chart: tag for category in charts.values() for chart, tag in category.items()}
    assert sorted(shown) == sorted(names)
    for chart, tag in shown.items():
        assert [name for name in names if re.match(tag, scalars.tag("val", name))] == [chart]
        assert not re.match(tag, scalars.tag("test", chart))  # one point, which is no curve


def test_a_single_class_or_term_has_no_chart_beside_that_of_the_mean():
    charts = scalars.charts(["a"], ["cross_entropy"])
    assert list(charts) == ["Does it learn?", "Is the optimizer healthy?", "Is it fast?"]
    assert list(charts["Does it learn?"]) == ["loss", "dice", "iou"]


def test_loss_and_scores_come_first_and_speed_is_one_group():
    names = [*scalars.figures(), *PARTS]
    groups = {scalars.tag("val", name).partition("/")[0] for name in names}
    assert sorted(groups) == ["loss", "scores", "speed", "terms_of_loss", "training"]
    for name in ("images_per_second", "goodput", "share_input", "host_memory_gib"):
        assert scalars.tag("train", name) == f"speed/{name}"
    assert scalars.tag("train", "loss/dice") == "terms_of_loss/dice"
    assert scalars.tag("test", "loss") == "test/loss"


def test_a_figure_of_one_class_says_so():
    assert scalars.description("dice/a b").startswith(
        "**a b** alone. 2 both / (truth + prediction)"
    )
    assert scalars.description("host_memory_gib").endswith("Unit: GiB.")


def test_an_unknown_figure_is_a_defect():
    with pytest.raises(KeyError):
        scalars.description("speed")
