"""Folds: what trains and what validates."""

import dataclasses

import numpy as np
import pytest

from tests.data.dataset.test_schema import MANIFEST
from trainer.data.dataset import folds, schema
from trainer.errors import InputError


def split(name, shards, values, sizes=None):
    """Returns a split of shards (examples, foreground), whose pixels have these values."""
    listed = tuple(
        schema.Shard(f"{name}-{k}", examples, 9, "00", foreground)
        for k, (examples, foreground) in enumerate(shards)
    )
    total = sum(examples for examples, _ in shards)
    return schema.Split(
        examples=total,
        shards=listed,
        cases=tuple(f"{name}{n}" for n in range(total)),
        sizes=sizes or ((1, 2, total),),
        pixels=(len(values) - 1, 0),
        ignored_pixels=1,
        mean=(float(np.mean(values)),),
        std=(float(np.std(values)),),
    )


def test_figures_of_a_merged_split_are_those_of_all_its_pixels():
    a, b = [1.0, 5.0, 6.0], [200.0, 0.0]
    found = folds.merge(
        [
            split("a", [(2, None)], a, ((1, 2, 1), (3, 3, 1))),
            split("b", [(1, None)], b, ((1, 2, 1),)),
        ]
    )
    assert (found.mean, found.std) == (
        (pytest.approx(np.mean(a + b), rel=1e-15),),
        (pytest.approx(np.std(a + b), rel=1e-14),),
    )
    assert found.sizes == ((1, 2, 2), (3, 3, 1))
    assert (found.examples, found.pixels, found.ignored_pixels) == (3, (3, 0), 2)


def test_shards_without_a_foreground_come_last_and_small_ones_after_large_ones():
    parts = [
        split("a", [(1, True), (2, False)], [0.0, 1.0]),
        split("b", [(2, True), (1, False)], [0.0, 1.0]),
    ]
    found = folds.merge(parts)
    assert [shard.name for shard in found.shards] == ["b-0", "a-0", "a-1", "b-1"]
    assert found.cases == ("b0", "b1", "a0", "a1", "a2", "b2")


@pytest.fixture
def manifest():
    """A folder of three folds of one case each, of which the first is the val split."""
    parts = tuple(
        schema.Fold(split(f"t{k}", [(2, None)], [k, k]), split(f"v{k}", [(1, None)], [k, k]))
        for k in range(3)
    )
    return dataclasses.replace(MANIFEST, splits=folds.splits(parts, 0), folds=parts)


def test_a_fold_validates_and_the_others_train(manifest):
    for fold, others in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1))):
        chosen = folds.choose(manifest, fold, "DATA")
        assert chosen.splits["val"].cases == (f"v{fold}0",)
        assert chosen.splits["train"].cases == tuple(f"t{k}{n}" for k in others for n in range(2))
    assert folds.choose(manifest, None, "DATA") is manifest
    assert folds.choose(manifest, 0, "DATA") == manifest


def test_a_fold_that_is_not_there_is_refused_with_the_remedy(manifest):
    with pytest.raises(InputError) as error:
        folds.choose(MANIFEST, 1, "DATA")
    assert str(error.value) == (
        "--fold=1: --data_dir=DATA has no folds; prepare the data again with --folds=5, or drop "
        "--fold."
    )
    with pytest.raises(InputError, match="--fold=3 is not one of the 3 folds of --data_dir=DATA,"):
        folds.choose(manifest, 3, "DATA")


def test_a_manifest_with_folds_is_read_as_it_was_written_and_checked_like_its_splits(manifest):
    assert schema.Manifest.from_json(manifest.to_json()) == manifest
    assert {shard.name for shard in manifest.shards} == {
        *("t0-0", "t1-0", "t2-0", "v0-0", "v1-0", "v2-0")
    }
    parts = manifest.folds
    wrong = dataclasses.replace(parts[1].val, examples=7)
    damaged = (parts[0], dataclasses.replace(parts[1], val=wrong), parts[2])
    for given, rule in (
        (damaged, "the counts of its fold 1 val split disagree"),
        (parts[:1], "it has a single fold"),
    ):
        text = dataclasses.replace(manifest, folds=given).to_json()
        with pytest.raises(InputError, match=rule):
            schema.Manifest.from_json(text)
    assert "folds" not in MANIFEST.to_json()  # so data without them keep their fingerprint
