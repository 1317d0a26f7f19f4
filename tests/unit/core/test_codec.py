"""Whatever a document can say survives being written down and read again."""

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.drawing import Drawing

from secgroupd.core.codec import decode, encode
from secgroupd.core.document import Source, parse
from secgroupd.core.model import State

FULL = """
version: 1
vpcs: [{id: v, name: one, uplinks: [bond0]}, {id: w}]
peerings: [{id: vw, vpc_ids: [v, w]}]
address_groups: [{id: a, ip_version: 6, ip_set: ["fd00::1-fd00::9", "fd01::/64"]}]
security_groups:
  - {id: web, preset: general-purpose-web-server}
  - {id: fast, preset: fast-add, preset_ports: "22,80-90", preset_icmp: true}
  - id: g
    rules:
      - {id: r, direction: ingress, ethertype: IPv6, remote_address_group_id: a, priority: 7}
      - {id: s, direction: egress, action: deny, protocol: icmp, icmp_type: 8, enabled: false}
instances:
  - id: i
    ports:
      - {id: p, interface: 'tap"x', vpc_id: v, mac_address: "fa:16:3e:00:00:01",
         private_ips: [10.0.0.1, "fd00::1"], security_groups: [g, web, fast],
         allowed_address_pairs: [{ip_address: 10.0.0.0/30}]}
load_balancers:
  - id: lb
    vpc_id: v
    forwards_through: {fwmark: 7}
    listeners:
      - {id: l, protocol: TCP, protocol_port: 80, transfer_client_ip: true,
         members: [{port_id: p, protocol_port: 8080}]}
"""


def test_every_kind_of_value_comes_back() -> None:
    made = parse([Source("full.yaml", FULL)]).state
    assert decode(State, encode(State, made)) == made


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_drawn_states_come_back(random: Random) -> None:
    made = Drawing(random).state()
    assert decode(State, encode(State, made)) == made
