"""Conntrack by ctnetlink: walk the table once, delete many entries in one go.

Nothing is ever deleted by a filter: filtered flushes by IPv6 address delete everything *else* on
some kernels, and zone-only ones everything on others. Numbers are those of
``linux/netfilter/nfnetlink_conntrack.h``.
"""

import errno
import struct
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from secgroupd.closing import Closing
from secgroupd.core.marks import generation_of
from secgroupd.core.model import ICMP, ICMPV6, TCP
from secgroupd.core.tracked import Connection, Endpoint, Place, address
from secgroupd.dataplane.netlink import (
    ATTRIBUTE,
    NLA_NESTED,
    Netlink,
    attribute,
    attributes,
    reading,
)
from secgroupd.errors import DataplaneError

T = TypeVar("T")

SUBSYSTEM = 1 << 8
NEW, GET, DELETE = 0, 1, 2
ORIGINAL, REPLY, PROTOCOL, MARK, ID, ZONE, TIMESTAMP = 1, 2, 4, 8, 12, 18, 20
PROTOCOL_TCP, FLAGS_ORIGINAL, FLAGS_REPLY = 1, 4, 5
BE_LIBERAL = 0x08
"""Flag of one direction: segments out of the window are not invalid (IP_CT_TCP_FLAG_BE_LIBERAL)."""

CHANGES_AT_ONCE = 256
"""Changes in one message to the kernel; their acknowledgements fit into the socket's buffer."""

ENTRIES_BETWEEN_RESTS, REST_SECONDS = 64, 0.0002

SETTINGS = Path("/proc/sys/net/netfilter")


class Conntrack(Closing):
    """The conntrack table of the network namespace of the thread that made the adapter."""

    def __init__(self) -> None:
        self._netlink = Netlink()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def stale(self, minimums: Mapping[Place, int]) -> Iterator[Connection]:
        """Yield the entries that a port here answers and whose stamp is not fresh.

        One walk over the table; entries that come and go meanwhile may or may not be seen.

        Args:
            minimums: by zone and address (4 or 16 bytes) of a responder, the oldest generation
                that is fresh there.

        Raises:
            DataplaneError: the kernel refused.
        """
        with reading("the connection table"):
            for body in _resting(self._netlink.stream(SUBSYSTEM | GET, 0)):
                found = _connection(body, minimums)
                if found is not None:
                    yield found

    def entries(self) -> Iterator[Connection]:
        """Yield every entry, of whomever; see ``stale``.

        Raises:
            DataplaneError: the kernel refused.
        """
        with reading("the connection table"):
            for body in self._netlink.stream(SUBSYSTEM | GET, 0):
                parts = dict(attributes(body))
                if ORIGINAL in parts and REPLY in parts:
                    yield connection_of(parts)

    def delete(self, connections: Sequence[Connection]) -> int:
        """Delete entries; return how many were still there. One that is gone is no error.

        Raises:
            DataplaneError: the kernel refused one.
        """
        return self._change(DELETE, connections)

    def tcp_of(self, places: Container[Place]) -> Iterator[Connection]:
        """Yield the TCP entries that have one of these places at an end; see ``stale``.

        Raises:
            DataplaneError: the kernel refused.
        """
        for found in _resting(self.entries()):
            ends = {(found.zone, one.source.packed) for one in (found.original, found.reply)}
            if found.protocol == TCP and any(end in places for end in ends):
                yield found

    def opened_at(self, places: Container[Place]) -> Iterator[Connection]:
        """Yield the entries that were opened from one of these places; see ``stale``.

        Raises:
            DataplaneError: the kernel refused.
        """
        for found in _resting(self.entries()):
            if (found.zone, found.original.source.packed) in places:
                yield found

    def forget_windows(self, connections: Sequence[Connection]) -> int:
        """Have no segment of these TCP entries taken for invalid because of its sequence numbers.

        Everything else about them stays: what is denied is denied. Returns how many were still
        there.

        Raises:
            DataplaneError: the kernel refused one.
        """
        flags = bytes((BE_LIBERAL, BE_LIBERAL))
        directions = attribute(FLAGS_ORIGINAL, flags) + attribute(FLAGS_REPLY, flags)
        tcp = attribute(PROTOCOL_TCP | NLA_NESTED, directions)
        return self._change(NEW, connections, attribute(PROTOCOL | NLA_NESTED, tcp))

    def _change(self, what: int, connections: Sequence[Connection], how: bytes = b"") -> int:
        done = 0
        for start in range(0, len(connections), CHANGES_AT_ONCE):
            part = connections[start : start + CHANGES_AT_ONCE]
            requests = [
                (SUBSYSTEM | what, 2 if c.original.source.version == 4 else 10, c.handle + how)
                for c in part
            ]
            try:
                codes = self._netlink.post(requests)
            except OSError as error:
                raise DataplaneError(f"cannot change connections: {error}") from error
            done += codes.count(0)
            refused = [code for code in codes if code not in {0, errno.ENOENT}]
            if refused:
                raise DataplaneError(f"the kernel would not change a connection: {refused[0]}")
        return done


