"""What a packet costs, as ratios in one run.

    python -m benchmarks.data_path [--packets N] [--rounds N] [--ports N]

Frames go from the outside through the host to a port (and answers back), one after the other, so
that the processor time of a send is that of the packet's whole way. Each round measures every set-up
in turn; the medians over the rounds are compared. Sending from Python costs the same everywhere and
is measured too (a frame that the host's interface drops at once) and taken off.

Two set-ups tell what could be had at best. ``three empty chains``: what it costs to stand before
connection tracking, behind it and where packets leave, with nothing to do there. ``two comparisons``:
a connection's mark looked at where packets come in and where they leave, without a source check.
"""

import argparse
import socket
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network

from secgroupd.core.draft import Binding
from secgroupd.core.model import (
    UDP,
    Direction,
    GroupPeer,
    Instance,
    Port,
    PortRange,
    PrefixPeer,
    Rule,
    SecurityGroup,
    State,
    Vpc,
)
from secgroupd.dataplane.nft import Nft
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.wire import internet_checksum
from secgroupd.reconcile import Reconciler

CLIENT, SERVER = "10.200.0.1", "10.0.0.1"
MAC = "fa:16:3e:00:00:01"
DPORT = 5353
CONNTRACK_ALONE = "table inet tracking {\n chain unused {\n ct state new\n }\n}\n"
MARKED = "ct state established ct mark 0x80000001 accept"
THREE_CHAINS = (
    "table inet least {\n"
    " chain raw {\n  type filter hook prerouting priority -300;\n }\n"
    " chain in {\n  type filter hook prerouting priority -150;\n }\n"
    " chain out {\n  type filter hook postrouting priority 150;\n }\n}\n"
)
TWO_COMPARISONS = (
    "table inet least {\n"
    f" chain in {{\n  type filter hook prerouting priority -150;\n  {MARKED}\n }}\n"
    " chain out {\n  type filter hook postrouting priority 150;\n"
    f"  {MARKED}\n  ct mark set 0x80000001\n }}\n}}\n"
)
SINK = (
    "table netdev sink {\n chain sink {\n"
    "  type filter hook ingress device eth0 priority 0; udp dport { 5353, 30000 } drop\n }\n}\n"
)


def cloud(ports: int, groups: int, rules: int, peers: int, groups_a_port: int) -> State:
    """Make a state in which only the last group of the measured port allows the measured flow."""
    names = [f"sg-{at:03}" for at in range(groups)]
    made = {}
    for at, name in enumerate(names):
        own = [
            Rule(
                id=f"r{number}",
                direction=Direction.INGRESS,
                protocol=UDP,
                ports=(PortRange(6000 + number, 6000 + number),),
                peer=GroupPeer(names[(at + number) % min(peers, groups)]),
            )
            for number in range(rules - 1)
        ]
        last = Rule(
            id="measured",
            direction=Direction.INGRESS,
            protocol=UDP,
            ports=(PortRange(DPORT, DPORT),),
            peer=PrefixPeer(ip_network(CLIENT)),
        )
        out = Rule(id="out", direction=Direction.EGRESS)
        made[name] = (*own, out, *([last] if at == groups - 1 else []))
    judged = (*names[: groups_a_port - 1], names[-1])
    lists = [tuple(names[(at + k) % groups] for k in range(groups_a_port)) for at in range(50)]
    instances = tuple(
        Instance(
            id=f"i{at}",
            ports=(
                Port(
                    id=f"p{at:05}",
                    vpc_id="vpc",
                    interface=f"tap{at}",
                    mac_address=MAC if at == 0 else f"fa:16:3e:01:{at >> 8:02x}:{at & 255:02x}",
                    private_ips=(IPv4Address(int(ip_address(SERVER)) + at),),
                    security_groups=judged if at == 0 else lists[at % len(lists)],
                ),
            ),
        )
        for at in range(ports)
    )
    groups_made = tuple(SecurityGroup(id=name, rules=rules_) for name, rules_ in made.items())
    return State(vpcs=(Vpc(id="vpc"),), security_groups=groups_made, instances=instances)


def frame(
    source_mac: bytes,
    destination_mac: bytes,
    ports: tuple[int, int],
    addresses: tuple[str, str] = (CLIENT, SERVER),
) -> bytes:
    """Return an Ethernet frame with a short UDP datagram."""
    datagram = struct.pack(">HHHH", *ports, 18, 0) + b"0123456789"
    source, destination = (ip_address(each).packed for each in addresses)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, UDP, 0, source, destination
    )  # fmt: skip
    head = head[:10] + struct.pack(">H", internet_checksum(head)) + head[12:]
    return destination_mac + source_mac + b"\x08\x00" + head + datagram


