"""secgroupd-state(5) and docs/state-document.md, from the tables that the parser reads by."""

from secgroupd.core.document import DOCUMENT
from secgroupd.core.reading import Field, Shape
from secgroupd.reference.kinds import values, written
from secgroupd.reference.model import (
    Definition,
    Definitions,
    Manual,
    Page,
    Paragraph,
    Section,
    see_also,
)

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

HEADS = ("field", "values", "", "")

INTRODUCTION = (
    "One file, or the .yaml, .yml and .json files of a directory, which are merged. Unknown fields are "
    "errors; an optional field may be null, which is the same as leaving it out. A document is accepted "
    "whole, or refused whole with every problem at its line and column."
)


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
    if shape is None:
        return values(field)
    many = "list of " if field.kind.schema.get("type") == "array" else ""
    heading = _heading(shape)
    return f"{many}{heading if heading.startswith('VPC') else heading.lower()}"


def _default(field: Field) -> str:
    if field.required:
        return "required"
    return "" if field.default in (None, []) else f"default {written(field.default)}"


def manual() -> Manual:
    """Return secgroupd-state(5)."""
    return Manual(
        name="secgroupd-state",
        number=5,
        title="File formats",
        summary="the state document of secgroupd",
        sections=(
            Section("Description", (Paragraph(INTRODUCTION),)),
            *_sections(),
            see_also("secgroupctl(1)", "secgroupd.yaml(5)", "secgroupd(8)"),
        ),
    )


def page() -> Page:
    """Return docs/state-document.md."""
    more = (
        "[What the fields mean together](semantics.md), "
        "[a document that explains itself](../examples/cloud.yaml)."
    )
    return Page(
        title="The state document",
        blocks=(Paragraph(INTRODUCTION), Paragraph(more)),
        sections=_sections(),
    )


def _sections() -> tuple[Section, ...]:
    return tuple(
        Section(_heading(shape), (Paragraph(shape.help), Definitions(_fields(shape), HEADS)))
        for shape in _shapes(DOCUMENT, {}).values()
    )


def _fields(shape: Shape) -> tuple[Definition, ...]:
    return tuple(
        Definition(f"`{name}`", field.help, (_kind(field), _default(field)))
        for name, field in shape.fields.items()
    )
