"""An instance leaves for another host and comes back: its TCP connections go on, whoever notices it.

The other host is the namespace outside, so that its clients reach it there past this host, whose
kernel goes on tracking and sees nothing of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.netns.agents import CLIENT, SERVER, Agent, agent_on, await_that
from tests.netns.conversations import Conversation, Conversations, exchange, pour, settle

from secgroupd.cli import main
from secgroupd.core.model import TCP
from secgroupd.proving import wiring
from secgroupd.proving.namespaces import Lab, Wiring

pytestmark = pytest.mark.netns

PAIRS = ((CLIENT, SERVER), ("2001:db8:f::9", "2001:db8::1"))
OWN = [server for _, server in PAIRS]

DOCUMENT = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: g
    rules:
      - {id: in4, direction: ingress, protocol: tcp, multiport: 5000, remote_ip_prefix: 0.0.0.0/0}
      - {id: in6, direction: ingress, ethertype: IPv6, protocol: tcp, multiport: 5000, remote_ip_prefix: "::/0"}
      - {id: out4, direction: egress}
      - {id: out6, direction: egress, ethertype: IPv6}
instances:
  - id: i
    ports:
      - {id: p1, IDENTITY, vpc_id: v, private_ips: [OWN], security_groups: [g]}
"""


def document(identity: str) -> str:
    return DOCUMENT.replace("IDENTITY", identity).replace("OWN", ", ".join(map(repr, OWN)))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Lab(wired=Wiring.ROUTED) as lab, agent_on(lab, tmp_path, OWN) as made:
        made.configure(host_id="hv1", adoption_grace=60)
        yield made


def leave(lab: Lab) -> None:
    """Move the port's link to the other host, and lead there what is for its instance."""
    port, there = lab.ports["tap1"], lab.outside
    lab.hv.run(["ip", "link", "set", "tap1", "netns", there.path])
    index = wiring.set_up(there, "tap1", port.host_mac)
    wiring.await_up(there, index)
    wiring.await_up(port.namespace, port.guest_index)
    way = wiring.Way(index, port.mac)
    wiring.change_ways(there, dict.fromkeys(port.addresses, way), {})


def come_back(lab: Lab) -> None:
    """Move the link back here."""
    port = lab.ports["tap1"]
    lab.outside.run(["ip", "link", "set", "tap1", "netns", lab.hv.path])
    index = wiring.set_up(lab.hv, "tap1", port.host_mac, alias="p1")
    wiring.be_gateway(lab.hv, index)
    wiring.await_up(lab.hv, index)
    wiring.await_up(port.namespace, port.guest_index)
    wiring.change_ways(lab.hv, dict.fromkeys(port.addresses, wiring.Way(index, port.mac)), {})


@contextmanager
def connections(lab: Lab) -> Iterator[list[Conversation]]:
    """Connections of the instance: of either family, to it and from it."""
    here = lab.ports["tap1"].namespace
    with Conversations() as talk:
        made = []
        for client, server in PAIRS:
            far = lab.outside_address(client), client
            made.append(talk.open(TCP, far, (here, server), 5000))
            made.append(talk.open(TCP, (here, server), far, 6000))
        settle(made)
        yield made


def go_on(flows: list[Conversation]) -> None:
    """Have each connection carry more than any window that this host has seen of it."""
    for one in flows:
        pour(one.client, one.server)
        pour(one.server, one.client)
    settle(flows)


def live(flows: list[Conversation]) -> bool:
    names = {one.name for one in flows}
    return all(exchange(flows, who) == names for who in ("server", "client"))


def test_the_daemon_lets_the_connections_of_a_port_that_comes_back_go_on(agent: Agent) -> None:
    agent.give(document("host_id: hv1"))
    agent.start()
    with connections(agent.lab) as flows:
        leave(agent.lab)
        await_that(lambda: "no interface" in str(agent.status()["ports"]))
        go_on(flows)
        come_back(agent.lab)
        await_that(lambda: live(flows))


def test_apply_lets_the_connections_of_a_port_that_comes_back_go_on(agent: Agent) -> None:
    agent.give(document("host_id: hv1"))

    def apply() -> int:
        with agent.lab.hv.enter():
            documents = str(agent.directory / "state.d")
            return main(["--config", str(agent.config), "apply", documents])

    assert apply() == 0
    with connections(agent.lab) as flows:
        leave(agent.lab)
        assert apply() == 0
        go_on(flows)
        come_back(agent.lab)
        assert apply() == 0
        assert live(flows)
