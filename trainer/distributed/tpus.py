"""TPUs: connecting to one, and one clear line for each reason why that fails."""

import os
import re
from collections.abc import Sequence

import tensorflow as tf
from absl import logging

from trainer.distributed import membership, tpu_runtime, vertex
from trainer.errors import InputError, RetryableError

NEWEST_SUPPORTED = 5  # of the versions that Google's documents name for TensorFlow
NEWEST_SEEN = 6  # to train by TPUStrategy, on one machine
SEEN_FROM = (2, 19, 1)  # of TensorFlow; 2.18 is reported to crash there
CHIPS_OF_A_HOST = 8  # at most, of v6e
NOT_BUILT = "ConfigureDistributedTPU"  # the operation that a TensorFlow for CPUs and GPUs lacks


def connect(name: str) -> tf.distribute.Strategy:
    """Connects to the TPU of that name (`local`: of this machine) and initialises it.

    Raises:
        InputError: there is none, or it and this TensorFlow do not go together.
    """
    chips = tpu_runtime.attached_chips()
    if name == "local":
        check_version(name, os.environ.get("TPU_ACCELERATOR_TYPE") or "".join(chips[:1]))
        check_access(tpu_runtime.closed_devices() if chips else [])
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


def check_version(name: str, accelerator: str, tensorflow: str = tf.__version__) -> None:
    """Refuses an accelerator type, such as `v6e-16`, on which TensorFlow does not train.

    Raises:
        InputError: it is one.
    """
    found = re.match(r"(?:v|tpu)(\d+)[a-z]*(?:-(\d+))?", accelerator)
    version = int(found[1]) if found else 0
    if version <= NEWEST_SUPPORTED:
        return
    several = found is not None and int(found[2] or 0) > CHIPS_OF_A_HOST
    several |= "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    numbers = tuple(int(number) for number in re.findall(r"\d+", tensorflow)[:3])
    if version > NEWEST_SEEN or several or vertex.is_here() or numbers < SEEN_FROM:
        raise InputError(
            f"--tpu={name} is a {accelerator}, and TensorFlow {tensorflow} runs on TPUs up to v5e "
            "and v5p only; use one of those. On one machine outside Vertex AI, v6e is let pass "
            "with tensorflow-tpu from 2.19.1 (docs/tpu.md)."
        )
    logging.warning(
        "--tpu=%s is a %s: Google's documents name no TensorFlow for it. tensorflow-tpu 2.19.1 is "
        "reported to train on one machine of it, not with this package (docs/tpu.md).",
        name,
        accelerator,
    )


def check_access(closed: Sequence[str]) -> None:
    """Refuses device files that this process may not open.

    Raises:
        InputError: there are some.
    """
    if closed:
        raise InputError(
            f"--tpu=local: user {os.getuid()} may not open {', '.join(closed)}; run as root, or "
            "give that user the right to read and write them (docs/tpu.md)."
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
