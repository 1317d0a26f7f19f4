"""Who reaches whom, as a table for a terminal."""

from collections.abc import Iterator, Sequence

from secgroupd.commands.output import counted
from secgroupd.core.model import ICMP, TCP
from secgroupd.demo.cloud import Cell, Service

SERVICES = (
    Service("web-1", TCP, 443),
    Service("web-1", TCP, 22),
    Service("app-1", TCP, 8080),
    Service("db-1", TCP, 5432),
    Service("db-2", TCP, 5432),
    Service("db-2", ICMP, None),
)
"""The columns."""

_FIRST, _WIDTH = 14, 11


def table(cells: Sequence[Cell], before: Sequence[Cell] = ()) -> Iterator[str]:
    """Yield the lines of the table.

    Args:
        cells: what is to be shown.
        before: the same questions at an earlier time; what differs from it is marked.
    """
    earlier = {(cell.source, cell.service): cell.seen for cell in before}
    yield _line("from      to", [service.instance for service in SERVICES])
    yield _line("", [_what(service) for service in SERVICES])
    yield "  " + "-" * (_FIRST + _WIDTH * len(SERVICES) - 3)
    for source in dict.fromkeys(cell.source for cell in cells):
        row = {cell.service: cell for cell in cells if cell.source == source}
        texts = []
        for service in SERVICES:
            cell = row.get(service)
            changed = cell is not None and earlier.get((source, service), cell.seen) != cell.seen
            texts.append("" if cell is None else _text(cell, changed=changed))
        yield _line(source, texts)
    yield ""
    yield "  yes: connected, with real packets   -: not a single packet came through"
    if before:
        yield "  <<:  has changed"
    right = sum(cell.seen == cell.expected for cell in cells)
    if right == len(cells):
        yield f"  All {len(cells)} are exactly what the rules say."
    else:
        yield f"  WRONG: {counted(len(cells) - right, 'answer')} not as the rules say."


def as_expected(cells: Sequence[Cell]) -> bool:
    """Tell whether every packet did what the rules say."""
    return all(cell.seen == cell.expected for cell in cells)


def _line(first: str, others: Sequence[str]) -> str:
    return f"  {first:{_FIRST}}{''.join(f'{other:{_WIDTH}}' for other in others)}".rstrip()


def _what(service: Service) -> str:
    return "ping" if service.protocol == ICMP else f"tcp {service.dport}"


def _text(cell: Cell, *, changed: bool) -> str:
    text = "yes" if cell.seen else "-"
    if cell.seen != cell.expected:
        return f"{text} WRONG"
    return f"{text} <<" if changed else text
