"""What a job is attached to: a reservation of machines, and shares of a network."""

import ipaddress
import re
from typing import Any

from trainer.errors import InputError

NAME = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
RESERVATION = re.compile(rf"projects/[^/]+/zones/{NAME}/reservations/{NAME}")
ATTACHMENT = re.compile(rf"(?:projects/[^/]+/regions/{NAME}/networkAttachments/)?{NAME}")
AFFINITIES = {"any": "ANY_RESERVATION", "none": "NO_RESERVATION"}
SHARE = re.compile(r"([^:]+):(/[^:]*):([A-Za-z0-9_][A-Za-z0-9._-]*)")
MOUNTED = "/mnt/nfs"


def reservation(text: str) -> dict[str, Any]:
    """Returns the affinity of `--reservation` as the request has it; empty if it is.

    Raises:
        InputError: it has another form.
    """
    if not text:
        return {}
    if text in AFFINITIES:
        return {"reservationAffinityType": AFFINITIES[text]}
    if not RESERVATION.fullmatch(text):
        raise InputError(
            f"--reservation={text} is not a reservation; write any, none, or "
            "projects/PROJECT/zones/ZONE/reservations/NAME."
        )
    return {
        "reservationAffinityType": "SPECIFIC_RESERVATION",
        "key": "compute.googleapis.com/reservation-name",
        "values": [text],
    }


def shares(text: str) -> list[dict[str, str]]:
    """Returns the mounts of `--nfs` as the request has them.

    Raises:
        InputError: one has another form, or the place of another.
    """
    mounts: list[dict[str, str]] = []
    for entry in (part.strip() for part in text.split(",") if part.strip()):
        found = SHARE.fullmatch(entry)
        if found is None or not _is_private(found[1]):
            raise InputError(
                f"--nfs={text}: {entry!r} is not a share; write SERVER:/PATH:NAME, the server by "
                f"its private IP address, to have it as {MOUNTED}/NAME."
            )
        server, path, name = found.groups()
        if name in [mount["mountPoint"] for mount in mounts]:
            raise InputError(f"--nfs={text} has two shares of the name {name}; rename one of them.")
        mounts.append({"server": server, "path": path, "mountPoint": name})
    return mounts


def _is_private(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        return False


def region_of(resource: str) -> str:
    """Returns the region that the full name of a resource says; empty if it says none."""
    found = re.search(r"/(locations|regions|zones)/([^/]+)/", resource)
    if found is None or found[2] == "global":
        return ""
    return found[2].rpartition("-")[0] if found[1] == "zones" else found[2]
