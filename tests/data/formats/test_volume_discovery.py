"""Tests of finding volumes: files, folders of slices, and data sets with a dataset.json."""

import json

import numpy as np
import pytest

from tests.pictures import refusal
from tests.volume_files import CT, save, save_4d, save_series
from trainer.data.formats import volume_discovery
from trainer.data.formats.discovery import Source

DECATHLON = {
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
    "training": [{"image": "./imagesTr/h_1.nii.gz", "label": "./labelsTr/h_1.nii.gz"}],
    "numTraining": 1,
}
NNUNET = {
    "channel_names": {"1": "T2", "0": "T1"},
    "labels": {"background": 0, "tumour": 2, "edema, wide": 1, "ignore": 3},
    "file_ending": ".nrrd",
    "numTraining": 2,
}


def names(where, *, stacks=False, num_channels=None):
    cases, _ = volume_discovery.find_images(str(where), "images", stacks, num_channels)
    return [case.name for case in cases]


def described(folder, content):
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


def nnunet(folder, content=NNUNET):
    for case in ("a", "b"):
        save(folder / f"labelsTr/{case}.nrrd")
        for channel in (0, 1):
            save(folder / f"imagesTr/{case}_{channel:04}.nrrd")
    return described(folder, content)


def refused(folder):
    return refusal(volume_discovery.read_dataset, folder).replace(folder, "DIR")


def test_volumes_of_a_folder_are_called_by_their_path_without_the_suffix(tmp_path):
    for path in ("p1/a.nii.gz", "p1/b.v2.nii", "p2/a.mha"):
        save(tmp_path / "x" / path)
    for path in ("p2/notes.txt", "p2/.c.nii"):
        (tmp_path / "x" / path).touch()
    assert names(tmp_path / "x") == ["p1/a", "p1/b.v2", "p2/a"]
    assert names(tmp_path / "x/*/a*") == ["p1/a", "p2/a"]
    _, left_out = volume_discovery.find_images(str(tmp_path / "x"), "images", False)
    assert left_out == {".txt files": 1, "hidden files": 1}


def test_the_voxels_of_a_metaimage_are_not_left_out_but_those_of_none_are(tmp_path, caplog):
    save(tmp_path / "scan.mhd")
    (tmp_path / "other.raw").write_bytes(b"voxels")
    assert {path.suffix for path in tmp_path.glob("scan.*")} > {".mhd"}  # they are there
    cases, left_out = volume_discovery.find_images(str(tmp_path), "images", False)
    assert [case.name for case in cases] == ["scan"]
    assert left_out == {".raw files": 1}
    assert len(caplog.messages) == 1


