"""Several machines that share a folder of images, and one of masks."""

import csv
import json
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests import folders, jobs, runs
from trainer import config
from trainer.config import flags
from trainer.errors import InputError
from trainer.predict import command, outputs, parts, predict_images
from trainer.storage import lock


def test_every_name_is_of_one_part_whatever_form_it_has():
    names = [f"{folder}é{number}" for folder in ("", "A/") for number in range(500)]
    for count in (1, 2, 7):
        each = [parts.Part(number + 1, count) for number in range(count)]
        sizes = [sum(part.has(name) for name in names) for part in each]
        assert sum(sizes) == len(names)
        assert min(sizes) > 0.7 * len(names) / count
        for other in (str.upper, lambda name: unicodedata.normalize("NFD", name)):
            assert all(part.has(name) == part.has(other(name)) for part in each for name in names)


@pytest.mark.parametrize("text", ["2", "0/3", "4/3", "1/2/3", "a/b", "-1/2", "1.0/2"])
def test_what_is_no_part_is_one_line(text):
    with pytest.raises(InputError, match=rf"^--part={text} is not I/N with 1 ≤ I ≤ N; write"):
        command.check(config.Predict(images="a", output="b", part=text))


@pytest.mark.parametrize(
    ("mine", "other", "may_meet"),
    [
        ("1/8", "parts/2-of-8", False),
        ("1/8", "parts/2-of-18", True),
        ("1/8", "", True),
        ("", "parts/2-of-8", True),
        ("1/1", "parts/1-of-2", True),
    ],
)
def test_parts_of_as_many_have_no_image_in_common(mine, other, may_meet):
    assert parts.parse(mine).may_meet(other) == may_meet


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return runs.write_run(tmp_path_factory.mktemp("run"), depth=1)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (12, 20, 30)).astype(np.uint8)
    for number, pixels in enumerate(noise):
        name = f"more/{number}.png" if number % 3 else f"{number}.png"
        Image.fromarray(pixels).save(folder / name)
    return folder


def predict(run_dir, images, out, *more):
    argv = [f"--run_dir={run_dir}", f"--images={images}/**", f"--output={out}", *more]
    predict_images.predict(flags.parse(config.Predict, ["predict", *argv]))


@pytest.mark.slow
def test_parts_make_together_what_one_start_makes(run_dir, images, tmp_path, caplog):
    more = ("--review", "--probabilities")
    predict(run_dir, images, tmp_path / "whole", *more)
    whole, out = folders.content(tmp_path / "whole"), tmp_path / "out"
    for part in ("3/3", "1/3"):
        predict(run_dir, images, out, f"--part={part}", *more)
    shutil.rmtree(out / "parts/1-of-3/.unfinished", ignore_errors=True)
    listed = {
        part: set(json.loads((out / f"parts/{part}/prediction.json").read_text())["files"])
        for part in ("1-of-3", "3-of-3")
    }
    assert listed["1-of-3"].isdisjoint(listed["3-of-3"])
    with caplog.at_level("INFO", logger="absl"):
        predict(run_dir, images, out, "--part=1/3", *more)
    assert "Wrote 0 masks" in caplog.text
    # Other machines may divide what is left in another way, and none does anything twice.
    for part in ("1/2", "2/2"):
        predict(run_dir, images, out, f"--part={part}", *more)
    caplog.clear()
    with caplog.at_level("INFO", logger="absl"):
        predict(run_dir, images, out, *more)
    assert "Wrote 0 masks" in caplog.text
    assert "; 12 existed already." in caplog.text
    assert folders.content(out).keys() == whole.keys()  # no parts any more
    assert json.loads((out / "prediction.json").read_text())["files"].keys() == {
        name for name in whole if name.endswith((".png", ".npy"))
    }
    for name in whole:
        if name.endswith(".npy"):  # small images share batches, which rounds in another way
            near = np.load(out / name), np.load(tmp_path / "whole" / name)
            np.testing.assert_allclose(*near, atol=runs.CLOSE)
            mask = name.removeprefix("probabilities/").replace(".npy", ".png")
            masks = (np.asarray(Image.open(where / mask)) for where in (out, tmp_path / "whole"))
            runs.assert_same_mask(*masks, np.stack([1 - near[1], near[1]], -1))


