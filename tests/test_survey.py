"""Tests of what is decided over the whole set."""

import numpy as np
import pytest
from PIL import Image

from trainer.data import records, sources, survey
from trainer.errors import InputError

BINARY = (records.Class("background", 0), records.Class("nucleus", 255))


def _seen(colours=1, is_grey=None, alpha="none", dtype="uint8", values=(0, 255), label="X"):
    source = sources.Source(label, label, None, label)
    grey = colours == 1 if is_grey is None else is_grey
    pair = survey.Pair(source, sources.Source(label, label, None, f"{label}-mask"))
    return survey.Survey(pair, 2, 2, dtype, colours, grey, alpha, values, b"")


def _message(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def _pair(tmp_path, image, mask):
    paths = str(tmp_path / "i.png"), str(tmp_path / "m.png")
    Image.fromarray(image).save(paths[0])
    Image.fromarray(mask).save(paths[1])
    return survey.Pair(*(sources.Source("x", path, None, path) for path in paths))


def test_a_pair_is_described(tmp_path):
    image = np.dstack([np.arange(6, dtype=np.uint8).reshape(2, 3)] * 3 + [np.full((2, 3), 255)])
    mask = np.array([[0, 0, 7], [7, 7, 255]], np.uint8)
    seen = survey.examine(_pair(tmp_path, image.astype(np.uint8), mask), 100)
    assert (seen.height, seen.width, seen.dtype, seen.colours) == (2, 3, "uint8", 3)
    assert (seen.is_grey, seen.alpha, seen.values) == (True, "opaque", (0, 7, 255))


def test_equal_pixels_have_equal_digests_however_they_are_stored(tmp_path):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    mask = np.zeros((2, 3), np.uint8)
    kinds = [grey, np.dstack([grey] * 3), np.dstack([grey, np.full_like(grey, 255)])]
    digests = {survey.examine(_pair(tmp_path, kind, mask), 100).digest for kind in kinds}
    assert len(digests) == 1
    turned = survey.examine(_pair(tmp_path, grey.reshape(3, 2), mask.reshape(3, 2)), 100)
    assert turned.digest not in digests


def test_image_and_mask_of_different_sizes_are_refused(tmp_path):
    pair = _pair(tmp_path, np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.uint8))
    assert _message(survey.examine, pair, 100) == (
        f"{tmp_path}/m.png is 6×4 (height × width), but its image {tmp_path}/i.png is 4×6; they "
        "must be equal."
    )


def test_too_many_values_are_no_mask(tmp_path):
    mask = np.arange(300, dtype=np.uint16).reshape(10, 30)
    pair = _pair(tmp_path, np.zeros((10, 30), np.uint8), mask)
    assert _message(survey.examine, pair, 1000) == (
        f"{tmp_path}/m.png has 300 distinct values, more than 255 classes: that is not a mask; "
        "check --masks."
    )
    halves = [_seen(values=tuple(range(200))), _seen(values=tuple(range(100, 300)))]
    assert _message(survey.choose_classes, halves, (), None) == (
        "The set of all masks has 300 distinct values, more than 255 classes: that is not a mask; "
        "check --masks."
    )


def test_exactly_255_classes_are_allowed_beside_the_ignored_value():
    seen = [_seen(values=tuple(range(256)))]
    assert len(survey.choose_classes(seen, (), 255)[0]) == 255
    assert "256 distinct values" in _message(survey.choose_classes, seen, (), None)


def test_classes_are_parsed_in_the_order_given():
    assert survey.parse_classes("cell:255, membrane:0", None) == (
        records.Class("cell", 255),
        records.Class("membrane", 0),
    )
    assert survey.parse_classes("0,255", 7) == (records.Class("0", 0), records.Class("255", 255))
    assert survey.parse_classes("", None) == ()


@pytest.mark.parametrize("entry", ["a", "a:", ":1", "a:b", "1.5", ""])
def test_a_class_that_is_no_value_is_refused(entry):
    assert _message(survey.parse_classes, f"0,{entry}", None) == (
        f"--classes=0,{entry}: {entry!r} is neither VALUE nor NAME:VALUE with a whole number; "
        "write 0,255 or background:0,nucleus:255."
    )


