from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.clouds import Json, allows, imported, os_group, os_port, os_rule, rules_of

from secgroupd.core.model import (
    AddressGroupPeer,
    AnyPeer,
    Family,
    GroupPeer,
    PortRange,
    PrefixPeer,
)
from secgroupd.core.verdict import Packet
from secgroupd.errors import ImportRefused


def one(**more: object) -> tuple[Any, list[str]]:
    """The only rule of an imported group, None if it was left out; and the notes."""
    parsed, notes = imported(
        "openstack", {"security_groups": [os_group("g", [os_rule("r", "g", **more)])]}
    )
    return rules_of(parsed, "g").get("r"), notes


def test_a_group_keeps_its_id_name_and_description() -> None:
    parsed, notes = imported(
        "openstack", {"security_groups": [os_group("g", name="web", description="the web")]}
    )
    (group,) = parsed.state.security_groups
    assert (group.id, group.name, group.description, notes) == ("g", "web", "the web", [])


def test_null_is_any() -> None:
    rule, notes = one(direction="egress", ethertype="IPv6")
    assert (rule.protocol, rule.ports, rule.peer, rule.family) == (None, (), AnyPeer(), Family.IPV6)
    assert rule.priority == 1 and notes == []


@pytest.mark.parametrize(
    ("protocol", "ethertype", "number"),
    [("tcp", "IPv4", 6), ("6", "IPv4", 6), (17, "IPv4", 17), ("any", "IPv4", None), ("icmp", "IPv6", 58),
     ("ipv6-icmp", "IPv6", 58), ("icmpv6", "IPv6", 58), ("ipv6-frag", "IPv6", 44), ("vrrp", "IPv4", 112), ("0", "IPv4", 0)],
)  # fmt: skip
def test_protocols(protocol: object, ethertype: str, number: int | None) -> None:
    rule, notes = one(protocol=protocol, ethertype=ethertype)
    assert (rule.protocol, notes) == (number, [])


def test_ports() -> None:
    rule, _ = one(protocol="tcp", port_range_min=22, port_range_max=24)
    assert rule.ports == (PortRange(22, 24),)
    rule, _ = one(protocol="udp", port_range_min=0, port_range_max=65535)
    assert rule.ports == ()


def test_icmp_types_are_written_as_ports() -> None:
    rule, _ = one(protocol="icmp", port_range_min=8, port_range_max=0)
    assert (rule.icmp_type, rule.icmp_code, rule.ports) == (8, 0, ())
    rule, _ = one(protocol="icmp", port_range_min=0, port_range_max=None)
    assert (rule.icmp_type, rule.icmp_code) == (0, None)


def test_peers() -> None:
    assert one(remote_group_id="g")[0].peer == GroupPeer("g")
    assert one(remote_ip_prefix="10.0.0.7")[0].peer == PrefixPeer(ip_network("10.0.0.7/32"))
    # Neutron keeps the bits behind the prefix, and matches the network (normalized_cidr).
    assert one(remote_ip_prefix="10.0.0.7/24")[0].peer == PrefixPeer(ip_network("10.0.0.0/24"))


@pytest.mark.parametrize(
    "more",
    [{"protocol": "-1"}, {"protocol": -1}, {"protocol": "zorp"}, {"protocol": [6]}, {"protocol": 256}, {"protocol": True},
     {"protocol": "tcp", "port_range_min": 22}, {"protocol": "tcp", "port_range_min": 24, "port_range_max": 22},
     {"protocol": "tcp", "port_range_min": -1, "port_range_max": -1}, {"protocol": "tcp", "port_range_min": 1, "port_range_max": 65536},
     {"protocol": "tcp", "port_range_min": 0, "port_range_max": 0}, {"port_range_min": 22, "port_range_max": 22},
     {"protocol": "icmp", "port_range_min": -1, "port_range_max": -1}, {"protocol": "icmp", "port_range_min": 300},
     {"protocol": "icmp", "port_range_max": 0}, {"protocol": "1", "ethertype": "IPv6"}, {"protocol": "ipv6-icmp"},
     {"ethertype": "IPv5"}, {"direction": "sideways"}, {"direction": None}, {"remote_ip_prefix": "10.0.0.0/33"},
     {"remote_ip_prefix": "::/0"}, {"remote_ip_prefix": "::ffff:10.0.0.1"}, {"remote_ip_prefix": 10},
     {"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": "g"}, {"remote_group_id": ["g"]}, {"remote_address_group_id": {}}],
)  # fmt: skip
def test_what_cannot_be_said_is_left_out_and_reported(more: Json) -> None:
    rule, notes = one(**more)
    assert rule is None
    assert len(notes) == 1 and notes[0].startswith("1.json: security group rule 'r': left out: ")


