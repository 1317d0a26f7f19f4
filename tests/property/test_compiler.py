"""The compiled ruleset says what the evaluator says, for drawn documents and packets.

No kernel here: packets walk through the rules' text and the sets' bytes.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from ipaddress import ip_address
from random import Random
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import both, group, port, rule, state
from tests.drawing import OUTSIDE, Drawing
from tests.fakes import walker
from tests.fakes.walker import MOST_JUMPS, Packet, Walked, Walker
from tests.oracle import judge, owner

from secgroupd.core import names
from secgroupd.core.compiler import compile_host, compile_ruleset
from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations, Host
from secgroupd.core.marks import BALANCED, INBOUND, JUDGED_OUT, generation_of, way
from secgroupd.core.model import (
    AH,
    DCCP,
    ICMP,
    ICMPV6,
    PORT_PROTOCOLS,
    TCP,
    UDP,
    Address,
    Clearing,
    Direction,
    Family,
    Forwarder,
    LoadBalancer,
    Port,
    Rule,
    State,
)
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import Ruleset, index_key
from secgroupd.core.verdict import (
    DHCP_PORTS,
    MLD_TYPES,
    ND_TYPES,
    Decision,
    Reason,
    decide,
    default_icmp_type,
)
from secgroupd.core.verdict import Packet as Question

Item = TypeVar("Item")

DRAWN = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RANDOMS = st.randoms(use_true_random=False)
QUESTIONS = 12
UPLINK = "uplink0"
NEW = walker.State.NEW
EPHEMERAL = 40_000
REPLIES = {Family.IPV4: {8: 0, 13: 14, 15: 16, 17: 18}, Family.IPV6: {128: 129, 139: 140}}
"""ICMP types that open a connection for Linux, with their replies' (its two ``invmap``)."""


def _bindings(policy: Policy) -> dict[str, Binding]:
    return {p.id: Binding(p.interface or "") for p in policy.ports.values()}


def _generations(random: Random, policy: Policy, mode: Clearing) -> Generations:
    """Generations as they may stand: the newest is no older than any port's own."""
    minimum = {i: random.randint(2, 6) for i in policy.ports if random.random() < 0.8}
    newest = random.randint(max(minimum.values(), default=2), 7)
    return Generations(random.randint(newest, 9), newest, minimum, mode)


@dataclass(frozen=True)
class Connection:
    """A connection by its first packet; DHCP and neighbour discovery are among them.

    ``through`` is the load balancer that its originator's packets come through.
    """

    source: Address
    destination: Address
    protocol: int
    sport: int
    dport: int
    icmp_type: int
    icmp_code: int
    through: LoadBalancer | None = None

    @property
    def family(self) -> Family:
        return Family.IPV4 if self.source.version == 4 else Family.IPV6

    @property
    def first_state(self) -> walker.State:
        """What connection tracking of Linux says of the first packet."""
        if self.protocol == ICMPV6 and self.icmp_type in ND_TYPES | MLD_TYPES:
            return walker.State.UNTRACKED
        if self.protocol in {ICMP, ICMPV6} and self.icmp_type not in REPLIES[self.family]:
            return walker.State.INVALID
        return NEW

    @property
    def first(self) -> Packet:
        forwarder = self.through.forwards_through if self.through else Forwarder()
        return Packet(
            iif=forwarder.interface or UPLINK,
            mac=bytes.fromhex((forwarder.mac_address or "").replace(":", "")) or bytes(6),
            fwmark=forwarder.fwmark or 0,
            source=self.source,
            destination=self.destination,
            protocol=self.protocol,
            sport=self.sport,
            dport=self.dport,
            icmp_type=self.icmp_type,
            icmp_code=self.icmp_code,
            state=self.first_state,
        )

    @property
    def later(self) -> Packet:
        """A packet of the established connection that its originator sends."""
        return replace(self.first, state=walker.State.ESTABLISHED, flags=frozenset({"ack"}))

    @property
    def answer(self) -> Packet:
        """A packet of the established connection that its responder sends."""
        return replace(
            self.later,
            source=self.destination,
            destination=self.source,
            sport=self.dport,
            dport=self.sport,
            icmp_type=REPLIES[self.family].get(self.icmp_type, 0),
            original=(self.source, self.destination),
            reply=True,
        )

    def asked(self, direction: Direction) -> Question:
        return Question(
            peer=self.source if direction is Direction.INGRESS else self.destination,
            protocol=self.protocol,
            dport=self.dport,
            sport=self.sport,
            icmp_type=self.icmp_type,
            icmp_code=self.icmp_code,
            through=self.through.id if self.through else None,
        )


