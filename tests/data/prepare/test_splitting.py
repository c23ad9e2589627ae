"""Tests of which image goes to which split."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.dataset import schema
from trainer.data.prepare import splitting
from trainer.errors import InputError

NAMES = [f"p{k // 2}_{k}" for k in range(10)]  # p0_0 p0_1 p1_2 … p4_9: five groups of two


def _message(*arguments):
    with pytest.raises(InputError) as error:
        splitting.assign(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def _file(tmp_path, content):
    path = tmp_path / "splits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def _assign(names, *arguments):
    """Returns the names of each split's images."""
    sides, _ = splitting.assign(names, *arguments)
    return {side: [names[place] for place in places] for side, places in sides.items()}


def _draw(names, split="0.7,0.15,0.15", group_by="", seed=0):
    drawn = _assign(names, "", split, group_by, seed)
    return {side: sorted(found) for side, found in drawn.items()}


def _sides(groups, seed=0):
    """Returns the side of each group, and which were moved."""
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    side_of, moved = splitting.draw(groups, shares, seed)
    return {group: list(shares)[k] for group, k in zip(groups, side_of, strict=True)}, moved


def _places(**counts):
    """Returns places of so many images for each side, one after the other."""
    ends = np.cumsum([0, *counts.values()])
    return {side: np.arange(ends[k], ends[k + 1]) for k, side in enumerate(counts)}


def test_the_draw_depends_on_the_seed_and_the_names_alone():
    drawn = _draw(NAMES)
    assert sorted(sum(drawn.values(), [])) == NAMES
    assert _draw(NAMES[::-1]) == drawn
    assert _draw(NAMES, seed=1) != drawn


def test_a_group_is_placed_where_the_rule_in_the_docs_puts_it():
    assert hashlib.sha256(b"0:p0").hexdigest().startswith("c7d9")  # 51161 / 65536 = 0.7807
    groups = ["p0", *(f"q{k}" for k in range(99))]
    assert _sides(groups)[0]["p0"] == "val"


@given(st.sets(st.integers(0, 10**6), min_size=80, max_size=120), st.integers(0, 10**6))
def test_one_image_more_moves_no_other(numbers, added):
    before = _draw([str(number) for number in numbers])
    after = _draw([str(number) for number in numbers | {added}])
    for side, names in before.items():
        assert set(names) <= set(after[side])


def test_shares_are_met_on_average_and_said():
    names, draw = splitting.assign([str(k) for k in range(20_000)], "", "0.7,0.15,0.15", "", 0)
    # Binomial: the standard deviations are 65 and 50.
    assert [len(found) for found in names.values()] == [
        pytest.approx(14_000, abs=260),
        pytest.approx(3_000, abs=200),
        pytest.approx(3_000, abs=200),
    ]
    few = _places(train=3, val=1)
    draw = schema.Draw(splitting.RULE, 4, {"train": 0.7, "val": 0.3}, "", ())
    assert splitting.describe(few, draw) == (
        "Splits drawn by --seed=4, shares on average: train 3 (75% for 70%), val 1 (25% for 30%); "
        "another seed gives another split."
    )


@given(st.sets(st.text(max_size=3), min_size=3, max_size=30), st.integers(0, 99))
def test_no_split_is_empty_where_there_are_groups_for_all(groups, seed):
    side_of, moved = _sides(sorted(groups), seed)
    assert set(side_of.values()) == {"train", "val", "test"}
    assert all(list(side_of.values()).count(side_of[group]) == 1 for group in moved)
    alone = {group: side for group, side in side_of.items() if group not in moved}
    others = _sides([*groups, *(f"more{k}" for k in range(200))], seed)[0]
    assert alone.items() <= others.items()


def test_a_split_that_would_be_empty_takes_the_nearest_group(monkeypatch):
    places = {"a": 0.1, "b": 0.5, "c": 0.69, "d": 0.8}
    monkeypatch.setattr(splitting, "_place", lambda group, seed: places[group])
    side_of, moved = _sides(list(places))
    # d is nearer to 0.85, where test begins, but is all that val has.
    assert side_of == {"a": "train", "b": "train", "c": "test", "d": "val"}
    assert moved == ("c",)


