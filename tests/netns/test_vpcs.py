"""VPCs and peerings on one host; virtual IPs and instances that forward (the documentation's figures 3 to 5)."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.netns.agents import Agent, await_that

from secgroupd.core.model import ICMP, ICMPV6, TCP, UDP
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Probe, run_probes

pytestmark = pytest.mark.netns

OPEN = """
version: 1
vpcs: [{id: a}, {id: b}, {id: c}]
peerings: [PEERINGS]
security_groups:
  - id: open
    rules:
      - {id: in4, direction: ingress, remote_ip_prefix: 0.0.0.0/0}
      - {id: in6, direction: ingress, ethertype: IPv6}
      - {id: out4, direction: egress}
      - {id: out6, direction: egress, ethertype: IPv6}
instances:
  - id: i
    ports:
      - {id: pa, interface: tapa, vpc_id: a, private_ips: [10.1.0.1, "fd01::1"], security_groups: [open]}
      - {id: pb, interface: tapb, vpc_id: b, private_ips: [10.2.0.1, "fd02::1"], security_groups: [open]}
      - {id: pc, interface: tapc, vpc_id: c, private_ips: [10.3.0.1, "fd03::1"], security_groups: [open]}
      - {id: pd, interface: tapd, vpc_id: a, private_ips: [10.1.0.2, "fd01::2"], security_groups: [open]}
"""
ADDRESSES = {
    "tapa": ("10.1.0.1", "fd01::1"),
    "tapb": ("10.2.0.1", "fd02::1"),
    "tapc": ("10.3.0.1", "fd03::1"),
    "tapd": ("10.1.0.2", "fd01::2"),
}
AB, BC = "{id: ab, vpc_ids: [a, b]}", "{id: bc, vpc_ids: [b, c]}"


@contextmanager
def agent_with(
    directory: Path, ports: Mapping[str, Sequence[str]], macs: Mapping[str, str] | None = None
) -> Iterator[Agent]:
    with Lab() as lab:
        for interface, addresses in ports.items():
            lab.add_port(interface=interface, addresses=addresses, mac=(macs or {}).get(interface))
        made = Agent(lab, directory)
        try:
            yield made
        finally:
            if made.process is not None:
                made.stop()


def talk(
    lab: Lab, pairs: Sequence[tuple[str, str]], ports: Mapping[str, Sequence[str]]
) -> dict[tuple[str, str], bool]:
    """Who reaches whom, by every protocol and in both families, or by none."""
    questions = [
        (pair, version, protocol)
        for pair in pairs
        for version in (4, 6)
        for protocol in (TCP, UDP, ICMP if version == 4 else ICMPV6)
    ]
    probes = [
        Probe(
            source=lab.ports[one].namespace,
            source_address=ip_address(ports[one][version == 6]),
            destination=lab.ports[other].namespace,
            destination_address=ip_address(ports[other][version == 6]),
            protocol=protocol,
            dport=80 if protocol in {TCP, UDP} else None,
        )
        for (one, other), version, protocol in questions
    ]
    seen: dict[tuple[str, str], set[bool]] = {}
    for (pair, _, _), observed in zip(questions, run_probes(probes), strict=True):
        seen.setdefault(pair, set()).add(observed.connected)
    assert all(len(found) == 1 for found in seen.values()), seen
    return {pair: found.pop() for pair, found in seen.items()}


PAIRS = [(one, other) for one in ADDRESSES for other in ADDRESSES if one != other]


@pytest.mark.parametrize(
    ("peerings", "connected"),
    [("", ["ad"]), (AB, ["ad", "ab", "bd"]), (f"{AB}, {BC}", ["ad", "ab", "bd", "bc"])],
    ids=["none", "one", "not transitive"],
)
def test_between_vpcs_nothing_passes_without_a_peering(
    tmp_path: Path, peerings: str, connected: list[str]
) -> None:
    with agent_with(tmp_path, ADDRESSES) as agent:
        agent.give(OPEN.replace("PEERINGS", peerings))
        agent.start()
        found = talk(agent.lab, PAIRS, ADDRESSES)
        outside = agent.lab.outside_address("203.0.113.9")
        probe = Probe(
            source=outside,
            source_address=ip_address("203.0.113.9"),
            destination=agent.lab.ports["tapc"].namespace,
            destination_address=ip_address("10.3.0.1"),
            protocol=TCP,
            dport=80,
        )
        (seen,) = run_probes([probe])
    wanted = {
        (one, other): "".join(sorted(one[-1] + other[-1])) in connected for one, other in PAIRS
    }
    assert found == wanted
    assert seen.connected, "what is outside is in no VPC"


@pytest.mark.parametrize("server_first", [True, False])
def test_a_peering_that_goes_takes_its_connections_with_it(
    tmp_path: Path, server_first: bool
) -> None:
    with agent_with(tmp_path, ADDRESSES) as agent:
        agent.give(OPEN.replace("PEERINGS", AB))
        agent.start()
        with agent.lab.ports["tapb"].namespace.enter():
            listening = socket.create_server(("10.2.0.1", 80))
        with agent.lab.ports["tapa"].namespace.enter():
            client = socket.create_connection(("10.2.0.1", 80), timeout=10)
        server, _ = listening.accept()
        with listening, client, server:
            client.sendall(b"hello")
            assert server.recv(16) == b"hello"
            before = agent.status()["generation"]
            agent.give(OPEN.replace("PEERINGS", ""))
            await_that(lambda: agent.status()["generation"] != before)
            one, other = (server, client) if server_first else (client, server)
            other.settimeout(1)
            one.sendall(b"still there?")
            with pytest.raises(TimeoutError):
                other.recv(16)


FIGURE_3 = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: Sg-A
    rules:
      - {id: A01, direction: ingress, protocol: tcp, multiport: "22", remote_ip_prefix: 172.16.0.0/24}
      - {id: A02, direction: ingress, remote_group_id: Sg-A}
      - {id: out, direction: egress}
  - id: Sg-B
    rules:
      - {id: B01, direction: ingress, protocol: tcp, multiport: "22", remote_group_id: Sg-A}
      - {id: B02, direction: ingress, remote_group_id: Sg-B}
      - {id: out, direction: egress}
      EXTRA
instances:
  - id: a
    ports:
      - {id: a1, interface: tapa1, vpc_id: v, private_ips: [192.168.0.11], security_groups: [Sg-A], mac_address: "fa:16:3e:00:0a:01", allowed_address_pairs: PAIRS}
      - {id: a2, interface: tapa2, vpc_id: v, private_ips: [192.168.0.12], security_groups: [Sg-A], mac_address: "fa:16:3e:00:0a:02", allowed_address_pairs: PAIRS}
  - id: b
    ports:
      - {id: b1, interface: tapb1, vpc_id: v, private_ips: [192.168.1.11], security_groups: [Sg-B]}
"""
VIP = "192.168.0.21"
SUBNETS = {"tapa1": ["192.168.0.11"], "tapa2": ["192.168.0.12"], "tapb1": ["192.168.1.11"]}
MACS = {"tapa1": "fa:16:3e:00:0a:01", "tapa2": "fa:16:3e:00:0a:02"}


