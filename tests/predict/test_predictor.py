"""Prediction from arrays: tiles equal the whole, ensembles and turned images are means."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests import rounding, runs
from tests.devices import strategy_of
from trainer import models
from trainer.data.formats import reading, regions
from trainer.data.input import normalization, padded_shapes
from trainer.errors import InputError
from trainer.evaluate import ensemble, sliding_window
from trainer.predict import masks, predictor


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return runs.write_run(tmp_path_factory.mktemp("run"), channels=3)


@pytest.fixture(scope="module")
def loaded(run_dir):
    return predictor.Predictor([run_dir], strategy_of(1))


def picture(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 150, width)[:, np.newaxis]
    return (ramp + rng.uniform(0, 100, (height, width, channels))).astype(np.uint8)


def directly(networks, image):
    """What the network says of the whole image, as evaluation pads and normalises it."""
    member = networks.members[0]
    values = normalization.normalize(image, member.normalize, member.mean, member.std)
    padded = padded_shapes.mirrored(values, padded_shapes.PADDED_SIDE)[tf.newaxis]
    found = ensemble.probabilities(member.model(padded, training=False))
    return found[0, : image.shape[0], : image.shape[1]].numpy()


@pytest.mark.parametrize("size", [(1, 1), (40, 33), (130, 250)])
def test_probabilities_are_those_of_the_network_for_any_size(loaded, size):
    image = picture(*size)
    found = loaded.probabilities(image)
    np.testing.assert_allclose(found[..., 1:], directly(loaded.networks, image), atol=runs.CLOSE)
    np.testing.assert_allclose(found.sum(-1), 1, atol=runs.CLOSE)
    assert found.shape == (*size, 2)


@pytest.mark.slow
def test_tiles_equal_the_whole_image_without_seams(run_dir, loaded):
    image = picture(333, 290)
    tiled = predictor.Predictor([run_dir], strategy_of(1), tile=112, batch_size=2)
    whole = loaded.probabilities(image)
    assert np.ptp(whole) > 0.1
    np.testing.assert_allclose(tiled.probabilities(image), whole, atol=runs.CLOSE)


@pytest.mark.slow
def test_a_halo_that_is_too_small_would_show(run_dir, loaded, monkeypatch):
    image = picture(333, 290)
    monkeypatch.setattr(sliding_window, "halo_of", lambda levels: (0, 0))
    tiled = predictor.Predictor([run_dir], strategy_of(1), tile=112)
    assert np.abs(tiled.probabilities(image) - loaded.probabilities(image)).max() > 1e-3


def test_masks_have_the_values_of_the_training_masks(loaded):
    image = picture(40, 33)
    mask = loaded.predict(image)
    assert mask.dtype == np.uint8
    expected = np.where(directly(loaded.networks, image)[..., 0] >= 0.5, 255, 0)
    runs.assert_same_mask(mask, expected, loaded.probabilities(image))
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.slow
def test_a_batch_gives_what_its_images_give(loaded):
    batch = np.stack([picture(40, 33, seed=n) for n in range(3)])
    found = loaded.predict(batch)
    for image, mask in zip(batch, found, strict=True):
        runs.assert_same_mask(mask, loaded.predict(image), loaded.probabilities(image))


def test_booleans_in_memory_are_black_and_white_as_in_files(loaded):
    image = picture(20, 30, channels=1)[..., 0] > 100
    np.testing.assert_array_equal(
        loaded.probabilities(image), loaded.probabilities(image * np.uint8(255))
    )


@pytest.mark.slow
def test_grey_images_are_repeated_for_a_network_of_colours(loaded):
    grey = picture(20, 20, 1)
    expected = loaded.probabilities(np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(loaded.probabilities(grey), expected)
    np.testing.assert_array_equal(loaded.probabilities(grey[..., 0]), expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.uint16), "has uint16 pixels and the data are uint8"),
        (np.zeros((4, 4, 5), np.uint8), "has 5 channels, which cannot become 3"),
        (np.zeros(4, np.uint8), r"has shape \(4,\); expected H×W, H×W×C or N×H×W×C"),
    ],
)
def test_arrays_of_another_kind_are_refused(loaded, image, message):
    with pytest.raises(InputError, match=message):
        loaded.predict(image)


@pytest.mark.slow
def test_turned_images_are_averaged(run_dir, loaded):
    image = picture(64, 128)
    flips = predictor.Predictor([run_dir], strategy_of(1), tta="flips").probabilities(image)
    turned = [image, image[::-1], image[:, ::-1], image[::-1, ::-1]]
    back = [loaded.probabilities(one) for one in turned]
    back = [back[0], back[1][::-1], back[2][:, ::-1], back[3][::-1, ::-1]]
    np.testing.assert_allclose(flips, np.mean(back, axis=0), atol=runs.CLOSE)
    assert np.abs(flips - back[0]).max() > 1e-3


@pytest.mark.slow
def test_an_ensemble_is_the_mean_of_its_members(run_dir, loaded, tmp_path):
    other = runs.write_run(tmp_path, channels=3, seed=1, depth=3, normalize="dataset")
    both = predictor.Predictor([run_dir, other], strategy_of(1))
    alone = predictor.Predictor([other], strategy_of(1))
    image = picture(70, 50)
    expected = (loaded.probabilities(image) + alone.probabilities(image)) / 2
    np.testing.assert_allclose(both.probabilities(image), expected, atol=runs.CLOSE)
    assert (both.networks.stride, both.networks.halo) == (8, alone.networks.halo)


@pytest.mark.slow
def test_runs_on_other_classes_make_no_ensemble(run_dir, tmp_path):
    other = runs.write_run(tmp_path, channels=3, values=(0, 1))
    with pytest.raises(InputError) as error:
        predictor.Predictor([run_dir, other], strategy_of(1))
    assert str(error.value) == (
        f"--run_dir: {other} has the mask values 0, 1 and {run_dir} has 0, 255; an ensemble takes "
        "runs on the same kind of data."
    )


@pytest.mark.slow
def test_several_devices_give_what_one_gives(run_dir, loaded):
    image = picture(333, 290)
    spread = predictor.Predictor([run_dir], strategy_of(2), tile=112)
    expected = loaded.probabilities(image)
    np.testing.assert_allclose(spread.probabilities(image), expected, atol=runs.CLOSE)


@pytest.mark.slow
def test_images_of_many_sizes_come_whole_and_in_order(loaded):
    sizes = [(40 + 64 * (n % 6), 33 + 10 * n) for n in range(12)]
    openers = [(n, lambda n=n: loaded._open_array(picture(*sizes[n], seed=n))) for n in range(12)]
    tops = dict.fromkeys(range(12), 0)
    for rows in loaded.stream(openers):
        assert rows.top == tops[rows.key]
        assert rows.size == sizes[rows.key]
        tops[rows.key] += len(rows.probabilities)
        assert rows.are_last == (tops[rows.key] == rows.size[0])
    assert tops == {n: height for n, (height, _) in enumerate(sizes)}


def test_tiles_of_many_shapes_share_some_and_have_the_same_probabilities(run_dir, loaded):
    few = predictor.Predictor([run_dir], strategy_of(1), tile=192, most_shapes=1)
    forward, programs = few._forward, set()

    def noting(inputs):
        programs.add((*(tuple(part.shape[1:]) for part in inputs),))
        return forward(inputs)

    few._forward = noting
    for height, width in [(40, 33), (70, 33), (130, 140), (40, 180), (250, 100)]:
        image = picture(height, width)
        found = few.probabilities(image)
        np.testing.assert_allclose(found, loaded.probabilities(image), atol=runs.CLOSE)
    of_shared = [(64, 64), (128, 64), (192, 192), (64, 192), (192, 128)]
    assert programs == {
        ((64, 64, 3), (2, 3)),
        *(((*shape, 3), (2, 3), (2,)) for shape in of_shared[1:]),
    }


@pytest.mark.slow
def test_an_image_that_fails_half_way_leaves_the_others_alone(run_dir):
    tiled = predictor.Predictor([run_dir], strategy_of(1), tile=112)
    good = picture(200, 100)

    def read(top, bottom):
        if bottom > 150:
            raise reading.UnreadableError("cut short")
        return good[top:bottom]

    broken = regions.Raster(200, 100, read)
    tiled.networks.members[0] = tiled.networks.members[0].__class__(
        **{**vars(tiled.networks.members[0]), "normalize": "none"}
    )
    found = list(tiled.stream([("bad", lambda: broken), ("good", lambda: tiled._open_array(good))]))
    failures = [one for one in found if isinstance(one, predictor.Failure)]
    assert [(one.key, str(one.error)) for one in failures] == [("bad", "cut short")]
    rows = [one for one in found if isinstance(one, predictor.Rows) and one.key == "good"]
    assert rows[-1].are_last
    assert sum(len(one.probabilities) for one in rows) == 200


def test_the_mirror_is_that_of_evaluation():
    padded = padded_shapes.mirrored(tf.range(5)[:, tf.newaxis, tf.newaxis], 64)[:, 0, 0]
    np.testing.assert_array_equal(sliding_window.mirror(np.arange(64), 5), padded)
    assert sliding_window.mirror(np.arange(3), 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((0, 255), "uint8"), ((0, 256), "uint16"), ((-1, 1), "int16"), ((-1, 40000), "int32")],
)
def test_masks_take_the_smallest_integers_that_hold_their_values(values, dtype):
    assert masks.smallest_dtype(values) == dtype


@pytest.mark.parametrize(
    ("name", "upsampling"),
    [
        ("unet", "transpose"),
        pytest.param("residual_unet", "bilinear", marks=pytest.mark.slow),
        pytest.param("attention_unet", "transpose", marks=pytest.mark.slow),
        pytest.param("residual_encoder_unet", "transpose", marks=pytest.mark.slow),
        pytest.param("unet_plus_plus", "transpose", marks=pytest.mark.slow),
    ],
)
def test_folding_batch_norm_changes_nothing_but_its_absence(name, upsampling):
    model = models.MODELS[name]((32, 32, 2), 4, 3, depth=2, upsampling=upsampling)
    runs.draw(model)
    folded = models.fold(model)
    image = np.random.default_rng(0).normal(size=(2, 32, 32, 2)).astype(np.float32)
    expected = model(image, training=False).numpy()
    assert np.ptp(expected) > 0.1
    found = folded(image, training=False)
    rounding.assert_close(found, expected, rounding.operations_of(model), magnitude=10)
    kinds = [type(layer) for layer in folded.layers]
    assert not any(issubclass(kind, keras.layers.BatchNormalization) for kind in kinds)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_folding_leaves_other_norms_alone(norm):
    model = models.build_unet((32, 32, 1), 4, depth=1, norm=norm)
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype(np.float32)
    np.testing.assert_array_equal(models.fold(model)(image), model(image))


@pytest.mark.parametrize("classes", [("background", "a"), ("background", "a", "b")])
def test_a_temperature_divides_logits_and_changes_no_mask(classes, tmp_path):
    run_dir = runs.write_run(tmp_path, classes=classes, values=range(len(classes)), depth=1)
    image = picture(40, 33, channels=1)
    plain = predictor.Predictor([run_dir], strategy_of(1), tta="flips")
    runs.calibrate(run_dir, 2.5, tta="flips")
    calibrated = predictor.Predictor([run_dir], strategy_of(1), tta="flips")
    assert (plain.networks.temperatures, calibrated.networks.temperatures) == (None, [2.5])
    powers = plain.probabilities(image) ** (1 / 2.5)  # softmax(z / T), written with probabilities
    expected = powers / powers.sum(axis=-1, keepdims=True)
    found = calibrated.probabilities(image)
    np.testing.assert_allclose(found, expected, atol=runs.CLOSE)
    runs.assert_same_mask(calibrated.predict(image), plain.predict(image), found)


def test_an_ensemble_averages_what_each_temperature_makes_of_its_network(tmp_path):
    first, second = (
        runs.write_run(tmp_path / str(seed), depth=1, seed=seed, filters=2) for seed in (0, 1)
    )
    runs.calibrate(first, 0.5)
    image = picture(24, 32, channels=1)
    alone = [
        predictor.Predictor([one], strategy_of(1)).probabilities(image) for one in (first, second)
    ]
    both = predictor.Predictor([first, second], strategy_of(1))
    assert both.networks.temperatures == [0.5, 1.0]
    np.testing.assert_allclose(both.probabilities(image), np.mean(alone, axis=0), atol=runs.CLOSE)
