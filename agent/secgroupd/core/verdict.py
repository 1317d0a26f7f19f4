"""The reference evaluator: which rule decides a packet at a port, said as plainly as possible.

It is the oracle that the compiled ruleset and the kernel are held against, and what ``explain``,
``test`` and the connection flush use. It judges the first packet of a connection; what follows a
connection's first packet is the data path's business.
"""

from dataclasses import dataclass
from enum import StrEnum

from secgroupd.core.model import (
    ICMP,
    ICMPV6,
    UDP,
    Action,
    Address,
    Direction,
    Family,
    GroupPeer,
    Port,
    Rule,
    family_of,
)
from secgroupd.core.policy import OrderedRule, Policy
from secgroupd.core.sourcecheck import may_send

ICMP_ECHO_REQUEST = 8
ICMPV6_ECHO_REQUEST = 128

ND_TYPES = frozenset(range(133, 138))
"""ICMPv6 neighbour discovery (RFC 4861): solicitations, advertisements, redirect."""
MLD_TYPES = frozenset({130, 131, 132, 143})
"""Multicast listener discovery (RFC 2710, RFC 3810)."""
ROUTER_TYPES = frozenset({134, 137})
"""Router advertisement and redirect: only routers may send them."""

ICMP_ROUTER_TYPES = frozenset({5, 9})
"""The same of ICMP: redirect (RFC 792) and router advertisement (RFC 1256)."""

DHCP_PORTS = {Family.IPV4: (67, 68), Family.IPV6: (547, 546)}
"""(server, client) UDP ports of DHCP and DHCPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a connection as a port meets it.

    ``peer`` is the address at the other end. ``dport`` counts only for protocols with ports;
    ``sport`` matters to DHCP alone. ``source`` is asked about by an originator's source check; None
    stands for an address that the port may send from. ``through`` is the id of the load balancer
    that forwards it with its client's address, if one does.
    """

    peer: Address
    protocol: int
    dport: int = 0
    sport: int | None = None
    icmp_type: int = ICMP_ECHO_REQUEST
    icmp_code: int = 0
    source: Address | None = None
    through: str | None = None

    @property
    def family(self) -> Family:
        """The packet's IP version."""
        return family_of(self.peer)


class Reason(StrEnum):
    """Why a decision is as it is."""

    RULE = "rule"
    DEFAULT_DENY = "default-deny"
    SOURCE_CHECK = "source-check"
    PORT_SECURITY_DISABLED = "port-security-disabled"
    LOAD_BALANCER = "load-balancer"
    LINK_SERVICE = "link-service"
    """Neighbour discovery, multicast listener discovery or DHCP, which rules do not judge."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one port decides about a packet, and the group and rule that decided, if any."""

    port_id: str
    verdict: Action
    reason: Reason
    group_id: str | None = None
    rule_id: str | None = None

    @property
    def allowed(self) -> bool:
        """Whether the packet passes this port."""
        return self.verdict is Action.ALLOW


def rule_matches(policy: Policy, rule: Rule, packet: Packet, vpc_id: str) -> bool:
    """Tell whether an enabled rule of the packet's direction matches it, seen from a VPC."""
    if rule.family is not packet.family:
        return False
    if rule.protocol not in {None, packet.protocol}:
        return False
    if rule.ports and not any(r.first <= packet.dport <= r.last for r in rule.ports):
        return False
    if rule.icmp_type not in {None, packet.icmp_type} or rule.icmp_code not in {
        None,
        packet.icmp_code,
    }:
        return False
    peer = int(packet.peer)
    if isinstance(rule.peer, GroupPeer):
        return peer in policy.members(rule.peer.group_id, vpc_id, rule.family)
    return any(
        first <= peer <= last for first, last in policy.ranges(rule.peer, vpc_id, rule.family)
    )


def _link_service(packet: Packet, direction: Direction) -> Action | None:
    if packet.protocol == ICMPV6 and packet.icmp_type in ND_TYPES | MLD_TYPES:
        sent_as_router = direction is Direction.EGRESS and packet.icmp_type in ROUTER_TYPES
        return Action.DENY if sent_as_router else Action.ALLOW
    if packet.protocol == ICMP and direction is Direction.EGRESS:
        return Action.DENY if packet.icmp_type in ICMP_ROUTER_TYPES else None
    if packet.protocol == UDP and packet.sport is not None:
        server, client = DHCP_PORTS[packet.family]
        from_server = (packet.sport, packet.dport) == (server, client)
        from_client = (packet.sport, packet.dport) == (client, server)
        if direction is Direction.EGRESS and from_server:
            return Action.DENY
        if (direction is Direction.INGRESS and from_server) or (
            direction is Direction.EGRESS and from_client
        ):
            return Action.ALLOW
    return None


def considered(
    policy: Policy, port: Port, direction: Direction, packet: Packet
) -> tuple[OrderedRule, ...]:
    """Return the rules that are looked at for a packet, in order, all of them."""
    return policy.rules(policy.groups_of(port), direction, packet.family)


def decide(policy: Policy, port: Port, direction: Direction, packet: Packet) -> Decision:
    """Decide whether a new connection's first packet passes a port in a direction.

    Ports that are judged on one packet: the originator's (egress) and the responder's (ingress);
    both must allow.
    """
    if not port.port_security_enabled:
        return Decision(port.id, Action.ALLOW, Reason.PORT_SECURITY_DISABLED)
    sender = packet.source if direction is Direction.EGRESS else None
    if sender is not None and not may_send(port, sender):
        return Decision(port.id, Action.DENY, Reason.SOURCE_CHECK)
    if direction is Direction.INGRESS and any(
        (one.balancer_id, one.protocol, one.dport)
        == (packet.through, packet.protocol, packet.dport)
        for one in policy.exemptions.get(port.id, ())
    ):
        return Decision(port.id, Action.ALLOW, Reason.LOAD_BALANCER)
    service = _link_service(packet, direction)
    if service is not None:
        return Decision(port.id, service, Reason.LINK_SERVICE)
    for ordered in considered(policy, port, direction, packet):
        if rule_matches(policy, ordered.rule, packet, port.vpc_id):
            rule = ordered.rule
            return Decision(port.id, rule.action, Reason.RULE, ordered.group_id, rule.id)
    return Decision(port.id, Action.DENY, Reason.DEFAULT_DENY)


def default_icmp_type(protocol: int) -> int:
    """Return the ICMP type that a question without one means: an echo request."""
    return ICMPV6_ECHO_REQUEST if protocol == ICMPV6 else ICMP_ECHO_REQUEST


def is_icmp(protocol: int) -> bool:
    """Tell whether a protocol has types and codes."""
    return protocol in {ICMP, ICMPV6}
