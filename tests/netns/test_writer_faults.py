"""The process that holds libnftables fails, hangs, dies and lies; the kernel refuses one object."""

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from tests.netns.agents import PATIENCE, Agent, await_that, document, with_members

from secgroupd.dataplane.events import NFTABLES_GROUP
from secgroupd.dataplane.netlink import NETLINK_NETFILTER
from secgroupd.dataplane.nft import SHORT_SECONDS

pytestmark = pytest.mark.netns

FAULTS = Path(__file__).parent.parent / "faults"

TWO = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: g
    rules:
      - {id: udp, direction: ingress, protocol: udp, multiport: "PORTS", remote_ip_prefix: 0.0.0.0/0}
  - id: odd
    rules:
      - {id: own, direction: ingress, protocol: udp, multiport: "1000", remote_ip_prefix: 203.0.113.0/28}
instances:
  - id: i
    ports:
      - {id: p1, interface: tap1, vpc_id: v, private_ips: [10.0.0.1], security_groups: [g]}
      - {id: p2, interface: eth-odd, vpc_id: v, private_ips: [10.0.0.2], security_groups: [odd]}
"""


class Broken:
    """An agent whose writer has faults."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.file = agent.directory / "fault"
        path = os.pathsep.join(filter(None, (str(FAULTS), os.environ.get("PYTHONPATH", ""))))
        agent.environment = {"SECGROUPD_FAULT": str(self.file), "PYTHONPATH": path}
        agent.configure(resync_interval=3600)

    def by(self, fault: str) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(fault)
        fresh.rename(self.file)

    def heal(self) -> None:
        self.file.unlink()

    def log(self) -> str:
        return self.agent.log.read_text()

    def states(self) -> dict[str, str]:
        ports = self.agent.status().get("ports", {})
        assert isinstance(ports, dict)
        return {port_id: each["state"] for port_id, each in ports.items()}


@pytest.fixture
def broken(agent: Agent) -> Broken:
    return Broken(agent)


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("kind", ["fail", "die", "late", "error", "lie"])
def test_whatever_becomes_of_the_writer_the_table_ends_up_right(
    broken: Broken, kind: str, count: int
) -> None:
    agent = broken.agent
    agent.give(document())
    agent.start()
    broken.by(f"{kind} {count}")
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000)
    await_that(lambda: agent.status().get("healthy"))
    before = agent.generation()
    agent.give(document("1001") + "\n")
    await_that(lambda: agent.status().get("healthy"))
    assert agent.generation() == before, "nothing is written again that is there already"


@pytest.mark.parametrize("kind", ["fail", "die", "lie"])
def test_while_the_writer_does_nothing_the_rules_stay_and_the_status_says_so(
    broken: Broken, kind: str
) -> None:
    agent = broken.agent
    agent.give(document())
    agent.start()
    broken.by(f"{kind} 1000000")
    agent.give(document("1001"))
    await_that(lambda: agent.status().get("error"))
    assert agent.ask("status") == 3
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    tries = broken.log().count("apply-failed")
    assert tries == 1, "one line for one trouble, however often it is tried"
    broken.heal()
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000) and agent.ask("status") == 0


@pytest.mark.parametrize("kind", ["die", "fail", "lie"])
def test_a_writer_that_fails_from_the_start_leaves_what_an_earlier_agent_has_left(
    broken: Broken, kind: str
) -> None:
    agent = broken.agent
    agent.give(document())
    agent.start()
    agent.stop()
    agent.give(document("1001"))
    broken.by(f"{kind} 1000000")
    agent.start()
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    assert not agent.ended()
    broken.heal()
    await_that(lambda: agent.passes(1001))


@pytest.mark.parametrize("kind", ["garbage", "hang"])
def test_a_writer_that_is_silent_or_talks_nonsense_is_replaced(broken: Broken, kind: str) -> None:
    agent = broken.agent
    agent.give(document())
    agent.start()
    broken.by(f"{kind} 1")
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001), SHORT_SECONDS + PATIENCE)
    assert not agent.passes(1000)
    await_that(lambda: agent.status().get("healthy"))
    assert not agent.ended()


