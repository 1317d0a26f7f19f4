"""What is denied, followed live: whose, which way, by which rule."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from tests.netns.agents import Agent, agent_on, await_that

from secgroupd.core.model import ICMP, ICMPV6, TCP, UDP
from secgroupd.core.nflog import LOGGED_AT_ONCE
from secgroupd.dataplane.nflog import PacketLog
from secgroupd.proving import frames
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.packets import Probe, probe

pytestmark = pytest.mark.netns

FAR = {4: "203.0.113.9", 6: "2001:db8::9"}
OWN = {4: "10.0.0.1", 6: "fd00::1"}
MAC = "fa:16:3e:00:00:01"

DOCUMENT = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: g
    rules:
      - {id: no-telnet, direction: ingress, action: deny, priority: 1, protocol: tcp, multiport: "23", remote_ip_prefix: 0.0.0.0/0}
      - {id: any-tcp, direction: ingress, protocol: tcp, remote_ip_prefix: 0.0.0.0/0}
      - {id: no-dns, direction: egress, action: deny, priority: 1, protocol: udp, multiport: "53", remote_ip_prefix: 0.0.0.0/0}
      - {id: out-udp, direction: egress, protocol: udp, remote_ip_prefix: 0.0.0.0/0}
      - {id: no-ping, direction: ingress, action: deny, priority: 1, ethertype: IPv6, protocol: icmpv6}
instances:
  - id: i
    ports:
      - {id: p1, interface: tap1, vpc_id: v, private_ips: [10.0.0.1, "fd00::1"], mac_address: "fa:16:3e:00:00:01", security_groups: [g]}
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Lab() as lab:
        lab.add_port(interface="tap2", addresses=["10.0.0.2"])
        with agent_on(lab, tmp_path, [*OWN.values()]) as made:
            made.give(DOCUMENT)
            yield made


class Following:
    """``secgroupctl drops --json``, and what it has printed."""

    def __init__(self, agent: Agent, *arguments: str) -> None:
        command = [sys.executable, "-m", "secgroupd.cli", "--config", str(agent.config), "drops"]
        self.process = subprocess.Popen(
            [*command, "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
        self.lines: list[dict[str, Any]] = []
        assert self.process.stderr
        assert "following" in self.process.stderr.readline()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(json.loads(line) for line in self.process.stdout)

    def at(self, port_id: str | None) -> list[dict[str, Any]]:
        """What was denied at a port; the other interface is never quite silent."""
        return [line for line in self.lines if line["port"] == port_id]

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(10)
        self.thread.join(10)
        return code


@contextmanager
def following(agent: Agent, *arguments: str) -> Iterator[Following]:
    made = Following(agent, *arguments)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        made.thread.join(10)
        for stream in (made.process.stdout, made.process.stderr):
            if stream:
                stream.close()


def send(
    agent: Agent, *, inward: bool, protocol: int, dport: int, version: int = 4, port: str = "tap1"
) -> None:
    """Have somebody send the first packet of a connection, to a port or from it."""
    far, own = FAR[version], OWN[version]
    outside, inside = agent.lab.outside_address(far), agent.lab.ports[port].namespace
    ends = [(outside, far), (inside, own)] if inward else [(inside, own), (outside, far)]
    (source, source_address), (destination, destination_address) = ends
    flow = Probe(
        source=source,
        source_address=ip_address(source_address),
        destination=destination,
        destination_address=ip_address(destination_address),
        protocol=protocol,
        dport=dport or None,
    )
    assert not probe(flow).delivered


IN_ANOTHER_VPC = """
      - {id: p2, interface: tap2, vpc_id: w, private_ips: [10.0.0.2], security_groups: [g]}
