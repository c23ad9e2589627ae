"""Servers on loopback that speak S3 and Azure Blob Storage, each in a process of its own.

TensorFlow holds Python's lock while it opens a checkpoint, so a server cannot be a thread.
"""

import contextlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests import skips

pytest_runtest_makereport = skips.pytest_runtest_makereport
SECONDS_TO_START = 60
# The account of every emulator of Azure's, and its key, which Microsoft publishes.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

# tensorflow-io does not come again when a connection that lay idle was closed, which Azurite does
# after 5 s, whatever its --blobKeepAliveTimeout says. This puts it off.
KEEP_CONNECTIONS = """
const http = require("http");
const createServer = http.createServer;
http.createServer = (...options) => {
  const server = createServer(...options);
  Object.defineProperty(server, "keepAliveTimeout", { get: () => 3600 * 1000, set: () => {} });
  return server;
};
"""


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """Starts moto's server and yields s3://bucket; this process and its children talk to it."""
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "S3_ENDPOINT": address,
        "S3_VERIFY_SSL": "0",
    }
    program = pathlib.Path(sys.executable).parent / "moto_server"
    command = [program, "-H", "127.0.0.1", "-p", str(port)]
    with _server(command, address, environment, tmp_path_factory.mktemp("s3")):
        urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"))
        yield "s3://bucket"


@pytest.fixture(scope="session")
def az(tmp_path_factory):
    """Starts Azurite and yields az://account/container; see `s3`."""
    program = pathlib.Path(sys.prefix) / "node_modules/.bin/azurite-blob"
    if not program.exists():
        pytest.skip("Azurite is not installed; `make test-io` installs it where there is npm.")
    port = _free_port()
    environment = {
        "TF_AZURE_STORAGE_BLOB_ENDPOINT": f"127.0.0.1:{port}/{ACCOUNT}",
        "TF_AZURE_STORAGE_USE_HTTP": "1",
        "TF_AZURE_STORAGE_KEY": KEY,
    }
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    folder = tmp_path_factory.mktemp("az")
    (folder / "keep.js").write_text(KEEP_CONNECTIONS)
    command = [program, "--blobPort", str(port), *options]
    environment["NODE_OPTIONS"] = f"--require={folder}/keep.js"
    with _server(command, f"http://127.0.0.1:{port}", environment, folder):
        import tensorflow as tf

        from trainer.storage import files

        container = f"az://{ACCOUNT}/container"
        files.register_stores(container)
        tf.io.gfile.makedirs(container)
        yield container


@pytest.fixture(scope="module", params=["s3", "az"])
def bucket(request):
    """Yields s3://bucket, then az://account/container."""
    return request.getfixturevalue(request.param)


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def _server(command, address, environment, folder):
    """Keeps a server running, and the environment that leads to it."""
    with pytest.MonkeyPatch.context() as patch, open(folder / "log", "w") as log:
        for name, value in environment.items():
            patch.setenv(name, value)
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait_for(address, server, folder / "log")
            yield
        finally:
            server.kill()
            server.wait()


def _wait_for(address, server, log):
    for _ in range(10 * SECONDS_TO_START):
        try:
            urllib.request.urlopen(address)
        except urllib.error.HTTPError:
            return  # it answers
        except urllib.error.URLError:
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"The server ended: {log.read_text()}")
        else:
            return
    pytest.fail(f"The server did not start: {log.read_text()}")
