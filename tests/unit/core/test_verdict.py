"""The evaluator at its edges: order, families, link services, and what decides without a rule."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from tests.builders import address_group, both, group, port, rule, state

from secgroupd.core.model import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    AddressPair,
    Direction,
    Port,
    Rule,
    SecurityGroup,
)
from secgroupd.core.policy import Policy
from secgroupd.core.verdict import Decision, Packet, Reason, decide

PEER = "203.0.113.9"
PEER6 = "2001:db8::9"
IN, OUT = Direction.INGRESS, Direction.EGRESS


def asked(*groups: SecurityGroup, packet: Packet, towards: Direction = IN) -> Decision:
    one = port("p", [g.id for g in groups], ["10.0.0.1", "fd00::1"])
    return decide(Policy(state(groups, [one])), one, towards, packet)


def tcp(dport: int, peer: str = PEER) -> Packet:
    return Packet(peer=ip_address(peer), protocol=TCP, dport=dport)


def test_without_a_matching_rule_both_directions_are_denied() -> None:
    for towards in Direction:
        found = asked(group("g"), packet=tcp(80), towards=towards)
        assert (found.allowed, found.reason) == (False, Reason.DEFAULT_DENY)


def test_an_earlier_groups_last_priority_beats_a_later_groups_first() -> None:
    allow = group("z", rule(priority=100, rule_id="allow"))
    deny = group("a", rule(action="deny", rule_id="deny"))
    assert asked(allow, deny, packet=tcp(80)).rule_id == "allow"
    assert asked(deny, allow, packet=tcp(80)).rule_id == "deny"


def test_deny_comes_before_allow_at_the_same_priority_whatever_the_ids() -> None:
    rules = (rule(rule_id="a-allow"), rule(rule_id="z-deny", action="deny"))
    assert asked(group("g", *rules), packet=tcp(80)).rule_id == "z-deny"


def test_a_higher_priority_allow_beats_a_lower_priority_deny() -> None:
    rules = (rule(rule_id="deny", action="deny", priority=2), rule(rule_id="allow"))
    assert asked(group("g", *rules), packet=tcp(80)).allowed


def test_a_group_in_which_nothing_matches_passes_on() -> None:
    first = group("a", rule(protocol="udp", action="deny"))
    assert asked(first, group("b", rule(rule_id="ok")), packet=tcp(80)).group_id == "b"


def test_a_disabled_rule_does_not_exist() -> None:
    off = group("g", rule(enabled=False, action="deny"), rule(priority=9, rule_id="ok"))
    assert asked(off, packet=tcp(80)).rule_id == "ok"


@pytest.mark.parametrize(("dport", "allowed"), [(21, 0), (22, 1), (24, 1), (25, 0), (65535, 1)])
def test_port_ranges_include_both_ends(dport: int, allowed: bool) -> None:
    one = group("g", rule("ingress", "tcp", "22-24,65535"))
    assert asked(one, packet=tcp(dport)).allowed is bool(allowed)


def test_a_rule_of_one_family_says_nothing_about_the_other() -> None:
    assert not asked(group("g", rule()), packet=tcp(80, PEER6)).allowed


ECHO_ONLY = rule(protocol="icmp", icmp=(8, 0))


@pytest.mark.parametrize(
    ("one", "kind", "allowed"),
    [
        (ECHO_ONLY, (8, 0), True),
        (ECHO_ONLY, (8, 1), False),
        (ECHO_ONLY, (0, 0), False),
        (rule(protocol="icmp", icmp=(0, None)), (0, 255), True),
        (rule(protocol="icmp", icmp=(0, None)), (8, 0), False),
        (rule(protocol="icmp"), (255, 255), True),
    ],
)
def test_type_and_code_of_icmp_count_even_when_they_are_nought(
    one: Rule, kind: tuple[int, int], allowed: bool
) -> None:
    packet = Packet(peer=ip_address(PEER), protocol=ICMP, icmp_type=kind[0], icmp_code=kind[1])
    assert asked(group("g", one), packet=packet).allowed is allowed


@pytest.mark.parametrize("towards", Direction)
@pytest.mark.parametrize("kind", [130, 131, 132, 133, 134, 135, 136, 137, 143])
def test_neighbour_discovery_needs_no_rule_but_only_routers_advertise(
    kind: int, towards: Direction
) -> None:
    packet = Packet(peer=ip_address(PEER6), protocol=ICMPV6, icmp_type=kind)
    denying = group("g", *both(str(towards), "deny"))
    found = asked(denying, packet=packet, towards=towards)
    assert found.reason is Reason.LINK_SERVICE
    assert found.allowed is not (towards is OUT and kind in {134, 137})


@pytest.mark.parametrize(
    ("towards", "sport", "dport", "allowed"),
    [
        (OUT, 68, 67, True),
        (IN, 67, 68, True),
        (OUT, 67, 68, False),
        (IN, 68, 67, None),
        (OUT, 67, 67, None),
        (OUT, 40000, 67, None),
    ],
)
def test_a_port_is_a_dhcp_client_and_no_server(
    towards: Direction, sport: int, dport: int, allowed: bool | None
) -> None:
    packet = Packet(peer=ip_address(PEER), protocol=UDP, sport=sport, dport=dport)
    found = asked(group("g"), packet=packet, towards=towards)
    assert found.allowed is bool(allowed)
    assert (found.reason is Reason.LINK_SERVICE) is (allowed is not None)
    opened = asked(group("g", *both("ingress"), *both("egress")), packet=packet, towards=towards)
    assert opened.allowed is (allowed is not False)


def test_dhcpv6_has_ports_of_its_own() -> None:
    sent = Packet(peer=ip_address("ff02::1:2"), protocol=UDP, sport=546, dport=547)
    assert asked(group("g"), packet=sent, towards=OUT).allowed
    old = Packet(peer=ip_address("ff02::1:2"), protocol=UDP, sport=68, dport=67)
    assert not asked(group("g"), packet=old, towards=OUT).allowed


def test_without_port_security_everything_passes() -> None:
    one: Port = port("p", ["g"], ["10.0.0.1"], security=False)
    policy = Policy(state([group("g", *both(action="deny"))], [one]))
    assert decide(policy, one, IN, tcp(80)).reason is Reason.PORT_SECURITY_DISABLED


def test_dangling_peers_match_nothing_even_in_a_deny() -> None:
    rules = (
        rule(remote="sg:gone", action="deny"),
        rule(remote="ag:gone", action="deny"),
        rule(priority=2, rule_id="ok"),
    )
    assert asked(group("g", *rules), packet=tcp(80)).rule_id == "ok"


def test_the_own_group_as_the_peer_admits_its_members_and_nobody_else() -> None:
    one, two = port("p", ["g"], ["10.0.0.1"]), port("q", ["g", "h"], ["10.0.0.2"])
    other = port("r", ["h"], ["10.0.0.3"])
    policy = Policy(state([group("g", rule(remote="sg:g")), group("h")], [one, two, other]))
    passed = [n for n in range(1, 5) if decide(policy, one, IN, tcp(1, f"10.0.0.{n}")).allowed]
    assert passed == [1, 2]


def test_an_address_groups_range_is_not_widened_to_a_network() -> None:
    one = port("p", ["g"], ["10.0.0.1"])
    book = address_group("book", "203.0.113.9-203.0.113.10", "203.0.113.9")
    policy = Policy(state([group("g", rule(remote="ag:book"))], [one], address_groups=[book]))
    passed = [n for n in range(7, 13) if decide(policy, one, IN, tcp(1, f"203.0.113.{n}")).allowed]
    assert passed == [9, 10]


OPEN = group("g", *both("ingress"), *both("egress"))
SENDER = replace(
    port("p", ["g"], ["10.0.0.1", "fd00::1"]),
    mac_address="fa:16:3e:00:00:01",
    allowed_address_pairs=(AddressPair(network=ip_network("10.0.8.0/24")),),
)


def from_sender(packet: Packet, one: Port = SENDER, towards: Direction = OUT) -> Decision:
    return decide(Policy(state([OPEN], [one])), one, towards, packet)


@pytest.mark.parametrize(
    ("source", "own"),
    [
        ("10.0.0.1", True),
        ("10.0.8.255", True),
        ("fd00::1", True),
        ("fe80::f816:3eff:fe00:1", True),
        ("10.0.0.2", False),
        ("10.0.9.0", False),
        ("fd00::2", False),
        ("fe80::1", False),
    ],
)
def test_what_is_sent_in_anothers_name_is_denied_before_any_rule(source: str, own: bool) -> None:
    peer = PEER6 if ":" in source else PEER
    found = from_sender(replace(tcp(80, peer), source=ip_address(source)))
    assert found.allowed is own
    assert found.reason is (Reason.RULE if own else Reason.SOURCE_CHECK)
    assert own or (found.group_id, found.rule_id) == (None, None)


def test_the_source_check_comes_before_link_services() -> None:
    solicitation = Packet(peer=ip_address(PEER6), protocol=ICMPV6, icmp_type=135)
    assert from_sender(solicitation).reason is Reason.LINK_SERVICE
    spoofed = replace(solicitation, source=ip_address("fd00::2"))
    assert from_sender(spoofed).reason is Reason.SOURCE_CHECK


@pytest.mark.parametrize("source", ["10.0.0.2", None])
def test_only_an_originator_is_asked_who_it_is(source: str | None) -> None:
    packet = replace(tcp(80), source=ip_address(source) if source else None)
    assert from_sender(packet, towards=IN).reason is Reason.RULE
    assert from_sender(packet).allowed is (source is None)


def test_a_switched_off_source_check_leaves_the_rules_in_force() -> None:
    spoofed = replace(tcp(80), source=ip_address("10.0.0.2"))
    off = replace(SENDER, source_check=False)
    assert from_sender(spoofed, off).reason is Reason.RULE
    unmanaged = replace(SENDER, port_security_enabled=False)
    assert from_sender(spoofed, unmanaged).reason is Reason.PORT_SECURITY_DISABLED


@pytest.mark.parametrize("kind", [5, 9])
def test_no_rule_lets_a_port_speak_as_a_router_of_ipv4(kind: int) -> None:
    packet = Packet(peer=ip_address(PEER), protocol=ICMP, icmp_type=kind)
    found = asked(OPEN, packet=packet, towards=OUT)
    assert (found.allowed, found.reason) == (False, Reason.LINK_SERVICE)
    # What routers say to a port is for its rules to judge.
    assert asked(OPEN, packet=packet).reason is Reason.RULE
    assert asked(group("g"), packet=packet).reason is Reason.DEFAULT_DENY


@pytest.mark.parametrize("kind", [4, 6, 8, 10])
def test_other_messages_of_icmp_are_for_the_rules(kind: int) -> None:
    packet = Packet(peer=ip_address(PEER), protocol=ICMP, icmp_type=kind)
    assert asked(OPEN, packet=packet, towards=OUT).reason is Reason.RULE
