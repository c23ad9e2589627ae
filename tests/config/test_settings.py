"""Settings: rules, defaults, and the tables that choices mirror."""

import dataclasses
import json
import re

import pytest

from trainer import config, models
from trainer.data.input import augment, normalization, volume_augment
from trainer.distributed import strategies
from trainer.errors import InputError
from trainer.evaluate import metrics
from trainer.models import encoders, norms
from trainer.training import losses, optimizers


def test_choices_are_the_rows_of_the_tables():
    rules = {name: rule for name, _, rule in config.walk(config.Job())}
    tables = {
        "augment": augment.AUGMENTATIONS,
        "best_metric": {"loss", *metrics.tracked()},
        "collectives": strategies.COLLECTIVES,
        "normalize": normalization.NORMALIZATIONS,
        "model": models.MODELS,
        "encoder": {"none", *encoders.ENCODERS},
        "norm": {"auto", *norms.NORMS},
        "loss": losses.LOSSES,
        "optimizer": optimizers.OPTIMIZERS,
        "lr_scaling": optimizers.LR_SCALINGS,
        "schedule": optimizers.SCHEDULES,
    }
    assert set(rules["augment"]["choices"]) == set(volume_augment.AUGMENTATIONS)
    for name, table in tables.items():
        assert set(rules[name]["choices"]) == set(table), name


def test_a_crop_that_the_stride_does_not_divide_is_refused_with_its_neighbours():
    with pytest.raises(InputError) as error:
        config.Job(data=config.Data(crop=250))
    assert str(error.value) == (
        "--crop=250 is not a multiple of 16, the stride of the deepest layer; use 240 or 256."
    )


def test_a_crop_below_the_stride_is_refused_with_the_stride():
    with pytest.raises(InputError, match="stride of the deepest layer; use 32\\.$"):
        config.Job(data=config.Data(crop=24), model=config.Model(depth=5))


@pytest.mark.parametrize(
    ("name", "value"), [("depth", 3), ("strides", "2/2/2/2"), ("kernels", "3/3/3/3/3")]
)
def test_what_an_encoder_leaves_without_effect_is_refused(name, value):
    with pytest.raises(InputError) as error:
        config.Model(**{name: value, "encoder": "resnet50"})
    assert str(error.value) == (
        f"--{name}={value} has no effect with --encoder=resnet50, which reduces the resolution 5 "
        "times, by 2; leave it out."
    )


def test_weights_for_an_encoder_without_one_are_refused():
    with pytest.raises(InputError, match="w.h5 has no effect without an encoder; add --encoder, o"):
        config.Model(encoder_weights="w.h5")
    assert not config.Model(encoder_weights="none").has_encoder


@pytest.mark.parametrize(("name", "value"), [("encoder_rate", 0.1), ("freeze_until", 5)])
def test_what_is_set_for_an_encoder_without_one_is_refused(name, value):
    with pytest.raises(InputError) as error:
        config.Job(optimization=config.Optimization(**{name: value}))
    assert str(error.value) == (
        f"--{name}={value} has no effect without an encoder; add --encoder, or leave it out."
    )


def test_a_crop_must_be_a_multiple_of_an_encoders_stride():
    with pytest.raises(InputError, match="--crop=48 is not a multiple of 32, the stride of the de"):
        config.Job(data=config.Data(crop=48), model=config.Model(encoder="resnet50"))


def test_a_crop_is_one_side_for_all_axes_or_one_for_each():
    assert config.Data(crop=64).box(2) == (64, 64)
    assert config.Data(crop=64).box(3) == (64, 64, 64)
    assert config.Data(crop=(40, 56, 40)).box(3) == (40, 56, 40)
    with pytest.raises(InputError) as error:
        config.Data(crop=(40, 56, 40)).box(2)
    assert str(error.value) == (
        "--crop=40,56,40 has 3 sides, but the data are images, which have 2 axes; give one for "
        "each, or one number for all."
    )


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ((64, 50), "--crop=64,50: 50 is not a multiple of 16, the stride of the deepest layer; "),
        ((16, 0, 16), "--crop=0 is below 1, its smallest value."),
        ((64,), "--crop=64 has 1 sides; give one for all axes, or 2 for images and 3 for volumes."),
    ],
)
def test_each_side_of_a_crop_has_the_rules_of_one(crop, message):
    with pytest.raises(InputError, match=re.escape(message)):
        config.Job(data=config.Data(crop=crop))


