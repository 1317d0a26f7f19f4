"""What the linter says of rules is true: held against the evaluator, on drawn documents.

In the small universe every packet that rules can tell apart is asked about; the drawn documents are
as wild as those of the other property tests, and asked about at the edges of their rules.
"""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from itertools import product
from random import Random

import pytest
from tests.builders import address_group, group, port, rule, state
from tests.drawing import Drawing

from secgroupd.core.doubts import Doubt
from secgroupd.core.lint import warnings
from secgroupd.core.model import (
    ICMP,
    TCP,
    UDP,
    Direction,
    Family,
    Forwarder,
    Listener,
    LoadBalancer,
    Member,
    Port,
    Rule,
    SecurityGroup,
    State,
    family_of,
)
from secgroupd.core.policy import Policy
from secgroupd.core.verdict import Decision, Packet, Reason, decide, rule_matches

NEVER_DECIDE = {Doubt.SHADOWED_RULE, Doubt.CONTRADICTORY_RULE}
SUPERFLUOUS = NEVER_DECIDE | {Doubt.REDUNDANT_RULE}
PER_SEED = 60

Named = dict[Doubt, set[tuple[str, str]]]


def placed(made: State) -> State:
    """The state with a place for each rule, from which a warning's rule is known."""
    keys = [f"rule:{g.id}/{r.id}" for g in made.security_groups for r in g.rules]
    return replace(made, places={key: f"{key}:1" for key in keys})


def named(made: State) -> Named:
    """Which rules, by group and id, are named with which code."""
    found: Named = {code: set() for code in Doubt}
    for problem in warnings(placed(made)):
        if problem.file.startswith("rule:"):
            group_id, rule_id = problem.file.removeprefix("rule:").split("/", 1)
            found[Doubt(problem.code)].add((group_id, rule_id))
    return found


def without(made: State, rules: set[tuple[str, str]]) -> State:
    groups = tuple(
        replace(g, rules=tuple(r for r in g.rules if (g.id, r.id) not in rules))
        for g in made.security_groups
    )
    return replace(made, security_groups=groups)


Asked = tuple[Port, Direction, Packet]


def small(random: Random) -> State:
    """A document over a few addresses and ports, so that rules cover each other all the time."""

    def drawn(at: int) -> Rule:
        protocol = random.choice([None, None, TCP, TCP, TCP, UDP, ICMP])
        multiport = random.choice([None, "1-4", "1-2", "3-4", "2", "3", "1,3-4", "22"])
        icmp = random.choice([None, (8, None), (8, 0), (8, 1), (3, None)])
        remote = random.choice(
            [None, "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/30", "10.0.0.0/31",
             "10.0.0.2/31", "10.0.0.1/32", "sg:a", "sg:b", "ag:x", "ag:y", "ag:all"]
        )  # fmt: skip
        return rule(
            random.choice(["ingress", "egress"]),
            protocol,
            multiport if protocol in {TCP, UDP} else None,
            remote,
            action=random.choice(["allow", "deny"]),
            priority=random.choice([1, 2, 3]),
            rule_id=f"r{at}",
            icmp=icmp if protocol == ICMP else None,
            enabled=random.random() < 0.95,
        )

    def grouped(group_id: str) -> SecurityGroup:
        return group(group_id, *(drawn(at) for at in range(random.randint(0, 7))))

    lists = [random.sample(["a", "b", "c"], random.randint(1, 3)) for _ in range(3)]
    return state(
        [grouped(group_id) for group_id in ("a", "b", "c")],
        [port(f"p{at}", groups, [f"10.0.0.{at}"]) for at, groups in enumerate(lists)],
        address_groups=[
            address_group("x", "10.0.0.0-10.0.0.1", "10.0.0.2"),
            address_group("y", "10.0.0.3", "128.0.0.0/1"),
            address_group("all", "0.0.0.0/1", "128.0.0.0/1"),
        ],
    )


def every_packet(made: State) -> Iterator[Asked]:
    addresses = [f"10.0.0.{at}" for at in range(5)] + ["0.0.0.9", "127.255.255.255", "200.0.0.1"]
    kinds = [(protocol, dport, 8, 0) for protocol in (TCP, UDP) for dport in (0, 1, 2, 3, 4, 5, 22)]
    kinds += [(ICMP, 0, kind, code) for kind in (3, 8, 13) for code in (0, 1, 2)]
    kinds += [(47, 0, 8, 0)]
    for one, direction in product(Policy(made).ports.values(), Direction):
        for address, (protocol, dport, kind, code) in product(addresses, kinds):
            yield (
                one,
                direction,
                Packet(
                    peer=IPv4Address(address),
                    protocol=protocol,
                    dport=dport,
                    icmp_type=kind,
                    icmp_code=code,
                ),
            )


