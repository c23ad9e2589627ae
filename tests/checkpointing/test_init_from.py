"""Runs that begin with the weights of another."""

import json
import shutil

import numpy as np
import pytest

from tests.runs import write_run
from trainer import config, models
from trainer.checkpointing import best_weights, init_from, run_metadata
from trainer.errors import InputError
from trainer.models import build, functional


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run on grey images of two classes, whose network has four filters."""
    return write_run(tmp_path_factory.mktemp("runs") / "source", seed=1)


def begin(source, channels=1, num_classes=2, normalize="image", **settings):
    """Returns a network with drawn weights before and after it begins with those of a run."""
    job = config.Job(
        data=config.Data(normalize=normalize),
        model=config.Model(**{"filters": 4, "depth": 2, **settings}),
    )
    pair = [build.build_model(job.model, channels, num_classes) for _ in range(2)]
    for model in pair:
        models.initialize_weights(model, 0)
    init_from.begin(pair[1], init_from.describe(source), job)
    return pair


def weights_by_place(model):
    return [layer.get_weights() for layer in model.layers if layer.weights]


def layers_like(model, other):
    """Returns the places of the layers whose weights equal those of another network."""
    pairs = zip(weights_by_place(model), weights_by_place(other), strict=True)
    return {
        place
        for place, (ours, theirs) in enumerate(pairs)
        if all(map(np.array_equal, ours, theirs))
    }


def test_a_network_of_the_same_settings_gets_all_weights_statistics_included(source, caplog):
    caplog.set_level("INFO", logger="absl")
    _, model = begin(source)
    theirs, _ = best_weights.best_model(source, run_metadata.read(source))
    count = len(weights_by_place(model))
    assert layers_like(model, theirs) == set(range(count))
    first, *rows = caplog.messages[-1].splitlines()
    assert first == f"Weights of {source}, step 7: {count} of {count} layers."
    assert rows[0] == "    0  Conv2D kernel 3x3x1x4  transferred"
    assert len(rows) == count


def test_with_other_channels_and_classes_the_first_and_the_last_layer_stay_at_random(
    source, caplog
):
    caplog.set_level("INFO", logger="absl")
    drawn, model = begin(source, channels=3, num_classes=4)
    theirs, _ = best_weights.best_model(source, run_metadata.read(source))
    count = len(weights_by_place(model))
    assert layers_like(model, theirs) == set(range(1, count - 1))
    assert {0, count - 1} <= layers_like(model, drawn)
    first, *rows = caplog.messages[-1].splitlines()
    assert first == f"Weights of {source}, step 7: {count - 2} of {count} layers."
    assert rows[0] == "    0  Conv2D kernel 3x3x3x4  at random; there Conv2D kernel 3x3x1x4"
    assert rows[-1] == (
        f"  {count - 1:3d}  Conv2D kernel 1x1x4x4, bias 4  at random; there Conv2D kernel 1x1x4x1, "
        "bias 1"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": 8}, "has no layer that fits this network: --filters=8 (was 4). Give"),
        ({"depth": 3}, "and this is one of "),
        ({"depth": 3}, ": --depth=3 (was 2). Give the settings of that run, or leave it out."),
    ],
)
def test_a_network_of_which_nothing_fits_is_refused(source, settings, message):
    with pytest.raises(InputError) as error:
        begin(source, **settings)
    assert str(error.value).startswith(f"--init_from={source} ")
    assert message in str(error.value)


def test_layers_of_another_kind_at_the_same_places_are_no_match(source):
    drawn, model = begin(source, norm="group")
    theirs, _ = best_weights.best_model(source, run_metadata.read(source))
    found = layers_like(model, theirs)
    norms = {place for place, weights in enumerate(weights_by_place(theirs)) if len(weights) == 4}
    assert found == set(range(len(weights_by_place(model)))) - norms
    assert norms <= layers_like(model, drawn)


@pytest.mark.parametrize("supervised", [False, True])
def test_where_one_network_alone_has_coarser_outputs_the_others_are_transferred(
    tmp_path, caplog, supervised
):
    caplog.set_level("INFO", logger="absl")
    source = write_run(tmp_path / "source", depth=3, deep_supervision=not supervised)
    _, model = begin(source, depth=3, deep_supervision=supervised)
    theirs, _ = best_weights.best_model(source, run_metadata.read(source))
    ours, theirs = map(functional.prediction_model, (model, theirs))
    count = len(weights_by_place(ours))
    assert layers_like(ours, theirs) == set(range(count))
    first = caplog.messages[-1].splitlines()[0]
    assert first == f"Weights of {source}, step 7: {count} of {count} layers."


def test_another_normalisation_of_the_images_is_warned_of(source, caplog):
    caplog.set_level("WARNING", logger="absl")
    begin(source, normalize="dataset")
    assert caplog.messages == [
        "The weights are those of images with --normalize=image, and this run has "
        "--normalize=dataset."
    ]


def test_a_source_that_is_none_is_refused(source, tmp_path):
    with pytest.raises(InputError, match=f"^--init_from={tmp_path} has no run.json; name a folder"):
        init_from.describe(str(tmp_path))
    shutil.copy(f"{source}/run.json", tmp_path)
    with pytest.raises(
        InputError, match=f"^--init_from={tmp_path} has no complete checkpoint in best"
    ):
        init_from.describe(str(tmp_path))


def test_a_run_on_volumes_does_not_begin_with_one_on_images(source):
    with pytest.raises(InputError) as error:
        init_from.origin(config.Run(run_dir="R", init_from=source), None, rank=3)
    assert str(error.value) == (
        f"--init_from={source} was trained on images, and the data are volumes, whose kernels have "
        "other axes; name a run on volumes, or leave it out."
    )


def test_a_source_that_has_changed_is_refused(tmp_path):
    source = write_run(tmp_path / "a", seed=1)
    origin = init_from.describe(source)
    write_run(tmp_path / "a", seed=2)
    model = build.build_model(config.Model(filters=4, depth=2), 1, 2)
    with pytest.raises(InputError, match="has other weights than step 7 of run 000000000000, with"):
        init_from.begin(model, origin, config.Job(model=config.Model(filters=4, depth=2)))


def test_a_run_that_resumes_needs_its_source_no_more_and_takes_no_other(source, tmp_path):
    described = init_from.describe(source)
    gone = {**described, "run_dir": "gone"}

    def origin(given, known):
        old = {"init_from": known} if known != "none of that" else None
        return init_from.origin(config.Run(run_dir="R", init_from=given), old, rank=2)

    assert origin(source, "none of that") == described
    assert origin("", "none of that") is None
    assert origin("", None) is None
    assert origin("", gone) == origin("gone", gone) == gone
    assert origin(source, gone) == gone  # the same weights in another place
    other = write_run(tmp_path / "other", seed=2)
    for given, known, began in (
        (other, described, f"with the weights of {source}, step 7"),
        (other, None, "at random"),
    ):
        with pytest.raises(InputError) as error:
            origin(given, known)
        assert str(error.value) == (
            f"--run_dir=R holds a run that began {began}; leave --init_from={given} out to resume "
            "it, or name another --run_dir."
        )
    assert json.loads(json.dumps(described)) == described
