"""What rules match, as boxes, and whether other rules together match all of it.

A box has three sides: IP protocols, what the protocol's header tells (destination ports, or ICMP
type and code), and peer addresses. Members of a security group come and go and are not looked at:
a group as a peer is covered by itself and by all addresses, and by nothing else.

Whether a rule is covered is asked of one corner of what is left of it, again and again: the rules
that match the corner are found by look-up, one of them is cut away. The work follows the number of
rules that do cover something, not the number of rules.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from secgroupd.core.intervals import Interval, merged
from secgroupd.core.model import (
    ICMP,
    ICMPV6,
    PORT_PROTOCOLS,
    Action,
    AddressGroup,
    AddressGroupPeer,
    AnyPeer,
    Direction,
    Family,
    GroupPeer,
    Peer,
    PrefixPeer,
    Rule,
    SecurityGroup,
)
from secgroupd.core.policy import preset_rules

Box = tuple[Interval, Interval, Interval]
"""Protocols, details and addresses; details are ports, or 256 * ICMP type + code."""

Point = tuple[int, int, int]
"""A protocol, a detail and an address."""

Level = tuple[int, bool]
"""Priority, and deny before allow. The order of rules that are equal in it means nothing."""

ALL_PROTOCOLS: Interval = (0, 255)
ALL_DETAILS: Interval = (0, 65535)

_Who = tuple[int, int] | GroupPeer | AddressGroupPeer
"""A peer by which rules are found: a network's prefix length and prefix, or a group."""

_EVERYBODY = (0, 0)
_MOST_BOXES = 32
"""Boxes of one rule. Address groups with more entries are looked at as a whole, like groups."""
_MOST_CUTS = 64
"""After so many cuts a rule counts as not covered: nobody could follow why it is."""
_COMPARED = 128
"""Rules with one peer and protocol that are looked through, so that time stays linear in rules."""


@dataclass(slots=True, eq=False)
class Match:
    """What an enabled rule matches, and where in its group's order of evaluation it stands."""

    group_id: str
    rule: Rule
    at: int
    own: bool
    """Whether the rule is written in the document; a preset's are not."""
    who: _Who
    details: Sequence[Interval]
    addresses: Sequence[Interval]
    """Empty for a group's members: whoever they are."""
    dropped: bool = False
    """Whether the group decides all the same without the rule."""

    @property
    def protocols(self) -> Interval:
        """The protocols that are matched: one or all."""
        protocol = self.rule.protocol
        return ALL_PROTOCOLS if protocol is None else (protocol, protocol)

    @property
    def level(self) -> Level:
        """What orders rules."""
        return self.rule.priority, self.rule.action is not Action.DENY

    def equals(self, other: "Match") -> bool:
        """Return whether another rule matches exactly the same."""
        return (self.rule.protocol, self.details, self.who, self.addresses) == (
            other.rule.protocol,
            other.details,
            other.who,
            other.addresses,
        )

    def covers(self, other: "Match") -> bool:
        """Return whether all that another rule matches is matched by this one, surely."""
        return (
            self.rule.protocol in {None, other.rule.protocol}
            and _include(self.details, other.details)
            and (
                self.who in {_EVERYBODY, other.who}
                or (bool(other.addresses) and _include(self.addresses, other.addresses))
            )
        )

    def may_overlap(self, other: "Match") -> bool:
        """Return whether a packet can be matched by both; of a group's members anybody knows."""
        protocols = {self.rule.protocol, other.rule.protocol}
        return (
            (None in protocols or len(protocols) == 1)
            and _overlap(self.details, other.details)
            and (
                not self.addresses
                or not other.addresses
                or _overlap(self.addresses, other.addresses)
            )
        )

    def has_detail(self, detail: int) -> bool:
        """Return whether a port, or an ICMP type and code, is among those that are matched."""
        return _find(self.details, detail) is not None

    def boxes(self) -> list[Box]:
        """Return what is matched; peers that are looked at as a whole have address 0."""
        addresses = [(0, 0)] if self.whole else self.addresses
        return [(self.protocols, detail, each) for detail in self.details for each in addresses]

    @property
    def whole(self) -> bool:
        """Whether the peer is looked at as a whole, because of what it is or how large it is."""
        return not self.addresses or len(self.addresses) * len(self.details) > _MOST_BOXES


