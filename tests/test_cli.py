"""Tests of what every command does around its own work."""

import contextlib
import errno
import gc
import logging
import os
import subprocess
import sys

import pytest
from absl import logging as absl_logging

from tests import jobs, terminals
from trainer import cli, config


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EDQUOT, "x"), "No space is left on the disk of the output, or of "),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "/a/b: Read-only file system; "),
        (OSError(errno.EIO, "x", "/a"), None),
        (
            RuntimeError("{{node x}} /a/variables; No space left on device [Op:SaveV2]"),
            "No space is left on the disk of the output, or of ",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_and_a_defect_is_not(error, message, capsys):
    def main(settings):
        raise error

    with pytest.raises(SystemExit if message else OSError) as end:
        cli.run(config.Checkpoint, main, ["x"])
    if message:
        assert end.value.code == 2
        assert capsys.readouterr().err.startswith(message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "moment", "kept"),
    [
        ("trainer.task", "loading TensorFlow", "the same command starts again"),
        ("trainer.export", "writing the SavedModel", "the same command starts again"),
        (
            "trainer.evaluate",
            "evaluating test",
            "an evaluation is written when it is complete, and the same command starts it again",
        ),
    ],
)
def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(
    module, moment, kept, finished, tmp_path
):
    output = tmp_path / "out"
    argv = {
        "trainer.task": [f"--run_dir={output}", *jobs.SMALL],
        "trainer.export": [f"--run_dir={finished}", f"--output={output}"],
        "trainer.evaluate": [f"--run_dir={finished}", f"--output={output}"],
    }
    process = terminals.Session(80, module, *argv[module])
    process.wait_for(moment)
    process.interrupt()
    assert process.end() == 130, process.said
    assert "loading TensorFlow" in process.said
    assert process.lines() == [f"Stopped by Ctrl-C; {kept}."]
    assert process.others() == []
    assert [path.name for path in tmp_path.iterdir()] == ["finished"]


