"""The bytes of the packets that no ordinary socket would send."""

import struct

from secgroupd.core.model import DCCP, GRE, ICMP, ICMPV6, SCTP, UDP, UDPLITE, Address

NONCE_BYTES = 16
"""Every raw packet ends in its nonce, which is how it is recognised."""

_HOP_LIMIT = 64
_DO_NOT_FRAGMENT = 0x4000
_SCTP_SKIPPED_PARAMETER = 0x8008
_TOO_BIG = 2
_MTU = 1500
_ERROR_TYPES = {4: frozenset({3, 4, 5, 11, 12}), 6: frozenset({1, 2, 3, 4})}


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def crc32c(data: bytes) -> int:
    """Return the Castagnoli checksum that SCTP uses (RFC 9260, appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def internet_checksum(data: bytes) -> int:
    """Return the ones' complement checksum of RFC 1071; an odd byte at the end is padded."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _pseudo_header(source: Address, destination: Address, protocol: int, length: int) -> bytes:
    ends = source.packed + destination.packed
    return ends + struct.pack("!HH" if source.version == 4 else "!II", protocol, length)


def _with_checksum(data: bytes, at: int, covered_first: bytes = b"") -> bytes:
    checksum = internet_checksum(covered_first + data)
    return data[:at] + struct.pack("!H", checksum or 0xFFFF) + data[at + 2 :]


def ip_packet(source: Address, destination: Address, protocol: int, payload: bytes) -> bytes:
    """Return a whole IPv4 or IPv6 packet without options or extension headers."""
    ends = source.packed + destination.packed
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, _HOP_LIMIT) + ends + payload
    header = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, _DO_NOT_FRAGMENT, _HOP_LIMIT, protocol, 0
    )
    return _with_checksum(header + ends, 10) + payload


def icmp_message(
    source: Address,
    destination: Address,
    protocol: int,
    *,
    icmp_type: int,
    icmp_code: int,
    ident: int,
    nonce: bytes,
) -> bytes:
    """Return an ICMP or ICMPv6 message; an error quotes a packet that was never sent."""
    rest = struct.pack("!HH", ident, 1)
    body = nonce
    if icmp_type in _ERROR_TYPES[source.version]:
        too_big = source.version == 6 and icmp_type == _TOO_BIG
        rest = struct.pack("!I", _MTU if too_big else 0)
        quoted = struct.pack("!HHHH", ident, ident, 8 + len(nonce), 0)
        body = ip_packet(destination, source, UDP, quoted + nonce)
    message = struct.pack("!BBH", icmp_type, icmp_code, 0) + rest + body
    covered = b""
    if protocol == ICMPV6 and source.version == 6:
        covered = _pseudo_header(source, destination, protocol, len(message))
    return _with_checksum(message, 2, covered)


def sctp_init(sport: int, dport: int, nonce: bytes) -> bytes:
    """Return an SCTP packet that opens an association; its tag is taken from the nonce."""
    parameter = struct.pack("!HH", _SCTP_SKIPPED_PARAMETER, 4 + len(nonce)) + nonce
    tag = int.from_bytes(nonce[:4], "big") or 1
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20 + len(parameter), tag, 65536, 1, 1, tag) + parameter
    ports = struct.pack("!HHI", sport, dport, 0)
    checksum = crc32c(ports + bytes(4) + chunk)
    return ports + struct.pack("<I", checksum) + chunk


def dccp_request(
    source: Address, destination: Address, sport: int, dport: int, nonce: bytes
) -> bytes:
    """Return a DCCP packet that opens a connection (RFC 4340, 5.1; long sequence numbers)."""
    header = struct.pack("!HHBBHBBHII", sport, dport, 5, 0, 0, 1, 0, 0, 1, 0)
    packet = header + nonce
    covered = _pseudo_header(source, destination, DCCP, len(packet))
    return _with_checksum(packet, 6, covered)


def udplite_datagram(
    source: Address, destination: Address, sport: int, dport: int, nonce: bytes
) -> bytes:
    """Return a UDP-Lite datagram whose checksum covers all of it (RFC 3828)."""
    datagram = struct.pack("!HHHH", sport, dport, 0, 0) + nonce
    covered = _pseudo_header(source, destination, UDPLITE, len(datagram))
    return _with_checksum(datagram, 6, covered)


def first_packet(
    source: Address,
    destination: Address,
    protocol: int,
    *,
    ident: int,
    dport: int | None,
    icmp_type: int,
    icmp_code: int,
    nonce: bytes,
) -> bytes:
    """Return the whole first packet of a connection of any protocol but TCP and UDP.

    ``ident`` is the source port or ICMP identifier, where the protocol has one.
    """
    if protocol in {ICMP, ICMPV6}:
        payload = icmp_message(
            source,
            destination,
            protocol,
            icmp_type=icmp_type,
            icmp_code=icmp_code,
            ident=ident,
            nonce=nonce,
        )
    elif protocol == SCTP:
        payload = sctp_init(ident, dport or 0, nonce)
    elif protocol == DCCP:
        payload = dccp_request(source, destination, ident, dport or 0, nonce)
    elif protocol == UDPLITE:
        payload = udplite_datagram(source, destination, ident, dport or 0, nonce)
    elif protocol == GRE:
        # Version 0 without key or sequence: version 1 is tracked by call numbers.
        payload = bytes(4) + nonce
    else:
        payload = nonce
    return ip_packet(source, destination, protocol, payload)
