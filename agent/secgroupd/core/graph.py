"""Policy -> a picture of who may talk to whom, as text for Graphviz's ``dot``.

An edge goes from who opens connections to who answers. What one group says of another is only
half of it: both ends are asked, with a packet for every kind of traffic that their rules tell apart.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_network
from itertools import pairwise

from secgroupd.core.intervals import Interval, merged
from secgroupd.core.model import (
    ICMPV6,
    PORT_PROTOCOLS,
    Action,
    Address,
    AddressGroupPeer,
    AnyPeer,
    Direction,
    Family,
    GroupPeer,
    Port,
    PrefixPeer,
    Rule,
    SecurityGroup,
    family_of,
)
from secgroupd.core.policy import Policy, Profile
from secgroupd.core.verdict import Packet, decide, default_icmp_type, is_icmp
from secgroupd.core.wording import port_list, protocol_name

Node = GroupPeer | PrefixPeer | AddressGroupPeer
"""Who is at the end of an edge; everybody of a family is the network with all its addresses."""

_ALL_PORTS = (1, 65535)
_EVERYBODY = {
    Family.IPV4: PrefixPeer(ip_network("0.0.0.0/0")),
    Family.IPV6: PrefixPeer(ip_network("::/0")),
}


class Kind(StrEnum):
    """What becomes of the connections of an edge; the value is how the picture says it."""

    ALLOW = "allow"
    DENY = "deny"
    NOT_OUT = "not let out"
    NOT_IN = "not let in"
    APART = "VPCs not peered"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Traffic of one kind: of a protocol (None: of all), with one range of ports or one ICMP type.

    ``but`` is what is not meant.
    """

    protocol: int | None = None
    ports: Interval = _ALL_PORTS
    icmp_type: int | None = None
    icmp_code: int | None = None
    but: tuple["Traffic", ...] = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """What one end may, or may not, open to another: one edge for each kind and pair."""

    source: Node
    target: Node
    kind: Kind
    label: tuple[str, ...]
    """The traffic, a line for each protocol."""


_Found = dict[tuple[Node, Node, Kind], dict[Family, list[Traffic]]]

_LINE = 40
"""Characters of a line in the picture, after which it is broken."""

_STYLES: Mapping[Kind, str] = {
    Kind.ALLOW: "",
    Kind.DENY: 'style=dashed, color="#c00000", fontcolor="#c00000"',
    Kind.NOT_OUT: 'style=dotted, penwidth=1.5, color="#707070", fontcolor="#707070"',
    Kind.NOT_IN: 'style=dotted, penwidth=1.5, color="#707070", fontcolor="#707070"',
    Kind.APART: 'style=dotted, penwidth=1.5, color="#707070", fontcolor="#707070"',
}

_COLOURS = ("#1f4e79", "#2e6b34", "#6a3d9a", "#8a5a00", "#00707a", "#7a2f5b", "#404040")
"""By who answers, so that an edge and its words can be told from those beside it."""

_HEAD = """\
digraph secgroupd {
    graph [rankdir=LR, nodesep=0.3, ranksep=0.8, fontname="Helvetica,Arial,sans-serif", fontsize=10, labelloc=b,
        label="An arrow goes from who opens connections to who answers.\\n\
Dashed red: denied. Dotted grey: allowed at one end only."];
    node [shape=box, fontname="Helvetica,Arial,sans-serif", fontsize=11, margin="0.12,0.06"];
    edge [fontname="Helvetica,Arial,sans-serif", fontsize=9, arrowsize=0.7];
"""