def test_ctrl_c_while_the_modules_of_a_command_are_imported_is_one_line():
    code = (
        "import os, signal, sys\nfrom trainer import __main__ as door\n"
        "class Finder:\n"
        "  def find_spec(name, *others):\n"
        "    if name == 'absl': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder)\nsys.argv = ['unet', 'predict']\ndoor.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 130
    assert result.stderr == b"Stopped by Ctrl-C; the same command starts again.\n"


@pytest.mark.parametrize(("main", "status"), [("pass", 0), ("sys.exit(3)", 3)])
def test_a_reader_that_has_ended_leaves_the_exit_status_as_it_is(main, status):
    code = f"import sys\nfrom absl import logging\ndef main(job): logging.info('x'); {main}\n"
    code += "from trainer import cli, config\ncli.run(config.Checkpoint, main, ['x'])"
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-c", code]
    result = subprocess.run(argv, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert result.returncode == status


def run_flags(code, *argv, cls="Job"):
    script = f"from trainer import cli, config\ndef main(job): {code}\n"
    script += f"cli.run(config.{cls}, main)"
    return subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False
    )


def test_wrong_input_ends_in_one_line_and_status_2():
    result = run_flags("pass", "--crop=250")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("--crop=250 is not a multiple of 16")


def test_a_defect_keeps_its_traceback_and_ends_in_status_1():
    result = run_flags("raise ValueError('ours')")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has libc's on_exit")
@pytest.mark.parametrize(("status", "code"), [(0, "pass"), (1, "1 / 0"), (7, "sys.exit(7)")])
def test_what_c_does_at_the_end_cannot_change_the_status(status, code):
    # oneDNN's destructors crash while input of TensorFlow that reads ahead still computes.
    crash = "libc = ctypes.CDLL(None); libc.on_exit(libc.abort, None)"
    assert run_flags(f"import ctypes, sys; {crash}; {code}").returncode == status


def test_a_full_disk_ends_in_one_line_and_status_2():
    result = run_flags("raise OSError(28, 'No space left on device', '/data/x')")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr == "No space is left on the disk of /data/x; free some space.\n"


@pytest.mark.parametrize(
    ("cls", "code", "said", "remedy"),
    [
        (
            "Job",
            "import tensorflow; tensorflow.zeros([2**45])",
            "OOM when allocating tensor with shape[35184372088832] and type float); ",
            "lower --batch_size, --crop, --filters or --tile, or raise --accumulate_steps.",
        ),
        (
            "Predict",
            "raise MemoryError('Unable to allocate 9 GiB')",
            "Unable to allocate 9 GiB); ",
            "lower --batch_size or --tile.",
        ),
        (
            "Checkpoint",
            "raise MemoryError",
            "the machine gives no more); ",
            "free some, or use a larger machine.",
        ),
    ],
)
def test_too_little_memory_ends_in_one_line_with_the_flags_that_lower_it(cls, code, said, remedy):
    result = run_flags(code, cls=cls)
    line = result.stderr.splitlines()[-1]
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert line.startswith(f"There is too little memory ({said}")
    assert line.endswith(remedy)


def test_other_exhausted_resources_are_defects():
    code = "import tensorflow as tf; raise tf.errors.ResourceExhaustedError(None, None, 'quota')"
    assert run_flags(code).returncode == 1


def test_help_ends_in_status_0_short_or_full():
    result = run_flags("raise SystemExit(7)", "--help")
    assert result.returncode == 0
    assert "--batch_size=8" in result.stdout
    assert "--dropout=" not in result.stdout
    result = run_flags("raise SystemExit(7)", "--helpfull")
    assert result.returncode == 0
    assert "--dropout=0.0" in result.stdout


@pytest.mark.parametrize(
    ("path", "level", "text", "shown"),
    [
        ("/x/trainer/run.py", logging.INFO, "step 3", True),
        ("/x/tensorflow/checkpoint.py", logging.INFO, "Sharding took 3 ms", False),
        ("/x/tensorflow/checkpoint.py", logging.WARNING, "A value was not restored", True),
        ("/x/tensorflow/function.py", logging.WARNING, "5 calls triggered retracing", True),
    ],
)
def test_of_tensorflows_log_only_warnings_are_shown(path, level, text, shown):
    record = logging.LogRecord("absl", level, path, 1, text, (), None)
    assert cli._concerns_the_user(record) is shown


def test_a_function_that_is_traced_again_and_again_is_told_to_the_developer(capsys):
    import tensorflow as tf

    @tf.function
    def grows(x):
        return x + 1

    cli._log_plainly()
    for size in range(8):
        grows(tf.zeros(size))
    (line, *_) = capsys.readouterr().err.splitlines()
    assert "grows at 0x" in line
    assert "triggered tf.function retracing" in line


@pytest.mark.slow
@pytest.mark.parametrize("command", ["task --help", "data.inspect --data_dir={}"])
def test_what_is_shown_may_have_a_reader_that_stops_early(data_dir, command):
    result = subprocess.run(
        f"{sys.executable} -m trainer.{command.format(data_dir)} | true; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_verbosity_is_what_is_said_and_debug_lets_tensorflow_speak(monkeypatch):
    before = absl_logging.get_verbosity()
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        cli.set_verbosity("warning")
        assert (absl_logging.level_warning(), absl_logging.level_info()) == (True, False)
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
        cli.set_verbosity("debug")
        assert absl_logging.level_debug()
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    finally:
        absl_logging.set_verbosity(before)


def test_python_looks_for_no_garbage_among_what_is_imported(monkeypatch):
    with cli.importing():
        assert gc.isenabled()  # TensorFlow is here already
    monkeypatch.delitem(sys.modules, "tensorflow")
    with contextlib.suppress(ImportError), cli.importing():
        assert not gc.isenabled()
        raise ImportError
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    assert frozen > 10_000
    assert gc.isenabled()


def test_json_replaces_figures_of_a_command_and_no_other_file(tmp_path, capsys):
    argv = ["preflight", f"--json={tmp_path}/x.json"]
    for content, refused in (("", 0), ('{"accelerator": "v5e"}', 0), ('{"version": 2}', 1)):
        (tmp_path / "x.json").write_text(content)
        called = []
        if refused:
            with pytest.raises(SystemExit):
                cli.run(config.Preflight, called.append, argv)
            assert capsys.readouterr().err == (
                f"--json={tmp_path}/x.json exists, and no such command wrote it; move "
                "it away, or name another file.\n"
            )
        else:
            cli.run(config.Preflight, called.append, argv)
        assert len(called) == 1 - refused
        assert (tmp_path / "x.json").read_text() == content
