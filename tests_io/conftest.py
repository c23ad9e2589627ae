"""An S3 server on loopback, in a process of its own."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

SECONDS_TO_START = 60


@pytest.fixture(scope="session")
def bucket(tmp_path_factory):
    """Starts the server and returns s3://bucket; this process and its children talk to it.

    TensorFlow holds Python's lock while it opens a checkpoint, so the server cannot be a thread.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    given = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "S3_ENDPOINT": address,
        "S3_VERIFY_SSL": "0",
    }
    log = tmp_path_factory.mktemp("server") / "log"
    command = [pathlib.Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1"]
    with pytest.MonkeyPatch.context() as patch, open(log, "w") as file:
        for name, value in given.items():
            patch.setenv(name, value)
        server = subprocess.Popen([*command, "-p", str(port)], stdout=file, stderr=file)
        try:
            _make_bucket(f"{address}/bucket", server, log)
            yield "s3://bucket"
        finally:
            server.kill()
            server.wait()


def _make_bucket(address, server, log):
    for _ in range(10 * SECONDS_TO_START):
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="PUT"))
        except urllib.error.URLError:
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"The server ended: {log.read_text()}")
        else:
            return
    pytest.fail(f"The server did not start: {log.read_text()}")
