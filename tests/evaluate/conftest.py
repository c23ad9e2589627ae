"""One evaluation that the tests of its parts share."""

import pytest

from tests.evaluations import SIZES, assert_decided, evaluate, evaluator_of, pointwise_model
from tests.shards import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data folder of three classes, and its manifest."""
    folder = tmp_path_factory.mktemp("data")
    return str(folder), write_data(folder, SIZES, num_classes=3, num_shards=2)


@pytest.fixture(scope="session")
def scores(data):
    """The scores of the validation split and its rows, in batches of two on one device."""
    assert_decided(data)
    return evaluate(evaluator_of(data, pointwise_model()), "val")
