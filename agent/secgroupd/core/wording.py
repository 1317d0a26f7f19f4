"""What a rule says, in short words for people."""

from collections.abc import Iterable

from secgroupd.core.intervals import Interval
from secgroupd.core.model import (
    PROTOCOL_NUMBERS,
    AddressGroupPeer,
    AnyPeer,
    Direction,
    GroupPeer,
    Peer,
    PrefixPeer,
    Rule,
)

PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}
"""Names of the protocols that have one, by number."""


def end(address: object, port: int | None) -> str:
    """Return one end of a flow: an address, and its port where it has one."""
    if port is None:
        return str(address)
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def protocol_name(protocol: int | None) -> str:
    """Return the short name of a protocol, or its number; None stands for all."""
    return "all" if protocol is None else PROTOCOL_NAMES.get(protocol, str(protocol))


def port_list(ranges: Iterable[Interval]) -> str:
    """Return port ranges as rules spell them: ``22-24,80``."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def matches(rule: Rule) -> str:
    """Return what a rule matches, in short."""
    words = [protocol_name(rule.protocol)]
    if rule.ports:
        words.append(port_list((r.first, r.last) for r in rule.ports))
    if rule.icmp_type is not None:
        words.append(f"type {rule.icmp_type}")
    if rule.icmp_code is not None:
        words.append(f"code {rule.icmp_code}")
    towards = "from" if rule.direction is Direction.INGRESS else "to"
    return f"{' '.join(words)} {towards} {_peer(rule.peer)}"


def _peer(peer: Peer) -> str:
    match peer:
        case AnyPeer():
            return "anywhere"
        case PrefixPeer(network):
            return "anywhere" if network.prefixlen == 0 else str(network)
        case GroupPeer(group_id):
            return f"group {group_id}"
        case AddressGroupPeer(group_id):
            return f"addresses {group_id}"
