"""Long-lived exchanges through a lab, spoken step by step from either side.

Both ends are sockets in this process. Nothing answers by itself: an echo reply, say, is sent only
when the test lets the server speak. What arrives is known by its token.
"""

import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from typing import Self

from secgroupd.core.model import ICMP, ICMPV6, SCTP, TCP, UDP
from secgroupd.proving.netns import Namespace
from secgroupd.proving.wire import crc32c

PATIENCE = 3.0
"""Seconds within which something expected must arrive."""
SILENCE = 0.3
"""Seconds after which something forbidden counts as not arrived."""

_tokens = count(1)
_idents = count(2000)


def token() -> bytes:
    return b"<token %09d>" % next(_tokens)


@dataclass
class End:
    """One side: how it sends, and where it hears."""

    socket: socket.socket
    peer: tuple[str, int] | None = None
    wrap: Sequence[bytes] = ()
    heard: bytearray = field(default_factory=bytearray)

    def say(self, message: bytes) -> None:
        payload = self.frame(message)
        if self.peer is None:
            self.socket.send(payload)
        else:
            self.socket.sendto(payload, self.peer)

    def frame(self, message: bytes) -> bytes:
        return message

    def drain(self) -> None:
        while True:
            try:
                part = self.socket.recv(65536)
            except (BlockingIOError, ConnectionError):
                return
            if not part:
                return
            self.heard += part


@dataclass
class EchoEnd(End):
    """ICMP: the client sends requests, the server replies, both by hand."""

    kind: int = 8
    ident: int = 0
    sequence: int = 0

    def frame(self, message: bytes) -> bytes:
        self.sequence += 1
        head = struct.pack(">BBHHH", self.kind, 0, 0, self.ident, self.sequence)
        packet = head + message
        if self.kind >= 128:
            return packet  # the kernel fills in ICMPv6 checksums
        padded = packet + b"\0" * (len(packet) % 2)
        total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return packet[:2] + struct.pack(">H", ~total & 0xFFFF) + packet[4:]


@dataclass
class SctpEnd(End):
    """SCTP by hand: the four chunks that open an association, then DATA."""

    sport: int = 0
    dport: int = 0
    opening: tuple[int, int] = (1, 10)
    said: int = 0

    def frame(self, message: bytes) -> bytes:
        chunk = self.opening[self.said] if self.said < 2 else 0
        self.said += 1
        body = (struct.pack(">IIHHI", 1, 65536, 1, 1, 1) if chunk in {1, 2} else b"") + message
        padded = body + b"\0" * (-len(body) % 4)
        head = struct.pack(">HHII", self.sport, self.dport, 0 if chunk == 1 else 1, 0)
        packet = head + struct.pack(">BBH", chunk, 3 if chunk == 0 else 0, 4 + len(body)) + padded
        return packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]


@dataclass
class Conversation:
    """An exchange between a client and a server, each in its namespace."""

    name: str
    client: End
    server: End

    def says(self, who: str, message: bytes) -> None:
        (self.client if who == "client" else self.server).say(message)

    def hearer(self, speaker: str) -> End:
        return self.server if speaker == "client" else self.client


