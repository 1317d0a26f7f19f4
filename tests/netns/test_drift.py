"""Others change the agent's tables, or their own beside it."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from tests.netns.agents import Agent, await_that, document, with_members

from secgroupd.commands.guard import EXIT_NOT_GUARDED
from secgroupd.core.document import Source, parse
from secgroupd.core.draft import Binding
from secgroupd.core.drift import Change
from secgroupd.core.plan import Plan
from secgroupd.dataplane.events import RulesetEvents
from secgroupd.dataplane.nft import Nft
from secgroupd.errors import TransactionRefused
from secgroupd.reconcile import Reconciler

pytestmark = pytest.mark.netns

OTHERS = """
table inet firewalld {
	set friends { type ipv4_addr; elements = { 192.0.2.1 } }
	chain to {
		type filter hook postrouting priority 150; policy accept
		accept
	}
	chain from {
		type filter hook prerouting priority -150; policy accept
		counter accept
	}
}
table ip docker {
	chain nat {
		type nat hook postrouting priority srcnat
		ip saddr 192.0.2.0/24 masquerade
	}
}
"""
# The kernel takes 1024 chains at a hook. Ours is one more, once walls between VPCs are needed.
CROWD = "add table inet theirs\n" + "".join(
    f"add chain inet theirs c{at} {{ type filter hook forward priority 5; }}\n"
    for at in range(1024)
)

TWO_VPCS = """
  - id: other
    ports:
      - {id: p2, interface: tap2, vpc_id: w, private_ips: [10.0.1.1], security_groups: [g]}
