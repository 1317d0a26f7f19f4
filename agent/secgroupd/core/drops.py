"""A packet that the kernel logged before it dropped it -> whose it was, and what has denied it.

The kernel tells the chain in which it was dropped. Which rule it was, if any, the evaluator says of
the same packet, as the data path judges it: by the addresses of its connection, where it has one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from secgroupd.core import names
from secgroupd.core.headers import ArpHeaders, Headers, parse_headers
from secgroupd.core.model import ICMP, ICMPV6, Direction
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Connection
from secgroupd.core.verdict import ICMP_ROUTER_TYPES, ROUTER_TYPES, Decision, Reason, decide
from secgroupd.core.wording import protocol_name


class Cause(StrEnum):
    """Why a packet was dropped, where no decision of the evaluator's says it."""

    CLOSED = "closed"
    """Its interface is managed, and no port of the document has it, or the port is closed."""
    STRANGE = "strange-frame"
    """It is no frame that rules can judge: tagged, or of another protocol."""
    APART = "vpc-not-peered"
    """It comes from a port in a VPC that no peering connects with this one's."""
    NO_CONNECTION = "no-connection"
    """It belongs to no connection and begins none, whatever the rules allow."""
    CHANGED = "changed"
    """The rules of now would allow it: they have changed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """A packet as the kernel logged it.

    Attributes:
        time: seconds since the epoch.
        chain: in which it was dropped.
        came_from: the interface it came in by; None for the host's own.
        leaves_into: the interface it was about to leave by; None where that was not decided yet.
        ethertype: its protocol.
        payload: its first bytes, from the network header on.
        connection: that it belongs to or would have begun; None for none.
        reply: whether it goes against the direction of its connection.
        new: whether the connection is not there yet, but for this packet.
    """

    time: float
    chain: str
    came_from: str | None
    leaves_into: str | None
    ethertype: int
    payload: bytes
    connection: Connection | None = None
    reply: bool = False
    new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A dropped packet, explained; ``port_id`` is None where no port has its interface."""

    time: float
    interface: str | None
    port_id: str | None
    direction: Direction
    reason: Reason | Cause
    group_id: str | None = None
    rule_id: str | None = None
    headers: Headers | ArpHeaders | None = None

    def as_json(self) -> dict[str, object]:
        """Return it as ``secgroupctl drops --json`` prints it; null for what it has not."""
        headers = self.headers
        fields: dict[str, object] = {
            "time": round(self.time, 6),
            "port": self.port_id,
            "interface": self.interface,
            "direction": self.direction.value,
            "reason": self.reason.value,
            "security_group": self.group_id,
            "rule": self.rule_id,
            "protocol": None,
            "source": None if headers is None else str(headers.source),
            "destination": None if headers is None else str(headers.destination),
        }
        if isinstance(headers, ArpHeaders):
            fields["protocol"] = "arp"
        elif headers is not None:
            fields["protocol"] = protocol_name(headers.protocol)
            for name in ("sport", "dport", "icmp_type", "icmp_code"):
                fields[name] = getattr(headers, name)
        return fields


CAUSES: Mapping[str, Reason | Cause] = {
    names.SPOOFED: Reason.SOURCE_CHECK,
    names.STRANGE: Cause.STRANGE,
    names.APART: Cause.APART,
}
"""What ends in chains of one purpose; all else that is logged is closed, or denied by rules."""


def explained(policy: Policy, ports: Mapping[str, str], logged: Logged) -> Drop:
    """Say whose a dropped packet was, and what has denied it.

    Args:
        policy: what is in force.
        ports: the ids of this host's ports, by the names of their interfaces.
        logged: the packet.
    """
    to_port = logged.chain == names.DENY_IN or (
        logged.chain != names.DENY_OUT and logged.leaves_into is not None
    )
    interface = logged.leaves_into if to_port else logged.came_from
    port_id = None if interface is None else ports.get(interface)
    headers = parse_headers(logged.ethertype, logged.payload)
    direction = Direction.INGRESS if to_port else Direction.EGRESS
    reason = CAUSES.get(logged.chain, Cause.CLOSED)
    group_id = rule_id = None
    if logged.chain in {names.DENY_IN, names.DENY_OUT} and port_id in policy.ports:
        # What answers is judged by the rules that let the connection in, and the other way round.
        alone = _judged_alone(headers)
        inbound = to_port if alone else to_port != logged.reply
        direction = Direction.INGRESS if inbound else Direction.EGRESS
        decision = _decision(
            policy, str(port_id), direction, None if alone else logged.connection, headers
        )
        nowhere = _belongs_nowhere(logged, headers)
        if decision is None or decision.allowed or (nowhere and direction is Direction.EGRESS):
            without = nowhere or logged.connection is None
            reason = Cause.NO_CONNECTION if without else Cause.CHANGED
        else:
            reason, group_id, rule_id = decision.reason, decision.group_id, decision.rule_id
    return Drop(
        time=logged.time,
        interface=interface,
        port_id=port_id,
        direction=direction,
        reason=reason,
        group_id=group_id,
        rule_id=rule_id,
        headers=headers,
    )


def _belongs_nowhere(logged: Logged, headers: Headers | ArpHeaders | None) -> bool:
    # The kernel takes TCP from the middle of a connection for a new one (nf_conntrack_tcp_loose).
    begins = isinstance(headers, Headers) and headers.begins
    return not begins and (logged.connection is None or logged.new)


def _judged_alone(headers: Headers | ArpHeaders | None) -> bool:
    """Tell whether a packet is judged by what it is itself, whatever connection it is about."""
    if not isinstance(headers, Headers):
        return False
    routers = {ICMP: ICMP_ROUTER_TYPES, ICMPV6: ROUTER_TYPES}.get(headers.protocol, frozenset())
    return headers.icmp_type in routers


def _decision(
    policy: Policy,
    port_id: str,
    direction: Direction,
    connection: Connection | None,
    headers: Headers | ArpHeaders | None,
) -> Decision | None:
    packet = None
    if connection is not None:
        packet = connection.first_packet(direction)
    elif isinstance(headers, Headers):
        packet = headers.first_packet(direction)
    if packet is None:
        return None
    return decide(policy, policy.ports[port_id], direction, packet)