def at_edges(made: State, random: Random) -> Iterator[Asked]:
    policy, drawing = Policy(made), Drawing(random)
    for _ in range(150):
        asked = drawing.question(policy)
        for one, end in product(policy.ports.values(), (asked.source, asked.destination)):
            for direction in Direction:
                yield (
                    one,
                    direction,
                    Packet(
                        peer=ip_address(end),
                        protocol=asked.protocol,
                        dport=asked.dport or 0,
                        icmp_type=asked.icmp_type or 0,
                        icmp_code=asked.icmp_code or 0,
                    ),
                )


def judged(made: State, asked: list[Asked]) -> list[Decision]:
    policy = Policy(made)
    return [decide(policy, *each) for each in asked]


def hold(made: State, asked: list[Asked]) -> Named:
    """Assert that what is said of the rules is true of these packets."""
    said = named(made)
    before = judged(made, asked)
    decided = {(decision.group_id, decision.rule_id) for decision in before}
    for code in NEVER_DECIDE:
        assert not said[code] & decided
    superfluous = set().union(*(said[code] for code in SUPERFLUOUS))
    for removed in [{each} for each in superfluous] + [superfluous] if superfluous else []:
        after = judged(without(made, removed), asked)
        assert [each.verdict for each in before] == [each.verdict for each in after], removed
    overruled_hold(made, asked, before, said[Doubt.OVERRULED_RULE])
    policy = Policy(made)
    matched_by(policy, asked, said[Doubt.NEVER_MATCHING_PEER])
    return said


def overruled_hold(
    made: State, asked: list[Asked], before: list[Decision], overruled: set[tuple[str, str]]
) -> None:
    """An overruled allow decides nowhere; an overruled deny not at the port that is named."""
    groups = Policy(made).groups
    places = {problem.file: problem for problem in warnings(placed(made))
              if problem.code == Doubt.OVERRULED_RULE}  # fmt: skip
    for group_id, rule_id in overruled:
        deciding = {
            one.id
            for (one, _, _), decision in zip(asked, before, strict=True)
            if (decision.group_id, decision.rule_id) == (group_id, rule_id)
        }
        written = next(each for each in groups[group_id].rules if each.id == rule_id)
        if written.action == "allow":
            assert not deciding
        message = places[f"rule:{group_id}/{rule_id}"].message
        assert not [port_id for port_id in deciding if f"'{port_id}'" in message]


def matched_by(policy: Policy, asked: list[Asked], rules: set[tuple[str, str]]) -> None:
    for group_id, rule_id in rules:
        written = next(each for each in policy.groups[group_id].rules if each.id == rule_id)
        for one, _, packet in asked:
            if group_id in policy.groups_of(one):
                assert not rule_matches(policy, written, packet, one.vpc_id)


@pytest.mark.parametrize("seed", range(4))
def test_in_a_small_universe_everything_said_is_true(seed: int) -> None:
    random = Random(seed)
    total: dict[Doubt, int] = dict.fromkeys(Doubt, 0)
    for _ in range(PER_SEED):
        made = small(random)
        for code, rules in hold(made, list(every_packet(made))).items():
            total[code] += len(rules)
    # The linter is no use if it is silent, and neither is a test that it is right then.
    for code in (*SUPERFLUOUS, Doubt.OVERRULED_RULE):
        assert total[code] > 0, code


@pytest.mark.parametrize("seed", range(4))
def test_in_a_small_universe_most_of_what_never_decides_is_found(seed: int) -> None:
    """What decides no packet because of its own group, with nobody's members in the way, is named."""
    random = Random(seed)
    for _ in range(PER_SEED):
        made = small(random)
        plain = tuple(
            replace(
                g,
                rules=tuple(
                    r for r in g.rules if r.enabled and type(r.peer).__name__ != "GroupPeer"
                ),
            )
            for g in made.security_groups
        )
        alone = replace(
            state(plain, [port(f"p-{g.id}", [g.id], ["10.0.0.1"]) for g in plain]),
            address_groups=made.address_groups,
        )
        said = named(alone)
        decided = {(d.group_id, d.rule_id) for d in judged(alone, list(every_packet(alone)))}
        silent = {(g.id, r.id) for g in plain for r in g.rules} - decided
        # At one priority the order by id is the evaluator's own: such rules are redundant.
        assert silent <= set().union(*(said[code] for code in SUPERFLUOUS))


@pytest.mark.parametrize("seed", range(40))
def test_of_wild_documents_everything_said_is_true(seed: int) -> None:
    random = Random(seed)
    made = Drawing(random).state()
    hold(made, list(at_edges(made, random)))