def test_levels_have_two_everywhere_and_the_kernel_size_if_nothing_else_is_given():
    levels = config.Model(depth=2, kernel_size=5).levels(rank=3)
    of_kernels = [level[:2] for level in levels]
    assert of_kernels == [((2, 2, 2), (5, 5, 5)), ((2, 2, 2), (5, 5, 5)), ((1, 1, 1), (5, 5, 5))]
    assert config.Model(depth=4).stride(rank=2) == (16, 16)


def test_levels_have_the_numbers_of_each_axis_or_one_for_all():
    network = config.Model(depth=3, strides="1,2,2/2/2", kernels="1,3,3/3/3/5")
    assert [level.stride for level in network.levels(rank=3)] == [
        *((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    ]
    assert [level.kernel for level in network.levels(rank=3)] == [
        *((1, 3, 3), (3, 3, 3), (3, 3, 3), (5, 5, 5)),
    ]
    assert network.stride(rank=3) == (4, 8, 8)
    with pytest.raises(InputError) as error:
        network.levels(rank=2)
    assert str(error.value) == (
        "--strides=1,2,2/2/2 is for 3 axes and the data have 2; give 2 numbers a level, or one for "
        "all axes."
    )


def test_levels_have_as_many_convolutions_as_the_network():
    def numbers(**values):
        return [level.number for level in config.Model(**values).levels(rank=2)]

    assert numbers(depth=2) == numbers(depth=2, model="unet_plus_plus") == [4, 4, 2]
    # A stem and one block; three; four; six, and six: two each, and one on the way up.
    deep = numbers(depth=4, model="residual_encoder_unet")
    assert deep == [1 + 2 + 1, 6 + 1, 8 + 1, 12 + 1, 12]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"strides": "2/2/2"},
            "--strides=2/2/2 has 3 levels and --depth=4 takes 4; give --depth=3, or 4 levels.",
        ),
        (
            {"kernels": "3/3"},
            "--kernels=3/3 has 2 levels and --depth=4 takes 5; give --depth=1, or 5 levels.",
        ),
        (
            {"filters": 32, "max_filters": 16},
            "--max_filters=16 is less than --filters=32, the channels of the first level; use 0 "
            "for no limit.",
        ),
        ({"kernels": "3"}, "--kernels=3 has 1 level and --depth=4 takes 5; give 5 levels."),
        (
            {"strides": "2/0", "depth": 2},
            "--strides=2/0 is not whole numbers from 1 up, with slashes between levels and commas "
            "between axes; write for example --strides=1,2,2/2/2.",
        ),
        (
            {"strides": "1,2/2,2,2", "depth": 2},
            "--strides=1,2/2,2,2 has levels of different numbers of axes; give each as many, or a "
            "number alone for all axes.",
        ),
        (
            {"strides": "1,2", "kernels": "1,3,3/3", "depth": 1},
            "--strides=1,2 is for 2 axes and --kernels=1,3,3/3 for 3; give both as many, or a "
            "number alone for all axes.",
        ),
    ],
)
def test_levels_that_do_not_go_with_the_depth_or_each_other_are_refused(values, message):
    with pytest.raises(InputError) as error:
        config.Model(**values)
    assert str(error.value) == message


def test_a_crop_is_measured_by_the_strides_of_all_axes():
    network = config.Model(depth=2, strides="1,2/2")  # 2 and 4
    config.Job(data=config.Data(crop=12), model=network)
    with pytest.raises(InputError) as error:
        config.Job(data=config.Data(crop=14), model=network)
    assert str(error.value) == (
        "--crop=14 is not a multiple of 4, the stride of the deepest layer; use 12 or 16."
    )


