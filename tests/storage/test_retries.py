"""Tests of the count of requests that were sent again."""

import os
import subprocess
import sys

import pytest

LINES = """
I0000 00:00:1795401395.483948   29917 retrying_utils.cc:92] The operation failed and will be \
automatically retried in 1.2 seconds (attempt 1 out of 10), caused by: UNAVAILABLE
\t when reading gs://bucket/x
I0000 00:00:1795401396.000000   29917 port.cc:153] oneDNN custom operations are on.
To enable the following instructions: AVX2, rebuild TensorFlow.
F0000 00:00:1795401397.000000   29917 x.cc:1] the last words
a library's own line
"""
CODE = f"""
import os
from trainer import cli, native_log
from trainer.storage import retries
cli._log_plainly()
with retries.reported():
    native_log.begin()
    os.write(2, {LINES.encode()!r})
    END
os.write(2, b"after\\n")
"""


def _said(end, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_CPP")}
    done = subprocess.run(
        [sys.executable, "-c", CODE.replace("END", end)],
        env={**environment, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )
    return [line for line in done.stderr.splitlines() if line]


@pytest.mark.slow
def test_tensorflows_retries_are_counted_and_its_log_is_dropped():
    assert _said("pass") == [
        "F0000 00:00:1795401397.000000   29917 x.cc:1] the last words",
        "a library's own line",
        "gs://: 1 requests were sent again.",
        "after",
    ]


@pytest.mark.slow
def test_last_words_get_through():
    assert _said("os.abort()") == [
        "F0000 00:00:1795401397.000000   29917 x.cc:1] the last words",
        "a library's own line",
    ]


@pytest.mark.slow
def test_whoever_asks_for_the_log_gets_it():
    said = _said("pass", TF_CPP_MIN_LOG_LEVEL="0")
    assert [line[:5] for line in said[:3]] == ["I0000", "\t whe", "I0000"]
    assert said[-2:] == ["gs://: 0 requests were sent again.", "after"]
