"""Short versions of the drills in benchmarks/drills."""

import pytest

from benchmarks import soak
from benchmarks.drills import faults, latency

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_faults_change_nothing_but_the_time():
    # The drill itself compares what was prepared, read, trained and evaluated.
    found = faults.main(faults.Drill(images=20, side=64, outage_seconds=1.5, token_seconds=2.0))
    for part in ("prepare", "read", "train", "evaluate"):
        assert not any(found[f"{part}, calm"][kind] for kind in ("busy", "cut"))
        assert found[f"{part}, storm"]["refused in the outage"] > 0
        assert found[f"{part}, storm"]["tokens"] >= 2


def test_training_data_take_few_large_requests():
    settings = latency.Latency(
        latency_ms=20.0, shards=2, shard_mb=16.0, seconds=2.0, rounds=1, only_ours=True
    )
    found = latency.main(settings)["8 MiB (ours)"]
    # 16 MB are two requests of 8 MiB a shard; another for each that is being read ahead.
    assert 4 <= found["requests/epoch"]["median"] <= 12


def test_a_soak_goes_on_where_it_was(tmp_path):
    settings = soak.Soak(images=100, steps=20, output=str(tmp_path))
    found = soak.main(settings)
    assert list(found) == [
        *("make", "prepare", "train, killed", "train, resumed", "evaluate", "predict")
    ]
    assert min(one["peak MB"] for name, one in found.items() if name != "make") > 10
    assert len(list(tmp_path.glob("masks/*/*.png"))) == 100
    assert soak.main(settings) == found
