"""Questions about a state: which port or outside address each end means, checked before any lab."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address

from secgroupd.core.model import ICMP, ICMPV6, Address, Port, State
from secgroupd.errors import QuestionError
from secgroupd.proving.probes import check_fields
from secgroupd.proving.wiring import GATEWAYS

_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_BROADCAST = IPv4Address("255.255.255.255")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowQuestion:
    """Can a connection be opened from one end to the other?

    An end is the id of a port, or an address: as a text or typed. A virtual one is at the first port that
    may have it. ``protocol`` is an IP protocol
    number; ``dport`` goes with protocols that have ports; ``icmp_type`` None asks for an echo.
    """

    source: str | Address
    destination: str | Address
    protocol: int
    dport: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None

    def __str__(self) -> str:
        port = "" if self.dport is None else f" port {self.dport}"
        return f"{self.source} to {self.destination}, protocol {self.protocol}{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """One end of a flow: an address, and the port that has it; port None means outside."""

    port: Port | None
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A question whose ends are found; both have addresses of one family."""

    source: End
    destination: End
    protocol: int
    dport: int | None
    icmp_type: int | None
    icmp_code: int | None

    @property
    def inside(self) -> Port:
        """The port at one of the ends (the source's, if both are ports)."""
        port = self.source.port or self.destination.port
        if port is None:
            raise QuestionError("neither end is a port")
        return port


def ports_of(state: State) -> tuple[Port, ...]:
    """Return every port of a state, whatever host it is on."""
    return tuple(port for instance in state.instances for port in instance.ports)


def vpc_closures(state: State) -> Mapping[str, int]:
    """Number the VPCs so that those connected by peerings, over any number of steps, are equal."""
    number = {vpc.id: at for at, vpc in enumerate(state.vpcs)}
    mentioned = [port.vpc_id for port in ports_of(state)]
    mentioned += [vpc_id for peering in state.peerings for vpc_id in peering.vpc_ids]
    for vpc_id in mentioned:
        number.setdefault(vpc_id, len(number))
    for peering in state.peerings:
        one, other = (number[vpc_id] for vpc_id in peering.vpc_ids)
        number = {vpc_id: one if at == other else at for vpc_id, at in number.items()}
    return number


class Finder:
    """Finds the ends of questions in one state."""

    def __init__(self, state: State) -> None:
        self._closures = vpc_closures(state)
        self._by_id = {port.id: port for port in ports_of(state)}
        self._by_address: dict[Address, list[Port]] = defaultdict(list)
        self._virtual: dict[Address, list[Port]] = defaultdict(list)
        for port in self._by_id.values():
            for address in port.private_ips:
                self._by_address[address].append(port)
            for address in port.addresses[len(port.private_ips) :]:
                self._virtual[address].append(port)

    def find(self, question: FlowQuestion) -> Flow:
        """Resolve both ends.

        Of a port with several private IPs, the first is taken that has the family of the other
        end (and of the protocol, for ICMP and ICMPv6).

        Raises:
            QuestionError: An end is unknown, ambiguous or no address that packets can have; both
                are outside, or the same port; they share no family; fields do not go together.
        """
        try:
            flow = self._find(question)
            check_fields(
                flow.source.address.version,
                flow.protocol,
                flow.dport,
                flow.icmp_type,
                flow.icmp_code,
            )
        except (ValueError, QuestionError) as error:
            raise QuestionError(f"{question}: {error}") from error
        return flow

    def _find(self, question: FlowQuestion) -> Flow:
        source, destination = self._parse(question.source), self._parse(question.destination)
        sources = list(self._ends(source, self._vpc(destination)))
        destinations = list(self._ends(destination, self._vpc(source)))
        pairs = [
            (one, other)
            for one in sources
            for other in destinations
            if one.address.version == other.address.version
        ]
        if not pairs:
            raise QuestionError("the two ends have no address of the same family")
        # Who holds a virtual address does not ask for it.
        pairs = [
            pair for pair in pairs if pair[0].port is None or pair[0].port != pair[1].port
        ] or pairs
        one, other = next(
            (pair for pair in pairs if _suits(pair[0].address, question.protocol)), pairs[0]
        )
        if one.port is None and other.port is None:
            raise QuestionError("neither end is a port or the private IP of one")
        if one.port is not None and other.port is not None and one.port.id == other.port.id:
            raise QuestionError("both ends are the same port, so that no packet leaves it")
        return Flow(
            source=one,
            destination=other,
            protocol=question.protocol,
            dport=question.dport,
            icmp_type=question.icmp_type,
            icmp_code=question.icmp_code,
        )

    def _parse(self, end: str | Address) -> Port | Address:
        if not isinstance(end, str):
            return end
        if end in self._by_id:
            return self._by_id[end]
        try:
            return ip_address(end)
        except ValueError as error:
            raise QuestionError(f"{end!r} is neither the id of a port nor an address") from error

    def _vpc(self, end: Port | Address) -> str | None:
        if isinstance(end, Port):
            return end.vpc_id
        owners = self._by_address.get(end, [])
        return owners[0].vpc_id if len(owners) == 1 else None

    def _ends(self, end: Port | Address, other_vpc: str | None) -> Iterator[End]:
        if isinstance(end, Port):
            for address in end.private_ips:
                yield End(port=end, address=address)
            return
        owners = self._owners(end, other_vpc)
        if len(owners) > 1:
            names = ", ".join(port.id for port in owners)
            raise QuestionError(f"{end} is the private IP of several ports ({names}): name one")
        holders = owners or self._near(self._virtual.get(end, []), other_vpc)
        for port in holders:
            yield End(port=port, address=end)
        if not holders:
            _check_outside(end)
            yield End(port=None, address=end)

    def _owners(self, address: Address, other_vpc: str | None) -> Sequence[Port]:
        return self._near(self._by_address.get(address, []), other_vpc)

    def _near(self, owners: Sequence[Port], other_vpc: str | None) -> Sequence[Port]:
        if len(owners) < 2 or other_vpc is None:
            return owners
        near = [port for port in owners if port.vpc_id == other_vpc]
        closure = self._closures[other_vpc]
        return near or [port for port in owners if self._closures[port.vpc_id] == closure]


def _suits(address: Address, protocol: int) -> bool:
    return address.version != {ICMP: 6, ICMPV6: 4}.get(protocol)


def _check_outside(address: Address) -> None:
    if (
        address.is_multicast
        or address.is_loopback
        or address.is_unspecified
        or address in {*GATEWAYS, _BROADCAST}
        or address in _THIS_NETWORK
        or (address.version == 6 and address.is_link_local)
    ):
        raise QuestionError(f"{address} is no address that a connection comes from or goes to")