def figure(extra: str = "", pairs: str = "[]") -> str:
    return FIGURE_3.replace("EXTRA", extra).replace("PAIRS", pairs)


def tcp(source: Namespace, from_: str, destination: Namespace, to: str, dport: int) -> Probe:
    return Probe(
        source=source,
        source_address=ip_address(from_),
        destination=destination,
        destination_address=ip_address(to),
        protocol=TCP,
        dport=dport,
    )


def test_figure_3_group_peers_between_two_subnets(tmp_path: Path) -> None:
    with agent_with(tmp_path, SUBNETS, MACS) as agent:
        agent.give(figure())
        agent.start()
        a1, a2, b1 = (agent.lab.ports[name].namespace for name in SUBNETS)
        office = agent.lab.outside_address("172.16.0.9")
        probes = {
            "office to A, SSH": (tcp(office, "172.16.0.9", a1, "192.168.0.11", 22), True),
            "office to B, SSH": (tcp(office, "172.16.0.9", b1, "192.168.1.11", 22), False),
            "A to A, any": (tcp(a1, "192.168.0.11", a2, "192.168.0.12", 4000), True),
            "A to B, SSH": (tcp(a1, "192.168.0.11", b1, "192.168.1.11", 22), True),
            "A to B, web": (tcp(a1, "192.168.0.11", b1, "192.168.1.11", 80), False),
            "B to A, SSH": (tcp(b1, "192.168.1.11", a1, "192.168.0.11", 22), False),
        }
        seen = run_probes([probe for probe, _ in probes.values()])
    assert {name: one.connected for name, one in zip(probes, seen, strict=True)} == {
        name: wanted for name, (_, wanted) in probes.items()
    }


def with_address(lab: Lab, interface: str, address: str) -> Namespace:
    """Give an instance a further address, as Keepalived does, and have the host route it there."""
    port = lab.ports[interface]
    port.namespace.run(["ip", "address", "add", f"{address}/32", "dev", "lo"])
    lab.hv.run(["ip", "route", "replace", f"{address}/32", "dev", interface])
    return port.namespace


