"""Rules: what every field means, and that what does not fit is refused in its place."""

import re
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from tests.documents import in_group, problems, rule, rules

from secgroupd.core.model import (
    GRE,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Action,
    AddressGroupPeer,
    AnyPeer,
    Direction,
    Family,
    GroupPeer,
    PortRange,
    PrefixPeer,
    Rule,
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("", {}),
        ("action: deny, priority: 100, enabled: false, description: why not", {
            "action": Action.DENY, "priority": 100, "enabled": False, "description": "why not"}),
        ("action: null, priority: ~, multiport: , remote_group_id: null, protocol: null", {}),
        ('priority: "7"', {"priority": 7}),
        ("ethertype: ipv6", {"family": Family.IPV6}),
        ("ethertype: IPV4", {"family": Family.IPV4}),
        ("protocol: TCP", {"protocol": TCP}),
        ("protocol: 47", {"protocol": GRE}),
        ('protocol: "0"', {"protocol": 0}),
        ("protocol: 255", {"protocol": 255}),
        ("protocol: vrrp", {"protocol": 112}),
        ("protocol: tcp, multiport: 80", {"protocol": TCP, "ports": (PortRange(80, 80),)}),
        ("protocol: 17, multiport: '80,1-30'", {
            "protocol": UDP, "ports": (PortRange(1, 30), PortRange(80, 80))}),
        ("protocol: tcp, multiport: 1-65535", {"protocol": TCP, "ports": (PortRange(1, 65535),)}),
        ("protocol: tcp, multiport: '1-10,5-20,21'", {
            "protocol": TCP, "ports": (PortRange(1, 10), PortRange(5, 20), PortRange(21, 21))}),
        ("protocol: icmp, icmp_type: 0, icmp_code: 255", {
            "protocol": ICMP, "icmp_type": 0, "icmp_code": 255}),
        ("protocol: icmpv6, ethertype: IPv6, icmp_type: 128", {
            "protocol": ICMPV6, "family": Family.IPV6, "icmp_type": 128}),
        ("remote_ip_prefix: 10.0.0.1", {"peer": PrefixPeer(ip_network("10.0.0.1/32"))}),
        ("remote_ip_prefix: 0.0.0.0/0", {"peer": PrefixPeer(ip_network("0.0.0.0/0"))}),
        ('ethertype: IPv6, remote_ip_prefix: "2001:DB8::/32"', {
            "family": Family.IPV6, "peer": PrefixPeer(ip_network("2001:db8::/32"))}),
        ('ethertype: IPv6, remote_ip_prefix: "::1"', {
            "family": Family.IPV6, "peer": PrefixPeer(ip_network("::1/128"))}),
        ("remote_group_id: g", {"peer": GroupPeer("g")}),
        ("ethertype: IPv6, remote_address_group_id: six", {
            "family": Family.IPV6, "peer": AddressGroupPeer("six")}),
    ],
)  # fmt: skip
def test_rule_fields(fields: str, expected: dict[str, Any]) -> None:
    assert rule(fields) == replace(Rule(id="r", direction=Direction.INGRESS), **expected)


TWENTY_ONE = ",".join(str(port) for port in range(1, 22))


