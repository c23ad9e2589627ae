"""Tests of preparing data from and into a bucket."""

import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.servers import gcs_server
from trainer import cli, config
from trainer.config import flags
from trainer.data.dataset import case_index, integrity, schema
from trainer.data.prepare import kept, pairing, prefetch, preparation
from trainer.errors import InputError
from trainer.storage import files

pytestmark = pytest.mark.slow  # a storage server, and clients that wait before they try again


@pytest.fixture
def pictures(tmp_path):
    """A folder with images/ and masks/ of ten cases, 00 … 09: noise, 16×16, a square of nucleus."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for case in range(10):
        mask = np.zeros((16, 16), np.uint8)
        mask[4:8, 4:8] = 255
        noise = rng.integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"images/{case:02}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{case:02}.png")
    return tmp_path


def _arguments(pictures, output, *others):
    return [
        f"--images={pictures}/images",
        f"--masks={pictures}/masks",
        f"--output={output}",
        "--workers=1",
        *others,
    ]


def _prepare(*arguments):
    settings = flags.parse(config.Prepare, ["prepare", *arguments])
    return preparation.prepare(settings)


def _refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.run(config.Prepare, preparation.prepare, ["prepare", *arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def _upload(gcs, pictures, bucket):
    for kind in ("images", "masks"):
        for path in (pictures / kind).iterdir():
            gcs.write(f"{bucket}/raw/{kind}/{path.name}", path.read_bytes())
    return f"--images={bucket}/raw/images", f"--masks={bucket}/raw/masks"


def test_a_bucket_takes_the_same_bytes_as_a_folder(gcs, bucket, pictures):
    manifest = _prepare(*_arguments(pictures, pictures / "out"))
    assert _prepare(*_arguments(pictures, f"{bucket}/set")) == manifest
    names = sorted(path.name for path in (pictures / "out").iterdir())
    assert gcs.names(f"{bucket}/set/") == names
    for name in names:
        assert gcs.read(f"{bucket}/set/{name}") == (pictures / "out" / name).read_bytes()
    assert schema.read_manifest(f"{bucket}/set") == manifest


def test_a_bucket_takes_the_same_indexes_as_a_folder(gcs, bucket, pictures, monkeypatch):
    monkeypatch.setattr(case_index, "MOST_LISTED", 0)
    test_a_bucket_takes_the_same_bytes_as_a_folder(gcs, bucket, pictures)
    found = schema.read_manifest(f"{bucket}/set")
    read = case_index.with_cases(f"{bucket}/set", found, ["test"]).splits["test"]
    assert len(read.names) == read.examples
    # What a killed start has uploaded is not sent again, and of other settings is removed.
    files.remove(f"{bucket}/set/manifest.json")
    gcs.write(f"{bucket}/set/fold1-train-cases.jsonl", b'["a", "1"]\n')
    before = gcs.read(f"{bucket}/set/test-cases.jsonl")
    assert _prepare(*_arguments(pictures, f"{bucket}/set")) == found
    assert gcs.read(f"{bucket}/set/test-cases.jsonl") == before
    assert "fold1-train-cases.jsonl" not in gcs.names(f"{bucket}/set/")
    gcs.write(f"{bucket}/set/test-cases.jsonl", before.replace(b"0", b"1"))
    with pytest.raises(InputError, match=r"/set/test-cases\.jsonl is not the index of the manife"):
        case_index.with_cases(f"{bucket}/set", found, ["test"])
    with pytest.raises(InputError, match=r"/set/test-cases\.jsonl is not the index of the manife"):
        integrity.check(f"{bucket}/set", found, ["test"])


def test_pictures_may_be_in_a_bucket_too(gcs, bucket, pictures):
    raw = _upload(gcs, pictures, bucket)
    manifest = _prepare(*_arguments(pictures, pictures / "out"))
    assert _prepare(*raw, f"--output={bucket}/set", "--workers=2") == manifest
    globbed = [f"--images={bucket}/raw/images/*.png", f"--masks={bucket}/raw/masks/0?.png"]
    assert _prepare(*globbed, f"--output={pictures}/second", "--workers=1") == manifest


def test_folders_of_a_bucket_may_have_files_of_equal_names(gcs, bucket, pictures):
    for kind in ("images", "masks"):
        for path in sorted((pictures / kind).iterdir()):
            where = pictures / kind / f"p{path.stem[1]}"
            where.mkdir()
            path.rename(where / "scan.png")
            gcs.write(
                f"{bucket}/raw/{kind}/{where.name}/scan.png", (where / "scan.png").read_bytes()
            )
    manifest = _prepare(*_arguments(pictures, pictures / "out"))
    names = {name for split in manifest.splits.values() for name in split.cases}
    assert names == {f"p{k}/scan" for k in range(10)}
    raw = f"--images={bucket}/raw/images", f"--masks={bucket}/raw/masks"
    assert _prepare(*raw, f"--output={bucket}/set", "--workers=1") == manifest


def test_pages_of_a_tiff_may_be_in_a_bucket_too(gcs, bucket, pictures):
    for kind in ("images", "masks"):
        paths = sorted((pictures / kind).iterdir())
        first, *others = map(Image.open, paths[:4])
        first.save(pictures / kind / "stack.tif", save_all=True, append_images=others)
        for path in paths[:4]:
            path.unlink()
    raw = _upload(gcs, pictures, bucket)
    manifest = _prepare(*_arguments(pictures, pictures / "out"))
    assert sum(split.examples for split in manifest.splits.values()) == 10
    assert _prepare(*raw, f"--output={bucket}/set", "--workers=1") == manifest


@pytest.fixture
def stacks(gcs, bucket, tmp_path):
    """Flags for two images and masks of ten pages of noise, 320×320, in a bucket and a folder."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for name in ("a", "b"):
            noise = rng.integers(0, 2 if kind == "masks" else 256, (10, 320, 320), np.uint8)
            path = tmp_path / kind / f"{name}.tif"
            tifffile.imwrite(path, noise, photometric="minisblack")
            gcs.write(f"{bucket}/{kind}/{name}.tif", path.read_bytes())
    return [
        [f"--{kind}={where}/{kind}" for kind in ("images", "masks")] for where in (bucket, tmp_path)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_of_a_tiff_is_fetched_without_the_others(gcs, stacks, tmp_path, workers):
    remote, local = stacks
    manifest = _prepare(*local, f"--output={tmp_path}/local", "--workers=1")
    gcs.begin(gcs_server.Faults())
    assert _prepare(*remote, f"--output={tmp_path}/out", f"--workers={workers}") == manifest
    assert _bytes_of(tmp_path / "out") == _bytes_of(tmp_path / "local")
    total = sum(path.stat().st_size for path in tmp_path.glob("*/*.tif"))
    # For the places of the pages up to all of a file, and for both passes all of its pages.
    assert 2 * total < gcs.counts().bytes_down < 4 * total


def _bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_disk_holds_few_images_of_a_tiff(stacks, tmp_path, monkeypatch):
    remote, local = stacks
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    settings = flags.parse(config.Prepare, ["prepare", *remote])
    pairs, _ = pairing.find_pairs(settings, str(scratch))
    assert _bytes_on_disk(scratch) == 0
    seen = list(prefetch.results(map, lambda pair: _bytes_on_disk(scratch), pairs, 1))
    page = 320 * 320
    assert len(seen) == 20
    assert 2 * page <= max(seen) <= 6 * (page + 2 * 4096)  # a file's blocks are of 4 kB
    assert _bytes_on_disk(scratch) == 0


def _bytes_on_disk(folder):
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def test_pages_that_were_read_are_not_read_again_by_another_start(stacks, tmp_path):
    settings = flags.parse(config.Prepare, ["prepare", *stacks[0]])
    starts = [pairing.find_pairs(settings, str(tmp_path / name))[0] for name in ("a", "b")]
    first, second = (kept.names("reading", str, [list(pairs)]) for pairs in starts)
    assert first == second
    kept.Kept(str(tmp_path / "kept")).store("item", list(starts[0]))
    assert kept.Kept(str(tmp_path / "kept")).load("item") == list(starts[1])


def test_arrays_may_be_in_a_bucket_too(gcs, bucket, pictures):
    for kind, values in (("x", np.arange(10)), ("y", np.arange(10) % 2)):
        array = np.broadcast_to(values[:, None, None].astype(np.uint8), (10, 4, 4))
        np.save(pictures / f"{kind}.npy", array)
        gcs.write(f"{bucket}/{kind}.npy", (pictures / f"{kind}.npy").read_bytes())
    arrays = [f"--images={bucket}/x.npy", f"--masks={bucket}/y.npy"]
    manifest = _prepare(*arrays, f"--output={bucket}/set", "--workers=1")
    assert sum(split.examples for split in manifest.splits.values()) == 10


def test_a_second_start_uploads_only_what_is_missing(gcs, bucket, pictures, caplog):
    manifest = _prepare(*_arguments(pictures, f"{bucket}/set"))
    second = f"{bucket}/second"
    shards = [shard for split in manifest.splits.values() for shard in split.shards]
    for shard in shards[:4]:  # like a first start that was stopped in the middle
        gcs.write(f"{second}/{shard.name}", gcs.read(f"{bucket}/set/{shard.name}"))
    of_other_settings = gcs.read(f"{bucket}/set/{shards[5].name}")
    gcs.write(f"{second}/{shards[4].name}", of_other_settings)
    gcs.begin(gcs_server.Faults())
    with caplog.at_level("INFO", logger="absl"):
        assert _prepare(*_arguments(pictures, second)) == manifest
    left = len(shards) - 4
    assert not [name for name in gcs.names(f"{second}/") if name.startswith("unfinished")]
    said = f"Uploaded {left} shards; 4 existed already."
    assert said in [record.getMessage() for record in caplog.records]


def test_an_object_of_another_kind_is_not_overwritten(gcs, bucket, pictures, capsys):
    path = f"{bucket}/set/val-00000-of-00001.tfrecord"
    gcs.write(path, b"theirs")
    line = _refusal(capsys, *_arguments(pictures, f"{bucket}/set"))
    assert line.startswith(f"{path} exists, and this command did not write it; ")
    assert gcs.names(f"{bucket}/set/") == ["val-00000-of-00001.tfrecord"]


def test_finished_data_in_a_bucket_are_not_overwritten(gcs, bucket, pictures, capsys):
    _prepare(*_arguments(pictures, f"{bucket}/set"))
    assert "already has a manifest.json" in _refusal(capsys, *_arguments(pictures, f"{bucket}/set"))


def test_faults_do_not_change_what_is_prepared(gcs, bucket, pictures):
    raw = _upload(gcs, pictures, bucket)
    manifest = _prepare(*raw, f"--output={bucket}/calm", "--workers=1")
    gcs.begin(gcs_server.Faults(busy=0.1, cut=0.05, slow=0.1, outage_after=5, outage_seconds=1.0))
    assert _prepare(*raw, f"--output={bucket}/stormy", "--workers=1") == manifest
    counts = gcs.counts().faults
    assert min(counts[kind] for kind in ("busy", "cut", "slow", "outage")) > 0
    assert json.loads(gcs.read(f"{bucket}/stormy/manifest.json")) == json.loads(
        gcs.read(f"{bucket}/calm/manifest.json")
    )


def requests_to(gcs, bucket):
    """Returns the requests for a bucket: threads of a test before may still ask for its own."""
    objects = gcs.counts().objects.items()
    return sum(number for (_, path), number in objects if path.split("/")[0] == bucket)


@pytest.mark.parametrize(("flag", "name"), [("--images", "missing"), ("--output", "absent")])
def test_a_bucket_that_does_not_exist_is_named_at_once(gcs, pictures, capsys, flag, name):
    arguments = [one for one in _arguments(pictures, "out") if not one.startswith(flag)]
    assert _refusal(capsys, *arguments, f"{flag}=gs://{name}/set").endswith(
        f": there is no bucket {name}; create it, or name another."
    )
    assert requests_to(gcs, name) <= 4


def test_a_bucket_that_is_closed_is_named_at_once(gcs, pictures, capsys):
    gcs.make_bucket("closed", forbidden=True)
    line = _refusal(capsys, *_arguments(pictures, "gs://closed/set"))
    assert line == (
        "gs://closed/set/manifest.json: access is denied (403: tester does not have "
        "storage.objects access to the bucket.); have the role Storage Object User granted on the "
        "bucket closed."
    )
    assert requests_to(gcs, "closed") <= 4


def test_a_folder_without_pictures_is_named(bucket, pictures, capsys):
    line = _refusal(capsys, *_arguments(pictures, "out")[1:], f"--images={bucket}/nothing")
    assert line.startswith(f"--images={bucket}/nothing holds no images (")


def test_the_command_prepares_into_a_bucket_without_tensorflow(gcs, bucket, pictures):
    code = (
        "import sys; from trainer import config; from trainer.config import flags\n"
        "from trainer.data.prepare import preparation\n"
        "preparation.prepare(flags.parse(config.Prepare, sys.argv))\n"
        "assert 'tensorflow' not in sys.modules"
    )
    arguments = _arguments(pictures, f"{bucket}/set")
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    assert "manifest.json" in gcs.names(f"{bucket}/set/")