"""

HARMS = {
    "everything flushed": ("flush ruleset", True),
    "a table deleted": ("delete table inet secgroupd", True),
    "a chain flushed": ("flush chain inet secgroupd deny_in", False),
    "a base chain flushed": ("flush chain inet secgroupd to_port", False),
    "a rule put before": ("insert rule inet secgroupd to_port accept", False),
    "a rule put behind": ("add rule inet secgroupd deny_out accept", False),
    "an element added": ('add element inet secgroupd MAP { "tap9" : accept }', False),
    "an element taken": ('delete element inet secgroupd MAP { "tap1" }', False),
    "a verdict replaced": (
        """delete element inet secgroupd MAP { "tap1" }
        add element inet secgroupd MAP { "tap1" : accept }""",
        False,
    ),
    "a chain of theirs in it": ("add chain inet secgroupd mine", False),
    "a hook of theirs in it": (
        "add chain inet secgroupd mine { type filter hook prerouting priority -500; }",
        False,
    ),
}


def of_two_vpcs(ports: str = "1000") -> str:
    """Return a document that needs walls."""
    return document(ports).replace("[{id: v}]", "[{id: v}, {id: w}]") + TWO_VPCS.lstrip("\n")


def lose_the_table_to_a_crowd(agent: Agent) -> None:
    """Have others delete the table, and fill the hook that the walls need."""
    nft(agent, "delete table inet secgroupd")
    nft(agent, CROWD)
    assert agent.passes(1000)


def nft(agent: Agent, text: str) -> str:
    return agent.lab.hv.run(["nft", "-f", "-"], stdin=f"{text}\n").stdout


def listed(agent: Agent, *what: str) -> str:
    return agent.lab.hv.run(["nft", *what]).stdout


def map_of_ports(agent: Agent) -> str:
    found = json.loads(listed(agent, "-j", "-t", "list", "maps", "inet"))["nftables"]
    names: list[str] = [each["map"]["name"] for each in found if "map" in each]
    return next(name for name in names if re.fullmatch(r"ports_to_\d+", name))


@pytest.mark.parametrize("harm", HARMS)
def test_what_somebody_does_to_our_tables_is_undone_counted_and_laid_at_their_door(
    agent: Agent, harm: str
) -> None:
    agent.give(document())
    agent.start()
    nft(agent, OTHERS if harm != "everything flushed" else "add table ip theirs")
    text, large = HARMS[harm]
    nft(agent, text.replace("MAP", map_of_ports(agent)))
    await_that(lambda: agent.metric("drift_repairs_total") == 1)
    assert agent.metric("drift_events_total") >= 1
    line = next(x for x in agent.log.read_text().splitlines() if "drift-repaired" in x)
    assert re.search(r" by=nft:\d+$", line)
    commands = int(line.partition("commands=")[2].split()[0])
    assert large or commands <= 50
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    assert agent.status()["healthy"]


def test_tables_of_others_stay_byte_for_byte_and_open_nothing(agent: Agent) -> None:
    nft(agent, OTHERS)
    theirs = ("inet firewalld", "ip docker")

    def shown() -> list[str]:
        text = [listed(agent, "-s", "list", "table", *name.split()) for name in theirs]
        return [re.sub(r"counter packets \d+ bytes \d+", "counter", one) for one in text]

    before = shown()
    agent.give(document())
    agent.start()
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    nft(agent, "delete table inet secgroupd")
    await_that(lambda: agent.metric("drift_repairs_total") == 1)
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))
    agent.stop()
    assert shown() == before


def test_what_others_do_to_their_own_tables_is_heard_and_costs_no_look(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    with agent.lab.hv.enter(), RulesetEvents() as events:
        nft(agent, "add table ip theirs; add chain ip theirs one")
        nft(agent, "add table inet theirs")
        nft(agent, "add chain inet secgroupd mine")
        heard: list[Change] = []

        def three() -> bool:
            heard.extend(events.changes())
            return len(heard) >= 3

        await_that(three)
    numbers = [change.generation for change in heard]
    assert numbers[:3] == list(range(numbers[0] or 0, (numbers[0] or 0) + 3))
    assert [change.ours for change in heard[:3]] == [False, False, True]
    assert {change.process for change in heard[:3]} == {"nft"} and heard[0].pid != heard[1].pid
    await_that(lambda: agent.metric("drift_repairs_total") == 1)
    assert agent.metric("drift_events_total") == 1


def cpu_seconds(agent: Agent) -> float:
    """What a daemon and the writers that have ended have used of a CPU."""
    assert agent.process
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def test_a_storm_is_weathered(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    script = "for i in $(seq 30); do nft delete table inet secgroupd; sleep 0.1; done 2>/dev/null"
    began, used = time.monotonic(), cpu_seconds(agent)
    storm = agent.lab.hv.popen(["sh", "-c", script], stdout=subprocess.DEVNULL)
    assert storm.wait(60) is not None
    assert (cpu_seconds(agent) - used) / (time.monotonic() - began) < 0.8
    await_that(lambda: agent.metric("drift_repairs_total") >= 10)
    await_that(lambda: agent.passes(1000))
    assert not agent.passes(1001)
    assert not agent.ended() and agent.stop(signal.SIGTERM) == 0


class Overtaken(Nft):
    """Somebody else's change comes between what is read and what is written, as often as wished."""

    changes: ClassVar[list[str]] = []

    def commit(self, plan: Plan) -> None:
        if self.changes:
            subprocess.run(["nft", self.changes.pop()], check=False, stderr=subprocess.DEVNULL)
        super().commit(plan)