@pytest.mark.parametrize(
    ("fields", "value", "code", "remedy"),
    [
        ("protocol: tcp, multiport: ", "0", "port-range", "write 1 to 65535"),
        ("protocol: tcp, multiport: ", "65536", "port-range", "write 1 to 65535"),
        ("protocol: tcp, multiport: ", "22-21", "port-range", "write 21-22"),
        ("protocol: tcp, multiport: ", "'22,,23'", "ports", 'write as in "22-24,25"'),
        ("protocol: tcp, multiport: ", "'22, 23'", "ports", 'write as in "22-24,25"'),
        ("protocol: tcp, multiport: ", "1-2-3", "ports", 'write as in "22-24,25"'),
        ("protocol: tcp, multiport: ", "-1", "ports", "leave the field out"),
        ("protocol: tcp, multiport: ", "-5", "ports", 'write as in "22-24,25"'),
        ("protocol: tcp, multiport: ", "'080'", "ports", 'write as in "22-24,25"'),
        ("protocol: tcp, multiport: ", "'٣'", "ports", 'write as in "22-24,25"'),
        ("protocol: tcp, multiport: ", "''", "ports", "leave the field out"),
        ("protocol: tcp, multiport: ", "true", "ports", 'write text such as "22-24,25"'),
        ("protocol: tcp, multiport: ", "[80]", "not-a-scalar", "write no list or mapping"),
        ("protocol: tcp, multiport: ", f"'{TWENTY_ONE}'", "too-many-ports", "two rules"),
        ("protocol: tcp, multiport: ", "'22,80,22'", "port-twice", "remove one"),
        ("protocol: tcp, multiport: ", "'22,22-22'", "port-twice", "remove one"),
        ("protocol: icmp, multiport: ", "80", "ports-without-protocol", "write tcp"),
        ("protocol: 112, multiport: ", "80", "ports-without-protocol", "remove multiport"),
        ("multiport: ", "80", "ports-without-protocol", "write tcp"),
        ("priority: ", "0", "priority", "write a whole number in that range"),
        ("priority: ", "101", "priority", "write a whole number in that range"),
        ("priority: ", "true", "priority", "write a whole number in that range"),
        ("priority: ", "1.0", "priority", "write a whole number in that range"),
        ("priority: ", "'01'", "priority", "write a whole number in that range"),
        ("priority: ", "'\uff11'", "priority", "write a whole number in that range"),
        ("direction: ", "in", "direction", "write ingress or egress"),
        ("direction: ", "Ingress", "direction", "write ingress or egress"),
        ("action: ", "drop", "action", "write allow or deny"),
        ("action: ", "false", "action", "write allow or deny"),
        ("ethertype: ", "IPv5", "ethertype", "write IPv4 or IPv6"),
        ("ethertype: ", "4", "ethertype", "write IPv4 or IPv6"),
        ("protocol: ", "256", "protocol", "write a name such as tcp, or 0 to 255"),
        ("protocol: ", "-1", "protocol", "leave protocol out"),
        ("protocol: ", "any", "protocol", "leave protocol out"),
        ("protocol: ", "All", "protocol", "leave protocol out"),
        ("protocol: ", '""', "protocol", "leave protocol out"),
        ("protocol: ", "tpc", "protocol", "did you mean tcp?"),
        ("protocol: ", "true", "protocol", "write a name such as tcp, or 0 to 255"),
        ("protocol: ", "6.0", "protocol", "write a name such as tcp, or 0 to 255"),
        ("ethertype: IPv6, protocol: ", "icmp", "icmp-family", "write icmpv6"),
        ("ethertype: IPv6, protocol: ", "1", "icmp-family", "write icmpv6"),
        ("protocol: ", "icmpv6", "icmp-family", "write icmp, or ethertype IPv6"),
        ("protocol: ", "58", "icmp-family", "write icmp, or ethertype IPv6"),
        ("protocol: icmp, icmp_type: ", "256", "icmp-number", "whole number in that range"),
        ("protocol: icmp, icmp_type: ", "-1", "icmp-number", "whole number in that range"),
        ("protocol: icmp, icmp_type: ", "false", "icmp-number", "whole number in that range"),
        ("protocol: icmp, icmp_code: ", "0", "code-without-type", "add icmp_type"),
        ("protocol: tcp, icmp_type: ", "8", "icmp-without-protocol", "write protocol icmp"),
        ("icmp_type: ", "8", "icmp-without-protocol", "write protocol icmp"),
        ("remote_ip_prefix: ", "10.0.0.0/33", "prefix-length", "write /0 to /32"),
        ("remote_ip_prefix: ", "10.0.0.0/08", "prefix-length", "write /0 to /32"),
        ("remote_ip_prefix: ", "10.0.0.0/", "prefix-length", "write /0 to /32"),
        ("remote_ip_prefix: ", "10.0.0.0/255.0.0.0", "prefix-length", "write /0 to /32"),
        ("remote_ip_prefix: ", "10.0.0.1/8", "host-bits", "write 10.0.0.0/8"),
        ("remote_ip_prefix: ", "10.0.0.1/0", "host-bits", "write 0.0.0.0/0"),
        ("remote_ip_prefix: ", "10.0.0", "address", "write one such as 192.168.0.11"),
        ("remote_ip_prefix: ", "10", "address", "write one such as 192.168.0.11"),
        ("remote_ip_prefix: ", "example.org", "address", "write one such as 192.168.0.11"),
        ("remote_ip_prefix: ", "' 10.0.0.1'", "address", "write one such as 192.168.0.11"),
        ("remote_ip_prefix: ", "010.0.0.1", "leading-zero", "write every part without them"),
        ("remote_ip_prefix: ", "10.0.0.01/32", "leading-zero", "write every part without them"),
        ("remote_ip_prefix: ", "'2001:db8::/32'", "peer-family", "add ethertype: IPv6"),
        ("ethertype: IPv6, remote_ip_prefix: ", "10.0.0.0/8", "peer-family", "ethertype: IPv4"),
        ("remote_ip_prefix: ", "'::ffff:10.0.0.1'", "ipv4-mapped", "write 10.0.0.1"),
        ("remote_ip_prefix: ", "'::ffff:0:0/96'", "ipv4-mapped", "write 0.0.0.0"),
        ("ethertype: IPv6, remote_ip_prefix: ", "'fe80::1%eth0'", "zone-id", "write fe80::1"),
        ("ethertype: IPv6, remote_ip_prefix: ", "'2001:db8::1/32'", "host-bits", "2001:db8::/32"),
        ("ethertype: IPv6, remote_ip_prefix: ", "'::/129'", "prefix-length", "/0 to /128"),
        ("remote_ip_prefix: 10.0.0.0/8, remote_group_id: ", "g", "two-peers", "remove one"),
        ("remote_group_id: g, remote_address_group_id: ", "four", "two-peers", "remove one"),
        ("remote_group_id: ", "''", "id", "write at least one character"),
        ("remote_group_id: ", "7", "id", "put it in quotes"),
        ("remote_address_group_id: ", "six", "peer-family", "add ethertype: IPv6"),
        ("enabled: ", "yes", "boolean", "write true or false"),
        ("enabled: ", "0", "boolean", "write true or false"),
        ("enabled: ", '"true"', "boolean", "write true or false"),
        ("description: ", "a<b", "description", "remove it"),
        ("description: ", "'a>b'", "description", "remove it"),
        ("description: ", '"a\\nb"', "control-character", "remove it"),
        ("description: ", "x" * 256, "description", "shorten it to at most 255"),
        ("id: ", '""', "id", "write at least one character"),
        ("id: ", '"a\\0"', "control-character", "remove it"),
        ("id: ", '"\\x85"', "control-character", "remove it"),
        ("id: ", "12", "id", "put it in quotes"),
        ("id: ", "x" * 256, "id", "shorten it to at most 255"),
        ("id: ", "{}", "not-a-scalar", "write no list or mapping"),
    ],
)
def test_hostile_rules_are_refused_in_their_place(
    fields: str, value: str, code: str, remedy: str
) -> None:
    needed = "" if fields.startswith("direction") else "direction: ingress, "
    found = problems(in_group("{direction: egress}", f"{{{needed}{fields}{value}}}"))
    assert len(found) == 1, found
    place = (found[0].file, found[0].line, found[0].column)
    assert place == ("f0.yaml", 8, 8 + len(needed) + len(fields))
    assert (found[0].code, found[0].severity) == (code, "error")
    assert remedy in found[0].message


def test_missing_rule_ids_come_from_the_content() -> None:
    one = rules("{direction: ingress}", "{direction: egress}")
    assert all(re.fullmatch("rule-[0-9a-f]{16}", each.id) for each in one)
    other = rules(
        "{direction: egress, description: x, enabled: false}",
        "{direction: ingress, priority: '1', ethertype: ipv4, action: allow, protocol: null}",
    )
    assert {each.id for each in one} == {each.id for each in other}
    assert {each.id for each in rules("{direction: ingress, priority: 2}")}.isdisjoint(
        each.id for each in one
    )


def test_doubled_rules_are_refused() -> None:
    found = problems(in_group("{direction: ingress}", "{direction: ingress, priority: 1}"))
    assert [(p.line, p.column, p.code) for p in found] == [(8, 7, "same-rule-twice")]
    found = problems(in_group("{id: a, direction: ingress}", "{id: a, direction: egress}"))
    assert [(p.line, p.column, p.code) for p in found] == [(8, 7, "duplicate-id")]
    assert "f0.yaml:7:7" in found[0].message


def test_unset_fields_stay_at_their_defaults() -> None:
    assert rule("") == Rule(id="r", direction=Direction.INGRESS, peer=AnyPeer())