def _resting(entries: Iterable[T]) -> Iterator[T]:
    """Yield entries, and rest now and then."""
    for number, entry in enumerate(entries, 1):
        if number % ENTRIES_BETWEEN_RESTS == 0:
            # The interpreter runs one thread at a time: enforcement goes first.
            time.sleep(REST_SECONDS)
        yield entry


def _connection(body: memoryview, minimums: Mapping[Place, int]) -> Connection | None:
    parts = dict(attributes(body))
    if ORIGINAL not in parts or REPLY not in parts:
        return None
    # Most entries are somebody else's, or fresh: they are told apart before anything is decoded.
    reply_tuple = parts[REPLY]
    # A tuple begins with its nest of addresses, and that with the source (8 bytes of headers).
    length = ATTRIBUTE.unpack_from(reply_tuple, 4)[0] - 4
    zone = int(struct.unpack(">H", parts[ZONE])[0]) if ZONE in parts else 0
    minimum = minimums.get((zone, bytes(reply_tuple[8 : 8 + length])))
    if minimum is None:
        return None
    mark = int(struct.unpack(">I", parts[MARK])[0]) if MARK in parts else 0
    if generation_of(mark) >= minimum:
        return None
    return connection_of(parts)


def connection_of(parts: Mapping[int, memoryview]) -> Connection:
    """Return a connection from the attributes with which the kernel describes it.

    Raises:
        LookupError, ValueError, struct.error: they make no sense.
    """
    original, protocol, icmp = _tuple(dict(attributes(parts[ORIGINAL])))
    reply, _, _ = _tuple(dict(attributes(parts[REPLY])))
    zone = int(struct.unpack(">H", parts[ZONE])[0]) if ZONE in parts else 0
    mark = int(struct.unpack(">I", parts[MARK])[0]) if MARK in parts else 0
    handle = attribute(ORIGINAL | NLA_NESTED, bytes(parts[ORIGINAL]))
    for kind in (ID, ZONE):
        if kind in parts:
            handle += attribute(kind, bytes(parts[kind]))
    return Connection(
        protocol, original, reply, mark, handle, *icmp, age=_age(parts.get(TIMESTAMP)), zone=zone
    )


def _tuple(parts: dict[int, memoryview]) -> tuple[Endpoint, int, tuple[int, int]]:
    """Return addresses and ports, the protocol, and ICMP type and code."""
    ips = dict(attributes(parts[1]))
    source, destination = ips.get(1) or ips[3], ips.get(2) or ips[4]
    fields = dict(attributes(parts[2]))
    protocol = fields[1][0]
    if protocol in {ICMP, ICMPV6}:
        number, kind, code = (4, 5, 6) if protocol == ICMP else (7, 8, 9)
        if number in fields:
            end = Endpoint(
                address(bytes(source)), address(bytes(destination)), _port(fields[number])
            )
            return end, protocol, (fields[kind][0], fields[code][0])
    sport = _port(fields[2]) if 2 in fields else 0
    dport = _port(fields[3]) if 3 in fields else 0
    ends = Endpoint(address(bytes(source)), address(bytes(destination)), sport, dport)
    return ends, protocol, (0, 0)


def _port(raw: memoryview) -> int:
    return int(struct.unpack(">H", raw)[0])


def _age(timestamp: memoryview | None) -> float | None:
    if timestamp is None:
        return None
    for kind, value in attributes(timestamp):
        if kind == 1:
            started = int(struct.unpack(">Q", value)[0]) / 1e9
            return max(0.0, time.time() - started)
    return None


def fill() -> tuple[int, int]:
    """Return the entries of this network namespace's table and the limit.

    Raises:
        DataplaneError: connection tracking is not there.
    """
    try:
        count = int((SETTINGS / "nf_conntrack_count").read_text())
        limit = int((SETTINGS / "nf_conntrack_max").read_text())
    except (OSError, ValueError) as error:
        raise DataplaneError(f"no connection tracking: {error}") from error
    return count, limit
