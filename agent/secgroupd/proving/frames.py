"""Ethernet frames of every kind that an instance may try, and seeing which of them arrive.

Each frame carries a nonce (behind what the protocol reads, where it has no payload), by which a
listener recognises it whatever a router or bridge has changed of its headers.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

from secgroupd.core.model import ICMP, ICMPV6, UDP, Address
from secgroupd.proving.netns import Namespace
from secgroupd.proving.wire import NONCE_BYTES, internet_checksum, ip_packet

IPV4, IPV6, ARP, RARP = 0x0800, 0x86DD, 0x0806, 0x8035
VLAN, PROVIDER_VLAN, PPPOE_SESSION = 0x8100, 0x88A8, 0x8864

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = IPv6Address("ff02::1")
REQUEST, REPLY = 1, 2

_ALL_PROTOCOLS = 3
_RECEIVE_BYTES = 65536
_RECEIVE_BUFFER = 1 << 24
_RECEIVE_BUFFER_FORCE = 33
_INTERFACE = "eth0"


def nonce() -> bytes:
    """Return what makes a frame recognisable."""
    return os.urandom(NONCE_BYTES)


def mac_bytes(mac: str) -> bytes:
    """Return the six bytes of a MAC address."""
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(source: str, destination: str, kind: int, payload: bytes) -> bytes:
    """Return a frame without its checksum; short payloads are filled up to 46 bytes."""
    return (
        mac_bytes(destination)
        + mac_bytes(source)
        + struct.pack("!H", kind)
        + payload.ljust(46, b"\0")
    )


def tagged(frame: bytes, *, vlan: int, kind: int = VLAN) -> bytes:
    """Return a frame with a VLAN tag put in."""
    return frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]


def pppoe(source: str, destination: str, packet: bytes) -> bytes:
    """Return an IPv4 packet in a PPPoE session's frame (RFC 2516)."""
    inner = struct.pack("!H", 0x0021) + packet
    header = struct.pack("!BBHH", 0x11, 0, 7, len(inner))
    return ethernet(source, destination, PPPOE_SESSION, header + inner)


def arp(
    sender: tuple[str, str],
    target: tuple[str, str],
    mark: bytes,
    *,
    operation: int = REQUEST,
) -> bytes:
    """Return an ARP or RARP message of (MAC, IPv4 address) pairs, without a frame."""
    ends = b"".join(mac_bytes(mac) + IPv4Address(ip).packed for mac, ip in (sender, target))
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + ends + mark


def udp(source: Address, destination: Address, sport: int, dport: int, payload: bytes) -> bytes:
    """Return an IP packet with a UDP datagram."""
    datagram = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return ip_packet(source, destination, UDP, _checked(source, destination, UDP, datagram, 6))


def icmpv6(
    source: IPv6Address,
    destination: IPv6Address,
    kind: int,
    body: bytes,
    *,
    hop_by_hop: bool = False,
) -> bytes:
    """Return an ICMPv6 message as link neighbours send it: hop limit 255, or MLD's router alert."""
    message = _checked(source, destination, ICMPV6, struct.pack("!BBH", kind, 0, 0) + body, 2)
    options = struct.pack("!BBBBHBB", ICMPV6, 0, 5, 2, 0, 1, 0) if hop_by_hop else b""
    following, limit = (0, 1) if hop_by_hop else (ICMPV6, 255)
    length = len(options) + len(message)
    header = struct.pack("!IHBB", 6 << 28, length, following, limit)
    return header + source.packed + destination.packed + options + message


def neighbour_discovery(
    source: IPv6Address, destination: IPv6Address, kind: int, target: IPv6Address, mark: bytes
) -> bytes:
    """Return a neighbour solicitation (135) or advertisement (136), the mark as unknown option."""
    flags = 0x20000000 if kind == 136 else 0
    body = struct.pack("!I", flags) + target.packed + option(mark)
    return icmpv6(source, destination, kind, body)


def option(mark: bytes) -> bytes:
    """Return a mark as an option of neighbour discovery that nobody knows (RFC 4727, type 253)."""
    return struct.pack("!BB", 253, 3) + mark.ljust(22, b"\0")


