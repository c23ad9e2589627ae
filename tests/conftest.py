"""Set-up for all tests: four CPU devices, shards with hand-made images, gs:// on loopback."""

import fcntl
import functools
import itertools
import math
import os
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Read when TensorFlow is imported: first wait of its gs:// client between tries, 1 s by itself.
os.environ.setdefault("GCS_RETRY_CONFIG_INIT_DELAY_TIME_US", "10000")

import numpy as np
import pytest
from absl import logging

from tests import forks, jobs, skips
from tests.servers import gcs_server
from trainer import flags
from trainer.data.dataset import schema

pytest_runtest_makereport = skips.pytest_runtest_makereport
flags.prepare_environment()  # as in every command, and before TensorFlow is imported
SECRET = "ya29.not-for-anybody"  # in the environment of a job, where tokens are
_bucket_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Imports what is tested as every command does; a process of tests ends 4 s sooner."""
    with flags.importing():
        return (yield)


@pytest.fixture(scope="session")
def cpus():
    """Splits the CPU into four devices, once, before any other test uses it."""
    import keras
    import tensorflow as tf

    assert keras.backend.backend() == "tensorflow"
    forks.remember({**os.environ, **jobs.COMMON})
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    return [device.name for device in tf.config.list_logical_devices("CPU")]


@pytest.fixture(scope="session", autouse=True)
def _four_devices(cpus):
    """Devices cannot be split any more once TensorFlow has used them."""


@pytest.fixture(autouse=True)
def _open_log():
    """Gives the log the stream of now: a test that ran a command left its own, which is closed."""
    logging.get_absl_handler().python_handler.setStream(sys.stderr)


@pytest.fixture(scope="session")
def gcs_process():
    """One server for all tests; see `gcs`."""
    with gcs_server.serve() as server:
        yield server


@pytest.fixture
def gcs(gcs_process, monkeypatch):
    """A storage server on loopback, to which gs:// leads in this process and those it starts."""
    gcs_process.reset()
    for name, value in gcs_process.environment().items():
        monkeypatch.setenv(name, value)
    return gcs_process


@pytest.fixture
def bucket(gcs):
    """An empty bucket as gs://name, a new name each time: TensorFlow remembers what there was."""
    return gcs.make_bucket(f"bucket-{next(_bucket_numbers)}")


@functools.cache
def strategy_of(number):
    """Returns the strategy over the first 1, 2 or 4 CPU devices, the same one at each call.

    TensorFlow numbers its collectives from the same start in every strategy, so a process can hold
    one strategy that has any. That of four devices reduces by copies instead.
    """
    import tensorflow as tf

    if number == 1:
        return tf.distribute.OneDeviceStrategy("/CPU:0")
    operations = tf.distribute.ReductionToOneDevice() if number == 4 else None
    devices = [f"/CPU:{i}" for i in range(number)]
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=operations)


def without_bfloat16():
    """Skips a test of bfloat16 where the CPU, or what oneDNN may use of it, cannot compute it."""
    from trainer.distributed import strategies

    if math.isinf(strategies._time_small_step("bfloat16", False, repeats=1)):
        pytest.skip(f"this CPU computes no bfloat16, {skips.LEFT_OUT}")


def write_data(folder, sizes, *, num_classes=2, channels=1, num_shards=2, seed=0, bare=()):
    """Writes a data folder of discs on noise and returns its manifest.

    Args:
        folder: an existing path.
        sizes: split → list of (height, width), one per image.
        num_classes: class k is a disc whose brightness is k.
        channels: of the images.
        num_shards: of each split, at most.
        seed: of noise and discs.
        bare: splits of which no image has a disc.
    """
    rng = np.random.default_rng(seed)
    splits = {}
    for split, shapes in sizes.items():
        count = min(num_shards, len(shapes))
        names = [f"{split}{n}" for n in range(len(shapes))]
        drawn = 1 if split in bare else num_classes
        examples = [draw_discs(rng, *shape, channels, drawn) for shape in shapes]
        groups = np.array_split(np.arange(len(shapes)), count)
        shards = tuple(
            schema.write_shard(
                str(folder),
                schema.shard_name(split, k, count),
                [schema.encode(names[n], *examples[n], "png") for n in group],
            )
            for k, group in enumerate(groups)
        )
        masks = np.concatenate([mask.ravel() for _, mask in examples])
        pixels = np.concatenate([image.reshape(-1, channels) for image, _ in examples])
        splits[split] = schema.Split(
            examples=len(shapes),
            shards=shards,
            cases=tuple(names),
            sizes=tuple((*shape, shapes.count(shape)) for shape in sorted(set(shapes))),
            pixels=tuple(int((masks == k).sum()) for k in range(num_classes)),
            ignored_pixels=int((masks == schema.IGNORE).sum()),
            mean=tuple(pixels.mean(axis=0).tolist()),
            std=tuple(pixels.std(axis=0).tolist()),
        )
    manifest = schema.Manifest(
        classes=tuple(schema.Class(f"class{k}", k) for k in range(num_classes)),
        channels=channels,
        bit_depth=8,
        dtype="uint8",
        encoding="png",
        splits=splits,
    )
    schema.write_manifest(manifest, str(folder))
    return manifest


def draw_discs(rng, height, width, channels, num_classes):
    """Returns an image uint8 [H, W, C] and its mask uint8 [H, W]; a corner pixel is ignored."""
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for k in range(1, num_classes):
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask[(rows - y) ** 2 + (columns - x) ** 2 < (min(height, width) / 3) ** 2] = k
    noise = rng.integers(0, 40, (height, width, channels))
    image = (noise + 200 * mask[..., None] // max(1, num_classes - 1)).astype(np.uint8)
    mask[0, 0] = schema.IGNORE
    return image, mask


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A function (name, build) → folder that `build` filled, in one process of tests for all.

    Nobody may write into it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a folder of its own in there
        root = root.parent

    def make(name, build):
        folder, done = root / name, root / f"{name}.done"
        with open(root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir()
                build(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def data_dir(shared):
    """A data folder of small images: eight to train on, three each to validate and test."""
    sizes = {"train": [(40, 40)] * 8, "val": [(40, 40)] * 3, "test": [(48, 33)] * 3}
    return str(shared("data", lambda folder: write_data(folder, sizes)))


@pytest.fixture(scope="session")
def _finished_once(data_dir, shared):
    def build(folder):
        pictures = ["--panels=4", "--worst_panels=4", "--worst_cases=8", "--best_cases=4"]
        environment = {"SOME_TOKEN": SECRET}
        result = jobs.train(data_dir, folder / "run", *pictures, environment=environment)
        assert result.returncode == 0, result.stderr
        (folder / "said").write_text(result.stdout + result.stderr)

    return shared("finished", build)


@pytest.fixture
def finished(_finished_once, tmp_path):
    """A copy of the run folder of a finished job, with pictures; `said` is beside it.

    That is what the job wrote on the terminal, as if it had been into the copy.
    """
    said = (_finished_once / "said").read_text()
    (tmp_path / "finished").mkdir()
    copy = shutil.copytree(_finished_once / "run", tmp_path / "finished" / "run")
    (copy.parent / "said").write_text(said.replace(str(_finished_once / "run"), str(copy)))
    return copy
