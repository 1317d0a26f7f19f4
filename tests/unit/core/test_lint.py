"""What is valid but doubtful: rules that never decide, dangling peers, the cloud's limits."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.builders import address_group, group, port, rule, state

from secgroupd.core.document import Source, parse
from secgroupd.core.lint import warnings
from secgroupd.core.model import (
    AddressGroup,
    AddressRange,
    Direction,
    Family,
    Forwarder,
    GroupPeer,
    Instance,
    Listener,
    LoadBalancer,
    Member,
    Port,
    PortRange,
    PrefixPeer,
    Preset,
    Rule,
    SecurityGroup,
    State,
)
from secgroupd.errors import Problem


def codes(state: State) -> list[tuple[str, str]]:
    return [(problem.code, problem.message) for problem in warnings(state)]


def found(*lines: str) -> list[tuple[str, str]]:
    """Return the codes and ids of what is said of a group's rules; they are named a, b, c, ..."""
    names = "abcdefgh"
    body = "".join(
        f"  - {{id: {name}, direction: ingress{line and ', '}{line}}}\n"
        for name, line in zip(names, lines, strict=False)
    )
    text = (
        "version: 1\naddress_groups: [{id: ag, ip_version: 4, ip_set: [10.0.0.0/9, 10.128.0.0/9]}]\n"
        f"security_groups:\n- id: g\n  rules:\n{body}"
    )
    problems = parse([Source("f.yaml", text)]).warnings
    return [
        (problem.code.removesuffix("-rule"), names[problem.line - 6])
        for problem in problems
        if problem.code.endswith("-rule")
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", "priority: 2"),
        ("action: deny", "priority: 2, protocol: tcp, multiport: 80, remote_ip_prefix: 10.0.0.0/8"),
        ("protocol: tcp", "priority: 2, protocol: tcp, multiport: 80"),
        ("protocol: tcp, multiport: '1-10,11-20'", "priority: 2, protocol: tcp, multiport: 5-15"),
        ("protocol: icmp", "priority: 2, protocol: icmp, icmp_type: 8, icmp_code: 0"),
        ("protocol: icmp, icmp_type: 8", "priority: 2, protocol: icmp, icmp_type: 8, icmp_code: 0"),
        ("remote_ip_prefix: 0.0.0.0/0", "priority: 2, remote_group_id: g"),
        ("remote_ip_prefix: 10.0.0.0/8", "priority: 2, remote_ip_prefix: 10.1.0.0/16"),
        ("remote_ip_prefix: 10.0.0.0/8", "priority: 2, remote_ip_prefix: 10.0.0.0/8"),
        ("remote_ip_prefix: 10.0.0.0/8", "priority: 2, remote_address_group_id: ag"),
        ("remote_address_group_id: ag", "priority: 2, remote_ip_prefix: 10.0.0.0/8"),
        ("remote_group_id: g", "priority: 2, remote_group_id: g, protocol: udp"),
        ("remote_address_group_id: ag", "priority: 100, remote_address_group_id: ag"),
    ],
)
def test_a_rule_that_never_decides_is_shadowed(one: str, other: str) -> None:
    assert found(one, other) == [("shadowed", "b")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("protocol: tcp", "priority: 2"),
        ("protocol: tcp", "action: deny, protocol: udp, priority: 2"),
        (
            "protocol: tcp, multiport: 1-10",
            "action: deny, priority: 2, protocol: tcp, multiport: 5-15",
        ),
        ("action: deny, protocol: tcp, multiport: 1-65535", "priority: 2, protocol: tcp"),
        ("action: deny, protocol: icmp, icmp_type: 8", "priority: 2, protocol: icmp"),
        (
            "action: deny, protocol: icmp, icmp_type: 8, icmp_code: 0",
            "priority: 2, protocol: icmp, icmp_type: 8",
        ),
        (
            "action: deny, remote_ip_prefix: 10.1.0.0/16",
            "priority: 2, remote_ip_prefix: 10.0.0.0/8",
        ),
        ("remote_ip_prefix: 10.0.0.0/8", "priority: 2, remote_group_id: g"),
        ("remote_group_id: g", "priority: 2, remote_address_group_id: ag"),
        ("enabled: false", "priority: 2"),
        ("", "priority: 2, enabled: false"),
        ("ethertype: IPv6", "priority: 2"),
        ("action: allow", "action: deny, protocol: tcp"),
    ],
)
def test_a_rule_that_can_decide_is_not_shadowed(one: str, other: str) -> None:
    assert ("shadowed", "b") not in found(one, other)


