"""Rules -> classes: which rules matter for a protocol and destination port, or ICMP type and code.

The ordered rules of a port, one direction and family, are cut into boxes (protocols x ports, types
x codes) in each of which the same rules match; those rules, in order, are the box's class. Boxes
are disjoint and together cover everything, so one lookup finds the class of any packet and a miss
can mean deny.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from secgroupd.core.model import ICMP, ICMPV6, UDP, Direction, Family, Rule
from secgroupd.core.verdict import DHCP_PORTS

LAST_PROTOCOL = 255
LAST_PORT = 65535


class LinkService(Enum):
    """DHCP traffic that a class must settle before its rules, told apart by its source port."""

    DHCP_ALLOW = "allow"
    DHCP_DENY = "deny"


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """The rules, by their place in the order of evaluation, that match in one or more boxes.

    ``link_service`` and ``source_port`` say what comes before them: UDP from that source port is
    let through or refused whatever the rules say.
    """

    rules: tuple[int, ...]
    link_service: LinkService | None = None
    source_port: int = 0


@dataclass(frozen=True, slots=True)
class Box:
    """Protocols ``low[0]..high[0]`` with ports ``low[1]..high[1]`` (or ICMP types with codes)."""

    low: tuple[int, int]
    high: tuple[int, int]
    service: ServiceClass


@dataclass(frozen=True, slots=True)
class Services:
    """One port's, direction's and family's rules, cut into classes.

    ``icmp`` is empty unless a rule names an ICMP type; the boxes of the ICMP protocol then carry
    the class of rules that match every type, and ``icmp`` has the exact ones.
    """

    boxes: tuple[Box, ...]
    icmp: tuple[Box, ...] = ()


def icmp_protocol(family: Family) -> int:
    """Return the ICMP protocol number of a family."""
    return ICMP if family is Family.IPV4 else ICMPV6


def _dhcp(direction: Direction, family: Family) -> dict[int, tuple[LinkService, int]]:
    """Return by destination port what to do with which source port."""
    server, client = DHCP_PORTS[family]
    if direction is Direction.INGRESS:
        return {client: (LinkService.DHCP_ALLOW, server)}
    return {
        server: (LinkService.DHCP_ALLOW, client),
        client: (LinkService.DHCP_DENY, server),
    }


def _sweep(rules: Sequence[tuple[int, Rule]]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Cut the port range at every bound of a rule; return (first, last, places of the rules)."""
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for place, rule in rules:
        spans = [(r.first, r.last) for r in rule.ports] or [(0, LAST_PORT)]
        for first, last in _united(spans):
            starts.setdefault(first, []).append(place)
            ends.setdefault(last + 1, []).append(place)
    cuts = sorted({0, LAST_PORT + 1, *starts, *ends})
    active: list[int] = []
    spans_found = []
    for first, following in pairwise(cuts):
        for place in ends.get(first, ()):
            del active[bisect_left(active, place)]
        for place in starts.get(first, ()):
            insort(active, place)
        spans_found.append((first, following - 1, tuple(active)))
    return spans_found


