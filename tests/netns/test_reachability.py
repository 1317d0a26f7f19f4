from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from tests.tables import chain, load, needs

from secgroupd.core.model import (
    GRE,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    AddressPair,
    Instance,
    Peering,
    Port,
    State,
    Vpc,
)
from secgroupd.errors import QuestionError
from secgroupd.proving.namespaces import Kind, Lab
from secgroupd.proving.packets import Method
from secgroupd.proving.questions import Finder, FlowQuestion
from secgroupd.proving.reachability import observe, placed

pytestmark = pytest.mark.netns


def port(name: str, *addresses: str, vpc: str = "x", interface: str | None = None) -> Port:
    return Port(
        id=name,
        vpc_id=vpc,
        interface=interface,
        host_id=f"host-of-{name}",
        private_ips=tuple(map(ip_address, addresses)),
    )


def state(
    *ports: Port, uplinks: Iterable[tuple[str, str]] = (), peered: Iterable[tuple[str, str]] = ()
) -> State:
    carried = dict(uplinks)
    names = sorted({each.vpc_id for each in ports})
    return State(
        vpcs=tuple(
            Vpc(id=name, uplinks=(carried[name],) if name in carried else ()) for name in names
        ),
        peerings=tuple(Peering(id=f"{a}-{b}", vpc_ids=(a, b)) for a, b in peered),
        instances=tuple(Instance(id=f"ecs-{each.id}", ports=(each,)) for each in ports),
    )


def ask(source: str, destination: str, protocol: int = TCP, dport: int | None = 80) -> FlowQuestion:
    if protocol not in {TCP, UDP}:
        dport = None
    return FlowQuestion(source=source, destination=destination, protocol=protocol, dport=dport)


class Enforcer:
    """Loads the same rules into every lab, with ``@NAME`` for the index of a port's interface."""

    def __init__(self, *rules: str) -> None:
        self.rules = rules
        self.labs: list[set[str]] = []
        self.states: list[State] = []

    def __call__(self, lab: Lab, here: State) -> None:
        self.labs.append(set(lab.ports))
        self.states.append(here)
        if not self.rules:
            return
        text = "\n".join(self.rules)
        for instance in here.instances:
            (only,) = instance.ports
            if only.interface and only.interface in lab.ports:
                text = text.replace(f"@{only.id}", str(lab.ports[only.interface].index))
        if "ct state" in text:
            needs(lab, "forward", "ct state established")
        load(lab, chain("forward", text))


TRIO = state(
    port("a", "10.0.0.1", "2001:db8::1", interface='tap"a'),
    port("b", "10.0.0.2", "2001:db8::2"),
    port("c", "10.0.0.3"),
)


KINDS: tuple[Kind, ...] = ("veth", "tap")


@pytest.mark.parametrize("kind", KINDS)
def test_each_question_is_answered_by_its_own_packet(kind: Kind) -> None:
    enforce = Enforcer(
        "ct state established accept", "iif @a oif @b tcp dport 80 drop", "oif @c drop"
    )
    questions = [
        ask("a", "b"),
        ask("a", "b", dport=81),
        ask("b", "a"),
        ask("10.0.0.1", "10.0.0.2"),
        ask("a", "c", UDP),
        ask("c", "a", UDP),
        ask("203.0.113.9", "a"),
        ask("a", "2001:db8:9::9"),
        ask("203.0.113.9", "c"),
        ask("a", "b", ICMPV6),
        ask("a", "b", ICMP),
        ask("a", "b"),
    ]
    seen = observe(TRIO, questions, enforce, kind=kind)
    assert [one.connected for one in seen] == [
        False, True, True, False, False, True, True, True, False, True, True, False,
    ]  # fmt: skip
    assert seen[9].method is Method.ECHO
    assert enforce.labs == [{'tap"a', "sgt1", "sgt2"}]


def test_a_protocol_without_ports_is_asked_both_ways_without_mixing_them_up() -> None:
    enforce = Enforcer("ct state established accept", "iif @b drop")
    questions = [ask("a", "b", GRE), ask("b", "a", GRE), ask("a", "b", 253), ask("b", "a", 253)]
    seen = observe(TRIO, [*questions, *questions[::-1]], enforce)
    assert [one.delivered for one in seen] == [True, False, True, False, False, True, False, True]


def test_vpcs_that_reuse_addresses_get_labs_of_their_own() -> None:
    document = state(
        port("x1", "10.0.0.1"),
        port("x2", "10.0.0.2"),
        port("y1", "10.0.0.1", vpc="y"),
        port("z1", "10.0.0.3", vpc="z"),
        peered=[("y", "z")],
    )
    enforce = Enforcer()
    questions = [ask("x2", "10.0.0.1"), ask("z1", "10.0.0.1"), ask("y1", "z1"), ask("x1", "x2")]
    assert all(one.connected for one in observe(document, questions, enforce))
    assert enforce.labs == [{"sgt1", "sgt2"}, {"sgt3", "sgt4"}]
    assert enforce.states[0] == enforce.states[1] == placed(document)
    with pytest.raises(QuestionError, match="without a peering"):
        observe(document, [ask("x2", "z1")], enforce)


