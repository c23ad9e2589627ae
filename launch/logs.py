"""A job's log from Cloud Logging, entry by entry, by its REST interface.

google-cloud-logging is not used. Its generated client speaks gRPC alone; the REST one behind it is
chosen by a private argument, does not ask again, and turns to no page after one that failed. What
is here would stay: where to begin again, and which entries were shown. Only the pages would go.

https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list
"""

import dataclasses
import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from launch import cloud
from launch.client import Job

PAGE = 1000  # the most that it grants
OVERLAP = datetime.timedelta(seconds=30)  # entries may arrive late, and out of turn


@dataclasses.dataclass(frozen=True)
class Entry:
    """A line of the log.

    Attributes:
        severity: INFO, WARNING, ERROR…
        replica: workerpool0-0, …; empty for lines of Vertex AI itself.
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
    """The log of one job."""

    def __init__(self, project: str, job: Job):
        """Connects to nothing yet."""
        self._project = project
        self._filter = f'resource.type="ml_job" AND resource.labels.job_id="{job.id}"'
        self._since = job.created
        self._seen: dict[tuple[str, ...], datetime.datetime] = {}
        self._session: Any = None

    def new_entries(self) -> Iterator[Entry]:
        """Yields what has not been yielded yet.

        Raises:
            BusyError: a request failed; the next call begins where this one has stopped.
            InputError: there are no credentials, or they do not suffice.
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
        from google.api_core import exceptions
        from google.auth.transport.requests import AuthorizedSession

        address = cloud.LOGGING.address()
        with cloud.translate_errors(cloud.LOGGING):
            self._session = self._session or AuthorizedSession(cloud.credentials(address))
            answer = self._session.post(
                f"{address}/v2/entries:list", json=body, timeout=cloud.SECONDS
            )
            if answer.status_code != 200:
                raise exceptions.from_http_response(answer)
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