@pytest.mark.parametrize(
    "change",
    [
        "insert rule inet secgroupd to_port accept",
        "flush chain inet secgroupd deny_in",
        "delete table inet secgroupd",
        "add table ip theirs",
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_what_comes_between_reading_and_writing_is_undone(
    agent: Agent, change: str, count: int
) -> None:
    before, after = (parse([Source("s.yaml", document(p))]).state for p in ("1000", "1001"))
    bindings = {"p1": Binding("tap1")}
    with agent.lab.hv.enter(), Overtaken() as nft:
        reconciler = Reconciler(nft)
        reconciler.apply(before, bindings)
        nft.changes[:] = [change] * count
        reconciler.apply(after, bindings)
        assert not nft.changes or count == 2
        nft.changes.clear()
        assert not Reconciler(nft, reconciler.memory).propose(after, bindings).plan
    assert (agent.passes(1000), agent.passes(1001)) == (False, True)


def test_what_a_refused_change_has_prepared_is_no_drift_and_what_others_do_then_is(
    agent: Agent,
) -> None:
    """So it is tried again ever later, and at once when somebody has changed what it depends on."""
    two = of_two_vpcs("1001")
    before, after = (parse([Source("s.yaml", text)]).state for text in (document(), two))
    bindings = {"p1": Binding("tap1"), "p2": Binding("tap2")}
    with agent.lab.hv.enter(), RulesetEvents() as events, Nft() as adapter:
        reconciler = Reconciler(adapter)
        reconciler.apply(before, {"p1": Binding("tap1")})
        nft(agent, CROWD)
        there = adapter.generation()
        events.changes()
        with pytest.raises(TransactionRefused, match="Argument list too long"):
            reconciler.apply(after, bindings)
        assert adapter.generation() == there + 1, "nothing was prepared"
        assert reconciler.heard(events.changes()) == 0
        assert not reconciler.disturbed()
        nft(agent, "add chain inet secgroupd mine")
        assert reconciler.heard(events.changes()) == 1 and reconciler.disturbed()
        with pytest.raises(TransactionRefused):
            reconciler.apply(after, bindings)
        assert not reconciler.disturbed()
        nft(agent, "delete table inet theirs")
        assert reconciler.disturbed()
        reconciler.apply(after, bindings)
        assert not reconciler.disturbed()
    assert (agent.passes(1000), agent.passes(1001)) == (False, True)


def test_where_nothing_guards_and_the_rules_are_refused_interfaces_are_closed(agent: Agent) -> None:
    """Half of the rules may be there by then: what is prepared for them, which no packet meets."""
    agent.give(of_two_vpcs())
    agent.start()
    await_that(lambda: agent.passes(1000))
    agent.pause()
    lose_the_table_to_a_crowd(agent)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGCONT)
    await_that(lambda: "Argument list too long" in str(agent.status()["error"]))
    assert not agent.passes(1000)
    nft(agent, "delete table inet theirs")
    await_that(lambda: agent.passes(1000))


def test_what_was_accepted_and_is_refused_at_boot_leaves_interfaces_closed(agent: Agent) -> None:
    agent.give(of_two_vpcs())
    agent.start()
    await_that(lambda: agent.passes(1000))
    agent.stop()
    lose_the_table_to_a_crowd(agent)
    assert agent.ask("guard") == EXIT_NOT_GUARDED
    assert not agent.passes(1000)


@pytest.mark.parametrize("first", [True, False])
def test_what_others_do_while_a_large_transaction_is_not_listened_to_is_undone(
    agent: Agent, first: bool
) -> None:
    before, after = (parse([Source("s.yaml", with_members(n))]).state for n in (1, 8000))
    done: list[bool] = []
    with agent.lab.hv.enter(), RulesetEvents() as events:

        def theirs(now: bool) -> None:
            if now and not done:
                done.append(now)
                nft(agent, "insert rule inet secgroupd to_port accept")

        @contextmanager
        def unheard() -> Iterator[None]:
            with events.deaf():
                theirs(first)
                yield
                theirs(not first)

        with Nft(unheard) as adapter:
            reconciler = Reconciler(adapter, grace=0)
            reconciler.apply(before, {"p1": Binding("tap1")})
            reconciler.apply(after, {"p1": Binding("tap1")})
            assert done
            assert (
                not Reconciler(adapter, reconciler.memory)
                .propose(after, {"p1": Binding("tap1")})
                .plan
            )
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)


def test_events_that_were_lost_are_told(agent: Agent) -> None:
    with agent.lab.hv.enter(), RulesetEvents() as events:
        with socket.socket(fileno=os.dup(events.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for at in range(40):
            nft(agent, f"add table ip theirs{at}")
        heard = events.changes()
        nft(agent, "add table ip theirs")
        heard += events.changes()
    lost = [at for at, change in enumerate(heard) if change.generation is None]
    assert lost, "the socket has held them all"
    assert heard[lost[-1] + 1].ours, "what was lost may have been ours"
