"""The part of a val split that is evaluated while training."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tests.data.dataset.test_folds import split
from tests.data.dataset.test_schema import MANIFEST
from trainer.data.dataset import sample


def manifest_of(sizes):
    val = split("v", [(size, None) for size in sizes], [1.0])
    return dataclasses.replace(MANIFEST, splits={**MANIFEST.splits, "val": val})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 400))
def test_a_sample_is_the_first_cases_of_each_shard_in_proportion(sizes, most):
    manifest = manifest_of(sizes)
    found = sample.of_validation(manifest, most)
    whole, val = manifest.splits["val"], found.splits["val"]
    if most >= whole.examples:
        assert found is manifest
        return
    assert val.examples == len(val.cases) == sum(shard.examples for shard in val.shards) == most
    assert found.splits["train"] is manifest.splits["train"]
    start = place = 0
    known = {shard.name: shard for shard in val.shards}
    for shard in whole.shards:
        count = known[shard.name].examples if shard.name in known else 0
        assert abs(count - shard.examples * most / whole.examples) < 1
        assert val.cases[place : place + count] == whole.cases[start : start + count]
        place, start = place + count, start + shard.examples


def test_none_is_all():
    manifest = manifest_of([9, 8])
    assert sample.of_validation(manifest, 0) is manifest
