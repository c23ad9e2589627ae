"""Tests of how examples are spread over shards."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.data.prepare import shards


@given(st.integers(1, 300), st.integers(0, 10**9))
def test_shards_are_balanced_and_eight_where_there_are_eight_examples(num_examples, raw_bytes):
    counts = shards.shard_counts(num_examples, raw_bytes, 10)
    assert sum(counts) == num_examples
    assert max(counts) - min(counts) <= 1
    assert len(counts) >= min(8, num_examples)
    assert len(counts) == num_examples or len(counts) * 10e6 >= raw_bytes
