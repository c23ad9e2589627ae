"""Tests of the storage server on loopback, by the two real clients that it is for."""

import concurrent.futures
import subprocess
import sys
import time

import pytest
import requests
import tensorflow as tf
from google.api_core import exceptions
from google.cloud import storage

from tests.servers import gcs_server

# A storage server, and clients that wait before they try again.
pytestmark = [pytest.mark.slow, pytest.mark.long]

gfile = tf.io.gfile


def _write(path, content, mode="wb"):
    with gfile.GFile(path, mode) as file:
        file.write(content)


def _read(path):
    with gfile.GFile(path, "rb") as file:
        return file.read()


def _blob(bucket, name):
    client = storage.Client()
    return client.bucket(bucket.removeprefix("gs://")).blob(name)


# TensorFlow's client ------------------------------------------------------------------------------


def test_tensorflow_writes_reads_appends_and_lists(gcs, bucket):
    folder = f"{bucket}/a/b"
    gfile.makedirs(folder)
    _write(f"{folder}/x", b"hello")
    _write(f"{folder}/x", b" world", "ab")
    _write(f"{folder}/empty", b"")
    assert _read(f"{folder}/x") == b"hello world"
    assert gfile.listdir(folder) == ["empty", "x"]
    assert gfile.glob(f"{folder}/*x") == [f"{folder}/x"]
    assert gfile.stat(f"{folder}/x").length == 11
    assert not gfile.exists(f"{folder}/y")
    assert gcs.names(f"{bucket}/") == ["a/", "a/b/", "a/b/empty", "a/b/x"]


def test_tensorflow_renames_copies_and_removes(gcs, bucket):
    _write(f"{bucket}/a/x", b"1")
    gfile.rename(f"{bucket}/a/x", f"{bucket}/a/y")
    gfile.copy(f"{bucket}/a/y", f"{bucket}/a/z")
    gfile.rename(f"{bucket}/a", f"{bucket}/b")
    assert gcs.names(f"{bucket}/") == ["b/y", "b/z"]
    gfile.rmtree(f"{bucket}/b")
    assert gcs.names(f"{bucket}/") == []


def test_checkpoints_and_event_files_go_through(gcs, bucket):
    variable = tf.Variable(2.0)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(x=variable), f"{bucket}/c", 1)
    manager.save()
    variable.assign(0.0)
    tf.train.Checkpoint(x=variable).restore(manager.latest_checkpoint).assert_consumed()
    assert variable.numpy() == 2.0
    with tf.summary.create_file_writer(f"{bucket}/t").as_default():
        tf.summary.scalar("loss", 1.0, step=1)
    (events,) = gfile.glob(f"{bucket}/t/*")
    tags = [
        v.tag for event in tf.compat.v1.train.summary_iterator(events) for v in event.summary.value
    ]
    assert tags == ["loss"]


def test_tensorflow_continues_after_busy_answers_and_cut_connections(gcs, bucket):
    content = bytes(range(256)) * 8192  # 2 MiB
    gcs.begin(gcs_server.Faults(seed=2, busy=0.15, cut=0.15))
    for number in range(3):
        _write(f"{bucket}/{number}", content)
        assert _read(f"{bucket}/{number}") == content
    assert gcs.counts().faults["busy"] > 0
    assert gcs.counts().faults["cut"] > 0


def test_tensorflow_continues_after_an_outage(gcs, bucket):
    _write(f"{bucket}/x", b"1")
    gcs.begin(gcs_server.Faults(outage_seconds=1.5))
    assert _read(f"{bucket}/x") == b"1"
    assert gcs.counts().faults["outage"] > 1


def test_refusals_are_not_tried_again(gcs, bucket):
    gcs.make_bucket("forbidden", forbidden=True)
    with pytest.raises(tf.errors.PermissionDeniedError, match="403"):
        gfile.stat("gs://forbidden/x")
    with pytest.raises(tf.errors.NotFoundError):
        gfile.stat(f"{bucket}/nothing")
    assert max(gcs.counts().objects.values()) == 1


