"""Pages as Markdown, as GitHub reads it."""

from collections.abc import Iterator, Sequence

from secgroupd.prose import Span, Style, plain, spans
from secgroupd.reference.model import (
    Block,
    Code,
    Definition,
    Definitions,
    Page,
    Paragraph,
    Section,
    Synopsis,
    Table,
)

PAGES = {
    "secgroupctl": "commands.md",
    "secgroupd.yaml": "settings.md",
    "secgroupd-state": "state-document.md",
}
"""The pages of docs/ that say the same as a manual page."""

_ESCAPES = str.maketrans({each: f"\\{each}" for each in "\\*_<[|"})


def markdown(page: Page) -> str:
    """Return a page's source."""
    made = "This page is made by `make reference`: change what it is made from."
    lines = [f"# {page.title}", "", f"<!-- {made} -->", *_blocks(page.blocks)]
    for section in page.sections:
        lines += _section(section, 2)
    return "\n".join(lines) + "\n"


def _section(section: Section, depth: int) -> Iterator[str]:
    yield ""
    yield f"{'#' * depth} {inline(section.heading)}"
    yield from _blocks(section.blocks)
    for part in section.sections:
        yield from _section(part, depth + 1)


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        yield ""
        match block:
            case Paragraph(text):
                yield inline(text)
            case Code(text):
                yield from ("```", *text.splitlines(), "```")
            case Synopsis(name, words):
                yield from ("```", " ".join([name, *map(plain, words)]), "```")
            case Definitions(items, ()):
                yield from _list(items)
            case Definitions(items, heads):
                yield from table(heads, [(each.term, *each.notes, each.text) for each in items])
            case Table(heads, rows):
                yield from table(heads, rows)


def _list(items: Sequence[Definition], indent: str = "") -> Iterator[str]:
    for item in items:
        notes = "; ".join(filter(None, item.notes))
        term = f"{item.term} ({notes})" if notes else item.term
        yield f"{indent}- {inline(term)}: {inline(item.text)}"
        yield from _list(item.inner, indent + "  ")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table of marked texts."""
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for row in rows:
        # A stroke ends a cell even in what is quoted.
        cells = (inline(cell).replace(r"\|", "|").replace("|", r"\|") for cell in row)
        yield f"| {' | '.join(cells)} |"


def inline(text: str) -> str:
    """Return a marked text."""
    return "".join(map(_span, spans(text)))


def _span(span: Span) -> str:
    match span.style:
        case Style.LITERAL:
            return f"`{span.text}`"
        case Style.PLACEHOLDER:
            return f"*{span.text.translate(_ESCAPES)}*"
        case Style.LINK:
            return f"[{span.text}]({span.target})"
        case Style.MANUAL:
            name = f"{span.text}({span.target})"
            return f"[{name}]({PAGES[span.text]})" if span.text in PAGES else name
        case Style.PLAIN:
            return span.text.translate(_ESCAPES)