def _connection(drawing: Drawing, policy: Policy) -> Connection:
    asked = drawing.question(policy)
    kind = default_icmp_type(asked.protocol) if asked.icmp_type is None else asked.icmp_type
    # In front of other protocols' payload stands anything: it must not be taken for ports.
    junk = drawing.random.choice([0, 1, 68, 80, 65535])
    return Connection(
        source=ip_address(asked.source),
        destination=ip_address(asked.destination),
        protocol=asked.protocol,
        sport=EPHEMERAL if asked.protocol in PORT_PROTOCOLS else junk,
        dport=(asked.dport or 0) if asked.protocol in PORT_PROTOCOLS else junk,
        icmp_type=kind,
        icmp_code=asked.icmp_code or 0,
        through=drawing.random.choice([None, *policy.state.load_balancers]),
    )


def _link_service(drawing: Drawing, policy: Policy) -> Connection:
    """DHCP, or what looks nearly like it, or any ICMPv6 type."""
    r = drawing.random
    drawn = _connection(drawing, policy)
    if drawn.family is Family.IPV6 and r.random() < 0.5:
        kind = r.choice([*sorted(ND_TYPES | MLD_TYPES), 127, 129, 132, 138, 139, 140, 142, 144])
        return replace(drawn, protocol=ICMPV6, icmp_type=kind, icmp_code=0)
    ends = [*DHCP_PORTS[drawn.family], r.choice([66, 69, 545, 548, EPHEMERAL])]
    protocol = r.choice([UDP, UDP, UDP, TCP])
    return replace(drawn, protocol=protocol, sport=r.choice(ends), dport=r.choice(ends))


@dataclass(frozen=True)
class Scene:
    """A compiled document."""

    policy: Policy
    generations: Generations
    walker: Walker

    @classmethod
    def of(cls, policy: Policy, generations: Generations) -> "Scene":
        compiled = compile_ruleset(policy, Host(_bindings(policy)), generations)
        return cls(policy, generations, Walker(compiled))

    def ends(self, one: Connection) -> Iterator[tuple[Port, Direction]]:
        """The ports at the ends, each with the direction that the connection has for it."""
        if sender := owner(self.policy, one.source):
            yield sender, Direction.EGRESS
        if receiver := owner(self.policy, one.destination):
            yield receiver, Direction.INGRESS

    def decide(self, one: Connection, at: Port, direction: Direction) -> Decision:
        return decide(self.policy, at, direction, one.asked(direction))

    def meet(self, packet: Packet, at: Port, *, leaving: bool) -> Walked:
        """Let a port meet a packet: one that leaves it, or one that goes to it."""
        name = at.interface or ""
        if leaving:
            return self.walker.walk(names.FROM_PORT, replace(packet, iif=name, oif=UPLINK))
        return self.walker.walk(names.TO_PORT, replace(packet, oif=name))

    def ways(self, one: Connection, at: Port | None = None) -> list[int]:
        """The ways by which load balancers lead to a connection's service, anywhere or at a port."""
        return [
            way(each)
            for port_id, exempt in self.policy.exemptions.items()
            for each in exempt
            if (each.protocol, each.dport) == (one.protocol, one.dport)
            and at in {None, self.policy.ports[port_id]}
        ]

    def stamped(self, one: Connection, mark: int, direction: Direction) -> int:
        """The mark after a port's rules have allowed a connection."""
        if one.protocol == DCCP or (one.protocol == AH and one.family is Family.IPV6):
            return mark
        if direction is Direction.EGRESS:
            return mark | JUDGED_OUT
        return mark & JUDGED_OUT | self.generations.current

    def expected(
        self, one: Connection, at: Port, direction: Direction, mark: int = 0
    ) -> tuple[tuple[bool, int], tuple[str, ...]]:
        """Verdict and mark after a packet of the originator's is judged, and which counter it raises."""
        decision = self.decide(one, at, direction)
        if decision.reason is Reason.PORT_SECURITY_DISABLED or one.first_state is not NEW:
            return (decision.allowed, mark), _counters(decision)
        if decision.reason is Reason.LOAD_BALANCER:
            (brought,) = {
                way(each)
                for each in self.policy.exemptions[at.id]
                if one.through and each.balancer_id == one.through.id
                if (each.protocol, each.dport) == (one.protocol, one.dport)
            }
            return (True, mark & JUDGED_OUT | brought), ()
        if decision.allowed:
            return (True, self.stamped(one, mark, direction)), _counters(decision)
        forgotten = self.generations.mode is Clearing.STRICT
        return (False, 0 if forgotten else mark), _counters(decision)

    def expected_of_answer(
        self, one: Connection, at: Port, direction: Direction, mark: int
    ) -> tuple[tuple[bool, int], tuple[str, ...]]:
        """The same for an answer, of which only the mark tells whether it is exempt."""
        judged = direction is Direction.INGRESS and at.port_security_enabled
        if judged and mark & INBOUND in self.ways(one, at):
            return (True, mark), ()
        return self.expected(replace(one, through=None), at, direction, mark)