def test_a_wrong_token_is_refused(gcs, bucket):
    code = f"import tensorflow as tf; tf.io.gfile.stat('{bucket}/x')"
    variables = gcs.environment(gcs_server.REFUSED_TOKEN) | {"PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=variables, stderr=subprocess.PIPE)
    assert b"PermissionDeniedError" in done.stderr
    assert b"401" in done.stderr


# google-cloud-storage -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, 9_000_000])  # by multipart, the last resumable
def test_the_python_client_uploads_and_downloads(gcs, bucket, size):
    blob = _blob(bucket, "folder/näme +%")
    blob.upload_from_string(b"x" * size, checksum="crc32c")
    assert blob.download_as_bytes(checksum="crc32c") == b"x" * size
    assert gcs.read(f"{bucket}/folder/näme +%") == b"x" * size
    if size:  # of nothing there is no range
        assert blob.download_as_bytes(start=0, end=9) == b"x" * 10
    else:
        with pytest.raises(exceptions.RequestRangeNotSatisfiable):
            blob.download_as_bytes(start=0, end=9)


def test_lists_come_page_by_page(gcs, bucket):
    for name in ("a", "b/1", "b/2", "c/1", "d"):
        _blob(bucket, name).upload_from_string(b"")
    pages = storage.Client().list_blobs(bucket[5:], delimiter="/", page_size=2).pages
    found = [([blob.name for blob in page], sorted(page.prefixes)) for page in pages]
    assert found == [(["a"], ["b/"]), (["d"], ["c/"])]


def test_preconditions_are_kept(gcs, bucket):
    blob = _blob(bucket, "x")
    blob.upload_from_string(b"1", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        blob.upload_from_string(b"2", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        _blob(bucket, "x").delete(if_generation_match=blob.generation + 1)
    blob.upload_from_string(b"2", if_generation_match=blob.generation)
    assert blob.download_as_bytes() == b"2"


def test_one_of_many_makes_an_object(gcs, bucket):
    def make(number):
        try:
            _blob(bucket, "x").upload_from_string(str(number), if_generation_match=0)
        except exceptions.PreconditionFailed:
            return 0
        return 1

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(make, range(8))) == 1


def test_a_wrong_checksum_makes_no_object(gcs, bucket):
    blob = _blob(bucket, "x")
    blob.crc32c = "AAAAAA=="
    with pytest.raises(exceptions.BadRequest, match="crc32c"):
        blob.upload_from_string(b"1", checksum=None)
    assert not blob.exists()


def test_objects_are_copied_and_composed(gcs, bucket):
    first, both = _blob(bucket, "1"), _blob(bucket, "12")
    first.upload_from_string(b"1")
    second = first.bucket.copy_blob(first, first.bucket, "2")
    both.compose([first, second])
    assert both.download_as_bytes() == b"11"


def test_what_is_not_there_is_not_found(gcs, bucket):
    with pytest.raises(exceptions.NotFound, match="No such object"):
        _blob(bucket, "x").download_as_bytes()
    with pytest.raises(exceptions.NotFound, match="bucket does not exist"):
        storage.Client().bucket("nothing").blob("x").upload_from_string(b"")


def test_the_python_client_continues_after_faults(gcs, bucket):
    gcs.begin(gcs_server.Faults(seed=1, busy=0.1, cut=0.1))
    content = bytes(range(256)) * 4096
    for number in range(3):
        blob = _blob(bucket, str(number))
        blob.upload_from_string(content, checksum="crc32c")
        assert blob.download_as_bytes() == content
    assert gcs.counts().faults["busy"] + gcs.counts().faults["cut"] > 0


# Faults -------------------------------------------------------------------------------------------


def _status(gcs, bucket):
    url = f"{gcs.environment()['STORAGE_EMULATOR_HOST']}/storage/v1/b/{bucket[5:]}"
    return requests.get(url).status_code


def test_faults_are_the_same_at_each_run(gcs, bucket):
    found = []
    for _ in range(2):
        gcs.begin(gcs_server.Faults(seed=3, busy=0.3))
        found.append(([_status(gcs, bucket) for _ in range(30)], gcs.counts()))
    assert found[0] == found[1]
    assert set(found[0][0]) == {200, 429, 503}


def test_what_an_earlier_test_left_behind_neither_counts_nor_moves_the_faults(gcs, bucket):
    gcs.reset()
    new = gcs.make_bucket("new")
    gcs.begin(gcs_server.Faults(seed=3, busy=0.3))
    alone = [_status(gcs, new) for _ in range(30)], gcs.counts()
    gcs.begin(gcs_server.Faults(seed=3, busy=0.3))
    found = []
    for _ in range(30):
        assert _status(gcs, bucket) == 404
        found.append(_status(gcs, new))
    assert (found, gcs.counts()) == alone


def test_bandwidth_and_latency_take_their_time(gcs, bucket):
    _write(f"{bucket}/x", b"x" * 1_000_000)
    gcs.begin(gcs_server.Faults(latency_seconds=0.1, bytes_per_second=5e6))
    start = time.monotonic()
    assert len(_blob(bucket, "x").download_as_bytes()) == 1_000_000
    assert time.monotonic() - start >= 0.3
    assert gcs.counts().bytes_down >= 1_000_000


CLIENTS = {
    "tensorflow": "import tensorflow as tf\nask = lambda: len(tf.io.gfile.GFile('gs://BUCKET/x').read())",
    "google-cloud-storage": "from google.cloud import storage\n"
    "blob = storage.Client().bucket('BUCKET').blob('x')\n"
    "ask = lambda: len(blob.download_as_bytes())",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_tokens_that_expire_are_renewed(gcs, bucket, client):
    gcs.begin(gcs_server.Faults(token_seconds=1))
    _blob(bucket, "x").upload_from_string(b"1")
    code = CLIENTS[client].replace("BUCKET", bucket[5:])
    code += "\nimport time\nfor _ in range(25):\n  assert ask() == 1\n  time.sleep(0.1)\n"
    variables = gcs.environment(token="")
    done = subprocess.run([sys.executable, "-c", code], env=variables, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert gcs.counts().faults["token"] >= 2
