"""Commands as processes that are forked from one that has imported TensorFlow.

An import takes two seconds of a core, a fork some hundredths. All else is as in a process that was
started: arguments, environment, folder, output, status, signals, and what runs at the end. The
README's commands are started as they are written there (test_package.py).
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile
from unittest import mock

# Variables that nothing reads while it is imported. Where another one differs, no process that has
# imported it already will do.
READ_LATE = {"AIP_MODEL_DIR", "PYTEST_CURRENT_TEST", "TF_CONFIG"}
# Of the process that is forked: that of the tests, once imports have set what they set.
ENVIRONMENT = {}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.imported"])


def remember(environment):
    """Takes an environment for that of the process that is forked."""
    ENVIRONMENT.clear()
    ENVIRONMENT.update(environment)


def is_able(environment):
    """Returns whether a process of this environment can be forked."""
    differing = {name for name, _ in environment.items() ^ ENVIRONMENT.items()}
    return bool(ENVIRONMENT) and differing <= READ_LATE


class Process:
    """`python -m module`, with what tests ask of subprocess.Popen.

    Attributes:
        pid: of the process itself.
    """

    def __init__(self, module, argv, environment, cwd):
        """Starts it, and the process that it is forked from where there is none."""
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [pathlib.Path(self._folder.name, name) for name in ("stdout", "stderr")]
        arguments = (module, argv, environment, str(cwd), *map(str, self._outputs))
        self._process = _context.Process(target=_become, args=arguments)
        with mock.patch.dict(os.environ, ENVIRONMENT, clear=True):
            self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self):
        """The status; None while it runs."""
        return self._process.exitcode

    def poll(self):
        """Returns the status; None while it runs."""
        return self._process.exitcode

    def kill(self):
        """Ends it with SIGKILL."""
        self._process.kill()

    def send_signal(self, number):
        """Sends it a signal."""
        os.kill(self.pid, number)

    def communicate(self, timeout=None):
        """Waits for the end; returns what was written to stdout and stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            self._process.join()
            raise TimeoutError(self._outputs[1].read_text())
        return tuple(path.read_text() if path.exists() else "" for path in self._outputs)


def _become(module, argv, environment, cwd, *outputs):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in zip((1, 2), outputs, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.argv[:] = [module, *argv]
    sys.modules.pop(module, None)  # it is to be __main__
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