def test_a_group_stays_on_one_side():
    for pattern in ("^p[0-9]+", "^(p[0-9]+)_"):
        drawn = _draw(NAMES, "0.6,0.2,0.2", pattern)
        groups = [{name[:2] for name in names} for names in drawn.values()]
        assert sum(len(group) for group in groups) == 5
        assert min(len(group) for group in groups) >= 1


@given(st.lists(st.integers(0, 6), min_size=20, max_size=60), st.integers(0, 5))
def test_every_image_is_drawn_once_and_no_group_is_torn(groups, seed):
    names = [f"g{group}_{k}" for k, group in enumerate([7, 8, *groups])]
    drawn = _draw(names, "0.5,0.5", "^g[0-9]", seed)
    assert sorted(sum(drawn.values(), [])) == sorted(names)
    assert not {n[:2] for n in drawn["train"]} & {n[:2] for n in drawn["val"]}


def test_how_splits_were_drawn_is_told():
    names, draw = splitting.assign(NAMES, "", "0.8,0.2", "^p[0-9]", 5)
    assert draw == schema.Draw(splitting.RULE, 5, {"train": 0.8, "val": 0.2}, "^p[0-9]", draw.moved)


def test_a_share_of_zero_for_test_leaves_it_out():
    assert list(_draw(NAMES, "0.8,0.2,0")) == ["train", "val"]
    assert list(_draw(NAMES, "0.8,0.2")) == ["train", "val"]


def test_lists_are_taken_as_they_are(tmp_path):
    lists = {"train": ["p0_0"], "val": ["p0_1"], "test": []}
    path = _file(tmp_path, lists)
    assert _assign(NAMES, path, "", "", 0) == {"train": ["p0_0"], "val": ["p0_1"]}
    assert splitting.assign(NAMES, path, "", "", 0)[1] is None


@pytest.mark.parametrize("split", ["0.5", "0.5,0.6", "a,b", "1.2,-0.2", "0.25,0.25,0.25,0.25", ""])
def test_shares_that_do_not_add_up_are_refused(split):
    assert _message(NAMES, "", split, "", 0) == (
        f"--split={split} is not two or three shares that add up to 1, of train, val and test; "
        "write --split=0.7,0.15,0.15."
    )


def test_an_empty_split_is_refused(tmp_path):
    assert _message(NAMES[:2], "", "0.7,0.15,0.15", "", 0) == (
        "--split=0.7,0.15,0.15 leaves the val split empty (2 images in all); give it a larger "
        "share, or more images or groups to choose from."
    )
    assert "leaves the val split empty" in _message(NAMES, "", "1,0,0", "", 0)
    path = _file(tmp_path, {"train": ["p0_0"], "val": []})
    assert f"--splits={path} leaves the val split empty" in _message(NAMES, path, "", "", 0)


def test_group_by_must_be_an_expression_that_matches_every_name():
    assert _message(NAMES, "", "0.8,0.2", "(", 0) == (
        "--group_by=( is not a regular expression: missing ), unterminated subpattern at position "
        "0; for names like patient7_slice3 use --group_by='^([^_]+)'."
    )
    assert _message(NAMES, "", "0.8,0.2", "^p[0-3]", 0) == (
        "--group_by=^p[0-3] does not match 'p4_8'; every image needs a group."
    )


def test_lists_name_an_image_in_either_spelling_of_unicode(tmp_path):
    path = _file(tmp_path, {"train": ["caf\u00e9"], "val": ["cafe\u0301s"]})
    names = _assign(["caf\u00e9", "caf\u00e9s"], path, "", "", 0)
    assert names == {"train": ["caf\u00e9"], "val": ["caf\u00e9s"]}


def test_lists_that_tear_a_group_are_refused(tmp_path):
    path = _file(tmp_path, {"train": ["p0_0", "p1_2"], "val": ["p0_1"]})
    assert _message(NAMES, path, "", "^p[0-9]", 0) == (
        "--splits puts group 'p0' of --group_by in two splits, train and val (p0_1); move its "
        "images to one split, or drop --group_by."
    )


