"""What a page consists of, whatever it is written in. Texts are marked (``secgroupd.prose``)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Lines that stand as they are."""

    text: str


@dataclass(frozen=True, slots=True)
class Synopsis:
    """How something is called: its name and what follows it, each a marked text."""

    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """A term, short notes on it, and what it means.

    ``inner`` has the definitions of its parts.
    """

    term: str
    text: str
    notes: tuple[str, ...] = ()
    inner: tuple["Definition", ...] = ()


@dataclass(frozen=True, slots=True)
class Definitions:
    """A list of terms.

    ``heads`` are those of a table's columns (term, notes, meaning) where a page can have a table.
    """

    items: tuple[Definition, ...]
    heads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of marked texts, of which the last column is as wide as there is room."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block = Paragraph | Code | Synopsis | Definitions | Table


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page, and its own parts."""

    heading: str
    blocks: tuple[Block, ...] = ()
    sections: tuple["Section", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manual:
    """A manual page: its name, the section and the title of the manual, and what it is about."""

    name: str
    number: int
    title: str
    summary: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of ``docs/``."""

    title: str
    blocks: tuple[Block, ...]
    sections: tuple[Section, ...]


def see_also(*pages: str) -> Section:
    """Return the section that every manual page ends with."""
    return Section("See also", (Paragraph(", ".join(pages)),))
