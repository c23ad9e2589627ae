"""What prediction.json says of each file, as text and back."""

import json
import re

import pytest

from trainer.errors import InputError
from trainer.predict import record
from trainer.predict.review import Expected

IMAGES = [
    record.Origin("/images/a.png", None, 10, 3),
    record.Origin("gs://b/c.tif", 2, 30, None, "0a1b2c3d"),
]
RECORD = {
    'quo"ted/ü.png': record.Written(5, "01234567", IMAGES[0], Expected(0.5, [0.25, None])),
    "b\udcff.png": record.Written(6, "89abcdef", IMAGES[1]),
}
# Classes whose names are those of fields.
FACTS = {
    "weights": [{"run_dir": "runs/demo", "step": 3}],
    "classes": {"path": 0, "row": 1, "bytes": 2, "modified": 3, "crc32c": 4},
    "components": {"image": 1},
}


@pytest.mark.parametrize("files", [{}, RECORD, dict(list(RECORD.items())[:1])])
def test_text_gives_back_what_was_written(files):
    text = "".join(record.to_json(FACTS, files))
    content = record.parse(text)
    assert {name: content[name] for name in FACTS} == FACTS
    assert record.from_json(content["files"], "x") == files
    assert json.loads(text).keys() == {*FACTS, "files"}
    assert text.endswith("}\n")
    lines = record.to_lines(files)
    assert record.from_lines(lines, "x") == files
    assert record.from_lines(lines + lines[:9], "x") == files  # cut by a kill


def test_entries_follow_by_name_whatever_the_order_they_came_in():
    turned = dict(reversed(list(RECORD.items())))
    assert "".join(record.to_json(FACTS, turned)) == "".join(record.to_json(FACTS, RECORD))


@pytest.mark.parametrize(
    "files",
    [
        [],
        {"a.png": "text"},
        {"a.png": {"bytes": 1, "crc32c": "0"}},
        {"a.png": {"bytes": 1, "crc32c": "0", "image": {"path": "a"}}},
        {
            "a.png": {
                "bytes": 1,
                "crc32c": "0",
                "image": dict.fromkeys(FACTS["classes"], "a"),
                "x": 1,
            }
        },
    ],
)
def test_what_is_damaged_is_one_line(files):
    content = record.parse(json.dumps({**FACTS, "files": files}))
    message = re.escape("out/prediction.json does not record the source of each file; restore it,")
    with pytest.raises(InputError, match=f"^{message}"):
        record.from_json(content["files"], "out/prediction.json")


def test_a_line_without_its_image_is_one_line():
    with pytest.raises(InputError, match="^lines does not record the source of each file;"):
        record.from_lines('{"file": "a.png", "bytes": 1, "crc32c": "0"}\n', "lines")
