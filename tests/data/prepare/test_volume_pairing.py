"""Tests of which mask belongs to which volume."""

import json

import numpy as np
import pytest

from tests.pictures import refusal
from tests.volume_files import CT, LIMIT, save, save_series
from trainer import config
from trainer.data.formats import volumes
from trainer.data.prepare import prefetch, volume_pairing


def find(folder, **settings):
    given = {"images": f"{folder}/images", "masks": f"{folder}/masks", **settings}
    return volume_pairing.find(config.Prepare(**given))


def test_volumes_pair_by_name_whatever_their_formats(tmp_path):
    for image, mask in (("images/p1/a.nii.gz", "masks/p1/a.nrrd"), ("images/b.v1.mha",) * 2):
        save(tmp_path / "x" / image.replace("b.v1", "p2/b.v1"))
        save(tmp_path / "x" / mask.replace("images", "masks").replace("b.v1", "p2/b.v1"))
    found = find(tmp_path / "x", classes="0,1", ignore="9", channel_names="CT")
    assert [(pair.name, pair.mask.name) for pair in found.pairs] == [
        ("p1/a", "p1/a"),
        ("p2/b.v1", "p2/b.v1"),
    ]
    assert (found.channel_names, found.classes, found.ignore) == (("CT",), "0,1", "9")


def test_one_folder_of_channels_and_masks_pairs_by_suffix(tmp_path):
    for name in ("a_0000", "a_0001", "a_seg"):
        save(tmp_path / f"x/{name}.nii")
    both = {"images": f"{tmp_path}/x", "masks": f"{tmp_path}/x"}
    found = find(tmp_path, **both, mask_suffix="_seg", channel_names="T1,T2")
    (pair,) = found.pairs
    assert [source.path[-11:] for source in pair.images] == ["/a_0000.nii", "/a_0001.nii"]
    assert (pair.name, pair.mask.path[-10:]) == ("a", "/a_seg.nii")


def test_numbered_cases_with_masks_of_their_own_are_no_channels(tmp_path):
    for name in ("a_0000", "a_0001"):
        save(tmp_path / f"images/{name}.nii")
        save(tmp_path / f"masks/{name}.nii")
    assert [pair.name for pair in find(tmp_path).pairs] == ["a_0000", "a_0001"]


def test_a_data_set_says_where_its_masks_are(tmp_path):
    save(tmp_path / "imagesTr/a_0000.nii.gz")
    save(tmp_path / "labelsTr/a.nii.gz")
    labels = {"background": 0, "liver": 1, "ignore": 2}
    description = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    where = {"images": str(tmp_path), "masks": ""}
    assert volume_pairing.are_volumes(config.Prepare(**where))
    found = find(tmp_path, **where)
    assert [pair.name for pair in found.pairs] == ["a"]
    told = (found.channel_names, found.classes, found.ignore)
    assert told == (("CT",), "background:0,liver:1", "2")
    assert find(tmp_path, **where, classes="0,1-2").ignore == ""
    assert "drop --masks" in refusal(lambda: find(tmp_path, images=str(tmp_path)))
    assert "names 2 channels" in refusal(lambda: find(tmp_path, **where, channel_names="A,B"))


@pytest.mark.parametrize("text", ["CT,", "T1,T1", ","])
def test_channel_names_that_are_none_are_refused(text):
    message = refusal(volume_pairing.parse_channel_names, text)
    assert message.startswith(f"--channel_names={text} names a channel twice, or not at all")


def _shape_and_sum(pair):
    image, header = volumes.read_volume(pair.images, LIMIT)
    mask, _ = volumes.read_volume_mask(pair.mask, LIMIT)
    return header.shape, int(image.sum()), int(mask.sum())


@pytest.mark.slow  # a storage server
def test_volumes_of_a_bucket_are_copied_with_their_whole_suffix(gcs, bucket, tmp_path):
    save_series(tmp_path / "images/a/p1")
    save(tmp_path / "images/a/p2.nii.gz")
    for name in ("p1", "p2"):
        save(tmp_path / f"masks/a/{name}.nrrd", np.ones(CT.shape, np.uint8))
    for path in tmp_path.rglob("*"):
        if path.is_file():  # in a store, slices are known by their names
            name = str(path.relative_to(tmp_path)) + ("" if path.suffix else ".dcm")
            gcs.write(f"{bucket}/{name}", path.read_bytes())
    found = find(bucket, volumes=True)
    assert [pair.name for pair in found.pairs] == ["a/p1", "a/p2"]
    results = prefetch.results(map, _shape_and_sum, found.pairs, 3)
    assert list(results) == [(CT.shape, CT.sum(), CT.size)] * 2
