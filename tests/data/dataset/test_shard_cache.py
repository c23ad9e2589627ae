"""Tests of copies of a store's shards: the real client, the server on loopback, real processes."""

import concurrent.futures
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from tests import jobs, shards
from tests.servers import gcs_server
from trainer.data.dataset import schema, shard_cache
from trainer.data.input import pipeline, read_errors
from trainer.errors import InputError

SIZES = {"train": [(40, 40)] * 8, "val": [(40, 40)] * 3}
OTHER = "0123456789abcdef"  # of data that are not in the bucket


@pytest.fixture
def prepared(gcs, bucket, tmp_path):
    """A data folder in a bucket, and its manifest."""
    manifest = shards.write_data(tmp_path, SIZES, num_shards=4)
    for path in tmp_path.iterdir():
        gcs.write(f"{bucket}/data/{path.name}", path.read_bytes())
    gcs.begin(gcs_server.Faults())
    return f"{bucket}/data", manifest


def open_cache(root, data, gigabytes=1.0):
    return shard_cache.open_cache(
        str(root), gigabytes, *data, schema.fingerprint(data[1]), tpu="local"
    )


def copies(root, data):
    """Returns the copies in a cache: name → content."""
    folder = root / schema.fingerprint(data[1])[:16]
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def paths(data, split="train"):
    return [schema.shard_path(data[0], shard) for shard in data[1].splits[split].shards]


def batches(data, cache, count):
    stream = pipeline.training_stream(
        *data, batch_size=4, crop=(32, 32), seed=3, num_streams=2, shuffle_block=4, cache=cache
    )
    return list(stream.take(count).as_numpy_iterator())


def evaluated(data, cache):
    options = {"stride": 2, "batch_size": 2, "normalize": "image", "tile": 64}
    found = pipeline.evaluation_batches(*data, "val", **options, cache=cache)
    return list(found.as_numpy_iterator())


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one)


def test_the_stream_is_the_same_and_a_second_pass_asks_the_store_nothing(gcs, prepared, cache_dir):
    expected = batches(prepared, None, 9), evaluated(prepared, None)
    cache = open_cache(cache_dir, prepared)
    assert_equal(batches(prepared, cache, 9), expected[0])
    assert_equal(evaluated(prepared, cache), expected[1])
    assert copies(cache_dir, prepared).keys() == {shard.name for shard in prepared[1].shards}
    gcs.begin(gcs_server.Faults())
    cache = open_cache(cache_dir, prepared)
    assert_equal(batches(prepared, cache, 9), expected[0])
    assert_equal(evaluated(prepared, cache), expected[1])
    assert not gcs.counts().requests


@pytest.fixture
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_a_damaged_copy_is_made_again(gcs, prepared, cache_dir, caplog):
    cache, path = open_cache(cache_dir, prepared), paths(prepared)[0]
    copy = pathlib.Path(cache.path_of(path))
    whole = copy.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        caplog.clear()
        copy.write_bytes(damaged)
        assert cache.path_of(path) == str(copy)
        assert copy.read_bytes() == whole
        assert f"{copy} is damaged; it is copied again." in caplog.text


def test_what_does_not_fit_is_read_from_the_store(gcs, prepared, cache_dir, caplog):
    limit = sum(shard.bytes for shard in prepared[1].splits["train"].shards[:2])
    cache = open_cache(cache_dir, prepared, limit / 1e9)
    found = [cache.path_of(path) for path in paths(prepared) * 2]
    kept = [
        f"{cache_dir}/{schema.fingerprint(prepared[1])[:16]}/{name}" for name in names(prepared)
    ]
    assert found == [*kept[:2], *paths(prepared)[2:]] * 2
    assert sum(map(len, copies(cache_dir, prepared).values())) == limit
    said = f"{cache_dir} is full (--cache_gb, or its disk): the other shards of {prepared[0]} are"
    assert caplog.text.count(said) == 1
    assert_equal(batches(prepared, cache, 9), batches(prepared, None, 9))


def names(data):
    return [shard.name for shard in data[1].splits["train"].shards]


def test_room_is_made_of_what_nobody_uses_the_oldest_first(prepared, cache_dir):
    (cache_dir / OTHER).mkdir()
    for age, name in enumerate("cab"):
        (cache_dir / OTHER / name).write_bytes(bytes(1000))
        os.utime(cache_dir / OTHER / name, (age, age))
    (cache_dir / OTHER / "d.5000.part").write_bytes(b"left by a process that was killed")
    (cache_dir / "mine").write_bytes(bytes(1000))  # it is nobody's business
    size = prepared[1].splits["train"].shards[0].bytes
    cache = open_cache(cache_dir, prepared, (size + 1500) / 1e9)
    assert cache.path_of(paths(prepared)[0]) != paths(prepared)[0]
    assert [p.name for p in (cache_dir / OTHER).iterdir() if p.name[0] != "."] == ["b"]
    assert (cache_dir / "mine").exists()


