"""What a packet costs, as ratios in one run.

    python -m benchmarks.data_path [--packets N] [--rounds N]

Frames go from the outside through the host to a port, one after the other, so that the time of a
send is the time of the packet's whole way. Each round measures every set-up in turn; the medians
over the rounds are compared. Sending from Python costs the same everywhere and is measured too (a
frame that the host's interface drops at once) and taken off.
"""

import argparse
import socket
import statistics
import struct
import time
from collections.abc import Callable, Sequence
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
from secgroupd.proving.wire import internet_checksum
from secgroupd.reconcile import Reconciler

CLIENT, SERVER = "10.200.0.1", "10.0.0.1"
DPORT = 5353
CONNTRACK_ALONE = "table inet tracking {\n chain unused {\n ct state new\n }\n}\n"
DROP_AT_GUEST = (
    "table netdev sink {\n chain sink {\n"
    "  type filter hook ingress device eth0 priority 0; udp dport 5353 drop\n }\n}\n"
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
                    private_ips=(IPv4Address(int(ip_address(SERVER)) + at),),
                    security_groups=judged if at == 0 else lists[at % len(lists)],
                ),
            ),
        )
        for at in range(ports)
    )
    groups_made = tuple(SecurityGroup(id=name, rules=rules_) for name, rules_ in made.items())
    return State(vpcs=(Vpc(id="vpc"),), security_groups=groups_made, instances=instances)


def frame(source_mac: bytes, destination_mac: bytes, sport: int) -> bytes:
    """Return an Ethernet frame with a short UDP datagram."""
    datagram = struct.pack(">HHHH", sport, DPORT, 18, 0) + b"0123456789"
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, UDP, 0,
        ip_address(CLIENT).packed, ip_address(SERVER).packed,
    )  # fmt: skip
    head = head[:10] + struct.pack(">H", internet_checksum(head)) + head[12:]
    return destination_mac + source_mac + b"\x08\x00" + head + datagram


@dataclass
class Road:
    """A lab with a raw socket at the client and the measured port at the far end."""

    lab: Lab

    def __post_init__(self) -> None:
        self.port = self.lab.add_port(interface="tap0", addresses=[SERVER])
        self.client = self.lab.outside_address(CLIENT)
        self.port.namespace.run(["nft", "-f", "-"], stdin=DROP_AT_GUEST)
        self.raw = self.client.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.raw.bind(("eth0", 0))
        shown = self.lab.hv.run(["ip", "-o", "link", "show", "uplink0"]).stdout.split()
        self.near = bytes.fromhex(shown[shown.index("link/ether") + 1].replace(":", ""))
        self.own = bytes.fromhex(next(iter(self.lab.uplinks.values())).mac.replace(":", ""))

    def send(self, frames: Sequence[bytes]) -> float:
        """Return nanoseconds a frame."""
        send = self.raw.send
        began = time.perf_counter_ns()
        for one in frames:
            send(one)
        return (time.perf_counter_ns() - began) / len(frames)

    def first_packets(self, count: int) -> float:
        """Every frame is a connection's first."""
        self.lab.forget()
        sports = range(40000, 40000 + min(count, 25000))
        return self.send([frame(self.own, self.near, sport) for sport in sports])

    def established(self, count: int) -> float:
        """Every frame belongs to one connection that has been answered."""
        self.lab.forget()
        guest = self.port.namespace
        guest.run(["nft", "-f", "-"], stdin="flush chain netdev sink sink\n")
        with (
            self.port.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            self.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind((SERVER, DPORT))
            server.settimeout(3)
            client.bind((CLIENT, 30000))
            client.sendto(b"hello", (SERVER, DPORT))
            _, peer = server.recvfrom(100)
            server.sendto(b"hello", peer)
        guest.run(["nft", "-f", "-"], stdin="add rule netdev sink sink udp dport 5353 drop\n")
        return self.send([frame(self.own, self.near, 30000)] * count)

    def dropped(self, count: int) -> float:
        """Frames for nobody: what sending alone costs."""
        return self.send([frame(self.own, b"\x02\0\0\0\0\x01", 30000)] * count)


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=25000)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    clouds = {
        "1 port, 1 group, 1 rule": cloud(1, 1, 2, 1, 1),
        "5000 ports, 5 x 200 rules, 20 peers": cloud(5000, 50, 200, 20, 5),
    }
    measured: dict[tuple[str, str], list[float]] = {}
    with Lab() as alone_lab, Lab() as small_lab, Lab() as large_lab:
        roads = {"conntrack alone": Road(alone_lab)}
        alone_lab.hv.run(["nft", "-f", "-"], stdin=CONNTRACK_ALONE)
        for (name, state), lab in zip(clouds.items(), (small_lab, large_lab), strict=True):
            roads[name] = Road(lab)
            with lab.hv.enter(), Nft() as nft:
                ports = [port for instance in state.instances for port in instance.ports]
                bindings = {port.id: Binding(port.interface or "") for port in ports}
                Reconciler(nft, grace=0).apply(state, bindings)
        for _ in range(given.rounds):
            for name, road in roads.items():
                tests: dict[str, Callable[[int], float]] = {
                    "send": road.dropped,
                    "first packet": road.first_packets,
                    "established": road.established,
                }
                for kind, test in tests.items():
                    measured.setdefault((kind, name), []).append(test(given.packets))
        for road in roads.values():
            road.raw.close()
    base = statistics.median(measured["send", "conntrack alone"])
    print(f"sending alone: {base:.0f} ns, taken off below")
    for kind in ("established", "first packet"):
        print(f"{kind}:")
        reference = statistics.median(measured[kind, "conntrack alone"]) - base
        for name in roads:
            cost = statistics.median(measured[kind, name]) - base
            print(f"  {name:38} {cost:7.0f} ns   {cost / reference:5.2f} x conntrack alone")


if __name__ == "__main__":
    main()
