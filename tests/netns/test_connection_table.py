"""The connection table: reading and deleting entries, and what happens when it is full."""

from ipaddress import ip_address

import pytest
from benchmarks.entries import fill
from tests.builders import both, group, port, state
from tests.enforcing import bindings, enforcer
from tests.netns.conversations import Conversations, exchange

from secgroupd.core.model import SCTP, TCP, UDP
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
                wanted = {ip_address(server_address).packed}
                found = sorted(table.answered_by(wanted), key=lambda c: c.protocol)
                assert [(c.protocol, c.reply.sport) for c in found] == [
                    (TCP, 6006), (UDP, 6017), (SCTP, 6132),
                ]  # fmt: skip
                assert {str(c.original.source) for c in found} == {client_address}
                assert all(c.stamp > 0 for c in found), "they were judged and stamped"
                assert table.delete(found[:1]) == 1
                assert table.delete(found[:2]) == 1, "one is gone already, which is no error"
                (left,) = table.answered_by(wanted)
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
