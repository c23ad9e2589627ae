"""Commands as they are printed for people to copy."""

import os
import shlex
import shutil
import sys


def line(module: str, *arguments: str) -> str:
    """Returns the command that runs a module of this environment.

    Args:
        module: such as `trainer.predict`.
        arguments: each is quoted where a shell needs it; "--images=…" is left for people to fill.
    """
    quoted = [word if word.endswith("…") else shlex.quote(word) for word in arguments]
    own = os.path.basename(sys.executable)  # such as python3, where there is no python beside it
    name = "python" if os.path.exists(_beside("python")) else own
    return " ".join([script(name, "-m", module), *quoted])


def script(name: str, *arguments: str) -> str:
    """Returns the command that starts a program of this environment, by its path if need be.

    Args:
        name: of a file beside the interpreter, such as `tensorboard`.
        arguments: each is quoted where a shell needs it.
    """
    path, found = _beside(name), shutil.which(name)
    if os.path.exists(path) and not (found and os.path.abspath(found) == path):
        below = os.path.relpath(path)
        name = path if below.startswith(os.pardir) else below
    return shlex.join([name, *arguments])


def _beside(name: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(sys.executable)), name)
