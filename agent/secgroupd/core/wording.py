"""What a rule says, in short words for people."""

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


def matches(rule: Rule) -> str:
    """Return what a rule matches, in short."""
    words = [
        "all" if rule.protocol is None else PROTOCOL_NAMES.get(rule.protocol, str(rule.protocol))
    ]
    if rule.ports:
        words.append(
            ",".join(
                str(r.first) if r.first == r.last else f"{r.first}-{r.last}" for r in rule.ports
            )
        )
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