def dot(policy: Policy) -> str:
    """Return the picture as text in Graphviz's language; no id of the document can break out."""
    drawn = edges(policy)
    members = Counter(group for port in policy.ports.values() for group in policy.groups_of(port))
    nodes: dict[Node, str] = {}
    for group in policy.groups.values():
        lines = [group.id, *([group.name] if group.name not in {"", group.id} else [])]
        lines.append(f"{members[group.id]} port{'' if members[group.id] == 1 else 's'}")
        if families := lets_all_out(group):
            both = len(families) == len(Family)
            lines.append("out: everything" + ("" if both else f" ({families[0].value})"))
        label = _quoted(lines)
        nodes[GroupPeer(group.id)] = f'label={label}, style="rounded,filled", fillcolor="#dce9f7"'
    for edge in drawn:
        for end in (edge.source, edge.target):
            nodes.setdefault(end, _outside(end))
    names = {node: f"n{number}" for number, node in enumerate(nodes)}
    colours = {node: _COLOURS[number % len(_COLOURS)] for number, node in enumerate(nodes)}
    text = [f"    {names[node]} [{attributes}];\n" for node, attributes in nodes.items()]
    for edge in drawn:
        colour = colours[edge.target]
        style = _STYLES[edge.kind] or f'color="{colour}", fontcolor="{colour}"'
        words = list(_words(edge))
        # Shown by a browser at the pointer: which ends a long line has.
        hint = _quoted([f"{_called(edge.source)} to {_called(edge.target)}:", *words])
        attributes = f"label={_quoted(words)}, tooltip={hint}, labeltooltip={hint}, {style}"
        text.append(f"    {names[edge.source]} -> {names[edge.target]} [{attributes}];\n")
    return _HEAD + "".join(text) + "}\n"


def edges(policy: Policy) -> tuple[Edge, ...]:
    """Return the edges of the picture, in the order of groups and their rules.

    What a group lets out to everybody is left out: ``lets_all_out`` says it.
    """
    asked = _Asked(policy)
    found: _Found = {}
    for group in policy.groups.values():
        for rule in group.rules:
            if not rule.enabled or _is_all_out(rule):
                continue
            own, peer = GroupPeer(group.id), _node(rule)
            inwards = rule.direction is Direction.INGRESS
            source, target = (peer, own) if inwards else (own, peer)
            for kind, traffic in asked.judged(source, target, rule):
                found.setdefault((source, target, kind), {}).setdefault(rule.family, []).append(
                    traffic
                )
    return tuple(Edge(*key, _label(by_family, key[:2])) for key, by_family in found.items())


def lets_all_out(group: SecurityGroup) -> tuple[Family, ...]:
    """Return the families in which a group has a rule that allows everything to everybody."""
    families = {rule.family for rule in group.rules if rule.enabled and _is_all_out(rule)}
    return tuple(family for family in Family if family in families)


def _is_all_out(rule: Rule) -> bool:
    return (
        rule.direction is Direction.EGRESS
        and rule.action is Action.ALLOW
        and rule.protocol is None
        and _node(rule) in _EVERYBODY.values()
    )