def mld_report(source: IPv6Address, group: IPv6Address, mark: bytes) -> bytes:
    """Return an MLDv2 report for a group, with its hop-by-hop header; the mark is auxiliary data."""
    record = struct.pack("!BBH", 4, len(mark) // 4, 0) + group.packed + mark
    body = struct.pack("!HH", 0, 1) + record
    return icmpv6(source, IPv6Address("ff02::16"), 143, body, hop_by_hop=True)


def icmp_redirect(source: IPv4Address, destination: IPv4Address, mark: bytes) -> bytes:
    """Return an ICMP redirect for a packet that the destination is said to have sent."""
    quoted = ip_packet(destination, source, UDP, struct.pack("!HHHH", 1, 1, 24, 0) + mark)
    message = struct.pack("!BBH", 5, 1, 0) + source.packed + quoted
    checksum = internet_checksum(message)
    return ip_packet(
        source, destination, ICMP, message[:2] + struct.pack("!H", checksum) + message[4:]
    )


def fragments(packet: bytes, size: int) -> list[bytes]:
    """Cut an IP packet into fragments of at most ``size`` bytes of payload, a multiple of eight."""
    return _fragments4(packet, size) if packet[0] >> 4 == 4 else _fragments6(packet, size)


def _fragments4(packet: bytes, size: int) -> list[bytes]:
    header, payload = packet[:20], packet[20:]
    ident = os.urandom(2)
    made = []
    for start in range(0, len(payload), size):
        part = payload[start : start + size]
        more = 0x2000 if start + size < len(payload) else 0
        fields = struct.pack("!H", 20 + len(part)) + ident + struct.pack("!H", more | start // 8)
        fresh = header[:2] + fields + header[8:10] + b"\0\0" + header[12:]
        checksum = struct.pack("!H", internet_checksum(fresh))
        made.append(fresh[:10] + checksum + fresh[12:] + part)
    return made


def _fragments6(packet: bytes, size: int) -> list[bytes]:
    header, payload = packet[:40], packet[40:]
    ident = os.urandom(4)
    made = []
    for start in range(0, len(payload), size):
        part = payload[start : start + size]
        more = 1 if start + size < len(payload) else 0
        extension = struct.pack("!BBH", header[6], 0, start | more) + ident
        length = struct.pack("!H", len(extension) + len(part))
        made.append(header[:4] + length + bytes([44]) + header[7:] + extension + part)
    return made


def _checked(
    source: Address, destination: Address, protocol: int, segment: bytes, at: int
) -> bytes:
    ends = source.packed + destination.packed
    pseudo = struct.pack("!HH" if source.version == 4 else "!II", protocol, len(segment))
    checksum = internet_checksum(ends + pseudo + segment) or 0xFFFF
    return segment[:at] + struct.pack("!H", checksum) + segment[at + 2 :]


def send(sender: Namespace, frames: Sequence[bytes]) -> None:
    """Send frames from an instance's interface, in order."""
    with sender.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((_INTERFACE, 0))
        for frame in frames:
            out.send(frame)


def arrived(
    sender: Namespace,
    frames: Mapping[str, tuple[bytes, Sequence[bytes]]],
    listeners: Mapping[str, Namespace],
    *,
    patience: float,
    last: str | None = None,
) -> Mapping[str, frozenset[str]]:
    """Send named frames, in order, and see who receives them.

    Args:
        sender: the instance that sends them.
        frames: by name, the mark and the frames that carry it (several for a packet in fragments).
        listeners: by name, the namespaces whose interface is listened to, whoever is addressed.
        patience: seconds without any news after which it is over.
        last: the name of a frame that everybody receives, sent last: then it is over at once,
            since frames do not overtake one another.

    Returns:
        By listener, the names of the frames whose mark was heard.
    """
    heard: dict[str, set[str]] = {name: set() for name in listeners}
    with ExitStack() as opened:
        ears: dict[int, tuple[str, socket.socket]] = {}
        for name, namespace in listeners.items():
            ear = opened.enter_context(
                namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
            )
            ear.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, _RECEIVE_BUFFER)
            ear.bind((_INTERFACE, _ALL_PROTOCOLS))
            ears[ear.fileno()] = (name, ear)
        for _, parts in frames.values():
            send(sender, parts)
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            if all(last in names for names in heard.values()):
                break
            ready, _, _ = select.select([ear for _, ear in ears.values()], [], [], left)
            for ear in ready:
                name = ears[ear.fileno()][0]
                found = _marks(ear, frames)
                if found - heard[name]:
                    heard[name] |= found
                    deadline = time.monotonic() + patience
    return {name: frozenset(names) for name, names in heard.items()}


def _marks(ear: socket.socket, frames: Mapping[str, tuple[bytes, Sequence[bytes]]]) -> set[str]:
    found: set[str] = set()
    while True:
        try:
            frame, (_, _, kind, *_rest) = ear.recvfrom(_RECEIVE_BYTES)
        except BlockingIOError:
            return found
        if kind != socket.PACKET_OUTGOING:
            found |= {name for name, (mark, _) in frames.items() if mark in frame}
