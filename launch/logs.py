"""A job's log from Cloud Logging, entry by entry, by its REST interface.

https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list
"""

import dataclasses
import datetime
import os
from collections.abc import Iterator, Mapping
from typing import Any

from launch.client import BusyError, Job

ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING"
SCOPE = "https://www.googleapis.com/auth/logging.read"
PAGE = 1000  # the most that it grants
SECONDS = 60  # for an answer
OVERLAP = datetime.timedelta(seconds=30)  # entries may arrive late, and out of turn


class UnreadableError(Exception):
    """The log cannot be read; the message says why."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the log.

    Attributes:
        severity: INFO, WARNING, ERROR…
        replica: workerpool0-0, …; empty where Vertex AI itself speaks.
        text: what was said.
        refused: whether the trainer says that it would end so again.
    """

    severity: str
    replica: str
    text: str
    refused: bool = False

    def __str__(self) -> str:
        """Says it with its severity, unless that is the usual one."""
        mark = "" if self.severity in ("DEFAULT", "INFO") else f"{self.severity} "
        return f"{self.replica or 'service'} | {mark}{self.text.rstrip()}"


class Log:
    """The log of one job.

    Attributes:
        unreadable: for whoever reads it to remember that it cannot be read.
        interrupted: likewise, that the last request for it failed.
    """

    def __init__(self, project: str, job: Job):
        """Connects to nothing yet."""
        self._project = project
        self._filter = f'resource.type="ml_job" AND resource.labels.job_id="{job.id}"'
        self._since = job.created
        self._seen: dict[tuple[str, ...], datetime.datetime] = {}
        self._session: Any = None
        self.unreadable = self.interrupted = False

    def new_entries(self) -> Iterator[Entry]:
        """Yields what has not been yielded yet.

        Raises:
            BusyError: a request failed; the next call goes on where this one has stopped.
            UnreadableError: there are no credentials, or they do not suffice.
        """
        oldest = self._since - OVERLAP
        self._seen = {key: stamp for key, stamp in self._seen.items() if stamp >= oldest}
        body = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": f'{self._filter} AND timestamp>="{oldest:%Y-%m-%dT%H:%M:%SZ}"',
            "orderBy": "timestamp asc",
            "pageSize": PAGE,
        }
        while True:  # a token is good for the very request that it came from
            answer = self._ask(body)
            for entry in answer.get("entries", ()):
                stamp = _time(entry["timestamp"])
                # A machine whose clock is fast must not hide what others say after it.
                arrived = min(stamp, _time(entry.get("receiveTimestamp", entry["timestamp"])))
                self._since = max(self._since, arrived)
                key = (entry.get("logName", ""), entry["timestamp"], entry["insertId"])
                if key not in self._seen:
                    self._seen[key] = stamp
                    yield _read(entry)
            if not answer.get("nextPageToken"):
                return
            body["pageToken"] = answer["nextPageToken"]

    def _ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        import google.auth
        import requests
        from google.auth import exceptions
        from google.auth.transport.requests import AuthorizedSession

        address = os.environ.get(ENDPOINT, "https://logging.googleapis.com").rstrip("/")
        try:
            if self._session is None:
                self._session = (
                    requests.Session()
                    if address.startswith("http://")  # over which no token travels
                    else AuthorizedSession(google.auth.default(scopes=[SCOPE])[0])
                )
            answer = self._session.post(f"{address}/v2/entries:list", json=body, timeout=SECONDS)
        except (exceptions.TransportError, requests.RequestException) as error:
            raise BusyError(f"not reached: {type(error).__name__}") from None
        except exceptions.GoogleAuthError as error:
            raise UnreadableError(str(error)) from None
        if answer.status_code == 429 or answer.status_code >= 500:
            raise BusyError(f"it answers {answer.status_code}")
        if answer.status_code == 403:
            raise UnreadableError("it takes roles/logging.viewer in the project")
        if answer.status_code != 200:
            said = " ".join(answer.text.split())[:200]
            raise UnreadableError(f"Cloud Logging answers {answer.status_code} {said}")
        return answer.json()


def _time(text: str) -> datetime.datetime:
    """Returns the second of a time stamp."""
    return datetime.datetime.fromisoformat(text[:19] + "+00:00")


def _read(entry: dict[str, Any]) -> Entry:
    payload = entry.get("jsonPayload", {})
    return Entry(
        severity=entry.get("severity", "DEFAULT"),
        replica=entry.get("resource", {}).get("labels", {}).get("task_name", ""),
        text=str(payload.get("message", payload) if payload else entry.get("textPayload", "")),
        refused=bool(payload.get("refused", False)),
    )
