"""Instances and ports: their fields, and what two ports must not share."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.documents import accepted, in_port, port, problems

from secgroupd.core.model import (
    AddressPair,
    Port,
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", {}),
        ("interface: null, mac_address: null, private_ips: null, security_groups: ~", {}),
        ("mac_address: FA:16:3E:00:00:01", {"mac_address": "fa:16:3e:00:00:01"}),
        ("mac_address: 52:54:00:12:34:56", {"mac_address": "52:54:00:12:34:56"}),
        ("private_ips: ['::2', 10.0.0.9, 10.0.0.10]", {
            "private_ips": tuple(map(ip_address, ("10.0.0.9", "10.0.0.10", "::2")))}),
        ("port_security_enabled: false", {"port_security_enabled": False}),
        ("allowed_address_pairs: [{ip_address: 1.1.1.1/0}]", {"source_check": False}),
        ("allowed_address_pairs: [{ip_address: 1.1.1.1/0}, {ip_address: 10.0.0.0/24}]", {
            "source_check": False,
            "allowed_address_pairs": (AddressPair(network=ip_network("10.0.0.0/24")),)}),
        ("allowed_address_pairs: [{ip_address: '::5', mac_address: '00:00:5E:00:01:01'}]", {
            "allowed_address_pairs": (
                AddressPair(network=ip_network("::5/128"), mac_address="00:00:5e:00:01:01"),)}),
    ],
)  # fmt: skip
def test_port_fields(fields: str, expected: dict[str, Any]) -> None:
    assert port(fields) == replace(Port(id="p", vpc_id="v"), **expected)


@pytest.mark.parametrize(
    ("fields", "value", "code", "remedy"),
    [
        ("mac_address: ", "fa-16-3e-00-00-01", "mac", "write one such as fa:16:3e:00:00:01"),
        ("mac_address: ", "fa:16:3e:00:00", "mac", "write one such as fa:16:3e:00:00:01"),
        ("mac_address: ", "fa:16:3e:00:00:0g", "mac", "write one such as fa:16:3e:00:00:01"),
        ("mac_address: ", "41135085296", "mac", "write one such as fa:16:3e:00:00:01"),
        ("mac_address: ", "ff:ff:ff:ff:ff:ff", "mac", "write the port's own"),
        ("mac_address: ", "01:00:5e:00:00:01", "mac", "write the port's own"),
        ("mac_address: ", "00:00:00:00:00:00", "mac", "write the port's own"),
        ("private_ips: [", "10.0.0.1/32]", "address", "write the bare address"),
        ("private_ips: [", "'::1:2/128']", "address", "write the bare address"),
        ("private_ips: [", "0.0.0.0]", "address", "write the port's own"),
        ("private_ips: [", "224.0.0.1]", "address", "write the port's own"),
        ("private_ips: [", "'::1']", "address", "write the port's own"),
        ("private_ips: [", "'::ffff:10.0.0.1']", "ipv4-mapped", "write 10.0.0.1"),
        ("private_ips: [", "null]", "null", "write one"),
        ("private_ips: [", "{ip_address: 10.0.0.1}]", "not-a-scalar", "write no list"),
        ("private_ips: ", "10.0.0.1", "not-a-list", "write [...]"),
        ("private_ips: [10.0.0.1, ", "10.0.0.1]", "address-twice", "f0.yaml:5:46: correct"),
        ("security_groups: [", "h]", "unknown-security-group", "define it"),
        ("security_groups: [g, ", "g]", "group-twice", "remove one"),
        ("allowed_address_pairs: [{ip_address: ", "0.0.0.0/0}]", "pair-of-all", "1.1.1.1/0"),
        ("allowed_address_pairs: [{ip_address: ", "'::/0'}]", "pair-of-all", "1.1.1.1/0"),
        ("allowed_address_pairs: [{ip_address: ", "1.1.1.1/1}]", "host-bits", "write 0.0.0.0/1"),
        ("allowed_address_pairs: [", "{}]", "missing-field", "add ip_address"),
        ("allowed_address_pairs: [", "10.0.0.1]", "not-a-mapping", "write a mapping"),
        ("port_security_enabled: ", "'no'", "boolean", "write true or false"),
        ("host_id: ", "''", "id", "write at least one character"),
    ],
)
def test_hostile_ports_are_refused_in_their_place(
    fields: str, value: str, code: str, remedy: str
) -> None:
    found = problems(in_port(fields + value))
    assert len(found) == 1, found
    place = (found[0].file, found[0].line, found[0].column)
    assert place == ("f0.yaml", 5, 32 + len(fields))
    assert found[0].code == code
    assert remedy in found[0].message


def two_ports(one: str, other: str) -> str:
    return (
        "version: 1\nvpcs: [{id: v}, {id: w}]\ninstances:\n- {id: i, ports: [\n"
        f"  {{id: p, {one}}},\n  {{id: q, {other}}}]}}\n"
    )


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ("vpc_id: v, interface: t", "vpc_id: w, interface: t", "interface-twice"),
        ("vpc_id: v, interface: t, host_id: a", "vpc_id: v, interface: t", "interface-twice"),
        ("vpc_id: v, interface: t", "vpc_id: v, interface: t, host_id: a", "interface-twice"),
        ("vpc_id: v, interface: t, host_id: a", "vpc_id: v, interface: t, host_id: b", None),
        ("vpc_id: v, mac_address: 02:00:00:00:00:01", "vpc_id: v, mac_address: 02:00:00:00:00:01",
         "mac-twice"),
        ("vpc_id: v, mac_address: 02:00:00:00:00:01, interface: t",
         "vpc_id: w, mac_address: 02:00:00:00:00:01, interface: u", None),
        ("vpc_id: v, private_ips: [10.0.0.1]", "vpc_id: v, private_ips: [10.0.0.1]",
         "address-twice"),
        ("vpc_id: v, private_ips: [10.0.0.1]", "vpc_id: w, private_ips: [10.0.0.1]", None),
        ("vpc_id: v, private_ips: ['::2:0']", "vpc_id: v, private_ips: ['0::2:0']",
         "address-twice"),
    ],
)  # fmt: skip
def test_what_two_ports_cannot_share(one: str, other: str, code: str | None) -> None:
    text = two_ports(one, other)
    if code is None:
        assert len(accepted(text).state.instances[0].ports) == 2
        return
    found = problems(text)
    assert [(p.line, p.code) for p in found] == [(6, code)]
    assert "f0.yaml:5:" in found[0].message
