"""Preparing data on engines of Beam: the same bytes, whatever dies."""

import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch.local import reserve_ports
from tests.beam.conftest import ROOT, command, content, run

PREPARE = "trainer.data.prepare"
# Tiles, shards that share an image's tiles, and a leak between splits.
CUT = ("--classes=0,255", "--tile=24", "--shard_mb=0.004", "--seed=2")

# A module that Python imports in every process, also in Beam's: what it does to the first pass.
WITNESS = """
import os, signal, sys
from trainer.data.prepare import statistics

def read(pair, most, read=statistics.read):
    name = pair.image.name
    with open(os.environ["WITNESS"], "a") as file:
        file.write(f"{name} {bool(pair.content)}\\n")
    if name in os.environ.get("DEADLY", "").split(",") and not pair.content:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(pair, most)

statistics.read = read
"""


def flags(folder, output, *others):
    return [f"--images={folder}/images", f"--masks={folder}/masks", f"--output={output}", *others]


@pytest.fixture
def reads(folder, monkeypatch):
    """Returns a function: the pairs that have been read since, each with whether it was again."""
    (folder / "path").mkdir()
    (folder / "path/sitecustomize.py").write_text(WITNESS)
    witness = folder / "witness"
    monkeypatch.setenv("PYTHONPATH", f"{folder}/path:{ROOT}")
    monkeypatch.setenv("WITNESS", str(witness))

    def since():
        lines = witness.read_text().splitlines() if witness.exists() else []
        witness.unlink(missing_ok=True)
        return [tuple(line.split()) for line in lines]

    return since


@pytest.fixture
def job_server():
    """Starts the job server that comes with Beam; returns the options that lead to it."""
    (port,) = reserve_ports(1)
    module = "apache_beam.runners.portability.local_job_service_main"
    server = subprocess.Popen(
        [sys.executable, "-m", module, f"--port={port}"], stderr=subprocess.PIPE, text=True
    )
    assert any("Listening" in line for line in server.stderr)
    yield f"--job_endpoint=127.0.0.1:{port} --environment_type=LOOPBACK"
    server.kill()
    server.communicate()


def test_every_engine_writes_the_same_bytes(folder, job_server):
    engines = {
        "local-1": ("--workers=1",),
        "local-2": ("--workers=2",),
        "direct-1": ("--runner=direct", "--workers=1"),
        "direct-2": ("--runner=direct", "--workers=2"),
        "flink": ("--runner=flink", f"--runner_options={job_server}"),
        "spark": ("--runner=spark", f"--runner_options={job_server}"),
    }
    found = {}
    for name, engine in engines.items():
        ended = run(PREPARE, *flags(folder, folder / name, *CUT, *engine))
        assert ended.status == 0, ended.said
        assert [line for line in ended.said if "leak" in line] == [
            "Warning: a leak, identical pixels in two splits: train/19 = val/18"
        ]
        found[name] = content(folder / name)
    assert len(found["local-1"]) > 20
    assert all(one == found["local-1"] for one in found.values())


def test_a_bucket_gets_the_same_bytes_and_is_left_tidy(gcs, bucket, folder):
    for kind in ("images", "masks"):
        for path in (folder / kind).iterdir():
            gcs.write(f"{bucket}/{kind}/{path.name}", path.read_bytes())
    raw = (f"--images={bucket}/images", f"--masks={bucket}/masks")
    asked = [*raw, f"--output={bucket}/out", *CUT, "--runner=direct", "--workers=2"]
    ended = run(PREPARE, *asked)
    assert ended.status == 0, ended.said
    assert run(PREPARE, *flags(folder, folder / "whole", *CUT)).status == 0
    whole = content(folder / "whole")
    found = {
        name: hashlib.sha256(gcs.read(f"{bucket}/out/{name}")).hexdigest()
        for name in gcs.names(f"{bucket}/out/")
    }
    assert found == whole


