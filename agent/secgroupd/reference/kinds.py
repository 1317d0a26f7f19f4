"""What values a field takes, in words."""

import json
import re
from enum import Enum
from pathlib import PurePath

from secgroupd.core.reading import Field

_WORD = re.compile("[a-z]+").fullmatch


def values(field: Field) -> str:
    """Return what values a field takes that is no mapping."""
    schema = field.kind.schema
    if schema.get("type") == "array":
        return f"list of {_scalar(schema['items'])}"
    return _scalar(schema)


def written(value: object) -> str:
    """Return a value as it is written in YAML."""
    match value:
        case Enum():
            return str(value.value)
        case PurePath():
            return str(value)
        case str() if _WORD(value):
            return value
        case float():
            return f"{value:g}"
        case _:
            return json.dumps(value)


def _scalar(schema: object) -> str:
    if not isinstance(schema, dict):
        return "value"
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return ", ".join(dict.fromkeys(str(value) for value in schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_scalar(one) for one in schema["anyOf"]))
    words = {"boolean": "true or false", "string": "text", "integer": "number", "number": "number"}
    name = schema.get("title")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low} to {high}" + (f" {name}" if name else "")
    return name or words.get(str(schema.get("type")), "value")
