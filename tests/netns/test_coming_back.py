"""An instance leaves for another host and comes back: its TCP connections go on, whoever notices it.

The other host is the namespace outside, so that its clients reach it there past this host, whose
kernel goes on tracking and sees nothing of it.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.netns.agents import CLIENT, SERVER, Agent, agent_on, await_that
from tests.netns.conversations import Conversation, Conversations, exchange, pour, settle

from secgroupd.core.model import TCP, UDP
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
      - {id: in4, direction: ingress, protocol: tcp, multiport: 5000-5001, remote_ip_prefix: 0.0.0.0/0}
      - {id: in6, direction: ingress, ethertype: IPv6, protocol: tcp, multiport: 5000-5001, remote_ip_prefix: "::/0"}
      - {id: out4, direction: egress}
      - {id: out6, direction: egress, ethertype: IPv6}
instances:
  - id: i
    ports:
      - {id: p1, IDENTITY, vpc_id: v, private_ips: [OWN], security_groups: [g]}
"""


def document(identity: str) -> str:
    return DOCUMENT.replace("IDENTITY", identity).replace("OWN", ", ".join(map(repr, OWN)))


def document_of_virtual_addresses(identity: str) -> str:
    pairs = ", ".join(f"{{ip_address: {address!r}}}" for address in OWN)
    others = f'10.98.0.1, "fd98::1"], allowed_address_pairs: [{pairs}'
    return DOCUMENT.replace("IDENTITY", identity).replace("OWN", others)


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


def come_back(lab: Lab, *, as_another: bool = True) -> None:
    """Move the link back here, where it is another one or, to the kernel, the same as before."""
    port = lab.ports["tap1"]
    if as_another:
        taken = ["taken", "index", str(port.index), "type", "veth"]
        lab.hv.run(["ip", "link", "add", *taken])
    lab.outside.run(["ip", "link", "set", "tap1", "netns", lab.hv.path])
    index = wiring.set_up(lab.hv, "tap1", port.host_mac, alias="p1")
    assert (index != port.index) is as_another
    wiring.be_gateway(lab.hv, index)
    wiring.await_up(lab.hv, index)
    wiring.await_up(port.namespace, port.guest_index)
    wiring.change_ways(lab.hv, dict.fromkeys(port.addresses, wiring.Way(index, port.mac)), {})


def inbound(lab: Lab, talk: Conversations, dport: int) -> list[Conversation]:
    """Connections to the instance, of either family."""
    here = lab.ports["tap1"].namespace
    return [
        talk.open(TCP, (lab.outside_address(client), client), (here, server), dport)
        for client, server in PAIRS
    ]


def outbound(lab: Lab, talk: Conversations, dport: int) -> list[Conversation]:
    """Connections of the instance's own, of either family."""
    here = lab.ports["tap1"].namespace
    return [
        talk.open(TCP, (here, server), (lab.outside_address(client), client), dport)
        for client, server in PAIRS
    ]


def go_on(flows: list[Conversation]) -> None:
    """Have each connection carry more than any window that this host has seen of it."""
    for one in flows:
        pour(one.client, one.server)
        pour(one.server, one.client)
    settle(flows)


def live(flows: list[Conversation]) -> bool:
    """Tell whether all are heard on both sides; the instance's speaks first to who called it."""
    names = {one.name for one in flows}
    return all(exchange(flows, who) == names for who in ("server", "client"))


@contextmanager
def away(
    agent: Agent, noticed: Callable[[], object], *, as_another: bool = True
) -> Iterator[list[Conversation]]:
    """Have the instance leave, go on elsewhere, and come back with its connections.

    Args:
        agent: on the host that it leaves; it enforces the document.
        noticed: what is done on the host, or waited for, while the instance is away.
        as_another: whether its link is another one when it comes back.
    """
    with Conversations() as talk:
        flows = [*inbound(agent.lab, talk, 5000), *outbound(agent.lab, talk, 6000)]
        settle(flows)
        leave(agent.lab)
        noticed()
        go_on(flows)
        flows += inbound(agent.lab, talk, 5001)
        settle(flows)
        come_back(agent.lab, as_another=as_another)
        yield flows