@dataclass(slots=True)
class Part:
    """The enabled rules of a group in one direction and family, in order, found by a point."""

    bits: int
    matches: list[Match] = field(default_factory=list)
    actions: set[Action] = field(default_factory=set)
    _lengths: list[int] = field(default_factory=list)
    _address_groups: dict[AddressGroupPeer, Sequence[Interval]] = field(default_factory=dict)
    _single: dict[tuple[int | None, _Who, int], list[Match]] = field(default_factory=dict)
    _wide: dict[tuple[int | None, _Who], list[Match]] = field(default_factory=dict)

    def add(self, match: Match) -> None:
        """Add the next rule."""
        self.matches.append(match)
        self.actions.add(match.rule.action)
        who, protocol = match.who, match.rule.protocol
        if isinstance(who, tuple):
            if who[0] not in self._lengths:
                self._lengths = sorted((*self._lengths, who[0]))
        elif isinstance(who, AddressGroupPeer):
            self._address_groups[who] = match.addresses
        for first, last in match.details:
            if first == last:
                self._single.setdefault((protocol, who, first), []).append(match)
                continue
            wide = self._wide.setdefault((protocol, who), [])
            if not wide or wide[-1] is not match:
                wide.append(match)

    def at(self, point: Point, wanted: Match) -> Iterator[Match]:
        """Yield the rules that match a point of what a rule matches, those for many peers first."""
        protocol, detail, address = point
        for who in self._peers(address, wanted):
            for number in (None, protocol):
                yield from islice(self._single.get((number, who, detail), ()), _COMPARED)
                for match in islice(self._wide.get((number, who), ()), _COMPARED):
                    if match.has_detail(detail):
                        yield match

    def _peers(self, address: int, wanted: Match) -> Iterator[_Who]:
        if wanted.whole:
            yield _EVERYBODY
            if wanted.who != _EVERYBODY:
                yield wanted.who
            return
        bits = self.bits
        for length in self._lengths:
            yield length, address >> (bits - length)
        for who, addresses in self._address_groups.items():
            if _find(addresses, address) is not None:
                yield who


def covering(
    wanted: Match, parts: Iterable[Part], acceptable: Callable[[Match], bool]
) -> list[Match]:
    """Return acceptable rules that together match all that a rule matches; none if there are none.

    One rule is returned where one suffices for what is asked first. That none are returned does
    not prove that there are none.
    """
    left, used = wanted.boxes(), list[Match]()
    parts = tuple(parts)
    for _ in range(_MOST_CUTS):
        if not left:
            return used
        corner = left[-1][0][0], left[-1][1][0], left[-1][2][0]
        found = [each for part in parts for each in part.at(corner, wanted) if acceptable(each)]
        if not found:
            return []
        if not used:
            alone = next((each for each in found if each.covers(wanted)), None)
            if alone is not None:
                return [alone]
        used.append(found[0])
        left = cut(left, _box_at(found[0], corner, whole=wanted.whole))
    return []


def cut(boxes: Iterable[Box], away: Box) -> list[Box]:
    """Return what is left of disjoint boxes without another box, as disjoint boxes."""
    left: list[Box] = []
    for box in boxes:
        rest = list(box)
        if any(a[0] > b[1] or b[0] > a[1] for a, b in zip(box, away, strict=True)):
            left.append(box)
            continue
        for side, (low, high) in enumerate(away):
            first, last = rest[side]
            for outside in ((first, low - 1), (high + 1, last)):
                if outside[0] <= outside[1]:
                    piece = [*rest[:side], outside, *rest[side + 1 :]]
                    left.append((piece[0], piece[1], piece[2]))
            rest[side] = (max(first, low), min(last, high))
    return left


