"""JSON that every reader takes."""

import json

import numpy as np

from trainer import json_text


def test_what_json_has_no_number_for_is_null():
    value = {"a": float("nan"), "b": [1.5, (float("inf"), -np.float64("inf"))], "c": {"d": 2}}
    text = json_text.dumps(value)
    assert text == '{"a": null, "b": [1.5, [null, null]], "c": {"d": 2}}'


def test_finite_values_are_written_as_python_does():
    value = {"b": [1, 2.5, None, True, "é"], "a": {}}
    for options in ({}, {"indent": 1, "ensure_ascii": False}, {"sort_keys": True}):
        assert json_text.dumps(value, **options) == json.dumps(value, **options)
