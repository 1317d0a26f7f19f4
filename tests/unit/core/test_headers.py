"""What the first bytes of a packet tell."""

import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from secgroupd.core.headers import ARP, IPV4, IPV6, ArpHeaders, Headers, parse_headers
from secgroupd.core.model import ICMP, ICMPV6, TCP, UDP
from secgroupd.proving import frames

ONE4, TWO4 = IPv4Address("10.0.0.1"), IPv4Address("203.0.113.9")
ONE6, TWO6 = IPv6Address("fd00::1"), IPv6Address("2001:db8::9")
BIG = b"x" * 3000


def ipv4(protocol: int, rest: bytes, options: bytes = b"") -> bytes:
    length = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | length, 0, 0, 0, 0, 64, protocol, 0)
    return head + ONE4.packed + TWO4.packed + options + rest


def ipv6(protocol: int, rest: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(rest), protocol, 64) + ONE6.packed + TWO6.packed + rest


def tcp(flags: int) -> bytes:
    return struct.pack(">HHIIBBHHH", 4000, 80, 0, 0, 0x50, flags, 0, 0, 0)


def test_ports_types_and_ends() -> None:
    packet = frames.udp(ONE4, TWO4, 4000, 53, b"x")
    assert parse_headers(IPV4, packet) == Headers(
        source=ONE4, destination=TWO4, protocol=UDP, sport=4000, dport=53
    )
    packet = frames.udp(ONE6, TWO6, 4000, 53, b"x")
    assert parse_headers(IPV6, packet) == Headers(
        source=ONE6, destination=TWO6, protocol=UDP, sport=4000, dport=53
    )
    found = parse_headers(IPV4, ipv4(ICMP, bytes([8, 0, 0, 0]), options=bytes(8)))
    assert isinstance(found, Headers) and (found.icmp_type, found.icmp_code) == (8, 0)
    found = parse_headers(IPV4, ipv4(47, bytes(8)))
    assert isinstance(found, Headers) and (found.protocol, found.sport, found.begins) == (
        47,
        None,
        True,
    )


@pytest.mark.parametrize(("flags", "begins"), [(2, True), (0xC2, True), (18, False), (16, False)])
def test_only_a_lone_syn_begins(flags: int, begins: bool) -> None:
    for ethertype, packet in ((IPV4, ipv4(TCP, tcp(flags))), (IPV6, ipv6(TCP, tcp(flags)))):
        found = parse_headers(ethertype, packet)
        assert isinstance(found, Headers) and found.dport == 80
        assert found.begins is begins


def test_extension_headers_are_stepped_over() -> None:
    options = bytes([60, 1, *bytes(14)]) + bytes([ICMPV6, 0, *bytes(6)])
    found = parse_headers(IPV6, ipv6(0, options + bytes([128, 0, 0, 0])))
    assert isinstance(found, Headers)
    assert (found.protocol, found.icmp_type, found.begins) == (ICMPV6, 128, True)


@pytest.mark.parametrize(("one", "two", "ethertype"), [(ONE4, TWO4, IPV4), (ONE6, TWO6, IPV6)])
def test_of_fragments_only_the_first_tells_ports(
    one: IPv4Address, two: IPv4Address, ethertype: int
) -> None:
    first, *others = frames.fragments(frames.udp(one, two, 4000, 53, BIG), 1280)
    found = parse_headers(ethertype, first)
    assert isinstance(found, Headers) and found.dport == 53 and found.begins
    for other in others:
        found = parse_headers(ethertype, other)
        assert isinstance(found, Headers)
        assert (found.source, found.protocol, found.dport) == (one, UDP, None)
        assert not found.begins


def test_arp() -> None:
    message = frames.arp(("fa:16:3e:00:00:01", str(ONE4)), ("00:00:00:00:00:00", "10.0.0.2"), b"")
    assert parse_headers(ARP, message) == ArpHeaders(ONE4, ip_address("10.0.0.2"))


def test_any_bytes_are_understood_or_not() -> None:
    chance = random.Random(1)
    whole = [
        (IPV4, ipv4(TCP, tcp(2))),
        (IPV6, ipv6(0, bytes([44, 0, *bytes(6)]) + bytes([TCP, *bytes(7)]) + tcp(2))),
        (ARP, frames.arp(("fa:16:3e:00:00:01", str(ONE4)), ("fa:16:3e:00:00:02", str(TWO4)), b"")),
    ]
    for ethertype, packet in whole:
        for length in range(len(packet)):
            parse_headers(ethertype, packet[:length])
    for _ in range(2000):
        parse_headers(chance.choice((IPV4, IPV6, ARP, 1)), chance.randbytes(chance.randrange(80)))
