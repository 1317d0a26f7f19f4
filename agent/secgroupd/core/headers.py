"""A packet's first bytes -> what a person calls it: addresses, protocol, ports."""

import struct
from dataclasses import dataclass
from ipaddress import ip_address

from secgroupd.core.model import ICMP, ICMPV6, PORT_PROTOCOLS, TCP, Address, Direction
from secgroupd.core.verdict import Packet

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
"""Ethertypes."""

FRAGMENT_HEADER = 44
EXTENSIONS = frozenset({0, 43, FRAGMENT_HEADER, 60})
"""IPv6 extension headers that have the protocol behind them: hop-by-hop, routing, fragment, options."""

SYN_ONLY = 0x02
SYN_MASK = 0x17
"""Of TCP's flags: FIN, SYN, RST and ACK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """What the first bytes of a packet tell; ports, type and code are None where it has none.

    ``begins`` is False for what cannot be the first packet of a connection: TCP without a lone SYN,
    and fragments other than the first.
    """

    source: Address
    destination: Address
    protocol: int
    sport: int | None = None
    dport: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    begins: bool = True

    def first_packet(self, direction: Direction) -> Packet:
        """Return it as the first packet of a connection, as the port that judges it meets it."""
        inbound = direction is Direction.INGRESS
        return Packet(
            peer=self.source if inbound else self.destination,
            protocol=self.protocol,
            dport=self.dport or 0,
            sport=self.sport,
            icmp_type=self.icmp_type or 0,
            icmp_code=self.icmp_code or 0,
        )


@dataclass(frozen=True, slots=True)
class ArpHeaders:
    """Who asks or tells whom in an ARP message for IPv4."""

    source: Address
    destination: Address


def parse_headers(ethertype: int, payload: bytes) -> Headers | ArpHeaders | None:
    """Return what a packet's bytes from the network header on tell; None when they tell nothing."""
    try:
        match ethertype:
            case 0x0800:
                return _ipv4(payload)
            case 0x86DD:
                return _ipv6(payload)
            case 0x0806 if payload[4:6] == b"\x06\x04":
                return ArpHeaders(ip_address(payload[14:18]), ip_address(payload[24:28]))
    except (struct.error, ValueError, IndexError):
        pass
    return None


def _ipv4(payload: bytes) -> Headers | None:
    length, fragment, protocol = (
        payload[0] & 15,
        struct.unpack_from(">H", payload, 6)[0],
        payload[9],
    )
    source, destination = ip_address(payload[12:16]), ip_address(payload[16:20])
    whole = not fragment & 0x1FFF
    return _transport(source, destination, protocol, payload[length * 4 :], whole=whole)


def _ipv6(payload: bytes) -> Headers | None:
    source, destination = ip_address(payload[8:24]), ip_address(payload[24:40])
    protocol, rest, whole = payload[6], payload[40:], True
    while protocol in EXTENSIONS:
        if protocol == FRAGMENT_HEADER:
            whole = whole and not struct.unpack_from(">H", rest, 2)[0] & 0xFFF8
            length = 8
        else:
            length = (rest[1] + 1) * 8
        protocol, rest = rest[0], rest[length:]
    return _transport(source, destination, protocol, rest, whole=whole)


def _transport(
    source: Address, destination: Address, protocol: int, rest: bytes, *, whole: bool
) -> Headers:
    sport = dport = icmp_type = icmp_code = None
    begins = whole
    if whole and protocol in PORT_PROTOCOLS:
        sport, dport = struct.unpack_from(">HH", rest)
        if protocol == TCP:
            begins = rest[13] & SYN_MASK == SYN_ONLY
    elif whole and protocol in {ICMP, ICMPV6}:
        icmp_type, icmp_code = rest[0], rest[1]
    return Headers(
        source=source,
        destination=destination,
        protocol=protocol,
        sport=sport,
        dport=dport,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        begins=begins,
    )
