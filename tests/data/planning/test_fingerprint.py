"""The fingerprint of a data folder."""

import dataclasses

import pytest

from tests import shards
from trainer.data.dataset.schema import Grid
from trainer.data.planning import fingerprint
from trainer.errors import InputError

SIZES = {"train": [(40, 50)] * 3, "val": [(40, 40)]}
BOXES = {"train": [(8, 10, 12)] * 2, "val": [(8, 8, 8)]}


def test_images_are_single_slices_of_their_size_before_they_were_cut(tmp_path):
    manifest = shards.write_data(tmp_path, SIZES)
    grids = (Grid((40, 50), None, 2), Grid((80, 50), None, 1))
    data = fingerprint.of_manifest(dataclasses.replace(manifest, grids=grids), "DATA")
    assert data.shapes == ((1, 40, 50), (1, 40, 50), (1, 80, 50))
    assert data.spacings == ((999, 1, 1),) * 3
    assert (data.rank, data.num_cases, data.num_classes) == (2, 3, 2)
    assert sum(data.shares) == pytest.approx(1)
    told = "3 training images; the median has 40×50 pixels; 1 channel; shares of the 2 classes "
    assert fingerprint.told(data)[0].startswith(told)


def test_volumes_are_planned_at_the_spacing_they_have(tmp_path):
    manifest = shards.write_balls(tmp_path, BOXES)  # resampled to 2×1×1 mm
    grids = (Grid((8, 10, 12), (4.0, 1.0, 1.0), 1), Grid((8, 10, 12), (3.0, 1.0, 1.0), 1))
    manifest = dataclasses.replace(manifest, grids=grids)
    data = fingerprint.of_manifest(manifest, "DATA")
    assert data.target == (2, 1, 1)
    assert data.spacings == ((4, 1, 1), (3, 1, 1))
    assert (
        "of 3.5×1×1 mm where it is not zero, and was resampled to 2×1×1 mm;"
        in (fingerprint.told(data)[0])
    )
    own = dataclasses.replace(manifest.volumes, spacing=None)
    data = fingerprint.of_manifest(dataclasses.replace(manifest, volumes=own), "DATA")
    assert data.target is None
    assert data.spacings == ((3.5, 1, 1),) * 2  # none of them is resampled


def test_a_folder_of_an_earlier_version_is_refused_with_the_remedy(tmp_path):
    manifest = shards.write_data(tmp_path, SIZES)
    with pytest.raises(InputError) as error:
        fingerprint.of_manifest(manifest, "DATA")
    assert str(error.value) == (
        "DATA/manifest.json does not have the shapes and spacings of the files that it was made "
        "of, as a plan needs them, because an earlier version wrote it; prepare the data again."
    )
