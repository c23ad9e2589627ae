"""Volumes, prepared: what is stored of them, by whatever many workers."""

import numpy as np
import pytest

from tests import preparing, volume_files
from trainer.data.dataset import schema, volume_examples
from trainer.data.formats import volumes
from trainer.data.geometry import Geometry
from trainer.data.prepare import volume_kind

SPACING = (3.0, 0.5, 0.4)
SPLIT = "--split=0.5,0.3,0.2"


@pytest.fixture
def folder(tmp_path):
    """Ten volumes of 4×6×8 voxels, of which the first slice and the last two columns are zero."""
    rng = np.random.default_rng(0)
    for n in range(10):
        values = rng.integers(50, 900, (4, 6, 8)).astype(np.int16)
        values[0], values[..., 6:] = 0, 0
        mask = np.zeros((4, 6, 8), np.uint8)
        mask[2, 1:3, 2:5] = 7
        mask[3, 5, 5] = 9
        volume_files.save(tmp_path / f"images/{n}.nii.gz", values, SPACING)
        volume_files.save(tmp_path / f"masks/{n}.nii.gz", mask, SPACING)
    return tmp_path


def load(path):
    return volumes.read_volume_mask(volume_files.source_of(path), volume_files.LIMIT)


def read(folder, manifest, side):
    """Yields the example and the original of each volume of a split."""
    for shard in manifest.splits[side].shards:
        for serialized in schema.read_shard(f"{folder}/out", shard):
            example = schema.decode(serialized, manifest)
            yield example, volume_examples.decode_original(serialized)


def test_what_is_not_zero_is_stored_with_its_place_in_the_file(folder):
    manifest = preparing.prepare(
        folder, "--spacing=none", "--classes=background:0,organ:7", "--ignore=9", SPLIT
    )
    assert manifest.volumes.spacing is None
    # 3 × 6 × 6 of 4 × 6 × 8 voxels are left, 9/16.
    assert manifest.volumes.channels == (volume_examples.Channel("0", "nonzero"),)
    assert manifest.splits["train"].shards[0].foreground is True
    for example, original in read(folder, manifest, "val"):
        name = example["name"].numpy().decode()
        values, _ = load(folder / f"images/{name}.nii.gz")
        mask, _ = load(folder / f"masks/{name}.nii.gz")
        part = values[1:, :, :6].astype(float)
        np.testing.assert_allclose(
            example["image"][..., 0], (part - part.mean()) / part.std(), rtol=1e-5, atol=1e-5
        )
        ids = np.select([mask == 7, mask == 9], [1, schema.IGNORE], 0)
        np.testing.assert_array_equal(example["mask"], ids[1:, :, :6])
        np.testing.assert_array_equal(original["original_mask"], ids)
        assert original["box"].numpy().tolist() == [[1, 4], [0, 6], [0, 6]]
        grid = Geometry.from_array(original["geometry"].numpy())
        np.testing.assert_allclose(grid.spacing, SPACING, rtol=1e-6)
        np.testing.assert_allclose(grid.direction, volume_files.TURNED, atol=1e-6)
        places = example["places"].numpy()
        assert places[:, 0].tolist() == [1] * 6
        assert (example["mask"].numpy()[tuple(places[:, 1:].T)] == 1).all()


def test_volumes_are_resampled_and_cut_into_blocks_with_the_same_bytes_by_any_workers(folder):
    flags = ["--spacing=1.5,0.5,0.5", "--block=8", "--tile=0", SPLIT]
    alone = preparing.prepare(folder, *flags, "--channel_names=CT", f"--output={folder}/one")
    preparing.prepare(folder, *flags, "--channel_names=CT", f"--output={folder}/two", "--workers=2")
    for path in (folder / "one").iterdir():
        assert path.read_bytes() == (folder / "two" / path.name).read_bytes()
    # 3 slices of 3 mm are 6 of 1.5 mm, 6 columns of 0.4 mm are 5 of 0.5 mm.
    assert alone.splits["val"].sizes == ((6, 6, 5, alone.splits["val"].examples),)
    assert alone.volumes.block is None
    assert alone.volumes.channels[0].scheme == "ct"
    # What is not zero, at the spacing of the files.
    (grid,) = alone.grids
    assert (grid.shape, grid.count) == ((3, 6, 6), alone.splits["train"].examples)
    assert grid.spacing == pytest.approx(SPACING)


def test_folds_of_volumes_train_on_blocks_and_validate_whole_by_the_figures_of_all(folder):
    split = ("--split=0.4,0.4,0.2", "--channel_names=CT", "--block=8", "--spacing=3,0.25,0.2")
    argv = (*split, "--classes=background:0,organ:7,other:9", "--folds=3")
    one = preparing.prepare(folder, *argv)
    assert one.volumes.block == (8, 8, 8)
    voxels = []
    for fold in one.folds:
        assert len(fold.train.cases) > len(fold.val.cases)
        assert {name.partition("_")[0] for name in fold.train.cases} == set(fold.val.cases)
        for name in fold.val.cases:
            values, _ = load(folder / f"images/{name}.nii.gz")
            mask, _ = load(folder / f"masks/{name}.nii.gz")
            voxels.append(values[mask > 0])
    # The figures are those of all that is not tested, whichever fold validates.
    assert one.volumes.channels[0].mean == pytest.approx(np.concatenate(voxels).mean())
    for shard in one.folds[1].val.shards:
        for serialized in schema.read_shard(f"{folder}/out", shard):
            original = volume_examples.decode_original(serialized)
            assert original["original_mask"].shape == (4, 6, 8)
    kinds = [shard.foreground for shard in one.splits["train"].shards]
    assert kinds == sorted(kinds, reverse=True)
    (folder / "out").rename(folder / "one")
    assert preparing.prepare(folder, *argv, "--workers=2") == one


