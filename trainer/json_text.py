"""JSON as every reader takes it: what is no finite number is null."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(
    value: Any,
    *,
    indent: int | None = None,
    ensure_ascii: bool = True,
    sort_keys: bool = False,
    separators: tuple[str, str] | None = None,
) -> str:
    """Returns the JSON of a value; NaN and infinities, which JSON does not have, are null."""
    encoder = json.JSONEncoder(
        indent=indent,
        ensure_ascii=ensure_ascii,
        sort_keys=sort_keys,
        separators=separators,
        allow_nan=False,
    )
    return encoder.encode(_defined(value))


def _defined(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _defined(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple) and not all(isinstance(entry, str) for entry in value):
        return [_defined(entry) for entry in value]
    return value
