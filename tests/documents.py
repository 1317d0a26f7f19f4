"""State documents that tests start from, and what parsing them gives."""

import pytest

from secgroupd.core.document import Limits, Parsed, Source, parse
from secgroupd.core.model import (
    Port,
    Rule,
)
from secgroupd.errors import DocumentError, Problem

EXAMPLE = """\
version: 1
vpcs:
  - {id: vpc-x, name: VPC-X, uplinks: [bond0.100]}
  - {id: vpc-y}
peerings:
  - {id: peering-ab, vpc_ids: [vpc-y, vpc-x]}
address_groups:
  - {id: ipGroup-A, ip_version: 4, ip_set: [192.168.3.2, 192.168.3.20-192.168.3.100, 192.168.5.0/24]}
security_groups:
  - id: sg-a
    name: Sg-A
    preset: general-purpose-web-server
    rules:
      - {id: a01, direction: ingress, action: allow, priority: 1, ethertype: IPv4, protocol: tcp,
         multiport: "22-24,25", remote_ip_prefix: 192.168.0.0/16}
      - {id: a02, direction: ingress, ethertype: IPv4, remote_group_id: sg-a}
      - {id: a03, direction: ingress, action: deny, protocol: icmp, icmp_type: 8,
         remote_address_group_id: ipGroup-A}
  - {id: sg-b}
instances:
  - id: ecs-a01
    name: web-1
    ports:
      - id: port-a01
        interface: tap3f2c1a90-1b
        host_id: hv1
        vpc_id: vpc-x
        mac_address: "FA:16:3e:00:00:01"
        private_ips: [192.168.0.11, "2001:db8::11"]
        security_groups: [sg-b, sg-a]
        allowed_address_pairs: [{ip_address: 192.168.0.21}]
        port_security_enabled: true
load_balancers:
  - id: elb-1
    vpc_id: vpc-x
    forwards_through: {interface: lb0}
    listeners:
      - {id: l-80, protocol: TCP, protocol_port: 80, transfer_client_ip: true,
         members: [{port_id: port-a01, protocol_port: 8080}]}
"""


def accepted(*texts: str, limits: Limits = Limits.WARN) -> Parsed:
    return parse([Source(f"f{i}.yaml", text) for i, text in enumerate(texts)], limits=limits)


def problems(*texts: str | bytes, limits: Limits = Limits.WARN) -> tuple[Problem, ...]:
    with pytest.raises(DocumentError) as refusal:
        parse([Source(f"f{i}.yaml", text) for i, text in enumerate(texts)], limits=limits)
    return refusal.value.problems


def rules(*lines: str) -> tuple[Rule, ...]:
    return accepted(in_group(*lines)).state.security_groups[0].rules


def rule(fields: str) -> Rule:
    return rules(f"{{id: r, direction: ingress{', ' if fields else ''}{fields}}}")[0]


def in_group(*lines: str) -> str:
    """A document with one group; the rules begin at line 7, column 7."""
    head = (
        "version: 1\naddress_groups: [{id: four, ip_version: 4}, {id: six, ip_version: 6}]\n"
        "vpcs: []\nsecurity_groups:\n  - id: g\n    rules:\n"
    )
    return head + "".join(f"    - {line}\n" for line in lines)


def in_port(fields: str) -> str:
    """A document with one port; the fields begin at line 5, column 32."""
    return (
        "version: 1\nvpcs: [{id: v}]\nsecurity_groups: [{id: g}]\n"
        f"instances: [{{id: i, ports: [\n    {{id: p, vpc_id: v,         {fields}}}]}}]\n"
    )


def port(fields: str) -> Port:
    return accepted(in_port(fields)).state.instances[0].ports[0]