def test_steps_and_epochs_at_once_are_refused():
    with pytest.raises(InputError) as error:
        config.Optimization(steps=10, epochs=2)
    assert str(error.value) == "--steps=10 and --epochs=2 both give the length; drop one of them."


def test_a_batch_that_accumulation_does_not_divide_is_refused():
    with pytest.raises(InputError) as error:
        config.Job(optimization=config.Optimization(accumulate_steps=3))
    assert str(error.value) == (
        "--batch_size=8 is not a multiple of --accumulate_steps=3; change one of them."
    )


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            config.Optimization,
            {"loss": "dize"},
            "--loss=dize is not one of ce_dice, ce_linear_dice, ce_batch_dice, ce_dice_boundary, "
            "cross_entropy, dice, focal, top_k, top_k_dice, tversky; did you mean dice?",
        ),
        (config.Device, {"precision": "fp8"}, "--precision=fp8 is not one of auto, float32, "),
        (config.Data, {"batch_size": 0}, "--batch_size=0 is below 1, its smallest value."),
        (config.Model, {"dropout": 0.99}, "--dropout=0.99 is above 0.95, its largest value."),
    ],
)
def test_a_value_outside_its_rule_is_refused_with_the_rule(cls, values, message):
    with pytest.raises(InputError) as error:
        cls(**values)
    assert str(error.value).startswith(message)


def test_the_length_comes_from_steps_epochs_or_the_default():
    # 2 epochs of 100 examples are 200 examples, 25 batches of 8.
    assert config.Optimization(steps=7).total_steps(100, 8) == 7
    assert config.Optimization(epochs=2).total_steps(100, 8) == 25
    assert config.Optimization().total_steps(100, 8) == config.DEFAULT_STEPS


def test_settings_survive_the_way_through_a_dict():
    job = config.Job(data=config.Data(crop=64), optimization=config.Optimization(epochs=3))
    assert config.from_dict(config.Job, config.to_dict(job)) == job


def test_a_box_is_a_list_in_json_and_the_same_run_afterwards():
    job = config.Job(data=config.Data(crop=(64, 32)))
    written = json.loads(json.dumps(config.to_dict(job)))
    assert written["crop"] == [64, 32]
    assert config.from_dict(config.Job, written) == job
    assert config.differences(written, job) == []
    assert config.differences(written, config.Job()) == ["--crop=256 (was 64,32)"]
    with pytest.raises(InputError, match="^--crop=.* is not of type int or tuple"):
        config.from_dict(config.Job, {"crop": [64, 3.5]})


def test_only_settings_that_change_the_result_count_as_differences():
    old = config.to_dict(config.Job())
    new = config.Job(
        data=config.Data(crop=64), run=config.Run(run_dir="elsewhere", keep_checkpoints=9)
    )
    assert config.differences(old, new) == ["--crop=64 (was 256)"]


def test_a_setting_that_an_older_run_does_not_know_had_its_default():
    assert config.differences({}, config.Job()) == []
    assert config.differences({}, config.Job(data=config.Data(crop=64))) == ["--crop=64 (was 256)"]


def test_where_the_data_are_and_how_long_a_run_is_are_compared_by_what_they_stand_for():
    old = config.to_dict(config.Job())
    job = config.Job(data=config.Data(data_dir="D/"), optimization=config.Optimization(steps=9))
    assert config.differences(old, job) == []
    assert not {"data_dir", "steps", "epochs"} & set(config.identifying(job))


def test_no_flag_has_two_settings():
    for cls in (config.Job, config.Evaluate):
        names = [name for name, *_ in config.walk(cls())]
        assert len(names) == len(set(names))


def test_every_setting_has_a_help_line_that_ends_in_a_full_stop():
    for field in dataclasses.fields(config.Job):
        for name, _, rule in config.walk(field.default_factory()):
            assert rule["text"].endswith("."), name
