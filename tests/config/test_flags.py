"""Flags, and how a command ends."""

import dataclasses

import pytest

from trainer import config
from trainer.config import flags
from trainer.errors import InputError


def parse(*argv):
    return flags.parse(config.Job, ["trainer.task", *argv])


def test_flags_become_settings_of_the_right_type():
    job = parse("--crop=64", "--learning_rate=0.5", "--deterministic", "--steps=3", "--loss=dice")
    assert job.data.crop == 64
    assert job.optimization.learning_rate == 0.5
    assert job.optimization.steps == 3
    assert job.optimization.epochs is None
    assert job.optimization.loss == "dice"
    assert job.device.deterministic is True


def test_a_flag_takes_a_number_or_one_for_each_axis():
    argv = ["--crop=64,32,64"]
    assert parse(*argv).data.crop == (64, 32, 64)
    assert flags.command_line(parse(*argv)) == argv


def test_a_flag_file_gives_flags(tmp_path):
    path = tmp_path / "small.cfg"
    path.write_text("# small\n--crop=64\n--filters=4\n")
    job = parse(f"--flagfile={path}", "--filters=8")
    assert (job.data.crop, job.model.filters) == (64, 8)


@pytest.mark.parametrize(
    "text", ["--crop=64\n--filters=4\n", "# small\n--crop=64\n", "\n--crop=64"]
)
def test_a_flag_file_may_begin_with_a_byte_order_mark(tmp_path, text):
    (tmp_path / "more.cfg").write_text(text, encoding="utf-8-sig")
    (tmp_path / "one.cfg").write_text(f"--flagfile={tmp_path}/more.cfg", encoding="utf-8-sig")
    for name in ("one", "more"):
        assert parse(f"--flagfile={tmp_path}/{name}.cfg").data.crop == 64
    (tmp_path / "more.cfg").write_text(text, encoding="utf-16")
    with pytest.raises(InputError, match="^--flagfile names a file that is no text in UTF-8; "):
        parse(f"--flagfile={tmp_path}/more.cfg")


def test_the_command_line_says_only_what_differs_from_the_defaults():
    argv = ["--crop=64", "--steps=3", "--deterministic=true"]
    assert flags.command_line(parse(*argv)) == argv


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--crp=64"], "--crp is not a flag; did you mean --crop?"),
        (["--xyzzy=1"], "--xyzzy is not a flag; see --helpfull."),
        (["--batch_size=big"], "--batch_size=big is not a whole number."),
        (["--crop=64,big"], f"--crop=64,big is not {flags.NOUNS[config.PerAxis]}."),
        (["--ema=most"], "--ema=most is not a number."),
        (["--ema=nan"], "--ema=nan is not finite; give a number."),
        (["--histograms=maybe"], "--histograms=maybe is not true or false."),
        (["--crop"], "Missing value for flag --crop; write --name=value."),
        (["train"], "'train' is not a flag; write --name=value, see --help."),
    ],
)
def test_a_wrong_command_line_is_one_line(argv, message):
    with pytest.raises(InputError) as error:
        parse(*argv)
    assert str(error.value) == message


def test_a_missing_flag_file_is_named():
    with pytest.raises(InputError) as error:
        parse("--flagfile=nowhere.cfg")
    assert str(error.value) == (
        "--flagfile=nowhere.cfg cannot be read: No such file or directory; name another."
    )


def test_a_flag_file_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "flags.cfg").write_bytes(b"\xff--crop=64")
    with pytest.raises(
        InputError, match="^--flagfile names a file that is no text in UTF-8; save it"
    ):
        parse(f"--flagfile={tmp_path / 'flags.cfg'}")


def test_help_shows_groups_defaults_and_choices():
    text = flags.describe(config.Job, "/somewhere/trainer/task.py")
    assert text.startswith("python -m trainer.task ")
    assert "Where images come from and how they are batched." in text
    assert "--crop=256" in text
    assert "One of: auto, one_device, mirrored, multi_worker, tpu." in " ".join(text.split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Few(config.Settings):
    """Does little."""

    size: int = config.setting(3, "How much.")


# One flag more than --help shows.
RARE = [(f"rare{n}", int, config.setting(n, "Is not.")) for n in range(flags.MOST_SHOWN)]
Many = dataclasses.make_dataclass(
    "Many",
    [("shown", int, config.setting(1, "Is asked for often.", common=True)), *RARE],
    bases=(config.Settings,),
    namespace={"__doc__": "Does much."},
    frozen=True,
    kw_only=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Both:
    """Does all."""

    few: Few = dataclasses.field(default_factory=Few)
    many: Many = dataclasses.field(default_factory=Many, metadata={"common": ("rare0", "rare3")})


def test_help_shows_the_flags_that_are_marked_and_counts_the_others():
    text = flags.describe(Many, "many")
    assert text.splitlines()[5:] == [
        "  --shown=1",
        "      Is asked for often.",
        "",
        "--helpfull shows 15 more.",
    ]
    full = flags.describe(Many, "many", full=True)
    assert full.count("  --") == 16
    assert "--helpfull" not in full


def test_help_shows_all_flags_of_a_command_that_has_few():
    assert flags.common(Few) == list(dataclasses.fields(Few))
    assert "--helpfull" not in flags.describe(Few, "few")


def test_a_command_may_show_other_flags_of_a_group():
    assert [field.name for field in flags.common(Both)] == ["rare0", "rare3"]