@pytest.mark.parametrize(
    "lines",
    [
        (
            "remote_ip_prefix: 10.0.0.0/9",
            "remote_ip_prefix: 10.128.0.0/9",
            "action: deny, priority: 2, remote_ip_prefix: 10.0.0.0/8",
        ),
        (
            "protocol: tcp, multiport: 1-100",
            "protocol: tcp, multiport: 101-200",
            "action: deny, priority: 2, protocol: tcp, multiport: '5,90-110'",
        ),
        (
            "protocol: tcp, multiport: 1-100, remote_group_id: g",
            "protocol: tcp, multiport: 101-200",
            "action: deny, priority: 2, protocol: tcp, multiport: 90-110, remote_group_id: g",
        ),
        (
            "protocol: tcp, multiport: 80, remote_address_group_id: ag",
            "remote_ip_prefix: 128.0.0.0/1",
            "action: deny, priority: 2, protocol: tcp, multiport: 80, remote_ip_prefix: 10.7.0.0/16",
        ),
    ],
)
def test_several_rules_shadow_together(lines: tuple[str, ...]) -> None:
    assert found(*lines) == [("shadowed", "abcd"[len(lines) - 1])]


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("action: deny", "", "at the same priority deny comes before allow"),
        ("action: deny", "priority: 2", "priority 1 comes before 2"),
        ("protocol: tcp", "protocol: tcp, action: deny, priority: 9", "priority 1 comes before 9"),
        (
            "protocol: tcp, multiport: 1-4",
            "protocol: tcp, multiport: '1-2,3-4', action: deny, priority: 9",
            "priority 1 comes before 9",
        ),
    ],
)
def test_an_allow_and_a_deny_of_the_same_contradict(one: str, other: str, why: str) -> None:
    assert found(one, other) == [("contradictory", "b")]
    text = (
        "version: 1\nsecurity_groups: [{id: g, rules: "
        f"[{{id: a, direction: ingress, {one}}}, {{id: b, direction: ingress, {other}}}]}}]"
    )
    messages = [problem.message for problem in parse([Source("f.yaml", text)]).warnings]
    assert any("rule 'a' says the opposite" in each and why in each for each in messages)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (("", "description: but another text"), "b"),
        (("", "protocol: tcp"), "b"),
        (("protocol: tcp", ""), "a"),
        (("protocol: tcp", "priority: 5"), "a"),
        (("protocol: tcp, multiport: 1-9", "protocol: tcp, multiport: 3", "priority: 9"), "ab"),
        (("protocol: tcp", "action: deny, protocol: udp, priority: 2", "priority: 5"), "a"),
        (("protocol: tcp", "action: deny, remote_ip_prefix: 10.0.0.0/8, priority: 2", "priority: 5"), ""),
        (("protocol: tcp", "action: deny, remote_group_id: g, priority: 2", "priority: 5"), ""),
    ],
)  # fmt: skip
def test_what_others_decide_alike_is_redundant(lines: tuple[str, ...], named: str) -> None:
    assert found(*lines) == [("redundant", name) for name in named]


def test_another_group_shadows_nothing() -> None:
    text = (
        "version: 1\nsecurity_groups:\n- {id: g, rules: [{direction: ingress, protocol: udp}]}\n"
        "- {id: h, rules: [{direction: ingress, protocol: udp, priority: 2}]}\n"
    )
    assert parse([Source("f.yaml", text)]).warnings == ()


def test_a_presets_rules_shadow_and_are_not_shadowed() -> None:
    rules = (
        rule("ingress", "tcp", "443", "10.0.0.0/8", rule_id="r", action="deny", priority=2),
        rule("ingress", action="deny", priority=1, rule_id="all"),
    )
    one, other = (SecurityGroup(id="g", preset=Preset.WEB_SERVER, rules=(each,)) for each in rules)
    assert [code for code, _ in codes(State(security_groups=(one,))) if "rule" in code] == [
        "shadowed-rule"
    ]
    assert [code for code, _ in codes(State(security_groups=(other,)))] == []


