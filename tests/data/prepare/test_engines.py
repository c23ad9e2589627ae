"""What an engine makes of results that an earlier start has left."""

import types

from trainer.data.prepare import engines, kept


def test_only_pairs_that_are_there_share_a_digest(tmp_path):
    results = kept.of_output(str(tmp_path))
    results.store("alike-00", ["a", "b", "gone"])  # by a start that had one more, and was killed
    beam = types.SimpleNamespace(grouped=lambda *arguments: None)
    engine = engines.Distributed(beam, 1, results, str(tmp_path))
    assert engine.alike(dict.fromkeys(("a", "b", "c"))) == {"a", "b"}
