"""Tests of the check at a run's start: what it notices, what it reads, what it leaves out."""

import concurrent.futures
import os
import pathlib
import threading

import pytest

from tests.shards import index_cases, write_data
from trainer.data.dataset import integrity, schema
from trainer.errors import InputError, RetryableError
from trainer.storage import listing

SPLITS = ("train", "val")


@pytest.fixture(params=["listed", "in indexes"])
def data(request, tmp_path):
    """Two shards of three training images each, and two of one validation image each."""
    manifest = write_data(tmp_path, {"train": [(9, 8)] * 6, "val": [(8, 8)] * 2})
    return str(tmp_path), manifest if request.param == "listed" else index_cases(tmp_path)


def shard_path(data, number, split="train"):
    data_dir, manifest = data
    return pathlib.Path(schema.shard_path(data_dir, manifest.splits[split].shards[number]))


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def refusal(data, **options):
    with pytest.raises(InputError) as error:
        integrity.check(*data, SPLITS, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_sound_data_are_read_by_their_own_manifest(data):
    for skip_bad_records in (0, 1):
        found = integrity.check(*data, SPLITS, skip_bad_records=skip_bad_records)
        assert found == (data[1], [])


# What a listing says ------------------------------------------------------------------------------

SHARDS = [schema.Shard("a", 1, 100, "0000000a"), schema.Shard("b", 1, integrity.SMALL, "0000000b")]


def unread(manifest=None, **entries):
    listed = {"a": listing.Entry(100, 5), "b": listing.Entry(integrity.SMALL, 5), **entries}
    listed["manifest.json"] = manifest or listing.Entry(1, 6)
    return [shard.name for shard in integrity.not_vouched_for(SHARDS, listed)]


def test_shards_of_the_right_size_older_than_the_manifest_are_not_read():
    assert unread() == []


def test_a_shard_that_is_newer_or_of_another_size_is_read():
    assert unread(a=listing.Entry(100, 7)) == ["a"]
    assert unread(a=listing.Entry(99, 5)) == ["a"]


def test_checksums_of_the_store_decide_where_it_has_them():
    right, wrong = (listing.Entry(100, None, f"0000000{digit}") for digit in "ac")
    assert unread(a=right) == []
    assert unread(a=wrong) == ["a"]


def test_small_data_are_always_read():
    small = [SHARDS[0]]
    assert integrity.not_vouched_for(small, {"a": listing.Entry(100, 5)}) == small
    assert integrity.not_vouched_for(small, {"a": listing.Entry(100, None, "0000000a")}) == []


def test_a_shard_that_is_not_listed_is_read():
    assert integrity.not_vouched_for(SHARDS, {})[0].name == "a"


# Stopping -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip_bad_records", [0, 9])
def test_a_shard_that_was_replaced_by_another_stops_the_run(data, skip_bad_records):
    one, other = (shard_path(data, number) for number in (0, 1))
    one.write_bytes(other.read_bytes())
    message = refusal(data, skip_bad_records=skip_bad_records)
    assert message.startswith(f"{one} ")


def test_a_replaced_shard_of_the_same_size_and_age_is_noticed(data):
    path = shard_path(data, 0)
    time = path.stat().st_mtime
    flip(path, 100)
    os.utime(path, (time, time))
    assert f"{path} is damaged at byte 0: the checksum of a record is wrong" in refusal(data)


@pytest.mark.parametrize("skip_bad_records", [0, 9])
def test_a_missing_shard_stops_the_run(data, skip_bad_records):
    path = shard_path(data, 1)
    path.unlink()
    message = refusal(data, skip_bad_records=skip_bad_records)
    assert message.startswith(f"{path} is missing, though the manifest lists it; ")


def test_a_store_that_does_not_answer_is_no_damage(data, monkeypatch):
    def unanswered(data_dir, shard):
        raise RetryableError(f"{shard.name} could not be reached")

    monkeypatch.setattr(schema, "verify_shard", unanswered)
    with pytest.raises(
        RetryableError, match="^train-00000-of-00002.tfrecord could not be reached$"
    ):
        integrity.check(*data, SPLITS)


def test_splits_that_are_not_read_are_not_checked(data):
    shard_path(data, 0, "val").unlink()
    integrity.check(*data, ["train"])


def test_more_unreadable_records_than_allowed_stop_the_run_with_the_first_and_the_count(data):
    cut, flipped = shard_path(data, 1), shard_path(data, 0, "val")
    cut.write_bytes(b"")
    flip(flipped, 100)
    message = refusal(data, skip_bad_records=3)
    assert message == (
        f"4 records of {data[0]} are unreadable, more than --skip_bad_records=3: "
        f"{cut}: record 0 (train3) at byte 0: the file is cut short; "
        f"{cut}: record 1 (train4) at byte 0: the file is cut short; "
        f"{cut}: record 2 (train5) at byte 0: the file is cut short; …. "
        "Copy these shards again or prepare the data again."
    )
    integrity.check(*data, SPLITS, skip_bad_records=4)


# Leaving out --------------------------------------------------------------------------------------


def test_a_damaged_record_is_blank_in_its_place_and_all_others_are_as_they_were(data, caplog):
    data_dir, manifest = data
    before = [*schema.read_shard(data_dir, manifest.splits["train"].shards[0])]
    path = shard_path(data, 0)
    offset = len(before[0]) + 16
    flip(path, offset + 100)
    found, lost = integrity.check(*data, SPLITS, skip_bad_records=1)
    reason = "the checksum of a record is wrong"
    assert lost == [integrity.Lost(str(path), 1, "train1", offset, reason)]
    assert caplog.messages == [
        f"Unreadable, and left out: {path}: record 1 (train1) at byte {offset}: {reason}"
    ]
    copy, untouched = found.splits["train"].shards
    blank = schema.blank_example(manifest)
    assert [*schema.read_shard(data_dir, copy)] == [before[0], blank, before[2]]
    assert untouched == manifest.splits["train"].shards[1]
    assert found.splits["val"] == manifest.splits["val"]


def test_a_blank_example_is_a_pixel_that_does_not_count(data):
    manifest = data[1]
    example = schema.decode(schema.blank_example(manifest), manifest)
    assert example["image"].numpy().tolist() == [[[0]]]
    assert example["mask"].numpy().tolist() == [[schema.IGNORE]]


def check_by_two_workers(data, **options):
    """Returns what each of two workers, as threads, gets: what `check` returns, or its error."""
    arrays, barrier = [None, None], threading.Barrier(2)

    def run(worker):
        def sum_over_workers(array):
            arrays[worker] = array
            barrier.wait(60)
            total = arrays[0] + arrays[1]
            barrier.wait(60)
            return total

        try:
            return integrity.check(
                *data,
                ["train"],
                worker=worker,
                num_workers=2,
                sum_over_workers=sum_over_workers,
                **options,
            )
        except InputError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, range(2)))


def test_each_worker_repairs_its_share_and_knows_what_all_lost(data):
    for number in (0, 1):
        flip(shard_path(data, number), 100)
    results = check_by_two_workers(data, skip_bad_records=2)
    for worker, (found, lost) in enumerate(results):
        assert [record.path for record in lost] == [str(shard_path(data, n)) for n in (0, 1)]
        same = [
            shard == before
            for shard, before in zip(
                found.splits["train"].shards, data[1].splits["train"].shards, strict=True
            )
        ]
        assert same == [worker != 0, worker != 1]


def test_workers_stop_together_at_the_sum_of_what_they_lost(data):
    for number in (0, 1):
        flip(shard_path(data, number), 100)
    one, other = check_by_two_workers(data, skip_bad_records=1)
    assert one == other
    assert one.startswith(f"2 records of {data[0]} are unreadable, more than --skip_bad_records=1")


@pytest.mark.parametrize("skip_bad_records", [0, 1])
def test_all_workers_name_the_shard_that_one_of_them_misses(data, skip_bad_records):
    shard_path(data, 1).unlink()
    one, other = check_by_two_workers(data, skip_bad_records=skip_bad_records)
    assert one == other
    assert one.startswith(f"{shard_path(data, 1)} is missing")