def overruled(*ports: str, **groups: tuple[Rule, ...]) -> list[str]:
    """What is said of overruled rules, if ports have these groups (``ab``: a, then b)."""
    made = state(
        [group(name, *rules) for name, rules in groups.items()],
        [port(f"p{at}", each, [f"10.0.0.{at + 1}"]) for at, each in enumerate(ports)],
    )
    return [message for code, message in codes(made) if code == "overruled-rule"]


ALL_OUT, NO_SMTP = rule("egress", rule_id="out"), rule(
    "egress", "tcp", "25", action="deny", rule_id="no-smtp"
)  # fmt: skip


def test_an_outbound_deny_behind_an_allow_of_all_is_overruled() -> None:
    (message,) = overruled("ab", a=(ALL_OUT,), b=(NO_SMTP,))
    assert message == (
        "rule 'no-smtp' never denies anything at port 'p0', because rule 'out' (allow) of group 'a' "
        "matches all of it and comes first there: change the order of the groups, or remove one of "
        "the rules"
    )
    assert overruled("ba", a=(ALL_OUT,), b=(NO_SMTP,)) == []
    (message,) = overruled("ab", "ba", "b", a=(ALL_OUT,), b=(NO_SMTP,))
    assert "at 1 of the 3 ports of group 'b', such as 'p0', because" in message


def test_a_deny_behind_a_narrower_allow_is_not_overruled() -> None:
    narrow = rule("egress", "tcp", "25", "10.0.0.0/8")
    assert overruled("ab", a=(narrow,), b=(NO_SMTP,)) == []
    halves = (rule("egress", remote="0.0.0.0/1"), rule("egress", remote="128.0.0.0/1"))
    assert len(overruled("ab", a=halves, b=(NO_SMTP,))) == 1
    assert len(overruled("acb", a=halves[:1], b=(NO_SMTP,), c=halves[1:])) == 1


def test_an_allow_is_overruled_only_if_it_is_everywhere() -> None:
    shut, web = (rule("ingress", action="deny"),), (rule("ingress", "tcp", "80"),)
    assert len(overruled("ab", a=shut, b=web)) == 1
    assert overruled("ab", "b", a=shut, b=web) == []


def test_a_port_without_security_overrules_nothing() -> None:
    made = state(
        [group("a", ALL_OUT), group("b", NO_SMTP)], [port("p", "ab", ["10.0.0.1"], security=False)]
    )
    assert codes(made) == []


@pytest.mark.parametrize(
    ("opening", "ports"),
    [
        (rule("ingress", "tcp", "22", "0.0.0.0/0"), "port 22 (SSH) to everybody"),
        (rule("ingress", "tcp", "20-25"), "ports 22 (SSH), 23 (Telnet) to everybody"),
        (rule("ingress", "tcp", "3389", "::/0"), "port 3389 (RDP) to everybody"),
        (rule("ingress", "tcp", "22", "128.0.0.0/1"), "port 22 (SSH) to 128.0.0.0/1"),
        (rule("ingress", "tcp", "22", "2000::/3"), "port 22 (SSH) to 2000::/3"),
        (
            rule("ingress", "tcp", "22", "ag:x"),
            "to address group 'x', which is much of the Internet",
        ),
        (rule("ingress"), "ports 22 (SSH), 23 (Telnet), 445 (SMB) and 16 more management ports"),
        (rule("ingress", "udp", "22"), None),
        (rule("ingress", "tcp", "443"), None),
        (rule("ingress", "tcp", "22", "10.0.0.0/8"), None),
        (rule("ingress", "tcp", "22", "fc00::/7"), None),
        (rule("ingress", "tcp", "22", "224.0.0.0/3"), None),
        (rule("ingress", "tcp", "22", "sg:g"), None),
        (rule("egress", "tcp", "22"), None),
        (rule("ingress", "tcp", "22", enabled=False), None),
    ],
)
def test_management_ports_open_to_the_world(opening: Rule, ports: str | None) -> None:
    made = state([group("g", opening)], address_groups=[address_group("x", "0.0.0.0/2", "9.0.0.1")])
    messages = [message for code, message in codes(made) if code == "open-management-port"]
    assert len(messages) == (ports is not None)
    assert ports is None or ports in messages[0]