Parts = Mapping[tuple[Direction, Family], Part]
"""The rules of a group."""


def parts_of(group: SecurityGroup, address_groups: Mapping[str, AddressGroup]) -> Parts:
    """Return a group's rules, those of its preset among them.

    Rules that match nothing, because they are disabled or their peer is empty, are left out.
    """
    parts: dict[tuple[Direction, Family], Part] = {}
    rules = [(rule, False) for rule in preset_rules(group)]
    rules += ((rule, True) for rule in group.rules)
    for rule, own in sorted(rules, key=_order):
        key = rule.direction, rule.family
        if not rule.enabled or not _is_plain(rule):
            continue
        part = parts.get(key) or Part(rule.family.bits)
        who, addresses = _peer(rule.peer, rule.family, address_groups)
        if not addresses and not isinstance(who, GroupPeer):
            continue
        parts[key] = part
        part.add(Match(group.id, rule, len(part.matches), own, who, _details(rule), addresses))
    return parts


def _order(each: tuple[Rule, bool]) -> tuple[int, bool, str]:
    rule, _ = each
    return rule.priority, rule.action is not Action.DENY, rule.id


def _is_plain(rule: Rule) -> bool:
    """Whether the rule's details are those of its protocol, as documents have it."""
    if rule.ports and rule.protocol not in PORT_PROTOCOLS:
        return False
    if rule.icmp_type is None:
        return rule.icmp_code is None
    return rule.protocol in {ICMP, ICMPV6}


def _details(rule: Rule) -> Sequence[Interval]:
    if len(rule.ports) == 1:
        return [(rule.ports[0].first, rule.ports[0].last)]
    if rule.ports:
        return merged((each.first, each.last) for each in rule.ports)
    if rule.icmp_type is None:
        return [ALL_DETAILS]
    first = rule.icmp_type << 8
    return [(first, first | 255)] if rule.icmp_code is None else [(first | rule.icmp_code,) * 2]


def _peer(
    peer: Peer, family: Family, address_groups: Mapping[str, AddressGroup]
) -> tuple[_Who, Sequence[Interval]]:
    everything = (0, (1 << family.bits) - 1)
    match peer:
        case AnyPeer():
            return _EVERYBODY, [everything]
        case PrefixPeer(network):
            length = network.prefixlen
            first, behind = int(network.network_address), family.bits - length
            return (length, first >> behind), [(first, first | (1 << behind) - 1)]
        case GroupPeer():
            return peer, []
        case AddressGroupPeer(group_id):
            group = address_groups.get(group_id)
            entries = () if group is None or group.family is not family else group.entries
            addresses = merged((int(each.first), int(each.last)) for each in entries)
            return (_EVERYBODY if addresses == [everything] else peer), addresses


def _box_at(match: Match, point: Point, *, whole: bool) -> Box:
    """Return the box of what a rule matches that a point is in."""
    _, detail, address = point
    addresses = (0, 0) if whole else _find(match.addresses, address)
    details = _find(match.details, detail)
    if addresses is None or details is None:
        raise AssertionError(point)
    return match.protocols, details, addresses


def _find(intervals: Sequence[Interval], number: int) -> Interval | None:
    """Return the one of sorted, disjoint intervals that a number is in."""
    if len(intervals) == 1:
        first, last = intervals[0]
        return intervals[0] if first <= number <= last else None
    at = bisect_right(intervals, number, key=lambda each: each[0]) - 1
    return intervals[at] if at >= 0 and number <= intervals[at][1] else None


def _include(outer: Sequence[Interval], inner: Iterable[Interval]) -> bool:
    return all(
        (found := _find(outer, first)) is not None and last <= found[1] for first, last in inner
    )


def _overlap(one: Sequence[Interval], other: Sequence[Interval]) -> bool:
    few, many = sorted((one, other), key=len)
    for first, last in few:
        at = bisect_right(many, last, key=lambda each: each[0]) - 1
        if at >= 0 and many[at][1] >= first:
            return True
    return False
