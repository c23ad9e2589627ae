"""Machines by the everyday name of their accelerator, from the table in hardware.json."""

import dataclasses
import difflib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from launch import settings
from trainer.errors import InputError

TABLE = pathlib.Path(__file__).with_name("hardware.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machines:
    """What a job runs on, at one place.

    Attributes:
        region: where.
        accelerator: its everyday name.
        title: its full name.
        kind: cpu, gpu or tpu.
        accelerator_type: of the request; None where the machine type says all.
        count: accelerators of each machine.
        workers: machines.
        reduction_servers: machines that sum the workers' gradients.
        machine: machine type.
        topology: of a TPU.
        disk: type of the boot disk.
        environment: variables that the accelerator needs.
        quota: name of the quota's metric; None where it is not known.
        memory_gb: of each machine; None where it is not known.
    """

    region: str
    accelerator: str
    title: str
    kind: str
    accelerator_type: str | None
    count: int
    workers: int
    reduction_servers: int
    machine: str
    topology: str | None
    disk: str
    environment: Mapping[str, str]
    quota: str | None
    memory_gb: float | None

    @property
    def replicas(self) -> int:
        """Devices that share a batch."""
        return self.count * self.workers

    def strategy_flags(self) -> list[str]:
        """Returns the flags of trainer.task that follow from the hardware."""
        if self.kind == "tpu":
            return ["--strategy=tpu", "--tpu=local"]
        if self.workers > 1:
            return ["--strategy=multi_worker"]
        return ["--strategy=mirrored"] if self.count > 1 else ["--strategy=one_device"]

    def __str__(self) -> str:
        """Says it in a line."""
        parts = [] if self.kind == "cpu" else [f"{self.count} × {self.title}"]
        if self.memory_gb:
            parts.append(f"{self.memory_gb:g} GB of memory")
        inside = f" ({', '.join(parts)})" if parts else ""
        return f"{self.region}: {self.workers} × {self.machine}{inside}"


def choose(asked: settings.Vertex) -> list[Machines]:
    """Returns the machines to try, in order: each accelerator in each region.

    Raises:
        InputError: for a combination that does not exist, with those that do.
    """
    path = asked.hardware.hardware or TABLE
    try:
        table = json.loads(pathlib.Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"--hardware={path} cannot be read: {error}.") from None
    found = []
    for name in asked.accelerators():
        row = _row(table, name)
        machine = _machine(name, row, asked.hardware)
        _check(name, row, table, asked)
        regions = [region for region in asked.regions() if _has(row, region)]
        if not regions:
            raise InputError(
                f"--accelerator={name} is not in {', '.join(asked.regions())}, as far as the table "
                f"of {table['read']} knows; it is in {', '.join(row['regions'])}."
            )
        found += [
            Machines(
                region=region,
                accelerator=name,
                title=row["title"],
                kind=row["kind"],
                accelerator_type=row["type"],
                count=asked.hardware.count,
                workers=asked.hardware.workers,
                reduction_servers=asked.hardware.reduction_servers,
                machine=machine["machine"],
                topology=machine.get("topology"),
                disk=row["disk"],
                environment=row["environment"],
                quota=quota_metric(row["quota"], asked.scheduling),
                memory_gb=machine["memory_gb"],
            )
            for region in regions
        ]
    return found


def quota_metric(name: str | None, when: settings.Scheduling) -> str | None:
    """Returns the full name of a quota metric; spot and flex start draw on one of their own."""
    if name is None:
        return None
    if when.spot or when.flex_start:
        name = name.replace("training_", "training_preemptible_", 1)
    return f"aiplatform.googleapis.com/{name}"


def _row(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if name in table["unsupported"]:
        raise InputError(
            f"--accelerator={name} cannot be used: {table['unsupported'][name]}; use one of "
            f"{', '.join(table['accelerators'])}."
        )
    if name not in table["accelerators"]:
        names = table["accelerators"]
        near = [one for one in names if one.startswith(name)]
        near = near or difflib.get_close_matches(name, names, n=1)
        remedy = f"; did you mean {_or(near)}?" if near else "."
        raise InputError(
            f"--accelerator={name} is not one of {', '.join(table['accelerators'])}{remedy}"
        )
    return table["accelerators"][name]


def _machine(name: str, row: Mapping[str, Any], asked: settings.Hardware) -> Mapping[str, Any]:
    fitting = [one for one in row["machines"] if one["count"] == asked.count]
    if not fitting:
        counts = sorted({one["count"] for one in row["machines"]})
        slices = row.get("slices", {"topologies": {}})
        if topology := slices["topologies"].get(str(asked.count)):
            raise InputError(
                f"--count={asked.count} of {name} is {topology}, a slice of several machines: "
                f"{slices['refused']}; use --count={_or(map(str, counts))}."
            )
        raise InputError(
            f"--count={asked.count}: no machine has that many of {name}; use "
            f"--count={_or(map(str, counts))}."
        )
    if not asked.machine:
        return fitting[0]
    for one in fitting:
        if one["machine"] == asked.machine:
            return one
    raise InputError(
        f"--machine={asked.machine} does not go with --accelerator={name} --count={asked.count}; "
        f"use {_or(one['machine'] for one in fitting)}."
    )


def _check(
    name: str, row: Mapping[str, Any], table: Mapping[str, Any], asked: settings.Vertex
) -> None:
    """Raises InputError for combinations that Vertex AI would refuse."""
    hardware, when = asked.hardware, asked.scheduling
    if row["kind"] == "tpu" and hardware.workers > 1:
        raise InputError(
            f"--workers={hardware.workers} with --accelerator={name}: a TPU is one pool of one; "
            f"drop --workers and use --count={row['machines'][-1]['count']} for more chips."
        )
    if when.flex_start and not row["flex_start"]:
        able = [key for key, other in table["accelerators"].items() if other["flex_start"]]
        raise InputError(
            f"--flex_start is not offered for --accelerator={name}; it is for {', '.join(able)}."
        )
    if not hardware.reduction_servers:
        return
    if row["kind"] != "gpu" or hardware.workers < 2:
        raise InputError(
            f"--reduction_servers={hardware.reduction_servers} serves GPUs of several workers; "
            "drop it, or use --workers=2 or more and a GPU."
        )
    if when.flex_start:
        raise InputError(
            f"--reduction_servers={hardware.reduction_servers} does not go with --flex_start, "
            "whose machines are all alike; drop one of them."
        )
    if not asked.image.image:
        raise InputError(
            f"--reduction_servers={hardware.reduction_servers} needs Google's package "
            "google-reduction-server in the workers' image, which the image of this tree lacks; "
            "name an --image that has it (docs/vertex.md)."
        )


def _has(row: Mapping[str, Any], region: str) -> bool:
    return row["regions"] is None or region in row["regions"]


def _or(options: Any) -> str:
    *others, last = options
    return f"{', '.join(others)} or {last}" if others else last
