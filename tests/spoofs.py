"""Frames that an instance sends in another's name, each beside its honest twin.

The instance has the MAC, the addresses and the allowed address pairs of ``PORT``; everything goes
to ``NEIGHBOUR``, or to all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_network

from tests.builders import port

from secgroupd.core.model import AddressPair
from secgroupd.core.sourcecheck import link_local
from secgroupd.proving import frames
from secgroupd.proving.wire import ip_packet

MAC, NEIGHBOUR_MAC = "fa:16:3e:00:00:0a", "fa:16:3e:00:00:0b"
VRRP_MAC, OTHER_VRRP_MAC = "00:00:5e:00:01:07", "00:00:5e:00:01:08"
VRRP_ROUTER = IPv4Address("10.0.0.101")
PORT = replace(
    port("a", ["open"], ["10.0.0.10", "fd00::10"], interface="tap-a"),
    mac_address=MAC,
    allowed_address_pairs=(
        AddressPair(network=ip_network("10.0.0.100/32")),
        AddressPair(network=ip_network("10.0.0.101/32"), mac_address=VRRP_MAC),
        AddressPair(network=ip_network("fd00::100/128")),
    ),
)
WIDE = replace(
    PORT,
    allowed_address_pairs=(
        *PORT.allowed_address_pairs,
        AddressPair(network=ip_network("10.0.8.0/24")),
        AddressPair(network=ip_network("fd00:8::/61")),
    ),
)
"""The same with pairs that are networks, for which the compiler takes another way."""
NEIGHBOUR = replace(
    port("b", ["open"], ["10.0.0.11", "fd00::11"], interface="tap-b"), mac_address=NEIGHBOUR_MAC
)

OWN4, OTHER4 = IPv4Address("10.0.0.10"), IPv4Address("10.0.0.11")
OWN6, OTHER6 = IPv6Address("fd00::10"), IPv6Address("fd00::11")
OWN_LOCAL, OTHER_LOCAL = link_local(MAC), link_local(NEIGHBOUR_MAC)
NOBODY = IPv6Address("::")

Marked = tuple[bytes, Sequence[bytes]]
Maker = Callable[[bytes], bytes | Sequence[bytes]]


@dataclass(frozen=True)
class Pair:
    """One kind of spoof and its twin; each maker is given the mark that its frames must carry.

    ``wide`` marks kinds that need the network pairs; ``counted`` is the chain that counts it,
    where that is not the source check.
    """

    name: str
    spoof: Maker
    honest: Maker
    wide: bool = False
    counted: str = "spoofed"


def marked(maker: Maker) -> Marked:
    """Return a fresh mark and the frames that carry it."""
    mark = frames.nonce()
    made = maker(mark)
    return mark, [made] if isinstance(made, bytes) else made


def _frame(packet: bytes, *, source: str = MAC, kind: int | None = None) -> bytes:
    ethertype = kind or (frames.IPV4 if packet[0] >> 4 == 4 else frames.IPV6)
    return frames.ethernet(source, NEIGHBOUR_MAC, ethertype, packet)


def _udp4(mark: bytes, source: str = "10.0.0.10", mac: str = MAC) -> bytes:
    return _frame(frames.udp(IPv4Address(source), OTHER4, 4000, 4000, mark), source=mac)


def _udp6(mark: bytes, source: str = "fd00::10", mac: str = MAC) -> bytes:
    return _frame(frames.udp(IPv6Address(source), OTHER6, 4000, 4000, mark), source=mac)


def _local(mark: bytes, source: IPv6Address) -> bytes:
    return _frame(frames.udp(source, OTHER_LOCAL, 4000, 4000, mark))


def _arp(
    mark: bytes,
    sender: tuple[str, str],
    target: tuple[str, str] = ("00:00:00:00:00:00", "10.0.0.11"),
    *,
    operation: int = frames.REQUEST,
    mac: str = MAC,
    kind: int = frames.ARP,
) -> bytes:
    message = frames.arp(sender, target, mark, operation=operation)
    return frames.ethernet(mac, frames.BROADCAST, kind, message)


def _gratuitous(mark: bytes, address: str, mac: str = MAC) -> bytes:
    return _arp(mark, (mac, address), (mac, address), mac=mac)


def _nd(mark: bytes, source: IPv6Address, kind: int, target: IPv6Address) -> bytes:
    packet = frames.neighbour_discovery(source, frames.ALL_NODES, kind, target, mark)
    return frames.ethernet(MAC, "33:33:00:00:00:01", frames.IPV6, packet)


def _icmpv6(mark: bytes, kind: int, body: bytes) -> bytes:
    packet = frames.icmpv6(OWN_LOCAL, frames.ALL_NODES, kind, body + frames.option(mark))
    return frames.ethernet(MAC, "33:33:00:00:00:01", frames.IPV6, packet)


def _dhcp4(mark: bytes, source: str, sport: int, dport: int, mac: str = MAC) -> bytes:
    packet = frames.udp(IPv4Address(source), IPv4Address("255.255.255.255"), sport, dport, mark)
    return frames.ethernet(mac, frames.BROADCAST, frames.IPV4, packet)


def _dhcp6(mark: bytes, sport: int, dport: int) -> bytes:
    packet = frames.udp(OWN_LOCAL, IPv6Address("ff02::1:2"), sport, dport, mark)
    return frames.ethernet(MAC, "33:33:00:01:00:02", frames.IPV6, packet)


def _mld(mark: bytes, source: IPv6Address) -> bytes:
    packet = frames.mld_report(source, IPv6Address("ff02::1:ff00:10"), mark)
    return frames.ethernet(MAC, "33:33:00:00:00:16", frames.IPV6, packet)


def _pieces(source: IPv4Address | IPv6Address, mark: bytes) -> list[bytes]:
    """A datagram in two fragments, of sizes that IPv6 links have; the second carries the mark."""
    target = OTHER4 if source.version == 4 else OTHER6
    packet = frames.udp(source, target, 4000, 4000, bytes(1800) + mark)
    return [_frame(piece) for piece in frames.fragments(packet, 1240)]


def _vrrp(mark: bytes, address: IPv4Address, mac: str) -> bytes:
    packet = ip_packet(address, IPv4Address("224.0.0.18"), 112, mark)
    return frames.ethernet(mac, "01:00:5e:00:00:12", frames.IPV4, packet)


PAIRS = (
    Pair("IPv4 of a neighbour", lambda m: _udp4(m, "10.0.0.11"), _udp4),
    Pair(
        "IPv4 from elsewhere", lambda m: _udp4(m, "203.0.113.9"), lambda m: _udp4(m, "10.0.0.100")
    ),
    Pair("IPv4 with another MAC", lambda m: _udp4(m, mac="fa:16:3e:00:00:99"), _udp4),
    Pair("IPv4 and MAC of a neighbour", lambda m: _udp4(m, "10.0.0.11", NEIGHBOUR_MAC), _udp4),
    Pair("IPv6 of a neighbour", lambda m: _udp6(m, "fd00::11"), _udp6),
    Pair("IPv6 from elsewhere", lambda m: _udp6(m, "2001:db8::9"), lambda m: _udp6(m, "fd00::100")),
    Pair("IPv6 with another MAC", lambda m: _udp6(m, mac="fa:16:3e:00:00:99"), _udp6),
    Pair(
        "link-local of the gateway",
        lambda m: _local(m, IPv6Address("fe80::1")),
        lambda m: _local(m, OWN_LOCAL),
    ),
    Pair(
        "IPv4 of a pair that is for another MAC",
        lambda m: _udp4(m, "10.0.0.101"),
        lambda m: _udp4(m, "10.0.0.101", VRRP_MAC),
    ),
    Pair(
        "IPv4 beside a pair's network",
        lambda m: _udp4(m, "10.0.9.1"),
        lambda m: _udp4(m, "10.0.8.77"),
        wide=True,
    ),
    Pair(
        "IPv6 beside a pair's network",
        lambda m: _udp6(m, "fd00:8:0:8::1"),
        lambda m: _udp6(m, "fd00:8:0:7::1"),
        wide=True,
    ),
    Pair(
        "ARP reply with a neighbour's address",
        lambda m: _arp(m, (MAC, "10.0.0.11"), operation=frames.REPLY),
        lambda m: _arp(m, (MAC, "10.0.0.10"), operation=frames.REPLY),
    ),
    Pair(
        "ARP request with a neighbour's address",
        lambda m: _arp(m, (MAC, "10.0.0.11"), (MAC, "10.0.0.1")),
        lambda m: _arp(m, (MAC, "10.0.0.10")),
    ),
    Pair(
        "ARP sender with another MAC than the frame",
        lambda m: _arp(m, (NEIGHBOUR_MAC, "10.0.0.10")),
        lambda m: _arp(m, (MAC, "10.0.0.10")),
    ),
    Pair(
        "gratuitous ARP for an undeclared address",
        lambda m: _gratuitous(m, "10.0.0.102"),
        lambda m: _gratuitous(m, "10.0.0.100"),
    ),
    Pair(
        "gratuitous ARP with an undeclared VRRP MAC",
        lambda m: _gratuitous(m, "10.0.0.101", OTHER_VRRP_MAC),
        lambda m: _gratuitous(m, "10.0.0.101", VRRP_MAC),
    ),
    Pair(
        "ARP probe for a neighbour's address",
        lambda m: _arp(m, (MAC, "0.0.0.0")),
        lambda m: _arp(m, (MAC, "0.0.0.0"), ("00:00:00:00:00:00", "10.0.0.10")),
    ),
    Pair(
        "RARP announcement of a neighbour",
        lambda m: _arp(
            m, (NEIGHBOUR_MAC, "0.0.0.0"), mac=NEIGHBOUR_MAC, kind=frames.RARP, operation=3
        ),
        lambda m: _arp(m, (MAC, "0.0.0.0"), (MAC, "0.0.0.0"), kind=frames.RARP, operation=3),
    ),
    Pair(
        "neighbour advertisement of the gateway",
        lambda m: _nd(m, OWN_LOCAL, 136, IPv6Address("fe80::1")),
        lambda m: _nd(m, OWN_LOCAL, 136, OWN_LOCAL),
    ),
    Pair(
        "neighbour advertisement of a neighbour",
        lambda m: _nd(m, OWN6, 136, OTHER6),
        lambda m: _nd(m, OWN6, 136, OWN6),
    ),
    Pair(
        "neighbour advertisement from a neighbour",
        lambda m: _nd(m, OTHER6, 136, OTHER6),
        lambda m: _nd(m, OWN6, 136, IPv6Address("fd00::100")),
    ),
    Pair(
        "neighbour solicitation from a neighbour",
        lambda m: _nd(m, OTHER6, 135, OWN6),
        lambda m: _nd(m, OWN6, 135, OTHER6),
    ),
    Pair(
        "duplicate address detection for a neighbour's address",
        lambda m: _nd(m, NOBODY, 135, OTHER6),
        lambda m: _nd(m, NOBODY, 135, OWN6),
    ),
    Pair(
        "multicast report from a neighbour",
        lambda m: _mld(m, OTHER_LOCAL),
        lambda m: _mld(m, OWN_LOCAL),
    ),
    Pair(
        "multicast report from the gateway",
        lambda m: _mld(m, IPv6Address("fe80::1")),
        lambda m: _mld(m, NOBODY),
    ),
    Pair(
        "router advertisement",
        lambda m: _icmpv6(m, 134, bytes(12)),
        lambda m: _icmpv6(m, 133, bytes(4)),
        counted="deny_out",
    ),
    Pair(
        "IPv6 redirect",
        lambda m: _icmpv6(m, 137, bytes(4) + OWN6.packed * 2),
        lambda m: _nd(m, OWN_LOCAL, 135, OTHER_LOCAL),
        counted="deny_out",
    ),
    Pair(
        "IPv4 redirect",
        lambda m: _frame(frames.icmp_redirect(OWN4, OTHER4, m)),
        _udp4,
        counted="deny_out",
    ),
    Pair(
        "DHCP offer",
        lambda m: _dhcp4(m, "10.0.0.10", 67, 68),
        lambda m: _dhcp4(m, "0.0.0.0", 68, 67),
        counted="deny_out",
    ),
    Pair(
        "DHCP discovery with another MAC",
        lambda m: _dhcp4(m, "0.0.0.0", 68, 67, NEIGHBOUR_MAC),
        lambda m: _dhcp4(m, "10.0.0.10", 68, 67),
    ),
    Pair(
        "DHCPv6 advertisement",
        lambda m: _dhcp6(m, 547, 546),
        lambda m: _dhcp6(m, 546, 547),
        counted="deny_out",
    ),
    Pair("VLAN tag", lambda m: frames.tagged(_udp4(m), vlan=5), _udp4, counted="strange"),
    Pair(
        "VLAN tag before IPv6", lambda m: frames.tagged(_udp6(m), vlan=5), _udp6, counted="strange"
    ),
    Pair(
        "VLAN tag before ARP",
        lambda m: frames.tagged(_gratuitous(m, "10.0.0.10"), vlan=5),
        lambda m: _gratuitous(m, "10.0.0.10"),
        counted="strange",
    ),
    Pair(
        "two VLAN tags",
        lambda m: frames.tagged(frames.tagged(_udp4(m), vlan=5), vlan=6, kind=frames.PROVIDER_VLAN),
        _udp4,
        counted="strange",
    ),
    Pair("priority tag", lambda m: frames.tagged(_udp4(m), vlan=0), _udp4, counted="strange"),
    Pair(
        "PPPoE session",
        lambda m: frames.pppoe(MAC, NEIGHBOUR_MAC, frames.udp(OWN4, OTHER4, 4000, 4000, m)),
        _udp4,
        counted="strange",
    ),
    Pair("unknown EtherType", lambda m: _frame(m, kind=0x88B5), _udp4, counted="strange"),
    Pair(
        "IPv4 of a neighbour in fragments",
        lambda m: _pieces(OTHER4, m),
        lambda m: _pieces(OWN4, m),
    ),
    Pair(
        "IPv6 of a neighbour in fragments",
        lambda m: _pieces(OTHER6, m),
        lambda m: _pieces(OWN6, m),
    ),
    Pair(
        "VRRP advertisement of an undeclared router",
        lambda m: _vrrp(m, VRRP_ROUTER, OTHER_VRRP_MAC),
        lambda m: _vrrp(m, VRRP_ROUTER, VRRP_MAC),
    ),
)