def _united(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans sorted, with overlapping ones made one, so that no rule is counted twice."""
    united: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if united and first <= united[-1][1] + 1:
            united[-1] = (united[-1][0], max(united[-1][1], last))
        else:
            united.append((first, last))
    return united


def _port_boxes(
    protocol: int, rules: Sequence[tuple[int, Rule]], link: dict[int, tuple[LinkService, int]]
) -> list[Box]:
    boxes: list[Box] = []
    for first, last, places in _sweep(rules):
        plain = ServiceClass(places)
        low = first
        for port in sorted(port for port in link if first <= port <= last):
            if low < port:
                boxes.append(Box((protocol, low), (protocol, port - 1), plain))
            boxes.append(Box((protocol, port), (protocol, port), ServiceClass(places, *link[port])))
            low = port + 1
        if low <= last:
            boxes.append(Box((protocol, low), (protocol, last), plain))
    return _joined(boxes)


def _joined(boxes: Sequence[Box]) -> list[Box]:
    """Join boxes that touch and have the same class: in ports, then whole protocols."""
    joined: list[Box] = []
    for box in boxes:
        before = joined[-1] if joined else None
        if before and before.service == box.service:
            same_protocol = before.low[0] == box.low[0] == before.high[0]
            if same_protocol and before.high[1] + 1 == box.low[1]:
                joined[-1] = Box(before.low, box.high, box.service)
                continue
            whole = (before.low[1], before.high[1]) == (box.low[1], box.high[1])
            if whole and before.high[0] + 1 == box.low[0] and box.low[1] == 0:
                joined[-1] = Box(before.low, box.high, box.service)
                continue
        joined.append(box)
    return joined


def _icmp_boxes(rules: Sequence[tuple[int, Rule]]) -> tuple[Box, ...]:
    """Cut types x codes; the rules are those of the ICMP protocol and of all protocols."""
    types = sorted({rule.icmp_type for _, rule in rules if rule.icmp_type is not None})
    boxes: list[Box] = []
    untyped = tuple(place for place, rule in rules if rule.icmp_type is None)
    following = 0
    for icmp_type in types:
        if following < icmp_type:
            boxes.append(Box((following, 0), (icmp_type - 1, 255), ServiceClass(untyped)))
        following = icmp_type + 1
        here = [(p, r) for p, r in rules if r.icmp_type in {None, icmp_type}]
        codes = sorted({rule.icmp_code for _, rule in here if rule.icmp_code is not None})
        uncoded = tuple(place for place, rule in here if rule.icmp_code is None)
        code_following = 0
        for code in codes:
            if code_following < code:
                low, high = (icmp_type, code_following), (icmp_type, code - 1)
                boxes.append(Box(low, high, ServiceClass(uncoded)))
            code_following = code + 1
            exact = tuple(place for place, rule in here if rule.icmp_code in {None, code})
            boxes.append(Box((icmp_type, code), (icmp_type, code), ServiceClass(exact)))
        if code_following <= 255:
            low, high = (icmp_type, code_following), (icmp_type, 255)
            boxes.append(Box(low, high, ServiceClass(uncoded)))
    if following <= 255:
        boxes.append(Box((following, 0), (255, 255), ServiceClass(untyped)))
    return tuple(boxes)


def partition(rules: Sequence[Rule], direction: Direction, family: Family) -> Services:
    """Cut ordered rules of one direction and family into classes.

    Args:
        rules: in order of evaluation; a class names them by their index here.
        direction: the rules' direction, which decides how DHCP is treated.
        family: the rules' family.

    Returns:
        Boxes that are disjoint, sorted, and cover every protocol and port.
    """
    placed = list(enumerate(rules))
    general = [(place, rule) for place, rule in placed if rule.protocol is None]
    link = _dhcp(direction, family)
    icmp = icmp_protocol(family)
    boxes: list[Box] = []
    typed: tuple[Box, ...] = ()
    following = 0
    everything = ServiceClass(tuple(place for place, _ in general))
    mentioned = sorted({UDP} | {rule.protocol for rule in rules if rule.protocol is not None})
    for protocol in mentioned:
        if following < protocol:
            boxes.append(Box((following, 0), (protocol - 1, LAST_PORT), everything))
        following = protocol + 1
        mine = [(p, r) for p, r in placed if r.protocol in {None, protocol}]
        if protocol == icmp and any(rule.icmp_type is not None for _, rule in mine):
            typed = _icmp_boxes(mine)
            untyped = tuple(place for place, rule in mine if rule.icmp_type is None)
            boxes.append(Box((protocol, 0), (protocol, LAST_PORT), ServiceClass(untyped)))
        else:
            boxes.extend(_port_boxes(protocol, mine, link if protocol == UDP else {}))
    if following <= LAST_PROTOCOL:
        boxes.append(Box((following, 0), (LAST_PROTOCOL, LAST_PORT), everything))
    if typed:
        return Services(tuple(_joined_around(boxes, icmp)), typed)
    return Services(tuple(_joined(boxes)))


def _joined_around(boxes: Sequence[Box], icmp: int) -> list[Box]:
    """Join boxes, but leave the ICMP protocol's by itself: its verdict goes to the type map."""
    before = [box for box in boxes if box.low[0] < icmp]
    own = [box for box in boxes if box.low[0] == icmp]
    after = [box for box in boxes if box.low[0] > icmp]
    return [*_joined(before), *own, *_joined(after)]
