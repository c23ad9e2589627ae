"""The image's name, what goes into it, and what its locks hold."""

import ast
import pathlib
import re
import shutil

import pytest
from packaging import requirements

from launch import image

TARGETS = ("cpu", "gpu", "tpu")


@pytest.fixture
def tree(tmp_path):
    for path in image.contents():
        if path.suffix != ".tfrecord":
            target = tmp_path / path.relative_to(image.ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    return tmp_path


def test_equal_trees_have_equal_tags_and_changed_ones_do_not(tree, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "tree"
    shutil.copytree(tree, copy)
    tag = image.content_tag(tree)
    assert image.content_tag(copy) == tag
    assert re.fullmatch(r"[0-9a-f]{16}", tag)
    (copy / "trainer/__pycache__").mkdir(exist_ok=True)
    (copy / "trainer/__pycache__/x.pyc").write_text("x")
    (copy / "notes.txt").write_text("not copied into the image")
    assert image.content_tag(copy) == tag
    (copy / "trainer/task.py").write_text("changed")
    assert image.content_tag(copy) != tag
    shutil.copy2(tree / "trainer/task.py", copy / "trainer/task.py")
    (copy / "trainer/new.py").write_text("")
    assert image.content_tag(copy) != tag


def test_the_docker_context_is_what_the_tag_is_made_of():
    lines = (image.ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed | {"Dockerfile"} == set(image.PARTS)


def pins(target):
    """Returns name → version of a lock, each of which has a hash."""
    text = (image.ROOT / f"requirements/{target}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    for entry in entries:
        assert "--hash=sha256:" in entry, entry
    return dict(re.match(r"([\w.-]+)==(\S+)", entry).groups() for entry in entries)


@pytest.mark.parametrize("target", TARGETS)
def test_each_lock_holds_what_the_package_asks_for(target):
    tree = ast.parse((image.ROOT / "setup.py").read_text())
    (asked,) = [
        ast.literal_eval(word.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "install_requires"
    ]
    locked = pins(target)
    for line in asked:
        requirement = requirements.Requirement(line)
        name = requirement.name.lower()
        if target == "tpu" and name == "tensorflow":
            name = "tensorflow-tpu"
        assert locked[name] in requirement.specifier, line
    assert ("tensorflow" in locked) != (target == "tpu")
    assert ("nvidia-cudnn-cu12" in locked) == (target == "gpu")
    assert ("libtpu" in locked) == (target == "tpu")


def test_the_image_for_gpus_finds_the_driver_where_it_is_mounted():
    text = pathlib.Path(image.ROOT, "Dockerfile").read_text().replace("\\\n", "")
    stage = re.search(r"^FROM base AS gpu\n(.*?)^FROM", text, re.M | re.S)[1]
    (variables,) = re.findall(r"^ENV (.+)$", stage, re.M)
    told = dict(word.split("=", 1) for word in variables.split())
    assert told.pop("PATH") == "/usr/local/nvidia/bin:$PATH"
    assert told == {
        "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "NVIDIA_VISIBLE_DEVICES": "all",
    }


def test_the_image_is_pinned_and_runs_as_a_user_without_rights_but_on_tpus():
    text = pathlib.Path(image.ROOT, "Dockerfile").read_text()
    assert re.search(r"^FROM python:[\d.]+-slim-bookworm@sha256:[0-9a-f]{64} AS base$", text, re.M)
    for target in TARGETS:
        stage = re.search(rf"^FROM \S+ AS {target}\n(.*?)(?=^FROM|\Z)", text, re.M | re.S)[1]
        user, form = (0, "CMD") if target == "tpu" else (1000, "ENTRYPOINT")
        last = f'ARG RUN_AS={user}\nUSER ${{RUN_AS}}\n{form} ["python", "-m", "trainer.task"]'
        assert stage.rstrip().endswith(last)
    assert text.endswith('ARG RUN_AS=1000\nUSER ${RUN_AS}\nENTRYPOINT ["/opt/apache/beam/boot"]\n')
    assert "HEALTHCHECK" not in text
