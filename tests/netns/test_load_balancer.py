"""Load balancers with Transfer Client IP: what they forward reaches listeners' members, and nothing else."""

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from tests.awaiting import PATIENCE
from tests.netns.agents import Agent, agent_on, await_that

from secgroupd.cli import main
from secgroupd.core.document import Source, parse
from secgroupd.core.model import TCP, UDP, Direction
from secgroupd.core.policy import Policy
from secgroupd.core.verdict import Packet, decide
from secgroupd.proving import frames
from secgroupd.proving.namespaces import Lab, Wiring
from secgroupd.proving.packets import Probe, run_probes
from secgroupd.proving.wire import internet_checksum

pytestmark = pytest.mark.netns

MEMBER, OTHER = "tap1", "tap2"
OWN = {MEMBER: ("10.0.0.1", "fd00::1"), OTHER: ("10.0.0.2", "fd00::2")}
CLIENT = {4: "203.0.113.50", 6: "2001:db8::50"}
"""A client that is reached through the load balancer; another one comes directly."""
SECOND = {4: "203.0.113.51", 6: "2001:db8::51"}
"""A client that is reached through another load balancer, which leads to the same service."""
DIRECT = {4: "203.0.113.9", 6: "2001:db8::9"}
MAC = "fa:16:3e:00:00:99"

DOCUMENT = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: g
    rules:
      - {id: no, direction: ingress, action: deny, priority: 1}
      - {id: no6, direction: ingress, action: deny, priority: 1, ethertype: IPv6}
      - {id: RULE, direction: ingress, action: deny, priority: 2, protocol: tcp, multiport: "7"}
instances:
  - id: i
    ports:
      - {id: p1, interface: tap1, vpc_id: v, private_ips: [10.0.0.1, "fd00::1"], security_groups: [g]}
      - {id: p2, interface: tap2, vpc_id: v, private_ips: [10.0.0.2, "fd00::2"], security_groups: [g]}
load_balancers:
  - id: elb
    vpc_id: v
    forwards_through: {FORWARDS}
    listeners:
      - {id: tcp, protocol: TCP, protocol_port: 80, transfer_client_ip: TRANSFER,
         members: [{port_id: p1, protocol_port: 8080}]}
      - {id: udp, protocol: UDP, protocol_port: 53, transfer_client_ip: true,
         members: [{port_id: p1, protocol_port: 5353}]}
      - {id: plain, protocol: TCP, protocol_port: 81, members: [{port_id: p1, protocol_port: 8081}]}
"""

WAYS = {
    "interface": "interface: lb0",
    "mark": "fwmark: 4660",
    "MAC": f'mac_address: "{MAC}"',
}
MARKING = """
table {family} theirs {{
    chain marking {{ type filter hook prerouting priority -400; iifname "lb0" meta mark set 4660; }}
}}
"""
ANOTHER = """
  - id: another
    vpc_id: v
    forwards_through: {interface: lb1}
    listeners:
      - {id: tcp, protocol: TCP, protocol_port: 80, transfer_client_ip: true,
         members: [{port_id: p1, protocol_port: 8080}]}
