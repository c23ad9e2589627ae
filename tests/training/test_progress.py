"""What a run remembers: scores so far, and the figures of single steps."""

import json

import numpy as np
import pytest

from trainer import json_text
from trainer.errors import InputError
from trainer.training.progress import Progress, Series, check_finite


def test_progress_counts_evaluations_without_a_better_score():
    progress = Progress()
    for step, dice in ((1, 0.5), (2, 0.7), (3, 0.6), (4, 0.7)):
        progress = progress.after(step, "dice", {"dice": dice})
    assert (progress.best, progress.best_step, progress.worse) == (0.7, 2, 2)
    assert progress.evaluated_step == 4
    assert progress.exhausted(2)
    assert not progress.exhausted(3)
    assert not progress.exhausted(0)


def test_a_lower_loss_is_better():
    progress = Progress().after(1, "loss", {"loss": 2.0}).after(2, "loss", {"loss": 1.0})
    assert (progress.best, progress.best_step) == (1.0, 2)


def best_steps(metric, *evaluations):
    """Returns the best step after each evaluation, of which the n-th is that of step n."""
    progress, found = Progress(), []
    for step, figures in enumerate(evaluations, 1):
        progress = Progress(**json.loads(json_text.dumps(progress.to_dict())))  # and resumed
        progress = progress.after(step, metric, figures)
        found.append(progress.best_step)
    return found


def test_where_the_score_is_undefined_or_equal_the_loss_decides_and_it_is_said(caplog):
    caplog.set_level("INFO", logger="absl")
    losses = [{"loss": loss} for loss in (0.9, 0.5, 0.7, 0.3)]
    assert best_steps("dice", *losses) == [1, 2, 2, 4]
    assert caplog.messages == [
        "Step 2: val dice is undefined, and undefined at step 1, the best so far; the lower loss "
        "decides: step 2.",
        "Step 3: val dice is undefined, and undefined at step 2, the best so far; the lower loss "
        "decides: step 2.",
        "Step 4: val dice is undefined, and undefined at step 2, the best so far; the lower loss "
        "decides: step 4.",
    ]
    assert best_steps("dice", *({**entry, "dice": 0.0} for entry in losses)) == [1, 2, 2, 4]
    assert caplog.messages[-1] == (
        "Step 4: val dice is 0, and 0 at step 2, the best so far; the lower loss decides: step 4."
    )


def test_a_false_alarm_and_none_where_there_is_no_foreground_are_told_apart_by_the_loss():
    false_alarm, none = {"dice": 0.0, "loss": 0.9}, {"loss": 0.1}
    assert best_steps("dice", false_alarm, none) == [1, 2]
    assert best_steps("dice", none, false_alarm) == [1, 1]


def test_a_score_comes_before_the_loss_where_it_differs(caplog):
    caplog.set_level("INFO", logger="absl")
    assert best_steps("dice", {"dice": 0.5, "loss": 0.1}, {"dice": 0.6, "loss": 9.0}) == [1, 2]
    assert caplog.messages == []


def test_what_is_no_finite_number_is_never_better():
    nan, inf = float("nan"), float("inf")
    assert best_steps("loss", {"loss": nan}, {"loss": 2.0}, {"loss": nan}) == [1, 2, 2]
    assert best_steps("dice", {"dice": 0.5, "loss": inf}, {"dice": 0.5, "loss": nan}) == [1, 1]


def test_progress_of_before_undefined_scores_were_null_finds_better_weights():
    old = json.loads('{"evaluated_step": 5, "best": -Infinity, "best_step": 5, "worse": 0}')
    assert Progress(**old).after(6, "dice", {"loss": 0.5}).best_step == 6
    old = {"evaluated_step": 5, "best": 0.5, "best_step": 5, "worse": 0}
    assert Progress(**old).after(6, "loss", {"loss": 0.6}).best_step == 5


def test_progress_survives_json():
    progress = Progress(best=0.5, unreported={"loss": [0.1, 0.2]}, seconds={"steps": 1.5})
    assert Progress(**json.loads(json.dumps(progress.to_dict()))) == progress


def test_means_do_not_depend_on_how_many_steps_were_taken_at_once_or_on_a_stop():
    losses = np.float32([0.1, 0.7, 0.3, 0.9])
    at_once, stopped = Series({}), Series({})
    at_once.add({"loss": losses})
    stopped.add({"loss": losses[:1]})
    stopped.add({"loss": losses[1:3]})
    resumed = Series(json.loads(json.dumps(stopped.values())))
    resumed.add({"loss": losses[3:]})
    assert resumed.take_means() == at_once.take_means()
    assert at_once.values() == {}


def test_the_mean_of_an_infinite_figure_is_none_after_a_stop_as_without():
    series = Series({})
    series.add({"gradient_norm": np.float32([1, np.inf])})
    resumed = Series(json.loads(json_text.dumps(series.values())))
    means = [each.take_means()["gradient_norm"] for each in (series, resumed)]
    assert [json_text.dumps(mean) for mean in means] == ["null", "null"]


def test_float16_tolerates_an_infinite_gradient_but_not_an_infinite_loss():
    figures = {"loss": np.float32([1, 1]), "gradient_norm": np.float32([1, np.inf])}
    check_finite(figures, 4, "float16", list)
    with pytest.raises(InputError) as error:
        check_finite(figures, 4, "float32", lambda: [3])
    assert str(error.value) == (
        "The gradient_norm is inf at step 5; the checkpoint of step 3 is kept. Try a lower "
        "--learning_rate, more --warmup_steps, a lower --clip_norm, or --precision=float32."
    )
    with pytest.raises(InputError, match="The loss is nan at step 4; there is no checkpoint yet"):
        check_finite({"loss": np.float32([np.nan])}, 4, "float16", list)
