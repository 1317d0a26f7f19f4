from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.clouds import Json, allows, hw_group, hw_port, hw_rule, imported, rules_of

from secgroupd.core.model import (
    Action,
    AddressGroupPeer,
    AnyPeer,
    Direction,
    Family,
    GroupPeer,
    PortRange,
    PrefixPeer,
)
from secgroupd.core.verdict import Packet
from secgroupd.errors import ImportRefused

SSH = Packet(peer=ip_address("10.0.0.9"), protocol=6, dport=22)


def one(**more: object) -> tuple[Any, list[str]]:
    rule = hw_rule("r", "g", **more)
    parsed, notes = imported("huawei", {"security_groups": [hw_group("g", [rule])]})
    return rules_of(parsed, "g").get("r"), notes


def test_every_field_stays() -> None:
    rule, notes = one(
        direction="egress", action="deny", priority=7, ethertype="ipv6", protocol="tcp",
        multiport="22-24,25", remote_ip_prefix="2001:db8::/32", enabled=False, description="why",
    )  # fmt: skip
    assert (rule.direction, rule.action, rule.priority) == (Direction.EGRESS, Action.DENY, 7)
    assert (rule.family, rule.protocol) == (Family.IPV6, 6)
    assert rule.ports == (PortRange(22, 24), PortRange(25, 25))
    assert rule.peer == PrefixPeer(ip_network("2001:db8::/32"))
    assert (rule.enabled, rule.description, notes) == (False, "why", [])


@pytest.mark.parametrize("empty", [None, ""])
def test_null_and_empty_text_are_any(empty: object) -> None:
    rule, notes = one(
        protocol=empty, multiport=empty, remote_ip_prefix=empty, remote_group_id=empty,
        remote_address_group_id=empty,
    )  # fmt: skip
    assert (rule.protocol, rule.ports, rule.peer, notes) == (None, (), AnyPeer(), [])


def test_fields_of_older_versions_of_the_api() -> None:
    rule = hw_rule("r", "g", protocol="icmp", port_range_min=8, port_range_max=0)
    for key in ("multiport", "action", "priority", "enabled", "remote_address_group_id"):
        del rule[key]
    parsed, notes = imported(
        "huawei", {"security_group": hw_group("g"), "security_group_rules": [rule]}
    )
    found = rules_of(parsed, "g")["r"]
    assert (found.icmp_type, found.icmp_code, found.priority, found.action) == (
        8,
        0,
        1,
        Action.ALLOW,
    )
    assert notes == []


BAD: list[Json] = [
    {"protocol": "-1"}, {"protocol": "zorp"}, {"protocol": {}}, {"protocol": "tcp", "multiport": "0-5"}, {"protocol": "tcp", "multiport": "9-5"},
    {"protocol": "tcp", "multiport": [22]}, {"protocol": "tcp", "multiport": "22,22"}, {"multiport": "22"}, {"protocol": "icmp", "multiport": "8"},
    {"priority": 0}, {"priority": 101}, {"priority": "high"}, {"priority": None}, {"direction": "in"}, {"ethertype": 4}, {"protocol": "icmpv6"},
    {"remote_ip_prefix": "10.0.0.1/8"}, {"remote_ip_prefix": "2001:db8::/32"}, {"remote_group_id": 5},
    {"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": "g"},
]  # fmt: skip


@pytest.mark.parametrize("more", BAD)
def test_an_allow_that_cannot_be_said_is_left_out(more: Json) -> None:
    rule, notes = one(**more)
    assert rule is None
    assert len(notes) == 1 and notes[0].startswith("1.json: security group rule 'r': left out: ")


@pytest.mark.parametrize("more", BAD)
def test_a_deny_that_cannot_be_said_denies_more(more: Json) -> None:
    exact = hw_rule("r", "g", action="deny", remote_ip_prefix="10.0.0.9")
    rules = [exact | more, hw_rule("all", "g", priority=100)]
    parsed, notes = imported(
        "huawei",
        {"security_groups": [hw_group("g", rules)], "ports": [hw_port("p", "10.0.0.5", ["g"])]},
    )
    assert not allows(parsed, "p", "ingress", SSH)
    assert len(notes) == 1 and "denies more" in notes[0]


@pytest.mark.parametrize("action", [None, "drop", 7, ["allow"]])
def test_an_action_that_is_none_denies(action: object) -> None:
    rules = [hw_rule("r", "g", action=action), hw_rule("s", "g", action="allow", priority=2)]
    parsed, notes = imported("huawei", {"security_groups": [hw_group("g", rules)]})
    assert rules_of(parsed, "g")["r"].action is Action.DENY and len(notes) == 1