def _scene(random: Random, mode: Clearing = Clearing.DOCUMENTED) -> tuple[Drawing, Scene]:
    drawing = Drawing(random)
    policy = Policy(drawing.state(port_count=3, most_rules=7))
    return drawing, Scene.of(policy, _generations(random, policy, mode))


def _counters(decision: Decision) -> tuple[str, ...]:
    """The counter of the rule that decides; link services and the default have none."""
    if decision.group_id is None or decision.rule_id is None:
        return ()
    return (names.counter(decision.group_id, decision.rule_id),)


def _check_first(scene: Scene, one: Connection) -> None:
    for at, direction in scene.ends(one):
        got = scene.meet(one.first, at, leaving=direction is Direction.EGRESS)
        wanted = scene.expected(one, at, direction)
        assert ((got.accepted, got.mark), got.counted) == wanted, (one, at, got)


@DRAWN
@given(RANDOMS)
def test_first_packets_meet_what_the_evaluator_says(random: Random) -> None:
    drawing, scene = _scene(random)
    for _ in range(QUESTIONS):
        asked = drawing.question(scene.policy)
        judgement = judge(scene.policy, asked)
        one = Connection(
            ip_address(asked.source),
            ip_address(asked.destination),
            asked.protocol,
            EPHEMERAL,
            asked.dport or 0,
            default_icmp_type(asked.protocol) if asked.icmp_type is None else asked.icmp_type,
            asked.icmp_code or 0,
        )
        passed = []
        for at, direction in scene.ends(one):
            got = scene.meet(one.first, at, leaving=direction is Direction.EGRESS)
            passed.append(got.accepted)
        assert all(passed) is judgement.allowed, (asked, judgement, passed)


@pytest.mark.parametrize("mode", Clearing)
@DRAWN
@given(RANDOMS)
def test_each_end_says_what_the_evaluator_says_and_stamps_what_it_allows(
    mode: Clearing, random: Random
) -> None:
    drawing, scene = _scene(random, mode)
    for _ in range(QUESTIONS):
        _check_first(scene, _connection(drawing, scene.policy))


@DRAWN
@given(RANDOMS)
def test_dhcp_and_neighbour_discovery_are_as_the_evaluator_says(random: Random) -> None:
    drawing, scene = _scene(random)
    for _ in range(QUESTIONS):
        _check_first(scene, _link_service(drawing, scene.policy))


def _inbound_bits(random: Random, scene: Scene, one: Connection, last: int = 9) -> int:
    """A generation up to the last, or a way that leads to the service, or a foreign one."""
    return random.choice([random.randint(0, last), *scene.ways(one), BALANCED | 5])


def _stale_mark(
    random: Random, scene: Scene, one: Connection, at: Port, direction: Direction
) -> int:
    """A mark that the port's end does not count as judged; the other end's part is anything."""
    if scene.generations.mode is Clearing.STRICT:
        return random.choice([0, JUDGED_OUT]) | _inbound_bits(random, scene, one)
    if direction is Direction.EGRESS:
        return _inbound_bits(random, scene, one)
    last = scene.generations.of(at.id) - 1
    return random.choice([0, JUDGED_OUT]) | _inbound_bits(random, scene, one, last)


@pytest.mark.parametrize("mode", Clearing)
@DRAWN
@given(RANDOMS)
def test_stale_connections_meet_what_their_first_packet_would_meet_now(
    mode: Clearing, random: Random
) -> None:
    drawing, scene = _scene(random, mode)
    for _ in range(QUESTIONS):
        one = random.choice([_connection, _link_service])(drawing, scene.policy)
        if one.first_state is not NEW:
            continue
        for at, direction in scene.ends(one):
            mark = _stale_mark(random, scene, one, at, direction)
            opened = direction is Direction.EGRESS
            for packet, leaving, wanted in (
                (one.later, opened, scene.expected(one, at, direction, mark)),
                (one.answer, not opened, scene.expected_of_answer(one, at, direction, mark)),
            ):
                got = scene.meet(replace(packet, mark=mark), at, leaving=leaving)
                assert ((got.accepted, got.mark), got.counted) == wanted, (one, at, mark, got)


