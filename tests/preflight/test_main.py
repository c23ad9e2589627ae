"""The command: its flags, and the batch that fits."""

import pytest

from trainer import config
from trainer.config import flags
from trainer.errors import InputError
from trainer.preflight import __main__ as preflight
from trainer.preflight.accelerators import ACCELERATORS


def test_choices_are_the_rows_of_the_table():
    rules = {name: rule for name, _, rule in config.walk(config.Target())}
    assert set(rules["accelerator"]["choices"]) == set(ACCELERATORS)


def trials_of(largest, start, multiple=1):
    """Returns the batch found where `largest` images fit, and those tried."""
    tried = []

    def figures_of(batch_size):
        tried.append(batch_size)
        return {
            "fits": batch_size <= largest,
            "batch_size": batch_size,
            "memory_gib": {"total": None},
            "usable_memory_gib": 15.75,
            "images_per_second_estimate": None,
            "cached": False,
            "compile_seconds": 1.0,
        }

    return preflight.largest_batch(figures_of, start, multiple), tried


@pytest.mark.parametrize(
    ("largest", "start", "multiple", "found", "tried"),
    [
        (45, 8, 1, 32, [8, 16, 32, 64]),
        (45, 256, 1, 32, [256, 128, 64, 32]),
        (20, 54, 6, 12, [54, 24, 12]),  # halves are rounded down to multiples
        (1, 6, 6, 6, [6]),  # the smallest does not fit
        (0, 3, 1, 1, [3, 1]),
    ],
)
def test_a_batch_is_doubled_or_halved_to_the_largest_that_fits(
    largest, start, multiple, found, tried
):
    assert trials_of(largest, start, multiple) == (found, tried)


def parsed(*arguments):
    return flags.parse(config.Preflight, ["preflight", *arguments])


def test_the_flags_of_training_are_those_of_preflight():
    settings = parsed("--accelerator=h100", "--chips=4", "--filters=64", "--batch_size=32")
    assert settings.target.accelerator == "h100"
    assert settings.job == config.Job(
        data=config.Data(batch_size=32), model=config.Model(filters=64)
    )
    assert preflight.batch_per_replica(settings, ACCELERATORS["h100"]) == 8


def test_a_chip_of_two_cores_has_two_replicas():
    settings = parsed("--accelerator=v3", "--chips=4", "--batch_size=32")
    assert preflight.batch_per_replica(settings, ACCELERATORS["v3"]) == 4


def test_chips_that_do_not_divide_the_batch_are_named():
    settings = parsed("--chips=3", "--batch_size=32", "--accumulate_steps=2")
    with pytest.raises(InputError) as error:
        preflight.batch_per_replica(settings, ACCELERATORS["v5e"])
    assert str(error.value) == (
        "--batch_size=32 does not divide among 3 replicas (--chips=3) × --accumulate_steps=2; use "
        "a multiple of 6."
    )


@pytest.mark.parametrize(
    ("missing", "arguments", "alone"),
    [
        ([], [], False),
        (["jax-cuda12-pjrt"], [], True),
        (["jax", "jax-cuda12-pjrt"], [], False),  # which writes StableHLO
        (["jax-cuda12-pjrt"], ["--find_batch"], False),
        (["jax-cuda12-pjrt"], ["--json=FILE"], False),
    ],
)
def test_a_step_is_exported_alone_where_no_more_than_the_chips_compiler_is_missing(
    missing, arguments, alone, monkeypatch
):
    monkeypatch.setattr(preflight.compilation, "missing", lambda accelerator: missing)
    target = parsed("--accelerator=h100", "--export=step.zip", *arguments).target
    assert preflight.only_exports(target, ACCELERATORS["h100"]) == alone
    target = parsed("--accelerator=h100", *arguments).target
    assert not preflight.only_exports(target, ACCELERATORS["h100"])


def test_an_accelerator_that_is_not_in_the_table_is_refused_with_a_near_one():
    with pytest.raises(InputError, match="did you mean h100?"):
        parsed("--accelerator=h10")


def test_help_names_the_command():
    text = flags.describe(config.Preflight, "trainer.preflight.__main__")
    assert text.startswith("python -m trainer.preflight [--flag=value …]")
    assert "--find_batch" in text
    assert "--accumulate_steps" in text


@pytest.mark.parametrize(("gib", "need"), [(31.54, "31.5 GiB"), (None, "more")])
def test_a_step_that_does_not_fit_is_one_line(gib, need):
    figures = {
        "accelerator": "TPU v5e",
        "batch_size": 32,
        "batch_size_per_replica": 16,
        "memory_gib": {"total": gib},
        "usable_memory_gib": 15.75,
    }
    assert preflight.too_large(figures) == (
        f"--batch_size=32 does not fit: 16 images per replica need {need}, its compiler says, and "
        "TPU v5e has 15.75 GiB; use --find_batch, a smaller --batch_size, more --chips or "
        "--accumulate_steps."
    )
