"""Follows a job to its end: a status line, its logs, and no state that it waits for forever."""

import contextlib
import dataclasses
import datetime
import sys
import time
from collections.abc import Iterator

from absl import logging

from launch import logs, settings
from launch.client import NOT_YET, Job, Service
from launch.cloud import BusyError, NoRoomError
from trainer.cli import EXIT_STATUS as REFUSED
from trainer.errors import InputError

LATE_LOOKS = 2  # at the log, where entries may follow the job's last state


def follow(asked: settings.Vertex, service: Service, job: Job) -> Job:
    """Returns the job once its state is final.

    Raises:
        NoRoomError: it had no machines within `--max_wait`, and was cancelled.
    """
    with contextlib.closing(StatusLine()) as line:
        return _follow(asked, service, job, line)


def _follow(asked: settings.Vertex, service: Service, job: Job, line: "StatusLine") -> Job:
    log, refusal = LogLines(asked, job, line), ""
    shells: set[str] = set()
    max_wait = settings.seconds("max_wait", asked.scheduling.max_wait or "0")
    while True:
        job = service.get(job)
        found = log.show_new()
        if found and not refusal and not job.has_ended:  # Vertex AI would start it again
            service.cancel(job)
        refusal = refusal or found
        for replica in job.shells.keys() - shells:
            line.print(f"shell    {replica}: {job.shells[replica]}")
        shells |= job.shells.keys()
        line.show(job)
        if job.has_ended:
            if job.state == "CANCELLED" and not refusal:
                refusal = log.late_refusal(asked.job.poll_seconds)
            if refusal and job.state == "CANCELLED":
                error = f"the trainer refused its input, with a non-zero status of {REFUSED}; "
                return dataclasses.replace(job, error=error + refusal)
            return job
        if max_wait and job.state in NOT_YET and elapsed(job).total_seconds() > max_wait:
            service.cancel(job)
            raise NoRoomError(f"no machines within --max_wait={asked.scheduling.max_wait}")
        time.sleep(asked.job.poll_seconds)


class LogLines:
    """The job's log, shown above the status line."""

    def __init__(self, asked: settings.Vertex, job: Job, line: "StatusLine"):
        """Reads nothing yet."""
        self._line = line
        self._log: logs.Log | None = None
        if asked.job.logs and job.collection == "customJobs":  # trials have jobs of their own
            self._log = logs.Log(asked.job.project, job)
        self._is_interrupted = False

    def show_new(self) -> str:
        """Shows new entries; returns the trainer's line that refuses its input, if any."""
        refusal = ""
        for entry in self._new_entries():
            self._line.print(str(entry))
            if entry.refused and not refusal:
                refusal = entry.text
        return refusal

    def late_refusal(self, pause_seconds: float) -> str:
        """Returns why a job has cancelled itself, if it has."""
        for _ in range(LATE_LOOKS if self._log else 0):
            time.sleep(pause_seconds)
            if refusal := self.show_new():
                return refusal
        return ""

    def _new_entries(self) -> Iterator[logs.Entry]:
        """Yields new entries; logs once that a log cannot be read, or does not answer for now."""
        if self._log is None:
            return
        try:
            yield from self._log.new_entries()
            self._is_interrupted = False
        except BusyError as error:
            if not self._is_interrupted:
                self._line.print(f"The log does not answer ({error}); each look asks again.")
            self._is_interrupted = True
        except InputError as error:
            self._line.print(f"The log cannot be read; the console shows it. {error}")
            self._log = None


def elapsed(job: Job) -> datetime.timedelta:
    """Returns how long a job has been there, or was until its end."""
    return (job.ended or datetime.datetime.now(datetime.timezone.utc)) - job.created


class StatusLine:
    """One line that changes in place on a terminal; elsewhere a line for each new state."""

    def __init__(self) -> None:
        """Shows nothing yet."""
        from tqdm import tqdm

        self._bar = tqdm(bar_format="{desc}", file=sys.stderr, disable=not sys.stderr.isatty())
        self._state = ""

    def show(self, job: Job) -> None:
        """Shows the job's state and for how long it has been there."""
        text = f"{job.state.lower()}  {clock(elapsed(job))}  {job.region}  {job.id}"
        self._bar.set_description_str(text)
        if self._bar.disable and job.state != self._state:
            logging.info("%s", text)
        self._state = job.state

    def print(self, text: str) -> None:
        """Prints a line above."""
        self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the line as it is."""
        self._bar.close()


def clock(time_passed: datetime.timedelta) -> str:
    """Returns 5:07 or 1:05:07."""
    minutes, seconds = divmod(int(time_passed.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
