"""What a job costs, from the list in prices.json; other prices are unknown."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from launch import request, settings
from launch.hardware import Machines
from trainer.errors import InputError

LIST = pathlib.Path(__file__).with_name("prices.json")


def estimate(asked: settings.Vertex, machines: Machines) -> str:
    """Returns a line about the price: per hour, for `--hours`, and at most.

    Raises:
        InputError: if the list cannot be read.
    """
    path = asked.cost.prices or LIST
    try:
        prices = json.loads(pathlib.Path(path).read_bytes())
        rows = {(row["resource"], row["region"]): row for row in prices["per_hour"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--prices={path} cannot be read: {error!r}.") from None
    column = "spot" if asked.scheduling.spot else "on_demand"
    total = 0.0
    for resource, number in resources(asked, machines).items():
        price = rows.get((resource, machines.region), {}).get(column)
        if price is None:
            return (
                f"unknown: {pathlib.Path(path).name} of {prices['read']} has no {column} price of "
                f"{resource} in {machines.region}; --prices=FILE names another list"
            )
        total += number * price
    return _say(asked, total, column, prices)


def resources(asked: settings.Vertex, machines: Machines) -> dict[str, int]:
    """Returns the resources that are paid by the hour, name → number.

    Machine types that are made for an accelerator include it; an N1 does not.
    """
    trials = asked.tuning.parallel if asked.tuning.tune else 1
    paid = {machines.machine: machines.workers * trials}
    if machines.machine.startswith("n1-") and machines.accelerator_type:
        paid[machines.accelerator_type] = machines.replicas * trials
    if asked.hardware.reduction_servers:
        servers = asked.hardware.reduction_servers * trials
        paid[request.REDUCTION_SERVER["machine"]] = servers
    return paid


def _say(asked: settings.Vertex, total: float, column: str, prices: Mapping[str, Any]) -> str:
    currency = prices["currency"]
    parts = [f"{total:.2f} {currency} per hour ({column.replace('_', ' ')})"]
    if asked.cost.hours is not None:
        parts.append(f"{total * asked.cost.hours:.2f} for {asked.cost.hours:g} hours")
    if not asked.tuning.tune:
        most = settings.seconds("timeout", asked.scheduling.timeout) / 3600
        parts.append(f"at most {total * most:.2f} until --timeout={asked.scheduling.timeout}")
    return f"{', '.join(parts)}; list prices of {prices['read']}, without disks and network"
