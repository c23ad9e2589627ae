"""TensorFlow's own errors reach the user, its notices do not."""

import os
import subprocess
import sys

import pytest

from tests.jobs import ROOT

pytestmark = pytest.mark.slow  # each starts two processes

NOW = "00:00:1795839740.042082    2879"
SHOWN = [
    f"E0000 {NOW} cuda_dnn.cc:524] Loaded runtime CuDNN library: 8.2.1 but source was compiled "
    "with: 9.3.0.  CuDNN library needs to have matching major version",
    f"W0000 {NOW} bfc_allocator.cc:501] Allocator (GPU_0_bfc) ran out of memory trying to allocate "
    "2.00GiB (rounded to 2147483648)requested by op conv",
    f"W0000 {NOW} gpu_device.cc:2342] Cannot dlopen some GPU libraries. Skipping registering GPU "
    "devices...",
    "2026-11-28 04:00:00.123456: W tensorflow/stream_executor/platform/default/dso_loader.cc:64] "
    "Could not load dynamic library 'libcudnn.so.8'; dlerror: no such file",
    "2026-11-28 04:00:00.123456: E tensorflow/core/x.cc:1] something went wrong",
    "\t as its second line says",
    "",
    f"F0000 {NOW} cpu_feature_guard.cc:1] The TensorFlow library was compiled to use AVX "
    "instructions, but these aren't available on your machine.",
    "a library's own line",
]
DROPPED = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    f"I0000 {NOW} port.cc:153] oneDNN custom operations are on. You may see slightly different",
    "To enable the following instructions: AVX2, in other operations, rebuild TensorFlow.",
    f"W0000 {NOW} dataset.cc:997] Input of GeneratorDatasetOp::Dataset will not be optimized",
    f"W0000 {NOW} op_kernel.cc:1] OP_REQUIRES failed at example.cc:9: DATA_LOSS: corrupted record",
    "\t [[{{node IteratorGetNext}}]]",
    f"E0000 {NOW} util.cc:131] oneDNN supports DT_UINT8 only on platforms with AVX-512. Falling",
    f"E0000 {NOW} cuda_fft.cc:467] Unable to register cuFFT factory: Attempting to register",
]
CODE = """
import os, sys
from trainer import native_log
native_log.begin()
os.write(2, sys.argv[1].encode())
print("Python's own line", file=sys.stderr)
exec(sys.argv[2])
"""


def said(lines, then="", **variables):
    """Returns what a process lets through of lines that it writes on its file descriptor 2."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_CPP")}
    done = subprocess.run(
        [sys.executable, "-c", CODE, "".join(f"{line}\n" for line in lines), then],
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stderr.splitlines()


def test_errors_and_what_goes_wrong_with_memory_and_gpus_get_through_and_notices_do_not():
    lines = said([*DROPPED, *SHOWN, *DROPPED])
    assert [line for line in lines if line != "Python's own line"] == SHOWN
    assert "Python's own line" in lines


def test_the_last_words_of_a_crash_get_through():
    assert SHOWN[7] in said(SHOWN[7:8], "os.abort()")


def test_that_a_driver_cannot_be_used_is_no_error_where_there_is_no_gpu():
    line = f"E0000 {NOW} cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: (303)"
    assert (line in said([line])) is any(name.startswith("nvidia") for name in os.listdir("/dev"))


@pytest.mark.parametrize(
    ("level", "severities"), [("0", "WIEF"), ("1", "WEF"), ("2", "EF"), ("3", "F")]
)
def test_whoever_sets_a_level_gets_that_level(level, severities):
    lines = [f"{severity}0000 {NOW} x.cc:1] said" for severity in "WIEF"]
    shown = [line for line in said(lines, TF_CPP_MIN_LOG_LEVEL=level) if "said" in line]
    assert shown == [line for line in lines if line[0] in severities]


def test_where_the_filter_cannot_be_started_all_is_shown(monkeypatch):
    code = f"import sys\nsys.executable = '/no'\n{CODE}"
    monkeypatch.setattr(sys.modules[__name__], "CODE", code)
    assert [line for line in said(DROPPED) if line != "Python's own line"] == DROPPED


def test_a_command_shows_no_notice_of_a_tensorflow_that_is_well():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_CPP")}
    code = "from trainer import cli\ncli.prepare_environment()\n"
    code += "with cli.importing():\n import tensorflow as tf\n"
    code += "tf.function(lambda x: 2 * x, jit_compile=True)(tf.constant(1.0))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