def test_volumes_have_the_same_bytes(tmp_path):
    run("trainer.data.synthetic", f"--output={tmp_path}/made", "--cases=8")
    asked = [f"--images={tmp_path}/made", "--block=24", "--shard_mb=0.1"]
    for name, engine in (("one", "--runner=local"), ("two", "--runner=direct")):
        ended = run(PREPARE, *asked, f"--output={tmp_path}/{name}", engine, "--workers=2")
        assert ended.status == 0, ended.said
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_what_is_killed_goes_on_and_reads_nothing_again(folder, reads):
    asked = [*CUT, "--runner=direct", "--workers=2"]
    process = subprocess.Popen(
        command(PREPARE, *flags(folder, folder / "killed", *asked)),
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    while not list(folder.glob("killed/unfinished/shard-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = reads()
    names = {f"{k:02}" for k in range(20)}
    assert {name for name, again in before if again == "False"} == names
    while _group_lives(process.pid):
        time.sleep(0.01)
    shards = {path.name for path in folder.glob("killed/unfinished/shard-*")}
    reads()
    assert run(PREPARE, *flags(folder, folder / "killed", *asked)).status == 0
    assert not [name for name, again in reads() if again == "False"]  # none in the first pass
    assert shards
    assert run(PREPARE, *flags(folder, folder / "whole", *CUT)).status == 0
    assert content(folder / "killed") == content(folder / "whole")


def _group_lives(parent):
    """Whether a process that an ended one has started still lives."""
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if b"WITNESS=" in path.read_bytes() and int(path.parent.name) != os.getpid():
                return True
        except OSError:
            continue
    return False


def test_what_kills_its_worker_is_tried_again_and_then_named(folder, reads):
    asked = [*CUT, "--runner=direct", "--workers=2"]
    ended = run(PREPARE, *flags(folder, folder / "out", *asked), DEADLY="07")
    assert ended.status == 2
    assert ended.said[-1] == (
        f"A worker process was killed twice by {folder}/images/07.png, most likely because memory "
        "ran out; give it more, or leave that out. What is finished is kept."
    )
    assert sum(name == "07" for name, _ in reads()) == 2
    kept = len(list((folder / "out/unfinished").glob("reading-*")))
    ended = run(PREPARE, *flags(folder, folder / "out", *asked))  # the cause is mended
    assert ended.status == 0
    assert sum(again == "False" for _, again in reads()) == 20 - kept
    assert run(PREPARE, *flags(folder, folder / "whole", *CUT)).status == 0
    assert content(folder / "out") == content(folder / "whole")


def test_an_image_that_cannot_be_read_gives_one_line_and_leaves_nothing(folder):
    path = folder / "images/05.png"
    path.write_bytes(path.read_bytes()[:90])
    asked = flags(folder, folder / "out", "--runner=direct", "--workers=2")
    ended = run(PREPARE, *asked)
    assert ended.status == 2
    assert len(ended.said) == 1
    assert ended.said[0].startswith(f"{path} cannot be read")
    assert ended.said[0].endswith("Fix or remove it, or skip it with --skip_bad.")
    assert not (folder / "out").exists()
    ended = run(PREPARE, *asked, "--skip_bad", "--classes=0,255")
    assert ended.status == 0
    assert (
        run(PREPARE, *flags(folder, folder / "whole", "--skip_bad", "--classes=0,255")).status == 0
    )
    assert content(folder / "out") == content(folder / "whole")


def test_an_engine_that_is_not_there_gives_one_line_and_keeps_what_is_finished(folder):
    (port,) = reserve_ports(1)
    options = f"--job_endpoint=127.0.0.1:{port} --job_server_timeout=1"
    asked = ("--classes=0,255", "--runner=flink", f"--runner_options={options}")
    ended = run(PREPARE, *flags(folder, folder / "out", *asked))
    assert ended.status == 2
    assert ended.said == [
        "--runner=flink failed (FutureTimeoutError); check --runner_options, or start again: what "
        "is finished is kept."
    ]


def test_an_image_that_has_changed_is_read_again(folder, reads):
    asked = flags(folder, folder / "out", *CUT, "--runner=direct", "--workers=1")
    assert run(PREPARE, *asked, DEADLY="19").status == 2
    reads()
    (folder / "images/03.png").write_bytes((folder / "images/04.png").read_bytes())
    assert run(PREPARE, *asked).status == 0
    assert {"03", "19"} <= {name for name, again in reads() if again == "False"}
    assert run(PREPARE, *flags(folder, folder / "whole", *CUT)).status == 0
    assert content(folder / "out") == content(folder / "whole")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--foo=1", "Discarding unparseable args: ['--foo=1']"),
        ("--direct_num_workers=x", "argument --direct_num_workers: invalid int value: 'x'"),
    ],
)
def test_what_beam_refuses_it_says_in_one_line(folder, options, said):
    ended = run(
        PREPARE, *flags(folder, folder / "out", "--runner=direct", f"--runner_options={options}")
    )
    assert ended.status == 2
    assert ended.said == [f"Beam refuses --runner_options: {said}; change them."]


def test_dataflow_takes_no_folder_of_this_machine(folder):
    ended = run(PREPARE, *flags(folder, folder / "out", "--runner=dataflow"))
    assert ended.status == 2
    assert ended.said == [
        f"--images={folder}/images is a folder of this machine, and --runner=dataflow works on "
        f"others; copy it to a bucket: gcloud storage cp -r {folder}/images gs://BUCKET/"
    ]