@pytest.mark.slow
def test_a_part_that_was_killed_is_known_to_the_others(run_dir, images, tmp_path):
    out, argv = tmp_path / "out", [f"--run_dir={run_dir}", f"--images={images}/**"]

    class KilledError(BaseException):
        """Ends a process like a kill: nothing more is written."""

    place = outputs.Folder.place

    def place_and_die(folder, task, *rest):
        place(folder, task, *rest)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs.Folder, "place", place_and_die)
        patch.setattr(outputs.Folder, "end", lambda folder: None)
        with pytest.raises(KilledError):
            predict(run_dir, images, out, "--part=1/2")
    assert (out / "parts/1-of-2/.unfinished").is_dir()
    predict(run_dir, images, out, "--part=2/2")
    result = jobs.command("trainer.predict", *argv, f"--output={out}")
    assert result.returncode == 0, result.stderr
    assert not (out / "parts").exists()
    assert len(json.loads((out / "prediction.json").read_text())["files"]) == 12


@pytest.mark.slow
def test_a_start_that_would_meet_another_is_refused(run_dir, images, tmp_path):
    out = tmp_path / "out"
    predict(run_dir, images, out, "--part=1/2")
    kept = folders.content(out)
    with lock.held(str(out / "parts/1-of-2"), 60.0, flag="output"):
        for more, words in (([], "no --part"), (["--part=2/3"], "--part=2/3")):
            with pytest.raises(InputError, match=r"parts/1-of-2/lease.json: another") as error:
                predict(run_dir, images, out, *more)
            assert f"a start with {words} has, too; wait for it, or" in str(error.value)
        predict(run_dir, images, out, "--part=2/2")
    assert folders.content(out).items() > kept.items()
    for part in ("2/2", "2/3"):  # of parts that are made of other images, too
        with pytest.raises(InputError, match="holds predictions with another tta"):
            predict(run_dir, images, out, f"--part={part}", "--tta=flips")
    shutil.rmtree(out / "parts/2-of-2")
    with pytest.raises(InputError, match="holds predictions with another tta"):
        predict(run_dir, images, out, "--part=2/2", "--tta=flips")


@pytest.mark.slow
def test_a_part_whose_process_has_ended_is_not_waited_for(run_dir, images, tmp_path):
    out = tmp_path / "out"
    predict(run_dir, images, out, "--part=1/2")
    program = (
        "import sys, time\nfrom trainer.storage import lock\n"
        "with lock.held(sys.argv[1], 60.0, flag='output'):\n"
        "    print(flush=True)\n    time.sleep(99)"
    )
    command = [sys.executable, "-c", program, str(out / "parts/1-of-2")]
    with subprocess.Popen(command, cwd=jobs.ROOT, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.kill()
    assert (out / "parts/1-of-2/lease.json").exists()
    predict(run_dir, images, out)
    assert not (out / "parts").exists()


@pytest.mark.slow
def test_parts_share_a_bucket(run_dir, images, gcs, bucket):
    for path in images.rglob("*.png"):
        gcs.write(f"{bucket}/images/{path.name}", path.read_bytes())
    argv = [f"--run_dir={run_dir}", f"--images={bucket}/images", f"--output={bucket}/out"]
    argv += ["--review", "--uncertainty"]
    for part in ("1/2", "2/2"):
        predict_images.predict(flags.parse(config.Predict, ["predict", *argv, f"--part={part}"]))
    own = {"prediction.json", "review.csv"}
    masks = {f"{number}.png" for number in range(12)}
    made = masks | {f"uncertainty/{number}.tif" for number in range(12)}
    assert set(gcs.names(f"{bucket}/out/")) == made | {
        f"parts/{part}-of-2/{name}" for part in (1, 2) for name in own
    }
    predict_images.predict(flags.parse(config.Predict, ["predict", *argv]))
    assert set(gcs.names(f"{bucket}/out/")) == made | own
    table = gcs.read(f"{bucket}/out/review.csv").decode()
    rows = list(csv.DictReader(table.splitlines()))
    assert {row["mask"] for row in rows} == masks
    expected = [float(row["expected_dice"]) for row in rows]
    assert expected == sorted(expected)