def test_any_volume_makes_a_place_one_of_volumes(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.png").write_bytes(b"")
    np.save(tmp_path / "x/b.npy", CT)
    where = str(tmp_path / "x")
    assert not volume_discovery.are_volumes(where, "images", False)
    assert volume_discovery.are_volumes(where, "images", True)
    assert names(where, stacks=True) == ["b"]
    save(tmp_path / "x/c.nii.gz")
    assert volume_discovery.are_volumes(where, "images", False)
    assert volume_discovery.are_volumes(f"{where}/*.nii.gz", "images", False)
    assert names(where) == ["c"]


def test_a_folder_of_slices_is_one_volume(tmp_path):
    save_series(tmp_path / "x/p1/scan")
    save_series(tmp_path / "x/p2")
    cases, _ = volume_discovery.find_images(str(tmp_path / "x"), "images", True)
    assert [(case.name, case.images[0].is_series) for case in cases] == [
        ("p1/scan", True),
        ("p2", True),
    ]
    assert cases[0].images[0].path == str(tmp_path / "x/p1/scan")
    assert names(tmp_path / "x/p2", stacks=True) == ["p2"]
    assert names(tmp_path / "x/*/scan/*", stacks=True) == ["p1"]
    message = refusal(volume_discovery.find_images, str(tmp_path / "x"), "images", False)
    assert "holds no volumes" in message
    assert "Add --volumes if" in message


@pytest.mark.parametrize(
    ("files", "count", "cases"),
    [
        (["a_0000", "a_0001", "b_0000", "b_0001"], None, ["a", "b"]),
        (["a_0000", "b_0000"], 1, ["a", "b"]),
        (["a_0000", "a_0001"], 1, []),  # cases that are numbered
        (["a_0000", "a_0001", "b_0000"], None, []),
        (["a_0001", "b_0001"], 1, []),
        (["a_0000", "b"], None, []),
    ],
)
def test_files_are_channels_if_all_are_numbered_alike(files, count, cases):
    sources = [Source(name, f"{name}.nii", None, name) for name in files]
    found = volume_discovery.group_channels(sources, count)
    assert [case.name for case in found] == cases
    assert all(source.name == case.name for case in found for source in case.images)
    if cases:
        assert not volume_discovery.group_channels(sources, count, but=files)


def test_nnunets_raw_data_are_taken_as_they_are(tmp_path):
    where = nnunet(tmp_path / "d")
    save(tmp_path / "d/imagesTs/c_0000.nrrd")
    save(tmp_path / "d/imagesTs/c_0001.nrrd")
    (tmp_path / "d/imagesTr/notes.txt").touch()
    assert volume_discovery.is_dataset(where)
    found = volume_discovery.read_dataset(where)
    assert found.channel_names == ("T1", "T2")
    assert found.left_out == {"other files": 1}
    assert [case.name for case in found.cases] == ["a", "b"]
    assert [source.path for source in found.cases[1].images] == [
        f"{where}/imagesTr/b_0000.nrrd",
        f"{where}/imagesTr/b_0001.nrrd",
    ]
    assert found.cases[1].mask.path == f"{where}/labelsTr/b.nrrd"
    assert volume_discovery.classes_of(found) == ("background:0,edema  wide:1,tumour:2", "3")
    assert names(where, num_channels=2) == ["c"]


def test_the_decathlons_list_is_taken_as_it_is(tmp_path):
    save_4d(tmp_path / "d/imagesTr/h_1.nii.gz", [CT, CT])
    save(tmp_path / "d/labelsTr/h_1.nii.gz")
    (tmp_path / "d/imagesTr/._h_1.nii.gz").touch()
    found = volume_discovery.read_dataset(described(tmp_path / "d", DECATHLON))
    assert [case.name for case in found.cases] == ["h_1"]
    assert found.channel_names == ("MRI",)
    assert volume_discovery.classes_of(found) == ("background:0,Anterior:1,Posterior:2", "")
    (tmp_path / "d/labelsTr/h_1.nii.gz").unlink()
    assert refused(str(tmp_path / "d")) == (
        "DIR/dataset.json lists DIR/labelsTr/h_1.nii.gz, which does not exist; add it."
    )


def test_data_sets_that_are_not_whole_are_refused(tmp_path):
    where = nnunet(tmp_path / "d")
    (tmp_path / "d/imagesTr/b_0001.nrrd").unlink()
    assert refused(where) == (
        "DIR/imagesTr/b has the channels _0000, where DIR/dataset.json names 2; add what is "
        "missing, or remove the case."
    )
    (tmp_path / "d/imagesTr/b_0000.nrrd").unlink()
    assert "DIR/labelsTr/b.nrrd has no image in imagesTr" in refused(where)
    (tmp_path / "d/labelsTr/a.nrrd").unlink()
    assert "DIR/imagesTr/a_0000.nrrd has no mask" in refused(where)
    assert "describes pictures (file_ending .png)" in refused(
        described(tmp_path / "d", {**NNUNET, "file_ending": ".png"})
    )
    assert "has no channel_names" in refused(described(tmp_path / "d", {}))
    (tmp_path / "d/dataset.json").write_text("{")
    assert "DIR/dataset.json is not JSON" in refused(where)


def test_regions_that_overlap_are_refused(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    found = volume_discovery.read_dataset(nnunet(tmp_path / "d", {**NNUNET, "labels": labels}))
    message = refusal(volume_discovery.classes_of, found)
    assert "makes the class whole of the values [1, 2] (regions that overlap)" in message
