"""An imported document decides as the cloud that it came from, on random answers and packets."""

import random
from ipaddress import ip_address
from typing import Any

import pytest
from tests.clouds import (
    Json,
    allows,
    aws_allows,
    aws_group,
    imported,
    interface,
    os_allows,
    os_group,
    os_port,
    os_rule,
    permission,
)

from secgroupd.core.verdict import Packet

GROUPS = ("g-a", "g-b", "g-c")
V4 = ("10.0.0.0/8", "10.0.0.0/30", "10.0.0.6/32", "0.0.0.0/0", "192.0.2.0/24")
V6 = ("2001:db8::/32", "2001:db8::6/128", "::/0")
ADDRESSES = ("10.0.0.1", "10.0.0.6", "10.0.0.7", "192.0.2.9", "198.51.100.1", "2001:db8::6", "2001:db8:1::1", "2001:beef::1")  # fmt: skip
PACKETS = 120


def packet(draw: random.Random) -> Packet:
    peer = ip_address(draw.choice(ADDRESSES))
    protocol = draw.choice((6, 17, 47, 132, 58 if peer.version == 6 else 1))
    return Packet(
        peer=peer,
        protocol=protocol,
        dport=draw.choice((22, 23, 80, 443, 8080)),
        # Neighbour discovery and redirects are no business of rules.
        icmp_type=draw.choice((0, 3, 8, 11)),
        icmp_code=draw.choice((0, 1, 4)),
    )


def os_random(draw: random.Random, number: int, group: str) -> Json:
    ethertype = draw.choice(("IPv4", "IPv6"))
    protocol = draw.choice((None, "tcp", "udp", "icmp", "6", "gre", "sctp", "132"))
    low: int | None = None
    high: int | None = None
    if protocol in {"tcp", "udp", "6", "sctp", "132"} and draw.random() < 0.7:
        low, high = sorted(draw.choices((1, 22, 23, 80, 443, 65535), k=2))
    elif protocol == "icmp" and draw.random() < 0.7:
        low, high = draw.choice((0, 3, 8)), draw.choice((None, 0, 1))
    peer: Json = {}
    kind = draw.randrange(3)
    if kind == 0:
        peer = {"remote_ip_prefix": draw.choice(V4 if ethertype == "IPv4" else V6)}
    elif kind == 1:
        peer = {"remote_group_id": draw.choice(GROUPS)}
    return os_rule(
        f"r{number}", group, direction=draw.choice(("ingress", "egress")), ethertype=ethertype,
        protocol=protocol, port_range_min=low, port_range_max=high, **peer,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_openstack(seed: int) -> None:
    draw = random.Random(seed)
    groups = [os_group(g, [os_random(draw, n, g) for n in range(6)]) for g in GROUPS]
    ports = []
    for number in range(5, 9):
        port = os_port(f"p{number}", f"10.0.0.{number}", draw.sample(GROUPS, draw.randint(1, 3)))
        port["fixed_ips"].append({"subnet_id": "s6", "ip_address": f"2001:db8::{number}"})
        ports.append(port)

    def members(group: str) -> set[str]:
        return {
            fixed["ip_address"]
            for port in ports
            if group in port["security_groups"]
            for fixed in port["fixed_ips"]
        }

    parsed, notes = imported("openstack", {"security_groups": groups, "ports": ports})
    assert notes == []
    for _ in range(PACKETS):
        port, direction, asked = (
            draw.choice(ports),
            draw.choice(("ingress", "egress")),
            packet(draw),
        )
        expected = os_allows(groups, port, members, direction, asked)
        assert allows(parsed, port["id"], direction, asked) is expected, (port, direction, asked)


def aws_random(draw: random.Random) -> Json:
    protocol: Any = draw.choice(("-1", "tcp", "udp", "icmp", "icmpv6", "47", "132"))
    first = last = None
    if protocol in {"tcp", "udp"}:
        first, last = sorted(draw.choices((0, 22, 23, 80, 443, 65535), k=2))
        last = max(last, 1)
    elif protocol in {"icmp", "icmpv6"}:
        first = draw.choice((-1, 0, 3, 8))
        last = -1 if first == -1 else draw.choice((-1, 0, 1))
    peers: Json = {}
    # The cloud takes ICMP for IPv6, and ICMPv6 for IPv4, and nothing ever matches them.
    if protocol != "icmpv6" and draw.random() < 0.5:
        peers["IpRanges"] = [{"CidrIp": each} for each in draw.sample(V4, 2)]
    if protocol != "icmp" and draw.random() < 0.5:
        peers["Ipv6Ranges"] = [{"CidrIpv6": draw.choice(V6)}]
    if draw.random() < 0.4:
        peers["UserIdGroupPairs"] = [
            {"GroupId": each, "UserId": "1"} for each in draw.sample(GROUPS, 2)
        ]
    if protocol not in {"icmp", "icmpv6"} and draw.random() < 0.3:
        peers["PrefixListIds"] = [{"PrefixListId": "pl-1"}]
    return permission(protocol, first, last, **peers)


@pytest.mark.parametrize("seed", range(25))
def test_aws(seed: int) -> None:
    draw = random.Random(seed)
    groups = [
        aws_group(g, [aws_random(draw) for _ in range(4)], [aws_random(draw) for _ in range(3)])
        for g in GROUPS
    ]
    ports = [
        interface(
            f"eni-{n}", f"10.0.0.{n}", draw.sample(GROUPS, draw.randint(1, 3)),
            Ipv6Addresses=[{"Ipv6Address": f"2001:db8::{n}"}],
        )
        for n in range(5, 9)
    ]  # fmt: skip
    entries = ["10.0.0.4/31", "192.0.2.0/24"]

    def members(group: str) -> set[str]:
        found: set[str] = set()
        for port in ports:
            if group in {each["GroupId"] for each in port["Groups"]}:
                found |= {each["PrivateIpAddress"] for each in port["PrivateIpAddresses"]}
                found |= {each["Ipv6Address"] for each in port["Ipv6Addresses"]}
        return found

    parsed, notes = imported(
        "aws",
        {"SecurityGroups": groups, "NetworkInterfaces": ports},
        {"PrefixLists": [{"PrefixListId": "pl-1", "AddressFamily": "IPv4", "PrefixListName": "l"}]},
        pl_1={"Entries": [{"Cidr": each} for each in entries]},
    )
    assert notes == []
    for _ in range(PACKETS):
        port, direction, asked = (
            draw.choice(ports),
            draw.choice(("ingress", "egress")),
            packet(draw),
        )
        expected = aws_allows(groups, port, members, {"pl-1": entries}, direction, asked)
        eni = port["NetworkInterfaceId"]
        assert allows(parsed, eni, direction, asked) is expected, (port, direction, asked)
