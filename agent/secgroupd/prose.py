"""Texts that help and pages share, written once with a few marks.

Back quotes stand around what is typed as it is, asterisks around a word that stands for something
(``*FILE*``), and ``[words](page.md)`` leads to another page of the documentation. A name with a
number behind it, ``nft(8)``, is a manual page.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple


class Style(Enum):
    """What a span of a text is."""

    PLAIN = "plain"
    LITERAL = "literal"
    PLACEHOLDER = "placeholder"
    LINK = "link"
    MANUAL = "manual"


class Span(NamedTuple):
    """A piece of a text; ``target`` is a link's page, or a manual page's section."""

    text: str
    style: Style = Style.PLAIN
    target: str = ""


_MARKED = re.compile(
    r"`(?P<literal>[^`]+)`"
    r"|\*(?P<placeholder>[^*\s]+)\*"
    r"|\[(?P<link>[^\]]+)\]\((?P<page>[^)]+)\)"
    r"|(?P<manual>\b[a-z][a-z.-]*)\((?P<section>[1-8])\)"
)


def spans(text: str) -> Iterator[Span]:
    """Yield the pieces of a marked text."""
    end = 0
    for match in _MARKED.finditer(text):
        if match.start() > end:
            yield Span(text[end : match.start()])
        end = match.end()
        style = Style(match.lastgroup if match.lastgroup in {"literal", "placeholder"} else "link")
        if match["manual"]:
            style = Style.MANUAL
        words = match["literal"] or match["placeholder"] or match["link"] or match["manual"]
        yield Span(words, style, match["page"] or match["section"] or "")
    if end < len(text):
        yield Span(text[end:])


def plain(text: str) -> str:
    """Return a marked text as a terminal shows it: several words that belong together are quoted."""
    return "".join(map(_plain, spans(text)))


def _plain(span: Span) -> str:
    if span.style is Style.MANUAL:
        return f"{span.text}({span.target})"
    return f'"{span.text}"' if span.style is Style.LITERAL and " " in span.text else span.text


def sentence(text: str) -> str:
    """Return words as a sentence: with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."
