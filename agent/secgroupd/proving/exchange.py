"""One batch of probes: everything is sent at once, then watched until all is known or quiet."""

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from secgroupd.core.model import ICMP, ICMPV6
from secgroupd.proving.clients import RawSender, open_client, start
from secgroupd.proving.ears import Ear, EarNeed, Mark, connection_mark, nonce_mark
from secgroupd.proving.netns import Namespace
from secgroupd.proving.probes import ECHO_REPLY, Method, Observation, Probe
from secgroupd.proving.servers import SERVED, Server
from secgroupd.proving.wire import NONCE_BYTES, first_packet


class _Closable(Protocol):
    def close(self) -> None: ...


class _Pollable(Protocol):
    def fileno(self) -> int: ...


_Opened = TypeVar("_Opened", bound=_Closable)


@dataclass(slots=True, eq=False)
class _Flight:
    """A probe under way."""

    probe: Probe
    nonce: bytes = field(default_factory=lambda: os.urandom(NONCE_BYTES))
    delivered: bool = False
    answered: bool = False
    refused: bool = False

    @property
    def settled(self) -> bool:
        one_way = self.probe.method is Method.ONE_WAY
        return self.refused or (self.delivered and (self.answered or one_way))

    def observation(self) -> Observation:
        method = self.probe.method
        answered = None if method is Method.ONE_WAY else self.answered
        return Observation(method, self.delivered, answered, self.refused)


class Exchange:
    """Sends a batch and watches it; to be used once, as a context manager.

    Args:
        probes: At most as many as there are descriptors for (about two each).
        timeout: Seconds without any news after which what is missing counts as lost.
    """

    def __init__(self, probes: Sequence[Probe], timeout: float) -> None:
        self._timeout = timeout
        self._flights = [_Flight(probe) for probe in probes]
        self._waiting = set(self._flights)
        self._arrivals: dict[tuple[Namespace, Mark], _Flight] = {}
        self._replies: dict[tuple[Namespace, Mark], _Flight] = {}
        self._handlers: dict[int, Callable[[], None]] = {}
        self._ears: dict[EarNeed, Ear] = {}
        self._servers: dict[tuple[Namespace, int, bytes, int], Server] = {}
        self._senders: dict[tuple[Namespace, int], RawSender] = {}
        self._news = 0
        self._open = ExitStack()
        self._poll = self._open.enter_context(select.epoll())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run(self) -> list[Observation]:
        """Send everything, wait, and return what became of each probe, in their order."""
        # Whatever listens must be there before the first packet, and hold its port before a
        # client can pick the same number.
        for flight in self._flights:
            self._listen(flight.probe)
        for flight in self._flights:
            if flight.probe.protocol in SERVED:
                self._send_by_socket(flight)
            else:
                self._send_raw(flight)
        self._wait()
        for need, ear in self._ears.items():
            self._hear(need.namespace, ear)
        return [flight.observation() for flight in self._flights]

    def _listen(self, probe: Probe) -> None:
        version, protocol = probe.version, probe.protocol
        self._listen_for(EarNeed.of(probe.destination, version, protocol))
        if probe.method is Method.ECHO:
            self._listen_for(EarNeed.of(probe.source, version, protocol))
        if protocol in SERVED and probe.dport is not None:
            address = probe.destination_address
            place = (probe.destination, protocol, address.packed, probe.dport)
            if place not in self._servers:
                server = Server(probe.destination, address, protocol, probe.dport)
                self._servers[place] = self._keep(server)
                self._watch(server, lambda: self._serve(probe.destination, server))

    def _listen_for(self, need: EarNeed) -> None:
        if need not in self._ears:
            ear = self._ears[need] = self._keep(need.open())
            self._watch(ear, lambda: self._hear(need.namespace, ear))

    def _send_by_socket(self, flight: _Flight) -> None:
        probe = flight.probe
        client, port = open_client(probe.source, probe.source_address, probe.protocol)
        self._keep(client)
        ends = probe.source_address.packed, probe.destination_address.packed
        ports = struct.pack("!HH", port, probe.dport)
        mark = connection_mark(probe.protocol, *ends, ports)
        self._arrivals[probe.destination, mark] = flight
        to = probe.destination_address
        if not start(client, probe.source, to, probe.dport or 0, flight.nonce):
            self._note(flight, refused=True)
        elif probe.method is Method.HANDSHAKE:
            # No event is asked for, because only errors matter, and those are always told.
            self._watch(client, lambda: self._failed(flight, client), events=0)
        else:
            self._watch(client, lambda: self._returned(flight, client))

    def _send_raw(self, flight: _Flight) -> None:
        probe = flight.probe
        place = (probe.source, probe.version)
        if place not in self._senders:
            self._senders[place] = self._keep(RawSender(*place))
        packet = first_packet(
            probe.source_address,
            probe.destination_address,
            probe.protocol,
            ident=probe.source.next_ident(),
            dport=probe.dport,
            icmp_type=probe.sent_type,
            icmp_code=probe.icmp_code or 0,
            nonce=flight.nonce,
        )
        is_icmp = probe.protocol in {ICMP, ICMPV6}
        mark = nonce_mark(probe.protocol, flight.nonce, probe.sent_type if is_icmp else 0)
        self._arrivals[probe.destination, mark] = flight
        if probe.method is Method.ECHO:
            reply = nonce_mark(probe.protocol, flight.nonce, ECHO_REPLY[probe.version])
            self._replies[probe.source, reply] = flight
        if not self._senders[place].send(packet, probe.destination_address):
            self._note(flight, refused=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + self._timeout
        while self._waiting and (left := deadline - time.monotonic()) > 0:
            before = self._news
            for descriptor, _ in self._poll.poll(left):
                self._handlers[descriptor]()
            if self._news != before:
                deadline = time.monotonic() + self._timeout

    def _hear(self, namespace: Namespace, ear: Ear) -> None:
        for mark in ear.marks():
            if flight := self._arrivals.get((namespace, mark)):
                self._note(flight, delivered=True)
            elif flight := self._replies.get((namespace, mark)):
                self._note(flight, answered=True)

    def _serve(self, namespace: Namespace, server: Server) -> None:
        for mark in server.serve():
            if flight := self._arrivals.get((namespace, mark)):
                self._note(flight, delivered=True)
                if flight.probe.method is Method.HANDSHAKE:
                    self._note(flight, answered=True)

    def _returned(self, flight: _Flight, client: socket.socket) -> None:
        try:
            while True:
                if client.recv(NONCE_BYTES + 1) == flight.nonce:
                    self._note(flight, answered=True)
        except BlockingIOError:
            return
        except OSError:
            self._note(flight, refused=True)

    def _failed(self, flight: _Flight, client: socket.socket) -> None:
        self._poll.unregister(client)
        if not flight.answered:
            self._note(flight, refused=True)

    def _note(
        self,
        flight: _Flight,
        *,
        delivered: bool = False,
        answered: bool = False,
        refused: bool = False,
    ) -> None:
        before = (flight.delivered, flight.answered, flight.refused)
        flight.delivered |= delivered
        flight.answered |= answered
        flight.refused |= refused
        # Later packets of the same connection are no news: they must not put off the end.
        self._news += before != (flight.delivered, flight.answered, flight.refused)
        if flight.settled:
            self._waiting.discard(flight)

    def _keep(self, opened: _Opened) -> _Opened:
        self._open.callback(opened.close)
        return opened

    def _watch(
        self, source: _Pollable, handler: Callable[[], None], *, events: int = select.EPOLLIN
    ) -> None:
        self._handlers[source.fileno()] = handler
        self._poll.register(source.fileno(), events)