@pytest.mark.parametrize(
    "key",
    ["ethertype", "protocol", "port_range_min", "port_range_max", "remote_ip_prefix", "remote_group_id", "direction"],
)  # fmt: skip
def test_a_field_that_is_missing_is_not_any(key: str) -> None:
    rule = os_rule("r", "g", protocol="tcp", port_range_min=22, port_range_max=22)
    del rule[key]
    parsed, notes = imported("openstack", {"security_groups": [os_group("g", [rule])]})
    assert rules_of(parsed, "g") == {} and len(notes) == 1


def test_an_api_without_address_groups_has_no_field_for_them() -> None:
    rule = os_rule("r", "g")
    del rule["remote_address_group_id"]
    parsed, notes = imported("openstack", {"security_groups": [os_group("g", [rule])]})
    assert set(rules_of(parsed, "g")) == {"r"} and notes == []
    parsed, notes = imported(
        "openstack", {"security_groups": [os_group("g", [rule, os_rule("s", "g")])]}
    )
    assert set(rules_of(parsed, "g")) == {"s"} and len(notes) == 1


def test_a_group_that_is_absent_matches_nothing_and_is_reported() -> None:
    rule, notes = one(remote_group_id="gone")
    assert rule.peer == GroupPeer("gone")
    assert notes == ["1.json: security group rule 'r': kept, in group g: there is no security group gone in the answers, so that it matches nothing"]  # fmt: skip


def test_rules_of_a_stateless_group_are_left_out() -> None:
    parsed, notes = imported(
        "openstack", {"security_groups": [os_group("g", [os_rule("r", "g")], stateful=False)]}
    )
    assert rules_of(parsed, "g") == {} and "stateless" in notes[0]


def test_address_groups_of_two_versions_become_two() -> None:
    group = {
        "id": "ag",
        "name": "n",
        "description": "d",
        "addresses": ["10.0.0.0/8", "2001:db8::/32", "10.0.0.1/32"],
    }
    rules = [
        os_rule("r4", "g", remote_address_group_id="ag"),
        os_rule("r6", "g", ethertype="IPv6", remote_address_group_id="ag"),
    ]
    parsed, notes = imported(
        "openstack", {"address_groups": [group]}, {"security_groups": [os_group("g", rules)]}
    )
    assert {each.id: each.family.version for each in parsed.state.address_groups} == {
        "ag": 4,
        "ag-ipv6": 6,
    }
    assert rules_of(parsed, "g")["r4"].peer == AddressGroupPeer("ag")
    assert rules_of(parsed, "g")["r6"].peer == AddressGroupPeer("ag-ipv6")
    assert notes == []


def test_a_rule_for_a_version_that_its_address_group_has_not_is_left_out() -> None:
    group = {"id": "ag", "name": "n", "addresses": ["10.0.0.0/8"]}
    rule = os_rule("r6", "g", ethertype="IPv6", remote_address_group_id="ag")
    parsed, notes = imported(
        "openstack", {"address_groups": [group]}, {"security_groups": [os_group("g", [rule])]}
    )
    assert rules_of(parsed, "g") == {} and len(notes) == 1


def test_a_port() -> None:
    pairs = [
        {"ip_address": "10.0.9.0/24", "mac_address": "fa:16:3e:aa:bb:cc"},
        {"ip_address": "0.0.0.0/0", "mac_address": "fa:16:3e:00:00:01"},
    ]
    port = os_port(
        "p", "10.0.0.5", ["h", "g"], mac_address="FA:16:3E:00:00:01", allowed_address_pairs=pairs
    )
    parsed, notes = imported(
        "openstack", {"ports": [port], "security_groups": [os_group("g"), os_group("h")]}
    )
    (instance,) = parsed.state.instances
    (found,) = instance.ports
    assert (instance.id, found.id, found.vpc_id, found.host_id) == ("vm-p", "p", "openstack", "hv1")
    assert found.mac_address == "fa:16:3e:00:00:01" and found.security_groups == ("g", "h")
    assert [str(pair.network) for pair in found.allowed_address_pairs] == [
        "0.0.0.0/1",
        "10.0.9.0/24",
        "128.0.0.0/1",
    ]
    assert found.source_check and found.port_security_enabled and notes == []


