"""A question (who to whom, with what) -> the verdict, and what decided it at each end.

An end is named by a port's id, an instance's id or an address: a private IP, a virtual one, or one outside. Names are resolved here once, into a
``Flow``; the verdict itself is ``verdict.decide`` at the port of either end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from secgroupd.core.addresses import address
from secgroupd.core.model import (
    ICMP,
    ICMPV6,
    PORT_PROTOCOLS,
    Action,
    Address,
    Direction,
    Family,
    Port,
    family_of,
)
from secgroupd.core.policy import Policy
from secgroupd.core.reading import Refusal, close_to, shown
from secgroupd.core.verdict import Decision, Packet, Reason, decide, default_icmp_type, is_icmp
from secgroupd.errors import QuestionError

_NATIVE = {ICMP: Family.IPV4, ICMPV6: Family.IPV6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Can a new connection be opened from one end to the other?

    ``source`` and ``destination`` are a port's id, an instance's id or the text of an address. One that
    ports have as an allowed address pair is theirs, whoever holds it at the moment: they must agree.
    ``protocol`` is an IP protocol number. ``icmp_type`` None means an echo request, ``family`` None
    the family that both ends have (IPv4 if both families are possible). ``through`` is the id of a
    load balancer that passes its clients' addresses on.
    """

    source: str
    destination: str
    protocol: int
    dport: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    family: Family | None = None
    through: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """One end of a flow; ``port`` None means that the address is no port's of the document."""

    address: Address
    port: Port | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A question whose ends are found: both have addresses of one family.

    ``connected`` is False when the ends are ports in VPCs that no peering connects, so that no
    packet can travel between them whatever the rules say.
    """

    source: End
    destination: End
    protocol: int
    dport: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    connected: bool = True
    through: str | None = None

    def packet(self, direction: Direction) -> Packet:
        """Return the first packet as the port that judges this direction meets it."""
        peer = self.source if direction is Direction.INGRESS else self.destination
        own_type = self.icmp_type
        return Packet(
            peer=peer.address,
            protocol=self.protocol,
            dport=self.dport or 0,
            icmp_type=default_icmp_type(self.protocol) if own_type is None else own_type,
            icmp_code=self.icmp_code or 0,
            through=self.through,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict on a question, and the decision at each end that is a port of the document."""

    verdict: Action
    egress: Decision | None
    ingress: Decision | None
    flow: Flow = field(repr=False)


def explain(policy: Policy, question: Question) -> Answer:
    """Answer a question by the rules.

    Raises:
        QuestionError: an end is unknown or ambiguous, or the fields do not go together.
    """
    return judge(policy, resolve(policy, question))


def judge(policy: Policy, flow: Flow) -> Answer:
    """Return what the ports at the ends of a flow decide about it."""
    egress = ingress = None
    if flow.source.port is not None:
        packet = flow.packet(Direction.EGRESS)
        egress = decide(policy, flow.source.port, Direction.EGRESS, packet)
    if flow.destination.port is not None:
        if flow.connected:
            packet = flow.packet(Direction.INGRESS)
            ingress = decide(policy, flow.destination.port, Direction.INGRESS, packet)
        else:
            ingress = Decision(flow.destination.port.id, Action.DENY, Reason.DEFAULT_DENY)
    allowed = all(decision.allowed for decision in (egress, ingress) if decision is not None)
    return Answer(Action.ALLOW if allowed else Action.DENY, egress, ingress, flow)


def check_fields(
    protocol: int, dport: int | None, icmp_type: int | None, icmp_code: int | None
) -> str | None:
    """Return what is wrong with the fields of a question taken together, or None."""
    if protocol in PORT_PROTOCOLS:
        if dport is None:
            return f"protocol {protocol} needs a destination port: add dport"
    elif dport is not None:
        return f"protocol {protocol} has no ports: remove dport, or write tcp or udp"
    if icmp_type is not None and not is_icmp(protocol):
        return "icmp_type goes with ICMP only: write protocol icmp or icmpv6, or remove it"
    if icmp_code is not None and icmp_type is None:
        return "icmp_code needs a type: add icmp_type, or remove icmp_code"
    return None


