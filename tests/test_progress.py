"""What a run remembers: scores so far, and the figures of single steps."""

import json

import numpy as np
import pytest

from trainer.errors import InputError
from trainer.progress import Progress, Series, check_finite


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


def test_an_undefined_score_still_makes_the_first_checkpoint_the_best():
    progress = Progress().after(1, "dice", {"loss": 2.0})
    assert progress.best_step == 1
    assert progress.after(2, "dice", {"dice": 0.0}).best_step == 2


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
