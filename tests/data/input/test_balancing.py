"""Examples with rare classes are seen more often, in an order that depends on seed and step."""

import collections
import dataclasses
import logging

import numpy as np
import pytest

from tests.data.input.test_pipeline import order_of, split_of_sizes, write_numbers
from trainer.data.input import balancing, pipeline, read_errors
from trainer.errors import InputError

# Of 16 examples in four shards all have the background, 4 have class 1 (factor 4), of which one has
# class 2, too (factor 16).
HAS = ("1" * 16, "0001" * 4, "0" * 15 + "1")
SIZES = [5, 4, 4, 3]
PROPORTIONAL = [1, 1, 1, 4] * 3 + [1, 1, 1, 10]  # 16 is more than MOST


def marked(split, present=HAS):
    """Returns a split whose shards say which classes their examples have."""
    shards, first = [], 0
    for shard in split.shards:
        marks = tuple(row[first : first + shard.examples] for row in present)
        shards.append(dataclasses.replace(shard, present=marks))
        first += shard.examples
    return dataclasses.replace(split, shards=tuple(shards))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shards whose examples are their numbers, 0 … 15."""
    folder, split = write_numbers(tmp_path_factory.mktemp("numbers"), SIZES)
    return folder, marked(split)


@pytest.mark.parametrize(
    ("balance", "times"),
    [(0.0, [1] * 16), (0.5, [1, 1, 1, 2] * 3 + [1, 1, 1, 4]), (1.0, PROPORTIONAL)],
)
def test_an_example_is_repeated_by_the_rarest_of_its_classes(balance, times):
    shards = marked(split_of_sizes(SIZES)).shards
    assert balancing.repeats(shards, balance).tolist() == times


def test_halves_are_rounded_up_and_an_example_without_any_class_is_seen_once():
    # Class 0 in 9 of 10, class 1 in 4: the square root of 9 / 4 is 1.5. The last has neither.
    shards = marked(split_of_sizes([10]), ("1" * 9 + "0", "1" * 4 + "0" * 6)).shards
    assert balancing.repeats(shards, 0.5).tolist() == [2] * 4 + [1] * 6


def test_without_balance_each_shard_is_read_once_whatever_it_says():
    readings = balancing.readings(split_of_sizes(SIZES).shards, 0.0)
    assert [(one.shard, one.number, one.examples) for one in readings] == [
        (k, 0, size) for k, size in enumerate(SIZES)
    ]


def test_each_pass_shows_every_example_as_often_as_its_classes_say(data):
    size = sum(PROPORTIONAL)
    order = order_of(data, 2 * size, balance=1.0)
    passes = order[:size], order[size:]
    for one in passes:
        counts = collections.Counter(one)
        assert [counts[n] for n in range(16)] == PROPORTIONAL
    assert passes[0] != passes[1]
    # Its copies are in readings of their own, between which those of other shards are read.
    places = np.flatnonzero(np.array(passes[0]) == 15)
    assert np.ptp(places) > len(places)


@pytest.mark.slow
def test_the_order_goes_on_where_it_was_stopped_and_is_divided_among_workers(data):
    options = {"balance": 1.0, "num_streams": 4, "shuffle_block": 3}
    whole = order_of(data, 160, **options)
    for start in (4, 52, 100):
        assert order_of(data, 20, start=start, **options) == whole[start : start + 20]
    for worker in range(2):
        mine = order_of(data, 30, worker=worker, num_workers=2, **options)
        assert mine == whole[worker::2][:30]


@pytest.mark.slow
def test_foreground_examples_are_balanced_in_the_order_of_their_own(data):
    folder, split = data
    shards = [dataclasses.replace(shard, foreground=k != 0) for k, shard in enumerate(split.shards)]
    options = {"balance": 1.0, "share": 0.5, "num_streams": 1}
    order = order_of((folder, dataclasses.replace(split, shards=tuple(shards))), 120, **options)
    # Shard 0 has the first five examples, without a foreground. Every other position is forced.
    forced = next(part for part in (order[0::2], order[1::2]) if min(part) >= 5)
    counts = collections.Counter(forced[: sum(PROPORTIONAL[5:])])
    assert [counts[n] for n in range(5, 16)] == PROPORTIONAL[5:]


@pytest.mark.parametrize("start", [0, 16, 100])
def test_the_shards_that_are_read_are_found_for_an_error(data, start):
    options = {"seed": 3, "num_streams": 2, "shuffle_block": 2, "balance": 1.0}
    shard_of = np.repeat(np.arange(4), SIZES)
    numbers = order_of(data, 4, start=start, **options)
    found = read_errors.training_shards(data[1], range(start, start + 4), **options)
    assert {int(shard_of[number]) for number in numbers} <= set(found)


def test_streams_are_of_about_one_size_with_all_repetitions():
    # Each shard has 10 examples; the first one's are seen twice as often.
    split = marked(split_of_sizes([10] * 4), ("1" * 40, "1" * 10 + "0" * 30))
    assert pipeline.num_streams(split, 1) == 4
    assert pipeline.num_streams(split, 1, balance=0.5) == 1


def test_data_that_do_not_say_which_classes_examples_have_are_refused():
    with pytest.raises(InputError, match=r"--balance_cases=0\.5 needs to know which classes"):
        pipeline.num_streams(split_of_sizes(SIZES), 1, balance=0.5)


def test_what_a_balance_does_is_said_and_that_it_does_nothing_is_a_warning(caplog):
    names = ["background", "cell", "mitosis"]
    with caplog.at_level(logging.INFO, logger="absl"):
        balancing.tell(marked(split_of_sizes(SIZES)).shards, names, 1.0)
        balancing.tell(marked(split_of_sizes([4]), ("1111", "1110")).shards, names, 1.0)
    assert [record.message for record in caplog.records] == [
        "Of 16 training examples 4 are seen more than once in a pass, up to 10 times; mitosis, the "
        "rarest class, is in 6.2% of them.",
        "Warning: --balance_cases=1 changes nothing: of 4 training examples none has a class that "
        "is rare enough; cell, the rarest class, is in 75.0% of them.",
    ]
    assert caplog.records[1].levelno == logging.WARNING
