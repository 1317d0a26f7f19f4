"""Interfaces come, go, are renamed and swapped under the daemon: the policy follows the identity."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.netns.agents import CLIENT, SERVER, Agent, await_that, document
from tests.netns.streams import Stream

from secgroupd.dataplane.links import Links
from secgroupd.proving.netns import Namespace

pytestmark = pytest.mark.netns

PAIR = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: ga
    rules: [{id: a, direction: ingress, protocol: udp, multiport: "1000", remote_ip_prefix: 0.0.0.0/0}]
  - id: gb
    rules: [{id: b, direction: ingress, protocol: udp, multiport: "2000", remote_ip_prefix: 0.0.0.0/0}]
instances:
  - id: i
    ports:
      - {id: pa, host_id: hv1, vpc_id: v, private_ips: [10.0.0.1], security_groups: [ga]}
      - {id: pb, host_id: hv1, vpc_id: v, private_ips: [10.0.0.2], security_groups: [gb]}
"""
OTHER = "10.0.0.2"


def ip(agent: Agent, *lines: str) -> None:
    agent.lab.hv.run(["ip", "-force", "-batch", "-"], stdin="\n".join((*lines, "")), check=False)


def objects(agent: Agent) -> int:
    shown = agent.lab.hv.run(["nft", "-t", "list", "ruleset"]).stdout
    return sum(
        line.lstrip().startswith(("chain ", "set ", "map ", "counter "))
        for line in shown.splitlines()
    )


def overrun(agent: Agent) -> bool:
    """Tell whether a netlink socket of the host has had no room for an event."""
    with agent.lab.hv.enter():
        lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
    return any(int(line.split()[-2]) for line in lines)


def descriptors(agent: Agent) -> int:
    assert agent.process
    return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))


def test_a_thousand_taps_in_bursts_leave_nothing_and_open_nothing(agent: Agent) -> None:
    many = "".join(
        f"      - {{id: m{at}, interface: tapm{at}, vpc_id: v, private_ips: [10.1.0.{at + 1}], "
        "security_groups: [g]}\n"
        for at in range(50)
    )
    agent.give(document() + many)
    agent.start()
    await_that(lambda: agent.status().get("healthy"))
    before = objects(agent), descriptors(agent)
    with Stream(agent.lab, CLIENT, "tap1", SERVER, 1001) as denied:
        for turn in range(20):
            names = [f"tap{'m' if turn % 2 else 'x'}{at}" for at in range(50)]
            ip(agent, *(f"tuntap add {name} mode tap" for name in names))
            ip(agent, *(f"link set {name} up" for name in names[:10]))
            ip(agent, *(f"link del {name}" for name in names))
        assert not denied.received()
    agent.give(document("1002") + many)
    await_that(lambda: agent.passes(1002))
    assert not agent.passes(1000) and not agent.ended()
    assert (objects(agent), descriptors(agent)) == before


def test_the_status_follows_an_interface_whose_rules_were_there_before_it(agent: Agent) -> None:
    more = "      - {id: m, interface: tapm, vpc_id: v, private_ips: [10.1.0.1], security_groups: [g]}\n"
    agent.give(document() + more)
    agent.start()

    def shows(state: str) -> bool:
        ports = agent.status().get("ports")
        return isinstance(ports, dict) and ports["m"]["state"] == state

    await_that(lambda: shows("waiting"))
    for _ in range(2):
        ip(agent, "tuntap add tapm mode tap")
        await_that(lambda: shows("enforced"))
        ip(agent, "link del tapm")
        await_that(lambda: shows("waiting"))


def test_an_interface_of_the_same_name_with_another_index_is_guarded_from_its_first_packet(
    agent: Agent,
) -> None:
    agent.give(document())
    agent.start()
    for _ in range(10):
        before = agent.lab.ports["tap1"].index
        agent.lab.remove_port("tap1")
        agent.lab.add_port(interface="tap1", addresses=[SERVER], mac="fa:16:3e:00:00:01")
        assert agent.lab.ports["tap1"].index != before
        assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    assert not agent.ended()