def test_figure_4_a_virtual_ip_is_no_member_and_is_admitted_by_its_prefix(tmp_path: Path) -> None:
    pairs = f"[{{ip_address: {VIP}}}]"
    admitted = f"- {{id: vip, direction: ingress, remote_ip_prefix: {VIP}/32}}"
    with agent_with(tmp_path, SUBNETS, MACS) as agent:
        agent.give(figure(pairs=pairs))
        agent.start()
        b1 = agent.lab.ports["tapb1"].namespace

        def reaches(interface: str) -> bool:
            holder = agent.lab.ports[interface].namespace
            (seen,) = run_probes([tcp(holder, VIP, b1, "192.168.1.11", 22)])
            return seen.connected

        with_address(agent.lab, "tapa1", VIP)
        assert not reaches("tapa1"), "the group peer does not admit it"
        before = agent.status()["revision"]
        agent.give(figure(admitted, pairs))
        await_that(lambda: agent.status()["revision"] != before)
        assert reaches("tapa1")
        # Keepalived moves it to the other one.
        agent.lab.ports["tapa1"].namespace.run(["ip", "address", "del", f"{VIP}/32", "dev", "lo"])
        with_address(agent.lab, "tapa2", VIP)
        assert reaches("tapa2")
        agent.give(figure(admitted))
        await_that(lambda: not reaches("tapa2"))


def test_what_an_instance_forwards_is_not_admitted_as_the_instances_own(tmp_path: Path) -> None:
    """An intermediate instance passes packets on with their own source: it must be allowed as such."""
    beyond = "10.99.0.9"
    forwarding = "[{ip_address: 10.99.0.0/24}]"
    by_prefix = "- {id: beyond, direction: ingress, remote_ip_prefix: 10.99.0.0/24}"
    with agent_with(tmp_path, SUBNETS, MACS) as agent:
        forwarder = with_address(agent.lab, "tapa1", beyond)
        b1 = agent.lab.ports["tapb1"].namespace

        def reaches() -> bool:
            (seen,) = run_probes([tcp(forwarder, beyond, b1, "192.168.1.11", 22)])
            return seen.connected

        agent.give(figure(by_prefix))
        agent.start()
        assert not reaches(), "the source check of the forwarder forbids it"
        agent.give(figure("", forwarding))
        await_that(lambda: agent.log.read_text().count(" applied ") >= 2)
        assert not reaches(), "a group peer does not mean what its members forward"
        agent.give(figure(by_prefix, forwarding))
        await_that(reaches)


FIGURE_5 = """
version: 1
vpcs: [{id: vpc-a}, {id: vpc-b}]
peerings: [PEERINGS]
security_groups:
  - id: Sg-A
    rules:
      - {id: in, direction: ingress, remote_group_id: Sg-B}
      - {id: out, direction: egress}
  - id: Sg-B
    rules:
      - {id: in, direction: ingress, remote_group_id: Sg-A}
      - {id: out, direction: egress}
instances:
  - id: i
    ports:
      - {id: a1, interface: tapa, vpc_id: vpc-a, private_ips: [192.168.0.11], security_groups: [Sg-A]}
      - {id: b1, interface: tapb, vpc_id: vpc-b, private_ips: [192.168.1.11], security_groups: [Sg-B]}
"""


@pytest.mark.parametrize("peered", [True, False])
def test_figure_5_group_peers_across_a_peering(tmp_path: Path, peered: bool) -> None:
    ports = {"tapa": ["192.168.0.11"], "tapb": ["192.168.1.11"]}
    peering = "{id: ab, vpc_ids: [vpc-a, vpc-b]}" if peered else ""
    with agent_with(tmp_path, ports) as agent:
        agent.give(FIGURE_5.replace("PEERINGS", peering))
        agent.start()
        a, b = (agent.lab.ports[name].namespace for name in ports)
        seen = run_probes(
            [
                tcp(a, "192.168.0.11", b, "192.168.1.11", 80),
                tcp(b, "192.168.1.11", a, "192.168.0.11", 80),
            ]
        )
    assert [one.connected for one in seen] == [peered, peered]


METADATA = "169.254.169.254"


@pytest.mark.parametrize("allowed", [True, False])
def test_metadata_is_an_address_like_any(tmp_path: Path, allowed: bool) -> None:
    document = figure().replace("{id: out, direction: egress}", "OUT", 1)
    network = f"{METADATA}/32" if allowed else "198.51.100.0/24"
    out = f"{{id: out, direction: egress, remote_ip_prefix: {network}}}"
    with agent_with(tmp_path, SUBNETS, MACS) as agent:
        agent.give(document.replace("OUT", out))
        agent.start()
        a1 = agent.lab.ports["tapa1"].namespace
        server = agent.lab.outside_address(METADATA)
        (seen,) = run_probes([tcp(a1, "192.168.0.11", server, METADATA, 80)])
    assert seen.connected is allowed
