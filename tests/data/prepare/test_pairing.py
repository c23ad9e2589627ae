"""Tests of which mask belongs to which image, through the command itself."""

import gc
import json
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from tests import preparing
from trainer import config
from trainer.data.prepare import pairing


def test_masks_beside_their_images_are_told_by_their_suffix(folder):
    for path in (folder / "masks").iterdir():
        path.rename(folder / f"images/{path.stem}_mask.png")
    manifest = preparing.prepare(folder, f"--masks={folder}/images", "--mask_suffix=_mask")
    assert sum(split.examples for split in manifest.splits.values()) == 10


def _patients(folder):
    """Puts the ten images, and their masks, into folders of five patients, as 0.png and 1.png."""
    for kind in ("images", "masks"):
        for case, path in enumerate(sorted((folder / kind).iterdir())):
            patient = folder / kind / f"p{case // 2}"
            patient.mkdir(exist_ok=True)
            path.rename(patient / f"{case % 2}.png")


def test_patients_may_have_files_of_equal_names(folder):
    _patients(folder)
    whole = preparing.prepare(folder, "--group_by=^([^/]+)/")
    names = {side: split.cases for side, split in whole.splits.items()}
    assert sorted(sum(names.values(), ())) == [f"p{k // 2}/{k % 2}" for k in range(10)]
    patients = [{name[:2] for name in listed} for listed in names.values()]
    assert sum(map(len, patients)) == 5
    (folder / "splits.json").write_text(json.dumps(names))
    globs = [f"--images={folder}/images/*/*.png", f"--masks={folder}/masks/**/*.png"]
    listed = preparing.prepare(
        folder, *globs, f"--splits={folder}/splits.json", f"--output={folder}/second"
    )
    assert listed.splits == whole.splits
    side = next(iter(names))
    example = next(preparing.examples(folder, whole, side))
    name = example["name"].decode()
    with Image.open(folder / f"images/{name}.png") as picture:
        np.testing.assert_array_equal(example["image"][..., 0], np.asarray(picture))


def _stack(folder):
    """Puts the ten images into x.tif and their masks into y/x_mask.tif, page k being case k."""
    (folder / "y").mkdir()
    for name, target in (("images", "x.tif"), ("masks", "y/x_mask.tif")):
        first, *others = (Image.open(path) for path in sorted((folder / name).iterdir()))
        first.save(folder / target, save_all=True, append_images=others)
    return [f"--images={folder}/x.tif", f"--masks={folder}/y", "--mask_suffix=_mask"]


@pytest.mark.parametrize("masks", ["stack", "pages"])
def test_pages_of_a_tiff_pair_with_pages_or_files_of_their_masks(folder, masks):
    stacks = _stack(folder)
    if masks == "pages":
        (folder / "y/x_mask.tif").unlink()
        for path in (folder / "masks").iterdir():
            path.rename(folder / f"y/x_p0{path.stem}_mask.png")
    manifest = preparing.prepare(folder, *stacks)
    names = {name for split in manifest.splits.values() for name in split.cases}
    assert names == {f"x_p{case:03}" for case in range(10)}
    example = next(preparing.examples(folder, manifest, "train"))
    case = int(example["name"].decode().removeprefix("x_p"))
    image = np.asarray(Image.open(folder / f"images/{case:02}.png"))
    np.testing.assert_array_equal(example["image"][..., 0], image)
    assert example["mask"].sum() == 12


def test_pages_of_one_tiff_can_be_kept_on_one_side(folder):
    stacks = _stack(folder)
    (folder / "y/z_mask.tif").write_bytes((folder / "y/x_mask.tif").read_bytes())
    (folder / "z.tif").write_bytes((folder / "x.tif").read_bytes())
    stacks[0] = f"--images={folder}/*.tif"
    manifest = preparing.prepare(folder, *stacks, "--group_by=^(.*)_p[0-9]+$", "--split=0.5,0.5")
    assert [{name[0] for name in split.cases} for split in manifest.splits.values()] in (
        [{"x"}, {"z"}],
        [{"z"}, {"x"}],
    )


def test_an_npz_may_hold_images_and_masks(folder):
    images = np.arange(10 * 20, dtype=np.uint8).reshape(10, 4, 5)
    masks = images % 2 == np.arange(2)[:, np.newaxis, np.newaxis, np.newaxis]
    np.savez(folder / "x.npz", images=images, masks=np.moveaxis(masks, 0, -1))  # one-hot, booleans
    both = (f"--images={folder}/x.npz", f"--masks={folder}/x.npz")
    manifest = preparing.prepare(folder, *both)
    for example in preparing.examples(folder, manifest, "train"):
        row = int(example["name"])
        np.testing.assert_array_equal(np.squeeze(example["image"]), images[row])
        np.testing.assert_array_equal(np.squeeze(example["mask"]), images[row] % 2)


def test_an_image_is_not_its_own_mask(folder, capfd):
    same = preparing.refusal(capfd, folder, f"--masks={folder}/images")
    assert same.endswith(
        "would be an image and its own mask; give another --masks, or what masks have in their "
        "names: --mask_suffix=_mask."
    )