def apply(agent: Agent) -> int:
    return agent.ask("apply", str(agent.directory / "state.d"))


def nothing(*_: Agent) -> None:
    """Nobody is there to notice."""


IDENTITY = pytest.mark.parametrize("identity", ["interface: tap1", "host_id: hv1"])


@IDENTITY
def test_the_daemon_lets_the_connections_of_a_port_that_comes_back_go_on(
    agent: Agent, identity: str
) -> None:
    agent.give(document(identity))
    agent.start()

    def noticed() -> None:
        await_that(lambda: "no interface" in str(agent.status()["ports"]))

    with away(agent, noticed, as_another=False) as flows:
        await_that(lambda: live(flows))


@IDENTITY
@pytest.mark.parametrize("text", [document, document_of_virtual_addresses])
def test_a_port_that_left_and_came_back_while_no_agent_ran_goes_on(
    agent: Agent, identity: str, text: Callable[[str], str]
) -> None:
    agent.give(text(identity))
    agent.start()
    agent.stop()
    with away(agent, nothing) as flows:
        agent.start()
        await_that(lambda: live(flows))


@IDENTITY
def test_a_port_that_was_away_while_the_agent_was_restarted_goes_on(
    agent: Agent, identity: str
) -> None:
    """Its link has the index from before: only the record between says that it was away."""
    agent.give(document(identity))
    agent.start()
    agent.stop(signal.SIGKILL)

    def noticed() -> None:
        agent.start()
        await_that(lambda: "no interface" in str(agent.status()["ports"]))
        agent.stop(signal.SIGKILL)

    with away(agent, noticed, as_another=False) as flows:
        agent.start()
        await_that(lambda: live(flows))


@IDENTITY
def test_a_port_that_is_back_before_the_guard_runs_goes_on(agent: Agent, identity: str) -> None:
    agent.give(document(identity))
    agent.start()
    agent.stop()
    with away(agent, nothing) as flows:
        assert agent.ask("guard") == 0
        assert live(flows)
        before = agent.generation()
        agent.start()
        assert agent.generation() == before, "the daemon found something to write"


@IDENTITY
@pytest.mark.parametrize("noticed", [apply, nothing])
def test_apply_lets_the_connections_of_a_port_that_comes_back_go_on(
    agent: Agent, identity: str, noticed: Callable[[Agent], object]
) -> None:
    agent.give(document(identity))
    assert apply(agent) == 0
    with away(agent, lambda: noticed(agent)) as flows:
        assert apply(agent) == 0
        assert live(flows)


@pytest.mark.parametrize("meanwhile", [True, False], ids=["gone-meanwhile", "at-once"])
def test_who_gets_an_address_gets_no_answer_to_what_another_port_has_asked(
    agent: Agent, meanwhile: bool
) -> None:
    mine = document("interface: tap1")
    another = mine.replace("{id: p1,", "{id: p2,")
    here = agent.lab.ports["tap1"].namespace
    agent.give(mine)
    agent.start()
    with Conversations() as talk:
        asked = [
            talk.open(UDP, (here, server), (agent.lab.outside_address(client), client), 6000)
            for client, server in PAIRS
        ]
        if meanwhile:
            agent.give(mine.partition("instances:")[0])
            await_that(lambda: not exchange(asked, "server", expected=0))
        agent.give(another)
        await_that(lambda: "p2" in str(agent.status()["ports"]))
        await_that(lambda: not exchange(asked, "server", expected=0))
        assert exchange(asked, "server", expected=0) == set()
        assert exchange(asked, "client") == {one.name for one in asked}
        assert exchange(asked, "server") == {one.name for one in asked}