def test_with_a_plan_blocks_are_as_long_as_any_patch(folder):
    manifest = preparing.prepare(folder, "--block=8", "--plan", SPLIT)
    assert manifest.volumes.block is None  # the volumes are smaller than a patch
    assert (folder / "out/plan.cfg").read_text().splitlines()[-2:] == [
        "# Small batches of volumes: the weights are averaged.",
        "--ema=0.99",
    ]


def test_blocks_without_a_foreground_have_shards_of_their_own(folder):
    flags = ["--spacing=0.375,0.5,0.4", "--block=8", "--classes=0,7", "--ignore=9", SPLIT]
    manifest = preparing.prepare(folder, *flags)
    # 24 slices in blocks of 8, four of them; the organ is in slices 8 to 15 of what is left.
    train = manifest.splits["train"]
    assert train.sizes == ((8, 6, 6, train.examples),)
    assert manifest.volumes.block == (8, 8, 8)
    flags = {shard.foreground for shard in train.shards}
    assert flags == {True, False}
    of_examples = [shard.foreground for shard in train.shards for _ in range(shard.examples)]
    found = [(one["mask"] == 1).any() for one in preparing.examples(folder, manifest, "train")]
    assert found == of_examples
    # Which classes each example has is said of either kind of shard.
    of_class = "".join(shard.present[1] for shard in train.shards)
    assert of_class == "".join("01"[int(has)] for has in found)


def test_at_most_so_many_places_of_a_class_are_drawn_and_always_the_same(monkeypatch):
    monkeypatch.setattr(volume_kind, "MOST_PLACES", 5)
    ids = np.zeros((4, 5, 6), np.uint8)
    ids[1:3], ids[0, 0, 0], ids[3, 4, 5] = 2, 1, schema.IGNORE
    places = volume_kind.draw_places(ids, "0:a")
    assert places[:, 0].tolist() == [1, 2, 2, 2, 2, 2]
    assert places[0, 1:].tolist() == [0, 0, 0]
    assert len(np.unique(places, axis=0)) == 6
    assert (ids[tuple(places[:, 1:].T)] == places[:, 0]).all()
    np.testing.assert_array_equal(places, volume_kind.draw_places(ids, "0:a"))
    assert not np.array_equal(places, volume_kind.draw_places(ids, "1:a"))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--tile=64", "--tile=64 is for images, and --images=DIR/images has volumes; drop it."),
        ("--channels=3", "--channels=3 is for images, and --images=DIR/images has volumes; "),
        ("--channel_names=T1,T2", "DIR/images/0.nii.gz has 1 channels, and 2 are named; "),
        ("--spacing=1,2", "--spacing=1,2 is neither plan, none nor three lengths in mm; "),
    ],
)
def test_settings_that_do_not_go_with_volumes_are_refused(folder, capfd, flag, message):
    assert preparing.refusal(capfd, folder, flag).startswith(message)


def test_a_spacing_that_makes_volumes_too_large_is_refused(folder, capfd):
    # 3 slices are left, 9 mm; what is told before are classes, spacing, scheme and blocks.
    message = preparing.refusal(capfd, folder, "--spacing=1e-4,1,1", num_notes=4)
    assert "/0.nii.gz has voxels of 3×0.5×0.4 mm, and of 0.0001×1×1 mm it has 90000×3×2" in message


def test_a_mask_on_another_grid_is_refused(folder, capfd):
    mask, _ = load(folder / "masks/4.nii.gz")
    volume_files.save(folder / "masks/4.nii.gz", mask, (3.0, 0.5, 0.5))
    found = preparing.refusal(capfd, folder)
    assert found.startswith(
        "DIR/images/4.nii.gz and DIR/masks/4.nii.gz are not on one grid: spacing (3, 0.5, 0.4) and "
    )


def test_a_volume_of_zeros_is_refused(folder, capfd):
    volume_files.save(folder / "images/3.nii.gz", np.zeros((4, 6, 8), np.int16), SPACING)
    assert preparing.refusal(capfd, folder).startswith("DIR/images/3.nii.gz is zero everywhere; ")


def test_masks_without_a_grid_have_that_of_their_image(folder, caplog):
    spacing = "--spacing=1.5,0.5,0.4"
    with_grid = preparing.prepare(folder, spacing, SPLIT)
    for path in (folder / "masks").iterdir():
        np.save(folder / f"masks/{path.name.removesuffix('.nii.gz')}.npy", load(path)[0])
        path.unlink()
    assert preparing.prepare(folder, spacing, SPLIT, "--volumes", f"--output={folder}/b") == (
        with_grid
    )
    for path in (folder / "images").iterdir():
        np.save(folder / f"images/{path.name.removesuffix('.nii.gz')}.npy", load(path)[0])
        path.unlink()
    caplog.clear()
    preparing.prepare(folder, spacing, SPLIT, "--volumes", f"--output={folder}/c")
    assert sum("do not say how far their voxels are apart" in line for line in caplog.messages) == 1
