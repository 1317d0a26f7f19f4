"""Tracked connections: whose they are, whether their stamp is fresh, what the rules say now."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from tests.builders import both, group, port, rule, state

from secgroupd.core.host import Generations
from secgroupd.core.living import Epoch, Fate, standings
from secgroupd.core.marks import JUDGED_OUT
from secgroupd.core.model import ICMP, TCP, AddressPair, Port
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Connection, Endpoint, Judge, address, vacated

CLIENT, SERVER, CALLED = (ip_address(a) for a in ("203.0.113.9", "10.0.0.1", "198.51.100.1"))
GROUP = group(
    "g", rule("ingress", "tcp", "8080", "203.0.113.9"), rule(protocol="icmp", icmp=(8, 0))
)
GENERATIONS = Generations(7, 7, {"p": 5})


def judge(*ports: Port, local: tuple[str, ...] = ("p",)) -> Judge:
    made = ports or (port("p", ["g"], [str(SERVER), "fd00::1"]),)
    return Judge(Policy(state([GROUP], made)), GENERATIONS, local)


def connection(mark: int = 0, *, dport: int = 8080, answers: int = 8080) -> Connection:
    return Connection(
        TCP,
        Endpoint(CLIENT, CALLED, 40000, dport),
        Endpoint(SERVER, CLIENT, answers, 40000),
        mark,
        b"",
    )


@pytest.mark.parametrize(
    ("mark", "stale"), [(0, True), (4, True), (5, False), (7, False), (JUDGED_OUT | 4, True)]
)
def test_a_stamp_is_stale_when_older_than_its_ports_minimum(mark: int, stale: bool) -> None:
    found = judge().inbound(connection(mark))
    assert found is not None and found.stale is stale


def test_a_port_without_a_minimum_asks_for_the_newest() -> None:
    found = judge(port("q", ["g"], [str(SERVER)]), local=("q",)).inbound(connection(6))
    assert found is not None and found.stale


def test_the_judged_port_is_the_one_that_answers_whatever_was_called() -> None:
    found = judge().inbound(connection(dport=80, answers=8080))
    assert found is not None and found.decision.allowed
    other = judge().inbound(connection(dport=8080, answers=80))
    assert other is not None and not other.decision.allowed


@pytest.mark.parametrize(
    "made",
    [
        judge(local=()),
        judge(local=("gone",)),
        judge(port("p", ["g"], [str(SERVER)], security=False)),
        judge(port("p", ["g"], [str(CLIENT)])),
    ],
    ids=["elsewhere", "unknown", "without-port-security", "the-originator"],
)
def test_a_connection_that_no_judged_port_here_answers_is_nobodys(made: Judge) -> None:
    assert made.inbound(connection()) is None


@pytest.mark.parametrize(("kind", "allowed"), [((8, 0), True), ((8, 1), False), ((13, 0), False)])
def test_type_and_code_are_those_of_the_request(kind: tuple[int, int], allowed: bool) -> None:
    one = Connection(
        ICMP,
        Endpoint(CLIENT, SERVER, 99),
        Endpoint(SERVER, CLIENT, 99),
        0,
        b"",
        icmp_type=kind[0],
        icmp_code=kind[1],
    )
    found = judge().inbound(one)
    assert found is not None and found.decision.allowed is allowed


def test_minimums_are_known_by_the_kernels_bytes() -> None:
    assert judge().minimums == {(0, SERVER.packed): 5, (0, ip_address("fd00::1").packed): 5}
    assert {address(raw) for _, raw in judge().minimums} == {SERVER, ip_address("fd00::1")}


@pytest.mark.parametrize(
    ("vpcs", "peerings", "apart"),
    [
        (("a", "a"), (), False),
        (("a", "b"), (("a", "b"),), False),
        (("a", "b"), (), True),
        (("a", "b"), (("a", "c"), ("c", "b")), True),
    ],
)
def test_between_ports_of_vpcs_that_no_peering_connects_all_is_denied(
    vpcs: tuple[str, str], peerings: tuple[tuple[str, str], ...], apart: bool
) -> None:
    """As the walls between them do, whatever the rules say."""
    ports = [
        port(name, ["open"], [str(address)], vpc=vpc)
        for name, address, vpc in zip(("q", "p"), (CLIENT, SERVER), vpcs, strict=True)
    ]
    policy = Policy(state([group("open", *both(), *both("egress"))], ports, peerings=peerings))
    for local in (("p", "q"), ("p",)):
        judging = Judge(policy, GENERATIONS, local)
        found = judging.inbound(connection(7))
        assert found is not None and found.decision.allowed is not (apart and "q" in local)
        epochs = [Epoch("now", policy, GENERATIONS)]
        standing = {one.now.port_id: one for one in standings(connection(7), judging, epochs)}
        assert (standing["p"].fate is Fate.CUT) is (apart and "q" in local)
        assert ("q" in standing) is ("q" in local)


OWN, NEXT, SHARED = "10.0.0.1", "10.0.0.2", "10.0.0.100"
VIRTUAL = (AddressPair(network=ip_network(SHARED)),)
P = replace(port("p", ["g"], [OWN]), allowed_address_pairs=VIRTUAL)
Q = replace(port("q", ["g"], [NEXT]), allowed_address_pairs=VIRTUAL)


@pytest.mark.parametrize(
    ("after", "left"),
    [
        ([P, Q], set()),
        ([replace(P, security_groups=()), Q], set()),
        ([Q], {OWN}),
        ([], {OWN, NEXT, SHARED}),
        ([replace(P, id="another"), Q], {OWN}),
        ([replace(P, private_ips=(ip_address("10.0.0.9"),)), Q], {OWN}),
        ([replace(P, allowed_address_pairs=()), Q], set()),
        (
            [replace(P, private_ips=Q.private_ips), replace(Q, private_ips=P.private_ips)],
            {OWN, NEXT},
        ),
        ([P, replace(Q, private_ips=(*Q.private_ips, *P.private_ips))], set()),
    ],
)
def test_an_address_is_left_when_none_that_had_it_has_it_still(
    after: list[Port], left: set[str]
) -> None:
    now = judge(*after, local=tuple(one.id for one in after)) if after else judge(local=())
    found = vacated(judge(P, Q, local=("p", "q")), now)
    assert found == {(0, ip_address(each).packed) for each in left}


def test_a_port_that_another_host_has_now_has_left() -> None:
    before, after = judge(P, Q, local=("p", "q")), judge(P, Q, local=("q",))
    assert vacated(before, after) == {(0, ip_address(OWN).packed)}