class Conversations:
    """Opens conversations and closes every socket at the end."""

    def __init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _socket(
        self, where: Namespace, address: str, kind: int, protocol: int = 0
    ) -> socket.socket:
        family = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
        made = self._open.enter_context(where.socket(family, kind, protocol))
        made.setblocking(False)
        return made

    def open(
        self,
        protocol: int,
        client: tuple[Namespace, str],
        server: tuple[Namespace, str],
        dport: int = 0,
    ) -> Conversation:
        """Open an exchange and see its first packets through, in both directions."""
        made = self.begin(protocol, client, server, dport)
        for speaker in ("client", "server", "client", "server"):
            assert exchange([made], speaker) == {made.name}, f"{made.name} does not even begin"
        return made

    def begin(
        self,
        protocol: int,
        client: tuple[Namespace, str],
        server: tuple[Namespace, str],
        dport: int = 0,
    ) -> Conversation:
        """Make ready for an exchange; but for TCP, nobody has said anything yet."""
        number = ICMPV6 if protocol == ICMP and ":" in server[1] else protocol
        maker = {TCP: self._tcp, UDP: self._udp}.get(number)
        return maker(client, server, dport) if maker else self._raw(number, client, server, dport)

    def _tcp(
        self, client: tuple[Namespace, str], server: tuple[Namespace, str], dport: int
    ) -> Conversation:
        listener = self._socket(*server, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((server[1], dport))
        listener.listen()
        caller = self._socket(*client, socket.SOCK_STREAM)
        caller.bind((client[1], 0))
        caller.connect_ex((server[1], dport))
        ready, _, _ = select.select([listener], [], [], PATIENCE)
        assert ready, f"no TCP connection from {client[1]} to {server[1]} port {dport}"
        accepted, _ = listener.accept()
        self._open.enter_context(accepted)
        accepted.setblocking(False)
        for one in (caller, accepted):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.close()
        return Conversation(f"tcp {client[1]}->{server[1]}:{dport}", End(caller), End(accepted))

    def _udp(
        self, client: tuple[Namespace, str], server: tuple[Namespace, str], dport: int
    ) -> Conversation:
        answering = self._socket(*server, socket.SOCK_DGRAM)
        answering.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        answering.bind((server[1], dport))
        caller = self._socket(*client, socket.SOCK_DGRAM)
        caller.bind((client[1], 0))
        caller.connect((server[1], dport))
        answering.connect((client[1], caller.getsockname()[1]))
        return Conversation(f"udp {client[1]}->{server[1]}:{dport}", End(caller), End(answering))

    def _raw(
        self,
        protocol: int,
        client: tuple[Namespace, str],
        server: tuple[Namespace, str],
        dport: int,
    ) -> Conversation:
        ends = []
        for (where, own), (_, other) in ((client, server), (server, client)):
            made = self._socket(where, own, socket.SOCK_RAW, protocol)
            made.bind((own, 0))
            made.connect((other, 0))
            ends.append(made)
        name = f"{protocol} {client[1]}->{server[1]}:{dport}"
        ident = next(_idents)
        if protocol in {ICMP, ICMPV6}:
            for where in (client[0], server[0]):
                where.run(["sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1"])
                where.run(["sysctl", "-qw", "net.ipv6.icmp.echo_ignore_all=1"])
            request, reply = (8, 0) if protocol == ICMP else (128, 129)
            return Conversation(
                name,
                EchoEnd(ends[0], kind=request, ident=ident),
                EchoEnd(ends[1], kind=reply, ident=ident),
            )
        if protocol == SCTP:
            caller = SctpEnd(ends[0], sport=ident, dport=dport)
            return Conversation(
                name, caller, SctpEnd(ends[1], sport=dport, dport=ident, opening=(2, 11))
            )
        return Conversation(name, End(ends[0]), End(ends[1]))


def exchange(
    conversations: Iterable[Conversation], speaker: str, *, expected: int | None = None
) -> set[str]:
    """Let one side of each speak once; return the names of those that were heard.

    Waits until ``expected`` of them (all unless given) were heard, then for strays to show up.
    """
    spoken = {c.name: (c, token()) for c in conversations}
    for conversation, said in spoken.values():
        try:
            conversation.says(speaker, said)
        except OSError:  # the host's own packets are refused with an error, not dropped
            continue
    wanted = len(spoken) if expected is None else expected
    heard: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    quiet_until = None
    while True:
        now = time.monotonic()
        if len(heard) >= wanted and quiet_until is None:
            quiet_until = now + (SILENCE if wanted < len(spoken) else 0)
        limit = deadline if quiet_until is None else quiet_until
        if now >= limit:
            return heard
        sockets = [c.hearer(speaker).socket for c, _ in spoken.values()]
        select.select(sockets, [], [], min(0.05, limit - now))
        for name, (conversation, said) in spoken.items():
            end = conversation.hearer(speaker)
            end.drain()
            if said in end.heard:
                heard.add(name)


def settle(conversations: Iterable[Conversation]) -> None:
    """Wait until TCP has nothing under way: everything is acknowledged on both sides."""
    deadline = time.monotonic() + PATIENCE
    for conversation in conversations:
        for end in (conversation.client, conversation.server):
            while fcntl.ioctl(end.socket, termios.TIOCOUTQ, b"\0" * 4) != b"\0" * 4:
                assert time.monotonic() < deadline, f"{conversation.name} is not acknowledged"
                select.select([], [], [], 0.005)


def pour(source: End, sink: End, amount: int = 2_000_000) -> None:
    """Send more from one end to the other than any window that was seen so far."""
    sent = received = 0
    deadline = time.monotonic() + 20
    while received < amount:
        assert time.monotonic() < deadline, f"{received} of {amount} bytes arrived"
        readable, writable, _ = select.select(
            [sink.socket], [source.socket] if sent < amount else [], [], 1
        )
        if writable:
            sent += source.socket.send(b"." * min(65536, amount - sent))
        if readable:
            received += len(sink.socket.recv(1 << 20))
