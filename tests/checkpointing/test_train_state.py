"""The state of a run: what is restored, what is best, and in which order it is written."""

import dataclasses

import keras
import numpy as np
import pytest

from tests.devices import strategy_of
from trainer.checkpointing.train_state import TrainState, variables_of


def build(run_dir, *, ema=False, scaled=False, keep=1, value=0.0):
    """Returns the state of a network with one weight."""
    inputs = keras.Input((1,))
    outputs = keras.layers.Dense(1, use_bias=False)(inputs)
    model = keras.Model(inputs, outputs)
    average = keras.models.clone_model(model) if ema else None
    optimizer = keras.optimizers.SGD(0.1)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    state = TrainState(model, average, optimizer, str(run_dir), "abc", keep)
    set_weight(state.model, value)
    return state


def set_weight(model, value):
    model.set_weights([np.float32([[value]])])


def weight(model):
    return model.get_weights()[0].item()


def take(state, step, value, dice=None):
    """Sets the state to a step and a weight, with an evaluation if it has a score."""
    state.step = step
    set_weight(state.model, value)
    if dice is not None:
        state.add_evaluation("dice", {"dice": dice}, higher_is_better=True)


def save(state):
    state.write(state.snapshot({}, {}))


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def test_a_new_run_has_nothing_to_restore(tmp_path):
    state = build(tmp_path)
    assert not state.restore(strategy_of(1))
    assert not state.restore_best(strategy_of(1))
    assert (state.step, state.saved_steps(), state.is_saved) == (0, [], True)


def test_weights_average_step_and_progress_are_restored(tmp_path):
    state = build(tmp_path, ema=True)
    take(state, 4, 1.5, dice=0.7)
    set_weight(state.average, 2.5)
    state.write(state.snapshot({"loss": [0.5]}, {"steps": 2.0}))
    resumed = build(tmp_path, ema=True)
    assert resumed.restore(strategy_of(1))
    assert (weight(resumed.model), weight(resumed.average), resumed.step) == (1.5, 2.5, 4)
    expected = dataclasses.replace(state.progress, unreported={"loss": [0.5]}, seconds={"steps": 2})
    assert resumed.progress == expected


def test_a_step_is_saved_once_and_again_with_its_evaluation(tmp_path):
    state = build(tmp_path)
    take(state, 4, 1.0)
    assert not state.is_saved
    save(state)
    assert state.is_saved
    take(state, 4, 1.0, dice=0.5)
    assert not state.is_saved
    save(state)
    assert state.is_saved
    resumed = build(tmp_path)
    resumed.restore(strategy_of(1))
    assert resumed.is_saved


def test_a_snapshot_does_not_follow_the_steps_after_it(tmp_path):
    state = build(tmp_path)
    take(state, 2, 1.0, dice=0.5)
    snapshot = state.snapshot({}, {})
    take(state, 4, 9.0)
    state.write(snapshot)
    resumed = build(tmp_path)
    resumed.restore(strategy_of(1))
    assert (resumed.step, weight(resumed.model)) == (2, 1.0)


def test_the_best_weights_are_those_of_the_best_score_and_of_the_average(tmp_path):
    state = build(tmp_path, ema=True)
    for step, value, dice in ((2, 1.0, 0.5), (4, 2.0, 0.7), (6, 3.0, 0.6)):
        set_weight(state.average, 10 * value)
        take(state, step, value, dice)
        save(state)
    assert steps(tmp_path / "best") == [4]
    assert state.restore_best(strategy_of(1))
    assert weight(state.evaluated) == 20.0
    assert weight(state.model) == 3.0


def test_the_best_weights_are_there_before_the_checkpoint_that_speaks_of_them(
    tmp_path, monkeypatch
):
    state = build(tmp_path)
    take(state, 2, 1.0, dice=0.5)
    save(state)
    take(state, 4, 2.0, dice=0.6)
    snapshot = state.snapshot({}, {})

    def fail(snapshot):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(state._checkpoints, "write", fail)
        with pytest.raises(OSError, match="disk full"):
            state.write(snapshot)
    assert (steps(tmp_path / "checkpoints"), steps(tmp_path / "best")) == ([2], [2, 4])
    state.write(snapshot)  # as the writer does after a failure
    assert (steps(tmp_path / "checkpoints"), steps(tmp_path / "best")) == ([4], [4])


def test_only_the_last_checkpoints_stay(tmp_path):
    state = build(tmp_path, keep=2)
    for step in (1, 2, 3):
        take(state, step, 0.0)
        save(state)
    assert state.saved_steps() == [2, 3]


def test_what_a_kill_left_is_removed(tmp_path):
    state = build(tmp_path, keep=3)
    for step in (2, 4):
        take(state, step, 0.0, dice=step / 10)
        save(state)
    (tmp_path / "checkpoints" / "00000006").mkdir()  # without a commit
    (tmp_path / "best" / "00000006").mkdir()
    resumed = build(tmp_path, keep=1)
    resumed.restore(strategy_of(1))
    resumed.remove_leftovers()
    assert (steps(tmp_path / "checkpoints"), steps(tmp_path / "best")) == ([4], [4])


def test_best_weights_stay_where_those_that_a_restored_checkpoint_speaks_of_are_gone(tmp_path):
    state = build(tmp_path, keep=2)
    for step in (2, 4):
        take(state, step, 0.0, dice=step / 10)
        save(state)
    assert steps(tmp_path / "best") == [4]  # in place of those of step 2
    (tmp_path / "checkpoints/00000004/state.index").unlink()
    resumed = build(tmp_path)
    resumed.restore(strategy_of(1))
    resumed.remove_leftovers()
    assert (resumed.step, resumed.progress.best_step) == (2, 2)
    assert (resumed.saved_steps(), steps(tmp_path / "best")) == ([2, 4], [4])
    take(resumed, 6, 0.0, dice=0.9)
    save(resumed)
    assert steps(tmp_path / "best") == [6]


def test_the_scale_of_the_loss_may_come_and_go(tmp_path):
    first = build(tmp_path, value=1.0)
    first.step = 2
    save(first)
    scaled = build(tmp_path, scaled=True)
    assert scaled.restore(strategy_of(1))
    assert weight(scaled.model) == 1.0
    assert set(variables_of(scaled.model, None, scaled.optimizer)) == {
        "model",
        "optimizer",
        "loss_scale",
    }
    scaled.step = 4
    save(scaled)
    assert build(tmp_path).restore(strategy_of(1))
