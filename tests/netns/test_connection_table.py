"""The connection table: reading and deleting entries, and what happens when it is full."""

from ipaddress import ip_address

import pytest
from benchmarks.entries import fill
from tests.builders import both, group, port, state
from tests.enforcing import bindings, enforcer
from tests.netns.conversations import Conversations, exchange, settle

from secgroupd.core.model import SCTP, TCP, UDP, Timeout
from secgroupd.dataplane import conntrack
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.packets import Probe, probe

pytestmark = pytest.mark.netns

OPEN = state(
    [group("g", *both("egress"), *both("ingress"))],
    [port("p", ["g"], ["10.0.0.1", "fd00::1"], interface="tap1")],
)
ENDS = {4: ("203.0.113.9", "10.0.0.1"), 6: ("2001:db8::9", "fd00::1")}


@pytest.mark.parametrize("version", [4, 6])
def test_entries_are_found_by_their_responder_and_deleted_one_by_one(version: int) -> None:
    client_address, server_address = ENDS[version]
    with Lab() as lab, Conversations() as talk:
        lab.add_port(interface="tap1", addresses=["10.0.0.1", "fd00::1"])
        client, server = lab.outside_address(client_address), lab.ports["tap1"].namespace
        with enforcer(lab) as reconciler:
            reconciler.apply(OPEN, bindings(lab, OPEN))
            flows = [
                talk.open(p, (client, client_address), (server, server_address), 6000 + p)
                for p in (TCP, UDP, SCTP)
            ]
            own = talk.open(UDP, (server, server_address), (client, client_address), 7000)
            with lab.hv.enter(), Conntrack() as table:
                everything = 1 << 31
                wanted = {(0, ip_address(server_address).packed): everything}
                found = sorted(table.stale(wanted), key=lambda c: c.protocol)
                assert [(c.protocol, c.reply.sport) for c in found] == [
                    (TCP, 6006), (UDP, 6017), (SCTP, 6132),
                ]  # fmt: skip
                assert {str(c.original.source) for c in found} == {client_address}
                assert all(c.stamp > 0 for c in found), "they were judged and stamped"
                newest = reconciler.record.generations.newest
                oldest = {(0, ip_address(server_address).packed): newest}
                assert not [*table.stale(oldest)], "they are fresh"
                assert table.delete(found[:1]) == 1
                assert table.delete(found[:2]) == 1, "one is gone already, which is no error"
                (left,) = table.stale(wanted)
                assert left.protocol == SCTP
            assert exchange([own], "server") == {own.name}, "nobody else's entry was touched"
            assert exchange([flows[2]], "client") == {flows[2].name}


def test_with_a_full_table_connections_live_on_and_new_ones_are_refused() -> None:
    with Lab() as lab, Conversations() as talk:
        lab.add_port(interface="tap1", addresses=["10.0.0.1", "fd00::1"])
        client, server = lab.outside_address("203.0.113.9"), lab.ports["tap1"].namespace
        with enforcer(lab) as reconciler:
            reconciler.apply(OPEN, bindings(lab, OPEN))
            flows = [
                talk.open(p, (client, "203.0.113.9"), (server, "10.0.0.1"), 6000 + p)
                for p in (TCP, UDP)
            ]
            with lab.hv.enter():
                _, limit = conntrack.fill()
            taken = fill(lab.hv, limit + 1000, int(ip_address("10.255.0.1")))
            with lab.hv.enter():
                count, _ = conntrack.fill()
            assert taken < limit + 1000 and count >= limit
            for speaker in ("client", "server"):
                assert exchange(flows, speaker) == {flow.name for flow in flows}
            late = Probe(
                source=client,
                source_address=ip_address("203.0.113.9"),
                destination=server,
                destination_address=ip_address("10.0.0.1"),
                protocol=UDP,
                dport=9999,
            )
            assert not probe(late).delivered
            lab.forget()
            assert probe(late).delivered


def _remaining(lab: Lab, what: str) -> list[int]:
    """Seconds left of the entries with these words."""
    listed = lab.hv.run(["conntrack", "-L", *what.split()]).stdout.splitlines()
    return [int(line.split()[2]) for line in listed]


@pytest.mark.parametrize("version", [4, 6])
def test_timeouts_of_the_settings_are_those_of_the_ports_connections_alone(version: int) -> None:
    client_address, server_address = ENDS[version]
    family = f"-f ipv{version}"
    with Lab() as lab, Conversations() as talk:
        lab.add_port(interface="tap1", addresses=["10.0.0.1", "fd00::1"])
        lab.add_port(interface="eth7", addresses=["10.0.7.1", "fd00:7::1"])
        stranger = {4: "10.0.7.1", 6: "fd00:7::1"}[version]
        client, server = lab.outside_address(client_address), lab.ports["tap1"].namespace
        with enforcer(lab) as reconciler:
            reconciler.timeouts = {Timeout.TCP_ESTABLISHED: 600, Timeout.UDP: 77}
            reconciler.apply(OPEN, bindings(lab, OPEN))
            far, here = (client, client_address), (server, server_address)
            settle([talk.open(TCP, far, here, 6006)])
            talk.open(UDP, far, here, 6017)
            settle([talk.open(TCP, far, (lab.ports["eth7"].namespace, stranger), 6106)])
            assert all(
                590 <= left <= 600 for left in _remaining(lab, f"{family} -p tcp --dport 6006")
            )
            assert all(
                70 <= left <= 77 for left in _remaining(lab, f"{family} -p udp --dport 6017")
            )
            assert min(_remaining(lab, f"{family} -p tcp --dport 6106")) > 600
            assert not reconciler.apply(OPEN, bindings(lab, OPEN)).plan
            reconciler.timeouts = {Timeout.TCP_ESTABLISHED: 500}
            assert reconciler.apply(OPEN, bindings(lab, OPEN)).plan
            settle([talk.open(TCP, far, here, 6007)])
            assert all(
                490 <= left <= 500 for left in _remaining(lab, f"{family} -p tcp --dport 6007")
            )
            reconciler.timeouts = {}
            assert reconciler.apply(OPEN, bindings(lab, OPEN)).plan
            reconciler.forget_kernel()
            assert not reconciler.apply(OPEN, bindings(lab, OPEN)).plan
