"""What people see while a job runs."""

import re

import pytest

from tests import jobs, terminals
from trainer.monitoring import progress_lines


def test_a_sparkline_goes_from_the_lowest_to_the_highest():
    assert progress_lines.sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert progress_lines.sparkline([0.3, 0.3]) == "▁▁"
    assert progress_lines.sparkline([]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120])
def test_a_run_fits_a_terminal_and_its_last_bar_has_the_last_figures(columns, data_dir, tmp_path):
    argv = [f"--data_dir={data_dir}", f"--run_dir={tmp_path}", *jobs.SMALL]
    process = terminals.Session(columns, "trainer.task", *argv)
    assert process.end() == 0, process.said
    begun = ("loading TensorFlow …", "opening the data and the run folder …")
    begun += ("building the network …", "reading and drawing the first batch …")
    begun += ("compiling the training step …", "evaluating val …  0:00  0/3 cases")
    drawn = process.drawings()
    places = [min(n for n, text in enumerate(drawn) if text.startswith(what)) for what in begun]
    assert places == sorted(places)
    bars = [text for text in process.drawings() if "░" in text or "█" in text]
    assert all(len(bar) < columns for bar in bars)
    assert all(re.match(r"[░▏▎▍▌▋▊▉█]{10,40} \d/6  loss 0\.\d{4}", bar) for bar in bars)
    (last,) = (line for line in process.screen() if "█" in line)
    (said,) = re.findall(r"step 6/6  val loss .*  dice (\S+)  iou", process.said)
    assert f" 6/6  loss {jobs.lines(tmp_path)[-3]['loss']:.4f}  val dice {said}  0:00 left" in last
    assert re.search(r" images/s( |$)", last)
    # The scores are between two rules, and the commands below, without a frame.
    lines = process.screen()
    rules = [place for place, line in enumerate(lines) if line.startswith("──")]
    assert lines[rules[0]].startswith("── 6 steps, 0:")
    assert max(map(len, lines[rules[0] : rules[1] + 1])) <= 80
    assert lines[rules[1] + 1] == f"run folder: {tmp_path}"
    assert f"python -m trainer.export --run_dir={tmp_path}" in lines[rules[1] :]


def test_lines_elsewhere_have_loss_dice_speed_and_time_left(caplog, monkeypatch):
    monkeypatch.setattr(progress_lines, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO", "absl"):
        shown = progress_lines.ProgressLines(True, 0, 10)
        shown.validation(1, {"loss": 0.4, "dice": 0.2, "dice/a": 0.2})
        shown.train(10, {"loss": 0.5, "images_per_second": 12.0})
        shown.close()
    validated, trained = caplog.messages
    assert re.fullmatch(r"step 1/10  val loss 0.4000  dice 0.2000  \d:\d\d left", validated)
    assert trained == "step 10/10  loss 0.5000  val dice 0.2000  12.0 images/s  0:00 left"


def test_other_workers_show_nothing(caplog, monkeypatch):
    monkeypatch.setattr(progress_lines, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO", "absl"):
        shown = progress_lines.ProgressLines(False, 0, 10)
        shown.validation(1, {"dice": 0.1})
        shown.train(5, {"loss": 0.5, "images_per_second": 12.0})
        shown.close()
    assert caplog.messages == []
