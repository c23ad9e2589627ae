"""Tests of which class each pixel of a mask is of."""

import numpy as np
import pytest

from tests.pictures import LIMIT, save
from trainer.data.dataset import schema
from trainer.data.formats import images
from trainer.data.prepare import classes, labels, mask_agreement
from trainer.data.prepare.classes import Given
from trainer.data.prepare.labels import Rule, Shape
from trainer.errors import InputError

PALETTE = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
COLOURS = classes.parse("background:#000000,tumour:#ff0000", "#00FF00", None)


def _mask(values, dtype=np.uint8, **options):
    values = np.asarray(values, dtype)
    return images.Mask(values, options.pop("bits", 8 * values.itemsize), **options)


def _message(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def _ids(mask, given):
    return labels.class_ids(mask, Rule(given, given.classes), "M").tolist()


# Class ids ----------------------------------------------------------------------------------------


def test_ids_are_the_places_of_values_and_ranges():
    given = classes.parse("background:0,cell:1-65535", "70000", None)
    mask = _mask([[0, 1, 65535, 70000]], np.int32)
    assert _ids(mask, given) == [[0, 1, 1, schema.IGNORE]]
    assert _ids(_mask([[2, 0]], np.float32), given) == [[1, 0]]


def test_ids_are_the_places_of_colours_however_they_are_stored():
    colours = _mask([[[0, 0, 0], [255, 0, 0], [0, 255, 0]]])
    assert _ids(colours, COLOURS) == [[0, 1, schema.IGNORE]]
    swapped = _mask([[1, 0, 2]], palette=PALETTE[[1, 0, 2]])
    assert _ids(swapped, COLOURS) == [[0, 1, schema.IGNORE]]
    white = classes.parse("a:#000000,b:#ffffff", "", None)
    assert _ids(_mask([[0, 1]], bits=1), white) == [[0, 1]]
    assert _ids(_mask([[0, 255]], white_is_zero=True), white) == [[1, 0]]
    assert _ids(_mask([[0, 3]], palette=np.full((1, 3), 255, np.uint8)), white) == [[1, 0]]


def test_ids_are_the_sides_of_a_threshold():
    given = classes.parse("", "7", 128)
    for lossy in (False, True):
        mask = _mask([[[value] * 3 for value in (0, 7, 127, 128, 255)]], lossy=lossy)
        assert _ids(mask, given) == [[0, schema.IGNORE, 0, 1, 1]]
    assert _ids(_mask([[False, True]], bool), given) == [[0, 1]]
    greys = np.repeat([[0], [200]], 3, axis=1).astype(np.uint8)
    assert _ids(_mask([[0, 1]], palette=greys), given) == [[0, 1]]
    half = classes.parse("", "", 0.5)
    assert _ids(_mask([[0.49, 0.5]], np.float32), half) == [[0, 1]]
    assert _message(_ids, _mask([[np.nan]], np.float32), half) == (
        "M has values that are not finite; a mask has class values."
    )
    assert _message(_ids, _mask([[0, 1]], palette=PALETTE), given) == (
        "M has a palette with the colour #ff0000, and --threshold is for greys; name classes by "
        "colour: --classes=background:#000000,tumour:#ff0000."
    )


def test_one_channel_for_each_class_gives_the_place_of_the_one_that_is_set():
    for one in (1, 255, True, 1.0):
        hot = np.array([[[one, 0, 0, 0], [0, 0, one, 0], [0, 0, 0, one]]], type(one))
        assert labels.read(_mask(hot, hot.dtype), Given(), "M").pixels.tolist() == [[0, 2, 3]]
    ones = np.eye(3, dtype=np.uint8)[[[0, 2, 1]]]
    assert labels.read(_mask(ones), Given(), "M").pixels.tolist() == [[0, 2, 1]]
    for broken in ([[[1, 1, 0, 0]]], [[[0, 0, 0, 0], [0, 0, 0, 1]]], [[[0, 1, 2, 0]]]):
        assert _message(labels.read, _mask(broken), Given(), "M") == (
            "M has 4 channels, but not exactly one of them is set at each pixel; a mask has one "
            "class a pixel: one channel of values, or a channel for each class."
        )
    slices = _message(labels.read, _mask(np.zeros((2, 2, 9), np.uint8)), Given(), "M.npy")
    assert slices.endswith("If it is slices of a volume, add --volumes.")


def test_a_channel_for_each_class_must_be_hard_also_where_there_are_three():
    soft = _mask([[[0.2, 0.7, 0.1]]], np.float32)
    assert _message(labels.read, soft, Given(), "M") == (
        "M has 3 channels, but not exactly one of them is set at each pixel; a mask has one class "
        "a pixel: one channel of values, or a channel for each class."
    )


@pytest.mark.parametrize(
    "values",
    [[[False, True]], np.array([[0, 1]], np.int16), [[0.0, 1.0]], [[[0, 0, 0], [1, 1, 1]]]],
)
def test_booleans_whole_numbers_and_equal_channels_are_class_values(values):
    values = np.asarray(values)
    found = labels.read(images.Mask(values, 8), Given(), "M").pixels
    assert (found.tolist(), found.dtype.kind) in (([[0, 1]], "i"), ([[0, 1]], "u"))


def test_values_that_are_not_exact_are_refused():
    assert _message(labels.read, _mask([[0, 1]], lossy=True), Given(), "M") == (
        "M has lossy compression, such as JPEG's, which changes class values; save masks as PNG, "
        "or separate two classes with --threshold=128."
    )
    assert _message(labels.read, _mask([[0.5]], np.float32), Given(), "M") == (
        "M has values that are not whole numbers; a mask has class values: save those, or separate "
        "two classes with --threshold=0.5 or the like."
    )


def test_greys_that_lossy_compression_has_parted_are_held_to_a_threshold(tmp_path):
    rows, columns = np.mgrid[:64, :64]
    disk = np.repeat(((rows - 31) ** 2 + (columns - 31) ** 2 < 500)[..., np.newaxis], 3, axis=2)
    mask = images.read_mask(save(tmp_path / "x.webp", disk * np.uint8(255), quality=80), LIMIT)
    assert mask.lossy
    assert not images.Pixels(mask.values, False).is_grey  # WebP's rounding
    threshold = classes.parse("", "", 128)
    assert np.mean(_ids(mask, threshold) != disk[..., 0]) < 0.02  # along its edge at most
    red = _mask([[[0, 0, 0], [255, 0, 0]]], lossy=True)
    assert "M is in colour" in _message(labels.read, red, threshold, "M")


def test_one_bit_is_1_where_white_is_shown_but_bytes_are_as_they_are_stored():
    turned = labels.read(_mask([[0, 1]], bits=1, white_is_zero=True), Given(), "M")
    assert (turned.pixels.tolist(), turned.kind) == ([[1, 0]], "bits")
    seen = labels.look(_mask([[0, 255]], white_is_zero=True), Given(), "M")
    assert (seen.values, seen.is_turned) == ((0, 255), True)


@pytest.mark.parametrize(("bits", "grey"), [(2, 85), (4, 17)])
def test_few_bits_stand_for_the_greys_they_are_shown_as(bits, grey):
    few = _mask([[0, 1, 2**bits - 1]], bits=bits)
    seen = labels.look(few, Given(), "M")
    assert (seen.kind, seen.values) == ("bits", (0, 1, 2**bits - 1))
    assert seen.shown == (0, grey * 0x010101, 0xFFFFFF)
    beside = labels.look(_mask([[0, grey, 255]]), Given(), "N")
    rule = mask_agreement.settle([seen, beside], Given())[0]
    assert [entry.value for entry in rule.classes] == [0, grey, 255]
    assert labels.class_ids(few, rule, "M").tolist() == [[0, 1, 2]]
    named = classes.parse(f"a:#000000,b:#{grey:02x}{grey:02x}{grey:02x},c:#ffffff", "", None)
    assert _ids(few, named) == [[0, 1, 2]]


def test_colours_ask_for_classes_by_colour():
    mask = _mask([[[9, 0, 0], [0, 0, 0]]])
    assert _message(labels.look, mask, Given(), "M") == (
        "M is in colour, and a mask has one class value a pixel; name the classes by colour: "
        "--classes=#000000,#090000."
    )
    noise = np.arange(300 * 3).reshape(1, 300, 3) // 4
    assert _message(labels.look, _mask(noise), Given(), "M").endswith(
        "it has 256 colours: that is not a mask; check --masks."
    ) or "colours" in _message(labels.look, _mask(noise), Given(), "M")


def test_a_colour_that_is_no_class_is_named():
    mask = _mask([[[0, 0, 0], [128, 0, 0], [0, 255, 0], [255, 0, 0]]])
    assert _message(labels.look, mask, COLOURS, "M") == (
        "M has the colour #800000 (25.00% of its pixels), which is not in "
        "--classes=background:#000000,tumour:#ff0000; add it, give it as --ignore, or, if it comes "
        "from smoothed edges or a lossy format, save masks without either."
    )
    assert _message(labels.look, _mask([[[0, 0, 0]]], lossy=True), COLOURS, "M") == (
        "M has lossy compression, such as JPEG's, which changes colours; save masks as PNG."
    )
    assert _message(labels.look, _mask([[0, 300]], np.uint16), COLOURS, "M") == (
        "M has uint16 values, and --classes names colours, which are of 8 bits; save it as RGB or "
        "with a palette, or name classes by value."
    )


def test_a_value_that_was_not_there_before_is_refused():
    given = classes.parse("0,255", "", None)
    assert _message(_ids, _mask([[0, 254]]), given) == (
        "M changed while it was prepared: it now has a value that belongs to no class; prepare "
        "again when nothing writes to it."
    )


# What is seen -------------------------------------------------------------------------------------


@pytest.mark.parametrize("band", [1, 10, labels.BAND_PIXELS])
def test_the_pieces_of_each_value_are_counted(monkeypatch, band):
    monkeypatch.setattr(labels, "BAND_PIXELS", band)
    mask = _mask(
        [
            [1, 1, 1, 0, 2],
            [1, 0, 1, 0, 0],
            [1, 1, 1, 2, 2],
            [0, 0, 0, 2, 2],
        ]
    )
    seen = labels.look(mask, Given(), "M")
    assert seen.values == (0, 1, 2)
    # 0 has a piece in the hole, one at the right and one below; 1 a ring; 2 a pixel and a square.
    assert seen.shapes == (Shape(7, 3, 0), Shape(8, 0, 0), Shape(5, 2, 1))


def test_of_given_classes_only_the_first_value_is_kept():
    mask = _mask(np.arange(1000).reshape(10, 100), np.uint16)
    seen = labels.look(mask, classes.parse("background:0,cell:1-989", "999", None), "M")
    assert seen.values == (0, 1, 990, 991, 992, 993, 994, 995)


def test_a_palette_whose_indices_are_their_own_greys_has_plain_values():
    greys = np.repeat(np.arange(256)[:, np.newaxis], 3, axis=1).astype(np.uint8)
    assert labels.look(_mask([[0, 9]], palette=greys), Given(), "M").kind == "plain"
    seen = labels.look(_mask([[0, 1]], palette=PALETTE), Given(), "M")
    assert (seen.kind, seen.shown) == ("palette", (0, 0xFF0000))


def test_too_many_values_are_no_classes():
    mask = _mask(np.arange(300).reshape(10, 30), np.uint16)
    assert _message(labels.look, mask, Given(), "M") == (
        "M has 300 distinct values, more than 255 classes. If they are instance numbers, give "
        "--classes=background:0,object:1-65535; if they are two classes smoothed, --threshold=150; "
        "else that is not a mask: check --masks."
    )
