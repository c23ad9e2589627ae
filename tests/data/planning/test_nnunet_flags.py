"""nnU-Net's plan as flags of trainer.task."""

import dataclasses

import pytest

from tests import shards
from tests.data.planning.test_nnunet_rules import HIPPOCAMPUS, data_of
from trainer.data.planning import nnunet_flags, nnunet_rules, plan_file, topology_flags
from trainer.errors import InputError


def job_of(data, memory_gb=8):
    plans = nnunet_rules.plan(data, memory_gb)
    return plan_file.job_of(nnunet_flags.choices(data, plans, memory_gb))


def test_a_plan_of_volumes_has_the_recipe_and_leaves_out_what_is_the_same_everywhere():
    job = job_of(HIPPOCAMPUS)
    assert (job.data.crop, job.data.batch_size, job.model.depth) == ((40, 56, 40), 7, 3)
    assert (job.model.strides, job.model.kernels, job.model.max_filters) == ("", "", 0)
    assert (job.model.filters, job.model.norm, job.model.activation) == (
        *(32, "instance", "leaky_relu"),
    )
    settings = job.optimization
    assert (settings.optimizer, settings.momentum, settings.learning_rate) == ("sgd", 0.99, 0.01)
    assert settings.nesterov
    assert (settings.schedule, settings.weight_decay, settings.clip_norm) == (
        *("polynomial", 3e-5, 12),
    )
    assert (settings.loss, job.model.deep_supervision) == ("ce_linear_dice", True)
    # round(7 · 0.67) = 5 of 7 are drawn at random, the others hold a class.
    assert job.data.foreground == pytest.approx(2 / 7, abs=1e-3)


def test_axes_are_those_of_the_data_wherever_slices_are_thick():
    thick = job_of(data_of([(320, 20, 320)] * 5, [(0.62, 3.6, 0.62)] * 5))
    assert thick.data.crop == (320, 20, 256)
    assert thick.model.strides == "2,1,2/2,1,2/2/2/2,1,2/2,1,2"
    assert thick.model.kernels == "3,1,3/3,1,3/3/3/3/3/3"
    assert thick.model.max_filters == 320
    assert thick.data.foreground == 0.5


def test_a_plan_of_images_is_that_of_slices():
    data = data_of([(1, 256, 256)] * 60, [(999, 1, 1)] * 60, classes=2)
    job = job_of(dataclasses.replace(data, rank=2))
    assert (job.data.crop, job.model.depth, job.data.foreground) == (256, 6, 0)
    assert job.optimization.loss == "ce_batch_dice"


def test_volumes_of_one_slice_have_the_plan_of_slices():
    job = job_of(data_of([(1, 64, 64)] * 9, [(5, 1, 1)] * 9))
    assert job.data.crop == (1, 64, 64)
    assert set(job.model.strides.split("/")) == {"1,2,2"}
    assert set(job.model.kernels.split("/")) == {"1,3,3"}


def test_a_patch_that_cannot_be_halved_has_two_levels_of_one_resolution():
    job = job_of(data_of([(7, 7, 7)] * 9, [(1, 1, 1)] * 9))
    assert (job.data.crop, job.model.depth, job.model.strides) == (7, 1, "1")


def test_a_coarser_stage_is_told():
    data = data_of([(400, 512, 512)] * 40, [(1, 0.8, 0.8)] * 40)
    lines = nnunet_flags.told(nnunet_rules.plan(data))
    assert lines[1].startswith(
        "A patch sees less than a quarter of a volume: nnU-Net would also train at 2.288×1.83×1.83 "
        "mm (175×224×224 voxels; patch 112×160×128, batch 2;"
    )


def test_blocks_that_are_smaller_than_a_patch_are_refused(tmp_path):
    manifest = shards.write_balls(tmp_path, {"train": [(8, 8, 8)]})
    volumes = dataclasses.replace(manifest.volumes, block=(160, 160, 160))
    manifest = dataclasses.replace(manifest, volumes=volumes)
    topology_flags.check_blocks(manifest, (20, 160, 160))
    with pytest.raises(InputError) as error:
        topology_flags.check_blocks(manifest, (20, 320, 256))
    assert str(error.value).endswith("prepare them again with --block=320.")
