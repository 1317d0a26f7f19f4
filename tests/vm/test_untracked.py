"""A kernel without connection tracking: everything that is to be guarded is closed, and said so.

It must be the first in its guest, since a module that has been loaded is hard to get rid of.
"""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.netns.agents import CLIENT, SERVER, Agent, agent_on, await_that, document

from secgroupd.core.model import UDP
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.packets import Probe, run_probes

pytestmark = pytest.mark.vm

LOADER = Path("/proc/sys/kernel/modprobe")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """An agent on a kernel that finds none of its modules for tracking."""
    loaded = Path("/proc/modules").read_text()
    assert "nf_conntrack" not in loaded, "this test must come first"
    # What the agent and the lab need besides is loaded while it can be.
    with Lab() as lab:
        lab.hv.run(["nft", "-f", "-"], stdin=NEEDED)
        before = LOADER.read_text()
        LOADER.write_text("/bin/false")
        try:
            with agent_on(lab, tmp_path) as made:
                yield made
        finally:
            LOADER.write_text(before)


NEEDED = """
table inet secgroupd_needs { chain c { counter limit rate 1/second accept; }; map m { type ifname : verdict; }; }
table bridge secgroupd_needs { chain c { iifname "tap*" accept; }; }
table arp secgroupd_needs { chain c { accept; }; }
delete table inet secgroupd_needs
delete table bridge secgroupd_needs
delete table arp secgroupd_needs
"""


def test_every_port_is_closed_and_says_why(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    status = agent.status()
    assert not status["error"], agent.log.read_text()
    ports = status["ports"]
    assert isinstance(ports, dict)
    assert ports["p1"]["state"] == "waiting" and "nf_conntrack" in ports["p1"]["reason"]
    outside, port = agent.lab.outside_address(CLIENT), agent.lab.ports["tap1"].namespace
    ends = [(outside, CLIENT, port, SERVER), (port, SERVER, outside, CLIENT)]
    probes = [
        Probe(
            source=source,
            source_address=ip_address(from_),
            destination=destination,
            destination_address=ip_address(to),
            protocol=UDP,
            dport=1000,
        )
        for source, from_, destination, to in ends
    ]
    seen = run_probes(probes)
    assert [one.delivered for one in seen] == [False, False]
    agent.lab.hv.run(["nft", "delete table inet secgroupd"])
    await_that(lambda: "drift-repaired" in agent.log.read_text())
    assert not agent.passes(1000)