def _node(rule: Rule) -> Node:
    return _EVERYBODY[rule.family] if isinstance(rule.peer, AnyPeer) else rule.peer


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two members of groups, with the addresses that they see of each other."""

    source: Port
    source_address: Address
    target: Port
    target_address: Address


class _Asked:
    """What the members of groups say, asked in pairs: one port of each profile of either group."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        representatives: dict[str, dict[tuple[Profile, Family], Port]] = {}
        for port in policy.ports.values():
            for group_id in policy.groups_of(port):
                of_group = representatives.setdefault(group_id, {})
                for family in {family_of(address) for address in port.private_ips}:
                    of_group.setdefault((policy.profile_of(port), family), port)
        self._representatives = representatives

    def judged(self, source: Node, target: Node, rule: Rule) -> Iterator[tuple[Kind, Traffic]]:
        """Yield what becomes of what a rule is about, in as few pieces as tell the truth."""
        if rule.action is Action.DENY:
            yield from ((Kind.DENY, traffic) for traffic in _traffic(rule))
            return
        members = [
            self._representatives.get(node.group_id) if isinstance(node, GroupPeer) else None
            for node in (source, target)
        ]
        if not all(members):
            # Nobody is there to be asked: an outside peer, or a group without members.
            yield from ((Kind.ALLOW, traffic) for traffic in _traffic(rule))
            return
        sources, targets = (
            [port for (_, family), port in (each or {}).items() if family is rule.family]
            for each in members
        )
        pairs = [
            _Pair(one, _address(one, rule.family), other, _address(other, rule.family))
            for one in sources
            for other in targets
            if other.vpc_id in self._policy.visible_vpcs(one.vpc_id)
        ]
        if not pairs:
            # Without an address of the rule's family there is nobody whom it concerns.
            if sources and targets:
                yield from ((Kind.APART, traffic) for traffic in _traffic(rule))
            return
        others = {
            (ordered.group_id, ordered.rule.id): ordered.rule
            for ports, direction in ((sources, Direction.EGRESS), (targets, Direction.INGRESS))
            for port in ports
            for ordered in self._policy.rules(self._policy.groups_of(port), direction, rule.family)
        }
        told_apart = tuple(others.values())

        def ask(traffic: Traffic) -> Kind:
            return self._ask(pairs, traffic, told_apart)

        for traffic in _traffic(rule):
            for kind, pieces in _split(traffic, told_apart, ask).items():
                yield from ((kind, piece) for piece in pieces)

    def _ask(self, pairs: Iterable[_Pair], traffic: Traffic, told_apart: Sequence[Rule]) -> Kind:
        kind = Kind.NOT_OUT
        for pair in pairs:
            leaving = _packet(traffic, pair.target_address, told_apart)
            if decide(self._policy, pair.source, Direction.EGRESS, leaving).allowed:
                arriving = replace(leaving, peer=pair.source_address)
                if decide(self._policy, pair.target, Direction.INGRESS, arriving).allowed:
                    return Kind.ALLOW
                kind = Kind.NOT_IN
        return kind


def _address(port: Port, family: Family) -> Address:
    return next(address for address in port.private_ips if family_of(address) is family)


def _traffic(rule: Rule) -> Iterator[Traffic]:
    for ports in [(r.first, r.last) for r in rule.ports] or [_ALL_PORTS]:
        yield Traffic(rule.protocol, ports, rule.icmp_type, rule.icmp_code)


def _split(
    traffic: Traffic, told_apart: Sequence[Rule], ask: Callable[[Traffic], Kind]
) -> dict[Kind, list[Traffic]]:
    """Return traffic by what becomes of it; all of it in one piece where that is the same."""
    parts = _parts(traffic, told_apart)
    if parts == [traffic]:
        return {ask(traffic): [traffic]}
    found: dict[Kind, list[Traffic]] = {}
    for part in parts:
        if part != traffic:
            for kind, pieces in _split(part, told_apart, ask).items():
                found.setdefault(kind, []).extend(pieces)
    if traffic in parts:
        # The rest, which nobody's rules name, is told by what it is not.
        rest = ask(traffic)
        found.pop(rest, None)
        but = tuple(piece for pieces in found.values() for piece in pieces)
        found[rest] = [replace(traffic, but=but)]
    return found if len(found) > 1 else {kind: [traffic] for kind in found}


def _parts(traffic: Traffic, told_apart: Sequence[Rule]) -> list[Traffic]:
    """Return the parts of traffic that rules tell apart; the traffic itself stands for the rest."""
    if traffic.protocol is None:
        protocols = {rule.protocol for rule in told_apart if rule.protocol is not None}
        return [*(Traffic(protocol) for protocol in sorted(protocols)), traffic]
    rules = [rule for rule in told_apart if rule.protocol == traffic.protocol]
    if traffic.protocol in PORT_PROTOCOLS:
        first, last = traffic.ports
        borders = {border for rule in rules for r in rule.ports for border in (r.first, r.last + 1)}
        inner = sorted(border for border in borders if first < border <= last)
        cut = pairwise([first, *inner, last + 1])
        return [replace(traffic, ports=(start, end - 1)) for start, end in cut]
    if is_icmp(traffic.protocol) and traffic.icmp_type is None:
        types = {rule.icmp_type for rule in rules if rule.icmp_type is not None}
        return [*(replace(traffic, icmp_type=each) for each in sorted(types)), traffic]
    return [traffic]