def test_what_denies_shut_is_not_open() -> None:
    def opened(order: str, *own: Rule, front: tuple[Rule, ...] = ()) -> bool:
        made = state([group("g", *own), group("f", *front)], [port("p", order, ["10.0.0.1"])])
        return "open-management-port" in dict(codes(made))

    ssh = rule("ingress", "tcp", "1-100", priority=2)
    no_ssh = rule("ingress", "tcp", "22-23", action="deny")
    some = rule("ingress", "tcp", None, "198.51.100.0/24", action="deny")
    assert opened("g", ssh, some)
    assert not opened("g", ssh, no_ssh)
    assert opened("g", ssh, rule("ingress", "tcp", "22-23", action="deny", priority=3))
    assert not opened("fg", ssh, front=(no_ssh,))
    assert opened("gf", ssh, front=(no_ssh,))


def test_a_presets_open_port_is_said_at_the_group() -> None:
    made = State(
        security_groups=(SecurityGroup(id="g", preset=Preset.WEB_SERVER),),
        places={"security_group:g": "f.yaml:3"},
    )
    assert [(p.code, p.line) for p in warnings(made)] == [("open-management-port", 3)] * 2


def reference(*ports: Port, rules: tuple[Rule, ...], **more: Any) -> list[str]:
    groups = [group("a", *rules), group("b", rule("egress"))]
    return [code for code, _ in codes(state(groups, ports, **more)) if "port" not in code]


@pytest.mark.parametrize(
    ("other", "peerings", "expected"),
    [
        (port("q", "b", ["10.0.0.2"]), [], []),
        (port("q", "b", ["fd00::2"]), [], ["never-matching-peer"]),
        (port("q", "b", []), [], ["never-matching-peer"]),
        (port("q", "b", ["10.0.0.2"], vpc="other"), [], ["never-matching-peer"]),
        (port("q", "b", ["10.0.0.2"], vpc="other"), [("other", "vpc")], []),
        (port("q", "a", ["10.0.0.2"]), [], ["unused-security-group"]),
    ],
)
def test_a_peer_that_is_nobody(
    other: Port, peerings: list[tuple[str, str]], expected: list[str]
) -> None:
    own = port("p", "a", ["10.0.0.1"])
    named = rule("ingress", "udp", remote="sg:b")
    assert reference(own, other, rules=(named,), peerings=peerings) == expected


def test_the_own_group_as_a_peer_is_somebody() -> None:
    both = tuple(rule("ingress", "udp", remote="sg:a", family=family) for family in Family)
    assert reference(port("p", "ab", ["10.0.0.1"]), rules=both) == []


def test_a_group_without_rules_may_be_a_label() -> None:
    label, other = group("label"), group("a", rule("ingress", "udp", remote="sg:label"))
    ports = [port("p", ["label", "a"], ["10.0.0.1"])]
    assert codes(state([label, other], ports)) == []
    alone = codes(state([label], [port("p", ["label"], ["10.0.0.1"])]))
    assert [code for code, _ in alone] == ["empty-security-group"]


def test_without_any_port_no_group_is_unused() -> None:
    assert codes(state([group("a", rule("egress"))])) == []


def balanced(*listeners: Listener) -> list[tuple[str, str]]:
    """Return what is said of a load balancer in a VPC that is peered with ``w`` and not with ``x``."""
    made = state(
        [group("a", rule("egress"))],
        [port(f"p-{vpc}", ["a"], [f"10.0.{at}.1"], vpc=vpc) for at, vpc in enumerate("vwx")],
        peerings=[("v", "w"), ("w", "x")],
    )
    one = LoadBalancer(
        id="lb", vpc_id="v", forwards_through=Forwarder(fwmark=1), listeners=listeners
    )
    return codes(replace(made, load_balancers=(one,)))


