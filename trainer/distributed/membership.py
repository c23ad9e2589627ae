"""Who takes part in a job: the workers that TF_CONFIG, or Vertex AI's CLUSTER_SPEC, names."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import InputError

WORKING_ROLES = ("chief", "master", "worker")  # in this order; the first of all is the chief
# Vertex AI's pools: the first replica, the others, those of the Reduction Server, an evaluator.
POOLS = {
    "workerpool0": "chief",
    "workerpool1": "worker",
    "workerpool2": "ps",
    "workerpool3": "evaluator",
}


@dataclasses.dataclass(frozen=True)
class Membership:
    """The workers of a job, as this process knows them.

    Attributes:
        addresses: `host:port` of each worker; the chief is worker 0.
        index: this worker's.
    """

    addresses: tuple[str, ...]
    index: int

    def name(self, index: int) -> str:
        """Returns how messages name a worker."""
        return f"Worker {index} ({self.addresses[index]})"


def read(environment: Mapping[str, str] = os.environ) -> Membership | None:
    """Returns the workers that the environment names, or None where it names none.

    Tasks that do not train (`ps`, which may be a Reduction Server, and `evaluator`) are
    left out: the others must not wait for them.

    Raises:
        InputError: TF_CONFIG is malformed, or makes this process one that does not train.
    """
    if environment.get("TF_CONFIG"):
        name, roles = "TF_CONFIG", {role: role for role in (*WORKING_ROLES, "ps", "evaluator")}
    elif environment.get("CLUSTER_SPEC"):
        name, roles = "CLUSTER_SPEC", POOLS
    else:
        return None
    text = environment[name]
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{name} is not JSON ({error}); fix it or unset it.") from None
    try:
        cluster = {roles[pool]: addresses for pool, addresses in content["cluster"].items()}
        role, index = roles[content["task"]["type"]], int(content["task"]["index"])
        _check_addresses(cluster)
        if role in WORKING_ROLES and not 0 <= index < len(cluster[role]):
            raise IndexError
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise InputError(
            f"{name} names no address for its own task; it needs cluster[task.type][task.index] "
            f"with task.type one of {', '.join(roles)}: {shortened(text)}"
        ) from None
    if role not in WORKING_ROLES:
        raise InputError(
            f"{name} makes this process {role} {index}, which takes no part in training; start "
            "trainer commands for its chief and workers only."
        )
    order = [(kind, i) for kind in WORKING_ROLES for i in range(len(cluster.get(kind, ())))]
    return Membership(tuple(cluster[kind][i] for kind, i in order), order.index((role, index)))


def _check_addresses(cluster: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError unless each address that trains is host:port."""
    for role in WORKING_ROLES:
        for address in cluster.get(role, ()):
            host, port = address.rsplit(":", 1)
            if not host or not 0 < int(port) < 2**16:
                raise ValueError


def shortened(text: Any) -> str:
    """Returns the first line of a text, at most 160 characters of it."""
    line = str(text).strip().splitlines()[0] if str(text).strip() else type(text).__name__
    return line if len(line) <= 160 else line[:157] + "…"
