"""docs/vertex.md says what the launcher does."""

import json
import re
import shlex

from launch import check, errors, hardware, image, programs, request, settings
from trainer.config import flags

TEXT = (image.ROOT / "docs/vertex.md").read_text(encoding="utf-8")


def commands():
    lines = TEXT.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("    python -m launch.vertex ")]


def test_its_commands_are_valid():
    actions = []
    for _, _, _, *argv in commands():
        own, trainers = argv, []
        if "--" in argv:
            own, trainers = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
        if not own[0].startswith("--"):
            own[0] = f"--action={own[0]}"
        own = [word.replace("--region=R", "--region=us-central1") for word in own]
        asked = flags.parse(settings.Vertex, ["launch.vertex", *own])
        actions.append(asked.job.action)
        if program := programs.PROGRAMS.get(asked.job.action):
            (place,) = hardware.choose(asked)
            args = program.check_flags(asked, place, trainers)
            request.build(asked, place, "i", args, attempt=1)
    assert sorted(actions) == ["attach", "cancel", "list", "predict", *["run"] * 4]


def test_its_role_is_the_one_that_dry_run_prints():
    argv = ["--name=n", "--project=P", "--service_account=A@B", "--bucket=gs://b"]
    asked = flags.parse(settings.Vertex, ["launch.vertex", *argv])
    lines = [line.strip() for line in TEXT.replace(" \\\n", " ").splitlines()]
    for command in check.role_of(asked).replace("A@B", "A").splitlines():
        assert shlex.split(command) in [shlex.split(x) for x in lines if x.startswith("gcloud ")]


def test_its_table_of_machines_is_that_of_the_launcher():
    table = json.loads(hardware.TABLE.read_text())["accelerators"]
    section = TEXT.partition("## Machines")[2].partition("##")[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([\d, ]+) \| ([^|]+) \|$", section, re.M)
    told = {}
    for names, counts, quota in rows:
        for name in re.findall(r"`([^`]+)`", names):
            found = re.search(r"`(\w+)`", quota)
            told[name] = (counts, found[1] if found else None)
    assert told == {
        name: (", ".join(map(str, sorted({m["count"] for m in row["machines"]}))), row["quota"])
        for name, row in table.items()
    }


def test_its_troubleshooting_has_an_error_of_each_kind():
    section = TEXT.partition("## Troubleshooting")[2].partition("\n## ")[0]
    told = re.findall(r"^\| (.+?) \|", section, re.M)
    explained = {errors.explain(text).pattern for text in told if errors.explain(text)}
    assert explained == {trouble.pattern for trouble in errors.TROUBLES}
