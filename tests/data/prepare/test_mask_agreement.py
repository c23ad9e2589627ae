"""Tests of whether masks mean the same by their values, and of the classes they have."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.dataset import schema
from trainer.data.formats import images
from trainer.data.prepare import classes, labels, mask_agreement
from trainer.data.prepare.classes import Given
from trainer.data.prepare.labels import Seen
from trainer.errors import InputError

BINARY = classes.parse("background:0,nucleus:255", "", None)
FOUND = Given()
BLACK, WHITE, RED, GREEN = 0, 0xFFFFFF, 0xFF0000, 0x00FF00


def _plain(*values, label="M"):
    return Seen(label, "plain", values)


def _bits(*values, label="B"):
    return Seen(label, "bits", values, tuple(WHITE * value for value in values))


def _indexed(label, **colours):
    values = tuple(int(name[1:]) for name in colours)
    return Seen(label, "palette", values, tuple(colours.values()))


def _settle(seen, given=BINARY):
    rule, notes, warnings = mask_agreement.settle(seen, given)
    return [entry.value for entry in rule.classes], set(rule.as_shown), notes, warnings


def _message(seen, given=BINARY):
    with pytest.raises(InputError) as error:
        mask_agreement.settle(seen, given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_classes_are_found_where_none_are_given():
    assert _settle([_plain(0, 9), _plain(3, 255)], Given(ignore=255)) == (
        [0, 3, 9],
        set(),
        ["Classes found: --classes=0,3,9; give them names with NAME:VALUE."],
        [],
    )


def test_masks_of_a_single_value_are_refused():
    assert _message([_plain(0)], FOUND) == (
        "The masks have one value only (0); there is nothing to tell apart. Check --masks, or name "
        "the classes with --classes."
    )


def test_exactly_255_classes_are_allowed_beside_the_ignored_value():
    seen = [_plain(*range(256))]
    assert len(_settle(seen, Given(ignore=255))[0]) == 255
    assert _message(seen, FOUND) == (
        "The set of all masks has 256 distinct values, more than 255 classes. If they are instance "
        "numbers, give --classes=background:0,object:1-255; if they are two classes smoothed, "
        "--threshold=128; else these are no masks: check --masks."
    )


def test_a_value_that_is_no_class_is_named_with_its_file():
    assert _message([_plain(0, 255), _plain(0, 7, 8, 255, label="B")]) == (
        "B has the value 7, 8, which is not in --classes=background:0,nucleus:255; add it, or give "
        "it as --ignore."
    )
    assert _message([_plain(0, 1, 2, 254, 253)]).endswith(
        "or give it as --ignore. If these are smoothed edges, --threshold=128 tells two classes "
        "apart; if they number instances, a class may be a range: cell:1-65535."
    )
    given = classes.parse("background:0,nucleus:255", "7", None)
    assert _settle([_plain(0, 7)], given)[0] == [0, 255]


# What a value means -------------------------------------------------------------------------------


def test_palettes_that_differ_are_refused():
    swapped = [_indexed("A", i0=BLACK, i1=RED), _indexed("B", i0=BLACK, i1=GREEN)]
    for given in (FOUND, classes.parse("background:0,tumour:1", "", None)):
        assert _message(swapped, given) == (
            "A shows index 1 as #ff0000 and B shows index 1 as #00ff00: their palettes differ. "
            "Name the classes by colour, --classes=background:#000000,tumour:#ff0000, or save all "
            "masks with one palette."
        )
    moved = [_indexed("A", i0=BLACK, i1=RED), _indexed("B", i0=BLACK, i2=RED)]
    assert _message(moved, FOUND).startswith(
        "A shows index 1 as #ff0000 and B shows index 2 as #ff0000: their palettes differ."
    )


def test_palettes_may_differ_in_what_is_not_used_or_does_not_tell_indices_apart():
    same = [_indexed("A", i0=BLACK, i1=RED), _indexed("B", i0=BLACK, i2=GREEN)]
    assert _settle(same, FOUND)[0] == [0, 1, 2]
    unset = [_indexed("A", i0=BLACK, i1=BLACK), _indexed("B", i0=BLACK, i2=BLACK)]
    assert _settle(unset, FOUND)[0] == [0, 1, 2]
    assert _settle([_bits(0, 1), _indexed("A", i0=BLACK, i1=RED)], FOUND)[0] == [0, 1]


@pytest.mark.parametrize("given", [FOUND, BINARY])
def test_a_white_bit_or_index_is_the_255_of_the_others(given):
    palette = _indexed("P", i0=WHITE, i1=BLACK)
    values, as_shown, notes, warnings = _settle([_plain(0, 255), _bits(0, 1), palette], given)
    assert (values, as_shown, warnings) == ([0, 255], {"bits", "palette"}, [])
    assert notes[:2] == [
        "1 of 3 masks are of 1 to 4 bits; their greys are used as values, as in the others.",
        "1 of 3 masks are with a palette; their greys are used as values, as in the others.",
    ]


def test_a_bit_is_1_where_the_others_have_1():
    assert _settle([_plain(0, 1), _bits(0, 1)], FOUND)[:2] == ([0, 1], set())
    assert _settle([_plain(0), _bits(0, 1)], FOUND)[:2] == ([0, 1], set())
    cells = classes.parse("background:0,cell:1-255", "", None)
    assert _settle([_plain(0, 255), _bits(0, 1)], cells)[1] == set()


def test_a_bit_that_may_be_either_is_refused():
    for others, named in (
        ((0, 1, 255), "background:#000000,nucleus:#ffffff"),
        ((0, 7), "background:0,nucleus:255"),
    ):
        seen = [_plain(0), _plain(*others), _bits(0, 1)]
        assert _message(seen, FOUND) == (
            "B is of 1 to 4 bits: its values 0, 1 are shown as 0, 255. Which of these the values "
            f"{', '.join(map(str, others))} of M stand beside cannot be told; save all masks with "
            f"8 bits, or name the classes: --classes={named}."
        )
    turned = [_plain(0, 255), Seen("P", "palette", (0, 255), (WHITE, BLACK))]
    assert _message(turned).endswith("--classes=background:#000000,nucleus:#ffffff.")


def test_few_bits_of_several_widths_beside_one_another_are_refused():
    two = Seen("A", "bits", (0, 1), (BLACK, 0x555555), bits=2)
    assert _message([two, Seen("B", "bits", (0, 1), (BLACK, WHITE), bits=1)], FOUND) == (
        "A has 2 bits and shows 1 as #555555, and B has 1 and shows 1 as #ffffff; save all masks "
        "with 8 bits."
    )


def test_one_foreground_of_two_values_is_refused():
    seen = [_plain(0, 1, label="A"), _plain(0, 255, label="B")]
    assert _message(seen, FOUND) == (
        "The masks have the foreground 1 in A, 255 in B, and no mask has both. If it is one class, "
        "give --classes=background:0,foreground:1-255; if not, --classes=0,1,255."
    )
    assert _settle([*seen, _plain(0, 1, 255)], FOUND)[0] == [0, 1, 255]
    assert _settle(seen, classes.parse("background:0,foreground:1-255", "", None))[0] == [0, 1]
    assert "255 in B, 65535 in C" in _message([seen[1], _plain(0, 65535, label="C")], FOUND)


def test_masks_that_show_0_as_white_are_warned_of():
    turned = Seen("T", "plain", (0, 255), is_turned=True)
    values, _, _, warnings = _settle([turned, _plain(0, 255)])
    assert values == [0, 255]
    assert warnings == [
        "Warning: in 1 of 2 masks 0 is shown white; of several bits, such as ImageJ's with an "
        "inverting table, their values are taken as they are stored. If they are the wrong way "
        "round, save them without that, or name the classes in the other order, such as "
        "--classes=background:255,foreground:0."
    ]
    bits = Seen("B", "bits", (0, 1), (BLACK, WHITE), is_turned=True)
    (warning,) = _settle([bits], FOUND)[3]
    assert "of 1 bit, they are taken as they are shown: 1 is white." in warning


def test_a_palette_of_greys_the_other_way_round_is_warned_of():
    assert _settle([_indexed("P", i0=WHITE, i1=BLACK)], FOUND)[3] == [
        "Warning: P shows index 0 as #ffffff and index 1 as #000000, and indices are used as "
        "classes. If the colours are meant, give --classes=background:#000000,foreground:#ffffff."
    ]
    for usual in ({"i0": BLACK, "i1": WHITE}, {"i0": WHITE, "i1": RED}, {"i0": 0, "i3": 0}):
        assert _settle([_indexed("P", **usual)], FOUND)[3] == []


def test_a_threshold_must_tell_something_apart():
    given = classes.parse("", "", 128)
    assert _settle([_plain(0.0, 100.0), _plain(90.0, 128.0)], given)[0] == [0, 255]
    assert _message([_plain(0.0, 1.0)], given) == (
        "--threshold=128 separates nothing in masks whose values are 0 to 1; give one between them."
    )
    assert "values are 128 to 128" in _message([_plain(128.0, 128.0)], given)
    deep = Seen("D", "plain", (0.0, 65535.0), bits=16)
    assert _message([_plain(0.0, 255.0), deep], given) == (
        "M has 8 bits and D has 16, and --threshold=128 cannot mean the same in both; save all "
        "masks with as many bits."
    )
    assert _settle([deep], given)[0] == [0, 255]


def test_16_bits_that_are_8_bits_scaled_are_refused():
    deep = Seen("D", "plain", (0, 32896, 65535), bits=16)
    assert _message([_plain(0, 128, 255), deep], FOUND) == (
        "D has 16 bits and the values 32896, 65535, 257 times those of masks with 8 bits, 128, "
        "255; save all masks with as many bits."
    )
    assert _settle([_plain(0, 1), Seen("D", "plain", (0, 1, 300), bits=16)], FOUND)[0] == [
        0,
        1,
        300,
    ]


# Whether values are classes -----------------------------------------------------------------------


def _look(pictures, given=FOUND):
    masks = [images.Mask(np.asarray(picture), 8) for picture in pictures]
    return [labels.look(mask, given, f"M{k}") for k, mask in enumerate(masks)]


def _drawn(kind, number=8, fills=(255,)):
    """Returns masks of 96×96 pixels with three objects of each value, as Pillow's pictures."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        picture = Image.new("L", (96, 96))
        draw = ImageDraw.Draw(picture)
        for fill in [*fills] * 3:
            left, top, width, height = rng.integers([0, 0, 8, 8], [70, 70, 30, 30])
            getattr(draw, kind)((left, top, left + width, top + height), fill=int(fill))
        found.append(picture)
    return found


