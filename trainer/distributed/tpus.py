"""TPUs: connecting to one, and one clear line for each reason why that fails."""

import os
import pathlib
import re
from collections.abc import Sequence

import tensorflow as tf

from trainer.distributed import membership
from trainer.errors import InputError, RetryableError

NEWEST_SUPPORTED = 5  # of the versions; TensorFlow is not built for v6e and later
NOT_BUILT = "ConfigureDistributedTPU"  # the operation that a TensorFlow for CPUs and GPUs lacks
GOOGLE = "0x1ae0"  # as a maker of PCI devices
CHIPS = {
    "0x0027": "v3",  # or v2
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "tpu7x",
}


def connect(name: str) -> tf.distribute.Strategy:
    """Connects to the TPU of that name (`local`: of this machine) and initialises it.

    Raises:
        InputError: there is none, or it and this TensorFlow do not go together.
    """
    chips = attached_chips()
    if name == "local":
        check_version(name, os.environ.get("TPU_ACCELERATOR_TYPE") or "".join(chips[:1]))
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            check_version(name, _accelerator_type(resolver))
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except InputError:
        raise
    # The last is what the client of Google's API lacks where it is not installed.
    except (tf.errors.OpError, ValueError, RuntimeError, OSError, ImportError) as error:
        # Another start finds the same TensorFlow, but may find a TPU that can be reached.
        fault = InputError if chips and NOT_BUILT in str(error) else RetryableError
        raise fault(explain(name, str(error), chips)) from error
    return tf.distribute.TPUStrategy(resolver)


def attached_chips(devices: str = "/sys/bus/pci/devices") -> list[str]:
    """Returns the versions of the TPU chips of this machine, one entry for each."""
    found = []
    for vendor in sorted(pathlib.Path(devices).glob("*/vendor")):
        if vendor.read_text(encoding="ascii").strip() == GOOGLE:
            device = (vendor.parent / "device").read_text(encoding="ascii").strip()
            found += [CHIPS[device]] if device in CHIPS else []
    return found


def check_version(name: str, accelerator: str) -> None:
    """Refuses an accelerator type, such as `v6e-8`, for which TensorFlow is not built.

    Raises:
        InputError: it is one.
    """
    version = re.match(r"(?:v|tpu)(\d+)", accelerator)
    if version and int(version.group(1)) > NEWEST_SUPPORTED:
        raise InputError(
            f"--tpu={name} is a {accelerator}, and TensorFlow runs on TPUs up to v5e and v5p only; "
            "use one of those (docs/tpu.md)."
        )


def explain(name: str, error: str, chips: Sequence[str]) -> str:
    """Returns the line for a TPU that could not be initialised."""
    what = f"--strategy=tpu --tpu={name}"
    if name == "local" and not chips:
        return (
            f"{what} finds no TPU (no chip is attached to this machine); run on a TPU VM with the "
            "tensorflow-tpu package, or name another --strategy."
        )
    if NOT_BUILT in error:
        return (
            f"{what} finds a TPU, but TensorFlow {tf.__version__} as installed is not built for "
            "TPUs; install tensorflow-tpu in its place (docs/tpu.md)."
        )
    return (
        f"{what} cannot be reached or initialised ({membership.shortened(error)}); check its name "
        "and state, and that no other process holds it."
    )


def _accelerator_type(resolver: tf.distribute.cluster_resolver.TPUClusterResolver) -> str:
    """Asks Google's API for the type of a TPU that was given by name; "" for an address."""
    client = resolver._cloud_tpu_client  # there is no public way
    return client.accelerator_type() or "" if client.api_available() else ""
