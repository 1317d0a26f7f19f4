"""What is valid but doubtful in a state: rules that never decide, references to nothing, limits."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

from secgroupd.core.model import (
    Action,
    AddressGroupPeer,
    AnyPeer,
    Family,
    GroupPeer,
    Peer,
    PortRange,
    PrefixPeer,
    Rule,
    SecurityGroup,
    State,
)
from secgroupd.core.policy import preset_rules
from secgroupd.core.reading import Place, shown
from secgroupd.errors import Problem

MAX_GROUPS = 5
"""Security groups of one port (the cloud's limit)."""

MAX_INSTANCES = 6000
"""Instances in one security group (the cloud's limit)."""

MAX_COMPOSITE = 120
"""Composite rules in one security group, direction and IP version (the cloud's limit)."""

MAX_ENTRIES = 20
"""Entries of one address group (the cloud's limit)."""

_COMPARED = 128
"""Earlier rules that a rule is compared with at most, so that time stays linear in rules."""

_Places = Mapping[str, Place]


def warnings(state: State) -> tuple[Problem, ...]:
    """Return everything doubtful in a state, in order of place; columns are 1."""
    places = {key: _parsed(place) for key, place in state.places.items()}
    return tuple(sorted((*doubts(state, places), *excesses(state, places))))


def doubts(state: State, places: _Places) -> Iterator[Problem]:
    """Yield references to nothing and rules that can never decide."""
    groups = {group.id for group in state.security_groups}
    address_groups = {group.id for group in state.address_groups}
    for group in state.security_groups:
        for rule in group.rules:
            dangling = _dangling(rule.peer, groups, address_groups)
            if dangling is not None:
                kind, object_id = dangling
                what = kind.replace("-", " ")
                message = (
                    f"rule {shown(rule.id)} matches nothing, because there is no {what} "
                    f"{shown(object_id)}: define it, or remove the rule"
                )
                yield _warning(places, f"rule:{group.id}/{rule.id}", f"dangling-{kind}", message)
        yield from _shadowed(group, places)


def excesses(state: State, places: _Places) -> Iterator[Problem]:
    """Yield what is over one of the cloud's limits, as warnings."""
    members: dict[str, int] = {}
    for instance in state.instances:
        for group_id in {group for port in instance.ports for group in port.security_groups}:
            members[group_id] = members.get(group_id, 0) + 1
        for port in instance.ports:
            if (count := len(port.security_groups)) > MAX_GROUPS:
                what = f"port {shown(port.id)} is in {count} groups"
                yield _excess(places, f"port:{port.id}", what, MAX_GROUPS)
    for address_group in state.address_groups:
        if (count := len(address_group.entries)) > MAX_ENTRIES:
            what = f"address group {shown(address_group.id)} has {count} entries"
            yield _excess(places, f"address_group:{address_group.id}", what, MAX_ENTRIES)
    for group in state.security_groups:
        key = f"security_group:{group.id}"
        if (count := members.get(group.id, 0)) > MAX_INSTANCES:
            what = f"group {shown(group.id)} has {count} instances"
            yield _excess(places, key, what, MAX_INSTANCES)
        yield from _too_many_composite(group, places)


def _too_many_composite(group: SecurityGroup, places: _Places) -> Iterator[Problem]:
    composite = [rule for rule in (*preset_rules(group), *group.rules) if _is_composite(rule)]
    for (direction, family), count in Counter((r.direction, r.family) for r in composite).items():
        if count > MAX_COMPOSITE:
            kind = (
                f"{direction} {family.value} rules with a group, an address group or several ports"
            )
            what = f"group {shown(group.id)} has {count} {kind}"
            yield _excess(places, f"security_group:{group.id}", what, MAX_COMPOSITE)


def _is_composite(rule: Rule) -> bool:
    if isinstance(rule.peer, GroupPeer | AddressGroupPeer):
        return True
    return len(_merged(rule.ports)) > 1


def _dangling(peer: Peer, groups: set[str], address_groups: set[str]) -> tuple[str, str] | None:
    match peer:
        case GroupPeer(group_id) if group_id not in groups:
            return "security-group", group_id
        case AddressGroupPeer(group_id) if group_id not in address_groups:
            return "address-group", group_id
        case _:
            return None


def _shadowed(group: SecurityGroup, places: _Places) -> Iterator[Problem]:
    """Yield the rules whose every packet an earlier rule of the same group decides.

    A rule is compared with single earlier rules only, so that some shadowed rules are not seen.
    """
    earlier: dict[object, list[Rule]] = {}
    lengths: dict[Family, set[int]] = {family: set() for family in Family}
    for rule in sorted((r for r in group.rules if r.enabled), key=_order):
        candidates = islice(_candidates(rule, earlier, lengths), _COMPARED)
        by = next((each for each in candidates if _decides_before(each, rule)), None)
        if by is not None:
            message = (
                f"rule {shown(rule.id)} never decides, because rule {shown(by.id)} matches all "
                "of it before: remove one of the two, or change their priorities"
            )
            yield _warning(places, f"rule:{group.id}/{rule.id}", "shadowed-rule", message)
            continue
        peer = _everything_is_any(rule.peer)
        if isinstance(peer, PrefixPeer):
            lengths[rule.family].add(peer.network.prefixlen)
        earlier.setdefault((rule.direction, rule.family, rule.protocol, peer), []).append(rule)


def _order(rule: Rule) -> tuple[int, bool, str]:
    return rule.priority, rule.action is not Action.DENY, rule.id


def _everything_is_any(peer: Peer) -> Peer:
    if isinstance(peer, PrefixPeer) and peer.network.prefixlen == 0:
        return AnyPeer()
    return peer


def _candidates(
    rule: Rule, earlier: Mapping[object, list[Rule]], lengths: Mapping[Family, set[int]]
) -> Iterator[Rule]:
    """Yield earlier rules whose peer and protocol cover those of a rule."""
    peer = _everything_is_any(rule.peer)
    peers: list[Peer] = [AnyPeer()]
    if isinstance(peer, PrefixPeer):
        network = peer.network
        peers += (
            PrefixPeer(network.supernet(new_prefix=length))
            for length in lengths[rule.family]
            if length <= network.prefixlen
        )
    elif peer != AnyPeer():
        peers.append(peer)
    protocols = (None,) if rule.protocol is None else (None, rule.protocol)
    for covering in peers:
        for protocol in protocols:
            yield from earlier.get((rule.direction, rule.family, protocol, covering), ())


def _decides_before(one: Rule, other: Rule) -> bool:
    """Whether a candidate matches all of another rule, and is evaluated before it or is equal."""
    covers = (
        (not one.ports or _ports_cover(one.ports, other.ports))
        and one.icmp_type in {None, other.icmp_type}
        and one.icmp_code in {None, other.icmp_code}
    )
    if not covers or (one.priority, one.action) != (other.priority, other.action):
        return covers
    # At the same priority and action the order means nothing: only a true double is superfluous.
    return replace(one, id="", description="") == replace(other, id="", description="")


def _ports_cover(outer: tuple[PortRange, ...], inner: tuple[PortRange, ...]) -> bool:
    blocks = _merged(outer)
    return bool(inner) and all(
        any(block.first <= each.first and each.last <= block.last for block in blocks)
        for each in inner
    )


def _merged(ranges: tuple[PortRange, ...]) -> list[PortRange]:
    """Return sorted ranges with those that overlap or touch made one."""
    blocks: list[PortRange] = []
    for each in ranges:
        if blocks and each.first <= blocks[-1].last + 1:
            blocks[-1] = PortRange(blocks[-1].first, max(blocks[-1].last, each.last))
        else:
            blocks.append(each)
    return blocks


def _warning(places: _Places, key: str, code: str, message: str) -> Problem:
    place = places.get(key, _NOWHERE)
    return Problem(place.file, place.line, place.column, code, message, "warning")


def _excess(places: _Places, key: str, what: str, limit: int) -> Problem:
    return _warning(places, key, "over-limit", f"{what}: keep to at most {limit}")


def _parsed(place: str) -> Place:
    file, _, line = place.rpartition(":")
    return Place(file, int(line), 1)


_NOWHERE = Place("-", 1, 1)