def resolve(policy: Policy, question: Question) -> Flow:
    """Find the ends of a question.

    Where an end has addresses of both families, the question's own family decides, then the other
    end, then the protocol (icmp, icmpv6), then IPv4. Where an instance has several ports, or an
    address is used in several VPCs, the one that is connected to the other end is meant.

    Raises:
        QuestionError: an end is unknown or ambiguous, or the fields do not go together.
    """
    wrong = check_fields(question.protocol, question.dport, question.icmp_type, question.icmp_code)
    if wrong is not None:
        raise QuestionError(wrong)
    known = tuple(balancer.id for balancer in policy.state.load_balancers)
    if question.through is not None and question.through not in known:
        match = close_to(question.through, known)
        remedy = f"did you mean {match}?" if match else "write the id of one in the document"
        raise QuestionError(f"there is no load balancer {shown(question.through)}: {remedy}")
    sources = _ends(policy, question.source)
    destinations = _ends(policy, question.destination)
    if all(end.port is None for end in (*sources, *destinations)):
        raise QuestionError(
            f"neither {question.source} nor {question.destination} is a port of the document: "
            "name a port, an instance or a private IP at one end"
        )
    pairs = [
        (one, other)
        for one in sources
        for other in destinations
        if one.address.version == other.address.version
    ]
    family = _family(pairs, question)
    pairs = [pair for pair in pairs if family_of(pair[0].address) is family]
    pairs = [(one, other) for one, other in pairs if one.port is None or one.port != other.port]
    if not pairs:
        raise QuestionError(
            f"{question.source} and {question.destination} are the same port, and no packet "
            "leaves it: name another port at one end"
        )
    best = min(_distance(policy, *pair) for pair in pairs)
    pairs = [pair for pair in pairs if _distance(policy, *pair) is best]
    _check_unambiguous(policy, question.source, [pair[0] for pair in pairs])
    _check_unambiguous(policy, question.destination, [pair[1] for pair in pairs])
    source, destination = pairs[0]
    return Flow(
        source=source,
        destination=destination,
        protocol=question.protocol,
        dport=question.dport,
        icmp_type=question.icmp_type,
        icmp_code=question.icmp_code,
        connected=best is not _Distance.UNCONNECTED,
        through=question.through,
    )


class _Distance(IntEnum):
    SAME_VPC = 0
    PEERED = 1
    UNCONNECTED = 2


def _distance(policy: Policy, one: End, other: End) -> _Distance:
    if one.port is None or other.port is None or one.port.vpc_id == other.port.vpc_id:
        return _Distance.SAME_VPC
    if other.port.vpc_id in policy.visible_vpcs(one.port.vpc_id):
        return _Distance.PEERED
    return _Distance.UNCONNECTED


def addresses(policy: Policy, name: str) -> frozenset[Address]:
    """Return the addresses that a name can mean.

    Raises:
        QuestionError: it means nothing.
    """
    return frozenset(end.address for end in _ends(policy, name))


def _ends(policy: Policy, name: str) -> tuple[End, ...]:
    """Return what a name can mean: every private IP of its ports, or one address, of ports or outside."""
    ports = _named_ports(policy, name)
    if ports is None:
        found = _address(policy, name)
        owners = [port for port in policy.ports.values() if found in port.private_ips]
        # A virtual address: whoever holds it gets what is sent to it.
        owners = owners or [port for port in policy.ports.values() if found in port.addresses]
        return tuple(End(found, port) for port in owners) or (End(found),)
    ends = tuple(End(each, port) for port in ports for each in port.private_ips)
    if not ends:
        raise QuestionError(f"{name} has no private IP: give its port one, or name an address")
    return ends


def _named_ports(policy: Policy, name: str) -> Sequence[Port] | None:
    if name in policy.ports:
        return (policy.ports[name],)
    return next((one.ports for one in policy.state.instances if one.id == name), None)


def _address(policy: Policy, name: str) -> Address:
    try:
        return address(name)
    except Refusal as refusal:
        if refusal.code != "address" or ":" in name or "/" in name:
            raise QuestionError(str(refusal)) from None
    known = (*policy.ports, *(instance.id for instance in policy.state.instances))
    match = close_to(name, known)
    remedy = f"did you mean {match}?" if match else "write the id of one, or an address"
    raise QuestionError(f"there is no port or instance {shown(name)}: {remedy}")


def _family(pairs: Sequence[tuple[End, End]], question: Question) -> Family:
    possible = {family_of(one.address) for one, _ in pairs}
    if not possible or (question.family is not None and question.family not in possible):
        what = question.family.value if question.family else "common"
        raise QuestionError(
            f"{question.source} and {question.destination} have no {what} addresses to speak "
            "with: name ends that have one IP version in common"
        )
    wanted = question.family or _NATIVE.get(question.protocol, Family.IPV4)
    return wanted if wanted in possible else next(iter(possible))


def _check_unambiguous(policy: Policy, name: str, ends: Sequence[End]) -> None:
    ports = {end.port.id: end.port for end in ends if end.port is not None}
    ids = sorted(ports)
    meant = {end.address for end in ends}
    judged = {(policy.profile_of(one), one.port_security_enabled) for one in ports.values()}
    if len(ids) > 1 and (len(meant) > 1 or len(judged) > 1):
        raise QuestionError(f"{name} may mean several ports: name one of {', '.join(ids)}")
