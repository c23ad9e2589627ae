"""What takes the compilers of accelerators: nothing is skipped in CI."""

from tests import skips

pytest_runtest_makereport = skips.pytest_runtest_makereport