@contextmanager
def pair(agent: Agent) -> Iterator[tuple[Namespace, Namespace]]:
    """Two ports that are found by their links' alias, each of which accepts what the other does not."""
    lab = agent.lab
    lab.remove_port("tap1")
    one = lab.add_port(interface="tapa", addresses=[SERVER], alias="pa", mac="fa:16:3e:00:00:0a")
    two = lab.add_port(interface="tapb", addresses=[OTHER], alias="pb", mac="fa:16:3e:00:00:0b")
    agent.configure(host_id="hv1")
    agent.give(PAIR)
    agent.start()
    await_that(lambda: agent.reaches(one.namespace, SERVER, 1000))
    await_that(lambda: agent.reaches(two.namespace, OTHER, 2000))
    yield one.namespace, two.namespace


def ways(first: str, second: str) -> list[str]:
    """Taking a link down has taken its routes away."""
    return [f"route replace {SERVER} dev {first}", f"route replace {OTHER} dev {second}"]


def test_names_are_swapped_and_no_instance_ever_has_the_rules_of_another(agent: Agent) -> None:
    with (
        pair(agent) as (one, two),
        Stream(agent.lab, CLIENT, "tapa", SERVER, 2000) as wrong,
        Stream(agent.lab, CLIENT, "tapb", OTHER, 1000) as wrong_too,
    ):
        first, second = "tapa", "tapb"
        for _ in range(5):
            ip(
                agent,
                f"link set {first} down",
                f"link set {second} down",
                f"link set {first} name tapc",
                f"link set {second} name {first}",
                f"link set tapc name {second}",
                f"link set {first} up",
                f"link set {second} up",
                *ways(second, first),
            )
            first, second = second, first
            await_that(lambda: agent.reaches(one, SERVER, 1000))
            await_that(lambda: agent.reaches(two, OTHER, 2000))
        ip(agent, f"link set {first} down", f"link set {first} name tapnew", "link set tapnew up")
        ip(agent, *ways("tapnew", second))
        await_that(lambda: agent.reaches(one, SERVER, 1000))
        assert not agent.reaches(one, SERVER, 2001)
        assert not wrong.received() and not wrong_too.received()


def test_a_link_that_flaps_and_changes_keeps_its_rules(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    before = agent.generation()
    for change in (
        "down",
        "up",
        "mtu 1300",
        "address fe:16:3e:00:00:77",
        "mtu 1500",
        "alias other",
    ):
        ip(agent, f"link set tap1 {change}", f"route replace {SERVER} dev tap1")
        assert not agent.passes(1001)
    await_that(lambda: agent.passes(1000))
    assert agent.generation() == before, "nothing had to be written"


def test_a_link_that_leaves_for_another_namespace_comes_back_to_its_rules(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    elsewhere = agent.lab.outside_address(CLIENT)
    ip(agent, f"link set tap1 netns {elsewhere.path}")
    await_that(lambda: "there is no interface tap1" in str(agent.status()["ports"]))
    back = f"link set tap1 netns {agent.lab.hv.path}"
    elsewhere.run(["ip", "-batch", "-"], stdin=f"{back}\n")
    ip(agent, "link set tap1 up", f"route replace {SERVER} dev tap1")
    await_that(lambda: agent.passes(1000))
    assert not agent.passes(1001)


def test_what_happens_while_it_is_stopped_is_all_known_when_it_goes_on(agent: Agent) -> None:
    agent.configure(host_id="hv1")
    agent.lab.remove_port("tap1")
    agent.give(document(identity="host_id: hv1"))
    agent.start()
    assert agent.process
    agent.pause()
    ip(agent, "tuntap add tapx mode tap")
    ip(agent, *(f"link set tapx mtu {1000 + at % 2}" for at in range(20_000)))
    assert overrun(agent)
    agent.lab.add_port(interface="tap7", addresses=[SERVER], alias="p1", mac="fa:16:3e:00:00:01")
    agent.process.send_signal(signal.SIGCONT)
    server = agent.lab.ports["tap7"].namespace
    await_that(lambda: agent.reaches(server, SERVER, 1000))
    assert not agent.reaches(server, SERVER, 1001) and not agent.ended()


def test_a_list_is_whole_however_much_changes_while_it_is_read(agent: Agent) -> None:
    steady = {f"stay{at}" for at in range(300)}
    ip(agent, *(f"tuntap add {name} mode tap" for name in sorted(steady)))
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            ip(agent, *(f"tuntap add tapx{at} mode tap" for at in range(20)))
            ip(agent, *(f"link del tapx{at}" for at in range(20)))

    with agent.lab.hv.enter():
        links = Links()
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(100):
            assert steady <= {link.name for link in links.read()}
    finally:
        done.set()
        thread.join()
        links.close()
