"""The daemon is killed at any moment, and another version's table is in its place at the start."""

import os
import re
import signal
import time
from pathlib import Path
from random import Random

import pytest
from tests.netns.agents import CLIENT, PATIENCE, SERVER, Agent, await_that
from tests.netns.streams import Stream, may_be_missed

from secgroupd.suspicion import TIMES

pytestmark = pytest.mark.netns

FATAL = Path(__file__).parent.parent / "faults" / "fatal"
KILLS = 100

DOCUMENT = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: g
    rules:
      - {id: always, direction: ingress, protocol: udp, multiport: "1000", remote_ip_prefix: 0.0.0.0/0}
      - {id: now, direction: ingress, protocol: udp, multiport: "PORTS", remote_ip_prefix: 0.0.0.0/0}
      - {id: out, direction: egress}
  - id: h
    rules: [{id: no, direction: ingress, action: deny, protocol: tcp, multiport: "PORTS"}]
instances:
  - id: i
    ports:
      - {id: p1, interface: tap1, vpc_id: v, private_ips: [10.0.0.1], security_groups: [GROUPS]}
"""


def document(turn: int) -> str:
    """Different in every turn, and in how many chains it takes; UDP 1000 passes, 1001 never."""
    groups = "g, h" if turn % 3 else "g"
    return DOCUMENT.replace("PORTS", f"{2000 + turn}").replace("GROUPS", groups)


def test_killed_a_hundred_times_it_loses_no_packet_and_leaks_none(agent: Agent) -> None:
    random = Random(41)
    agent.give(document(0))
    began = time.monotonic()
    agent.start()
    usual = time.monotonic() - began
    denied = Stream(agent.lab, CLIENT, "tap1", SERVER, 1001)
    allowed = Stream(agent.lab, CLIENT, "tap1", SERVER, 1000)
    with allowed, denied:
        for turn in range(1, KILLS + 1):
            assert agent.stop(signal.SIGKILL) == -signal.SIGKILL
            agent.give(document(turn))
            agent.launch()
            # At any point of its start, its cycle, and a while after.
            time.sleep(random.uniform(0, 1.2 * usual))
        agent.stop(signal.SIGKILL)
        agent.start()
        await_that(lambda: agent.passes(2000 + KILLS))
        lost = allowed.lost()
        leaked = denied.received()
    assert not leaked and allowed.sent > 1000 and denied.sent > 1000
    assert len(lost) <= may_be_missed(), f"of {allowed.sent}: {lost[:20]}"
    assert not agent.passes(2000 + KILLS - 1)
    assert agent.status()["healthy"] and "record-lost" not in agent.log.read_text()
    before = agent.generation()
    agent.stop()
    agent.start()
    assert agent.generation() == before


def test_a_document_that_ends_it_is_left_alone_after_a_few_times(agent: Agent) -> None:
    agent.give(document(0))
    agent.start()
    agent.stop()
    poison = agent.directory / "poison"
    path = os.pathsep.join(filter(None, (str(FATAL), os.environ.get("PYTHONPATH", ""))))
    agent.environment = {"PYTHONPATH": path, "SECGROUPD_POISON": str(poison)}
    poison.touch()
    agent.give(document(1))
    for _ in range(TIMES):
        agent.launch()
        assert agent.process and agent.process.wait(PATIENCE) == -signal.SIGSEGV
        assert (agent.passes(2000), agent.passes(2001)) == (True, False)
    agent.start()
    problems = agent.status()["problems"]
    assert isinstance(problems, list)
    (problem,) = problems
    assert f"ended {TIMES} times" in problem
    assert (agent.passes(2000), agent.passes(2001)) == (True, False)
    agent.lab.hv.run(["nft", "delete table inet secgroupd"])
    poison.unlink()
    # Until it is repaired, everything passes.
    await_that(lambda: not agent.passes(2001))
    assert agent.passes(2000), "what was accepted before goes on being enforced"
    agent.give(document(2))
    await_that(lambda: agent.passes(2002))
    assert agent.status()["healthy"]


OLDER = """
table inet secgroupd {
	map ports_in {
		type ifname : verdict
		elements = { "tap1" : goto judge }
	}
	set friends { type ipv4_addr; flags interval; elements = { 203.0.113.0/24 }; }
	chain judge {
		ip saddr @friends udp dport 1000 accept
		drop
	}
	chain to_port {
		type filter hook postrouting priority 10; policy accept
		oifname vmap @ports_in
	}
	chain guard {
		type filter hook forward priority 0; policy accept
		udp dport 1001 drop
	}
}
"""


@pytest.mark.parametrize("layout", ["older", "newer"])
def test_a_table_of_another_layout_is_replaced_in_one_transaction(
    agent: Agent, layout: str
) -> None:
    text = OLDER
    if layout == "newer":
        text = text.replace("ports_in", "ports_8192").replace("priority 10", "priority 200")
        text = text.replace("chain judge", "chain deny_in").replace("goto judge", "goto deny_in")
    agent.lab.hv.run(["nft", "-f", "-"], stdin=text)
    agent.give(document(0))
    with (
        Stream(agent.lab, CLIENT, "tap1", SERVER, 1000) as allowed,
        Stream(agent.lab, CLIENT, "tap1", SERVER, 1001) as denied,
    ):
        before = agent.generation()
        agent.start()
        after = agent.generation()
        lost, leaked = allowed.lost(), denied.received()
    assert not leaked and len(lost) <= may_be_missed(), f"of {allowed.sent}: {lost[:20]}"
    assert after - before <= 2, "what nobody notices is prepared, then all changes at once"
    shown = agent.lab.hv.run(["nft", "list", "table", "inet", "secgroupd"]).stdout
    assert not re.search(r"friends|judge|ports_in|chain guard|priority 10;|priority 200;", shown)
    assert agent.passes(2000) and not agent.passes(1001)
