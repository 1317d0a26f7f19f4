"""What is valid but doubtful: rules that never decide, dangling peers, the cloud's limits."""

from ipaddress import ip_address, ip_network

import pytest

from secgroupd.core.document import Source, parse
from secgroupd.core.lint import warnings
from secgroupd.core.model import (
    AddressGroup,
    AddressRange,
    Direction,
    Family,
    GroupPeer,
    Instance,
    Port,
    PortRange,
    PrefixPeer,
    Rule,
    SecurityGroup,
    State,
)
from secgroupd.errors import Problem


def codes(state: State) -> list[tuple[str, str]]:
    return [(problem.code, problem.message) for problem in warnings(state)]


def shadowed(*lines: str) -> list[str]:
    """Return the ids of the shadowed rules of a group; the rules are named a, b, c, ..."""
    names = "abcdefgh"
    body = "".join(
        f"  - {{id: {name}, direction: ingress{line and ', '}{line}}}\n"
        for name, line in zip(names, lines, strict=False)
    )
    text = (
        "version: 1\naddress_groups: [{id: ag, ip_version: 4}]\n"
        f"security_groups:\n- id: g\n  rules:\n{body}"
    )
    found = parse([Source("f.yaml", text)]).warnings
    assert {problem.code for problem in found} <= {"shadowed-rule"}
    return [names[problem.line - 6] for problem in found]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", "priority: 2"),
        ("action: deny", ""),
        ("action: deny", "priority: 2, protocol: tcp, multiport: 80, remote_ip_prefix: 10.0.0.0/8"),
        ("protocol: tcp", "priority: 2, protocol: tcp, multiport: 80"),
        ("protocol: tcp, multiport: '1-10,11-20'", "priority: 2, protocol: tcp, multiport: 5-15"),
        ("protocol: icmp", "priority: 2, protocol: icmp, icmp_type: 8, icmp_code: 0"),
        ("protocol: icmp, icmp_type: 8", "priority: 2, protocol: icmp, icmp_type: 8, icmp_code: 0"),
        ("remote_ip_prefix: 0.0.0.0/0", "priority: 2, remote_group_id: g"),
        ("remote_ip_prefix: 10.0.0.0/8", "priority: 2, remote_ip_prefix: 10.1.0.0/16"),
        ("remote_ip_prefix: 10.0.0.0/8", "priority: 2, remote_ip_prefix: 10.0.0.0/8"),
        ("remote_group_id: g", "priority: 2, remote_group_id: g, protocol: udp"),
        ("remote_address_group_id: ag", "priority: 100, remote_address_group_id: ag"),
        ("description: the same", "description: but another text"),
    ],
)
def test_a_rule_that_never_decides_is_shadowed(one: str, other: str) -> None:
    assert shadowed(one, other) == ["b"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("protocol: tcp", ""),
        ("protocol: tcp", "priority: 2, protocol: udp"),
        ("protocol: tcp, multiport: 1-10", "priority: 2, protocol: tcp, multiport: 5-15"),
        ("protocol: tcp, multiport: 1-65535", "priority: 2, protocol: tcp"),
        ("protocol: icmp, icmp_type: 8", "priority: 2, protocol: icmp"),
        ("protocol: icmp, icmp_type: 8, icmp_code: 0", "priority: 2, protocol: icmp, icmp_type: 8"),
        ("remote_ip_prefix: 10.1.0.0/16", "priority: 2, remote_ip_prefix: 10.0.0.0/8"),
        ("remote_ip_prefix: 10.0.0.0/8", "priority: 2, remote_group_id: g"),
        ("remote_group_id: g", "priority: 2, remote_address_group_id: ag"),
        ("enabled: false", "priority: 2"),
        ("", "priority: 2, enabled: false"),
        ("ethertype: IPv6", "priority: 2"),
        ("priority: 2", ""),
        ("", "protocol: tcp"),
        ("action: allow", "action: deny"),
    ],
)
def test_a_rule_that_can_decide_is_not_shadowed(one: str, other: str) -> None:
    assert "b" not in shadowed(one, other)


