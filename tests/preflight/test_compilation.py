"""Where compilers are found, and what they say of a program that does not fit."""

import importlib.metadata

import pytest

from trainer.errors import InputError
from trainer.preflight import compilation
from trainer.preflight.accelerators import ACCELERATORS, GIB


def test_a_compiler_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(InputError) as error:
        compilation.check_installed(ACCELERATORS["v5e"])
    assert str(error.value) == (
        "TPU v5e's compiler is not installed (jax, jaxlib, libtpu); install the extra preflight: "
        "pip install 'unet-trainer[preflight]'."
    )
    with pytest.raises(InputError, match="extra preflight-gpu"):
        compilation.check_installed(ACCELERATORS["h100"])


@pytest.mark.parametrize(
    ("report", "gib"),
    [
        ("Ran out of memory in memory space hbm. Used 31.50G of 15.75G hbm. Exceeded", 31.5),
        ("the total memory required for HLO temporaries (600.00G) exceeds available", 600.0),
        ("Ran out of memory", None),
    ],
)
def test_a_compilers_report_says_how_much_was_needed(report, gib):
    compiled = compilation.Compiled(error=report)
    assert compiled.total == (None if gib is None else gib * GIB)


def test_the_cache_is_where_the_users_caches_are(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert compilation.default_cache() == "/somewhere/unet-trainer/preflight"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert compilation.default_cache().endswith("/.cache/unet-trainer/preflight")
