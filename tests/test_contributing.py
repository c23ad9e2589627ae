"""The program in CONTRIBUTING, whose rows are not in the package."""

import csv
import os
import re
import subprocess
import sys

import pytest

from tests import jobs
from tests.pages import ROOT


@pytest.mark.slow
def test_a_program_trains_with_a_metric_and_an_augmentation_of_its_own(data_dir, tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```\n", text, re.M | re.S)
    (program,) = (block for block in blocks if "__main__" in block)
    (tmp_path / "own.py").write_text(program, encoding="utf-8")
    own = ["--augment=erase", "--best_metric=size_error"]
    result = subprocess.run(
        [
            *(sys.executable, tmp_path / "own.py", f"--data_dir={data_dir}"),
            *(f"--run_dir={tmp_path / 'run'}", *jobs.SMALL, *own),
        ],
        env={**os.environ, **jobs.COMMON},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    reported = dict(jobs.only(jobs.lines(tmp_path / "run"), "val", "step", "size_error"))
    (best,) = (int(path.name) for path in (tmp_path / "run" / "best").iterdir())
    assert reported[best] == min(reported.values())
    with open(tmp_path / "run" / "evaluation" / "test" / "cases.csv", newline="") as file:
        line = list(csv.DictReader(file))[1]
    truth, prediction = int(line["truth"]), int(line["prediction"])
    assert float(line["size_error"]) == pytest.approx(abs(prediction / truth - 1), abs=1e-6)
