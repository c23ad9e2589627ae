"""The batch for an accelerator, with a compiler that is none."""

import dataclasses

import pytest

from tests.data.planning.test_nnunet_rules import HIPPOCAMPUS
from trainer import config
from trainer.errors import InputError
from trainer.plan import accelerated
from trainer.preflight.accelerators import ACCELERATORS

MANY = dataclasses.replace(HIPPOCAMPUS, pixels=10**8)  # of which 5 % are 55 patches


def choose(largest, rate=100.0, **flags):
    """Returns (batch, steps, reason) where so many examples fit into a replica, and what ran."""
    settings = config.Plan(**{"accelerator": "v5e", **flags})
    tried = []

    def compile_step(job, replicas):
        tried.append(job.data.batch_size)
        fits = job.data.batch_size <= largest * replicas
        return {"fits": fits, "images_per_second_estimate": rate}

    accelerator = ACCELERATORS[settings.accelerator]
    setup, steps, reason = accelerated.choose(settings, accelerator, MANY, [], compile_step)
    return setup.batch_size, steps, reason, tried


def test_the_largest_batch_that_fits_is_a_power_of_two_on_each_replica():
    assert list(accelerated.batches(55, 1)) == [32, 16, 8, 4, 2, 1]
    assert list(accelerated.batches(55, 4)) == [32, 16, 8, 4]
    assert list(accelerated.batches(3, 4)) == [4]
    assert choose(20)[0::3] == (16, [32, 16])
    assert choose(20, chips=4)[0::3] == (32, [32])
    assert choose(20, accelerator="v3")[0::3] == (32, [32])  # two replicas to a chip


def test_steps_are_what_the_estimate_allows_in_the_time():
    _, steps, reason, _ = choose(16, minutes=10)
    assert steps == int(0.7 * 600 * 100 / 16)
    assert reason.startswith("100 examples a second by the estimate of the compiler, for 70% of 10")
    assert choose(16)[1] == 6975  # 100 passes of 10^8 voxels, by 16 · 89600 a step


def test_a_compiler_without_times_takes_no_minutes():
    with pytest.raises(InputError, match=r"^--minutes=10 needs to know how long a step takes, "):
        choose(16, rate=None, accelerator="h100", minutes=10)


def test_what_does_not_fit_at_all_is_refused():
    with pytest.raises(InputError) as error:
        choose(0)
    assert str(error.value) == (
        "--accelerator=v5e: not even a batch of 1 fits into it, with 40×56×40 and 32 filters; "
        "choose a larger one."
    )
