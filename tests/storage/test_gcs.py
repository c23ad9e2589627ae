"""Tests of gs:// by Google's Python client, against the server on loopback."""

import pytest
import tensorflow as tf

from tests.servers import gcs_server
from trainer import cli, config
from trainer.errors import InputError, RetryableError, UnreachableError
from trainer.storage import files
from trainer.storage import gcs as buckets


@pytest.fixture
def local(tmp_path):
    """A file of 40 MB and more, which takes three parts to upload."""
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 163_840)
    return str(path)


def test_what_is_uploaded_is_listed_with_its_checksum_and_comes_back(gcs, bucket, local, tmp_path):
    crc32c = files.crc32c(local)
    buckets.upload(local, f"{bucket}/a/b/x", crc32c)
    content = buckets.Content(41_943_040, crc32c)
    assert buckets.contents(f"{bucket}/a") == {"b/x": content}
    assert buckets.contents(f"{bucket}/") == {"a/b/x": content}
    assert gcs.counts().requests["upload"] == 3
    buckets.download(f"{bucket}/a/b/x", str(tmp_path / "y"))
    assert files.crc32c(str(tmp_path / "y")) == crc32c


def test_the_server_refuses_bytes_that_changed_on_their_way(gcs, bucket, local):
    with pytest.raises(InputError, match=r"/x: the request was refused \(400: .*crc32c"):
        buckets.upload(local, f"{bucket}/x", "00000000")
    assert gcs.names(f"{bucket}/") == []


def test_files_and_folders_exist_where_something_is(gcs, bucket):
    gcs.write(f"{bucket}/a/xy", b"")
    found = {name: files.exists(f"{bucket}/{name}") for name in ("a", "a/", "a/xy", "a/x", "b")}
    assert found == {"a": True, "a/": True, "a/xy": True, "a/x": False, "b": False}


def test_only_one_makes_an_object_and_may_do_it_twice(bucket, tmp_path):
    for name in "xy":
        (tmp_path / name).write_text(name)
    crcs = {name: files.crc32c(str(tmp_path / name)) for name in "xy"}
    for name in "xx":
        buckets.upload(str(tmp_path / name), f"{bucket}/new", crcs[name], create=True)
    with pytest.raises(RetryableError, match="/new was written by another process meanwhile;"):
        buckets.upload(str(tmp_path / "y"), f"{bucket}/new", crcs["y"], create=True)


@pytest.mark.slow
def test_broken_connections_cost_a_part(gcs, bucket, local):
    gcs.begin(gcs_server.Faults(seed=1, busy=0.2, cut=0.2))
    for number in range(3):
        buckets.upload(local, f"{bucket}/{number}", files.crc32c(local))
    injected = gcs.counts().faults
    assert min(injected["busy"], injected["cut"]) > 0
    assert {len(gcs.read(f"{bucket}/{number}")) for number in range(3)} == {41_943_040}
    assert gcs.counts().bytes_up < 4 * 41_943_040


@pytest.mark.slow
def test_a_refusal_that_breaks_off_is_asked_for_again(gcs, bucket):
    gcs.begin(gcs_server.Faults(seed=1, cut=0.4))
    assert [buckets.read_version(f"{bucket}/{number}") for number in range(6)] == [("", 0)] * 6
    assert [buckets.write_version(f"{bucket}/{number}", "x", 9) for number in range(6)] == [
        None
    ] * 6
    assert gcs.counts().faults["cut"] > 4


def test_what_is_missing_is_named(gcs, bucket, tmp_path):
    target = str(tmp_path / "x")
    with pytest.raises(InputError) as missing:
        buckets.download(f"{bucket}/x", target)
    assert str(missing.value) == f"{bucket}/x does not exist; name another, or check what wrote it."
    for ask in (buckets.check, buckets.contents, buckets.exists, files.make_folder):
        with pytest.raises(InputError) as missing:
            ask("gs://missing/run")
        assert str(missing.value) == (
            "gs://missing/run: there is no bucket missing; create it, or name another."
        )
    with pytest.raises(InputError, match="gs://_/x does not name a bucket; write gs://BUCKET"):
        buckets.check("gs://_/x")


def test_who_is_not_let_in_is_told_at_once(gcs):
    gcs.make_bucket("closed", forbidden=True)
    for ask in (buckets.check, buckets.contents, buckets.exists):
        with pytest.raises(
            InputError, match="^gs://closed/run: access is denied \\(403: tester"
        ) as at:
            ask("gs://closed/run")
        assert at.type is InputError  # another start would not be let in either
    assert gcs.counts().requests["list"] <= 3


# What TensorFlow's client says --------------------------------------------------------------------


def _refusal(capsys, task):
    with pytest.raises(SystemExit) as stop:
        cli.run(config.Inspect, lambda settings: task(), ["task"])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_tensorflows_errors_become_one_line(gcs, bucket, capsys):
    gcs.make_bucket("closed", forbidden=True)

    def read(path):
        return lambda: list(tf.data.TFRecordDataset(path))

    assert _refusal(capsys, read("gs://missing/x")) == (
        "gs://missing/x: there is no bucket missing; create it, or name another."
    )
    assert _refusal(capsys, read(f"{bucket}/x")).startswith(f"{bucket}/x does not exist;")
    assert _refusal(capsys, read("gs://closed/x")).startswith(
        "gs://closed/x: access is denied (403: tester does not have"
    )
    assert gcs.counts().requests["read"] <= 3


def test_other_errors_are_defects():
    assert buckets.explain("Matrix size-incompatible: In[0]: [1,2], In[1]: [3,4]") is None
    assert buckets.explain("gs://b/x has 3 channels") is None


def test_folders_are_listed_emptied_and_written_with_few_requests(gcs, bucket):
    for name in ("run/a", "run/deep/b", "other"):
        files.write_whole(f"{bucket}/{name}", name)
    assert files.list_folder(f"{bucket}/run") == ["a", "deep"]
    assert files.list_folder(f"{bucket}/none") == []
    assert files.size_of(f"{bucket}/run/a") == 5
    assert files.read_text(f"{bucket}/run/a") == "run/a"
    files.remove(f"{bucket}/run/none")
    files.remove_folder(f"{bucket}/run")
    assert gcs.names(f"{bucket}/") == ["other"]


def test_a_store_that_does_not_answer_may_be_tried_again_by_who_can_wait():
    assert UnreachableError in files.failures()
