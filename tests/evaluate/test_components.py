"""Largest components: what is kept, how that is decided, and where it is stored."""

import dataclasses
import json

import numpy as np
import pytest

from tests.evaluations import evaluate, evaluator_of, pointwise_model
from trainer import config
from trainer.errors import InputError
from trainer.evaluate import components, counting, metrics
from trainer.evaluate.components import Decision
from trainer.evaluate.evaluate_run import evaluate_run

IDS = np.array(
    [
        [1, 1, 0, 2, 0],
        [1, 2, 0, 0, 0],
        [0, 0, 0, 1, 1],
    ],
    np.uint8,
)


def test_only_the_largest_component_is_kept_of_the_foreground_then_of_classes():
    foreground = [[1, 1, 0, 0, 0], [1, 2, 0, 0, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(Decision(foreground=True).apply(IDS), foreground)
    # Of class 2 both components have one pixel: the first is kept.
    of_classes = [[1, 1, 0, 2, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(Decision(classes=(1, 2)).apply(IDS), of_classes)
    both = Decision(foreground=True, classes=(1, 2)).apply(IDS)
    np.testing.assert_array_equal(both, foreground)
    assert components.ALL.apply(IDS) is IDS
    nothing = np.zeros((3, 4), np.uint8)
    np.testing.assert_array_equal(Decision(True, (1,)).apply(nothing), nothing)


def test_components_of_volumes_are_connected_by_faces():
    ids = np.zeros((2, 2, 3), np.uint8)
    ids[0, 0, :2] = 1
    ids[1, 0, 1] = 1  # by a face
    ids[1, 1, 2] = 1  # by an edge alone
    found = Decision(classes=(1,)).apply(ids)
    assert found.sum() == 3
    assert found[1, 1, 2] == 0


def test_counts_are_those_of_the_compiled_evaluation():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, (2, 7, 6))
    valid = rng.integers(0, 2, (7, 6)).astype(np.float32)
    logits = np.eye(3, dtype=np.float32)[predicted]
    expected = counting.count_pixels(labels[None], logits[None], valid[None], 3)[0]
    np.testing.assert_array_equal(components.count(labels, predicted, valid, 3), expected)


def counts_of(*cases):
    """Returns counts of cases whose truth of each class has four pixels.

    Args:
        *cases: form → (predicted, of these in truth) of each of two foreground classes.
    """
    forms = [
        [
            [(9, 9, 9), *((4, predicted, both) for predicted, both in case[form])]
            for form in components.FORMS
        ]
        for case in cases
    ]
    return np.array(forms, np.int64)


def case(every, foreground=None, own=None, foreground_own=None):
    foreground = foreground or every
    of = (every, foreground, own or every, foreground_own or foreground)
    return dict(zip(components.FORMS, of, strict=True))


@pytest.mark.parametrize(
    ("cases", "decision"),
    [
        # Dice of both classes is 2 · 4 / (4 + 4) = 1 in place of 8 / 12 or 8 / 9.
        ([case([(8, 4), (5, 4)], [(4, 4), (4, 4)])], Decision(foreground=True)),
        # The mean improves, but class 2 loses a pixel.
        ([case([(8, 4), (4, 4)], [(4, 4), (3, 3)])], components.ALL),
        # Class 1 improves by its own largest component.
        ([case([(8, 4), (4, 4)], None, [(4, 4), (3, 3)])], Decision(classes=(1,))),
        # After the foreground's, class 2 improves further; class 1 did so only before.
        (
            [case([(9, 4), (9, 4)], [(4, 4), (8, 4)], [(4, 4), (9, 4)], [(4, 4), (4, 4)])],
            Decision(True, (2,)),
        ),
        ([case([(4, 4), (4, 4)])], components.ALL),
        ([case([(0, 0), (0, 0)])], components.ALL),
        # One case gains more than the other loses.
        (
            [case([(9, 4), (4, 4)], [(4, 4), (4, 4)]), case([(4, 4), (4, 4)], [(3, 3), (4, 4)])],
            Decision(foreground=True),
        ),
    ],
)
def test_the_decision_follows_the_dice_of_validation_cases(cases, decision):
    assert components.decide(counts_of(*cases)) == decision


def test_a_class_that_no_case_has_decides_nothing():
    counts = counts_of(case([(8, 4), (0, 0)], [(4, 4), (0, 0)]))
    counts[..., 2, :] = 0
    assert components.decide(counts) == Decision(foreground=True)


def test_the_counts_of_a_decision_are_those_of_its_mask():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 3, (2, 9, 8), np.uint8)
    valid = np.ones((9, 8))
    measured = components.measure(labels, predicted, valid, 3)[None]
    for decision in (Decision(True), Decision(True, (2,)), Decision(False, (1,)), components.ALL):
        expected = components.count(labels, decision.apply(predicted), valid, 3)
        np.testing.assert_array_equal(components.after(measured, decision)[0, 1:], expected[1:])


def test_a_decision_is_stored_with_its_reason_and_read_by_names(tmp_path):
    names = ["background", "liver", "spleen"]
    counts = counts_of(case([(8, 4), (4, 4)], None, [(4, 4), (3, 3)]))
    said = components.settle(str(tmp_path), counts, names, split="val", step=3)
    assert said == (
        "Post-processing: only the largest component of liver is kept; validation Dice 0.8333 → "
        f"1.0000. {tmp_path}/postprocessing.json has it for evaluate and predict."
    )
    content = json.loads((tmp_path / "postprocessing.json").read_text())
    assert content == {
        "keep_largest": {"foreground": False, "classes": ["liver"]},
        "decided_on": {"split": "val", "step": 3, "cases": 1},
        "dice": {
            "before": {"liver": pytest.approx(2 / 3), "spleen": 1.0},
            "after": {"liver": 1.0, "spleen": 1.0},
        },
    }
    assert components.read(str(tmp_path), names) == Decision(classes=(1,))
    assert components.read(str(tmp_path / "none"), names) is components.ALL
    for damaged in ("{", "[]", '{"keep_largest": {"foreground": 1, "classes": []}}'):
        (tmp_path / "postprocessing.json").write_text(damaged)
        with pytest.raises(InputError, match="does not say what is kept"):
            components.read(str(tmp_path), names)
    (tmp_path / "postprocessing.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="does not say what is kept"):
        components.read(str(tmp_path), ["background", "lung", "spleen"])


def test_runs_with_other_decisions_keep_all_components_with_a_warning(tmp_path, caplog):
    names = ["background", "a", "b"]
    better = counts_of(case([(8, 4), (4, 4)], None, [(4, 4), (4, 4)]))
    for folder in ("x", "y", "z"):
        (tmp_path / folder).mkdir()
        counts = better if folder != "z" else better[:, :1].repeat(4, axis=1)
        components.settle(str(tmp_path / folder), counts, names)
    x, y, z = (str(tmp_path / folder) for folder in "xyz")
    assert components.of_ensemble([x, y], names) == Decision(classes=(1,))
    assert components.of_ensemble([z], names) == components.ALL
    assert not caplog.messages
    assert components.of_ensemble([x, y, z], names) == components.ALL
    assert "all components are kept" in caplog.text


def test_counts_are_read_as_they_were_written(tmp_path):
    counts = counts_of(case([(8, 4), (4, 3)]), case([(1, 0), (2, 2)]))
    text = components.to_csv(counts, ["a", "two\nlines"], ["background", "x", "y"])
    np.testing.assert_array_equal(components.from_csv(text, "PATH", 3), counts)
    with pytest.raises(InputError, match="PATH is damaged"):
        components.from_csv(text[: len(text) // 2], "PATH", 3)


def test_an_evaluation_compares_what_is_kept_and_nothing_else_changes(data):
    kept, seen = Decision(foreground=True, classes=(1, 2)), []
    raw = evaluate(evaluator_of(data, pointwise_model()), "val", seen.append)
    found = evaluate(evaluator_of(data, pointwise_model(), kept=kept), "val")
    expected = [
        components.count(case.labels, kept.apply(case.predicted), case.valid, 3)
        for case in sorted(seen, key=lambda case: case.index)
    ]
    np.testing.assert_array_equal(found.counts, expected)
    assert (found.counts != raw.counts).any()
    confusions = found.scores.confusions  # of what is kept, too
    for axis, column in ((1, 0), (0, 1)):
        np.testing.assert_array_equal(confusions.sum(axis), found.counts[..., column].sum(0))
    np.testing.assert_array_equal(confusions.diagonal(), found.counts[..., 2].sum(axis=0))
    assert found.summary["loss"] == raw.summary["loss"]
    dice = metrics.score(np.array(expected))["dice"][:, 1:]
    assert found.summary["dice"] == pytest.approx(np.nanmean(dice, axis=0).mean())


@pytest.mark.slow
def test_what_is_kept_is_decided_on_val_and_applied_to_test(finished):
    settings = config.Evaluate(run_dir=str(finished), split="val", components="decide")
    with pytest.raises(InputError, match="decided on validation data alone; use --split=val"):
        evaluate_run(dataclasses.replace(settings, split="test"))
    evaluate_run(settings)
    decision = json.loads((finished / "postprocessing.json").read_text())
    assert decision["decided_on"]["cases"] == 3
    summary = json.loads((finished / "evaluation/val/summary.json").read_text())
    assert summary["components"] == "all"
    measured = components.from_csv((finished / "evaluation/val/components.csv").read_text(), "", 2)
    assert measured.shape == (3, 4, 2, 3)
    decision["keep_largest"] = {"foreground": True, "classes": []}
    (finished / "postprocessing.json").write_text(json.dumps(decision))
    said = {}
    for choice in ("none", "apply"):
        test = config.Evaluate(run_dir=str(finished), components=choice)
        evaluate_run(test)
        path = finished / "evaluation/test/summary.json"
        said[choice] = json.loads(path.read_text())
    assert said["none"]["components"] == "all"
    assert said["apply"]["components"] == "only the largest component of the foreground is kept"
    pixels = [said[choice]["classes"]["class1"]["pixels"]["prediction"] for choice in said]
    assert pixels[1] <= pixels[0]
