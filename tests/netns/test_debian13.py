"""With a newer nft the tables are the agent's alone; and what a newer nft writes kills an older one."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from tests.netns import debian13
from tests.netns.agents import PATIENCE, Agent, await_that, document, with_members
from tests.netns.test_drift import nft

pytestmark = pytest.mark.netns

FAMILIES = ("inet", "bridge", "arp")


@pytest.fixture
def newer(agent: Agent) -> Agent:
    """An agent that has Debian 13's Python and nft."""
    agent.program = debian13.command(agent.directory, "python3", "-m", "secgroupd.daemon")
    return agent


def by_newer(agent: Agent, *words: str) -> str:
    """Have Debian 13's nft do something; return all that it says."""
    command = debian13.command(agent.directory, "nft", *words)
    done = agent.lab.hv.run(command, check=False)
    return done.stdout + done.stderr


def owned(agent: Agent) -> bool:
    shown = [by_newer(agent, "list", "table", family, "secgroupd") for family in FAMILIES]
    return all("flags owner,persist" in text for text in shown)


def writer(agent: Agent) -> int:
    assert agent.process
    pid = agent.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def test_nobody_else_can_change_the_tables(newer: Agent) -> None:
    newer.give(document())
    newer.start()
    assert owned(newer)
    for harm in ("delete table inet secgroupd", "add rule inet secgroupd deny_in accept"):
        assert "Operation not permitted" in by_newer(newer, harm)
    nft(newer, "add table ip theirs")
    nft(newer, "flush ruleset")
    assert "theirs" not in by_newer(newer, "list tables")
    assert (newer.passes(1000), newer.passes(1001)) == (True, False)
    newer.give(document("1001"))
    await_that(lambda: newer.passes(1001))
    assert not newer.passes(1000)
    assert newer.metric("drift_repairs_total") == 0


SMALL_CHANGES = """
import json, sys
from secgroupd.core.document import Source, parse
from secgroupd.core.draft import Binding
from secgroupd.dataplane import nft, nft_write
from secgroupd.reconcile import Reconciler

tried = []
written = nft_write.written

def watched(netlink, lines):
    tried.append(written(netlink, lines))
    return tried[-1]

nft_write.written = watched
found = {}
states = [parse([Source("s.yaml", text)]).state for text in json.load(sys.stdin)]
for protect in (True, False):
    with nft.Nft() as kernel:
        reconciler = Reconciler(kernel, protect=protect, grace=0)
        reconciler.apply(states[0], {"p1": Binding("tap1")})
        tried.clear()
        for state in states[1:]:
            reconciler.apply(state, {"p1": Binding("tap1")})
            assert not Reconciler(kernel, reconciler.memory).propose(state, {"p1": Binding("tap1")}).plan
        found[protect] = list(tried)
        kernel.remove()
print(json.dumps(found))
"""


def test_small_changes_of_owned_tables_are_not_tried_without_their_owner_in_vain(
    newer: Agent,
) -> None:
    script = newer.directory / "small.py"
    script.write_text(SMALL_CHANGES)
    texts = json.dumps([with_members(count) for count in (1, 2, 3)])
    command = debian13.command(newer.directory, "python3", str(script))
    found = json.loads(newer.lab.hv.run(command, stdin=texts).stdout)
    assert found == {"true": [], "false": [True, True]}


def test_they_are_the_agents_after_a_large_change_too(newer: Agent) -> None:
    many = "".join(
        f"      - {{id: r{at}, direction: ingress, protocol: tcp, multiport: {at + 1}, "
        f"remote_ip_prefix: 10.{at >> 8}.{at & 255}.0/24}}\n"
        for at in range(12_000)
    )
    newer.give(document().replace("      - {id: out", f"{many}      - {{id: out"))
    newer.start()
    assert newer.passes(1000)
    # Its writer, which owns them, has ended to give back its memory; another one takes them.
    await_that(lambda: owned(newer))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_tables_outlive_their_owner_and_get_a_new_one(newer: Agent, number: signal.Signals) -> None:
    newer.give(document())
    newer.start()
    newer.stop(number)
    await_that(lambda: not owned(newer))
    assert (newer.passes(1000), newer.passes(1001)) == (True, False)
    assert not by_newer(newer, "add chain inet secgroupd theirs"), "nobody's, so anybody's"
    newer.start()
    assert owned(newer)
    assert "theirs" not in by_newer(newer, "list table inet secgroupd")
    assert (newer.passes(1000), newer.passes(1001)) == (True, False)


