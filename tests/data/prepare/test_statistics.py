"""Tests of what is decided over the whole set."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from trainer.data.formats import discovery
from trainer.data.prepare import labels, statistics
from trainer.data.prepare.classes import Given
from trainer.data.prepare.pairs import Pair
from trainer.errors import InputError


def _seen(colours=1, is_grey=None, alpha="none", dtype="uint8", label="X"):
    source = discovery.Source(label, label, None, label)
    grey = colours == 1 if is_grey is None else is_grey
    pair = Pair((source,), discovery.Source(label, label, None, f"{label}-mask"))
    mask = labels.Seen(f"{label}-mask", "plain", (0, 255))
    return statistics.Survey(pair, 2, 2, dtype, colours, grey, alpha, mask, b"")


def _message(function, *arguments):
    with pytest.raises(InputError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def _channels(seen, channels):
    return statistics.choose_channels(statistics.alike(seen), channels)


def _dtype(seen):
    return statistics.choose_dtype(statistics.alike(seen))


def _pair(tmp_path, image, mask):
    paths = str(tmp_path / "i.png"), str(tmp_path / "m.png")
    Image.fromarray(image).save(paths[0])
    Image.fromarray(mask).save(paths[1])
    image, mask = (discovery.Source("x", path, None, path) for path in paths)
    return Pair((image,), mask)


def test_a_pair_is_described(tmp_path):
    image = np.dstack([np.arange(6, dtype=np.uint8).reshape(2, 3)] * 3 + [np.full((2, 3), 255)])
    mask = np.array([[0, 0, 7], [7, 7, 255]], np.uint8)
    seen = statistics.examine(_pair(tmp_path, image.astype(np.uint8), mask), 100, Given())
    assert (seen.height, seen.width, seen.dtype, seen.colours) == (2, 3, "uint8", 3)
    assert (seen.is_grey, seen.alpha, seen.mask.values) == (True, "opaque", (0, 7, 255))


def test_equal_pixels_have_equal_digests_however_they_are_stored(tmp_path):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    mask = np.zeros((2, 3), np.uint8)
    kinds = [grey, np.dstack([grey] * 3), np.dstack([grey, np.full_like(grey, 255)])]
    digests = {
        statistics.examine(_pair(tmp_path, kind, mask), 100, Given()).digest for kind in kinds
    }
    assert len(digests) == 1
    turned = statistics.examine(
        _pair(tmp_path, grey.reshape(3, 2), mask.reshape(3, 2)), 100, Given()
    )
    assert turned.digest not in digests


def test_image_and_mask_of_different_sizes_are_refused(tmp_path):
    pair = _pair(tmp_path, np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.uint8))
    assert _message(statistics.examine, pair, 100, Given()) == (
        f"{tmp_path}/m.png is 6×4 (height × width), but its image {tmp_path}/i.png is 4×6; they "
        "must be equal."
    )


def test_what_changed_since_it_was_seen_is_refused(tmp_path):
    image = np.array([[0, 1, 2]], np.uint8)
    mask = np.array([[0, 1, 1]], np.uint8)
    pair = _pair(tmp_path, image, mask)
    content = statistics.examine(pair, 100, Given()).pair.content
    seen = dataclasses.replace(pair, content=content)
    assert statistics.read(seen, 100)[1].values.tolist() == mask.tolist()
    for other in ((image + 1, mask), (image, 1 - mask), (image.astype(np.uint16), mask)):
        _pair(tmp_path, *other)
        assert _message(statistics.read, seen, 100) == (
            f"{tmp_path}/i.png or its mask {tmp_path}/m.png changed while the data were prepared; "
            "prepare them again when nothing writes there."
        )


def test_channels_are_auto_or_a_number():
    assert statistics.parse_channels("auto") is None
    assert statistics.parse_channels("3") == 3
    for text in ("0", "-1", "grey", ""):
        assert _message(statistics.parse_channels, text) == (
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
    assert _channels(seen, channels) == (chosen, notes)


def test_channels_without_a_rule_are_refused():
    assert _message(_channels, [_seen(3, alpha="varies")], None) == (
        "X has an alpha channel that varies; --channels=3 drops it, --channels=4 keeps it."
    )
    assert _message(_channels, [_seen(5), _seen(3, label="B")], None) == (
        "X has 5 channels and B has 3; give images of one kind."
    )
    assert _message(_channels, [_seen(5)], 3) == (
        "X has 5 channels, which cannot become 3; give images of one kind, or another --channels."
    )


def test_one_rule_gives_the_dtype_and_says_when_it_acts():
    assert _dtype([_seen(), _seen()]) == ("uint8", [])
    assert _dtype([_seen(dtype="float32")]) == ("float32", [])
    assert _dtype([_seen(), _seen(dtype="uint16"), _seen()]) == (
        "uint16",
        ["2 of 3 images have 8 bits; their values are scaled by 257 to the 16 bits of the others."],
    )
    assert _message(_dtype, [_seen(), _seen(dtype="float32", label="B")]) == (
        "B has float32 pixels and other images have 8 or 16 bits; no rule makes them comparable: "
        "convert one kind."
    )


def test_channels_beyond_the_colours_are_taken_or_dropped_only_when_asked():
    infrared = dataclasses.replace(_seen(4, label="A"), extra=1)
    assert _message(_channels, [infrared], None) == (
        "A has 4 channels, of which 1 are neither colours nor alpha; --channels=4 takes all of "
        "them, --channels=3 drops those."
    )
    assert _channels([infrared, infrared], 4) == (4, [])
    dropped = "1 of 1 images have channels that are neither colours nor alpha; --channels drops "
    assert _channels([infrared], 3) == (3, [f"{dropped}them."])
    assert _message(_channels, [_seen(3, label="B"), infrared], 4) == (
        "A has 1 channels that are neither colours nor alpha, and B has others; give images of one "
        "kind, or --channels=3."
    )
