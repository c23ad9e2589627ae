"""The steps of the Dockerfile's target `cpu`, in a virtual environment in place of a container.

The lock is installed with its hashes checked, the trainer from its wheel, and the entry point runs
as a user who may write nowhere but in a folder of its own.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import pytest

from launch import image

STRANGER = 65534  # nobody
SMALL = ["--steps=2", "--crop=32", "--filters=2", "--depth=2", "--batch_size=2"]
SMALL += ["--jit_compile=false", "--precision=float32", "--eval_batch_size=1", "--worst_cases=0"]


def dockerfile(target):
    """Returns the RUN and ENTRYPOINT commands of a stage, those it is built on included."""
    text = (image.ROOT / "Dockerfile").read_text().replace("\\\n", "")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    by_name = {stage.split()[2]: stage for stage in stages}
    stage = by_name[target]
    commands = re.findall(r"^(?:RUN|ENTRYPOINT) (.+)$", stage, flags=re.MULTILINE)
    parent = stage.split()[0]
    return (dockerfile(parent) if parent in by_name else []) + commands


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def installed():
    """Carries out the Dockerfile's pip commands, once for each content, and returns the Python.

    It stays where it is, since it takes long to remove; the next content takes its place.
    """
    folder = pathlib.Path(tempfile.gettempdir(), f"unet-trainer-image-{os.getuid()}")
    done = folder / image.content_tag()
    if not done.exists():
        if folder.exists():
            shutil.rmtree(folder)
        install(folder)
        done.touch()
    return folder / "venv/bin/python"


def stranger():
    """Returns how to start a process as nobody, where this one may."""
    if os.getuid() == 0:
        return {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    return {}


def reachable_python(folder):
    """Returns this Python, or its copy where a stranger may not go to it."""
    name = pathlib.Path("bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    try:
        run(pathlib.Path(sys.base_prefix, name), "-c", "", cwd="/", **stranger())
    except PermissionError:
        left_out = shutil.ignore_patterns("test", "tests", "site-packages", "__pycache__", "*.a")
        shutil.copytree(sys.base_prefix, folder / "python", symlinks=True, ignore=left_out)
        return folder / "python" / name
    return pathlib.Path(sys.base_prefix, name)


def install(folder):
    source = folder / "source"
    for path in image.contents():
        target = source / path.relative_to(image.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    run(reachable_python(folder), "-m", "venv", folder / "venv")
    for command in dict.fromkeys(dockerfile("wheel") + dockerfile("cpu")):  # each once, in order
        words = [word for word in shlex.split(command) if not word.startswith("--mount=")]
        if words[0] != "pip":
            continue
        # Folders of the image are folders of `folder`, and there is no shell to find the wheel.
        words = [re.sub(r"^(--[\w-]+=)?/(?=\w)", rf"\g<1>{folder}/", word) for word in words]
        words = [str(next(folder.glob("wheels/*"))) if "*" in word else word for word in words]
        words = [word.replace(f"{folder}/requirements", f"{source}/requirements") for word in words]
        run(folder / "venv/bin/python", "-m", *words)
    shutil.rmtree(source)


def test_the_lock_is_whole_and_agrees_with_itself(installed):
    assert "No broken requirements found" in run(installed, "-m", "pip", "check")


def test_the_entry_point_trains_as_a_stranger_who_may_write_only_where_it_is_told(installed):
    (entry,) = [command for command in dockerfile("cpu") if command.startswith("[")]
    assert entry == '["python", "-m", "trainer.task"]'
    with tempfile.TemporaryDirectory() as home:
        if os.getuid() == 0:
            os.chown(home, STRANGER, STRANGER)
        environment = {"PATH": os.environ["PATH"], "HOME": home, "PYTHONDONTWRITEBYTECODE": "1"}
        # A copy of Python may be linked to a library where the stranger may not go.
        environment["LD_LIBRARY_PATH"] = str(installed.parents[2] / "python/lib")
        options = {"cwd": home, "env": environment, **stranger()}
        find = "import trainer; print(trainer.__path__[0])"
        package = pathlib.Path(run(installed, "-c", find, **options).strip())
        assert package.is_relative_to(installed.parents[1])
        package.chmod(0o555)
        for path in package.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        touch = f"open({str(package / 'x')!r}, 'w')"
        refused = subprocess.run(
            [installed, "-c", touch], capture_output=True, text=True, check=False, **options
        )
        assert "PermissionError" in refused.stderr
        said = run(installed, "-m", "trainer.task", "--run_dir=run", *SMALL, **options)
        assert "test Dice, mean per image" in said
        assert pathlib.Path(home, "run/best").is_dir()
        assert list(pathlib.Path(home, "run/evaluation/test").glob("cases-*.parquet"))