@pytest.mark.parametrize(
    "key",
    ["action", "priority", "enabled", "protocol", "multiport", "remote_ip_prefix", "ethertype"],
)
def test_a_field_that_only_one_rule_lacks_widens_nothing(key: str) -> None:
    rule = hw_rule("r", "g", protocol="tcp", multiport="22")
    del rule[key]
    other = hw_rule("s", "g", action="deny", priority=9)
    parsed, notes = imported("huawei", {"security_groups": [hw_group("g", [rule, other])]})
    found = rules_of(parsed, "g").get("r")
    assert found is None or found.action is Action.DENY or not found.enabled
    assert len(notes) == 1


@pytest.mark.parametrize(
    "broken", [7, None, [], {"action": "deny", "security_group_id": 5}, {"id": "r"}]
)
def test_a_rule_that_may_deny_in_any_group_is_refused(broken: object) -> None:
    with pytest.raises(ImportRefused, match=r"1\.json: .*fetch it again"):
        imported(
            "huawei", {"security_groups": [hw_group("g", None)], "security_group_rules": [broken]}
        )


def test_a_deny_whose_group_is_absent_denies_everybody() -> None:
    rules = [
        hw_rule("r", "g", action="deny", remote_group_id="gone"),
        hw_rule("s", "g", priority=2),
    ]
    parsed, notes = imported(
        "huawei",
        {"security_groups": [hw_group("g", rules)], "ports": [hw_port("p", "10.0.0.5", ["g"])]},
    )
    assert not allows(parsed, "p", "ingress", SSH)
    assert len(notes) == 1 and "denies every address" in notes[0]


def test_an_allow_whose_group_is_absent_stays_and_matches_nothing() -> None:
    rule, notes = one(remote_group_id="gone")
    assert rule.peer == GroupPeer("gone") and len(notes) == 1


@pytest.mark.parametrize(
    "lost",
    [hw_port("q", "10.0.0.9", ["h"], id=None), hw_port("q", "nonsense", ["h"]), hw_port("q", "10.0.0.9", [5]),
     hw_port("q", "10.0.0.9", ["h"], vpc_id=None), 7, hw_port("q", "10.0.0.5", ["h"])],
)  # fmt: skip
def test_a_deny_whose_members_are_not_all_known_denies_everybody(lost: object) -> None:
    rules = [hw_rule("r", "g", action="deny", remote_group_id="h"), hw_rule("s", "g", priority=2)]
    groups = [hw_group("g", rules), hw_group("h")]
    whole = {
        "security_groups": groups,
        "ports": [hw_port("p", "10.0.0.5", ["g"]), hw_port("q", "10.0.0.9", ["h"])],
    }
    parsed, notes = imported("huawei", whole)
    assert not allows(parsed, "p", "ingress", SSH) and notes == []
    assert allows(parsed, "p", "ingress", Packet(peer=ip_address("10.0.0.8"), protocol=6))
    parsed, notes = imported(
        "huawei", {"security_groups": groups, "ports": [hw_port("p", "10.0.0.5", ["g"]), lost]}
    )
    assert not allows(parsed, "p", "ingress", SSH)
    assert any("denies every address" in note for note in notes)


def test_a_deny_whose_members_may_be_in_a_peered_vpc_needs_the_peerings() -> None:
    rules = [hw_rule("r", "g", action="deny", remote_group_id="h"), hw_rule("s", "g", priority=2)]
    groups = [hw_group("g", rules), hw_group("h")]
    value = {
        "security_groups": groups,
        "ports": [hw_port("p", "10.0.0.5", ["g"]), hw_port("q", "10.0.0.9", ["h"], vpc_id="vpc-2")],
    }
    parsed, notes = imported("huawei", value)
    assert not allows(parsed, "p", "ingress", SSH) and len(notes) == 1
    assert rules_of(parsed, "g")["r"].peer == AnyPeer()
    peering = {
        "id": "pc",
        "name": "n",
        "status": "ACTIVE",
        "request_vpc_info": {"vpc_id": "vpc-2"},
        "accept_vpc_info": {"vpc_id": "vpc-1"},
    }
    parsed, notes = imported("huawei", value, {"peerings": [peering]})
    assert not allows(parsed, "p", "ingress", SSH) and notes == []
    assert rules_of(parsed, "g")["r"].peer == GroupPeer("h")
    assert parsed.state.peerings[0].vpc_ids == ("vpc-1", "vpc-2")


