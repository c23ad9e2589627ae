"""Names of what is kept for a start that goes on."""

import functools

from trainer.data.formats.discovery import Source
from trainer.data.prepare import kept
from trainer.data.prepare.pairs import Pair
from trainer.storage import listing


def _pair(number):
    image, mask = (f"gs://set/{kind}/{number}.png" for kind in ("images", "masks"))
    return Pair((Source(f"{number}", image, None, image),), Source(f"{number}", mask, None, mask))


def _names(monkeypatch, changed=""):
    """Returns the names of two items of ten pairs each, and which folders were listed for them."""
    listed = []

    def list_folder(folder):
        listed.append(folder)
        entries = {f"{number}.png": listing.Entry(7, crc32c="00") for number in range(20)}
        if folder.endswith("images") and changed:
            entries[changed] = listing.Entry(7, crc32c="01")
        return entries

    monkeypatch.setattr(listing, "list_folder", list_folder)
    items = ([_pair(number) for number in range(k, k + 10)] for k in (0, 10))
    return kept.names("reading", functools.partial(_pair), items), listed


def test_each_folder_of_a_bucket_is_listed_once(monkeypatch):
    assert _names(monkeypatch)[1] == ["gs://set/images", "gs://set/masks"]


def test_an_item_has_another_name_when_one_of_its_files_was_changed(monkeypatch):
    before, after = (_names(monkeypatch, changed)[0] for changed in ("", "13.png"))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_batches_are_of_all_pairs_and_of_a_thousand_at_most():
    assert kept.batches(5) == [slice(k, k + 1) for k in range(5)]
    assert kept.batches(130)[-2:] == [slice(126, 129), slice(129, 130)]
    found = kept.batches(100_001)
    assert (len(found), found[-1]) == (101, slice(100_000, 100_001))
