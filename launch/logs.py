"""A job's log from Cloud Logging, entry by entry, by its REST interface."""

import dataclasses
import datetime
import os
from collections.abc import Iterator
from typing import Any

from launch.client import Job

ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING"
SCOPE = "https://www.googleapis.com/auth/logging.read"
PAGE = 1000
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
    """

    def __init__(self, project: str, job: Job):
        """Connects to nothing yet."""
        self._project = project
        self._filter = f'resource.type="ml_job" AND resource.labels.job_id="{job.id}"'
        self._since = job.created
        self._seen: set[str] = set()
        self._session: Any = None
        self.unreadable = False

    def new_entries(self) -> Iterator[Entry]:
        """Yields what has not been yielded yet.

        Raises:
            UnreadableError: there are no credentials, or they do not suffice.
        """
        token = ""
        while True:
            answer = self._ask(token)
            for entry in answer.get("entries", ()):
                stamp = datetime.datetime.fromisoformat(entry["timestamp"][:19] + "+00:00")
                self._since = max(self._since, stamp)
                if entry["insertId"] not in self._seen:
                    self._seen.add(entry["insertId"])
                    yield _read(entry)
            token = answer.get("nextPageToken", "")
            if not token:
                return

    def _ask(self, token: str) -> dict[str, Any]:
        import google.auth
        import requests
        from google.auth import exceptions
        from google.auth.transport.requests import AuthorizedSession

        address = os.environ.get(ENDPOINT, "https://logging.googleapis.com").rstrip("/")
        since = (self._since - OVERLAP).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {
            "resourceNames": [f"projects/{self._project}"],
            "filter": f'{self._filter} AND timestamp>="{since}"',
            "orderBy": "timestamp asc",
            "pageSize": PAGE,
            **({"pageToken": token} if token else {}),
        }
        try:
            if self._session is None:
                self._session = (
                    requests.Session()
                    if address.startswith("http://")  # over which no token travels
                    else AuthorizedSession(google.auth.default(scopes=[SCOPE])[0])
                )
            answer = self._session.post(f"{address}/v2/entries:list", json=body, timeout=60)
        except (exceptions.GoogleAuthError, requests.RequestException) as error:
            raise UnreadableError(str(error)) from None
        if answer.status_code == 403:
            raise UnreadableError("it takes roles/logging.viewer in the project")
        if answer.status_code != 200:
            raise UnreadableError(f"Cloud Logging answers {answer.status_code}")
        return answer.json()


def _read(entry: dict[str, Any]) -> Entry:
    payload = entry.get("jsonPayload", {})
    return Entry(
        severity=entry.get("severity", "DEFAULT"),
        replica=entry.get("resource", {}).get("labels", {}).get("task_name", ""),
        text=str(payload.get("message", payload) if payload else entry.get("textPayload", "")),
        refused=bool(payload.get("refused", False)),
    )
