from dataclasses import replace
from ipaddress import ip_address

from secgroupd.core.document import Source, parse
from secgroupd.core.model import State
from secgroupd.importers.difference import changes

OLD = """
version: 1
vpcs: [{id: v}]
address_groups:
  - {id: ag, ip_version: 4, ip_set: [10.0.0.1, 10.0.1.0/24]}
security_groups:
  - id: g
    name: web
    rules:
      - {id: same, direction: egress}
      - {id: gone, direction: ingress, protocol: tcp, multiport: "22", remote_ip_prefix: 10.0.0.0/8}
      - {id: r, direction: ingress, protocol: tcp, multiport: "80"}
  - {id: old}
instances:
  - id: i
    ports: [{id: p, vpc_id: v, private_ips: [10.0.0.5], security_groups: [g, old]}]
"""
NEW = """
version: 1
vpcs: [{id: v}, {id: w}]
address_groups:
  - {id: ag, ip_version: 4, ip_set: [10.0.0.1, 10.0.2.1-10.0.2.9]}
security_groups:
  - id: g
    name: web servers
    rules:
      - {id: same, direction: egress}
      - {id: r, direction: ingress, action: deny, protocol: udp, multiport: "80-90,99", remote_group_id: g}
      - {id: new, direction: ingress, protocol: icmp, icmp_type: 8}
instances:
  - id: i
    ports: [{id: p, vpc_id: v, private_ips: [10.0.0.6], security_groups: [g], port_security_enabled: false,
             allowed_address_pairs: [{ip_address: 10.0.9.9, mac_address: "02:00:00:00:00:01"}]}]
  - {id: j, name: vm, ports: [{id: q, vpc_id: w}]}
"""


def state(text: str) -> State:
    return parse([Source("f.yaml", text)]).state


def test_a_document_does_not_differ_from_itself() -> None:
    assert list(changes(state(OLD), state(OLD))) == []


def test_every_change_is_a_line() -> None:
    assert list(changes(state(OLD), state(NEW))) == [
        "+ VPC w",
        "~ address group ag: + 10.0.2.1-10.0.2.9",
        "~ address group ag: - 10.0.1.0-10.0.1.255",
        "~ instance i port p: private_ips: 10.0.0.5 -> 10.0.0.6",
        "~ instance i port p: security_groups: g, old -> g",
        "~ instance i port p: allowed_address_pairs: none -> 10.0.9.9/32 02:00:00:00:00:01",
        "~ instance i port p: port_security_enabled: true -> false",
        "+ instance j (vm)",
        "+ instance j port q",
        "~ security group g: name: web -> web servers",
        "- security group g rule gone: ingress allow IPv4 tcp 22 from 10.0.0.0/8",
        "+ security group g rule new: ingress allow IPv4 icmp type 8 from anywhere",
        "~ security group g rule r: action: allow -> deny",
        "~ security group g rule r: protocol: tcp -> udp",
        "~ security group g rule r: ports: 80 -> 80-90, 99",
        "~ security group g rule r: peer: anywhere -> group g",
        "- security group old",
    ]


def test_the_order_of_groups_is_a_change() -> None:
    old = state(OLD)
    (instance,) = old.instances
    (port,) = instance.ports
    turned = replace(port, security_groups=("old", "g"), private_ips=(ip_address("10.0.0.5"),))
    new = replace(old, instances=(replace(instance, ports=(turned,)),))
    assert list(changes(old, new)) == ["~ instance i port p: security_groups: g, old -> old, g"]