def test_members_in_other_vpcs_or_families_are_never_matched() -> None:
    random = Random(1)
    said = 0
    for _ in range(30):
        made = state(
            [
                group(
                    "a",
                    *(
                        rule("ingress", remote=f"sg:{peer}", family=family)
                        for peer in "bcd"
                        for family in Family
                    ),
                ),
                *(group(each, rule("egress")) for each in "bcd"),
            ],
            [
                port(
                    f"p{at}",
                    [random.choice("abcd")],
                    random.sample([f"10.0.0.{at}", f"fd00::{at}"], random.randint(1, 2)),
                    vpc=random.choice(["v", "w", "x"]),
                )
                for at in range(5)
            ]
            + [port("pa", ["a"], ["10.0.0.9"], vpc="v")],
            peerings=[("v", "w")],
        )
        policy = Policy(made)
        asked = [
            (one, Direction.INGRESS, Packet(peer=address, protocol=TCP, dport=1))
            for one in policy.ports.values()
            for other in policy.ports.values()
            for address in other.private_ips
        ]
        said += len(hold(made, asked)[Doubt.NEVER_MATCHING_PEER])
    assert said > 10


def test_what_is_called_open_is_open() -> None:
    """Port 22 lets much of the world in, where it is said that a rule opens it."""
    random = Random(2)
    tried = [IPv4Address(f"{first}.7.7.7") for first in range(1, 224)]
    said = 0
    for _ in range(300):
        made = small(random)
        policy = Policy(made)
        opened = [
            each
            for each in warnings(placed(made))
            if each.code == Doubt.OPEN_MANAGEMENT_PORT and "22 (SSH)" in each.message
        ]
        for problem in opened:
            said += 1
            group_id, rule_id = problem.file.removeprefix("rule:").split("/", 1)
            judging = [one for one in policy.ports.values() if group_id in policy.groups_of(one)]
            written = next(each for each in policy.groups[group_id].rules if each.id == rule_id)
            assert family_of(tried[0]) is written.family
            let_in = max(
                (
                    sum(
                        decide(
                            policy,
                            one,
                            Direction.INGRESS,
                            Packet(peer=address, protocol=TCP, dport=22),
                        ).allowed
                        for address in tried
                    )
                    for one in judging
                ),
                default=len(tried),
            )
            assert let_in > 2
    assert said > 30


def balanced(random: Random) -> State:
    """Two ports in any of three VPCs, and load balancers that lead to them or to nobody."""
    ports = [port(f"p{at}", ["a"], [f"10.0.0.{at}"], vpc=random.choice("vwx")) for at in range(2)]
    made = state(
        [group("a", rule("ingress", TCP, "1"))],
        ports,
        peerings=[pair for pair in (("v", "w"), ("w", "x")) if random.random() < 0.4],
    )

    def listener(at: int) -> Listener:
        members = random.sample([Member(port_id=one.id, protocol_port=n) for one in ports
                                 for n in (1, 2)], random.choice([0, 0, 1, 2, 3]))  # fmt: skip
        return Listener(
            id=f"l{at}",
            protocol=random.choice([TCP, UDP]),
            protocol_port=at + 1,
            transfer_client_ip=random.random() < 0.7,
            members=tuple(members),
        )

    balancers = tuple(
        LoadBalancer(
            id=f"b{at}",
            vpc_id=random.choice("vwx"),
            forwards_through=Forwarder(fwmark=at + 1),
            listeners=tuple(map(listener, range(random.randint(0, 2)))),
        )
        for at in range(2)
    )
    places = {f"load_balancer:{one.id}": f"{one.id}:1" for one in balancers}
    return replace(made, load_balancers=balancers, places=places)


def exempts(policy: Policy, balancer: LoadBalancer, one: Port, protocol: int, dport: int) -> bool:
    packet = Packet(peer=IPv4Address("192.0.2.1"), protocol=protocol, dport=dport)
    brought = replace(packet, through=balancer.id)
    decision = decide(policy, one, Direction.INGRESS, brought)
    exempt = decision.reason is Reason.LOAD_BALANCER
    assert exempt or decision == decide(policy, one, Direction.INGRESS, packet)
    return exempt


def test_who_is_said_to_be_exempted_from_nothing_is_judged_and_nobody_else() -> None:
    random = Random(3)
    total: dict[str, int] = dict.fromkeys((Doubt.VOID_EXEMPTION, Doubt.IDLE_LOAD_BALANCER), 0)
    for _ in range(300):
        made = balanced(random)
        policy = Policy(made)
        problems = [each for each in warnings(made) if each.code in total]
        for balancer in made.load_balancers:
            mine = [each for each in problems if each.file == balancer.id]
            idle = any(each.code == Doubt.IDLE_LOAD_BALANCER for each in mine)
            services = product(policy.ports.values(), (TCP, UDP), (1, 2))
            assert not (idle and any(exempts(policy, balancer, *service) for service in services))
            assert idle != any(listener.members for listener in balancer.listeners)
            for listener in balancer.listeners:
                void = [
                    each.message
                    for each in mine
                    if each.code == Doubt.VOID_EXEMPTION and f"{listener.id!r} of" in each.message
                ]
                for member in listener.members if listener.transfer_client_ip else ():
                    one = policy.ports[member.port_id]
                    said = any(repr(one.id) in message for message in void)
                    service = (one, listener.protocol, member.protocol_port)
                    assert said != exempts(policy, balancer, *service)
        for each in problems:
            total[each.code] += 1
    assert all(count > 50 for count in total.values()), total