def _packet(traffic: Traffic, peer: Address, told_apart: Sequence[Rule]) -> Packet:
    """Return a packet of this traffic; of the rest, one that no rule names if there is one."""
    protocol, icmp_type = traffic.protocol, traffic.icmp_type
    if protocol is None:
        named = {rule.protocol for rule in told_apart}
        protocol = next((number for number in range(255, 0, -1) if number not in named), 255)
    if icmp_type is None:
        named = {rule.icmp_type for rule in told_apart if rule.protocol == protocol}
        # An echo request or reply, or the like: none that the network itself needs.
        usual = default_icmp_type(protocol)
        errors = range(1, 5) if protocol == ICMPV6 else (0, 3, 11, 12, 13, 14)
        icmp_type = next((each for each in (usual, *errors) if each not in named), usual)
    return Packet(
        peer=peer,
        protocol=protocol,
        dport=traffic.ports[0],
        icmp_type=icmp_type,
        icmp_code=traffic.icmp_code or 0,
    )


def _label(by_family: Mapping[Family, Sequence[Traffic]], ends: Iterable[Node]) -> tuple[str, ...]:
    old, new = (tuple(_told(by_family.get(family, ()))) for family in Family)
    if all(isinstance(end, GroupPeer) for end in ends):
        # An outside peer is of one family, which need not be said again.
        new = tuple(line if line in old else f"{line} (IPv6)" for line in new)
    return tuple(dict.fromkeys(old + new))


def _told(traffic: Sequence[Traffic]) -> Iterator[str]:
    """Yield traffic in words, a protocol at a time."""
    everything = [each for each in traffic if each.protocol is None]
    ports: dict[int, list[Interval]] = {}
    lines = []
    for each in everything or traffic:
        if each.protocol in PORT_PROTOCOLS:
            ports.setdefault(each.protocol or 0, []).append(each.ports)
            continue
        line = protocol_name(each.protocol)
        if each.icmp_type is not None:
            line += f" type {each.icmp_type}"
        if each.icmp_code is not None:
            line += f" code {each.icmp_code}"
        if each.but:
            line += f" but {', '.join(_told(each.but))}"
        lines.append(line)
    for protocol, ranges in ports.items():
        united = merged(ranges)
        name = protocol_name(protocol)
        lines.append(name if united == [_ALL_PORTS] else f"{name} {port_list(united)}")
    yield from sorted(set(lines))


def _words(edge: Edge) -> Iterable[str]:
    match edge.kind:
        case Kind.ALLOW:
            return edge.label
        case Kind.DENY:
            return [f"deny {line}" for line in edge.label]
        case _:
            return [*edge.label, f"({edge.kind.value})"]


def _called(node: Node) -> str:
    match node:
        case GroupPeer(group_id) | AddressGroupPeer(group_id):
            return group_id
        case PrefixPeer(network):
            return str(network) if network.prefixlen else f"anywhere {family_of(network).value}"


def _outside(node: Node) -> str:
    lines = [_called(node)]
    if isinstance(node, GroupPeer):
        return f'label={_quoted([*lines, "not in the document"])}, style="rounded,dashed"'
    if isinstance(node, AddressGroupPeer):
        lines.append("address group")
    return f'label={_quoted(lines)}, shape=ellipse, style=filled, fillcolor="#f3f0e6"'


def _quoted(lines: Iterable[str]) -> str:
    """Return lines as a quoted string, each broken where it is too long for a picture."""
    broken = (line[at : at + _LINE] for line in lines for at in range(0, len(line), _LINE))
    return '"' + "\\n".join(_escaped(line) for line in broken) + '"'


def _escaped(text: str) -> str:
    """Return text that ``dot`` shows as it is: no escape, entity or control character acts."""
    visible = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return visible.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