"""


def test_what_ends_between_vpcs_is_told_as_such(agent: Agent) -> None:
    agent.give(DOCUMENT.replace("{id: v}", "{id: v}, {id: w}") + IN_ANOTHER_VPC.lstrip("\n"))
    agent.start()
    one, other = (agent.lab.ports[name].namespace for name in ("tap1", "tap2"))
    flow = Probe(
        source=one,
        source_address=ip_address(OWN[4]),
        destination=other,
        destination_address=ip_address("10.0.0.2"),
        protocol=UDP,
        dport=9999,
    )
    with following(agent) as seen:
        assert not probe(flow).delivered
        await_that(lambda: seen.at("p2"))
        assert seen.end() == 0
    drop = seen.at("p2")[0]
    assert (drop["reason"], drop["direction"]) == ("vpc-not-peered", "ingress")
    assert (drop["security_group"], drop["rule"]) == (None, None)


RULE = ("rule", "g")
DENIED = {
    "a rule, inbound": (True, TCP, 23, 4, (*RULE, "no-telnet")),
    "no rule, inbound": (True, UDP, 99, 4, ("default-deny", None, None)),
    "no rule, inbound, IPv6": (True, TCP, 80, 6, ("default-deny", None, None)),
    "a rule, ICMPv6": (True, ICMPV6, 0, 6, (*RULE, "no-ping")),
    "a rule, outbound": (False, UDP, 53, 4, (*RULE, "no-dns")),
    "no rule, outbound": (False, TCP, 80, 4, ("default-deny", None, None)),
    "no rule, outbound, IPv6": (False, UDP, 80, 6, ("default-deny", None, None)),
    "no rule, ICMP": (False, ICMP, 0, 4, ("default-deny", None, None)),
}


@pytest.mark.parametrize("kind", DENIED)
def test_what_is_denied_is_told_with_its_rule(agent: Agent, kind: str) -> None:
    inward, protocol, dport, version, decided = DENIED[kind]
    agent.start()
    with following(agent) as seen:
        send(agent, inward=inward, protocol=protocol, dport=dport, version=version)
        await_that(lambda: seen.at("p1"))
        assert seen.end() == 0
    drop = seen.at("p1")[0]
    assert (drop["reason"], drop["security_group"], drop["rule"]) == decided
    assert (drop["port"], drop["interface"]) == ("p1", "tap1")
    assert drop["direction"] == ("ingress" if inward else "egress")
    ends = (FAR[version], OWN[version]) if inward else (OWN[version], FAR[version])
    assert (drop["source"], drop["destination"]) == ends
    names = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmpv6"}
    assert drop["protocol"] == names[protocol]
    assert drop["dport"] == (dport or None)
    assert drop["icmp_type"] == {ICMP: 8, ICMPV6: 128}.get(protocol)


def test_spoofs_closed_interfaces_and_strays_of_tcp_are_told(agent: Agent) -> None:
    agent.start()
    tap1 = agent.lab.ports["tap1"].namespace
    host = f"fe{MAC[2:]}"
    with following(agent) as seen:
        spoof = frames.udp(ip_address("10.9.9.9"), ip_address(FAR[4]), 4000, 4000, b"x")
        frames.send(tap1, [frames.ethernet(MAC, host, frames.IPV4, spoof)])
        await_that(lambda: len(seen.at("p1")) >= 1)
        message = frames.arp((MAC, "10.9.9.9"), ("00:00:00:00:00:00", "10.0.0.9"), b"")
        frames.send(tap1, [frames.ethernet(MAC, frames.BROADCAST, frames.ARP, message)])
        await_that(lambda: len(seen.at("p1")) >= 2)
        tap2 = agent.lab.ports["tap2"]
        flow = Probe(
            source=agent.lab.outside_address(FAR[4]),
            source_address=ip_address(FAR[4]),
            destination=tap2.namespace,
            destination_address=ip_address("10.0.0.2"),
            protocol=TCP,
            dport=80,
        )
        assert not probe(flow).delivered
        await_that(lambda: FAR[4] in [line["source"] for line in seen.at(None)])
    spoofed, resolved = seen.at("p1")[:2]
    closed = next(line for line in seen.at(None) if line["source"] == FAR[4])
    assert (spoofed["reason"], spoofed["port"], spoofed["source"]) == (
        "source-check",
        "p1",
        "10.9.9.9",
    )
    assert (resolved["reason"], resolved["port"], resolved["protocol"]) == (
        "source-check",
        "p1",
        "arp",
    )
    assert (closed["reason"], closed["port"], closed["interface"]) == ("closed", None, "tap2")
    assert closed["direction"] == "ingress"


def test_a_cut_connection_is_laid_at_the_rule_that_cuts_it(agent: Agent) -> None:
    agent.start()
    server, client = agent.lab.ports["tap1"].namespace, agent.lab.outside_address(FAR[4])
    with server.enter():
        listening = socket.create_server((OWN[4], 80))
    with client.enter():
        here = socket.create_connection((OWN[4], 80), source_address=(FAR[4], 0), timeout=5)
    there, _ = listening.accept()
    with following(agent) as seen, listening, here, there:
        agent.give(DOCUMENT.replace('"23"', '"23,80"'))
        await_that(lambda: agent.log.read_text().count(" applied ") >= 3)
        there.sendall(b"from the server")
        await_that(lambda: seen.at("p1"))
        here.sendall(b"from the client")
        await_that(lambda: {line["source"] for line in seen.at("p1")} == {OWN[4], FAR[4]})
    decided = {(line["source"], line["reason"], line["rule"]) for line in seen.at("p1")}
    # What the server says after its connection has been deleted, belongs to none.
    assert decided - {(OWN[4], "no-connection", None)} <= {
        (FAR[4], "rule", "no-telnet"),
        (OWN[4], "rule", "no-telnet"),
    }


def test_the_data_path_logs_only_while_somebody_follows(agent: Agent) -> None:
    agent.start()

    def logs() -> int:
        shown = agent.lab.hv.run(["nft", "list", "ruleset"]).stdout
        return shown.count(" log prefix ")

    assert logs() == 0
    with following(agent) as one, following(agent):
        assert logs() > 3
        one.end()
        assert logs() > 3
    await_that(lambda: logs() == 0)
    assert agent.metric("drift_repairs_total") == 0
    with following(agent) as again:
        send(agent, inward=True, protocol=TCP, dport=23)
        await_that(lambda: again.lines)


def test_a_flood_is_limited_and_hides_no_other_port(agent: Agent) -> None:
    agent.start()
    with following(agent) as seen:
        client = agent.lab.outside_address(FAR[4])
        with client.enter(), socket.socket(type=socket.SOCK_DGRAM) as flood:
            flood.bind((FAR[4], 0))
            for _ in range(20_000):
                flood.sendto(b"?", (OWN[4], 99))
        await_that(lambda: seen.lines)
        send(agent, inward=False, protocol=UDP, dport=53)
        assert len(seen.lines) < 10 * LOGGED_AT_ONCE
    assert agent.metric('port_packets_total{direction="ingress",port="p1",verdict="deny"}') > 19_000


def test_one_port_and_so_many_are_enough(agent: Agent) -> None:
    agent.start()
    with following(agent, "--port", "p1", "--count", "2") as seen:
        for dport in (23, 99):
            send(agent, inward=True, protocol=UDP, dport=dport)
        assert seen.process.wait(10) == 0
        seen.thread.join(10)
    assert [line["dport"] for line in seen.lines] == [23, 99]


def test_who_follows_is_told_when_the_agent_ends(agent: Agent) -> None:
    agent.start()
    with following(agent) as seen:
        assert agent.stop() == 0
        assert seen.process.wait(10) == 1
        assert seen.process.stderr and "has ended" in seen.process.stderr.read()


def test_packets_can_go_to_another_program_for_good(agent: Agent) -> None:
    agent.configure(nflog={"denied_group": 7, "accepted_group": 8})
    agent.start()
    with agent.lab.hv.enter(), PacketLog(7) as denied, PacketLog(8) as accepted:
        send(agent, inward=True, protocol=TCP, dport=23)
        flow = Probe(
            source=agent.lab.outside_address(FAR[4]),
            source_address=ip_address(FAR[4]),
            destination=agent.lab.ports["tap1"].namespace,
            destination_address=ip_address(OWN[4]),
            protocol=TCP,
            dport=80,
        )
        assert probe(flow).delivered
        chains: list[str] = []

        def both() -> bool:
            for log in (denied, accepted):
                chains.extend(one.chain for one in log.packets())
            return {"deny_in", "ok_in"} <= set(chains)

        await_that(both)
    assert chains.count("ok_in") == 1, "only the first packet of a connection"