def test_what_the_guard_has_closed_at_boot_is_taken_over_and_opened(newer: Agent) -> None:
    words = ("python3", "-m", "secgroupd.cli", "--config", str(newer.config), "guard")
    newer.lab.hv.run(debian13.command(newer.directory, *words))
    assert "flags persist" in by_newer(newer, "list table inet secgroupd")
    newer.give(document())
    newer.start()
    await_that(lambda: newer.passes(1000))
    assert not newer.passes(1001)
    assert newer.status()["healthy"] and owned(newer)


def test_a_writer_that_dies_loses_nothing_and_the_next_one_owns(newer: Agent) -> None:
    newer.give(document())
    newer.start()
    os.kill(writer(newer), signal.SIGKILL)
    await_that(lambda: not owned(newer))
    assert (newer.passes(1000), newer.passes(1001)) == (True, False)
    newer.give(document("1001"))
    await_that(lambda: newer.passes(1001))
    await_that(lambda: owned(newer))


def test_where_it_is_not_wanted_drift_is_repaired_instead(newer: Agent) -> None:
    newer.configure(protect_tables=False)
    newer.give(document())
    newer.start()
    assert not owned(newer)
    assert not by_newer(newer, "delete table inet secgroupd")
    await_that(lambda: newer.metric("drift_repairs_total") == 1)
    assert (newer.passes(1000), newer.passes(1001)) == (True, False)


def test_an_upgrade_takes_the_tables_as_they_are(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    assert not owned(agent)
    agent.stop()
    agent.program = debian13.command(agent.directory, "python3", "-m", "secgroupd.daemon")
    agent.start()
    assert agent.status()["healthy"]
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000)
    assert not by_newer(agent, "delete table inet secgroupd")
    await_that(lambda: agent.metric("drift_repairs_total") == 1)
    await_that(lambda: "owner" in by_newer(agent, "list table inet secgroupd"))


def test_a_foreign_set_that_kills_our_nft_opens_nothing_and_is_named(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    by_newer(agent, "add table ip theirs")
    made = "add set ip theirs friends { type ipv4_addr; elements = { 192.0.2.1 } }"
    assert not by_newer(agent, made)
    agent.give(document("1001"))
    await_that(lambda: agent.status().get("error"))
    error = str(agent.status()["error"])
    assert error.partition("may be in: ")[2].startswith("ip theirs; "), error
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    by_newer(agent, "delete table ip theirs")
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000) and agent.status()["healthy"]


def test_ulogd_keeps_what_is_denied_as_the_documentation_says(agent: Agent) -> None:
    page = (debian13.PROJECT / "docs" / "drops.md").read_text()
    (configuration,) = re.findall(r"```ini\n(.*?)```", page, re.DOTALL)
    kept = agent.directory / "denied.log"
    fixed = {"/var/log/ulog/denied.log": str(kept), '"syslog"': '"stdout"'}
    for before, after in fixed.items():
        assert before in configuration
        configuration = configuration.replace(before, after)
    (agent.directory / "ulogd.conf").write_text(configuration)
    agent.configure(nflog={"denied_group": 7})
    agent.give(document())
    agent.start()
    words = ("ulogd", "-c", str(agent.directory / "ulogd.conf"))
    with (agent.directory / "ulogd.log").open("w") as said:
        ulogd = agent.lab.hv.popen(
            debian13.command(agent.directory, *words), stdout=said, stderr=said
        )
        try:
            await_that(lambda: not agent.passes(1001) and kept.exists() and kept.read_text())
        finally:
            ulogd.terminate()
            ulogd.wait(PATIENCE)
    line = kept.read_text().splitlines()[0]
    assert "secgroupd deny_in" in line and "OUT=tap1" in line and "DPT=1001" in line