def test_a_group_whose_rules_are_not_known_denies_everything() -> None:
    groups = [hw_group("unknown", None), hw_group("g", [hw_rule("s", "g")])]
    ports = [
        hw_port("p", "10.0.0.5", ["unknown", "g"]),
        hw_port("q", "10.0.0.6", ["g", "unknown"]),
        hw_port("r", "10.0.0.7", ["absent", "g"]),
    ]
    parsed, notes = imported("huawei", {"security_groups": groups, "ports": ports})
    assert not allows(parsed, "p", "ingress", SSH)
    assert allows(parsed, "q", "ingress", SSH)
    assert not allows(parsed, "r", "ingress", SSH)
    assert len(notes) == 2


def test_pages_that_are_not_there_may_deny() -> None:
    groups = [hw_group("g", None)]
    ports = [hw_port("p", "10.0.0.5", ["g"])]
    value = {"security_groups": groups, "ports": ports}
    rules: Json = {"security_group_rules": [hw_rule("s", "g")]}
    for first in (
        rules | {"page_info": {"next_marker": "s"}},
        {"security_group_rule": rules["security_group_rules"][0]},
    ):
        parsed, _ = imported("huawei", value, first)
        assert not allows(parsed, "p", "ingress", SSH)
        last = {"security_group_rules": [], "page_info": {"previous_marker": "s"}}
        parsed, _ = imported("huawei", value, first, last)
        assert allows(parsed, "p", "ingress", SSH)


def test_members_on_pages_that_are_not_there_are_denied() -> None:
    rules = [hw_rule("r", "g", action="deny", remote_group_id="h"), hw_rule("s", "g", priority=2)]
    value: Json = {
        "security_groups": [hw_group("g", rules), hw_group("h")],
        "ports": [hw_port("p", "10.0.0.5", ["g"])],
    }
    assert allows(imported("huawei", value)[0], "p", "ingress", SSH)
    parsed, _ = imported("huawei", value | {"ports_links": [{"rel": "next", "href": "x"}]})
    assert not allows(parsed, "p", "ingress", SSH)


def test_a_group_that_is_given_twice_with_other_rules_is_refused() -> None:
    values = [{"security_group": hw_group("g", rules)} for rules in ([hw_rule("r", "g")], [])]
    with pytest.raises(ImportRefused, match=r"2\.json: security group 'g' is given twice"):
        imported("huawei", *values)


def test_a_port_whose_vpc_is_not_known_sees_no_members_to_deny() -> None:
    rules = [hw_rule("r", "g", action="deny", remote_group_id="h"), hw_rule("s", "g", priority=2)]
    ports = [hw_port("p", "10.0.0.5", ["g"], vpc_id=None), hw_port("q", "10.0.0.9", ["h"])]
    peering = {
        "id": "pc",
        "status": "ACTIVE",
        "request_vpc_info": {"vpc_id": "vpc-1"},
        "accept_vpc_info": {"vpc_id": "vpc-2"},
    }
    parsed, _ = imported(
        "huawei",
        {"security_groups": [hw_group("g", rules), hw_group("h")], "ports": ports},
        {"peerings": [peering]},
    )
    assert not allows(parsed, "p", "ingress", SSH)


def test_the_order_of_groups_stays_and_a_gap_in_it_closes() -> None:
    groups = [hw_group("a"), hw_group("b", [hw_rule("s", "b")])]
    ports = [hw_port("p", "10.0.0.5", ["b", "a"]), hw_port("q", "10.0.0.6", ["a", 5, "b"])]
    parsed, _ = imported("huawei", {"security_groups": groups, "ports": ports})
    found = {
        port.id: port.security_groups for each in parsed.state.instances for port in each.ports
    }
    assert found == {"p": ("b", "a"), "q": ("a", "imported-closed", "b")}
    assert not allows(parsed, "q", "ingress", SSH)


def test_address_groups() -> None:
    plain = {
        "id": "a",
        "name": "A",
        "description": "d",
        "ip_version": 4,
        "ip_set": ["192.168.3.2", "192.168.3.20-192.168.3.100"],
        "ip_extra_set": [],
    }
    extra = {
        "id": "b",
        "name": "B",
        "ip_version": 6,
        "ip_set": [],
        "ip_extra_set": [{"ip": "2001:db8::/32", "remarks": "r"}],
    }
    parsed, notes = imported(
        "huawei",
        {"address_groups": [plain, extra, {"id": "c", "name": "C", "ip_version": 6, "ip_set": []}]},
    )
    assert [
        (group.id, len(group.entries), group.family.version)
        for group in parsed.state.address_groups
    ] == [("a", 2, 4), ("b", 1, 6), ("c", 0, 6)]
    assert notes == []


