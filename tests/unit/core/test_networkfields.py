"""Peerings and load balancers."""

import pytest
from tests.documents import accepted, problems

from secgroupd.core.model import (
    Forwarder,
)


@pytest.mark.parametrize("ids", ["[v]", "[v, v]", "[v, w, x]", "[]"])
def test_a_peering_is_of_two_different_vpcs(ids: str) -> None:
    text = f"version: 1\nvpcs: [{{id: v}}, {{id: w}}, {{id: x}}]\npeerings: [{{id: p, vpc_ids: {ids}}}]"
    assert [(p.line, p.column, p.code) for p in problems(text)] == [(3, 29, "peering")]


BALANCER = (
    "version: 1\nvpcs: [{id: v}]\ninstances: [{id: i, ports: [{id: p, vpc_id: v}]}]\n"
    "load_balancers:\n- {id: b, vpc_id: v, %s}\n"
)


@pytest.mark.parametrize(
    ("through", "expected"),
    [
        ("{interface: lb0}", Forwarder(interface="lb0")),
        ("{mac_address: FA:16:3E:00:00:01}", Forwarder(mac_address="fa:16:3e:00:00:01")),
        ("{fwmark: 1}", Forwarder(fwmark=1)),
        ("{fwmark: 4294967295, interface: null}", Forwarder(fwmark=2**32 - 1)),
    ],
)
def test_forwarders(through: str, expected: Forwarder) -> None:
    text = BALANCER % f"forwards_through: {through}"
    assert accepted(text).state.load_balancers[0].forwards_through == expected


LISTENER = "forwards_through: {fwmark: 1}, listeners: [%s]"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ("name: b", "missing-field"),
        ("forwards_through: {}", "forwards-through"),
        ("forwards_through: {fwmark: 1, interface: a}", "forwards-through"),
        ("forwards_through: {fwmark: 0}", "fwmark"),
        ("forwards_through: {fwmark: 4294967296}", "fwmark"),
        ("forwards_through: lb0", "not-a-mapping"),
        (LISTENER % "{id: l, protocol: icmp, protocol_port: 1}", "listener-protocol"),
        (LISTENER % "{id: l, protocol: tcp, protocol_port: 0}", "port-range"),
        (LISTENER % "{id: l, protocol: tcp, protocol_port: 65536}", "port-range"),
        (LISTENER % "{id: l, protocol: tcp}", "missing-field"),
        (LISTENER % "{id: l, protocol: tcp, protocol_port: 1, transfer_client_ip: 1}", "boolean"),
        (LISTENER % "{id: l, protocol: udp, protocol_port: 1, members: [{port_id: q, "
         "protocol_port: 1}]}", "unknown-port"),
        (LISTENER % "{id: l, protocol: udp, protocol_port: 1}, {id: l, protocol: tcp, "
         "protocol_port: 1}", "duplicate-id"),
    ],
)  # fmt: skip
def test_hostile_load_balancers(fields: str, code: str) -> None:
    assert [(p.line, p.code) for p in problems(BALANCER % fields)] == [(5, code)]