def _jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize("kind", ["ellipse", "rectangle"])
def test_smoothed_masks_and_those_that_were_once_jpeg_are_refused(kind):
    pictures = _drawn(kind)
    assert _settle(_look(pictures), FOUND)[0] == [0, 255]
    changed = [[_jpeg(picture, quality) for picture in pictures] for quality in (75, 95, 100)]
    blur = [ImageFilter.GaussianBlur(radius) for radius in (0.5, 1)]
    changed += [[picture.filter(by) for picture in pictures] for by in blur]
    changed.append([picture.resize((60, 60), Image.Resampling.BILINEAR) for picture in pictures])
    given = classes.parse("", "", 128)
    for masks in changed:
        message = _message(_look(masks), FOUND)
        assert "in rims or specks: they look smoothed, or once saved as JPEG." in message
        assert "Give --threshold=128 for two classes" in message
        assert _settle(_look(masks, given), given)[0] == [0, 255]


def test_a_message_lists_the_values_that_may_be_classes_all_the_same():
    rows = np.zeros((9, 9), np.uint8)
    rows[2:7, 2:7] = 255
    rows[1], rows[:, 8] = 1, 254
    assert _message(_look([rows]), FOUND) == (
        "The masks have 4 values (0, 1, 254, 255), 2 of them only in rims or specks: they look "
        "smoothed, or once saved as JPEG. Give --threshold=128 for two classes, save them again "
        "without, or name them as classes: --classes=0,1,254,255."
    )


