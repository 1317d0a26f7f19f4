"""References resolved: presets, default groups, order, and whom a group peer means."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from tests.builders import group, peer, port, rule, state

from secgroupd.core.model import AddressPair, Direction, Family, PortRange, Preset, SecurityGroup
from secgroupd.core.policy import Policy, default_group_id

IN, V4, V6 = Direction.INGRESS, Family.IPV4, Family.IPV6


def number(text: str) -> int:
    return int(ip_address(text))


def test_a_port_without_groups_gets_the_default_group_of_its_own_vpc() -> None:
    policy = Policy(state([], [port("p", vpc="v1"), port("q", vpc="v2")]))
    assert policy.groups_of(policy.ports["p"]) == (default_group_id("v1"),)
    assert set(policy.groups) == {default_group_id("v1"), default_group_id("v2")}
    assert {g.name for g in policy.groups.values()} == {"default"}


def test_nobody_gets_a_default_group_who_needs_none() -> None:
    assert set(Policy(state([group("g")], [port("p", ["g"])])).groups) == {"g"}


def test_a_written_default_group_takes_the_place_of_the_made_one() -> None:
    policy = Policy(state([group("mine", name="default")], [port("p")]))
    assert policy.groups_of(policy.ports["p"]) == ("mine",)
    assert set(policy.groups) == {"mine"}


def test_the_default_group_means_its_own_members_only() -> None:
    ports = [port("p", ips=["10.0.0.1"]), port("q", ["g"], ["10.0.0.2"])]
    members = Policy(state([group("g")], ports)).members(default_group_id("vpc"), "vpc", V4)
    assert members == {number("10.0.0.1")}


def test_addresses_that_a_member_may_also_send_from_are_no_members() -> None:
    pair = AddressPair(network=ip_network("10.0.0.128/25"))
    one = replace(port("p", ["g"], ["10.0.0.1"]), allowed_address_pairs=(pair,))
    assert Policy(state([group("g")], [one])).members("g", "vpc", V4) == {number("10.0.0.1")}


def test_rules_are_in_order_of_groups_then_priority_then_deny() -> None:
    groups = [
        group("b", rule(priority=100, rule_id="1")),
        group(
            "a",
            rule(priority=2, rule_id="4"),
            rule(rule_id="3"),
            rule(rule_id="2", action="deny"),
            rule(rule_id="off", enabled=False),
            rule("egress", rule_id="out"),
            rule(family=V6, rule_id="six"),
        ),
    ]
    policy = Policy(state(groups, []))
    found = policy.rules(("b", "gone", "a"), IN, V4)
    assert [one.rule.id for one in found] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("made", "inbound"),
    [
        (SecurityGroup(id="g", preset=Preset.WEB_SERVER), 6),
        (SecurityGroup(id="g", preset=Preset.ALL_OPEN), 2),
        (SecurityGroup(id="g", preset=Preset.FAST_ADD), 1),
        (SecurityGroup(id="g", preset=Preset.FAST_ADD, preset_ports=(PortRange(1, 2),)), 2),
        (SecurityGroup(id="g", preset=Preset.FAST_ADD, preset_icmp=True), 2),
    ],
)
def test_presets_stand_for_their_rules_and_let_everything_out(
    made: SecurityGroup, inbound: int
) -> None:
    policy = Policy(state([made], []))
    assert len(policy.rules(["g"], IN, V4)) == inbound
    assert len({one.rule.id for one in policy.rules(["g"], IN, V4)}) == inbound
    for family in Family:
        (out,) = policy.rules(["g"], Direction.EGRESS, family)
        assert policy.ranges(out.rule.peer, "vpc", family) == ((0, (1 << family.bits) - 1),)


def test_own_rules_stand_beside_those_of_the_preset() -> None:
    made = replace(group("g", rule(rule_id="own")), preset=Preset.ALL_OPEN)
    assert "own" in {one.rule.id for one in Policy(state([made], [])).rules(["g"], IN, V4)}


PORTS = [
    port("a", ["g"], ["10.0.0.1", "fd00::1"], vpc="va"),
    port("b", ["h", "g"], ["10.0.0.2"], vpc="vb", host_id="elsewhere"),
    port("c", ["g"], ["10.0.0.1"], vpc="vc"),
]


def test_members_are_those_of_the_own_and_of_directly_peered_vpcs() -> None:
    policy = Policy(state([], PORTS, peerings=[("va", "vb"), ("vb", "vc")]))
    one, two = number("10.0.0.1"), number("10.0.0.2")
    assert policy.members("g", "va", V4) == {one, two}
    assert policy.members("g", "va", V6) == {number("fd00::1")}
    assert policy.members("g", "vc", V4) == {one, two}
    assert policy.visible_vpcs("va") == {"va", "vb"}
    assert policy.members("g", "unknown", V4) == frozenset()


def test_without_peering_the_other_vpc_counts_for_nothing() -> None:
    policy = Policy(state([], PORTS))
    assert policy.members("g", "vb", V4) == {number("10.0.0.2")}
    assert policy.ranges(peer("sg:h"), "va", V4) == ()


def test_an_address_group_of_the_other_family_means_nobody() -> None:
    assert Policy(state([], [])).ranges(peer("ag:gone"), "v", V4) == ()