@DRAWN
@given(RANDOMS)
def test_a_packet_that_finds_passable_chains_without_rules_is_judged(random: Random) -> None:
    """As one does that is under way when they are made."""
    drawing, scene = _scene(random)
    ruleset = scene.walker.ruleset
    chains = ruleset.chains
    emptied = {n: replace(c, rules=()) if c.passable else c for n, c in chains.items()}
    bare = replace(scene, walker=Walker(replace(ruleset, chains=emptied)))
    for _ in range(QUESTIONS):
        one = replace(_connection(drawing, scene.policy), through=None)
        if one.first_state is not NEW:
            continue
        for at, direction in scene.ends(one):
            if direction is Direction.INGRESS:
                mark = random.randint(0, scene.generations.newest - 1)
                got = bare.meet(replace(one.later, mark=mark), at, leaving=False)
                assert (got.accepted, got.mark) == scene.expected(one, at, direction, mark)[0]
                answered = bare.meet(replace(one.answer, mark=mark), at, leaving=True)
                wanted = scene.expected_of_answer(one, at, direction, mark)[0]
                assert (answered.accepted, answered.mark) == wanted


def _stale_answer_passes(scene: Scene, one: Connection) -> bool:
    """Whether each end that has a port lets the answer of a connection through that is stale."""
    passed = [
        scene.meet(one.answer, at, leaving=direction is Direction.INGRESS).accepted
        for at, direction in scene.ends(one)
    ]
    assert len(set(passed)) == 1, passed
    return passed[0]


OWN = {Family.IPV4: ip_address("10.0.0.1"), Family.IPV6: ip_address("fd00::1")}
FAR = {Family.IPV4: ip_address("203.0.113.9"), Family.IPV6: ip_address("2001:db8::9")}


def _guarded(*rules: Rule) -> Scene:
    """A port with these rules, whose connections have all become stale."""
    made = state([group("g", *rules)], [port("p", ["g"], [str(own) for own in OWN.values()])])
    return Scene.of(Policy(made), Generations(9, 9))


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("family", "kind"), [(f, kind) for f in Family for kind in REPLIES[f]])
def test_a_stale_answer_of_icmp_is_judged_by_the_type_that_was_asked(
    family: Family, kind: int, direction: Direction
) -> None:
    protocol = ICMP if family is Family.IPV4 else ICMPV6
    ends = (FAR[family], OWN[family])
    source, destination = ends if direction is Direction.INGRESS else ends[::-1]
    one = Connection(source, destination, protocol, 0, 0, kind, 0)
    asked, answer = (
        _guarded(rule(direction.value, protocol, icmp=(allowed, None), family=family))
        for allowed in (kind, REPLIES[family][kind])
    )
    assert _stale_answer_passes(asked, one)
    assert not _stale_answer_passes(answer, one)


@pytest.mark.parametrize("family", Family)
def test_a_stale_answer_of_dhcp_passes_whatever_the_rules_say(family: Family) -> None:
    scene, (server, client) = _guarded(), DHCP_PORTS[family]
    ends, services = (OWN[family], FAR[family]), (client, server)
    for source, destination, sport, dport in (
        (*ends, *services),
        (*ends[::-1], *services[::-1]),
    ):
        one = Connection(source, destination, UDP, sport, dport, 0, 0)
        assert _stale_answer_passes(scene, one)
        assert not _stale_answer_passes(scene, replace(one, sport=dport, dport=sport))
        assert not _stale_answer_passes(scene, replace(one, sport=EPHEMERAL))


@DRAWN
@given(RANDOMS)
def test_fresh_connections_pass_whatever_the_rules_say(random: Random) -> None:
    drawing, scene = _scene(random)
    generations = scene.generations
    for _ in range(QUESTIONS):
        one = replace(_connection(drawing, scene.policy), through=None)
        if one.first_state is not NEW:
            continue
        for at, direction in scene.ends(one):
            opened = direction is Direction.EGRESS
            number = random.randint(generations.of(at.id), generations.current)
            top = JUDGED_OUT if opened else random.choice([0, JUDGED_OUT])
            mark = top | (random.randint(0, 9) if opened else number)
            old = not opened and number < generations.newest and at.port_security_enabled
            # What a port has opened goes on though nobody answers it.
            unanswered = [(replace(one.first, confirmed=True), True)] if opened else []
            met = [(one.later, opened), (one.answer, not opened), *unanswered]
            for packet, leaving in met:
                got = scene.meet(replace(packet, mark=mark), at, leaving=leaving)
                after = scene.stamped(one, mark, direction) if old else mark
                assert (got.accepted, got.mark) == (True, after), (one, at, got)


