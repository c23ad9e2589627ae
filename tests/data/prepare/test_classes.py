"""Tests of what --classes, --ignore and --threshold say of the masks."""

import numpy as np
import pytest

from trainer.data.dataset import schema
from trainer.data.prepare import classes
from trainer.data.prepare.classes import Given
from trainer.errors import InputError


def _message(*arguments):
    with pytest.raises(InputError) as error:
        classes.parse(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_classes_are_parsed_in_the_order_given():
    assert classes.parse("cell:255, membrane:0", "", None).classes == (
        schema.Class("cell", 255),
        schema.Class("membrane", 0),
    )
    assert classes.parse("0,255", "7", None) == Given(
        (schema.Class("0", 0), schema.Class("255", 255)), 7
    )
    assert classes.parse("", "", None) == Given()


def test_a_class_may_be_a_range_of_values():
    given = classes.parse("background:-5-0,1-65535", "", None)
    assert given.classes == (schema.Class("background", -5, 0), schema.Class("1-65535", 1, 65535))
    assert [entry.as_given() for entry in given.classes] == ["-5-0", "1-65535"]
    assert classes.parse("a:0,b:3-3", "", None).classes[1] == schema.Class("b", 3)


def test_a_class_may_be_a_colour_and_has_its_id_for_a_value():
    given = classes.parse("background:#000000,tumour:#ff0000", "#00FF00", None)
    assert given.classes == (
        schema.Class("background", 0, colour="#000000"),
        schema.Class("tumour", 1, colour="#ff0000"),
    )
    assert given.ignore == 0x00FF00
    assert given.by_colour


@pytest.mark.parametrize("entry", ["a", "a:", ":1", "a:b", "1.5", "", "x:#ff", "a\nb:1", "1-"])
def test_a_class_that_is_no_value_is_refused(entry):
    shown = entry.replace("\n", "\\n")
    assert _message(f"0,{entry}", "", None) == (
        f"--classes=0,{shown}: {entry!r} is neither VALUE nor NAME:VALUE with a whole number, a "
        "range or a colour; write 0,255, background:0,cell:1-65535 or sky:#00ffff,road:#000000."
    )


@pytest.mark.parametrize(
    ("text", "ignore", "message"),
    [
        ("a:0,b:0", "", "--classes=a:0,b:0 gives the value 0 twice; each class needs its own."),
        ("a:0,a:1", "", "--classes=a:0,a:1 gives the name a twice; each class needs its own."),
        ("7", "", "--classes=7 gives 1 classes; expected 2 to 255, the background first."),
        (
            *("a:0,b:1", "1"),
            "--ignore=1 is also the value of class b of --classes=a:0,b:1; drop one of them.",
        ),
        (
            *("a:0,b:1-255", "255"),
            "--ignore=255 is also the value of class b of --classes=a:0,b:1-255; drop one of them.",
        ),
        ("a:0,b:9-3", "", "--classes=a:0,b:9-3: the range 9-3 ends before it begins."),
        (
            *("a:0,b:1-9,c:9", ""),
            "--classes=a:0,b:1-9,c:9: the values of b and c overlap; each value is of one class.",
        ),
        (
            *("a:0,b:#ff0000", ""),
            "--classes=a:0,b:#ff0000 names some classes by value and some by colour; name all by "
            "one.",
        ),
        (
            *("a:0,b:1", "#ff0000"),
            "--ignore=#ff0000 and --classes=a:0,b:1 must both be by value, or by colour.",
        ),
        (
            *("", "#ff0000"),
            "--ignore=#ff0000 is a colour, and so must the classes be: "
            "--classes=background:#000000,tumour:#ff0000.",
        ),
        ("", "red", "--ignore=red is neither a whole number nor a colour; write 255 or #e0e0c0."),
    ],
)
def test_classes_that_contradict_themselves_are_refused(text, ignore, message):
    assert _message(text, ignore, None) == message


def test_a_threshold_makes_two_classes():
    assert [entry.name for entry in classes.parse("", "", 128).classes] == [
        "background",
        "foreground",
    ]
    assert classes.parse("a:1,b:2", "", 128).classes[1] == schema.Class("b", 2)
    for text in ("a:0,b:1,c:2", "a:0,b:1-9", "a:#000000,b:#ffffff"):
        assert _message(text, "", 0.5) == (
            f"--threshold=0.5 makes two classes, each of one value; --classes={text} gives "
            "others: write background:0,nucleus:255 or the like, or drop one of the two."
        )


def test_a_value_has_the_place_of_its_class():
    known = classes.parse("background:-5-0,cell:7", "", None).classes
    values = np.array([[-5, 0, 7], [-6, 1, 9]])
    unknown = classes.UNKNOWN
    assert classes.places(values, known, ignore=9).tolist() == [
        [0, 0, 1],
        [unknown, unknown, schema.IGNORE],
    ]
    colours = classes.parse("a:#000000,b:#ff0000", "", None).classes
    assert classes.places([0xFF0000, 0, 1], colours, None).tolist() == [1, 0, unknown]