def test_ports_of_routers_and_dhcp_servers_are_left_out() -> None:
    port = os_port("p", "10.0.0.1", [], device_owner="network:router_interface")
    parsed, notes = imported("openstack", {"ports": [port]})
    assert parsed.state.instances == () and len(notes) == 1


@pytest.mark.parametrize("groups", [[], None, "g", [7], "missing"])
def test_a_port_without_groups_is_closed(groups: object) -> None:
    port = os_port("p", "10.0.0.5", [], security_groups=groups)
    if groups == "missing":
        del port["security_groups"]
    parsed, notes = imported(
        "openstack",
        {
            "ports": [port],
            "security_groups": [os_group("default", [os_rule("r", "default")], name="default")],
        },
    )
    packet = Packet(peer=ip_address("10.0.0.9"), protocol=6, dport=22)
    assert not allows(parsed, "p", "ingress", packet) and not allows(parsed, "p", "egress", packet)
    assert notes


def test_a_group_of_a_port_that_is_absent_has_members_and_no_rules() -> None:
    rule = os_rule("r", "g", remote_group_id="absent")
    ports = [os_port("p", "10.0.0.5", ["g"]), os_port("q", "10.0.0.6", ["absent"])]
    parsed, notes = imported(
        "openstack", {"ports": ports, "security_groups": [os_group("g", [rule])]}
    )
    assert allows(parsed, "p", "ingress", Packet(peer=ip_address("10.0.0.6"), protocol=6))
    assert not allows(parsed, "q", "egress", Packet(peer=ip_address("10.0.0.5"), protocol=6))
    assert len(notes) == 1


def test_networks_with_the_same_addresses_are_vpcs_of_their_own() -> None:
    ports = [
        os_port("p", "10.0.0.5", ["g"]),
        os_port("q", "10.0.0.5", ["g"], network_id="net-2"),
        os_port("r", "10.1.0.5", ["g"], network_id="net-3"),
    ]
    parsed, notes = imported("openstack", {"ports": ports, "security_groups": [os_group("g")]})
    assert [vpc.id for vpc in parsed.state.vpcs] == ["net-1", "net-2", "openstack"]
    assert len(notes) == 2


@pytest.mark.parametrize("mac", [None, "", "fa:16:3e", "ff:ff:ff:ff:ff:ff", 7])
def test_a_port_whose_mac_is_not_known_is_enforced_nowhere(mac: object) -> None:
    parsed, notes = imported(
        "openstack",
        {
            "ports": [os_port("p", "10.0.0.5", ["g"], mac_address=mac)],
            "security_groups": [os_group("g")],
        },
    )
    (found,) = parsed.state.instances[0].ports
    assert found.host_id == "none:p" and notes


def test_ports_with_one_mac_on_one_host_are_enforced_nowhere() -> None:
    ports = [
        os_port("p", "10.0.0.5", ["g"], mac_address="fa:16:3e:00:00:01"),
        os_port("q", "10.0.0.6", ["g"], mac_address="fa:16:3e:00:00:01"),
    ]
    parsed, notes = imported("openstack", {"ports": ports, "security_groups": [os_group("g")]})
    assert [port.host_id for each in parsed.state.instances for port in each.ports] == [
        "none:p",
        "none:q",
    ]
    assert len(notes) == 2


def test_pairs_of_members_are_reported_where_they_would_be_members() -> None:
    port = os_port(
        "p",
        "10.0.0.5",
        ["g"],
        allowed_address_pairs=[{"ip_address": "10.0.0.99", "mac_address": "fa:16:3e:00:00:01"}],
    )
    _, notes = imported(
        "openstack",
        {
            "ports": [port],
            "security_groups": [os_group("g", [os_rule("r", "g", remote_group_id="g")])],
        },
    )
    assert ["pairs are no members" in note for note in notes] == [True]


# What the command line prints.


def row(rule_id: str, **more: object) -> Json:
    return {
        "ID": rule_id,
        "IP Protocol": None,
        "Ethertype": "IPv4",
        "IP Range": "0.0.0.0/0",
        "Port Range": "",
        "Direction": "ingress",
        "Remote Security Group": None,
        "Remote Address Group": None,
        "Security Group": "g",
    } | {key.replace("_", " "): value for key, value in more.items()}


