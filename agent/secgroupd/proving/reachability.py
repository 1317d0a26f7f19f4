"""What the kernel makes of a whole state: every question becomes a real packet in a lab."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from secgroupd.core.model import Address, Port, State
from secgroupd.errors import QuestionError
from secgroupd.proving.namespaces import DEFAULT_UPLINK, Kind, Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Observation, Probe, run_probes
from secgroupd.proving.probes import has_identity
from secgroupd.proving.questions import (
    End,
    Finder,
    Flow,
    FlowQuestion,
    ports_of,
    vpc_closures,
)

__all__ = ["Enforce", "FlowQuestion", "Observation", "observe", "placed"]

Enforce = Callable[[Lab, State], None]
"""Puts the ruleset for a state into force in ``lab.hv``."""


def observe(
    state: State,
    flows: Sequence[FlowQuestion],
    enforce: Enforce,
    *,
    kind: Kind = "veth",
    only_asked: bool = False,
) -> list[Observation]:
    """Send a real packet for each question and return what was seen, in the order given.

    One lab holds the whole state, unless two ports have the same address: then there is one for
    each set of VPCs that peerings connect, each with the whole ruleset. An address that is no
    port's is outside, behind the first uplink of the VPC of the other end; of the ports that may have a
    virtual one, the port that a question means has it.

    Args:
        state: What is to be enforced.
        flows: The questions.
        enforce: Called once for each lab, with the state as ``placed`` returns it.
        kind: What the ports' interfaces are.
        only_asked: Make interfaces only for the ports that a question is about. The ruleset is
            the same; the other ports merely wait for theirs, which saves 12 ms each.

    Raises:
        QuestionError: A question cannot be asked; nothing was built then.
        DataplaneError: The kernel refused to build the lab or to send a packet.
    """
    here = placed(state)
    finder = Finder(here)
    asked = [finder.find(question) for question in flows]
    sites = _sites(here)
    by_site: dict[int, dict[Flow, None]] = {}
    for flow in asked:
        by_site.setdefault(_site_of(flow, sites), {})[flow] = None
    chosen = {
        site: _ports_at(here, site, sites, its_flows if only_asked else None)
        for site, its_flows in by_site.items()
    }
    seen: dict[Flow, Observation] = {}
    for site, its_flows in by_site.items():
        virtual = _virtual(its_flows)
        with Lab(uplinks=_uplinks(here, site, sites)) as lab:
            for port in chosen[site]:
                lab.add_port(
                    interface=port.interface or "",
                    addresses=(*port.private_ips, *virtual.get(port.id, ())),
                    mac=port.mac_address,
                    kind=kind,
                    alias=port.id,
                )
            enforce(lab, here)
            seen |= _Site(lab, here).ask(list(its_flows))
    return [seen[flow] for flow in asked]


def placed(state: State) -> State:
    """Return the state with every port on this host, at an interface with a name of its own.

    A port keeps the name that the document gives it, if no port before it and no uplink has it.
    """
    used = {DEFAULT_UPLINK, *(name for vpc in state.vpcs for name in vpc.uplinks)}
    wanted = {port.interface for port in ports_of(state) if port.interface}
    fresh = (name for at in range(1, 1 << 31) if (name := f"sgt{at}") not in wanted)

    def place(port: Port) -> Port:
        name = port.interface
        if name is None or name in used:
            name = next(fresh)
        used.add(name)
        return replace(port, interface=name, host_id=None)

    instances = tuple(
        replace(instance, ports=tuple(place(port) for port in instance.ports))
        for instance in state.instances
    )
    return replace(state, instances=instances)


def _sites(state: State) -> dict[str, int]:
    """Number the labs that the VPCs need."""
    addresses = [address for port in ports_of(state) for address in port.private_ips]
    closures = vpc_closures(state)
    if len(addresses) == len(set(addresses)):
        return dict.fromkeys(closures, 0)
    return dict(closures)


def _ports_at(
    state: State, site: int, sites: dict[str, int], asked: Iterable[Flow] | None
) -> list[Port]:
    """Return the ports to build at a site: all, or those that a flow has at an end."""
    ports = [port for port in ports_of(state) if sites[port.vpc_id] == site]
    if asked is not None:
        ends = {
            end.port.id for flow in asked for end in (flow.source, flow.destination) if end.port
        }
        ports = [port for port in ports if port.id in ends]
    owners: dict[Address, Port] = {}
    for port in ports:
        for address in port.private_ips:
            other = owners.setdefault(address, port)
            if other is not port:
                raise QuestionError(
                    f"{other.id} and {port.id} both have {address} and no packet can tell them "
                    "apart: their VPCs are the same, or connected by peerings"
                )
    return ports


def _virtual(flows: Iterable[Flow]) -> Mapping[str, Sequence[Address]]:
    """Return the virtual addresses that are asked for, each once, by the port that has it."""
    found: dict[Address, str] = {}
    for flow in flows:
        for address, port in ((end.address, end.port) for end in (flow.source, flow.destination)):
            if port is None or address in port.private_ips:
                continue
            other = found.setdefault(address, port.id)
            if other != port.id:
                raise QuestionError(
                    f"{address} is asked for at {other} and at {port.id}, and only one of them can "
                    "have it: ask for one"
                )
    by_port: dict[str, list[Address]] = {}
    for address, port_id in found.items():
        by_port.setdefault(port_id, []).append(address)
    return by_port


def _site_of(flow: Flow, sites: dict[str, int]) -> int:
    used = {sites[end.port.vpc_id] for end in (flow.source, flow.destination) if end.port}
    if len(used) > 1:
        raise QuestionError(
            f"{flow.source.address} to {flow.destination.address}: the ports are in VPCs without a "
            "peering, in which addresses are used twice, so that no packet has a way"
        )
    return used.pop()


def _uplink_of(state: State, vpc_id: str) -> str:
    return next(
        (vpc.uplinks[0] for vpc in state.vpcs if vpc.id == vpc_id and vpc.uplinks), DEFAULT_UPLINK
    )


def _uplinks(state: State, site: int, sites: dict[str, int]) -> tuple[str, ...]:
    names = (_uplink_of(state, vpc_id) for vpc_id, at in sites.items() if at == site)
    return tuple(dict.fromkeys((DEFAULT_UPLINK, *names)))


@dataclass(slots=True)
class _Round:
    """Flows that do not disturb each other when their packets are sent at once."""

    flows: list[Flow] = field(default_factory=list)
    ways: dict[Address, str] = field(default_factory=dict)
    pairs: set[tuple[frozenset[Address], int]] = field(default_factory=set)


class _Site:
    """A lab with the ruleset in force."""

    def __init__(self, lab: Lab, state: State) -> None:
        self._lab = lab
        self._state = state

    def ask(self, flows: Sequence[Flow]) -> dict[Flow, Observation]:
        """Send a packet for each flow, in as many rounds as it needs."""
        seen: dict[Flow, Observation] = {}
        for turn in self._rounds(flows):
            for address, uplink in turn.ways.items():
                self._lab.outside_address(address, uplink=uplink)
            probes = [self._probe(flow, turn) for flow in turn.flows]
            seen |= zip(turn.flows, run_probes(probes), strict=True)
            # The next round may ask the same way back, which must not count as an answer.
            self._lab.forget()
        return seen

    def _rounds(self, flows: Sequence[Flow]) -> Iterator[_Round]:
        rounds: list[_Round] = []
        for flow in flows:
            turn = next((turn for turn in rounds if self._joins(flow, turn)), None)
            if turn is None:
                turn = _Round()
                rounds.append(turn)
                self._joins(flow, turn)
            turn.flows.append(flow)
        return iter(rounds)

    def _joins(self, flow: Flow, turn: _Round) -> bool:
        """Reserve what the flow needs in a round, if all of it is free."""
        outside = [end.address for end in (flow.source, flow.destination) if end.port is None]
        uplink = _uplink_of(self._state, flow.inside.vpc_id)
        if any(turn.ways.get(address, uplink) != uplink for address in outside):
            return False
        pair = frozenset((flow.source.address, flow.destination.address)), flow.protocol
        if not has_identity(flow.source.address.version, flow.protocol):
            if pair in turn.pairs:
                return False
            turn.pairs.add(pair)
        turn.ways |= dict.fromkeys(outside, uplink)
        return True

    def _probe(self, flow: Flow, turn: _Round) -> Probe:
        return Probe(
            source=self._namespace(flow.source, turn),
            source_address=flow.source.address,
            destination=self._namespace(flow.destination, turn),
            destination_address=flow.destination.address,
            protocol=flow.protocol,
            dport=flow.dport,
            icmp_type=flow.icmp_type,
            icmp_code=flow.icmp_code,
        )

    def _namespace(self, end: End, turn: _Round) -> Namespace:
        if end.port is None:
            return self._lab.uplinks[turn.ways[end.address]].namespace
        return self._lab.ports[end.port.interface or ""].namespace