def test_a_writer_that_takes_nothing_is_replaced(agent: Agent) -> None:
    agent.configure(resync_interval=3600)
    agent.give(document())
    agent.start()
    assert agent.process
    pid = agent.process.pid
    (writer,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(writer), signal.SIGSTOP)
    many = "".join(
        f"      - {{id: r{at}, direction: ingress, protocol: tcp, multiport: {at}, "
        f"remote_ip_prefix: 10.{at % 250}.0.0/16}}\n"
        for at in range(1, 600)
    )
    agent.give(document("1001").replace("      - {id: out", f"{many}      - {{id: out"))
    await_that(lambda: agent.passes(1001), SHORT_SECONDS + 2 * PATIENCE)
    assert not agent.passes(1000) and "apply-failed" not in agent.log.read_text()


def test_what_the_kernel_refuses_of_one_port_closes_that_port_alone(broken: Broken) -> None:
    agent = broken.agent
    added = agent.lab.add_port(interface="eth-odd", addresses=["10.0.0.2"], mac="fa:16:3e:00:00:02")
    odd = added.namespace
    agent.give(TWO.replace("PORTS", "1000"))
    agent.start()
    await_that(lambda: agent.reaches(odd, "10.0.0.2", 1000))
    broken.by("refuse 203.0.113.0/28")
    agent.lab.hv.run(["nft", "flush", "ruleset"])
    await_that(lambda: broken.states() == {"p1": "enforced", "p2": "waiting"})
    assert not agent.reaches(odd, "10.0.0.2", 1000), "though no pattern manages its interface"
    assert agent.passes(1000)
    agent.give(TWO.replace("PORTS", "1001"))
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000) and not agent.reaches(odd, "10.0.0.2", 1000)
    status = agent.status()
    assert agent.ask("status") == 3 and "p2" in str(status["error"])
    ports = status["ports"]
    assert isinstance(ports, dict) and "No way" in ports["p2"]["reason"]
    assert len(re.findall(r"port-held-back port=p2", broken.log())) >= 1
    broken.heal()
    agent.give(TWO.replace("PORTS", "1002"))
    await_that(lambda: agent.reaches(odd, "10.0.0.2", 1000))
    assert agent.passes(1002) and agent.ask("status") == 0


def test_what_the_kernel_refuses_of_everybody_changes_nothing(broken: Broken) -> None:
    agent = broken.agent
    agent.give(document())
    agent.start()
    before = agent.generation()
    broken.by("refuse secgroupd ok_in")
    agent.give(document("1001"))
    await_that(lambda: agent.status().get("error"))
    assert agent.generation() - before <= 1, "nothing but chains that nobody is led to"
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    assert broken.states() == {"p1": "enforced"}
    broken.heal()
    await_that(lambda: agent.passes(1001))


def heard_by(pid: int) -> bool:
    """Tell whether anybody in a process's network namespace listens to changes of the ruleset."""
    lines = Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]
    sockets = [
        (int(protocol), int(groups, 16)) for _, protocol, _, groups, *_ in map(str.split, lines)
    ]
    bit = 1 << (NFTABLES_GROUP - 1)
    return any(protocol == NETLINK_NETFILTER and groups & bit for protocol, groups in sockets)


def stopped(pid: int) -> list[int]:
    """Return the writers of a daemon that have stopped."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError):
            if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                found.append(int(child))
    return found


def test_no_transaction_is_listened_to_whose_events_are_many(broken: Broken) -> None:
    agent = broken.agent
    agent.give(document())
    agent.start()
    assert agent.process
    pid = agent.process.pid

    def listened(text: str) -> set[bool]:
        """Whether the daemon listens while the transactions of a change are committed."""
        found = set()
        applied = broken.log().count(" applied ")
        broken.by("stop 1000000")
        agent.give(text)

        def done() -> bool:
            for writer in stopped(pid):
                found.add(heard_by(pid))
                os.kill(writer, signal.SIGCONT)
            return broken.log().count(" applied ") > applied

        await_that(done)
        broken.heal()
        return found

    assert listened(with_members(1)) == {True}
    assert False in listened(with_members(8000))
    await_that(lambda: heard_by(pid))
    # What mended the writer is an event, too, and a cycle for it may come before the kernel tells who.
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))
    agent.lab.hv.run(["nft", "delete table inet secgroupd"])
    await_that(lambda: re.search(r"drift-repaired by=nft:\d+$", broken.log(), re.MULTILINE))
    assert agent.metric("drift_repairs_total") == 1