@DRAWN
@given(RANDOMS)
def test_icmp_errors_pass_with_their_connection_or_not_at_all(random: Random) -> None:
    drawing, scene = _scene(random)
    for _ in range(QUESTIONS):
        one = _connection(drawing, scene.policy)
        error = ICMP if one.family is Family.IPV4 else ICMPV6
        for at, direction in scene.ends(one):
            if one.first_state is not NEW or not at.port_security_enabled:
                continue
            opened = direction is Direction.EGRESS
            mark = random.choice([0, JUDGED_OUT]) | _inbound_bits(random, scene, one)
            judged = mark >= JUDGED_OUT
            if not opened:
                judged = generation_of(mark) >= scene.generations.of(at.id)
                judged = judged or mark & INBOUND in scene.ways(one, at)
            for packet, leaving in ((one.later, opened), (one.answer, not opened)):
                about = replace(
                    packet,
                    state=walker.State.RELATED,
                    protocol=error,
                    icmp_type=3 if error == ICMP else 1,
                    icmp_code=0,
                    mark=mark,
                )
                got = scene.meet(about, at, leaving=leaving)
                assert got.accepted is judged, (one, at, got)


@DRAWN
@given(RANDOMS)
def test_packets_between_other_interfaces_are_left_alone(random: Random) -> None:
    drawing, scene = _scene(random)
    one = replace(_connection(drawing, scene.policy).first, iif=UPLINK, oif="br0", mark=3)
    for base in (names.FROM_PORT, names.TO_PORT):
        assert scene.walker.walk(base, one) == Walked(accepted=True, mark=3, path=(base,))


@DRAWN
@given(RANDOMS)
def test_managed_interfaces_that_no_port_claims_are_closed(random: Random) -> None:
    drawing, scene = _scene(random)
    one = replace(_connection(drawing, scene.policy).first, iif="tap-none", oif="vnet7")
    for base in (names.FROM_PORT, names.TO_PORT):
        got = scene.walker.walk(base, one)
        assert not got.accepted and (got.path[0], got.path[-1]) == (base, names.CLOSED)


LEAVING = Policy(state([group("g", *both(), *both("egress"))], [port("1", ["g"], ["10.0.0.1"])]))
OPENED = Connection(ip_address("10.0.0.1"), ip_address("203.0.113.9"), TCP, 1, 80, 0, 0)


@pytest.mark.parametrize(
    ("family", "ports", "base"),
    [
        ("inet", 1, names.RAW_FROM),
        ("inet", 0, names.RAW_FROM),
        ("inet", 0, names.FROM_PORT),
        ("bridge", 1, names.RAW_FROM),
        ("bridge", 0, names.FROM_PORT),
    ],
)
def test_what_comes_from_where_no_port_is_ends_whatever_the_mark_says(
    family: str, ports: int, base: str
) -> None:
    one = Binding("tap-1", bridge="br0" if family == "bridge" else None)
    walk = Walker(
        compile_ruleset(LEAVING, Host({"1": one} if ports else {}), Generations(), family)
    )
    got = walk.walk(base, replace(OPENED.later, iif="tap-2", mark=JUDGED_OUT | 1))
    assert not got.accepted and got.path[-1] == names.CLOSED


def test_what_a_port_has_left_is_closed_whatever_the_mark_says() -> None:
    here = {"1": Binding("tap-1")}
    walk = Walker(compile_ruleset(LEAVING, Host(here, left=frozenset({7})), Generations()))
    answer = replace(OPENED.answer, mark=JUDGED_OUT | 1, oif="tap-2")
    for index, passes in ((7, False), (8, True)):
        assert walk.walk(names.TO_PORT, replace(answer, oif_index=index)).accepted is passes


