from ipaddress import ip_address
from typing import Any

import pytest
from tests.clouds import Json, allows, aws_group, imported, interface, permission, rules_of

from secgroupd.core.model import AddressGroupPeer, AnyPeer, Direction, Family, GroupPeer, PortRange
from secgroupd.core.verdict import Packet
from secgroupd.errors import ImportRefused

ANYWHERE = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


def one(each: Json) -> tuple[dict[str, Any], list[str]]:
    parsed, notes = imported("aws", {"SecurityGroups": [aws_group("sg-1", [each])]})
    return rules_of(parsed, "sg-1"), notes


def test_a_group_keeps_its_id_name_and_description() -> None:
    parsed, notes = imported("aws", {"SecurityGroups": [aws_group("sg-1")]})
    (group,) = parsed.state.security_groups
    assert (group.id, group.name, group.description, notes) == (
        "sg-1",
        "name-sg-1",
        "about sg-1",
        [],
    )


def test_each_peer_becomes_a_rule_with_an_id_that_tells_what_it_matches() -> None:
    peers = {"IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "inside"}], "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}],
             "UserIdGroupPairs": [{"GroupId": "sg-1", "UserId": "111122223333"}], "PrefixListIds": [{"PrefixListId": "pl-1"}]}  # fmt: skip
    parsed, notes = imported(
        "aws",
        {
            "SecurityGroups": [
                aws_group("sg-1", [permission("tcp", 443, **peers)], [permission("-1", **ANYWHERE)])
            ]
        },
        {
            "PrefixLists": [
                {"PrefixListId": "pl-1", "AddressFamily": "IPv6", "PrefixListName": "mine"}
            ]
        },
        pl_1={"Entries": [{"Cidr": "2001:db8:1::/48", "Description": "d"}]},
    )
    found = rules_of(parsed, "sg-1")
    assert set(found) == {
        "ingress-tcp-443-10.0.0.0/8",
        "ingress-tcp-443-2001:db8::/32",
        "ingress-tcp-443-sg-1",
        "ingress-tcp-443-sg-1-ipv6",
        "ingress-tcp-443-pl-1",
        "egress-all-0.0.0.0/0",
    }
    assert found["ingress-tcp-443-10.0.0.0/8"].description == "inside"
    assert found["ingress-tcp-443-sg-1-ipv6"].peer == GroupPeer("sg-1")
    assert found["ingress-tcp-443-pl-1"].peer == AddressGroupPeer("pl-1")
    assert found["ingress-tcp-443-pl-1"].family is Family.IPV6
    assert found["egress-all-0.0.0.0/0"].direction is Direction.EGRESS
    assert {rule.priority for rule in found.values()} == {1} and notes == []
    assert parsed.state.address_groups[0].name == "mine"


@pytest.mark.parametrize(
    ("protocol", "first", "last", "number", "ports", "icmp"),
    [("-1", None, None, None, (), (None, None)), (-1, 0, 0, None, (), (None, None)), ("tcp", 0, 65535, 6, (), (None, None)),
     ("6", 22, 22, 6, (PortRange(22, 22),), (None, None)), ("udp", 0, 53, 17, (PortRange(1, 53),), (None, None)),
     ("icmp", -1, -1, 1, (), (None, None)), ("icmp", 8, -1, 1, (), (8, None)), ("icmp", 3, 4, 1, (), (3, 4)),
     ("icmp", 0, 0, 1, (), (0, 0)), ("50", None, None, 50, (), (None, None)), ("132", 80, 80, 132, (), (None, None))],
)  # fmt: skip
def test_traffic(
    protocol: object, first: object, last: object, number: int | None, ports: object, icmp: object
) -> None:
    found, notes = one(permission(protocol, first, last, **ANYWHERE))
    (rule,) = found.values()
    assert (rule.protocol, rule.ports, (rule.icmp_type, rule.icmp_code)) == (number, ports, icmp)
    assert notes == []


