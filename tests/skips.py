"""What is skipped is said, and where everything is to run, in CI, it fails."""

import os

import pytest

LEFT_OUT = "which CI leaves out"  # in the reason of a skip that is meant there, too


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Turns a skip into a failure where the environment has CI, as continuous integration sets."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        if LEFT_OUT not in str(reason):
            report.outcome = "failed"
            report.longrepr = f"{reason}; in CI nothing is skipped: install it, or unset CI."
    return report
