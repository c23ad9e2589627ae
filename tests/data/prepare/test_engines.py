"""What an engine makes of its work, on workers that this process stands in for."""

import os

import numpy as np
from PIL import Image

from trainer.data.formats.discovery import Source
from trainer.data.packed import Packed
from trainer.data.prepare import engines, kept
from trainer.data.prepare.pairs import Example, Examples, Pair, Part, by_pair
from trainer.data.prepare.shards import ShardPlan


class InThisProcess:
    """Does what Beam's workers would."""

    def __init__(self, folder):
        """Takes the folder that items go through."""
        self.sizes, self._folder = [], folder

    def each(self, what, task, keys):
        """See `beam_runner.Beam`; notes how large each item is."""
        for key in keys:
            self.sizes.append(os.path.getsize(f"{self._folder}/item-{key}"))
            task(key)


def _pairs(folder, count):
    def source(kind, number):
        path = f"{folder}/{kind}{number}.png"
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
        return Source(f"{number:03}", path, None, path)

    return Packed(Pair((source("a", k),), source("b", k)) for k in range(count))


def name_of(pair):
    return pair.name


def test_an_item_has_its_own_pairs_alone_and_is_done_once(tmp_path):
    pairs = _pairs(tmp_path, 130)  # 43 batches of three, and one more
    for num_items in (44, 0):  # the second start goes on
        results = kept.of_output(f"{tmp_path}/out")
        beam = InThisProcess(results.folder)
        engine = engines.Distributed(beam, 1, results, f"{tmp_path}/out")
        assert list(engine.each("names", name_of, pairs)) == [f"{k:03}" for k in range(130)]
        assert len(beam.sizes) == num_items
        assert max(beam.sizes, default=0) < 1000


def test_examples_are_a_sequence_and_those_of_a_pair_share_it():
    pairs = [
        Pair((Source(name, name, None, name),), Source(name, name, None, name)) for name in "ab"
    ]
    surveys = [type("Survey", (), {"pair": pair}) for pair in pairs]
    parts = [Part(f"{k}", (k,), (1,)) for k in range(4)]
    examples = Examples(surveys, [1, 0, 0, 1], Packed(parts))
    made = [Example(pairs[k], part) for k, part in zip((1, 0, 0, 1), parts, strict=True)]
    assert list(examples) == made
    assert [examples[k] for k in range(4)] == made
    assert list(examples[1:][:2]) == made[1:3]
    assert list(examples[1:].parts()) == parts[1:]
    assert [pair.name for pair in by_pair(examples)] == ["b", "a", "b"]
    plan = ShardPlan("x", "train", None, examples[1:3], 0).by_itself()
    assert plan.examples == made[1:3]
