"""Protocols and port numbers as rules spell them."""

import re
from functools import lru_cache
from itertools import pairwise

from secgroupd.core.model import PROTOCOL_NUMBERS, PortRange
from secgroupd.core.reading import Refusal, close_to, shown
from secgroupd.core.scalars import Plain, whole_number

MAX_PORT_GROUPS = 20
"""Comma groups in one rule's ``multiport`` (the cloud's limit)."""

_GROUP = re.compile(r"(0|[1-9][0-9]{0,5})(?:-(0|[1-9][0-9]{0,5}))?").fullmatch
_LONGEST = MAX_PORT_GROUPS * len("65535-65535,")
_NAMES = tuple(PROTOCOL_NUMBERS)
_EVERYTHING = ("", "all", "any", "-1", "*")


def protocol(value: Plain) -> int:
    """Return an IP protocol number, from a name in any letter case or from 0..255."""
    number = whole_number(value)
    if number is not None and 0 <= number <= 255:
        return number
    word = str(value).lower()
    if isinstance(value, str) and word in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[word]
    if word in _EVERYTHING and not isinstance(value, bool):
        message = f"{shown(value)} is not a protocol: leave protocol out to mean all"
    elif isinstance(value, str) and (match := close_to(word, _NAMES)) is not None:
        message = f"{shown(value)} is not a protocol: did you mean {match}?"
    else:
        message = f"{shown(value)} is not a protocol: write a name such as tcp, or 0 to 255"
    raise Refusal("protocol", message)


def multiport(value: Plain) -> tuple[PortRange, ...]:
    """Return sorted port ranges from text such as ``22-24,25``; a whole number is one port.

    Ranges may overlap and touch; none may stand there twice.
    """
    if isinstance(value, bool):
        raise Refusal("ports", f'{shown(value)} is not a port list: write text such as "22-24,25"')
    text = str(value)
    return _cached(text) if len(text) <= _LONGEST else _multiport(text)


def _multiport(text: str) -> tuple[PortRange, ...]:
    if text in _EVERYTHING:
        message = f"{shown(text)} is not a port list: leave the field out to mean all ports"
        raise Refusal("ports", message)
    groups = text.split(",", MAX_PORT_GROUPS + 1)
    if len(groups) > MAX_PORT_GROUPS:
        message = f"there are more than {MAX_PORT_GROUPS} port groups: split them over two rules"
        raise Refusal("too-many-ports", message)
    ranges = sorted(_port_range(group, text) for group in groups)
    for one, other in pairwise(ranges):
        if one == other:
            spelled = str(one.first) if one.first == one.last else f"{one.first}-{one.last}"
            raise Refusal("port-twice", f"port group {spelled} stands there twice: remove one")
    return tuple(ranges)


_cached = lru_cache(maxsize=1024)(_multiport)


def _port_range(group: str, text: str) -> PortRange:
    match = _GROUP(group)
    if match is None:
        message = f'{shown(group)} in {shown(text)} is not a port group: write as in "22-24,25"'
        raise Refusal("ports", message)
    first = int(match[1])
    last = int(match[2]) if match[2] is not None else first
    for port in (first, last):
        if not 1 <= port <= 65535:
            raise Refusal("port-range", f"port {port} does not exist: write 1 to 65535")
    if first > last:
        raise Refusal("port-range", f"{group} is backwards: write {last}-{first}")
    return PortRange(first, last)