@pytest.mark.parametrize(
    "each",
    [permission("tcp", **ANYWHERE), permission("tcp", -1, **ANYWHERE), permission("tcp", 30, 20, **ANYWHERE), permission("udp", "x", **ANYWHERE),
     permission("tcp", 0, 65536, **ANYWHERE), permission("icmp", **ANYWHERE), permission("icmp", -1, 3, **ANYWHERE), permission("icmp", 256, -1, **ANYWHERE),
     permission("icmpv6", -1, **ANYWHERE), permission("zorp", **ANYWHERE), permission(None, **ANYWHERE), permission(True, **ANYWHERE), permission([], **ANYWHERE),
     permission("-1", IpRanges=[{"CidrIp": "::/0"}]), permission("-1", IpRanges=[{}]), permission("-1", IpRanges=["0.0.0.0/0"]), permission("-1", IpRanges="0.0.0.0/0"),
     permission("-1", UserIdGroupPairs=[{"GroupName": "x"}]), permission("-1", UserIdGroupPairs=[{"GroupId": "sg-1", "PeeringStatus": "deleted"}]), {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
)  # fmt: skip
def test_what_cannot_be_said_is_left_out_and_reported(each: Json) -> None:
    found, notes = one(each)
    assert found == {} and len(notes) == 1
    assert notes[0].startswith("1.json: security group 'sg-1': an ingress rule for protocol ")


def test_icmp_of_a_group_is_of_its_own_ip_version() -> None:
    pair = {"UserIdGroupPairs": [{"GroupId": "sg-1"}]}
    assert [rule.family for rule in one(permission("icmp", -1, **pair))[0].values()] == [
        Family.IPV4
    ]
    assert [rule.family for rule in one(permission("58", -1, **pair))[0].values()] == [Family.IPV6]


def test_rules_with_ids_of_their_own_replace_permissions() -> None:
    rules = [
        {
            "SecurityGroupRuleId": "sgr-1",
            "GroupId": "sg-1",
            "IsEgress": False,
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "CidrIpv4": "10.0.0.0/8",
            "Description": "ssh",
        },
        {
            "SecurityGroupRuleId": "sgr-2",
            "GroupId": "sg-1",
            "IsEgress": True,
            "IpProtocol": "-1",
            "FromPort": -1,
            "ToPort": -1,
            "ReferencedGroupInfo": {"GroupId": "sg-1", "UserId": "1"},
        },
        {
            "SecurityGroupRuleId": "sgr-3",
            "GroupId": "sg-1",
            "IpProtocol": "-1",
            "CidrIpv4": "0.0.0.0/0",
        },
        {"SecurityGroupRuleId": "sgr-4", "GroupId": "sg-1", "IsEgress": True, "IpProtocol": "-1"},
    ]
    parsed, notes = imported(
        "aws",
        {"SecurityGroups": [aws_group("sg-1", [permission("tcp", 23, **ANYWHERE)])]},
        {"SecurityGroupRules": rules},
    )
    found = rules_of(parsed, "sg-1")
    assert set(found) == {"sgr-1", "sgr-2", "sgr-2-ipv6"} and found["sgr-1"].description == "ssh"
    assert len(notes) == 2


def test_entries_need_the_id_of_their_list() -> None:
    with pytest.raises(ImportRefused, match=r"1\.json: .*name the file after it"):
        imported("aws", {"Entries": [{"Cidr": "10.0.0.0/8"}]})
    parsed, _ = imported(
        "aws", {"PrefixListId": "pl-2", "Entries": [{"Cidr": "10.0.0.0/8"}, {"Cidr": "x"}]}
    )
    assert [(group.id, len(group.entries)) for group in parsed.state.address_groups] == [
        ("pl-2", 1)
    ]


def test_lists_of_aws_itself() -> None:
    parsed, notes = imported(
        "aws",
        {
            "PrefixLists": [
                {"PrefixListId": "pl-3", "PrefixListName": "s3", "Cidrs": ["52.0.0.0/8"]}
            ]
        },
    )
    assert len(parsed.state.address_groups[0].entries) == 1 and notes == []


def test_an_absent_prefix_list_matches_nothing_and_is_reported() -> None:
    found, notes = one(permission("-1", PrefixListIds=[{"PrefixListId": "pl-9"}]))
    assert [rule.peer for rule in found.values()] == [AddressGroupPeer("pl-9")] and len(notes) == 1


def test_an_interface() -> None:
    eni = interface(
        "eni-1",
        "10.0.0.5",
        ["sg-2", "sg-1"],
        SourceDestCheck=False,
        Ipv6Addresses=[{"Ipv6Address": "2001:db8::5"}],
        Ipv4Prefixes=[{"Ipv4Prefix": "10.0.0.16/28"}],
    )
    eni["PrivateIpAddresses"] += [{"Primary": False, "PrivateIpAddress": "10.0.0.6"}]
    parsed, notes = imported(
        "aws",
        {"NetworkInterfaces": [eni], "SecurityGroups": [aws_group("sg-1"), aws_group("sg-2")]},
    )
    (instance,) = parsed.state.instances
    (port,) = instance.ports
    assert (instance.id, port.id, port.vpc_id, port.security_groups) == (
        "i-eni-1",
        "eni-1",
        "vpc-1",
        ("sg-1", "sg-2"),
    )
    assert [str(address) for address in port.private_ips] == ["10.0.0.5", "10.0.0.6", "2001:db8::5"]
    assert not port.source_check and [str(pair.network) for pair in port.allowed_address_pairs] == [
        "10.0.0.16/28"
    ]
    assert len(notes) == 1


@pytest.mark.parametrize("check", [True, None, 0, "false"])
def test_the_source_check_is_off_only_if_it_says_so(check: object) -> None:
    parsed, _ = imported(
        "aws",
        {"NetworkInterfaces": [interface("eni-1", "10.0.0.5", ["sg-1"], SourceDestCheck=check)]},
    )
    assert parsed.state.instances[0].ports[0].source_check


def test_an_interface_that_is_attached_to_nothing_has_its_own_name() -> None:
    eni = interface(
        "eni-1", "10.0.0.5", ["sg-1"], Attachment=None, TagSet=[{"Key": "Name", "Value": "spare"}]
    )
    del eni["Attachment"]
    parsed, _ = imported("aws", {"NetworkInterfaces": [eni]})
    assert [(each.id, each.name) for each in parsed.state.instances] == [("eni-1", "spare")]


def test_gateways_have_no_groups() -> None:
    eni = interface("eni-1", "10.0.0.5", [], RequesterManaged=True, InterfaceType="nat_gateway")
    parsed, notes = imported("aws", {"NetworkInterfaces": [eni]})
    assert parsed.state.instances == () and len(notes) == 1
    parsed, _ = imported("aws", {"NetworkInterfaces": [interface("eni-1", "10.0.0.5", [])]})
    assert parsed.state.instances[0].ports[0].security_groups == ("imported-closed",)


def test_groups_of_a_peered_vpc() -> None:
    pair = {
        "GroupId": "sg-2",
        "UserId": "444455556666",
        "VpcId": "vpc-2",
        "VpcPeeringConnectionId": "pcx-1",
        "PeeringStatus": "active",
    }
    groups = [
        aws_group("sg-1", [permission("tcp", 22, UserIdGroupPairs=[pair])]),
        aws_group("sg-2", VpcId="vpc-2"),
    ]
    ports = [
        interface("eni-1", "10.0.0.5", ["sg-1"]),
        interface("eni-2", "10.2.0.5", ["sg-2"], VpcId="vpc-2"),
    ]
    value = {"SecurityGroups": groups, "NetworkInterfaces": ports}
    packet = Packet(peer=ip_address("10.2.0.5"), protocol=6, dport=22)
    parsed, notes = imported("aws", value)
    assert (
        not allows(parsed, "eni-1", "ingress", packet)
        and "describe-vpc-peering-connections" in notes[0]
    )
    peering = {
        "VpcPeeringConnectionId": "pcx-1",
        "Status": {"Code": "active"},
        "RequesterVpcInfo": {"VpcId": "vpc-2"},
        "AccepterVpcInfo": {"VpcId": "vpc-1"},
    }
    vpcs = {"Vpcs": [{"VpcId": "vpc-1", "Tags": [{"Key": "Name", "Value": "shop"}]}]}
    parsed, notes = imported("aws", value, {"VpcPeeringConnections": [peering]}, vpcs)
    assert allows(parsed, "eni-1", "ingress", packet) and notes == []
    assert [(vpc.id, vpc.name) for vpc in parsed.state.vpcs] == [("vpc-1", "shop"), ("vpc-2", "")]
    parsed, notes = imported(
        "aws", value, {"VpcPeeringConnections": [peering | {"Status": {"Code": "deleted"}}]}
    )
    assert not allows(parsed, "eni-1", "ingress", packet) and len(notes) == 2


def test_a_group_that_is_given_twice_and_differently_is_refused() -> None:
    one_, other = aws_group("sg-1", [permission("tcp", 22, **ANYWHERE)]), aws_group("sg-1")
    imported("aws", {"SecurityGroups": [one_]}, {"SecurityGroups": [one_]})
    with pytest.raises(ImportRefused, match=r"2\.json: security group 'sg-1' is given twice"):
        imported("aws", {"SecurityGroups": [one_]}, {"SecurityGroups": [other]})


def test_a_page_that_follows_is_asked_for() -> None:
    _, notes = imported("aws", {"SecurityGroups": [], "NextToken": "abc"})
    assert len(notes) == 1 and "a page follows" in notes[0]


def test_names_that_a_document_refuses_are_changed_and_reported() -> None:
    group = aws_group("sg-1", GroupName="it's {new}", Description="a <b> " + "x" * 300)
    parsed, notes = imported("aws", {"SecurityGroups": [group]})
    (found,) = parsed.state.security_groups
    assert (
        found.name == "it_s _new_"
        and found.description.startswith("a _b_ x")
        and len(found.description) == 255
    )
    assert len(notes) == 2


def test_all_protocols_of_anywhere() -> None:
    found, _ = one(
        permission("-1", IpRanges=[{"CidrIp": "0.0.0.0/0"}], Ipv6Ranges=[{"CidrIpv6": "::/0"}])
    )
    assert {rule.family for rule in found.values()} == {Family.IPV4, Family.IPV6}
    assert all(rule.peer != AnyPeer() for rule in found.values())
