"""Want of memory, by a control group: the nft writer is killed in the middle of its work."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.netns.agents import Agent, agent_on, await_that, document

from secgroupd.proving.namespaces import Lab

pytestmark = pytest.mark.vm

GROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20
NETWORKS = 20_000


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Lab() as lab, agent_on(lab, tmp_path) as made:
        yield made


@pytest.fixture
def narrow() -> Iterator[Path]:
    """A control group for processes, whose memory ends where they are."""
    (GROUPS / "cgroup.subtree_control").write_text("+memory")
    made = GROUPS / "narrow"
    made.mkdir()
    yield made
    made.rmdir()


def large() -> str:
    """A document that takes the writer a lot of memory, and lets UDP 1001 pass in place of 1000."""
    content = document("1001")
    prefixes = [f"100.{64 + at // 16384}.{at // 64 % 256}.{at % 64 * 4}" for at in range(NETWORKS)]
    group = {"id": "many", "ip_version": 4, "ip_set": prefixes}
    rule = "{id: more, direction: ingress, protocol: udp, multiport: '9', remote_address_group_id: many}"
    text = content.replace("rules:\n", f"rules:\n      - {rule}\n", 1)
    return f"{text}address_groups: {json.dumps([group])}\n"


def test_a_writer_that_the_kernel_kills_for_its_memory_is_replaced(
    agent: Agent, narrow: Path
) -> None:
    agent.give(document())
    agent.start()
    assert agent.process
    pid = agent.process.pid
    (writer,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (narrow / "cgroup.procs").write_text(writer)
    status = Path(f"/proc/{writer}/status").read_text().splitlines()
    size = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))
    (narrow / "memory.max").write_text(str(size // 4))
    (narrow / "memory.swap.max").write_text("0")
    agent.give(large())
    await_that(lambda: agent.passes(1001), 120)
    assert not agent.passes(1000)
    events = dict(line.split() for line in (narrow / "memory.events").read_text().splitlines())
    assert int(events["oom_kill"]) == 1, "the writer had enough"
    await_that(lambda: agent.status()["healthy"])