"""


def document(way: str = "interface", *, transfer: bool = True, rule: str = "first") -> str:
    words = {"FORWARDS": WAYS[way], "TRANSFER": str(transfer).lower(), "RULE": rule}
    text = DOCUMENT
    for word, value in words.items():
        text = text.replace(word, value)
    return text


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Lab() as lab:
        lab.add_port(interface=OTHER, addresses=OWN[OTHER])
        lab.add_port(interface="lb0", addresses=[*CLIENT.values()], mac=MAC)
        lab.add_port(interface="lb1", addresses=[*SECOND.values()])
        if lab.wiring is Wiring.GATEWAY:
            for balancer in ("lb0", "lb1"):
                lab.unplug(balancer)
        on_bridge = lab.ports["lb0"].bridge is not None
        marking = MARKING.format(family="bridge" if on_bridge else "inet")
        lab.hv.run(["nft", "-f", "-"], stdin=marking)
        with agent_on(lab, tmp_path, OWN[MEMBER]) as made:
            yield made


QUESTIONS = [
    (balanced, version, port, protocol, dport)
    for balanced in (True, False)
    for version in (4, 6)
    for port in (MEMBER, OTHER)
    for protocol, dport in ((TCP, 8080), (TCP, 8081), (TCP, 80), (UDP, 5353), (UDP, 8080))
]


@pytest.mark.parametrize("way", WAYS)
def test_the_exemption_reaches_the_listeners_members_and_nothing_else(
    agent: Agent, way: str
) -> None:
    agent.give(document(way))
    agent.start()
    lab = agent.lab
    probes = [
        Probe(
            source=lab.ports["lb0"].namespace if balanced else lab.outside_address(DIRECT[version]),
            source_address=ip_address((CLIENT if balanced else DIRECT)[version]),
            destination=lab.ports[port].namespace,
            destination_address=ip_address(OWN[port][version == 6]),
            protocol=protocol,
            dport=dport,
        )
        for balanced, version, port, protocol, dport in QUESTIONS
    ]
    policy = Policy(parse([Source("s.yaml", document(way))]).state)
    for question, seen in zip(QUESTIONS, run_probes(probes), strict=True):
        balanced, version, port, protocol, dport = question
        packet = Packet(
            peer=ip_address((CLIENT if balanced else DIRECT)[version]),
            protocol=protocol,
            dport=dport,
            through="elb" if balanced else None,
        )
        wanted = decide(
            policy, policy.ports["p1" if port == MEMBER else "p2"], Direction.INGRESS, packet
        )
        assert seen.connected == wanted.allowed, question
        exempt = balanced and port == MEMBER and (protocol, dport) in {(TCP, 8080), (UDP, 5353)}
        assert wanted.allowed == exempt, question


class Conversation:
    """A TCP connection from a client behind a load balancer, and its two ends."""

    def __init__(self, agent: Agent, version: int, balancer: str, client: str) -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        own = OWN[MEMBER][version == 6]
        with agent.lab.ports[MEMBER].namespace.enter():
            listening = socket.create_server((own, 8080), family=family)
        with listening:
            with agent.lab.ports[balancer].namespace.enter():
                self.client = socket.create_connection(
                    (own, 8080), timeout=10, source_address=(client, 0)
                )
            self.server, _ = listening.accept()
        for end in (self.client, self.server):
            end.settimeout(3)

    def close(self) -> None:
        self.client.close()
        self.server.close()

    def passes(self, *, server_first: bool) -> bool:
        """Tell whether a word gets through, said by either end first."""
        one, other = (self.server, self.client) if server_first else (self.client, self.server)
        try:
            one.sendall(b"word")
            return other.recv(64).endswith(b"word")
        except TimeoutError:
            return False


@contextmanager
def conversation(
    agent: Agent, version: int, balancer: str = "lb0", clients: Mapping[int, str] = CLIENT
) -> Iterator[Conversation]:
    made = Conversation(agent, version, balancer, clients[version])
    try:
        yield made
    finally:
        made.close()


def change(agent: Agent, text: str) -> None:
    before = agent.status()["generation"]
    agent.give(text)
    await_that(lambda: agent.status()["generation"] != before)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("server_first", [False, True])
def test_its_connections_outlive_a_change_that_clears_and_end_with_the_listener(
    agent: Agent, version: int, server_first: bool
) -> None:
    agent.give(document())
    agent.start()
    with conversation(agent, version) as one:
        assert one.passes(server_first=server_first)
        change(agent, document(rule="second"))
        assert one.passes(server_first=server_first), "it is exempt still"
        assert one.passes(server_first=not server_first)
        change(agent, document(rule="second", transfer=False))
        assert not one.passes(server_first=server_first), "the rules deny it"
    assert 'scenario="listener-removed"' in agent.scrape()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("server_first", [False, True])
def test_of_two_that_lead_to_one_port_each_takes_its_own_connections_with_it(
    agent: Agent, version: int, server_first: bool
) -> None:
    agent.give(document() + ANOTHER)
    agent.start()
    with conversation(agent, version) as one, conversation(agent, version, "lb1", SECOND) as other:
        assert one.passes(server_first=server_first) and other.passes(server_first=server_first)
        change(agent, document(transfer=False) + ANOTHER)
        assert not one.passes(server_first=server_first), "what brought it is gone"
        assert other.passes(server_first=server_first)
        assert other.passes(server_first=not server_first)
        change(agent, document(rule="second"))
        assert not other.passes(server_first=server_first)


def test_a_member_speaks_as_no_router_about_its_connections_either(agent: Agent) -> None:
    """An error about a connection passes with it; a redirect never does."""
    agent.give(document())
    agent.start()
    client, member = agent.lab.ports["lb0"], agent.lab.ports[MEMBER]
    far, own = IPv4Address(CLIENT[4]), IPv4Address(OWN[MEMBER][0])
    with (
        client.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking,
        member.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering,
        member.namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as out,
        client.namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear,
    ):
        ear.settimeout(PATIENCE)
        asking.bind((str(far), 4000))
        answering.bind((str(own), 5353))
        answering.settimeout(PATIENCE)
        asking.sendto(b"asked", (str(own), 5353))
        assert answering.recv(64) == b"asked"
        redirect, unreachable, answer = (frames.nonce() for _ in range(3))
        for kind, mark in ((5, redirect), (3, unreachable)):
            error = struct.pack("!BBH4x", kind, 1, 0) + frames.udp(far, own, 4000, 5353, mark)
            checksum = struct.pack("!H", internet_checksum(error))
            out.sendto(error[:2] + checksum + error[4:], (str(far), 0))
        answering.sendto(answer, (str(far), 4000))
        heard = b""
        while answer not in heard:
            heard += ear.recv(65536)
    assert unreachable in heard
    assert redirect not in heard


def test_explain_says_so(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.give(document())
    ends = ["--from", CLIENT[4], "--to", "p1", "--protocol", "tcp", "--dport", "8080"]
    path = str(agent.directory / "state.d")
    assert main(["explain", path, *ends, "--json", "--through", "elb"]) == 0
    assert json.loads(capsys.readouterr().out)["ingress"]["reason"] == "load-balancer"
    assert main(["explain", path, *ends, "--json"]) == 3
    assert main(["explain", path, *ends, "--through", "eln"]) == 1
    assert "did you mean elb?" in capsys.readouterr().err
