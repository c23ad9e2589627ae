"""Follows a job to its end: a status line, its logs, and no state that is waited on for ever."""

import dataclasses
import datetime
import functools
import sys
import time
from collections.abc import Iterator

from absl import logging

from launch import logs, settings
from launch.client import NOT_YET, BusyError, Job, NoRoomError, Service
from launch.submit import patiently
from trainer.flags import EXIT_STATUS as REFUSED

LATE_LOOKS = 2  # at the log, whose last entries may come after the job's last state


def follow(asked: settings.Vertex, service: Service, job: Job) -> Job:
    """Returns the job once its state is its last.

    Raises:
        NoRoomError: it had no machines within `--max_wait`, and was cancelled.
    """
    line, patience, refusal = StatusLine(), asked.job.patience_seconds, ""
    log = logs.Log(asked.job.project, job) if _has_log(asked, job) else None
    shells: set[str] = set()
    max_wait = settings.seconds("max_wait", asked.scheduling.max_wait or "0")
    while True:
        job = patiently(functools.partial(service.get, job), patience, "describe the job")
        told = _show_new_entries(log, line)
        if told and not refusal and not job.has_ended:  # Vertex AI would start it again
            patiently(functools.partial(service.cancel, job), patience, "cancel the job")
        refusal = refusal or told
        for replica in job.shells.keys() - shells:
            line.print(f"shell    {replica}: {job.shells[replica]}")
        shells |= job.shells.keys()
        line.show(job)
        if job.has_ended:
            if job.state == "CANCELLED" and not refusal:
                refusal = _late_refusal(log, line, asked.job.poll_seconds)
            line.end()
            if refusal and job.state == "CANCELLED":
                error = f"the trainer refused its input, with a non-zero status of {REFUSED}; "
                return dataclasses.replace(job, error=error + refusal)
            return job
        if max_wait and job.state in NOT_YET and elapsed(job).total_seconds() > max_wait:
            line.end()
            patiently(functools.partial(service.cancel, job), patience, "cancel the job")
            raise NoRoomError(f"no machines within --max_wait={asked.scheduling.max_wait}")
        time.sleep(asked.job.poll_seconds)


def _show_new_entries(log: logs.Log | None, line: "StatusLine") -> str:
    """Shows what is new; returns by which words the trainer refuses its input, if it does."""
    refusal = ""
    for entry in _new_entries(log, line):
        line.print(str(entry))
        if entry.refused and not refusal:
            refusal = entry.text
    return refusal


def _late_refusal(log: logs.Log | None, line: "StatusLine", pause_seconds: float) -> str:
    """Returns why a job has cancelled itself, if it has."""
    for _ in range(LATE_LOOKS if log and not log.unreadable else 0):
        time.sleep(pause_seconds)
        if refusal := _show_new_entries(log, line):
            return refusal
    return ""


def _new_entries(log: logs.Log | None, line: "StatusLine") -> Iterator[logs.Entry]:
    """Yields what is new; says once that a log cannot be read, or does not answer for now."""
    if log is None or log.unreadable:
        return
    try:
        yield from log.new_entries()
        log.interrupted = False
    except BusyError as error:
        if not log.interrupted:
            line.print(f"The log does not answer ({error}); it is asked again at every look.")
        log.interrupted = True
    except logs.UnreadableError as error:
        log.unreadable = True
        line.print(f"The log cannot be read ({error}); the console shows it.")


def elapsed(job: Job) -> datetime.timedelta:
    """Returns how long a job has been there, or was until its end."""
    return (job.ended or datetime.datetime.now(datetime.timezone.utc)) - job.created


class StatusLine:
    """One line that changes in place on a terminal; elsewhere a line for each new state."""

    def __init__(self) -> None:
        """Shows nothing yet."""
        self._live = sys.stderr.isatty()
        self._state = ""
        self._text = ""

    def show(self, job: Job) -> None:
        """Shows the job's state and for how long it has been there."""
        text = f"{job.state.lower()}  {clock(elapsed(job))}  {job.region}  {job.id}"
        if self._live:
            self._write("\r" + text.ljust(len(self._text)))
            self._text = text
        elif job.state != self._state:
            logging.info("%s", text)
        self._state = job.state

    def print(self, text: str) -> None:
        """Prints a line above."""
        if self._live and self._text:
            self._write("\r" + " " * len(self._text) + "\r")
        print(text, file=sys.stderr, flush=True)
        if self._live:
            self._write(self._text)

    def end(self) -> None:
        """Leaves the line as it is."""
        if self._live:
            self._write("\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _has_log(asked: settings.Vertex, job: Job) -> bool:
    return asked.job.logs and job.collection == "customJobs"  # trials have jobs of their own


def clock(time_passed: datetime.timedelta) -> str:
    """Returns 5:07 or 1:05:07."""
    minutes, seconds = divmod(int(time_passed.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