HOLD = """
import sys
from trainer.data.dataset import schema, shard_cache
data = sys.argv[2], schema.read_manifest(sys.argv[2])
cache = shard_cache.ShardCache(sys.argv[1], 10**9, *data, "0123456789abcdef")
print(cache.path_of(schema.shard_path(data[0], data[1].shards[0])), flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_what_another_process_uses_stays_until_it_ends(prepared, cache_dir):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, cache_dir, prepared[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **jobs.COMMON},
    )
    with process:
        copy = pathlib.Path(process.stdout.readline().rstrip())
        assert copy.parent == cache_dir / OTHER
        cache = open_cache(cache_dir, prepared, copy.stat().st_size / 1e9)
        path = paths(prepared)[0]
        assert cache.path_of(path) == path
        assert copy.exists()
        process.kill()
    assert cache.path_of(path) != path
    assert not copy.exists()


def use_all(root, data):
    cache = open_cache(root, data)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(cache.path_of, paths(data) * 2))


@pytest.mark.slow
def test_processes_and_threads_that_begin_together_copy_each_shard_once(gcs, prepared, cache_dir):
    gcs.begin(gcs_server.Faults(latency_seconds=0.2))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(use_all, [(cache_dir, prepared)] * 3)
    assert found[0] == found[1] == found[2]
    read = {name: n for (kind, name), n in gcs.counts().objects.items() if kind == "read"}
    assert read == {path.removeprefix("gs://"): 1 for path in paths(prepared)}


def test_where_no_file_can_grow_the_store_is_read(prepared, cache_dir, caplog):
    cache = open_cache(cache_dir, prepared)
    expected = batches(prepared, None, 4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        found = [cache.path_of(path) for path in paths(prepared)]
        assert_equal(batches(prepared, cache, 4), expected)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found == paths(prepared)
    assert copies(cache_dir, prepared) == {}
    said = caplog.text
    assert said.count(f"A shard could not be copied into {cache_dir}/") == 1
    assert "File too large); it is read from the store." in said


def test_a_disk_that_others_fill_is_left_to_them(prepared, cache_dir, monkeypatch, caplog):
    monkeypatch.setattr(shard_cache, "LEFT_FREE", 2**60)
    cache, path = open_cache(cache_dir, prepared), paths(prepared)[0]
    assert cache.path_of(path) == path
    assert f"{cache_dir} is full (--cache_gb, or its disk)" in caplog.text


def test_a_shard_that_was_replaced_in_the_store_is_named(gcs, prepared, cache_dir):
    gcs.write(paths(prepared)[0], gcs.read(paths(prepared)[1]))
    cache = open_cache(cache_dir, prepared)
    with pytest.raises(
        InputError, match="/train-00000-of-00004.tfrecord is not the shard that the"
    ):
        cache.path_of(paths(prepared)[0])
    assert copies(cache_dir, prepared) == {}
    with (
        pytest.raises(InputError, match=r"/train-00000-of-00004\.tfrecord .*--verify` checks"),
        read_errors.translate_errors(*prepared, "train", lambda: [0]),
    ):
        batches(prepared, cache, 2)


def test_repaired_copies_are_read_where_they_are(prepared, cache_dir):
    assert open_cache(cache_dir, prepared).path_of("/tmp/repaired") == "/tmp/repaired"


def test_a_cache_is_for_a_store_and_on_a_disk(prepared, tmp_path):
    manifest, fingerprint = prepared[1], "f" * 64
    assert shard_cache.open_cache("", 1.0, "data", manifest, fingerprint, "") is None
    (tmp_path / "file").touch()
    for root, data_dir, tpu, message in (
        (
            "gs://b/c",
            "gs://b/d",
            "",
            "--cache_dir=gs://b/c is in a store; name a folder on a local",
        ),
        ("c", "d", "", "--cache_dir=c is for data in a store, and d is a local folder; leave it"),
        ("c", "gs://b/d", "t", "--cache_dir=c does not go with --tpu=t, whose own hosts read the"),
        (f"{tmp_path}/file", "gs://b/d", "", f"--cache_dir={tmp_path}/file cannot be created: "),
    ):
        with pytest.raises(InputError) as refused:
            shard_cache.open_cache(root, 1.0, data_dir, manifest, fingerprint, tpu)
        assert str(refused.value).startswith(message)
    assert not os.path.exists("c")


@pytest.mark.slow
def test_a_job_and_its_evaluation_score_alike_with_copies_and_without(
    gcs, bucket, data_dir, cache_dir, tmp_path
):
    for path in pathlib.Path(data_dir).iterdir():
        gcs.write(f"{bucket}/data/{path.name}", path.read_bytes())
    cached = [f"--cache_dir={cache_dir}"]
    for name, flags in (("plain", []), ("cached", cached), ("again", cached)):
        gcs.begin(gcs_server.Faults())
        flags = ["--deterministic", "--strategy=mirrored", "--virtual_devices=2", *flags]
        result = jobs.train(f"{bucket}/data", tmp_path / name, *flags)
        assert result.returncode == 0, result.stderr
    read = [name for (kind, name) in gcs.counts().objects if kind == "read"]
    assert not any(name.endswith(".tfrecord") for name in read)
    assert len(list(cache_dir.glob("*/*.tfrecord"))) == 6
    evaluated = jobs.command("trainer.evaluate", f"--run_dir={tmp_path / 'cached'}", *cached)
    assert evaluated.returncode == 0, evaluated.stderr
    read = [name for (kind, name) in gcs.counts().objects if kind == "read"]
    assert not any(name.endswith(".tfrecord") for name in read)
    tables = [
        (tmp_path / name / "evaluation/test/cases.csv").read_bytes()
        for name in ("plain", "cached", "again")
    ]
    assert tables[0] == tables[1] == tables[2]