def test_classes_that_contradict_themselves_are_refused():
    assert _message(survey.parse_classes, "a:0,b:0", None) == (
        "--classes=a:0,b:0 gives the value 0 twice; each class needs its own."
    )
    assert _message(survey.parse_classes, "a:0,a:1", None) == (
        "--classes=a:0,a:1 gives the name a twice; each class needs its own."
    )
    assert _message(survey.parse_classes, "7", None) == (
        "--classes=7 gives 1 classes; expected 2 to 255, the background first."
    )
    assert _message(survey.parse_classes, "a:0,b:1", 1) == (
        "--ignore=1 is also the value of class b of --classes=a:0,b:1; drop one of them."
    )


def test_classes_are_found_where_none_are_given():
    seen = [_seen(values=(0, 9)), _seen(values=(3, 255))]
    classes, notes = survey.choose_classes(seen, (), 255)
    assert [entry.value for entry in classes] == [0, 3, 9]
    assert notes == ["Classes found: --classes=0,3,9; give them names with NAME:VALUE."]


def test_masks_of_a_single_value_are_refused():
    assert _message(survey.choose_classes, [_seen(values=(0,))], (), None) == (
        "The masks have one value only (0); there is nothing to tell apart. Check --masks, or name "
        "the classes with --classes."
    )


def test_a_value_that_is_no_class_is_named_with_its_file():
    seen = [_seen(), _seen(values=(0, 7, 8, 255), label="B")]
    assert _message(survey.choose_classes, seen, BINARY, None) == (
        "B-mask has the value 7, 8, which is not in --classes=background:0,nucleus:255; add it, or "
        "give it as --ignore."
    )
    assert survey.choose_classes([_seen(values=(0, 7))], BINARY, 7) == (BINARY, [])


def test_channels_are_auto_or_a_number():
    assert survey.parse_channels("auto") is None
    assert survey.parse_channels("3") == 3
    for text in ("0", "-1", "grey", ""):
        assert _message(survey.parse_channels, text) == (
            f"--channels={text} is neither auto nor a number of channels, 1 or more."
        )


@pytest.mark.parametrize(
    ("seen", "channels", "chosen", "notes"),
    [
        ([_seen(), _seen()], None, 1, []),
        ([_seen(3), _seen(3, True)], None, 3, []),
        ([_seen(5)], None, 5, []),
        (
            [_seen(3, True), _seen()],
            None,
            1,
            ["1 of 2 images are grey in three equal channels; one is kept."],
        ),
        (
            [_seen(3), _seen()],
            None,
            3,
            ["1 of 2 images have one channel; it is repeated to make three."],
        ),
        (
            [_seen(alpha="opaque"), _seen()],
            None,
            1,
            ["1 of 2 images have an alpha channel that is full everywhere; it is dropped."],
        ),
        (
            [_seen(3), _seen()],
            1,
            1,
            ["1 of 2 images are in colour; their luminance (ITU-R 601) is kept."],
        ),
        (
            [_seen(3, alpha="varies")],
            3,
            3,
            ["1 of 1 images have an alpha channel that varies; --channels drops it."],
        ),
        (
            [_seen(3, alpha="varies"), _seen(3)],
            4,
            4,
            ["1 of 2 images have no alpha channel; a full one is added."],
        ),
    ],
)
def test_one_rule_gives_the_channels_and_says_when_it_acts(seen, channels, chosen, notes):
    assert survey.choose_channels(seen, channels) == (chosen, notes)


def test_channels_without_a_rule_are_refused():
    assert _message(survey.choose_channels, [_seen(3, alpha="varies")], None) == (
        "X has an alpha channel that varies; --channels=3 drops it, --channels=4 keeps it."
    )
    assert _message(survey.choose_channels, [_seen(5), _seen(3, label="B")], None) == (
        "X has 5 channels and B has 3; give images of one kind."
    )
    assert _message(survey.choose_channels, [_seen(5)], 3) == (
        "X has 5 channels, which cannot become 3; give images of one kind, or another --channels."
    )


def test_one_rule_gives_the_dtype_and_says_when_it_acts():
    assert survey.choose_dtype([_seen(), _seen()]) == ("uint8", [])
    assert survey.choose_dtype([_seen(dtype="float32")]) == ("float32", [])
    assert survey.choose_dtype([_seen(), _seen(dtype="uint16"), _seen()]) == (
        "uint16",
        ["2 of 3 images have 8 bits; their values are scaled by 257 to the 16 bits of the others."],
    )
    assert _message(survey.choose_dtype, [_seen(), _seen(dtype="float32", label="B")]) == (
        "B has float32 pixels and other images have 8 or 16 bits; no rule makes them comparable: "
        "convert one kind."
    )