def test_fresh_connections_of_a_port_that_went_are_not_the_next_ones() -> None:
    """A port asks for its own minimum even when another's packets are already fresh."""
    made = state([group("g", *both())], [port(i, ["g"], [f"10.0.0.{i}"]) for i in ("1", "2")])
    policy = Policy(made)
    scene = Scene.of(policy, Generations(9, 9, {"1": 3, "2": 9}))
    one = Connection(ip_address("203.0.113.9"), ip_address("10.0.0.1"), TCP, 1, 80, 0, 0)
    for at, name in (("1", "tap-1"), ("2", "tap-2")):
        got = scene.walker.walk(names.TO_PORT, replace(one.later, oif=name, mark=3))
        assert (names.generation(3) in got.path) is (at == "1")
        assert (got.accepted, got.mark) == (True, 9)


def test_outbound_tcp_that_nobody_has_tracked_passes_only_while_its_port_is_adopted() -> None:
    policy = Policy(state([group("g", *both("egress"))], [port("1", ["g"], ["10.0.0.1"])]))
    found = Scene.of(policy, Generations())
    adopting = replace(
        found.walker.ruleset.sets[names.ADOPTING], elements={b"tap-1".ljust(16, b"\0"): ""}
    )
    adopted = replace(
        found.walker.ruleset, sets={**found.walker.ruleset.sets, names.ADOPTING: adopting}
    )
    opening = Packet(
        source=ip_address("10.0.0.1"),
        destination=ip_address("203.0.113.9"),
        protocol=TCP,
        iif="tap-1",
    )
    for flags in ({"ack"}, {"syn", "ack"}, {"rst"}, {"fin", "ack"}, set[str]()):
        middle = replace(opening, flags=frozenset(flags))
        assert not found.walker.walk(names.FROM_PORT, middle).accepted
        assert Walker(adopted).walk(names.FROM_PORT, middle).accepted
    for flags in ({"syn"}, {"syn", "ece", "cwr"}):
        assert found.walker.walk(names.FROM_PORT, replace(opening, flags=frozenset(flags))).accepted


def test_ports_whose_names_cannot_be_written_are_found_by_index() -> None:
    rules = (*both("egress"), rule("ingress", TCP, "80"))
    policy = Policy(state([group("g", *rules)], [port("1", ["g"], ["10.0.0.1"])]))
    host = Host({"1": Binding('tap"1', 7)})
    compiled = compile_ruleset(policy, host, Generations())
    assert all(index_key(7) in s.elements for n, s in compiled.sets.items() if "_index_" in n)
    one = Connection(ip_address("203.0.113.9"), ip_address("10.0.0.1"), TCP, 1, 80, 0, 0)
    for dport, passes in ((80, True), (81, False)):
        packet = replace(one.first, dport=dport, oif='tap"1', oif_index=7)
        assert Walker(compiled).walk(names.TO_PORT, packet).accepted is passes
    nobody = replace(one.first, oif='tap"1', oif_index=8)
    assert not Walker(compiled).walk(names.TO_PORT, nobody).accepted


End = tuple[Binding, str | None, str]
"""An interface, the VPC of what is behind it, and an address there."""


def _ends(policy: Policy, host: Host) -> dict[str, list[End]]:
    """What a host forwards between, by the family of the table that sees it."""
    found: dict[str, list[End]] = {"inet": [], "bridge": []}
    for port_id, at in host.bindings.items():
        one = policy.ports[port_id]
        address = str(one.private_ips[0])
        seen = at if at.bridge is None else Binding(at.bridge)
        found["inet"].append((seen, one.vpc_id, address))
        if at.bridge is not None:
            found["bridge"].append((at, one.vpc_id, address))
    far: list[End] = [(Binding(UPLINK), None, "203.0.113.9")]
    far += [(Binding(u), v.id, "203.0.113.9") for v in policy.state.vpcs for u in v.uplinks]
    # Where no port is on a bridge, bridges are the host's own affair.
    return {family: ends + far for family, ends in found.items() if family == "inet" or ends}