def test_only_the_ports_asked_about_can_be_built() -> None:
    enforce = Enforcer()
    assert observe(TRIO, [ask("a", "c")], enforce, only_asked=True)[0].connected
    assert enforce.labs == [{'tap"a', "sgt2"}]


def test_each_vpc_reaches_the_outside_through_its_own_uplink() -> None:
    document = state(
        port("x1", "10.0.0.1"),
        port("y1", "10.0.1.1", vpc="y"),
        port("z1", "10.0.2.1", vpc="z"),
        uplinks=[("x", "bond0.1"), ("y", "bond0.2")],
    )
    rules = (
        'iif @x1 oifname != "bond0.1" drop',
        'iif @y1 oifname != "bond0.2" drop',
        'iif @z1 oifname != "uplink0" drop',
    )
    ends = [("x1", "203.0.113.9"), ("y1", "203.0.113.9"), ("z1", "203.0.113.9")]
    questions = [ask(*pair) for pair in ends] + [ask(*pair[::-1]) for pair in ends]
    assert all(one.connected for one in observe(document, questions, Enforcer(*rules)))


def test_names_that_two_hosts_share_are_told_apart() -> None:
    document = state(
        port("a", "10.0.0.1", interface="tap1"),
        port("b", "10.0.0.2", interface="tap1"),
        port("c", "10.0.0.3", interface="uplink0"),
        port("d", "10.0.0.4", interface="sgt1"),
    )
    enforce = Enforcer()
    questions = [ask("a", "b"), ask("b", "c"), ask("c", "d"), ask("d", "a")]
    assert all(one.connected for one in observe(document, questions, enforce))
    assert enforce.labs == [{"tap1", "sgt2", "sgt3", "sgt1"}]
    ports = [each for instance in enforce.states[0].instances for each in instance.ports]
    assert {each.host_id for each in ports} == {None}


def test_a_port_answers_with_the_family_that_fits() -> None:
    finder = Finder(TRIO)
    for question, expected in (
        (ask("a", "b"), "10.0.0.1"),
        (ask("a", "2001:db8::2"), "2001:db8::1"),
        (ask("a", "2001:db8:9::9"), "2001:db8::1"),
        (ask("a", "b", ICMPV6), "2001:db8::1"),
        (ask("a", "c", ICMPV6), "10.0.0.1"),
        (ask("2001:db8::1", "b"), "2001:db8::1"),
    ):
        assert str(finder.find(question).source.address) == expected


@pytest.mark.parametrize(
    ("source", "destination", "message"),
    [
        ("a", "nobody", "neither the id of a port nor an address"),
        ("a", "a", "same port"),
        ("a", "10.0.0.1", "same port"),
        ("203.0.113.1", "203.0.113.2", "neither end is a port"),
        ("c", "2001:db8::1", "same family"),
        ("a", "bare", "same family"),
        ("a", "127.0.0.1", "no address"),
        ("a", "224.0.0.1", "no address"),
        ("a", "0.0.0.0", "no address"),
        ("a", "255.255.255.255", "no address"),
        ("a", "169.254.1.1", "no address"),
        ("a", "fe80::1", "no address"),
        ("a", "ff02::1", "no address"),
    ],
)
def test_questions_that_no_packet_can_answer(source: str, destination: str, message: str) -> None:
    document = state(*(each for one in TRIO.instances for each in one.ports), port("bare"))
    enforce = Enforcer()
    with pytest.raises(QuestionError, match=message):
        observe(document, [ask("a", "b"), ask(source, destination)], enforce)
    assert not enforce.labs, "nothing is built for questions that cannot be asked"


def test_fields_that_do_not_go_together_are_a_question_error() -> None:
    with pytest.raises(QuestionError, match="needs a destination port"):
        observe(TRIO, [ask("a", "b", dport=None)], Enforcer())


def test_an_address_of_two_ports_must_be_named_by_port() -> None:
    document = state(
        port("x1", "10.0.0.1"), port("y1", "10.0.0.1", vpc="y"), port("z1", "10.0.0.3", vpc="z")
    )
    with pytest.raises(QuestionError, match=r"several ports \(x1, y1\)"):
        observe(document, [ask("203.0.113.9", "10.0.0.1")], Enforcer())
    twins = state(port("x1", "10.0.0.1"), port("x2", "10.0.0.1"), port("x3", "10.0.0.3"))
    with pytest.raises(QuestionError, match="no packet can tell them apart"):
        observe(twins, [ask("x3", "x1")], Enforcer())


def test_a_virtual_address_is_at_a_port_that_may_have_it() -> None:
    shared = AddressPair(network=ip_network("10.0.0.100/32"))
    ports = [
        replace(port(name, address), allowed_address_pairs=(shared,))
        for name, address in (("a", "10.0.0.1"), ("b", "10.0.0.2"))
    ]
    document = state(*ports, port("c", "10.0.0.3"))
    questions = [ask("c", "10.0.0.100"), ask("c", "b"), ask("10.0.0.100", "c")]
    seen = observe(document, questions, Enforcer("oif @a drop"))
    assert [one.connected for one in seen] == [False, True, False]
    with pytest.raises(QuestionError, match="only one of them can have it"):
        observe(document, [ask("c", "10.0.0.100"), ask("a", "10.0.0.100")], Enforcer())
