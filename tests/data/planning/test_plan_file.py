"""A plan's file: flags with reasons, which trainer.task reads and a person may change."""

import pytest

from trainer import config
from trainer.config import flags
from trainer.data.planning import plan_file
from trainer.data.planning.plan_file import Choice
from trainer.errors import InputError

CHOICES = [
    Choice("crop", (16, 32, 32), "Patch: " + "half the median, and " * 5),
    Choice("filters", 8, "Few pixels."),
    Choice("learning_rate", 2e-3, "As in every preset."),
    Choice("histograms", True, "To see it parsed."),
]


@pytest.fixture
def path(tmp_path):
    """A plan as it is written."""
    path = tmp_path / plan_file.NAME
    plan_file.write(str(path), plan_file.text_of(["5 volumes.", "Two paragraphs."], CHOICES))
    return path


def test_a_plan_has_its_reason_above_each_flag(path):
    lines = path.read_text().splitlines()
    assert lines[1:5] == ["# 5 volumes.", "#", "# Two paragraphs.", ""]
    assert lines[5].startswith("# Patch: half the median, and half the median, and half ")
    assert lines[lines.index("--filters=8") - 1] == "# Few pixels."
    assert all(len(line) <= plan_file.WIDTH for line in lines)


def test_the_task_reads_a_plan_and_later_flags_replace_it(path):
    job = flags.parse(config.Job, ["task", f"--flagfile={path}", "--filters=4", "--norm=instance"])
    assert (job.data.crop, job.model.filters, job.run.histograms) == ((16, 32, 32), 4, True)
    assert plan_file.job_of(CHOICES).optimization.learning_rate == 2e-3


def test_a_plan_inherits_from_a_file_named_from_where_the_command_runs(path, monkeypatch):
    (path.parent / "base.cfg").write_text("--batch_size=2\n--filters=16\n")
    path.write_text("--flagfile=base.cfg\n" + path.read_text())
    monkeypatch.chdir(path.parent)
    job = flags.parse(config.Job, ["task", "--flagfile=plan.cfg"])
    assert (job.data.batch_size, job.model.filters) == (2, 8)  # what comes later counts
    monkeypatch.chdir("/")
    with pytest.raises(InputError, match=r"^--flagfile=base\.cfg cannot be read: "):
        flags.parse(config.Job, ["task", f"--flagfile={path}"])


def test_a_plan_that_breaks_a_rule_of_the_settings_is_not_written():
    with pytest.raises(InputError, match=r"^--crop=16,32,30: 30 is not a multiple of 16"):
        plan_file.job_of([Choice("crop", (16, 32, 30), "")])


def test_only_a_plan_that_nobody_has_changed_is_replaced(path, tmp_path):
    plan_file.check(str(tmp_path / "none.cfg"))
    plan_file.check(str(path))
    path.write_text(path.read_text().replace("--filters=8", "--filters=9"))
    with pytest.raises(InputError) as error:
        plan_file.check(str(path))
    assert str(error.value) == (
        f"--output={path} exists and is not as trainer.plan wrote it, so somebody may need it; "
        "name another file, or remove it."
    )