def _numbered(*counts):
    """Returns masks with so many objects each, numbered from 1."""
    masks = []
    for count in counts:
        mask = np.zeros((60, 60), np.uint8)
        for k in range(count):
            top, left = k // 6 * 10, k % 6 * 10
            mask[top : top + 7, left : left + 5] = k + 1
        masks.append(mask)
    return masks


def test_numbers_of_objects_are_refused():
    assert _message(_look(_numbered(3, 12, 0, 7)), FOUND) == (
        "The masks have 13 values (0, 1, 2, 3, 4, …), and each is one object where it occurs: they "
        "look like instance numbers. Give --classes=background:0,object:1-12, or name them as "
        "classes: --classes=0,1,2,3,4,5,6,7,8,9,10,11,12."
    )
    first, second = _numbered(9, 9)
    apart = [first, np.where(second, second + 100, 0)]  # numbered through the set
    assert "Give --classes=background:0,object:1-109, or" in _message(_look(apart), FOUND)


def test_classes_of_several_objects_or_of_few_values_are_classes():
    many = _look(_drawn("ellipse", fills=range(1, 9)))
    assert _settle(many, FOUND)[3] == []
    organs = _look([np.kron(np.diag(range(k)), np.ones((8, 8), np.uint8)) for k in (2, 4, 5)])
    assert _settle(organs, FOUND)[3] == []
    void = _drawn("ellipse")[0]
    border = void.filter(ImageFilter.MaxFilter(5))
    mask = np.where(void, 1, np.where(border, 255, 0)).astype(np.uint8)
    assert _settle(_look([mask]), FOUND)[0] == [0, 1, 255]


def test_many_classes_are_asked_for():
    values = list(range(0, 60, 5))
    assert _settle([_plain(*values)], FOUND)[3] == [
        "Warning: the masks have 12 values (0, 5, 10, 15, 20, …), and each becomes a class. If "
        "they are instance numbers, give --classes=background:0,object:5-55; if they are two "
        "classes smoothed, --threshold=28; --classes names them and ends this warning."
    ]
    text = ",".join(map(str, values))
    assert _settle([_plain(*values)], classes.parse(text, "", None))[3] == []
    palette = Seen("P", "palette", tuple(values), tuple(1000 * value for value in values))
    assert _settle([palette], FOUND)[3] == []


def test_classes_have_their_values_for_names():
    rule, _, _ = mask_agreement.settle([_plain(0, 3)], FOUND)
    assert rule.classes == (schema.Class("0", 0), schema.Class("3", 3))
