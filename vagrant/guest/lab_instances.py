#!/usr/bin/python3
"""The instances of one lab host, and what they say to each other.

Makes a network namespace for each instance of the table that is this host's, behind a veth or a real
tap, on the VPC's bridge or routed. Each instance answers on a few ports. What else they do is asked for
by one line of JSON each on 127.0.0.1:9100, and answered by one line: see the methods named ``do_*``.

Standard library only. Runs as root, as the unit lab-instances.
"""

import asyncio
import base64
import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTROL = ("127.0.0.1", 9100)
TABLES = Path("/etc/lab")
TCP_PORTS = (80, 8080, 9090)
ECHO_PORT, COUNTED_PORT = 53, 9999
DATAGRAM_SOURCE = 20000
"""From where datagrams are sent: what has the same addresses in two VPCs has then the same ports, too."""
TICK = b"tick" * 8
# What an emulated processor carries beside everything else, in two dozen conversations.
TICK_SECONDS, PING_SECONDS, STREAM_SECONDS = 0.5, 0.2, 0.1
OUTSIDE = "world"
"""What the host itself is called as an end, where it is no hypervisor."""

ROUTED_GATEWAYS = "10.20.0.1", "2001:db8:20::1"
"""What a host is called by its routed instances."""
MTU = 1400

# <linux/tcp.h>: how a connection is taken out of one kernel and put into another.
REPAIR, REPAIR_QUEUE, QUEUE_SEQ, REPAIR_OPTIONS, REPAIR_TIME, REPAIR_WINDOW = 19, 20, 21, 22, 24, 29
NO_QUEUE, RECEIVED, SENT = 0, 1, 2
ESTABLISHED = 1
OPTION_MSS, OPTION_SCALE, OPTION_SACK, OPTION_TIME = 2, 3, 4, 8
TIOCOUTQ, FIONREAD = 0x5411, 0x541B
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
CLONE_NEWNET = 0x40000000

FAMILIES = (socket.AF_INET, socket.AF_INET6)
ECHO_REQUESTS = {socket.AF_INET: 8, socket.AF_INET6: 128}
ECHO_REPLIES = {socket.AF_INET: 0, socket.AF_INET6: 129}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Bridge:
    """A bridge that spans the hypervisors, over a tunnel.

    Attributes:
        gateways: What a host is called on it, by a number that no other host has; none where no host is on it.
    """

    name: str
    tunnel: str
    tunnel_id: int
    gateways: tuple[str, ...] = ()


BRIDGES = {
    "bridged": Bridge("br-blue", "vxblue", 10, ("10.10.0.{}", "2001:db8:10::{}")),
    # Here are the same addresses again, so that no host could tell where to route them.
    "switched": Bridge("br-red", "vxred", 20),
}
"""By what the table of instances calls those who are on one."""


def ip(*lines: str, namespace: str = "") -> None:
    """Carry out lines of iproute2, in a namespace if one is given."""
    where = ["-n", namespace] if namespace else []
    subprocess.run(
        ["ip", *where, "-force", "-batch", "-"], input="\n".join(lines), text=True, check=True
    )


def _setns(file: str) -> None:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {file}")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """What is opened within belongs to an instance's namespace (or to the host's, for OUTSIDE)."""
    if name == OUTSIDE:
        yield
        return
    _setns(f"/run/netns/{name}")
    try:
        yield
    finally:
        _setns("/proc/1/ns/net")


@dataclass(frozen=True)
class Instance:
    """A line of the table."""

    name: str
    host: str
    wiring: str
    kind: str
    interface: str
    address: str
    address6: str
    mac: str


@dataclass
class End:
    """This side of a conversation, in which both sides send a tick again and again."""

    instance: str
    side: str
    connection: socket.socket
    key: str
    received: int = 0
    over: str = ""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


@dataclass
class Counted:
    """What has arrived of numbered packets: how many, and the first and the last one's number."""

    number: int = 0
    first: int = 0
    last: int = 0


