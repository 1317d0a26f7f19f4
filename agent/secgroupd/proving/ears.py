"""Seeing the packets that arrive in a namespace, each as the mark by which its sender knows it."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from secgroupd.core.model import ICMP, ICMPV6, TCP, UDP
from secgroupd.proving.netns import Namespace
from secgroupd.proving.wire import NONCE_BYTES

_ALL_PROTOCOLS = 3
_SOL_PACKET, _IGNORE_OUTGOING = 263, 23
_RECEIVE_BUFFER_FORCE = 33
_IPV6_RECEIVE_PACKET_INFO, _IPV6_PACKET_INFO = 49, 50
_BUFFER_BYTES = 32 * 1024 * 1024
_LONGEST = 65536

Mark = tuple[int, bytes]
"""Protocol, and what makes a packet unique within it."""


def connection_mark(protocol: int, source: bytes, destination: bytes, ports: bytes) -> Mark:
    """Return the mark of a TCP or UDP packet: its addresses (packed) and both ports (4 bytes)."""
    return protocol, source + destination + ports


def nonce_mark(protocol: int, nonce: bytes, icmp_type: int = 0) -> Mark:
    """Return the mark of any other packet; the type keeps apart an echo, its reply and errors."""
    return protocol, bytes([icmp_type]) + nonce


def enlarge_buffer(receiver: socket.socket) -> None:
    """Let a socket hold what a whole batch of probes can send to it at once."""
    receiver.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, _BUFFER_BYTES)


def _mark(protocol: int, source: bytes, destination: bytes, payload: bytes) -> Mark:
    if protocol in {TCP, UDP}:
        return connection_mark(protocol, source, destination, payload[:4])
    icmp_type = payload[0] if payload and protocol in {ICMP, ICMPV6} else 0
    return nonce_mark(protocol, payload[-NONCE_BYTES:], icmp_type)


def mark_of(packet: bytes) -> Mark | None:
    """Return the mark of an IP packet, or None if it is neither IPv4 nor IPv6."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        start, end = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big")
        return _mark(packet[9], packet[12:16], packet[16:20], packet[start:end])
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        end = 40 + int.from_bytes(packet[4:6], "big")
        return _mark(packet[6], packet[8:24], packet[24:40], packet[40:end])
    return None


class Ear(Protocol):
    """Something that hears the packets arriving in one namespace."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""

    def marks(self) -> Iterator[Mark]:
        """Yield the marks of what has arrived, until nothing waits."""

    def close(self) -> None:
        """Stop listening."""


def _drain(receive: Callable[[], Mark | None]) -> Iterator[Mark]:
    while True:
        try:
            mark = receive()
        except BlockingIOError:
            return
        if mark is not None:
            yield mark


class InterfaceEar:
    """Hears what arrives on any interface of a namespace, whatever becomes of it there."""

    def __init__(self, namespace: Namespace) -> None:
        self._socket = namespace.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS)
        )
        try:
            enlarge_buffer(self._socket)
            self._socket.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._socket.fileno()

    def marks(self) -> Iterator[Mark]:
        """Yield the marks of what has arrived, until nothing waits."""
        return _drain(lambda: mark_of(self._socket.recv(_LONGEST)))

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class HostEar:
    """Hears the packets of one protocol that the host's ruleset let through to the host itself."""

    def __init__(self, namespace: Namespace, version: int, protocol: int) -> None:
        self._version = version
        self._protocol = protocol
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._socket = namespace.socket(family, socket.SOCK_RAW, protocol)
        try:
            enlarge_buffer(self._socket)
            if version == 6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECEIVE_PACKET_INFO, 1)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._socket.fileno()

    def marks(self) -> Iterator[Mark]:
        """Yield the marks of what has arrived, until nothing waits."""
        return _drain(self._receive)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _receive(self) -> Mark | None:
        if self._version == 4:
            return mark_of(self._socket.recv(_LONGEST))
        # IPv6 keeps its header to itself and tells the addresses beside the packet.
        payload, beside, _, sender = self._socket.recvmsg(_LONGEST, 128)
        source = socket.inet_pton(socket.AF_INET6, sender[0].partition("%")[0])
        destination = next(
            (data[:16] for _, kind, data in beside if kind == _IPV6_PACKET_INFO), bytes(16)
        )
        return _mark(self._protocol, source, destination, payload)


@dataclass(frozen=True, slots=True)
class EarNeed:
    """Where an ear is needed, and for what; equal needs share one ear."""

    namespace: Namespace
    version: int = 0
    protocol: int = 0

    @classmethod
    def of(cls, namespace: Namespace, version: int, protocol: int) -> "EarNeed":
        """Return the need to hear ``protocol`` in ``namespace``."""
        return cls(namespace, version, protocol) if namespace.filters else cls(namespace)

    def open(self) -> Ear:
        """Open the ear."""
        if self.namespace.filters:
            return HostEar(self.namespace, self.version, self.protocol)
        return InterfaceEar(self.namespace)