@dataclass
class Road:
    """A lab with a raw socket at the client and the measured port at the far end.

    They are routed, or on a bridge of their own, which iptables sees.
    """

    lab: Lab
    bridge: str | None = None
    interface: str = "tap0"

    def __post_init__(self) -> None:
        self.port = self.lab.add_port(
            interface=self.interface, addresses=[SERVER], mac=MAC, bridge=self.bridge
        )
        self.client = self.lab.outside_address(CLIENT)
        uplink = next(iter(self.lab.uplinks))
        if self.bridge:
            self.lab.plug(uplink, self.bridge)
            for family in ("iptables", "ip6tables", "arptables"):
                self.lab.hv.write_sysctl(f"bridge/bridge-nf-call-{family}", 1)
        self.sinks = (self.port.namespace, self.client)
        for each in self.sinks:
            each.run(["nft", "-f", "-"], stdin=SINK)
        self.outside, self.inside = (self._raw(each) for each in (self.client, self.port.namespace))
        self.own = mac(self.lab.uplinks[uplink].mac)
        if self.bridge:
            self.near, self.gateway = mac(self.port.mac), self.own
        else:
            self.near, self.gateway = map(self._mac_of, (uplink, self.interface))

    def close(self) -> None:
        """Close the sockets."""
        self.outside.close()
        self.inside.close()

    @staticmethod
    def _raw(namespace: Namespace) -> socket.socket:
        raw = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.bind(("eth0", 0))
        return raw

    def _mac_of(self, interface: str) -> bytes:
        shown = self.lab.hv.run(["ip", "-o", "link", "show", interface]).stdout.split()
        return mac(shown[shown.index("link/ether") + 1])

    def send(self, raw: socket.socket, frames: Sequence[bytes]) -> float:
        """Return nanoseconds of this thread's processor time a frame."""
        send = raw.send
        began = time.thread_time_ns()
        for one in frames:
            send(one)
        return (time.thread_time_ns() - began) / len(frames)

    def first_packets(self, count: int) -> float:
        """Every frame is a connection's first."""
        self.lab.forget()
        sports = range(40000, 40000 + min(count, 25000))
        made = [frame(self.own, self.near, (sport, DPORT)) for sport in sports]
        return self.send(self.outside, made)

    def open_sinks(self) -> None:
        """Let the measured flow reach the programs at both ends."""
        for each in self.sinks:
            each.run(["nft", "-f", "-"], stdin="flush chain netdev sink sink\n")

    def _establish(self) -> None:
        self.lab.forget()
        self.open_sinks()
        with (
            self.port.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            self.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind((SERVER, DPORT))
            client.bind((CLIENT, 30000))
            for one in (server, client):
                one.settimeout(3)
            client.sendto(b"hello", (SERVER, DPORT))
            _, peer = server.recvfrom(100)
            server.sendto(b"hello", peer)
            client.recvfrom(100)
        for each in self.sinks:
            again = "add rule netdev sink sink udp dport { 5353, 30000 } drop\n"
            each.run(["nft", "-f", "-"], stdin=again)

    def established(self, count: int) -> float:
        """Every frame belongs to one connection that has been answered."""
        self._establish()
        return self.send(self.outside, [frame(self.own, self.near, (30000, DPORT))] * count)

    def answers(self, count: int) -> float:
        """Every frame is an answer from the port, in one connection."""
        self._establish()
        port = mac(self.port.mac)
        answer = frame(port, self.gateway, (DPORT, 30000), (SERVER, CLIENT))
        return self.send(self.inside, [answer] * count)

    def dropped(self, count: int) -> float:
        """Frames that the host's interface drops: what sending alone costs."""
        nobody = b"\x01\x80\xc2\0\0\x01" if self.bridge else b"\x02\0\0\0\0\x01"
        return self.send(self.outside, [frame(self.own, nobody, (30000, DPORT))] * count)


def mac(text: str) -> bytes:
    """Return a MAC address's bytes."""
    return bytes.fromhex(text.replace(":", ""))


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=25000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ports", type=int, default=5000, help="5000 take the nft writer 7 GB")
    given = parser.parse_args()
    clouds = {
        "1 port, 1 group, 1 rule": cloud(1, 1, 2, 1, 1),
        f"{given.ports} ports, 5 x 200 rules, 20 peers": cloud(given.ports, 50, 200, 20, 5),
    }
    measured: dict[tuple[str, str], list[float]] = {}
    tables = {
        "conntrack alone": CONNTRACK_ALONE,
        "three empty chains": CONNTRACK_ALONE + THREE_CHAINS,
        "two comparisons": TWO_COMPARISONS,
    }
    with ExitStack() as held:
        roads: dict[str, Road] = {}
        for name, text in tables.items():
            roads[name] = Road(held.enter_context(Lab()))
            roads[name].lab.hv.run(["nft", "-f", "-"], stdin=text)
        for name, state in clouds.items():
            roads[name] = Road(held.enter_context(Lab()))
            with roads[name].lab.hv.enter(), Nft() as nft:
                ports = [port for instance in state.instances for port in instance.ports]
                bindings = {port.id: Binding(port.interface or "") for port in ports}
                Reconciler(nft, grace=0).apply(state, bindings)
        for _ in range(given.rounds):
            for name, road in roads.items():
                tests: dict[str, Callable[[int], float]] = {
                    "send": road.dropped,
                    "first packet": road.first_packets,
                    "established": road.established,
                    "answers, established": road.answers,
                }
                for kind, test in tests.items():
                    measured.setdefault((kind, name), []).append(test(given.packets))
        for road in roads.values():
            road.close()
    base = statistics.median(measured["send", "conntrack alone"])
    print(f"sending alone: {base:.0f} ns, taken off below")
    for kind in ("established", "answers, established", "first packet"):
        print(f"{kind}:")
        reference = statistics.median(measured[kind, "conntrack alone"]) - base
        for name in roads:
            cost = statistics.median(measured[kind, name]) - base
            print(f"  {name:38} {cost:7.0f} ns   {cost / reference:5.2f} x conntrack alone")


if __name__ == "__main__":
    main()
