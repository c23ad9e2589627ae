"""Commands on a terminal of their own, and what is on its screen."""

import contextlib
import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import termios
import time

from tests import jobs


class Session:
    """`python -m module` as the first process of a pseudo-terminal."""

    def __init__(self, columns, module, *argv):
        """Starts it."""
        self._own, end = pty.openpty()
        termios.tcsetwinsize(end, (50, columns))
        name = os.ttyname(end)
        # A process that leads a session and opens a terminal is the one that its Ctrl-C reaches.
        script = f'exec "$@" <{name} >{name} 2>{name}'
        command = [sys.executable, "-m", module, *map(str, argv)]
        self._process = subprocess.Popen(
            ["sh", "-c", script, "sh", *command],
            cwd=jobs.ROOT,
            env={**os.environ, **jobs.COMMON, "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
        )
        self.pid, self._end, self._said = self._process.pid, end, b""

    @property
    def said(self):
        """All that the terminal has been sent."""
        return self._said.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, text):
        """Waits until the terminal has been sent a text."""
        deadline = time.monotonic() + 300
        while text not in self.said:
            assert self._process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            self._read()

    def interrupt(self):
        """Presses Ctrl-C, which reaches all processes of the terminal."""
        os.write(self._own, b"\x03")

    def end(self):
        """Waits for the end; returns the status."""
        while self._process.poll() is None or self._read():
            self._read()
        os.close(self._own)
        os.close(self._end)
        return self._process.returncode

    def drawings(self):
        """Returns all that was drawn on lines, each time that one was."""
        return [text for line in self.said.split("\n") for text in re.split(r"\r\x1b\[K", line)]

    def screen(self):
        """Returns the lines that stay, each as it was drawn last."""
        return [re.split(r"\r\x1b\[K", line)[-1] for line in self.said.split("\n")]

    def lines(self):
        """Returns what is on the screen beside bars, empty lines and the echo of Ctrl-C."""
        shown = (line.replace("^C", "") for line in self.screen())
        return [line for line in shown if line and not re.search("[█░]", line)]

    def others(self):
        """Returns the processes of the terminal that have not ended, but for the first."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state != "Z":
                    found.append(path.parent.name)
        return found

    def _read(self):
        """Takes what there is, for which it waits a moment; returns whether there was anything."""
        has_some = bool(select.select([self._own], [], [], 0.1)[0])
        if has_some:
            self._said += os.read(self._own, 65536)
        return has_some