def listener(*port_ids: str, transfer: bool = True) -> Listener:
    members = tuple(Member(port_id=port_id, protocol_port=443) for port_id in port_ids)
    return Listener(
        id="l", protocol=6, protocol_port=443, transfer_client_ip=transfer, members=members
    )


def test_a_member_that_its_load_balancer_does_not_see_is_exempt_from_nothing() -> None:
    assert balanced(listener("p-v", "p-w")) == []
    assert balanced(listener("p-x", transfer=False)) == []
    ((code, message),) = balanced(listener("p-v", "p-x"))
    assert code == "void-exemption"
    assert message == (
        "listener 'l' of load balancer 'lb' exempts nothing at port 'p-x', because no peering "
        "connects VPC 'x' with its own, 'v': peer the VPCs, or correct the member"
    )


def test_a_load_balancer_without_members_is_idle() -> None:
    assert [code for code, _ in balanced()] == ["idle-load-balancer"]
    ((_, message),) = balanced(listener())
    assert message == (
        "load balancer 'lb' does nothing, because no listener has members: "
        "add what is missing, or remove it"
    )


@pytest.mark.parametrize(
    ("peerings", "shared", "told"),
    [
        ((), "10.0.0.1", 0),
        ((("v", "w"),), "10.0.0.1", 1),
        ((("v", "w"),), "fe80::1", 0),
        ((("v", "x"), ("x", "w")), "fd00::1", 1),
        ((("v", "x"),), "10.0.0.1", 0),
    ],
)
def test_connected_vpcs_with_one_address_are_told_once(
    peerings: tuple[tuple[str, str], ...], shared: str, told: int
) -> None:
    ports = [
        port("p", ["a"], [shared, "10.0.9.1"], vpc="v"),
        port("q", ["a"], [shared, *(["10.0.9.1"] if told else [])], vpc="w"),
        port("r", ["a"], ["10.0.1.1"], vpc="x"),
    ]
    found = codes(state([group("a", rule("egress"))], ports, peerings=peerings))
    assert [code for code, _ in found] == ["shared-address"] * told


@pytest.mark.parametrize("number", [0, 43, 44, 59, 60])
@pytest.mark.parametrize("family", Family)
def test_in_ipv6_some_numbers_are_no_protocols(number: int, family: Family) -> None:
    made = group("a", rule("ingress", number, action="deny", family=family))
    found = codes(state([made], [port("p", ["a"], ["10.0.0.1", "fd00::1"])]))
    matched_never = ["never-matching-protocol"] if family is Family.IPV6 else []
    assert [code for code, _ in found if code != "redundant-rule"] == matched_never


def test_an_empty_address_group_is_told_once() -> None:
    empty = AddressGroup(id="x", family=Family.IPV4)
    rules = (rule("ingress", remote="ag:x"), rule("egress", remote="ag:x"))
    ((code, message),) = codes(state([group("a", *rules)], address_groups=[empty]))
    assert code == "empty-address-group"
    assert message == (
        "address group 'x' has no entries, so that the 2 rules that name it match nothing: "
        "add entries, or remove it"
    )


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


def test_a_rule_with_a_group_and_several_ports_counts_once() -> None:
    rules = tuple(
        replace(each, peer=GroupPeer("g"))
        for each in composite(120, Direction.INGRESS, Family.IPV4)
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
        groups = tuple(group(str(i), rule("egress")) for i in range(count))
        port = Port(id="p", vpc_id="v", security_groups=tuple(g.id for g in groups))
        state = State(security_groups=groups, instances=(Instance(id="i", ports=(port,)),))
        assert [code for code, _ in codes(state)] == expected


def test_6000_instances_a_group() -> None:
    def instance(number: int) -> Instance:
        ports = tuple(
            Port(id=f"p{number}-{i}", vpc_id="v", security_groups=("g",)) for i in range(2)
        )
        return Instance(id=str(number), ports=ports)

    groups = (group("g", rule("egress")),)
    for count, expected in ((6000, []), (6001, ["over-limit"])):
        state = State(security_groups=groups, instances=tuple(map(instance, range(count))))
        assert [code for code, _ in codes(state)] == expected
