"""``trace``: a packet's way through the tables."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from tests.netns.agents import Agent, agent_on, await_that
from tests.netns.test_drops import DOCUMENT, FAR, MAC, OWN

from secgroupd.core.model import ICMPV6, TCP, UDP
from secgroupd.proving import frames
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.packets import Probe, probe

pytestmark = pytest.mark.netns


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Lab() as lab, agent_on(lab, tmp_path, [*OWN.values()]) as made:
        made.give(DOCUMENT)
        made.start()
        yield made


class Traced:
    """``secgroupctl trace --json``."""

    def __init__(self, agent: Agent, *arguments: str) -> None:
        command = [sys.executable, "-m", "secgroupd.cli", "--config", str(agent.config), "trace"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        self.process = agent.lab.hv.popen(
            [*command, "--wait", "15", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        assert self.process.stderr
        first = self.process.stderr.readline()
        assert b"waiting" in first, first

    def end(self) -> tuple[int, str]:
        said, complained = self.process.communicate(timeout=20)
        assert not complained, complained
        return self.process.returncode, said.decode()


def send(agent: Agent, *, inward: bool, protocol: int, dport: int | None, version: int = 4) -> bool:
    outside, inside = agent.lab.outside_address(FAR[version]), agent.lab.ports["tap1"].namespace
    ends = [(outside, FAR[version]), (inside, OWN[version])]
    (source, from_), (destination, to) = ends if inward else ends[::-1]
    flow = Probe(
        source=source,
        source_address=ip_address(from_),
        destination=destination,
        destination_address=ip_address(to),
        protocol=protocol,
        dport=dport,
    )
    return probe(flow).delivered


WAYS = {
    "denied inbound": (True, TCP, 23, 4, "no-telnet"),
    "denied inbound by none": (True, UDP, 99, 4, None),
    "denied inbound, IPv6": (True, ICMPV6, None, 6, "no-ping"),
    "denied outbound": (False, UDP, 53, 4, "no-dns"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_dropped_packets_way_is_shown_to_its_end(agent: Agent, way: str) -> None:
    inward, protocol, dport, version, rule = WAYS[way]
    ends = (FAR[version], "p1") if inward else ("p1", FAR[version])
    traced = Traced(
        agent, "--json", "--from", ends[0], "--to", ends[1], "--protocol", str(protocol)
    )
    assert not send(agent, inward=inward, protocol=protocol, dport=dport, version=version)
    code, said = traced.end()
    found: dict[str, Any] = json.loads(said)
    assert (code, found["end"]) == (3, "dropped")
    assert (found["drop"]["rule"], found["drop"]["port"]) == (rule, "p1")
    chains = [step["chain"] for step in found["steps"]]
    assert chains[-1] == ("deny_in" if inward else "deny_out")
    base = "to_port" if inward else "from_port"
    assert base in chains
    assert any("security groups g" in step["meaning"] for step in found["steps"])
    odd = [step for step in found["steps"] if "not the document" in step["rule"]]
    assert not odd, odd
    assert found["steps"][-1]["verdict"] == "drop"


def test_a_packet_that_passes_and_by_which_rule(agent: Agent) -> None:
    traced = Traced(agent, "--from", FAR[4], "--to", "p1", "--protocol", "tcp", "--dport", "80")
    assert send(agent, inward=True, protocol=TCP, dport=80)
    code, said = traced.end()
    assert code == 0 and "PASSED" in said
    assert "allow by rule any-tcp of group g" in said
    assert re.search(r"(inet|bridge) c_\w+: rule any-tcp of group g$", said, re.MULTILINE)
    assert max(map(len, said.splitlines())) <= 80
    agent_tables = agent.lab.hv.run(["nft", "list", "tables"]).stdout
    assert "trace" not in agent_tables


def test_a_spoof_is_shown_with_the_source_check(agent: Agent) -> None:
    traced = Traced(agent, "--json", "--from", "10.9.9.9", "--to", FAR[4])
    spoof = frames.udp(ip_address("10.9.9.9"), ip_address(FAR[4]), 4000, 4000, b"x")
    frames.send(
        agent.lab.ports["tap1"].namespace,
        [frames.ethernet(MAC, f"fe{MAC[2:]}", frames.IPV4, spoof)],
    )
    code, said = traced.end()
    found = json.loads(said)
    assert code == 3 and found["drop"]["reason"] == "source-check"
    assert found["steps"][-1]["meaning"] == "not the port's to send"


def test_an_interface_that_its_port_has_left_is_shown_as_closed(agent: Agent) -> None:
    before = agent.status()["generation"]
    agent.give(DOCUMENT.replace("interface: tap1", "host_id: elsewhere"))
    await_that(lambda: agent.status()["generation"] != before)
    traced = Traced(agent, "--json", "--from", "p1", "--to", FAR[4])
    assert not send(agent, inward=False, protocol=UDP, dport=99)
    code, said = traced.end()
    found = json.loads(said)
    assert code == 3 and found["steps"][-1]["chain"] == "closed"
    assert not [step for step in found["steps"] if "not the document" in step["rule"]]


def test_nothing_is_left_by_one_that_is_killed(agent: Agent) -> None:
    traced = Traced(agent, "--from", FAR[4], "--to", "p1")
    assert "secgroupd_trace" in agent.lab.hv.run(["nft", "list", "tables"]).stdout
    traced.process.kill()
    traced.process.communicate()
    await_that(lambda: "trace" not in agent.lab.hv.run(["nft", "list", "tables"]).stdout)
    assert agent.metric("drift_events_total") == 0
