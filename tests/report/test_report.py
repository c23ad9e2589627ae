"""The page of some runs."""

import dataclasses
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.jobs import command
from trainer import report
from trainer.drawing import panels
from trainer.errors import InputError
from trainer.evaluate import confusion
from trainer.report import curves, evaluation, page, pictures, runs
from trainer.storage import files

SUMMARY = {
    "dice": 0.75,
    "iou": 0.5,
    "images": 2,
    "classes": {
        "disc <b>": {
            "per_image": {"dice": 0.75, "iou": None},
            "pooled": {"dice": 0.7, "precision": 0.6, "recall": 0.8},
        }
    },
}


def write_run(folder, **settings):
    """Writes a run folder of two reports and an evaluation with one worst case."""
    (folder / "evaluation" / "test" / "worst").mkdir(parents=True)
    metadata = {
        "settings": {
            "steps": 4,
            "learning_rate": 0.1,
            "run_dir": str(folder),
            "data_dir": "",
            "norm": "auto",
            **settings,
        },
        "command": ["python", "-m", "trainer.task", f"--run_dir={folder}"],
        "exit_reason": None,
        "total_steps": 4,
        "num_replicas": 2,
        "precision": "float32",
        "data_fingerprint": "abc",
        "fingerprint": "def",
        "channels": 1,
        "classes": ["background", "disc <b>"],
        "streams": 2,
    }
    (folder / "run.json").write_text(json.dumps(metadata))
    lines = [
        {"step": 2, "split": "train", "loss": 1.0, "images_per_second": 1.0},
        {"step": 2, "split": "val", "loss": 0.9, "dice": 0.6, "dice/disc": 0.6},
        {"step": 4, "split": "train", "loss": 0.5, "images_per_second": 12.0},
        {"step": 4, "split": "val", "loss": 0.8, "dice": 0.5, "dice/disc": 0.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "spl'
    (folder / "metrics.jsonl").write_text(text)
    (folder / "evaluation" / "test" / "summary.json").write_text(json.dumps(SUMMARY))
    picture = panels.encode_png(np.zeros((4, 4, 3), np.uint8))
    (folder / "evaluation" / "test" / "worst" / "01-a.png").write_bytes(picture)
    return str(folder)


def test_the_page_has_curves_scores_pictures_and_metadata(tmp_path):
    text = page.draw([runs.read(write_run(tmp_path / "a"), 4)])
    titles = re.findall(r'class="title">([^<]+)<', text)
    assert titles == ["loss", "dice", "images_per_second, images/s"]
    assert "0.6000 at step 2" in text
    assert "not ended" in text
    assert "<dd>12.0</dd>" in text  # the first report also compiles
    assert text.count("data:image/png;base64,") == 1
    assert "disc &lt;b&gt;" in text
    assert "disc <b>" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)


def write_cases(folder, dice):
    """Writes the tables of an evaluation of one class, with these Dice."""
    place = folder / "evaluation" / "test"
    rows = "".join(f"{k},background,0\n{k},disc <b>,{d}\n" for k, d in enumerate(dice))
    (place / "cases.csv").write_text(f"case,class,dice\n{rows}")
    confusion.write(str(place), np.array([[7, 1], [2, 6]]), ["background", "disc <b>"])


def test_the_page_begins_with_the_dice_its_interval_confusions_and_histogram(tmp_path):
    folder = write_run(tmp_path / "a")
    write_cases(tmp_path / "a", [0.5, 0.5, 1.0, ""])
    text = page.draw([runs.read(folder, 4)])
    assert "test Dice 0.7500 (95 % interval over 4 cases: 0.500 – 1.000)" in text
    assert "<th>95 % interval</th>" in text
    assert "Of so few cases they are too narrow." in text
    assert '<td style="background:rgba(0,114,178,0.66)">87.5 %<small>7</small></td>' in text
    assert "<title>2 cases from 0.50 to 0.55</title>" in text
    assert "<title>1 cases from 0.95 to 1.00</title>" in text
    order = (
        "a</h1>",
        "<dt>state<",
        "trainer.task",
        "Scores on",
        "Confusions<",
        "The worst",
        "Curves<",
    )
    places = [text.index(head) for head in order]
    assert places == sorted(places)


def test_the_means_over_classes_are_in_the_table_the_first_with_the_interval_of_the_headline(
    finished,
):
    run = runs.read(str(finished), 0)
    rows = {row[0]: row[1:3] for row in page.scores(run.summary, run.cases)["rows"]}
    dice, interval = rows["mean, foreground"]
    assert f"test Dice {dice} " in page.headline(run)
    assert page.headline(run).endswith(f"cases: {interval})")
    everything = run.summary["per_image"]["all_classes"]["dice"]
    assert rows["mean, all"] == [f"{everything:.4f}", "–"]


def test_the_picture_of_the_results_has_room_for_the_recall(finished):
    run = runs.read(str(finished), 0)
    summary = json.loads(json.dumps(run.summary))
    for entry in summary["classes"].values():
        entry["pooled"]["recall"] = 0.123
    other = dataclasses.replace(run, summary=summary)
    assert pictures.results(run) != pictures.results(other)


def test_one_case_has_a_dice_without_an_interval(tmp_path):
    folder = write_run(tmp_path / "a")
    write_cases(tmp_path / "a", [0.75])
    text = page.draw([runs.read(folder, 4)])
    assert "test Dice 0.7500 (of one case, so without an interval)" in text
    assert "0.750 – 0.750" not in text


def test_of_very_many_cases_the_interval_has_fewer_samples(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "DRAWS", 3000)
    folder = write_run(tmp_path / "a")
    write_cases(tmp_path / "a", [0.5, 0.7, 0.9])
    assert runs.read(folder, 0).cases.samples == 1000


def test_the_page_says_when_and_how_long_a_run_was_trained_and_of_how_many_parameters(tmp_path):
    folder = write_run(tmp_path / "a")
    run = runs.read(folder, 0)
    times = {"started": "2026-01-02T03:04:05+00:00", "ended": "2026-01-02T05:04:05+00:00"}
    metadata = {**run.metadata, **times, "seconds": 7325.5, "parameters": 31_051_137}
    text = page.draw([dataclasses.replace(run, metadata=metadata)])
    assert "2026-01-02 03:04 UTC" in text
    assert "2026-01-02 05:04 UTC" in text
    assert "<dt>trained for</dt> <dd>2 h 2 min</dd>" in text
    assert "31,051,137" in text


def test_a_job_writes_its_page_and_pictures_at_its_end(finished):
    text = (finished / "report.html").read_text()
    assert "<dd>finished</dd>" in text
    assert "<dt>trained for</dt>" in text
    assert json.loads((finished / "run.json").read_text())["seconds"] > 0
    assert "test Dice" in text
    for name in ("results.png", "confusion.png"):
        assert np.asarray(Image.open(finished / name)).std() > 10  # is drawn


def test_the_page_and_the_pictures_of_a_run_in_a_bucket_are_written_there(finished, gcs, bucket):
    paths = [finished / "run.json", finished / "metrics.jsonl", *finished.glob("evaluation/**/*.*")]
    for path in paths:
        files.copy_to_store(str(path), f"{bucket}/run/{path.relative_to(finished)}")
    for _ in range(2):  # of which the second replaces what the first wrote
        report.write(f"{bucket}/run", {"exit_reason": "the second"})
    assert b"<dd>the second</dd>" in gcs.read(f"{bucket}/run/report.html")
    for name in ("results.png", "confusion.png"):
        assert gcs.read(f"{bucket}/run/{name}").startswith(b"\x89PNG")


def test_after_another_evaluation_the_command_draws_page_and_pictures_anew(finished):
    names = ("report.html", "results.png", "confusion.png")
    before = {name: (finished / name).read_bytes() for name in names}
    place = finished / "evaluation" / "test"
    summary = json.loads((place / "summary.json").read_text())
    (place / "summary.json").write_text(json.dumps({**summary, "dice": 0.123}))
    confusion.write(str(place), np.array([[7, 1], [2, 6]]), list(summary["classes"]))
    result = command("trainer.report", str(finished))
    assert result.stderr == "".join(f"Written to {finished}/{name}\n" for name in names)
    assert not [name for name in names if (finished / name).read_bytes() == before[name]]
    shown = (finished / "report.html").read_bytes()
    assert b"test Dice 0.1230" in shown
    result = command("trainer.report", str(finished), f"--output={finished}/page.html")
    assert result.stderr == f"Written to {finished}/page.html\n"
    assert (finished / "page.html").read_bytes() == shown


def test_the_page_of_several_runs_leaves_that_of_the_first_as_it_is(finished, tmp_path):
    shown = (finished / "report.html").read_bytes()
    result = command("trainer.report", str(finished), write_run(tmp_path / "b"))
    assert result.stderr == f"Written to {finished}/compared.html\n"
    assert (finished / "report.html").read_bytes() == shown
    assert "2 runs" in (finished / "compared.html").read_text()


def test_a_page_of_others_stays_and_a_warning_says_so(finished, caplog):
    (finished / "report.html").write_text("mine")
    report.write(str(finished), {})
    assert (finished / "report.html").read_text() == "mine"
    assert f"{finished}/report.html cannot be written (--run_dir=" in caplog.text


def test_a_picture_of_others_stays_and_the_warning_names_it(finished, caplog):
    picture = panels.encode_png(np.zeros((4, 4, 3), np.uint8))
    (finished / "results.png").write_bytes(picture)
    report.write(str(finished), {})
    assert (finished / "results.png").read_bytes() == picture
    assert f"{finished}/results.png cannot be written (--run_dir=" in caplog.text


def test_what_cannot_be_drawn_ends_no_job(finished, caplog):
    (finished / "evaluation/test/confusion.csv").write_text("x")
    folder = finished.rename(finished.with_name("of $HOME"))
    report.write(str(folder), {})
    assert "confusion.csv is not a table of confusions" in caplog.text
    assert caplog.messages[-1].endswith(f"-m trainer.report '{folder}'")


def test_what_else_is_among_the_pictures_is_not_shown(finished):
    place = finished / "evaluation/test/worst"
    (place / "Thumbs.db").write_text("x")
    (place / "kept").mkdir()
    run = runs.read(str(finished), 100)
    assert len(run.pictures["worst"]) == len([*place.glob("*.png")]) > 0


HOSTILE = """<script>alert("x")</script>'"><img src=x onerror=alert(1)>&amp;"""


class Elements(html.parser.HTMLParser):
    """Collects the names of elements and of their attributes."""

    def __init__(self):
        """Has seen none yet."""
        super().__init__()
        self.elements, self.attributes, self.said = set(), set(), []

    def handle_starttag(self, tag, attrs):
        """Keeps the names."""
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.said += [value for _, value in attrs]

    def handle_data(self, data):
        """Keeps the text."""
        self.said.append(data)


def test_nothing_that_a_run_folder_says_becomes_markup(tmp_path):
    name = HOSTILE.replace("/", "")  # as a file's name can be
    folders = [write_run(tmp_path / f"{k}{name}", **{HOSTILE: f"{k}{HOSTILE}"}) for k in "ab"]
    for folder in map(pathlib.Path, folders):
        metadata = json.loads((folder / "run.json").read_text())
        metadata |= {"exit_reason": HOSTILE, "precision": HOSTILE, "command": ["python", HOSTILE]}
        (folder / "run.json").write_text(json.dumps(metadata))
        with open(folder / "metrics.jsonl", "w") as file:
            line = {"step": 1, "split": "val", "dice": 0.5}
            line |= {f"dice/{HOSTILE}": 0.5, f"dice/{HOSTILE}2": 0.5}
            file.write(json.dumps(line) + "\n")
        entry = {"per_image": {"dice": HOSTILE, "iou": HOSTILE}}
        entry["pooled"] = dict.fromkeys(("dice", "precision", "recall"), HOSTILE)
        summary = {"dice": HOSTILE, "iou": HOSTILE, "images": HOSTILE, "classes": {HOSTILE: entry}}
        (folder / "evaluation" / "test" / "summary.json").write_text(json.dumps(summary))
        worst = folder / "evaluation" / "test" / "worst"
        (worst / "01-a.png").rename(worst / f"{name}.png")
    whole, plain = Elements(), Elements()
    whole.feed(page.draw([runs.read(folder, 4) for folder in folders]))
    plain_runs = [write_run(tmp_path / name, learning_rate=k) for k, name in enumerate("ab")]
    plain.feed(page.draw([runs.read(folder, 4) for folder in plain_runs]))
    assert whole.elements == plain.elements
    assert whole.attributes == plain.attributes
    shown = "".join(text for text in whole.said if text)
    assert shown.count(HOSTILE) >= 2 * 14  # of each run all that was put in


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        '{"step": 1}',
        '{"step": "<b>", "split": "val"}',
        '{"step": 1, "split": "val", "dice": "a"}',
    ],
)
def test_a_line_that_cannot_be_drawn_is_refused(tmp_path, line):
    folder = write_run(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(InputError) as error:
        runs.read(folder, 1)
    assert str(error.value) == (
        f"{folder}/metrics.jsonl has a line that is not one of figures: {line}; restore it."
    )


def test_another_summary_is_refused(tmp_path):
    folder = write_run(tmp_path / "a")
    (tmp_path / "a/evaluation/test/summary.json").write_text('{"classes": {"disc": {}}}')
    with pytest.raises(InputError, match=r"not a summary of trainer\.evaluate \(KeyError\('per_im"):
        runs.read(folder, 1)


def test_a_run_whose_run_json_lacks_what_is_shown_is_refused(tmp_path):
    folder = write_run(tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text('{"settings": {"norm": "auto", "data_dir": ""}}')
    with pytest.raises(InputError, match=r"does not describe a run \(command is missing"):
        runs.read(folder, 4)


def test_runs_are_compared_by_the_settings_in_which_they_differ(tmp_path):
    folders = [
        write_run(tmp_path / name, learning_rate=rate) for name, rate in (("a", 1), ("b", 2))
    ]
    text = page.draw([runs.read(folder, 0) for folder in folders])
    assert "<th>learning_rate</th>" in text
    assert "<th>steps</th>" not in text
    assert "<th>run_dir</th>" not in text
    assert text.count("data:image") == 0


def test_a_figure_that_is_null_is_left_out(tmp_path):
    folder = write_run(tmp_path / "a")
    with open(tmp_path / "a" / "metrics.jsonl", "w") as file:
        for step, dice in ((2, None), (4, 0.5)):
            file.write(json.dumps({"step": step, "split": "val", "dice": dice}) + "\n")
    text = page.draw([runs.read(folder, 0)])
    assert "0.5000 at step 4" in text


def test_a_run_that_has_just_begun_is_shown(tmp_path):
    folder = write_run(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").unlink()
    (tmp_path / "a" / "evaluation" / "test" / "summary.json").unlink()
    assert "0 of 4" in page.draw([runs.read(folder, 4)])


def test_ticks_are_round_and_enclose():
    assert curves.ticks(0, 400) == [0, 100, 200, 300, 400]
    assert curves.ticks(0.12, 0.31) == [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    assert curves.ticks(0.5, 0.5)[0] <= 0.5 <= curves.ticks(0.5, 0.5)[-1]
    assert curves.ticks(0, 0)[-1] > 0


def test_a_curve_goes_from_corner_to_corner():
    line = curves.Line([(0, 0.0), (50, float("nan")), (100, 1.0)], "#000", False)
    svg = curves.draw("a", {"x": line})
    (points,) = re.findall(r'polyline points="([^"]+)"', svg)
    left, right = curves.LEFT, curves.WIDTH - curves.RIGHT - 6  # a letter
    top, bottom = curves.TOP, curves.HEIGHT - curves.BOTTOM
    assert points == f"{left}.0,{bottom}.0 {right}.0,{top}.0"
    assert curves.draw("a", {"x": curves.Line([(1, float("inf"))], "#000", False)}) == ""


def test_each_line_has_its_name_at_its_end_and_names_do_not_touch():
    lines = {
        f"{name} val": curves.Line([(0, 0.0), (10, value)], "#000", False)
        for name, value in (("a", 0.5), ("b", 0.51), ("the-long-name-of-a-run-3", 1.0))
    }
    svg = curves.draw("loss", lines)
    found = re.findall(r'y="([\d.]+)" class="name">([^<]+)<', svg)
    assert [name for _, name in found] == ["a val", "b val", "the-long…f-a-run-3 val"]
    levels = sorted(float(level) for level, _ in found)
    assert min(high - low for low, high in zip(levels, levels[1:], strict=False)) >= 12


def test_labels_keep_their_order_distance_and_bounds():
    assert curves.spread([50, 10], 12, 0, 100) == [50, 10]
    assert curves.spread([50, 49, 51], 12, 0, 100) == [61, 49, 73]
    assert curves.spread([99, 98], 12, 0, 100) == [100, 88]


def test_runs_are_told_apart_by_the_ends_of_their_folders():
    def names(*folders):
        return page._short_names([runs.Run(folder, {}, [], "", {}, {}) for folder in folders])

    assert names("x/a") == [""]
    assert names("x/a", "x/b") == ["a", "b"]
    assert names("x/a/1", "x/b/1") == ["a/1", "b/1"]


def test_the_eighth_run_has_the_first_colour_and_dashes(tmp_path):
    folders = [write_run(tmp_path / name) for name in "abcdefgh"]
    text = page.draw([runs.read(folder, 0) for folder in folders])
    line = r'stroke="#0072b2"(?: class="thin")?( stroke-dasharray="6 3")?><title>(\w+) '
    assert set(re.findall(line, text)) == {("", "a"), (' stroke-dasharray="6 3"', "h")}


def test_long_curves_are_thinned_and_keep_their_end():
    entry = [(float(step), float(step)) for step in range(10_007)]
    svg = curves.draw("a", {"x": curves.Line(entry, "#000", False)})
    assert svg.count(",") < 2 * curves.MOST_POINTS
    assert "10006" in svg or "1.001e+04" in svg


def test_a_folder_without_a_run_and_a_damaged_run_are_refused(tmp_path):
    with pytest.raises(InputError) as error:
        runs.read(str(tmp_path), 1)
    assert str(error.value) == (
        f"{tmp_path} has no run.json; name a folder that trainer.task wrote."
    )
    folder = write_run(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").write_text("{\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl is not JSON .*; restore it\."):
        runs.read(folder, 1)


def test_the_command_names_its_file_and_does_without_tensorflow(tmp_path):
    folder = write_run(tmp_path / "a")
    code = (
        "import runpy, sys; sys.argv = ['report', sys.argv[1]]\n"
        "try: runpy.run_module('trainer.report', run_name='__main__', alter_sys=False)\n"
        "finally: print('tensorflow' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    assert result.stderr == (f"Written to {folder}/report.html\nWritten to {folder}/results.png\n")
    assert result.stdout == "False\n"
    assert (tmp_path / "a" / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_page_replaces_a_page_and_nothing_else(tmp_path):
    folder = write_run(tmp_path / "a")
    for _ in range(2):
        assert command("trainer.report", folder).returncode == 0
    result = command("trainer.report", folder, f"--output={folder}/run.json")
    assert result.returncode == 2
    assert result.stderr == (
        f"--output={folder}/run.json exists, and no such command wrote it; move it "
        "away, or name another file.\n"
    )
    assert runs.read(folder, 1)


def test_no_folder_is_one_line():
    result = command("trainer.report")
    assert (result.returncode, result.stderr) == (
        2,
        "No run folder is named; write python -m trainer.report RUN [RUN …].\n",
    )