@DRAWN
@given(RANDOMS)
def test_the_host_forwards_nothing_between_vpcs_that_do_not_see_each_other(random: Random) -> None:
    vpcs = ["a", "b", "c", "d"][: random.randint(1, 4)]
    places = [None, None, "br0", "br1"]
    ports = [
        port(str(n), ["g"], [random.choice([f"10.0.0.{n}", f"fd00::{n}"])], vpc=random.choice(vpcs))
        for n in range(1, random.randint(2, 7))
    ]
    pairs = [(one, other) for one in vpcs for other in vpcs if one < other]
    peerings = random.sample(pairs, random.randint(0, len(pairs)))
    made = state([group("g", *both("egress"))], ports, peerings=peerings)
    with_uplinks = [
        replace(vpc, uplinks=(f"bond-{vpc.id}",) * random.randint(0, 1)) for vpc in made.vpcs
    ]
    forms = random.sample(["tap-{}", "vnet-{}", "own{}", 'tap"{}'], random.randint(1, 3))
    names_of = {p.id: random.choice(forms).format(p.id) for p in ports}
    bindings = {
        port_id: Binding(
            name,
            int(port_id) if '"' in name or random.random() < 0.1 else None,
            random.choice(places),
        )
        for port_id, name in names_of.items()
    }
    policy, host = Policy(replace(made, vpcs=tuple(with_uplinks))), Host(bindings)
    met = {frozenset((v, v)) for v in vpcs} | {frozenset(pair) for pair in peerings}
    compiled = compile_host(policy, host, Generations())
    for family, ends in _ends(policy, host).items():
        walk = Walker(compiled[family])
        for (one, vpc, source), (other, others_vpc, target) in itertools.permutations(ends, 2):
            ways = ip_address(source), ip_address(target)
            if ways[0].version != ways[1].version:
                continue
            # A link that is found by its index may have any name by now.
            packet = replace(
                Connection(*ways, TCP, 1, 80, 0, 0).first,
                iif=one.interface if one.index is None else "renamed0",
                oif=other.interface if other.index is None else "renamed1",
                iif_index=one.index or 0,
                oif_index=other.index or 0,
            )
            stands = names.FORWARDED in compiled[family].chains
            got = not stands or walk.walk(names.FORWARDED, packet).accepted
            wanted = vpc is None or others_vpc is None or {vpc, others_vpc} in met
            assert got is wanted, (family, one, other, packet, met)


WALLED = [Binding("tap-1"), Binding("vnet-1"), Binding("own1"), Binding("tap-1", 1)]


@pytest.mark.parametrize("one", WALLED)
@pytest.mark.parametrize("other", [replace(b, interface=b.interface[:-1] + "2") for b in WALLED])
def test_whatever_the_interfaces_of_two_vpcs_are_called_nothing_passes_between_them(
    one: Binding, other: Binding
) -> None:
    if other.index is not None:
        other = replace(other, index=2)
    ports = [port("1", ["g"], ["10.0.0.1"], vpc="a"), port("2", ["g"], ["10.0.0.2"], vpc="b")]
    policy = Policy(state([group("g", *both("egress"))], ports))
    walk = Walker(compile_ruleset(policy, Host({"1": one, "2": other}), Generations())).walk
    way = Connection(ip_address("10.0.0.1"), ip_address("10.0.0.2"), TCP, 1, 80, 0, 0)
    # A link that is found by its index may have any name by now.
    first, second = (
        (b.interface if b.index is None else "renamed", b.index or 0) for b in (one, other)
    )
    for (iif, iif_index), (oif, oif_index) in ((first, second), (second, first)):
        packet = replace(way.first, iif=iif, iif_index=iif_index, oif=oif, oif_index=oif_index)
        assert not walk(names.FORWARDED, packet).accepted
        assert walk(names.FORWARDED, replace(packet, oif=UPLINK, oif_index=9)).accepted
        assert walk(names.FORWARDED, replace(packet, iif=UPLINK, iif_index=9)).accepted


@pytest.mark.parametrize("name", ["tap-1", "own1", 'own"1'])
@pytest.mark.parametrize("today", ["tap-1", "vnet9", "own1", "renamed0"])
def test_a_port_that_is_found_by_index_is_judged_whatever_its_link_is_called_by_now(
    name: str, today: str
) -> None:
    rules = (rule("egress", TCP, "80"), rule("ingress", TCP, "80"))
    made = state([group("g", *rules)], [port("1", ["g"], ["10.0.0.1"])])
    host = Host({"1": Binding(name, 7)})
    walk = Walker(compile_ruleset(Policy(made), host, Generations())).walk
    far, own = ip_address("203.0.113.9"), ip_address("10.0.0.1")
    for dport, passes in ((80, True), (81, False)):
        inward = Connection(far, own, TCP, 1, dport, 0, 0).first
        outward = Connection(own, far, TCP, 1, dport, 0, 0).first
        got = walk(names.TO_PORT, replace(inward, oif=today, oif_index=7))
        back = walk(names.FROM_PORT, replace(outward, iif=today, iif_index=7))
        assert (got.accepted, back.accepted) == (passes, passes)