def test_another_group_shadows_nothing() -> None:
    text = (
        "version: 1\nsecurity_groups:\n- {id: g, rules: [{direction: ingress}]}\n"
        "- {id: h, rules: [{direction: ingress, priority: 2}]}\n"
    )
    assert parse([Source("f.yaml", text)]).warnings == ()


def test_places_come_from_the_state() -> None:
    rule = Rule(id="r", direction=Direction.INGRESS, peer=GroupPeer("gone"))
    group = SecurityGroup(id="g", rules=(rule,))
    state = State(security_groups=(group,), places={"rule:g/r": "a:b.yaml:7"})
    assert warnings(state) == (
        Problem(
            "a:b.yaml",
            7,
            1,
            "dangling-security-group",
            "rule 'r' matches nothing, because there is no security group 'gone': "
            "define it, or remove the rule",
            "warning",
        ),
    )


def test_a_state_without_places_is_told_about_too() -> None:
    group = SecurityGroup(
        id="g", rules=(Rule(id="r", direction=Direction.INGRESS, peer=GroupPeer("gone")),)
    )
    assert [problem.line for problem in warnings(State(security_groups=(group,)))] == [1]


def composite(count: int, direction: Direction, family: Family) -> tuple[Rule, ...]:
    """Rules that count as composite, alternately by their peer and by their ports."""
    peers = GroupPeer("g"), PrefixPeer(ip_network("10.0.0.0/8"))
    return tuple(
        Rule(
            id=f"{direction}-{family.value}-{i}",
            direction=direction,
            family=family,
            protocol=6,
            ports=(PortRange(1, 1), PortRange(1000 + i, 1000 + i)),
            peer=peers[i % 2],
        )
        for i in range(count)
    )


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", Family)
def test_120_composite_rules_a_direction_and_version(direction: Direction, family: Family) -> None:
    others = (
        composite(1, Direction.INGRESS, Family.IPV4),
        composite(1, Direction.EGRESS, Family.IPV6),
    )
    more = tuple(rule for rules in others for rule in rules)
    fits = SecurityGroup(id="g", rules=more + composite(120, direction, family)[1:])
    over = SecurityGroup(id="g", rules=composite(121, direction, family))
    assert "over-limit" not in dict(codes(State(security_groups=(fits,))))
    assert dict(codes(State(security_groups=(over,))))["over-limit"] == (
        f"group 'g' has 121 {direction} {family.value} rules with a group, an address group "
        "or several ports: keep to at most 120"
    )


def test_consecutive_ports_and_networks_are_not_composite() -> None:
    rules = tuple(
        Rule(
            id=str(i),
            direction=Direction.INGRESS,
            protocol=6,
            ports=(PortRange(1 + i, 9 + i), PortRange(3 + i, 4 + i), PortRange(10 + i, 12 + i)),
        )
        for i in range(121)
    )
    assert "over-limit" not in dict(
        codes(State(security_groups=(SecurityGroup(id="g", rules=rules),)))
    )


def test_20_entries_an_address_group() -> None:
    first = ip_address("10.0.0.0")
    entries = tuple(AddressRange(first + i, first + i) for i in range(21))
    for count, expected in ((20, []), (21, ["over-limit"])):
        group = AddressGroup(id="a", family=Family.IPV4, entries=entries[:count])
        assert [code for code, _ in codes(State(address_groups=(group,)))] == expected


def test_5_groups_a_port() -> None:
    for count, expected in ((5, []), (6, ["over-limit"])):
        groups = tuple(SecurityGroup(id=str(i)) for i in range(count))
        port = Port(id="p", vpc_id="v", security_groups=tuple(g.id for g in groups))
        state = State(security_groups=groups, instances=(Instance(id="i", ports=(port,)),))
        assert [code for code, _ in codes(state)] == expected


def test_6000_instances_a_group() -> None:
    def instance(number: int) -> Instance:
        ports = tuple(
            Port(id=f"p{number}-{i}", vpc_id="v", security_groups=("g",)) for i in range(2)
        )
        return Instance(id=str(number), ports=ports)

    groups = (SecurityGroup(id="g"),)
    for count, expected in ((6000, []), (6001, ["over-limit"])):
        state = State(security_groups=groups, instances=tuple(map(instance, range(count))))
        assert [code for code, _ in codes(state)] == expected