@dataclass
class Pinger:
    """A running ping."""

    sent: int = 0
    received: int = 0
    longest_silence: float = 0.0
    heard: float = field(default_factory=time.monotonic)


def checksum(content: bytes) -> int:
    """Return the Internet checksum."""
    total: int = sum(struct.unpack(f"!{len(content) // 2}H", content))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def family_of(address: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def datagrams(to: str) -> socket.socket:
    """Return a socket for datagrams to an address."""
    own = socket.socket(family_of(to), socket.SOCK_DGRAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.bind(("", DATAGRAM_SOURCE))
    return own


def pinging(to: str) -> socket.socket:
    """Return a socket that sends echo requests to an address and gets what comes back."""
    family = family_of(to)
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    return socket.socket(family, socket.SOCK_RAW, protocol)


def echo_request(own: socket.socket, sequence: int, content: bytes = TICK) -> bytes:
    """Return an echo request; that of IPv6 gets its checksum from the kernel."""
    kind = ECHO_REQUESTS[own.family]
    rest = struct.pack("!HH", own.fileno(), sequence) + content + b"\0" * (len(content) % 2)
    head = struct.pack("!BBH", kind, 0, 0)
    return struct.pack("!BBH", kind, 0, checksum(head + rest)) + rest


async def heard_echo(own: socket.socket, to: str) -> None:
    """Wait for an answer from an address to a request of this socket."""
    while True:
        content, peer = await heard_icmp(own)
        if (
            content[0] == ECHO_REPLIES[own.family]
            and peer == to
            and struct.unpack("!H", content[4:6])[0] == own.fileno()
        ):
            return


async def heard_icmp(own: socket.socket) -> tuple[bytes, str]:
    """Wait for an ICMP packet; return it, and whose it is."""
    packet, peer = await asyncio.get_running_loop().sock_recvfrom(own, 2048)
    # Only in IPv4 the packet's own header comes with it.
    header = (packet[0] & 15) * 4 if own.family == socket.AF_INET else 0
    return packet[header:], peer[0]


class Lab:
    """This host's part of the lab."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.addresses: dict[str, tuple[str, str]] = {}
        self.hypervisors: list[str] = []
        for words in _rows("hosts"):
            self.addresses[words[0]] = (words[3], words[4])
            if words[1] == "hypervisor":
                self.hypervisors.append(words[0])
        self.table = {words[0]: Instance(*words) for words in _rows("instances")}
        self.places = {each.name: each.host for each in self.table.values()}
        number = 100 + int(self.addresses[name][0].rpartition(".")[2])
        self.gateways = {
            wiring: tuple(each.format(number) for each in bridge.gateways)
            for wiring, bridge in BRIDGES.items()
        }
        self.ends: list[End] = []
        self.sent: Counter[str] = Counter()
        self.counted: dict[str, Counted] = {}
        self.pings: dict[str, Pinger] = {}
        self.busy: set[asyncio.Task[None]] = set()
        self.dropping: set[asyncio.Task[None]] = set()
        self.servers: dict[str, list[asyncio.Task[None]]] = {}
        self.sockets: dict[str, list[socket.socket]] = {}
        self.taps: dict[str, list[int]] = {}

    # What this host needs of a network.

    def prepare(self) -> None:
        """Remove what an earlier run left; make the bridges, and their tunnels to the other hosts'."""
        for left in os.listdir("/run/netns") if os.path.isdir("/run/netns") else ():  # noqa: PTH112, PTH208
            subprocess.run(["ip", "netns", "del", left], check=True)
        for one in self.table.values():
            _remove(one.interface)
        for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", switch).write_text("1\n")
        here, here6 = self.addresses[self.name]
        ip(f"addr replace {here6}/64 dev {_interface_of(here)} nodad")
        if self.name in self.hypervisors:
            for wiring in BRIDGES:
                self.span(wiring)
        for name, host in self.places.items():
            if host == self.name:
                self.make(self.table[name])
                self.plug(self.table[name])
            else:
                self.know(self.table[name])

    def span(self, wiring: str) -> None:
        """Make this host's part of a bridge."""
        bridge, tunnel = BRIDGES[wiring].name, BRIDGES[wiring].tunnel
        here = self.addresses[self.name][0]
        for link in (tunnel, bridge):
            _remove(link)
        ip(
            f"link add {bridge} mtu {MTU} type bridge",
            f"link add {tunnel} mtu {MTU} type vxlan id {BRIDGES[wiring].tunnel_id} local {here} dstport 4789",
            f"link set {tunnel} master {bridge} up",
            f"link set {bridge} up",
            *(
                f"addr add {gateway}/{'64 nodad' if ':' in gateway else '24'} dev {bridge}"
                for gateway in self.gateways[wiring]
            ),
        )
        for other in self.hypervisors:
            if other != self.name:
                to = f"{tunnel} dst {self.addresses[other][0]}"
                command = f"bridge fdb append 00:00:00:00:00:00 dev {to}"
                subprocess.run(command.split(), check=True)

    def know(self, one: Instance) -> None:
        """Know the way to an instance of another host."""
        if one.wiring == "routed":
            gateway, gateway6 = self.addresses[self.places[one.name]]
            ip(
                f"route replace {one.address}/32 via {gateway}",
                f"route replace {one.address6}/128 via {gateway6}",
            )

    def make(self, one: Instance) -> None:
        """Make an instance's namespace and its interface, which nobody is at the other end of yet."""
        subprocess.run(["ip", "netns", "add", one.name], check=True)
        if one.kind == "veth":
            ip(f"link add {one.interface} type veth peer name eth0 netns {one.name}")
        else:
            self.taps[one.name] = [_tap(one.interface)]
            with inside(one.name):
                self.taps[one.name].append(_tap("eth0"))
            self._carry(*self.taps[one.name])
            self._carry(*reversed(self.taps[one.name]))
        routed = one.wiring == "routed"
        ip(
            "link set lo up",
            f"link set eth0 address {one.mac} mtu {MTU} up",
            f"addr add {one.address}/{32 if routed else 24} dev eth0",
            # Not tentative: a connection that came with the instance is bound to it at once.
            f"addr add {one.address6}/{128 if routed else 64} dev eth0 nodad",
            *(
                line
                for gateway in (ROUTED_GATEWAYS if routed else self.gateways[one.wiring])
                for line in (f"route add {gateway} dev eth0", f"route add default via {gateway}")
            ),
            namespace=one.name,
        )

    def plug(self, one: Instance) -> None:
        """Connect an instance to the host: to the bridge, or to the host's routing."""
        if one.wiring == "routed":
            gateway, gateway6 = ROUTED_GATEWAYS
            ip(
                f"link set {one.interface} mtu {MTU} up",
                f"addr add {gateway}/32 dev {one.interface}",
                f"addr add {gateway6}/128 dev {one.interface} nodad",
                f"route replace {one.address}/32 dev {one.interface}",
                f"route replace {one.address6}/128 dev {one.interface}",
            )
        else:
            bridge = BRIDGES[one.wiring].name
            ip(f"link set {one.interface} mtu {MTU} master {bridge} up")

    def _carry(self, source: int, sink: int) -> None:
        """Be the cable between two taps: what one sends comes out of the other."""

        def carry() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    try:
                        frame = os.read(source, 65536)
                    except BlockingIOError:
                        return
                    except OSError:
                        asyncio.get_running_loop().remove_reader(source)
                        return
                    # What cannot be written (the other one is down) is lost, as on a cable.
                    with contextlib.suppress(OSError):
                        os.write(sink, frame)

        asyncio.get_running_loop().add_reader(source, carry)

    # What instances answer on.

    def serve(self, name: str) -> None:
        """Begin to answer in an instance."""
        with inside(name):
            listeners = _bound(socket.SOCK_STREAM, *TCP_PORTS)
            for listener in listeners:
                listener.listen(100)
            echoing = _bound(socket.SOCK_DGRAM, ECHO_PORT)
            counting = _bound(socket.SOCK_DGRAM, COUNTED_PORT)
            pinged = [
                pinging(address)
                for address in (self.table[name].address, self.table[name].address6)
            ]
        for own in pinged:
            own.settimeout(0)
        self.sockets[name] = [*listeners, *echoing, *counting, *pinged]
        self.servers[name] = [
            *(asyncio.create_task(self._listen(name, listener)) for listener in listeners),
            *(asyncio.create_task(self._answer(name, own)) for own in echoing),
            *(asyncio.create_task(self._count(name, own)) for own in counting),
            *(asyncio.create_task(self._count_pings(name, own)) for own in pinged),
        ]

    async def _listen(self, name: str, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, peer = await loop.sock_accept(listener)
            here = connection.getsockname()
            # Whose address it is, another instance may have, too.
            with contextlib.suppress(OSError):
                await loop.sock_sendall(connection, name.encode())
            self.talk(End(name, "server", connection, _key(peer, here)))

    async def _answer(self, name: str, own: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                _, peer = await loop.sock_recvfrom(own, 2048)
                await loop.sock_sendto(own, name.encode(), peer)

    async def _count(self, name: str, own: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):
                self._arrived(name, (await loop.sock_recvfrom(own, 2048))[0])

    async def _count_pings(self, name: str, own: socket.socket) -> None:
        while True:
            with contextlib.suppress(OSError):
                content, _ = await heard_icmp(own)
                if content[0] == ECHO_REQUESTS[own.family]:
                    self._arrived(name, content[8:])

    def _arrived(self, name: str, content: bytes) -> None:
        """Count what has come to an instance, by its label, if it has a label and a number."""
        label, _, number = content.decode(errors="replace").rstrip("\0").rpartition(" ")
        if not number.isdecimal():
            return
        counted = self.counted.setdefault(f"{label} at {name}", Counted(first=int(number)))
        counted.number, counted.last = counted.number + 1, int(number)

    def talk(self, end: End) -> None:
        """Begin to send and to count on a connection."""
        end.connection.settimeout(0)
        self.ends.append(end)
        end.tasks = [
            asyncio.create_task(self._hear(end)),
            asyncio.create_task(self._tick(end)),
        ]

    async def _hear(self, end: End) -> None:
        try:
            while content := await asyncio.get_running_loop().sock_recv(end.connection, 65536):
                end.received += len(content)
            end.over = "closed"
        except OSError as error:
            end.over = os.strerror(error.errno or 0)
        if end.side == "server":
            drop = asyncio.create_task(self._drop(end))
            self.dropping.add(drop)
            drop.add_done_callback(self.dropping.discard)

    async def _tick(self, end: End) -> None:
        with contextlib.suppress(OSError):
            while not end.over:
                await asyncio.get_running_loop().sock_sendall(end.connection, TICK)
                await asyncio.sleep(TICK_SECONDS)

    async def _drop(self, *ends: End) -> None:
        """Forget conversations and close them, without a word to the peer if they are under repair."""
        for end in ends:
            if end in self.ends:
                self.ends.remove(end)
        await self._ended(task for end in ends for task in end.tasks)
        for end in ends:
            end.connection.close()

    async def _ended(self, tasks: Iterable[asyncio.Task[None]]) -> None:
        """End tasks; what they wait for may be closed then, and its number used again."""
        chosen = list(tasks)
        for task in chosen:
            task.cancel()
        await asyncio.gather(*chosen, return_exceptions=True)

    # What is asked for.

    async def do_ready(self) -> dict[str, Any]:
        """Say which instances are here."""
        return {"here": sorted(self.servers)}

    async def do_probe(self, probes: list[list[Any]], seconds: float) -> list[bool]:
        """Try [from, to, whose address that is, protocol, port, label] all at once.

        Tell for each whether that one has answered. Of a ping nobody can tell whose answer it is: who gets
        it counts it, by the label.
        """
        return list(await asyncio.gather(*(self._probe(seconds, *probe) for probe in probes)))

    async def _probe(
        self, seconds: float, name: str, to: str, asked: str, protocol: str, port: int, label: str
    ) -> bool:
        loop = asyncio.get_running_loop()
        with inside(name):
            if protocol == "tcp":
                own = socket.socket(family_of(to))
            else:
                own = pinging(to) if protocol == "icmp" else datagrams(to)
        own.settimeout(0)
        with own:
            try:
                async with asyncio.timeout(seconds):
                    if protocol == "icmp":
                        request = echo_request(own, 1, f"{label} 1".encode())
                        await loop.sock_sendto(own, request, (to, 0))
                        await heard_echo(own, to)
                        return True
                    await loop.sock_connect(own, (to, port))
                    if protocol == "udp":
                        await loop.sock_sendall(own, TICK)
                    # An instance's name comes before everything else, and in one piece.
                    return (await loop.sock_recv(own, len(asked))).decode() == asked
            except ConnectionRefusedError:
                return protocol == "tcp"
            except (TimeoutError, OSError):
                return False

    async def do_open(self, instance: str, to: str, port: int, seconds: float) -> str | None:
        """Begin a conversation; return its key, or None if there is no connection."""
        with inside(instance):
            own = socket.socket(family_of(to))
        own.settimeout(0)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_connect(own, (to, port))
        except (TimeoutError, OSError):
            own.close()
            return None
        end = End(instance, "client", own, _key(own.getsockname(), (to, port)))
        self.talk(end)
        return end.key

    async def do_counts(self) -> dict[str, Any]:
        """Say how many bytes each end has received, and what was sent and came of pings and streams."""
        now = time.monotonic()
        return {
            "client": {end.key: end.received for end in self.ends if end.side == "client"},
            "server": {end.key: end.received for end in self.ends if end.side == "server"},
            "sent": dict(self.sent),
            "counted": {
                key: [each.number, each.first, each.last] for key, each in self.counted.items()
            },
            "pings": {
                key: [ping.sent, ping.received, max(ping.longest_silence, now - ping.heard)]
                for key, ping in self.pings.items()
            },
        }

    async def do_close(self) -> None:
        """End all conversations, pings and streams."""
        await self._drop(*self.ends)
        await self._ended(self.busy)
        self.busy.clear()
        for done in (self.pings, self.sent, self.counted):
            done.clear()

    async def do_ping(self, instance: str, to: str) -> None:
        """Ping five times a second from now on."""
        with inside(instance):
            own = pinging(to)
        own.settimeout(0)
        ping = self.pings[f"{instance}>{to}"] = Pinger()
        self._begin(self._send_pings(own, to, ping))
        self._begin(self._hear_pings(own, to, ping))

    async def _send_pings(self, own: socket.socket, to: str, ping: Pinger) -> None:
        loop = asyncio.get_running_loop()
        while True:
            ping.sent += 1
            with contextlib.suppress(OSError):
                await loop.sock_sendto(own, echo_request(own, ping.sent & 0xFFFF), (to, 0))
            await asyncio.sleep(PING_SECONDS)

    async def _hear_pings(self, own: socket.socket, to: str, ping: Pinger) -> None:
        while True:
            await heard_echo(own, to)
            now = time.monotonic()
            ping.longest_silence = max(ping.longest_silence, now - ping.heard)
            ping.received, ping.heard = ping.received + 1, now

    async def do_stream(
        self,
        streams: list[list[str]],
        times: int | None = None,
        seconds: float = STREAM_SECONDS,
    ) -> None:
        """Send to the counted port from now on, for each [from, to, label] again and again.

        Args:
            streams: who sends where; the label, and a number, are what is sent.
            times: how many datagrams; None: until all is closed.
            seconds: from one to the next.
        """
        for instance, to, label in streams:
            with inside(instance):
                own = datagrams(to)
            own.settimeout(0)
            self._begin(self._stream(own, to, label, times, seconds))

    async def _stream(
        self, own: socket.socket, to: str, label: str, times: int | None, seconds: float
    ) -> None:
        with own:
            while self.sent[label] != times:
                self.sent[label] += 1
                content = f"{label} {self.sent[label]}".encode()
                with contextlib.suppress(OSError):
                    await asyncio.get_running_loop().sock_sendto(own, content, (to, COUNTED_PORT))
                await asyncio.sleep(seconds)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.busy.add(asyncio.create_task(work))

    async def do_take(self, instance: str) -> list[dict[str, Any]]:
        """Take an instance away from here; return its connections, as they were."""
        one = self.table[instance]
        ends = [end for end in self.ends if end.instance == instance and not end.over]
        await self._ended(task for end in ends for task in end.tasks)
        ip(f"link set {one.interface} down")
        # A peer may have closed one without its being heard yet.
        taken = [_taken(end) for end in ends if _established(end.connection)]
        await self._drop(*ends)
        await self._ended(self.servers.pop(instance))
        for own in self.sockets.pop(instance):
            own.close()
        for descriptor in self.taps.pop(instance, []):
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        subprocess.run(["ip", "netns", "del", instance], check=True)
        if one.kind == "veth":
            _remove(one.interface)
        return taken

    async def do_moved(self, instance: str, host: str, taken: list[dict[str, Any]]) -> None:
        """Take notice that an instance is on another host now; if it is this one, go on with it."""
        one = self.table[instance]
        self.places[instance] = host
        if host != self.name:
            self.know(one)
            return
        self.make(one)
        for each in taken:
            with inside(instance):
                self.talk(_given(instance, each))
        self.serve(instance)
        # Last, because a segment for a connection that is not there yet would be answered by a reset.
        self.plug(one)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the scenario."""
        while line := await reader.readline():
            asked = json.loads(line)
            try:
                work = getattr(self, f"do_{asked.pop('do')}")
                reply = {"ok": await work(**asked)}
            except Exception as error:  # noqa: BLE001
                reply = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def run(self) -> None:
        """Make everything and serve."""
        self.prepare()
        for name, host in self.places.items():
            if host == self.name:
                self.serve(name)
        server = await asyncio.start_server(self.answer, *CONTROL, limit=1 << 24)
        async with server:
            await server.serve_forever()


def _rows(table: str) -> list[list[str]]:
    lines = (TABLES / table).read_text(encoding="utf-8").splitlines()
    return [words for line in lines if (words := line.partition("#")[0].split())]


def _remove(interface: str) -> None:
    """Remove an interface if it is there: the kernel clears namespaces away in its own time."""
    subprocess.run(["ip", "link", "del", interface], capture_output=True, check=False)


def _tap(interface: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    request = struct.pack("16sH22x", interface.encode(), IFF_TAP | IFF_NO_PI)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


def _interface_of(address: str) -> str:
    """Return the host's interface that has an address."""
    command = f"ip -json addr show to {address}"
    told = subprocess.run(command.split(), capture_output=True, check=True).stdout
    # It tells of the others by an object without anything in it.
    (name,) = (each["ifname"] for each in json.loads(told) if each)
    return str(name)


def _bound(kind: socket.SocketKind, *ports: int) -> list[socket.socket]:
    """Return a socket of each family for each port."""
    found = []
    for family in FAMILIES:
        for port in ports:
            own = socket.socket(family, kind)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            own.settimeout(0)
            own.bind(("", port))
            found.append(own)
    return found


def _key(client: tuple[Any, ...], server: tuple[Any, ...]) -> str:
    """Return what both sides call a conversation."""
    return f"{client[0]}:{client[1]}>{server[0]}:{server[1]}"


def _queued(own: socket.socket, queue: int, request: int) -> dict[str, Any]:
    """Return a queue of a socket under repair: the number of its first byte, and its bytes."""
    own.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, queue)
    number = own.getsockopt(socket.IPPROTO_TCP, QUEUE_SEQ) & 0xFFFFFFFF
    (length,) = struct.unpack("i", fcntl.ioctl(own, request, b"\0" * 4))
    content = own.recv(length, socket.MSG_PEEK) if length else b""
    return {
        "number": (number - len(content)) & 0xFFFFFFFF,
        "content": base64.b64encode(content).decode(),
    }


def _established(own: socket.socket) -> bool:
    """Return whether a connection is open in both directions."""
    return own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED


def _taken(end: End) -> dict[str, Any]:
    """Return a connection in words; closing it afterwards says nothing to its peer."""
    own = end.connection
    own.setsockopt(socket.IPPROTO_TCP, REPAIR, 1)
    info = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
    taken = {
        "side": end.side,
        "key": end.key,
        "received": end.received,
        "here": own.getsockname(),
        "peer": own.getpeername(),
        "options": info[5],
        "scales": info[6],
        "segment": own.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
        "time": own.getsockopt(socket.IPPROTO_TCP, REPAIR_TIME) & 0xFFFFFFFF,
        "incoming": _queued(own, RECEIVED, FIONREAD),
        "outgoing": _queued(own, SENT, TIOCOUTQ),
    }
    own.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, NO_QUEUE)
    window = own.getsockopt(socket.IPPROTO_TCP, REPAIR_WINDOW, 20)
    return {**taken, "window": list(struct.unpack("5I", window))}


def _given(name: str, taken: dict[str, Any]) -> End:
    """Return the end of a connection that was taken elsewhere, as it was there."""
    own = socket.socket(family_of(taken["here"][0]))
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    own.setsockopt(socket.IPPROTO_TCP, REPAIR, 1)
    queues = ((RECEIVED, taken["incoming"]), (SENT, taken["outgoing"]))
    for queue, found in queues:
        own.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, queue)
        number = ctypes.c_int32(found["number"]).value
        own.setsockopt(socket.IPPROTO_TCP, QUEUE_SEQ, number)
    own.bind(tuple(taken["here"]))
    own.connect(tuple(taken["peer"]))
    options = [(OPTION_MSS, taken["segment"])]
    if taken["options"] & 4:
        options.append((OPTION_SCALE, taken["scales"] & 15 | (taken["scales"] >> 4) << 16))
    if taken["options"] & 2:
        options.append((OPTION_SACK, 0))
    if taken["options"] & 1:
        options.append((OPTION_TIME, 0))
    packed = b"".join(struct.pack("II", *option) for option in options)
    own.setsockopt(socket.IPPROTO_TCP, REPAIR_OPTIONS, packed)
    own.setsockopt(socket.IPPROTO_TCP, REPAIR_TIME, ctypes.c_int32(taken["time"]).value)
    for queue, found in queues:
        own.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, queue)
        if content := base64.b64decode(found["content"]):
            own.send(content)
    own.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, NO_QUEUE)
    own.setsockopt(socket.IPPROTO_TCP, REPAIR_WINDOW, struct.pack("5I", *taken["window"]))
    own.setsockopt(socket.IPPROTO_TCP, REPAIR, 0)
    # The end of the repair takes this back, and a listener at the same port needs it.
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return End(name, taken["side"], own, taken["key"], taken["received"])


if __name__ == "__main__":
    asyncio.run(Lab(socket.gethostname()).run())
