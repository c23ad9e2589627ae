"""One run folder, one writer."""

import errno
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from trainer.errors import InputError, RetryableError
from trainer.storage import lock


def content(folder):
    return json.loads((folder / "lease.json").read_text())


def other_machine(folder, **changes):
    """Writes the lease of a process on another machine."""
    owner = {"id": "x", "host": "far", "machine": "another", "pid": 7, "process_start": 1}
    owner["since"] = lock._now()
    folder.mkdir(exist_ok=True)
    (folder / "lease.json").write_text(json.dumps({**owner, **changes}))


def test_a_lease_names_host_and_process_and_is_gone_at_the_end(tmp_path):
    with lock.held(str(tmp_path / "run"), 60):
        assert content(tmp_path / "run")["pid"] == os.getpid()
    assert not (tmp_path / "run").exists()  # nothing else was written


def test_a_second_job_is_refused_at_once_while_the_first_lives(tmp_path):
    with lock.held(str(tmp_path), 60):
        start = time.monotonic()
        with pytest.raises(RetryableError) as error, lock.held(str(tmp_path), 60):
            pass
        assert time.monotonic() - start < 30  # of the 60 after which an unrenewed lock is taken
        assert f"is being written by process {os.getpid()} on " in str(error.value)
        assert "s; wait for that job, stop it, or name another --run_dir." in str(error.value)
    assert not (tmp_path / "lease.json").exists()


def test_the_lease_of_a_process_that_has_ended_is_taken_at_once(tmp_path):
    code = (
        "import os, sys; from trainer.storage import lock; "
        "lock.Lease(sys.argv[1], 60).acquire(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "lease.json").exists()
    start = time.monotonic()
    with lock.held(str(tmp_path), 60):
        assert time.monotonic() - start < 30  # of the 60 after which an unrenewed lock is taken
        assert content(tmp_path)["pid"] == os.getpid()


def test_the_unrenewed_lock_of_another_machine_is_taken_after_its_time(tmp_path):
    other_machine(tmp_path)
    start = time.monotonic()
    with lock.held(str(tmp_path), 1):
        assert time.monotonic() - start >= 1
        assert content(tmp_path)["pid"] == os.getpid()


@pytest.mark.slow
def test_a_lease_that_is_renewed_meanwhile_is_respected(tmp_path):
    other_machine(tmp_path)
    renewal = f"import time, pathlib; time.sleep(0.5); p = pathlib.Path({str(tmp_path)!r})"
    renewal += "; f = p / 'lease.json'; f.write_text(f.read_text() + ' ')"
    with (
        subprocess.Popen([sys.executable, "-c", renewal]),
        pytest.raises(RetryableError, match="is being written by process 7 on far"),
    ):
        lock.Lease(str(tmp_path), 30).acquire()


def test_a_lease_cut_short_by_a_kill_is_taken(tmp_path):
    (tmp_path / "lease.json").write_text('{"id": "x", "ho')
    with lock.held(str(tmp_path), 60):
        assert content(tmp_path)["pid"] == os.getpid()


def test_whether_a_folder_is_held_is_seen_without_taking_it(tmp_path):
    assert not lock.is_held(str(tmp_path), 60)
    with lock.held(str(tmp_path), 60):
        kept = content(tmp_path)
        assert lock.is_held(str(tmp_path), 60)
        assert content(tmp_path) == kept
    other_machine(tmp_path)
    start = time.monotonic()
    assert not lock.is_held(str(tmp_path), 1)  # nobody renews it
    assert time.monotonic() - start >= 1
    assert content(tmp_path)["host"] == "far"


def test_a_folder_is_held_while_another_machine_renews_its_lease(tmp_path, monkeypatch):
    other_machine(tmp_path)

    def renew(seconds):
        other_machine(tmp_path, renewed=lock._now())

    monkeypatch.setattr(
        "trainer.storage.lock.time", SimpleNamespace(monotonic=time.monotonic, sleep=renew)
    )
    assert lock.is_held(str(tmp_path), 60)
    monkeypatch.setattr(
        "trainer.storage.lock.time",
        SimpleNamespace(
            monotonic=time.monotonic, sleep=lambda seconds: (tmp_path / "lease.json").unlink()
        ),
    )
    assert not lock.is_held(str(tmp_path), 60)  # it was given back


@pytest.mark.parametrize("content", [b'{"flat": "3rd floor"}', b"tenant: me", b"\xff\xfe"])
def test_a_file_of_another_kind_is_no_lease_and_is_left_alone(tmp_path, content):
    (tmp_path / "lease.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        lock.Lease(str(tmp_path), 60, "output").acquire()
    assert str(error.value) == (
        f"{tmp_path}/lease.json exists and is not a lock file of this package; move it away, or "
        "name another --output."
    )
    assert (tmp_path / "lease.json").read_bytes() == content


def test_a_living_owner_renews_its_lease(tmp_path):
    with lock.held(str(tmp_path), 0.4):
        before = (tmp_path / "lease.json").stat().st_mtime_ns
        deadline = time.monotonic() + 120
        while (tmp_path / "lease.json").stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_job_whose_lease_was_taken_over_ends(tmp_path):
    with lock.held(str(tmp_path), 0.4) as mine:
        mine.check()
        other_machine(tmp_path)
        mine._thread.join(120)
        with pytest.raises(RetryableError, match="was taken over by process 7 on far"):
            mine.check()
    assert content(tmp_path)["host"] == "far"  # which is not ours to remove


def test_workers_that_do_not_write_take_no_lease(tmp_path):
    with lock.held(str(tmp_path / "run"), 60, writer=False) as none:
        none.check()
        assert not (tmp_path / "run").exists()


def test_the_lease_of_a_bucket_is_made_only_where_there_is_none(gcs, bucket):
    folder = f"{bucket}/run"
    with lock.held(folder, 60):
        assert json.loads(gcs.read(f"{folder}/lease.json"))["pid"] == os.getpid()
        with pytest.raises(RetryableError, match=f"is being written by process {os.getpid()} on"):
            lock.Lease(folder, 60).acquire()
    assert gcs.names(folder) == []


def test_a_bucket_s_lease_taken_over_meanwhile_is_lost(gcs, bucket):
    folder = f"{bucket}/run"
    with lock.held(folder, 0.4) as mine:
        text = json.dumps({**json.loads(gcs.read(f"{folder}/lease.json")), "pid": 7, "host": "far"})
        gcs.write(f"{folder}/lease.json", text.encode())
        mine._thread.join(120)
        with pytest.raises(RetryableError, match="was taken over by process 7 on far"):
            mine.check()
    assert json.loads(gcs.read(f"{folder}/lease.json"))["pid"] == 7


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, None])
def test_a_folder_that_does_not_answer_may_do_so_at_another_start(tmp_path, monkeypatch, number):
    def breaks_off(run_dir):
        raise OSError(number, "broken off")

    monkeypatch.setattr("trainer.storage.lock.files.make_folder", breaks_off)
    with pytest.raises(RetryableError, match="cannot be written"), lock.held(str(tmp_path), 60):
        pass


@pytest.mark.parametrize("folder", ["/proc/run", "/dev/null"])
def test_a_folder_that_cannot_be_written_is_named(folder):
    with (
        pytest.raises(
            InputError, match=rf"--run_dir={folder} cannot be written: .*; name another"
        ) as error,
        lock.held(folder, 60),
    ):
        pass
    assert error.type is InputError  # another start would not find it otherwise
