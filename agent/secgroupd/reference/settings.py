"""secgroupd.yaml(5), docs/settings.md and the file of defaults, from the table that settings are read by."""

import textwrap
from collections.abc import Iterator

from secgroupd.config import DEFAULT_PATH, SETTINGS, Setting
from secgroupd.core.reading import Field, Shape
from secgroupd.prose import plain
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

WIDTH = 100
"""Columns of the file of defaults."""

TAKEN = (
    "A file is taken whole, or refused whole with the line and column of every problem. A running "
    "daemon takes up changes by itself, and on `SIGHUP`; what is refused, or a file that has gone, "
    "leaves its settings as they were."
)
NULL = "`null` is the same as leaving a key out."


def manual() -> Manual:
    """Return secgroupd.yaml(5)."""
    return Manual(
        name="secgroupd.yaml",
        number=5,
        title="File formats",
        summary="settings of secgroupd and secgroupctl",
        sections=(
            Section("Synopsis", (Paragraph(f"*{DEFAULT_PATH}*"),)),
            Section("Description", (Paragraph(SETTINGS.help), Paragraph(f"{TAKEN} {NULL}"))),
            Section("Keys", (_keys(),)),
            see_also("secgroupd(8)", "secgroupctl(1)", "secgroupd-state(5)"),
        ),
    )


def page() -> Page:
    """Return docs/settings.md."""
    where = (
        f"They are in `{DEFAULT_PATH}`, or in the file that `--config` names. "
        "[The one that is installed](../systemd/secgroupd.yaml) has every key with its default."
    )
    return Page(
        title="Settings",
        blocks=(Paragraph(SETTINGS.help), Paragraph(where), Paragraph(f"{TAKEN} {NULL}")),
        sections=(Section("Keys", (_keys(),)),),
    )


def defaults() -> str:
    """Return the file that is installed: every key with its default, commented out."""
    how = (
        'Every line that is commented out shows a key with its default: take the "# " away to change '
        f"it. {NULL} secgroupd.yaml(5) says the same as this file."
    )
    lines = [*_comment(SETTINGS.help), "#", *_comment(how), "#", *_comment(TAKEN)]
    for name, field in SETTINGS.fields.items():
        lines += ["", *_comment(_told(field)), *_lines(name, field)]
    return "\n".join(lines) + "\n"


def _keys() -> Definitions:
    return Definitions(tuple(_definitions(SETTINGS)))


def _definitions(shape: Shape) -> Iterator[Definition]:
    for name, field in shape.fields.items():
        inner = field.kind.shape
        yield Definition(
            f"`{name}`",
            field.help,
            () if inner else (values(field), f"default {_default(field)}"),
            tuple(_definitions(inner)) if inner else (),
        )


def _default(field: Field) -> str:
    if field.default is not None:
        return f"`{written(field.default)}`"
    assert isinstance(field, Setting)
    return field.absence


def _told(field: Field) -> str:
    """Return what a comment says of a key whose default stands beside it."""
    if field.kind.shape:
        return field.help
    absent = f"; null is {_default(field)}" if field.default is None else ""
    return f"{field.help} ({values(field)}{absent})"


def _lines(name: str, field: Field) -> Iterator[str]:
    shape = field.kind.shape
    if shape is None:
        yield f"# {name}: {written(field.default)}"
        return
    yield f"# {name}:"
    for part, inner in shape.fields.items():
        yield from _comment(_told(inner), "#   # ")
        yield f"#   {part}: {written(inner.default)}"


def _comment(text: str, prefix: str = "# ") -> list[str]:
    return textwrap.wrap(
        plain(text),
        WIDTH,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_long_words=False,
        break_on_hyphens=False,
    )
