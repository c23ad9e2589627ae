"""Set-up for all tests: four CPU devices, shards with hand-made images, gs:// on loopback."""

import fcntl
import itertools
import os
import shutil
import signal
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Read when TensorFlow is imported: first wait of its gs:// client between tries, 1 s by itself.
os.environ.setdefault("GCS_RETRY_CONFIG_INIT_DELAY_TIME_US", "10000")
# As in an environment that is active, so that commands are printed as the pages have them.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"

import pytest
from absl import logging

from tests import forks, jobs, shards, skips
from tests.servers import gcs_server
from trainer import cli

pytest_runtest_makereport = skips.pytest_runtest_makereport
cli.prepare_environment()  # as in every command, and before TensorFlow is imported
_bucket_numbers = itertools.count(1)


# A shell lets what it starts in the background ignore Ctrl-C, and so do all processes of that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Imports what is tested as every command does; a process of tests ends 4 s sooner."""
    with cli.importing():
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
def _float32(_four_devices):
    """A command that runs in this process leaves the precision it computed with."""
    import keras

    yield
    keras.mixed_precision.set_global_policy("float32")


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
    return str(shared("data", lambda folder: shards.write_data(folder, sizes)))


@pytest.fixture(scope="session")
def folds_dir(shared):
    """A data folder of three folds of four small images, and as many to test."""
    return str(shared("folds", shards.write_folds))


@pytest.fixture(scope="session")
def _finished_once(data_dir, shared):
    def build(folder):
        pictures = ["--panels=4", "--worst_panels=4", "--worst_cases=8", "--best_cases=4"]
        environment = {"SOME_TOKEN": jobs.SECRET}
        result = jobs.train(data_dir, folder / "run", *pictures, environment=environment)
        assert result.returncode == 0, result.stderr
        (folder / "said").write_text(result.stdout + result.stderr)

    return shared("finished", build)


@pytest.fixture
def finished(_finished_once, tmp_path):
    """A copy of the run folder of a finished job, with pictures; `said` is beside it.

    That is what the job wrote on the terminal, with the path of the copy.
    """
    said = (_finished_once / "said").read_text()
    (tmp_path / "finished").mkdir()
    copy = shutil.copytree(_finished_once / "run", tmp_path / "finished" / "run")
    (copy.parent / "said").write_text(said.replace(str(_finished_once / "run"), str(copy)))
    return copy
