"""The temperature of a run: how it is fitted, measured, stored and read."""

import json

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize

from tests import rounding
from tests.evaluations import evaluator_of, pointwise_model
from trainer.errors import InputError
from trainer.evaluate import calibration, counting

LOG3 = np.log(3.0)  # the logit of probability 3/4


def slopes_of(labels, logits, valid=None):
    valid = np.ones(labels.shape, np.float32) if valid is None else valid
    return counting.loss_slopes(labels, tf.constant(logits, tf.float32), valid).numpy()


def log_loss(inverse, labels, logits):
    scaled = inverse * np.float64(logits)
    exceeding = scaled - np.take_along_axis(scaled, labels[..., None], -1)
    return np.log(np.exp(exceeding).sum(-1)).mean()


def test_the_temperature_makes_confidence_the_share_that_is_right():
    # One logit of 2 log 3 says 9/10, and three of four pixels are right: log 3 would say that.
    labels, logits = np.array([[[1, 1, 1, 0]]]), np.full((1, 1, 4, 1), 2 * LOG3)
    assert calibration.fit(slopes_of(labels, logits)) == pytest.approx(2, rel=1e-4)
    # Two logits that are apart by as much are the same network.
    both = np.concatenate([np.full_like(logits, 5.0), logits + 5.0], axis=-1)
    assert calibration.fit(slopes_of(labels, both)) == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize(("num_classes", "scale"), [(2, 3.0), (4, 0.5), (4, 6.0)])
def test_the_temperature_is_that_of_the_least_log_loss(num_classes, scale):
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 8, 9, num_classes))
    gumbel = random.gumbel(size=logits.shape)
    labels = np.argmax(2 * logits + gumbel, axis=-1)  # drawn by the softmax of 2 × logits
    logits = scale * 2 * logits
    expected = optimize.minimize_scalar(
        log_loss, bounds=(1 / 8, 8), args=(labels, logits), options={"xatol": 1e-9}
    ).x
    found = calibration.fit(slopes_of(labels, logits))
    assert found == pytest.approx(1 / expected, rel=1e-3)
    assert found == pytest.approx(scale, rel=0.25)  # of 216 pixels


def test_slopes_are_the_derivatives_of_the_log_loss_over_what_counts():
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, (2, 4, 5))
    logits, valid = random.normal(size=(2, 4, 5, 3)), random.integers(0, 2, (2, 4, 5))
    known = valid > 0
    found = slopes_of(labels, logits, valid.astype(np.float32))
    for (first, second), inverse in list(zip(found, calibration.INVERSES, strict=True))[::6]:
        near = [
            log_loss(inverse + step, labels[known], logits[known]) * known.sum()
            for step in (-1e-4, 0, 1e-4)
        ]
        assert first == pytest.approx((near[2] - near[0]) / 2e-4, abs=1e-4)
        assert second == pytest.approx((near[2] - 2 * near[1] + near[0]) / 1e-8, abs=1e-3)
    # A volume is the planes of which it consists.
    volume = slopes_of(labels[np.newaxis], logits[np.newaxis])
    rounding.assert_close(volume, slopes_of(labels, logits), operations=40)


def test_a_temperature_beyond_the_range_is_its_end_with_a_warning(caplog):
    labels = np.array([[[1, 0]]])
    logits = np.array([[[[1.0], [-1.0]]]])
    assert calibration.fit(slopes_of(labels, logits)) == 1 / 8  # all right: never sure enough
    assert calibration.fit(slopes_of(labels, -logits)) == 8
    assert caplog.text.count("the split may be too easy") == 2
    unknown = [slopes_of(labels, other) for other in (0 * logits, np.nan * logits)]
    unknown.append(slopes_of(labels, logits, np.zeros((1, 1, 2), np.float32)))
    assert [calibration.fit(slopes) for slopes in unknown] == [None] * 3
    assert caplog.text.count("no temperature is stored") == 3


def test_the_calibration_error_is_by_hand():
    # Two pixels of 3/4, one of them right; two of 9/10, both right; one that does not count.
    labels = tf.constant([[[1, 0, 1, 0, 0]]])
    logits = tf.constant([[[LOG3, LOG3, 2 * LOG3, -2 * LOG3, 9.0]]])[..., None]
    valid = tf.constant([[[1.0, 1.0, 1.0, 1.0, 0.0]]])
    found = counting.count_reliability(labels, logits, valid, 1.0)
    assert found.dtype == tf.int64
    np.testing.assert_array_equal(found[11], [2, 1, 2 * 2**20 * 3 // 4])
    assert found[13, 0] == found[13, 1] == 2
    error = calibration.expected_calibration_error(found)
    assert error == pytest.approx((2 * 0.25 + 2 * 0.1) / 4, abs=1e-6)
    halved = counting.count_reliability(labels, logits, valid, 2.0)  # 9/10 becomes 3/4
    assert halved[11, 0] == 2
    assert np.isnan(calibration.expected_calibration_error(0 * found))


def test_an_evaluation_measures_calibration_beside_its_other_scores(data, scores):
    evaluate = evaluator_of(data, pointwise_model())
    temperature = calibration.fit(evaluate.loss_slopes("val"))
    found = evaluate("val", temperature=temperature).summary
    before = scores.summary["calibration"]
    assert before["temperature"] is None
    assert before["expected_calibration_error"]["after"] is None
    errors = found["calibration"].pop("expected_calibration_error")
    assert errors["before"] == before["expected_calibration_error"]["before"]
    assert errors["after"] < errors["before"]
    rest = {name: value for name, value in found.items() if name != "calibration"}
    assert rest == {name: scores.summary[name] for name in rest}


def test_the_temperature_does_not_depend_on_batch_size_or_replicas(data):
    slopes = [
        evaluator_of(
            data, pointwise_model(replicas), replicas=replicas, batch_size=batch_size
        ).loss_slopes("val")
        for replicas, batch_size in ((1, 2), (2, 7))
    ]
    pixels = 3 * 40 * 33 + 3 * 70 * 65 + 9 * 21
    atol = rounding.tolerance(operations=3, magnitude=10) * pixels
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=0, atol=atol)


def test_a_temperature_belongs_to_weights(tmp_path, caplog):
    summary = {
        "expected_calibration_error": {"before": 0.02, "after": 0.01},
        "temperature": 1.25,
        "bins": 15,
    }
    folder = str(tmp_path)
    assert calibration.read(folder, "abc") is None
    said = calibration.settle(folder, "abc", {"split": "val", "tta": "none", **summary})
    assert said == (
        f"Calibration: the temperature 1.25 has the least log loss. {folder}/calibration.json has "
        "it for evaluate, predict and export."
    )
    line = "Expected calibration error: 0.0200, 0.0100 with the temperature 1.25"
    assert calibration.described(summary) == line
    of_folds = calibration.of_ensemble(summary, [1.25, 1.5])
    line = "Expected calibration error: 0.0200 with the temperature 1.25 / 1.5"
    assert calibration.described(of_folds) == line
    assert calibration.read(folder, "abc") == 1.25
    assert not caplog.messages
    assert calibration.read(folder, "abc", "flips") == 1.25
    assert "was fitted with --tta=none and is used with --tta=flips" in caplog.text
    assert calibration.read(folder, "other") is None
    assert "is of other weights than the run's best ones, and is not used" in caplog.text
    whole = json.loads((tmp_path / "calibration.json").read_text())
    for damaged in ("{", "[]", json.dumps({**whole, "temperature": 0})):
        (tmp_path / "calibration.json").write_text(damaged)
        with pytest.raises(InputError, match="does not say a temperature"):
            calibration.read(folder, "abc")