def test_a_file_without_its_pair_is_named(folder, capfd):
    (folder / "masks/03.png").unlink()
    assert preparing.refusal(capfd, folder) == (
        "DIR/images/03.png has no mask: there is no 03 in --masks=DIR/masks; add it, remove the "
        "image, or see --mask_suffix."
    )
    (folder / "images/03.png").unlink()
    (folder / "images/04.png").unlink()
    assert preparing.refusal(capfd, folder) == (
        "DIR/masks/04.png has no image: there is no 04 in --images=DIR/images; add it, remove the "
        "mask, or see --mask_suffix."
    )


def test_arrays_of_different_lengths_are_refused(folder, capfd):
    np.save(folder / "x.npy", np.zeros((3, 2, 2), np.uint8))
    np.save(folder / "y.npy", np.zeros((2, 2, 2), np.uint8))
    arrays = [f"--images={folder}/x.npy", f"--masks={folder}/y.npy"]
    assert preparing.refusal(capfd, folder, *arrays) == (
        "DIR/x.npy[2] has no mask: there is no 00002 in --masks=DIR/y.npy; add it, remove the "
        "image, or see --mask_suffix."
    )


def test_a_page_without_its_mask_is_named(folder, capfd):
    stacks = _stack(folder)
    Image.open(folder / "masks/00.png").save(folder / "y/x_mask.tif")
    assert preparing.refusal(capfd, folder, *stacks) == (
        "DIR/x.tif[0] has no mask: there is no x_p000_mask in --masks=DIR/y; add it, remove the "
        "image, or see --mask_suffix."
    )


@pytest.mark.parametrize("damaged", ["x.tif", "y/x_mask.tif"])
def test_a_damaged_tiff_of_several_pages_is_named_or_skipped_as_one(folder, capfd, damaged):
    stacks = _stack(folder)
    for case in range(3):  # others to prepare
        for name, target in (("images", f"{case}.png"), ("masks", f"y/{case}_mask.png")):
            (folder / f"{name}/0{case}.png").rename(folder / target)
    stacks[0] = f"--images={folder}/*.*"
    (folder / damaged).write_bytes((folder / damaged).read_bytes()[:500])
    stacks.append("--split=0.5,0.5")
    message = preparing.refusal(capfd, folder, *stacks)
    assert message.startswith(f"DIR/{damaged} cannot be read: ")
    assert message.endswith(" Fix or remove it, or skip it with --skip_bad.")
    manifest = preparing.prepare(folder, *stacks, "--skip_bad")
    assert manifest.skipped == ("x",)
    assert sum(split.examples for split in manifest.splits.values()) == 3


def test_two_images_of_one_stem_are_refused(folder, capfd):
    Image.open(folder / "images/03.png").save(folder / "images/03.bmp")
    assert preparing.refusal(capfd, folder) == (
        "DIR/images/03.bmp and DIR/images/03.png have the same stem, which names a case; rename "
        "one, or narrow --images."
    )


def test_names_that_are_no_text_are_refused_and_shown(folder, capfd):
    for name in ("images", "masks"):
        old = os.fsencode(folder / name)
        os.rename(old + b"/03.png", old + b"/a\xffb.png")
    assert preparing.refusal(capfd, folder) == (
        r"DIR/images/a\xffb.png has a name that is not UTF-8, as a case's must be; rename it."
    )


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\u2028b"])
def test_a_name_of_two_lines_is_refused_in_one(folder, capfd, name):
    for kind in ("images", "masks"):
        (folder / kind / "03.png").rename(folder / kind / f"{name}.png")
    shown = name.encode("unicode_escape").decode()
    assert preparing.refusal(capfd, folder) == (
        f"DIR/images/{shown}.png has a line break or another control character in its name, which "
        "names a case; rename it."
    )


def test_an_image_and_its_mask_may_spell_their_name_differently(folder, capfd):
    for kind, name in (("images", "cafe\u0301"), ("masks", "caf\u00e9")):
        (folder / kind / "03.png").rename(folder / kind / f"{name}.png")
    manifest = preparing.prepare(folder)
    assert "caf\u00e9" in {name for split in manifest.splits.values() for name in split.cases}
    Image.open(folder / "images/04.png").save(folder / "images/caf\u00e9.png")
    assert preparing.refusal(capfd, folder, f"--output={folder}/second") == (
        "DIR/images/cafe\u0301.png and DIR/images/caf\u00e9.png are one name to Unicode, in two "
        "spellings, which names a case; rename one, or narrow --images."
    )


def test_pairs_take_tens_of_bytes_each(tmp_path):
    settings = config.Prepare(images=f"{tmp_path}/images", masks=f"{tmp_path}/masks")
    sizes = []
    for count in (10, 2010):  # before the first, modules are imported
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
            for number in range(count):
                (tmp_path / kind / f"{number:08}.png").touch()
        tracemalloc.start()
        pairs, _ = pairing.find_pairs(settings, str(tmp_path))
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert len(pairs) == 2010
    assert (sizes[1] - sizes[0]) / 2000 < 60