def test_a_port_outside_the_managed_patterns_is_judged_like_any_other() -> None:
    made = state([group("g", rule("ingress", TCP, "80"))], [port("1", ["g"], ["10.0.0.1"])])
    host = Host({"1": Binding("own1")})
    walk = Walker(compile_ruleset(Policy(made), host, Generations())).walk
    one = Connection(ip_address("203.0.113.9"), ip_address("10.0.0.1"), TCP, 1, 80, 0, 0)
    assert walk(names.TO_PORT, replace(one.first, oif="own1")).accepted
    assert not walk(names.TO_PORT, replace(one.first, oif="own1", dport=81)).accepted
    assert not walk(names.FROM_PORT, replace(one.first, iif="own1")).accepted


def _shuffled(random: Random, made: State) -> State:
    def mixed(items: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(random.sample(items, len(items)))

    return replace(
        made,
        vpcs=mixed(made.vpcs),
        load_balancers=mixed(
            tuple(
                replace(
                    b,
                    listeners=mixed(
                        tuple(replace(one, members=mixed(one.members)) for one in b.listeners)
                    ),
                )
                for b in made.load_balancers
            )
        ),
        address_groups=mixed(
            tuple(replace(g, entries=mixed(g.entries)) for g in made.address_groups)
        ),
        security_groups=mixed(
            tuple(replace(g, rules=mixed(g.rules)) for g in made.security_groups)
        ),
        instances=mixed(
            tuple(
                replace(
                    i,
                    ports=mixed(
                        tuple(replace(p, private_ips=mixed(p.private_ips)) for p in i.ports)
                    ),
                )
                for i in made.instances
            )
        ),
    )


@DRAWN
@given(RANDOMS)
def test_order_where_it_means_nothing_changes_no_byte(random: Random) -> None:
    made = Drawing(random).state(most_rules=7)
    texts = []
    for one in (made, _shuffled(random, made)):
        policy = Policy(one)
        compiled = compile_ruleset(policy, Host(_bindings(policy)), Generations(3, 2, {"p1": 1}))
        texts.append(compiled.text())
    assert texts[0] == texts[1]


def _led_to(ruleset: Ruleset) -> dict[str, set[str]]:
    """By chain, the chains that it leads to, over maps too."""
    pattern = re.compile(r"(?:goto|jump) (\S+)")
    found: dict[str, set[str]] = {}
    for chain in ruleset.chains.values():
        targets = found.setdefault(chain.name, set())
        for one in chain.rules:
            targets.update(pattern.findall(one.text))
            for name in re.findall(r"@(?!th,)(\S+)", one.text):
                for verdict in ruleset.sets[name].elements.values():
                    targets.update(pattern.findall(verdict))
    return found


@pytest.mark.parametrize("mode", Clearing)
@DRAWN
@given(RANDOMS)
def test_every_reference_resolves_and_nothing_is_left_over(mode: Clearing, random: Random) -> None:
    _, scene = _scene(random, mode)
    ruleset = scene.walker.ruleset
    led_to = _led_to(ruleset)
    assert set().union(*led_to.values()) <= ruleset.chains.keys()
    bases = {c.name for c in ruleset.chains.values() if c.hook}
    assert bases == {names.FROM_PORT, names.TO_PORT, names.RAW_FROM}, "all are in one VPC"
    depth: dict[str, int] = {}
    for name in TopologicalSorter(led_to).static_order():
        depth[name] = 1 + max((depth[target] for target in led_to[name]), default=0)
    assert max(depth.values()) <= MOST_JUMPS
    assert not bases & set().union(*led_to.values())


@DRAWN
@given(RANDOMS)
def test_every_set_is_used_and_declared_large_enough(random: Random) -> None:
    _, scene = _scene(random)
    ruleset = scene.walker.ruleset
    texts = " ".join(r.text for c in ruleset.chains.values() for r in c.rules)
    for one in ruleset.sets.values():
        assert f"@{one.name} " in f"{texts} "
        assert one.key.value.interval or len(one.elements) <= (one.size or 0)


def test_the_walker_refuses_what_it_does_not_know() -> None:
    for text in ("ct state new log accept", "queue", "ip ttl 1 accept", "ct mark set 1 accept"):
        with pytest.raises(walker.UnknownText):
            walker.understood(text)


def test_drawn_questions_meet_both_verdicts() -> None:
    """The properties above would hold for nothing if everything were denied."""
    verdicts = set()
    for seed in range(30):
        drawing, scene = _scene(Random(seed))
        one = _connection(drawing, scene.policy)
        verdicts |= {(d, scene.decide(one, at, d).allowed) for at, d in scene.ends(one)}
    assert verdicts == {(d, a) for d in Direction for a in (True, False)}
    assert OUTSIDE
