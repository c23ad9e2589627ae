"""`launch.vertex --preflight` with the TPU's own compiler: `make test-preflight`."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.servers import vertex_server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="takes the extra preflight"
)

SMALL = ("--filters=2", "--depth=1", "--crop=32", "--batch_size=8")


def launch(service, *argv, flags):
    """Runs the command with --preflight; its request goes to the service on loopback."""
    own = ("--name=n", "--project=lab", "--bucket=gs://b", "--image=i", "--accelerator=v5e")
    return subprocess.run(
        [sys.executable, "-m", "launch.vertex", *own, *argv, "--preflight", "--", *flags],
        env={**os.environ, **service.environment()},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_fits_continues_and_what_does_not_is_one_line_before_anything_is_sent():
    with vertex_server.serve() as service:
        fits = launch(service, "--count=4", "--dry_run", flags=SMALL)
        too_large = (*SMALL, "--batch_size=8000000")
        refused = launch(service, "--count=4", flags=too_large)
    assert fits.returncode == 0, fits.stderr
    assert "TPU v5e × 4: unet, 2 filters, depth 1, 32×32×3, bfloat16, batch 8" in fits.stderr
    (pool,) = json.loads(fits.stdout)["jobSpec"]["workerPoolSpecs"]
    assert pool["machineSpec"]["tpuTopology"] == "2x2"
    assert refused.returncode == 2, refused.stderr
    assert refused.stdout == ""
    line = refused.stderr.splitlines()[-1]
    assert line.startswith("--batch_size=8000000 does not fit --accelerator=v5e: 2000000 images ")
    assert line.endswith("; use a smaller --batch_size, a larger --count, or --accumulate_steps.")
    assert refused.stderr.count("does not fit") == 1
    assert {method for method, _, _ in service.requests} == {"GET"}
