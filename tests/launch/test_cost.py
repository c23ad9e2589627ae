"""Costs are sums of listed prices, or unknown."""

import json

import pytest

from launch import cost, hardware, settings
from trainer.config import flags
from trainer.errors import InputError

PRICES = {
    "read": "2026-01-02",
    "currency": "USD",
    "per_hour": [
        {"resource": "n1-standard-8", "region": "us-central1", "on_demand": 0.4, "spot": 0.1},
        {"resource": "NVIDIA_TESLA_T4", "region": "us-central1", "on_demand": 0.5, "spot": None},
        {"resource": "g2-standard-12", "region": "us-central1", "on_demand": 1.0, "spot": 0.3},
        {"resource": "n1-highcpu-16", "region": "us-central1", "on_demand": 0.25, "spot": 0.1},
    ],
}


@pytest.fixture
def estimate(tmp_path):
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(PRICES))

    def of(*argv):
        own = ["--name=n", "--project=p", "--bucket=gs://b", "--image=i", f"--prices={path}"]
        asked = flags.parse(settings.Vertex, ["launch.vertex", *own, *argv])
        return cost.estimate(asked, hardware.choose(asked)[0])

    return of


@pytest.mark.parametrize(
    ("argv", "start"),
    [
        (
            ["--accelerator=t4", "--workers=2", "--timeout=10h"],
            "1.80 USD per hour (on demand), at most 18.00 until --timeout=10h; list prices of 2026",
        ),
        (
            ["--accelerator=l4", "--spot", "--hours=5"],
            "0.30 USD per hour (spot), 1.50 for 5 hours, at most 7.20 until --timeout=24h; ",
        ),
        (
            ["--accelerator=l4", "--workers=2", "--reduction_servers=4"],
            "3.00 USD per hour (on demand), ",
        ),
        (
            ["--accelerator=l4", "--tune=filters:8|16", "--parallel=3"],
            "3.00 USD per hour (on demand); list prices",
        ),
        (
            ["--accelerator=t4", "--spot"],
            "unknown: prices.json of 2026-01-02 has no spot price of NVIDIA_TESLA_T4 in us-",
        ),
        (
            ["--accelerator=l4", "--region=us-east4"],
            "unknown: prices.json of 2026-01-02 has no on_demand price of g2-standard-12 in us-",
        ),
    ],
)
def test_a_cost_is_the_sum_of_what_is_paid_by_the_hour(estimate, argv, start):
    assert estimate(*argv).startswith(start)


def test_a_list_that_cannot_be_read_is_named(estimate):
    with pytest.raises(InputError, match=r"^--prices=nowhere cannot be read: "):
        estimate("--prices=nowhere")


def test_a_list_that_is_no_text_is_named(estimate, tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xff\xff\xff")
    with pytest.raises(InputError, match=r"x.json cannot be read: UnicodeDecodeError"):
        estimate(f"--prices={tmp_path}/x.json")


def test_the_list_that_is_shipped_says_when_and_where_it_was_read():
    prices = json.loads(cost.LIST.read_text())
    assert prices["read"]
    assert prices["source"].startswith("cloud.google.com/")