GROUPS = [
    {
        "ID": "g",
        "Name": "web",
        "Description": "the web",
        "Project": "p",
        "Tags": [],
        "Shared": False,
    }
]


def listed(*rows: Json) -> tuple[dict[str, Any], list[str]]:
    parsed, notes = imported("openstack", GROUPS, list(rows))
    assert (parsed.state.security_groups[0].name, "stateful" in notes[0]) == ("web", True)
    return rules_of(parsed, "g"), notes[1:]


def test_rows_of_lists() -> None:
    found, notes = listed(
        row("a", IP_Protocol="tcp", Port_Range="22:24", IP_Range="10.0.0.0/8"),
        row("b", Direction="egress", Ethertype="IPv6", IP_Range="::/0"),
        row("c", IP_Protocol="icmp", Port_Range="type=8:code=1"),
        row("d", Remote_Security_Group="g"),
    )
    assert found["a"].ports == (PortRange(22, 24),) and found["a"].peer == PrefixPeer(
        ip_network("10.0.0.0/8")
    )
    assert (found["b"].peer, found["b"].family) == (AnyPeer(), Family.IPV6)
    assert (found["c"].icmp_type, found["c"].icmp_code) == (8, 1)
    # The list prints the range of everything beside a group.
    assert found["d"].peer == GroupPeer("g")
    assert notes == []


def test_a_row_does_not_tell_icmp_type_and_code_0_from_any() -> None:
    found, notes = listed(
        row("a", IP_Protocol="icmp"), row("b", IP_Protocol="icmp", Port_Range="type=3")
    )
    assert set(found) == {"b"} and (found["b"].icmp_type, found["b"].icmp_code) == (3, 0)
    assert len(notes) == 1


@pytest.mark.parametrize(
    "column",
    [
        "Remote Security Group",
        "Remote Address Group",
        "IP Range",
        "Port Range",
        "IP Protocol",
        "Ethertype",
        "Direction",
        "Security Group",
    ],
)
def test_a_row_without_a_column_is_left_out(column: str) -> None:
    less = row("a", IP_Protocol="tcp")
    del less[column]
    found, notes = listed(less, row("b", IP_Protocol="tcp"))
    assert set(found) == {"b"} and len(notes) == 1


def test_what_show_prints_counts_more_than_a_row() -> None:
    shown = {
        "id": "g",
        "name": "web",
        "description": "more",
        "stateful": True,
        "rules": [os_rule("a", "g", protocol="icmp")],
    }
    parsed, _ = imported("openstack", GROUPS, shown, [row("a", IP_Protocol="icmp")])
    assert set(rules_of(parsed, "g")) == {"a"} and rules_of(parsed, "g")["a"].icmp_type is None


def test_rows_of_ports_and_address_groups() -> None:
    port = {"ID": "p", "Name": "eth", "MAC Address": "fa:16:3e:00:00:01", "Fixed IP Addresses": [{"subnet_id": "s", "ip_address": "10.0.0.5"}],
            "Status": "ACTIVE", "Security Groups": ["g"], "Device Owner": "compute:nova", "Tags": []}  # fmt: skip
    group = {
        "ID": "ag",
        "Name": "n",
        "Description": "",
        "Project": "p",
        "Addresses": ["10.0.0.0/8"],
    }
    parsed, _ = imported("openstack", GROUPS, [port], [group], [row("a")])
    assert [each.id for each in parsed.state.address_groups] == ["ag"]
    (instance,) = parsed.state.instances
    assert (instance.id, instance.name, str(instance.ports[0].private_ips[0])) == (
        "p",
        "eth",
        "10.0.0.5",
    )


def test_a_rule_that_is_given_twice_and_differently_is_refused() -> None:
    rules = [os_rule("r", "g", protocol="tcp"), os_rule("r", "g", protocol="udp")]
    with pytest.raises(ImportRefused, match=r"1.json: security group rule 'r' is given twice"):
        imported("openstack", {"security_groups": [os_group("g")], "security_group_rules": rules})
    same = {"security_group_rules": [os_rule("r", "g")]}
    parsed, _ = imported(
        "openstack", same, same, {"security_groups": [os_group("g", [os_rule("r", "g")])]}
    )
    assert set(rules_of(parsed, "g")) == {"r"}
