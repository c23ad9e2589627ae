"""Our own rules, on data sets like those whose best settings are known."""

import dataclasses

import pytest

from tests.data.planning.test_nnunet_rules import HIPPOCAMPUS, data_of
from trainer.data.planning import auto_rules, plan_file


def images(number, height, width, **changes):
    """Returns the fingerprint of images of one size."""
    shapes, spacings = [(1, height, width)] * number, [(999, 1, 1)] * number
    pixels = changes.pop("pixels", number * height * width)
    data = data_of(shapes, spacings, classes=2)
    return dataclasses.replace(data, rank=2, pixels=pixels, **changes)


def job_of(data, steps=1000):
    setup = auto_rules.for_cpu(data)
    return plan_file.job_of(
        [*setup.choices(), *auto_rules.training(data, setup, steps, "As asked.", 5)]
    )


@pytest.mark.parametrize(
    ("data", "crop", "filters", "norm"),
    [
        (images(180, 120, 120), 112, 8, "instance"),  # white blood cells
        (images(332, 256, 320), 128, 16, "auto"),  # nuclei
        (images(24, 512, 512), 256, 16, "auto"),  # membranes
        (images(6, 2000, 2000), 256, 16, "auto"),
        (images(9, 200, 300), 96, 8, "auto"),
        (images(9, 20, 30), 16, 8, "auto"),
    ],
)
def test_crops_of_images_are_half_the_median_and_few_pixels_take_few_filters(
    data, crop, filters, norm
):
    job = job_of(data)
    assert (job.data.crop, job.model.filters, job.model.norm) == (crop, filters, norm)
    assert (job.data.batch_size, job.optimization.learning_rate) == (8, 2e-3)
    assert (job.data.foreground, job.model.deep_supervision) == (0, False)


def test_a_small_volume_is_seen_whole_as_the_preset_does():
    job = job_of(dataclasses.replace(HIPPOCAMPUS, pixels=208 * 36 * 50 * 35), 2400)
    assert (job.data.crop, job.model.depth, job.model.filters) == ((40, 56, 40), 3, 16)
    assert (job.data.batch_size, job.data.foreground, job.optimization.ema) == (4, 0.33, 0.99)
    assert (job.optimization.warmup_steps, job.run.eval_every) == (48, 480)
    assert (job.optimization.loss, job.data.augment) == ("ce_linear_dice", "flip")
    assert job.model.deep_supervision


def test_a_volume_of_few_levels_has_no_output_but_the_last():
    data = data_of([(12, 12, 12)] * 9, [(1.0, 1.0, 1.0)] * 9, classes=2)
    job = job_of(dataclasses.replace(data, pixels=9 * 12**3))
    assert (job.model.depth, job.model.deep_supervision) == (1, False)


def test_what_is_seen_often_is_augmented_more():
    cells = images(180, 120, 120)
    # 8 · 112² of 2.59 million pixels a step: 100 passes are 2583 steps.
    assert job_of(cells, 2500).data.augment == "standard"
    assert job_of(cells, 2600).data.augment == "strong"
    # 4 · 40 · 56 · 40 of 13.1 million voxels a step: 500 passes are 18281 steps.
    volumes = dataclasses.replace(HIPPOCAMPUS, pixels=208 * 36 * 50 * 35)
    assert job_of(volumes, 18_200).data.augment == "flip"
    assert job_of(volumes, 18_400).data.augment == "standard"


@pytest.mark.parametrize(("steps", "warmup"), [(1, 1), (30, 10), (1000, 30), (9000, 180)])
def test_the_warm_up_is_a_part_of_the_run(steps, warmup):
    assert job_of(images(24, 512, 512), steps).optimization.warmup_steps == warmup


def test_an_accelerator_has_nnunets_patch_and_width():
    data = dataclasses.replace(HIPPOCAMPUS, pixels=208 * 36 * 50 * 35)
    setup, most = auto_rules.for_accelerator(data, replicas=4)
    assert (setup.topology.patch, setup.filters, setup.batch_size) == ((40, 56, 40), 32, 8)
    assert most == 7  # 5 % of 13.1 million voxels are 7.3 patches
    steps, _ = auto_rules.steps_by_passes(data, setup)
    assert steps == 5000  # 100 passes are 1828
    rows = auto_rules.training(data, setup, steps, "", 5)
    job = plan_file.job_of([*setup.choices(), *rows])
    assert (job.model.norm, job.optimization.learning_rate) == ("instance", 1e-3)


def test_the_rate_grows_with_the_root_of_large_batches():
    data = images(332, 256, 320)
    setup = auto_rules.for_cpu(data).with_batch(16, "Asked.")
    rows = {row.name: row for row in auto_rules.training(data, setup, 1000, "", 5)}
    assert rows["learning_rate"].value == 2.8e-3  # 2e-3 · √2


def test_images_of_very_different_sizes_are_told_to_be_cut():
    data = images(10, 256, 256)
    assert auto_rules.told(data, [(256, 256, 10)]) == []
    (line,) = auto_rules.told(data, [(256, 256, 9), (1024, 1024, 1)])
    assert line.startswith("The largest training image has 16 times the pixels of the median one")
