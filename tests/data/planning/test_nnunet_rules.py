"""nnU-Net's rules: what its own planner says of real and made-up data sets."""

import json
import math
import pathlib

import pytest

from trainer.data.planning import nnunet_rules
from trainer.data.planning.fingerprint import Fingerprint

FACTS = sorted(pathlib.Path(__file__).parents[4].glob("shared/facts/plans/*.json"))
NAMES = {"2d": "flat", "3d_fullres": "full", "3d_lowres": "low"}


def data_of(shapes, spacings, *, classes=3, cases=None):
    return Fingerprint(
        rank=3,
        shapes=tuple(map(tuple, shapes)),
        spacings=tuple(map(tuple, spacings)),
        channels=1,
        num_classes=classes,
        shares=(),
        num_cases=cases or len(shapes),
    )


def figures(found):
    return found.topology.patch, found.batch_size, found.topology.strides, found.topology.kernels


HIPPOCAMPUS = data_of([(36, 50, 35)] * 208, [(1, 1, 1)] * 208)


def test_a_small_isotropic_set_is_seen_whole():
    plans = nnunet_rules.plan(HIPPOCAMPUS)
    # 36 is halved to 18, 9 and 5, of which none is 8 or more: three halvings, multiples of 8.
    every = ((1, 1, 1), *[(2, 2, 2)] * 3)
    assert figures(plans.full) == ((40, 56, 40), 7, every, ((3, 3, 3),) * 4)
    assert plans.full.features == (32, 64, 128, 256)
    assert plans.low is None
    assert not plans.full.batch_dice
    assert figures(plans.flat)[:2] == ((56, 40), 292)
    assert plans.flat.batch_dice


def test_values_of_all_feature_maps_are_counted():
    # 40·56·40 = 89600 voxels; a level has an eighth of those above, and twice the features.
    levels = [89600 // 8**level * 32 * 2**level for level in range(4)]
    # Two convolutions on each way, one that is transposed, and the logits of three classes.
    expected = sum(5 * each for each in levels[:-1]) + 2 * levels[-1] + 3 * 89600
    assert nnunet_rules.plan(HIPPOCAMPUS).full.elements == expected
    # What fits into 8 GB by that, 560e6 / 19e6 · 2, is more than the 5 % of all voxels.
    many = data_of(HIPPOCAMPUS.shapes, HIPPOCAMPUS.spacings, cases=10_000)
    assert nnunet_rules.plan(many).full.batch_size == round(560e6 / expected * 2)


def test_thick_slices_are_halved_only_where_pixels_are_as_coarse():
    data = data_of([(20, 320, 320)] * 5, [(3.6, 0.62, 0.62)] * 5)
    patch, batch, strides, kernels = figures(nnunet_rules.plan(data).full)
    assert (patch, batch) == ((20, 320, 256), 2)
    # 3.6 / 0.62 = 5.8: after two halvings of the pixels it is 1.5, and no kernel is flat any more.
    assert [stride[0] for stride in strides] == [1, 1, 1, 2, 2, 1, 1]
    assert [kernel[0] for kernel in kernels] == [1, 1, 3, 3, 3, 3, 3]
    assert figures(nnunet_rules.plan(data, 4).full)[0] == (16, 256, 224)
    residual = nnunet_rules.plan(data, network=nnunet_rules.NETWORKS["resenc_m"])
    assert figures(residual.full)[:2] == ((20, 256, 256), 2)
    assert figures(residual.flat)[:2] == ((320, 320), 32)


def test_the_coarsest_axis_comes_first_and_a_flat_one_gets_the_tenth_percentile():
    plans = nnunet_rules.plan(data_of([(60, 60, 20)] * 10, [(1, 1, 4)] * 10, classes=2))
    assert plans.axes == (2, 0, 1)
    assert figures(plans.full)[:2] == ((20, 64, 64), 2)
    assert figures(plans.flat)[:2] == ((64, 64), 9)
    shapes, spacings = [(12, 256, 256), (10, 256, 224)] * 3, [(10, 1.5, 1.5), (8, 1.4, 1.4)] * 3
    plans = nnunet_rules.plan(data_of(shapes, spacings, classes=4, cases=200))
    assert plans.full.spacing == pytest.approx((8, 1.45, 1.45))
    # A median of 12.5 slices: (15 + 10) / 2.
    assert plans.full.median_shape == (12.5, 256, 240.5)
    assert figures(plans.full)[:2] == ((14, 256, 256), 4)
    assert figures(plans.flat)[:2] == ((256, 256), 49)


def test_a_patch_that_sees_little_calls_for_a_coarser_stage():
    data = data_of([(400, 512, 512)] * 40, [(1, 0.8, 0.8)] * 40)
    plans = nnunet_rules.plan(data)
    assert figures(plans.full)[:2] == ((112, 160, 128), 2)
    assert plans.full.batch_dice
    assert not plans.low.batch_dice
    # 28 times 3 % more, 1.03**28 = 2.288.
    assert plans.low.spacing == pytest.approx([mm * 1.03**28 for mm in (1, 0.8, 0.8)])
    assert plans.low.median_shape == (175, 224, 224)
    assert math.prod(plans.low.topology.patch) / (175 * 224 * 224) >= 0.25


def test_images_are_volumes_of_one_slice():
    plans = nnunet_rules.plan(data_of([(1, 360, 360)] * 60, [(999, 1, 1)] * 60, classes=2))
    assert plans.full is None
    assert figures(plans.flat)[:2] == ((384, 384), 3)
    assert plans.flat.features == (32, 64, 128, 256, 512, 512, 512)


def test_volumes_that_were_resampled_otherwise_are_planned_at_that_spacing():
    halved = data_of([(20, 20, 20)] * 9, [(1, 1, 1)] * 9)
    halved = nnunet_rules.plan(Fingerprint(**{**vars(halved), "target": (0.5, 0.5, 0.5)}))
    assert halved.full.median_shape == (40, 40, 40)


@pytest.mark.skipif(not FACTS, reason="The plans of nnU-Net's planner are not here.")
@pytest.mark.parametrize("path", FACTS, ids=lambda path: path.stem)
def test_every_plan_of_the_planner_itself_is_found(path):
    facts = json.loads(path.read_text())
    shapes = facts["fingerprint"]["shapes_after_crop"]
    spacings = facts["fingerprint"]["spacings"]
    spacings = spacings * (len(shapes) // len(spacings))
    for name, wanted in facts["plans"].items():
        network = "resenc_m" if name.startswith("resencM") else "plain"
        plans = nnunet_rules.plan(
            data_of(shapes, spacings, classes=len(facts["labels"]), cases=wanted["numTraining"]),
            wanted["gpu_memory_target_gb"],
            nnunet_rules.NETWORKS[network],
        )
        assert list(plans.axes) == wanted["transpose_forward"]
        for kind, field in NAMES.items():
            found, one = getattr(plans, field), wanted["configurations"].get(kind)
            assert (found is None) == (one is None), (name, kind)
            if found is None:
                continue
            keys = ("patch_size", "batch_size", "strides", "kernel_sizes")
            listed = json.loads(json.dumps(figures(found)))
            assert listed == [one[key] for key in keys], (name, kind)
            assert list(found.features) == one["features_per_stage"], (name, kind)
            assert found.batch_dice == one["batch_dice"], (name, kind)
            assert list(found.median_shape) == one["median_image_size_in_voxels"]
            assert found.spacing == pytest.approx(one["spacing"], rel=1e-6), (name, kind)
