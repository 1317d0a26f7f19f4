"""The state document's reference, as a page and as a manual page, from the tables the parser reads by.

``docs/state-document.md`` and ``man/secgroupd-state.5`` hold what is made here; a test compares them,
``make reference`` writes them.
"""

import json
from collections.abc import Iterator, Mapping

from secgroupd.core.document import DOCUMENT
from secgroupd.core.reading import Field, Shape

HEADINGS = {
    "document": "The document",
    "vpc": "VPCs",
    "peering": "Peerings",
    "address_group": "Address groups",
    "security_group": "Security groups",
    "rule": "Rules",
    "instance": "Instances",
    "port": "Ports",
    "load_balancer": "Load balancers",
}
"""What the parts are called, where the parser's own word will not do."""

INTRODUCTION = (
    "One file, or the .yaml, .yml and .json files of a directory, which are merged. Unknown fields are "
    "errors; an optional field may be null, which is the same as leaving it out. A document is accepted "
    "whole, or refused whole with every problem at its line and column."
)


def pages() -> Mapping[str, str]:
    """Return the texts of the pages by their places in the repository."""
    return {"docs/state-document.md": _markdown(), "man/secgroupd-state.5": _manual()}


def _shapes(shape: Shape, seen: dict[str, Shape]) -> dict[str, Shape]:
    seen.setdefault(shape.name, shape)
    for field in shape.fields.values():
        inner = field.kind.shape
        if inner is not None and inner.name not in seen:
            _shapes(inner, seen)
    return seen


def _heading(shape: Shape) -> str:
    return HEADINGS.get(shape.name, shape.name.replace("_", " ").capitalize())


def _kind(field: Field) -> str:
    """Return what values a field takes, in words."""
    shape = field.kind.shape
    schema = field.kind.schema
    many = "list of " if schema.get("type") == "array" else ""
    if shape is not None:
        heading = _heading(shape)
        return f"{many}{heading if heading.startswith('VPC') else heading.lower()}"
    return f"{many}{_scalar(schema.get('items', schema) if many else schema)}"


def _scalar(schema: object) -> str:
    if not isinstance(schema, dict):
        return "value"
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return ", ".join(dict.fromkeys(str(value) for value in schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_scalar(one) for one in schema["anyOf"]))
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{low} to {high}"
    words = {"boolean": "true or false", "string": "text", "integer": "number", "number": "number"}
    return words.get(str(schema.get("type")), "value")


def _default(field: Field) -> str:
    if field.required:
        return "required"
    return "" if field.default in (None, []) else f"default {json.dumps(field.default)}"


def _markdown() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The state document"
    yield ""
    yield INTRODUCTION
    yield ""
    yield "This page is made from the parser's own tables (`make reference`)."
    yield "[What the fields mean together](semantics.md), [a document that explains itself](../examples/cloud.yaml)."
    for shape in _shapes(DOCUMENT, {}).values():
        yield f"\n## {_heading(shape)}\n"
        yield shape.help
        yield ""
        yield "| field | values | | |"
        yield "|---|---|---|---|"
        for name, field in shape.fields.items():
            values = _kind(field).replace("|", "\\|")
            yield f"| `{name}` | {values} | {_default(field)} | {field.help.replace('|', chr(92) + '|')} |"


def _manual() -> str:
    lines = [
        '.TH SECGROUPD\\-STATE 5 "" secgroupd ""',
        ".SH NAME",
        "secgroupd\\-state \\- the state document of secgroupd",
        ".SH DESCRIPTION",
        _escaped(INTRODUCTION),
    ]
    for shape in _shapes(DOCUMENT, {}).values():
        lines += [f'.SH "{_heading(shape).upper()}"', _escaped(shape.help)]
        for name, field in shape.fields.items():
            default = _default(field)
            values = _kind(field) + (f"; {default}" if default else "")
            lines += [
                ".TP",
                f'.BR {_escaped(name)} " (' + _escaped(values).replace('"', '""') + ')"',
                _escaped(field.help),
            ]
    lines += [
        ".SH SEE ALSO",
        ".BR secgroupctl (1),",
        ".BR secgroupd.yaml (5),",
        ".BR secgroupd (8)",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
