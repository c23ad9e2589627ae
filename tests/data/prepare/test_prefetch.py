"""Files of a store, copied ahead of the workers."""

import dataclasses
import os
import threading

import pytest

from trainer.data.formats import discovery
from trainer.data.formats.discovery import Source
from trainer.data.prepare import prefetch
from trainer.data.prepare.pairs import Pair


def source(folder, number):
    path = f"gs://bucket/{folder}/{number}.png"
    return Source(str(number), path, None, path)


PAIRS = [Pair((source("images", number),), source("masks", number)) for number in range(9)]


@pytest.mark.parametrize("downloads", [1, 2, 5, 32])
def test_image_and_mask_come_at_the_same_time_and_no_more_than_asked(downloads, monkeypatch):
    now, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(2, timeout=60)  # a mask that waits for its image would break it

    def copy(given, path):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        if downloads == 2:
            together.wait()
        with open(path, "w") as file:
            file.write(given.path)
        with lock:
            now -= 1
        return dataclasses.replace(given, path=path)

    monkeypatch.setattr(discovery, "local_copy", copy)
    seen, folders = [], set()

    def task(pair):
        for one in (*pair.images, pair.mask):
            with open(one.path) as file:
                seen.append(file.read())
            folders.add(os.path.dirname(one.path))
        (folder,) = folders
        assert len(os.listdir(folder)) <= 2 + 2 * downloads + 2
        return len(seen)

    assert list(prefetch.results(map, task, PAIRS, downloads)) == list(range(2, 20, 2))
    assert seen == [one.path for pair in PAIRS for one in (pair.image, pair.mask)]
    assert 1 <= most <= downloads
    assert not any(map(os.path.exists, folders))


def test_a_file_that_cannot_be_copied_ends_it_and_leaves_nothing(monkeypatch):
    folders = set()

    def copy(given, path):
        folders.add(os.path.dirname(path))
        if "masks/3" in given.path:
            raise OSError(given.path)
        open(path, "w").close()
        return dataclasses.replace(given, path=path)

    monkeypatch.setattr(discovery, "local_copy", copy)
    with pytest.raises(OSError, match="gs://bucket/masks/3.png"):
        list(prefetch.results(map, str, PAIRS, 4))
    assert not any(map(os.path.exists, folders))
