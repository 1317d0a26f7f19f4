"""Tracked connections: whose they are, whether their stamp is fresh, what the rules say now."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import ip_address

from secgroupd.core.host import Generations
from secgroupd.core.marks import BALANCED, INBOUND, generation_of, way
from secgroupd.core.model import Action, Address, Direction, Port
from secgroupd.core.policy import Policy
from secgroupd.core.verdict import Decision, Packet, Reason, decide
from secgroupd.core.zones import zones

Place = tuple[int, bytes]
"""Conntrack zone and address (as the kernel writes it) of one end of a connection."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One tuple's addresses and ports. For ICMP the source port is the identifier."""

    source: Address
    destination: Address
    sport: int = 0
    dport: int = 0


@dataclass(frozen=True, slots=True)
class Connection:
    """An entry of the conntrack table.

    ``original`` is the tuple of the first packet as it came in, ``reply`` the one that answers are
    expected with, which shows the host's NAT. ``handle`` is what the kernel knows it by.
    ``age`` is in seconds, None where the host does not keep timestamps.
    """

    protocol: int
    original: Endpoint
    reply: Endpoint
    mark: int
    handle: bytes
    icmp_type: int = 0
    icmp_code: int = 0
    age: float | None = None
    zone: int = 0

    @property
    def stamp(self) -> int:
        """The generation in which inbound rules last allowed it; 0 for never."""
        return generation_of(self.mark)

    @property
    def brought(self) -> bool:
        """Whether a load balancer has brought it, so that no inbound rule has judged it."""
        return bool(self.mark & BALANCED)

    def brought_by(self, policy: Policy, port: Port) -> str | None:
        """Return which load balancer leads to the port the way that it was brought; None for none."""
        if not self.brought:
            return None
        exempt = policy.exemptions.get(port.id, ())
        inbound = self.mark & INBOUND
        return next((one.balancer_id for one in exempt if way(one) == inbound), None)

    def first_packet(self, direction: Direction) -> Packet:
        """Return the packet that opened it, as the port that judges this direction met it.

        To the responder, the peer is whom it answers to; to the originator, whom it asked. Through
        what it came is not said: what does not come through a load balancer is judged like any other.
        """
        inbound = direction is Direction.INGRESS
        return Packet(
            peer=self.reply.destination if inbound else self.original.destination,
            protocol=self.protocol,
            dport=self.reply.sport if inbound else self.original.dport,
            icmp_type=self.icmp_type,
            icmp_code=self.icmp_code,
        )

    def brought_packet(self, policy: Policy, port: Port, direction: Direction) -> Packet:
        """Return the packet that opened it, through the load balancer that has brought it, if any."""
        packet = self.first_packet(direction)
        if direction is Direction.INGRESS:
            packet = replace(packet, through=self.brought_by(policy, port))
        return packet


@dataclass(frozen=True, slots=True)
class Inbound:
    """An inbound connection of a port of this host, judged by the rules in force."""

    port: Port
    connection: Connection
    stale: bool
    decision: Decision


@dataclass(frozen=True)
class Judge:
    """Judges tracked connections as the data path will at their next packet.

    ``local`` are the ids of the ports of this host.
    """

    policy: Policy
    generations: Generations
    local: Iterable[str]

    @cached_property
    def _by_place(self) -> Mapping[Place, Port]:
        return {
            (self._zones[port.vpc_id], address.packed): port
            for port in self.here
            if port.port_security_enabled
            for address in port.private_ips
        }

    @cached_property
    def here(self) -> Sequence[Port]:
        """The ports of this host."""
        ports = self.policy.ports
        return [ports[port_id] for port_id in self.local if port_id in ports]

    @cached_property
    def _zones(self) -> Mapping[str, int]:
        return zones(self.policy, [port.id for port in self.here])

    @cached_property
    def minimums(self) -> Mapping[Place, int]:
        """The oldest generation that is fresh at each place where a port of this host is."""
        return {place: self.generations.of(port.id) for place, port in self._by_place.items()}

    def places(self, port_ids: Container[str]) -> frozenset[Place]:
        """Return where some ports of this host are, by every address that they may send from alone."""
        return frozenset(
            place for port in self.here if port.id in port_ids for place in self.places_of(port)
        )

    def places_of(self, port: Port) -> frozenset[Place]:
        """Return where a port of this host is, by every address that it may send from alone."""
        zone = self._zones[port.vpc_id]
        return frozenset((zone, address.packed) for address in port.addresses)

    @cached_property
    def _decisions(self) -> dict[tuple[str, Packet], Decision]:
        return {}

    def responder(self, connection: Connection) -> Port | None:
        """Return the port here that answers, whatever address was asked for; None for none."""
        return self._by_place.get((connection.zone, connection.reply.source.packed))

    def originator(self, connection: Connection) -> Port | None:
        """Return the port here that opened a connection; None for none."""
        return self._by_place.get((connection.zone, connection.original.source.packed))

    def apart(self, connection: Connection) -> bool:
        """Tell whether both its ends are ports here, in VPCs that no peering connects: nothing passes then."""
        ends = self.originator(connection), self.responder(connection)
        one, other = (end and end.vpc_id for end in ends)
        return None not in {one, other} and other not in self.policy.visible_vpcs(str(one))

    def inbound(self, connection: Connection) -> Inbound | None:
        """Return what becomes of a connection whose responder is a port here; else None."""
        port = self.responder(connection)
        if port is None:
            return None
        stale = connection.stamp < self.generations.of(port.id)
        if self.apart(connection):
            return Inbound(port, connection, stale, kept_apart(port))
        packet = connection.brought_packet(self.policy, port, Direction.INGRESS)
        # Clients come in numbers; what decides about one decides about its other connections.
        key = (port.id, packet)
        decision = self._decisions.get(key)
        if decision is None:
            decision = decide(self.policy, port, Direction.INGRESS, packet)
            self._decisions[key] = decision
        return Inbound(port, connection, stale, decision)


def vacated(before: Judge, after: Judge) -> frozenset[Place]:
    """Return where ports of this host were before a change and are not any more.

    Also where another port is now; but not an address that several share and one of them keeps.
    """
    now = {port.id: port for port in after.here}
    lost: set[Place] = set()
    for port in before.here:
        if (same := now.get(port.id)) != port:
            lost |= before.places_of(port) - (after.places_of(same) if same else frozenset())
    if not lost:
        return frozenset()
    staying = ((port, now[port.id]) for port in before.here if port.id in now)
    return frozenset(
        lost.difference(
            *(before.places_of(old) & after.places_of(new) for old, new in staying),
        )
    )


def kept_apart(port: Port) -> Decision:
    """Return what becomes of a connection at a port, whatever its rules say, that is ``Judge.apart``."""
    return Decision(port.id, Action.DENY, Reason.DEFAULT_DENY)


def address(raw: bytes) -> Address:
    """Return an address from the kernel's 4 or 16 bytes."""
    return ip_address(raw)