def test_lists_that_make_no_sense_are_refused(tmp_path):
    assert _message(NAMES, "none.json", "", "", 0) == (
        "--splits=none.json does not exist; name a JSON file."
    )
    path = _file(tmp_path, "{")
    assert _message(NAMES, path, "", "", 0).startswith(f"--splits={path} is not JSON: ")
    for content in ([], {"train": "a"}, {"train": [1]}, {"training": ["a"]}):
        _file(tmp_path, content)
        assert _message(NAMES, path, "", "", 0) == (
            f"--splits={path} is not lists of names by split; write "
            '{"train": ["a", …], "val": […], "test": […]}.'
        )
    _file(tmp_path, {"train": ["p0_0.png"], "val": ["p0_1"]})
    assert _message(NAMES, path, "", "", 0) == (
        f"--splits={path} lists 'p0_0.png' in train, but there is no image of that name; list "
        "names as they are below --images, without suffix."
    )
    _file(tmp_path, {"train": ["p0_0"], "val": ["p0_0"]})
    assert _message(NAMES, path, "", "", 0) == (
        f"--splits={path} lists 'p0_0' twice; keep one of them."
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_are_read_in_any_encoding_of_json(tmp_path, encoding):
    path = tmp_path / "splits.json"
    path.write_text('{"train": ["ä"], "val": ["b"]}', encoding=encoding)
    found = _assign(["ä", "b"], str(path), "", "", 0)
    assert found == {"train": ["ä"], "val": ["b"]}


def test_leaks_are_equal_pixels_on_two_sides():
    digests = {0: b"1", 1: b"1", 2: b"2", 3: b"2", 4: b"3"}
    found = splitting.find_leaks(_places(train=3, val=1, test=1), "abcde".__getitem__, digests)
    assert found == (("train/c", "val/d"),)


def test_the_order_depends_on_the_seed_and_not_on_the_lists():
    sides = {"train": np.arange(10), "val": np.arange(10)}

    def shuffled(sides, seed):
        return {side: found.tolist() for side, found in splitting.shuffle(sides, seed).items()}

    found = shuffled(sides, 3)
    assert found == shuffled({side: places[::-1] for side, places in sides.items()}, 3)
    assert found["train"] != found["val"]
    assert sorted(found["train"]) == list(range(10))
    assert found != shuffled(sides, 4)


def test_the_first_fold_is_val_and_the_groups_of_train_are_dealt_to_the_others():
    names, sides = [*NAMES, "v0_0", "v1_1", "t0_0"], _places(train=10, val=2, test=1)

    def divided(sides, seed=0):
        found = splitting.divide(sides, names.__getitem__, 4, "^([^_]+)", seed)
        return {side: [names[k] for k in places] for side, places in found.items()}

    found = divided(sides)
    assert list(found) == ["fold0", "fold1", "fold2", "fold3", "test"]
    assert (found["fold0"], found["test"]) == (["v0_0", "v1_1"], ["t0_0"])
    dealt = [found[f"fold{k}"] for k in (1, 2, 3)]
    assert sorted(sum(dealt, [])) == NAMES
    groups = [{name.partition("_")[0] for name in fold} for fold in dealt]
    assert [len(of_fold) for of_fold in groups] == [2, 2, 1]
    assert sum(map(len, groups)) == len(set.union(*groups))
    again = divided({**sides, "train": sides["train"][::-1]})
    assert {side: sorted(of) for side, of in again.items()} == {
        side: sorted(of) for side, of in found.items()
    }
    assert divided(sides, 1) != found
    assert splitting.divide(sides, names.__getitem__, 0, "", 0) is sides


@pytest.mark.parametrize(
    ("folds", "reason"),
    [
        (1, "--folds=1 leaves nothing to train on; give 2 or more."),
        (
            7,
            "--folds=7 takes the val split and 6 groups of the train split, which has 5; use "
            "--folds=6.",
        ),
    ],
)
def test_folds_that_cannot_be_are_refused(folds, reason):
    with pytest.raises(InputError) as error:
        splitting.divide(_places(train=10, val=1), NAMES.__getitem__, folds, "^([^_]+)", 0)
    assert str(error.value) == reason
