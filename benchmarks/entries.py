"""Fills a namespace's connection table with assured entries, by ctnetlink, in bulk."""

import socket
import struct

from secgroupd.dataplane.netlink import GENERAL, HEADER, NETLINK_NETFILTER, NLA_NESTED, attribute
from secgroupd.proving.netns import Namespace

NEW = 1 << 8
REQUEST, ACK, CREATE, EXCLUSIVE = 0x1, 0x4, 0x400, 0x200
STATUS, TIMEOUT, MARK = 3, 7, 8
SEEN_REPLY, ASSURED, CONFIRMED = 1 << 1, 1 << 2, 1 << 3
UDP = 17
AT_ONCE = 500


def _nested(kind: int, payload: bytes) -> bytes:
    return attribute(kind | NLA_NESTED, payload)


def _tuple(kind: int, source: int, destination: int, sport: int, dport: int) -> bytes:
    ips = attribute(1, struct.pack(">I", source)) + attribute(2, struct.pack(">I", destination))
    ports = (
        attribute(1, bytes([UDP]))
        + attribute(2, struct.pack(">H", sport))
        + attribute(3, struct.pack(">H", dport))
    )
    return _nested(kind, _nested(1, ips) + _nested(2, ports))


def fill(where: Namespace, count: int, destination: int, mark: int = 0, first: int = 0) -> int:
    """Add entries from ever new sources to one destination; return how many the kernel took.

    Args:
        where: whose table.
        count: how many to add; the kernel's limit may come first.
        destination: an IPv4 address as an integer.
        mark: the ct mark of each.
        first: where the numbering of sources begins.
    """
    body = attribute(STATUS, struct.pack(">I", SEEN_REPLY | ASSURED | CONFIRMED))
    body += attribute(TIMEOUT, struct.pack(">I", 86400)) + attribute(MARK, struct.pack(">I", mark))
    taken = 0
    with where.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
        netlink.bind((0, 0))
        netlink.settimeout(30)
        for start in range(first, first + count, AT_ONCE):
            messages = []
            for at in range(start, min(start + AT_ONCE, first + count)):
                source, sport = 0x64400000 + at // 60000, 1024 + at % 60000
                payload = (
                    GENERAL.pack(socket.AF_INET, 0, 0)
                    + _tuple(1, source, destination, sport, 53)
                    + _tuple(2, destination, source, 53, sport)
                    + body
                )
                flags = REQUEST | ACK | CREATE | EXCLUSIVE
                messages.append(
                    HEADER.pack(HEADER.size + len(payload), NEW, flags, at + 1, 0) + payload
                )
            netlink.send(b"".join(messages))
            waiting = len(messages)
            while waiting:
                answer = netlink.recv(1 << 18)
                offset = 0
                while offset < len(answer):
                    length = struct.unpack_from("=I", answer, offset)[0]
                    code = struct.unpack_from("=i", answer, offset + HEADER.size)[0]
                    taken += code == 0
                    waiting -= 1
                    offset += (length + 3) & ~3
    return taken
