"""Tests of listings: a local folder, a store asked by TensorFlow, a bucket."""

import os

from trainer.storage import files, listing


def test_a_local_folder_gives_sizes_and_times(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    os.utime(tmp_path / "a", (5, 7.5))
    assert listing.list_folder(str(tmp_path)) == {"a": listing.Entry(3, 7.5, None)}


def test_a_store_without_listings_of_its_own_gives_sizes():
    with files.writing("ram://listing/a", "wb") as file:
        file.write(b"123")
    assert listing.list_folder("ram://listing") == {"a": listing.Entry(3, None, None)}


def test_a_bucket_gives_sizes_and_checksums(gcs, bucket):
    for name, content in {"data/a": b"123456789", "data/b": b"", "other": b""}.items():
        gcs.write(f"{bucket}/{name}", content)
    # e3069283 is the standard's check value of crc32c.
    assert listing.list_folder(f"{bucket}/data") == {
        "a": listing.Entry(9, None, "e3069283"),
        "b": listing.Entry(0, None, "00000000"),
    }
