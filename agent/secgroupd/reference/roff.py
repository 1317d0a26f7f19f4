"""Pages as manual pages: man(7) macros, tbl(1) tables."""

import textwrap
from collections.abc import Iterator, Sequence

from secgroupd.prose import Style, spans
from secgroupd.reference.model import (
    Block,
    Code,
    Definition,
    Definitions,
    Manual,
    Paragraph,
    Section,
    Synopsis,
    Table,
)

WIDTH = 100
"""Columns of the source; the reader's terminal has its own."""

_ESCAPES = str.maketrans({"\\": r"\e", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})
_FONTS = {Style.LITERAL: "B", Style.MANUAL: "B", Style.PLACEHOLDER: "I", Style.LINK: "I"}


def manual(page: Manual) -> str:
    """Return a manual page's source."""
    name = f"{page.name.upper()} {page.number}".replace("-", r"\-")
    head = [
        # For man(1): the page is to be filtered through tbl.
        r"'\" t",
        r".\" Made by `make reference`: change what it is made from.",
        f'.TH {name} "" secgroupd "{page.title}"',
        ".SH NAME",
        f"{_literal(page.name)} \\- {_inline(page.summary)}",
    ]
    body = (line for section in page.sections for line in _section(section))
    return "\n".join([*head, *body]) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f'.SH "{_inline(section.heading.upper())}"'
    yield from _blocks(section.blocks)
    for part in section.sections:
        yield f'.SS "{_inline(part.heading)}"'
        yield from _blocks(part.blocks)


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    for place, block in enumerate(blocks):
        match block:
            case Paragraph(text):
                if place:
                    yield ".PP"
                yield from _filled(text)
            case Code(text):
                yield from (".PP", ".RS", ".nf")
                yield from (_guarded(_literal(line)) for line in text.splitlines())
                yield from (".fi", ".RE")
            case Synopsis(name, words):
                yield f'.SY "{_literal(name)}"'
                yield from (_guarded(_inline(word)) for word in words)
                yield ".YS"
            case Definitions(items):
                yield from _definitions(items)
            case Table(_, rows):
                yield from _table(rows)


def _definitions(items: Sequence[Definition]) -> Iterator[str]:
    for item in items:
        notes = "; ".join(filter(None, item.notes))
        yield ".TP"
        yield _guarded(_inline(f"{item.term} ({notes})" if notes else item.term))
        yield from _filled(item.text)
        if item.inner:
            yield ".RS"
            yield from _definitions(item.inner)
            yield ".RE"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield ".TS"
    yield f"{'l ' * (len(rows[0]) - 1)}lx."
    for *cells, last in rows:
        yield "\t".join([_guarded(_inline(cell)) for cell in cells] + ["T{"])
        yield from _filled(last)
        yield "T}"
    yield ".TE"


def _filled(text: str) -> list[str]:
    lines = textwrap.wrap(_inline(text), WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_guarded(line) for line in lines]


def _guarded(line: str) -> str:
    """Return a line of text that is no request, whatever it begins with."""
    return rf"\&{line}" if line.startswith((".", "'")) else line


def _inline(text: str) -> str:
    return "".join(
        rf"\f{_FONTS[span.style]}{_literal(span.text)}\fR{_number(span.style, span.target)}"
        if span.style in _FONTS
        else span.text.translate(_ESCAPES)
        for span in spans(text)
    )


def _number(style: Style, section: str) -> str:
    return f"({section})" if style is Style.MANUAL else ""


def _literal(text: str) -> str:
    """Return text that can be copied from a terminal: its hyphens are minus signs."""
    return text.translate(_ESCAPES).replace("-", r"\-")