@pytest.mark.parametrize("entries", [["10.0.0.9", "x"], [7], None, "absent", ["10.0.0.9", "::1"]])
def test_a_deny_with_an_address_group_that_is_not_whole_denies_every_address(
    entries: object,
) -> None:
    group = {"id": "a", "name": "A", "ip_version": 4, "ip_set": entries}
    rules = [
        hw_rule("r", "g", action="deny", remote_address_group_id="a"),
        hw_rule("s", "g", priority=2, remote_address_group_id="a"),
    ]
    parsed, _ = imported(
        "huawei",
        {
            "security_groups": [hw_group("g", rules)],
            "address_groups": [group] if entries != "absent" else [],
        },
    )
    assert rules_of(parsed, "g")["r"].peer == AnyPeer()
    assert rules_of(parsed, "g")["s"].peer == AddressGroupPeer("a")


def test_sub_interfaces_are_members_only() -> None:
    rules = [hw_rule("r", "g", action="deny", remote_group_id="h"), hw_rule("s", "g", priority=2)]
    value = {
        "security_groups": [hw_group("g", rules), hw_group("h")],
        "ports": [hw_port("p", "10.0.0.5", ["g"])],
    }
    sub = {"id": "s", "vpc_id": "vpc-1", "mac_address": "fa:16:3e:00:00:07", "private_ip_address": "10.0.0.9", "ipv6_ip_address": "",
           "parent_id": "p", "parent_device_id": "ecs-p", "vlan_id": 7, "security_groups": ["h"], "security_enabled": True}  # fmt: skip
    parsed, notes = imported("huawei", value, {"sub_network_interfaces": [sub]})
    assert not allows(parsed, "p", "ingress", SSH)
    assert allows(parsed, "p", "ingress", Packet(peer=ip_address("10.0.0.8"), protocol=6))
    (instance,) = parsed.state.instances
    assert [(port.id, port.host_id) for port in instance.ports] == [("p", "hv1"), ("s", "none:s")]
    assert len(notes) == 1


def test_a_port_without_security_is_open_and_in_no_group() -> None:
    port = hw_port("p", "10.0.0.5", [], port_security_enabled=False)
    parsed, notes = imported("huawei", {"security_groups": [], "ports": [port]})
    assert allows(parsed, "p", "ingress", SSH) and notes == []


def test_virtual_ips_are_no_members() -> None:
    ports = [hw_port("p", "10.0.0.5", ["g"], device_owner="neutron:VIP_PORT")]
    parsed, notes = imported("huawei", {"ports": ports, "security_groups": [hw_group("g")]})
    assert parsed.state.instances == () and len(notes) == 1


def test_the_source_check_can_be_off_and_everything_is_no_pair() -> None:
    pairs = [
        {"ip_address": "1.1.1.1/0"},
        {"ip_address": "10.0.9.9", "mac_address": ""},
        {"ip_address": "0.0.0.0/0"},
    ]
    parsed, notes = imported(
        "huawei",
        {
            "ports": [hw_port("p", "10.0.0.5", ["g"], allowed_address_pairs=pairs)],
            "security_groups": [hw_group("g")],
        },
    )
    (port,) = parsed.state.instances[0].ports
    assert not port.source_check and [str(pair.network) for pair in port.allowed_address_pairs] == [
        "10.0.9.9/32"
    ]
    assert len(notes) == 1


def test_the_default_group_may_have_other_rules() -> None:
    parsed, notes = imported(
        "huawei",
        {"security_groups": [hw_group("d", [hw_rule("r", "d", protocol="tcp")], name="default")]},
    )
    assert parsed.state.allow_default_group_changes and len(notes) == 1
    own = [hw_rule("1", "d", remote_group_id="d"), hw_rule("2", "d", remote_group_id="d", ethertype="IPv6"),
           hw_rule("3", "d", direction="egress"), hw_rule("4", "d", direction="egress", ethertype="IPv6")]  # fmt: skip
    parsed, notes = imported("huawei", {"security_groups": [hw_group("d", own, name="default")]})
    assert not parsed.state.allow_default_group_changes and notes == []


@pytest.mark.parametrize("enabled", [None, "yes", 1])
def test_a_rule_that_may_be_off_is_off_if_it_allows(enabled: object) -> None:
    rule = hw_rule("r", "g", enabled=enabled)
    del rule["action"]
    parsed, notes = imported("huawei", {"security_groups": [hw_group("g", [rule])]})
    assert not rules_of(parsed, "g")["r"].enabled and len(notes) == 1
    found, notes = one(action="deny", enabled=enabled)
    assert found.enabled and len(notes) == 1
