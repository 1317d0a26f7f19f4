"""The JSON Schema of a state document, made from the tables that the parser reads by.

``state.schema.json`` beside the package holds ``text()``; a test compares the two. The schema is
for editors: the parser alone knows ids, and how fields fit together.
"""

import json
from collections.abc import Iterator, Mapping

from secgroupd.core.document import DOCUMENT
from secgroupd.core.networkfields import FORWARDER
from secgroupd.core.reading import Field, Shape

_NULL = {"type": "null"}


def schema() -> dict[str, object]:
    """Return the schema (draft 7, which editors know best) of one file of a document."""
    shapes = {shape.name: _mapping(shape) for shape in _reachable(DOCUMENT)}
    del shapes[DOCUMENT.name]
    shapes[FORWARDER.name]["oneOf"] = [
        {"required": [name], "properties": {name: field.kind.schema}}
        for name, field in FORWARDER.fields.items()
    ]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "secgroupd state document",
        **_mapping(DOCUMENT),
        "definitions": dict(sorted(shapes.items())),
    }


def text() -> str:
    """Return the schema as the repository's file holds it."""
    return json.dumps(schema(), indent=2) + "\n"


def _mapping(shape: Shape) -> dict[str, object]:
    required = [name for name, field in shape.fields.items() if field.required]
    result: dict[str, object] = {
        "description": shape.help,
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _property(field) for name, field in shape.fields.items()},
    }
    return {**result, "required": required} if required else result


def _property(field: Field) -> Mapping[str, object]:
    result: dict[str, object] = {"description": field.help}
    if field.default is not None:
        result["default"] = field.default
    if field.required:
        # Draft 7 ignores everything beside $ref, the description included.
        return (
            {**result, "allOf": [field.kind.schema]}
            if "$ref" in field.kind.schema
            else {**result, **field.kind.schema}
        )
    return {**result, "anyOf": [field.kind.schema, _NULL]}


def _reachable(shape: Shape) -> Iterator[Shape]:
    yield shape
    for field in shape.fields.values():
        if field.kind.shape is not None:
            yield from _reachable(field.kind.shape)
