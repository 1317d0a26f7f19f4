"""Ports on a bridge where the kernel does not track bridged connections: closed, and said so."""

from dataclasses import replace
from ipaddress import ip_address

import pytest
from tests.builders import both, group, port, state
from tests.enforcing import bindings, enforcer

from secgroupd.core.bindings import Link, bind
from secgroupd.core.host import Abilities, Bridging
from secgroupd.core.model import TCP, UDP
from secgroupd.core.policy import Policy
from secgroupd.proving import frames
from secgroupd.proving.namespaces import Lab, Wiring
from secgroupd.proving.packets import Probe, run_probes

pytestmark = pytest.mark.netns

MAC = "fa:16:3e:00:00:0a"
OPEN = state(
    [group("g", *both("egress"), *both())],
    [
        replace(port("a", ["g"], ["10.0.0.10", "fd00::10"]), mac_address=MAC),
        port("odd", ["g"], ["10.0.0.11", "fd00::11"], interface='odd"1'),
        port("named", ["g"], ["10.0.0.12", "fd00::12"], interface="eth7"),
    ],
)
FAR = {4: ip_address("203.0.113.9"), 6: ip_address("2001:db8::9")}


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "unclaimed"])
def test_it_is_closed_both_ways_in_both_families(claimed: bool) -> None:
    made = OPEN if claimed else replace(OPEN, instances=OPEN.instances[:1])
    with Lab(wired=Wiring.SWITCHED) as lab, enforcer(lab) as reconciler:
        reconciler._abilities = Abilities(Bridging.CLOSED)
        for instance in made.instances:
            (one,) = instance.ports
            name = one.interface or ""
            lab.add_port(interface=name, addresses=one.private_ips, mac=one.mac_address)
        document = made if claimed else replace(made, instances=())
        reconciler.apply(document, bindings(lab, document))
        probes = [
            Probe(
                source=source,
                source_address=from_,
                destination=destination,
                destination_address=to,
                protocol=protocol,
                dport=80,
            )
            for at in lab.ports.values()
            for own in at.addresses
            for here in [(at.namespace, own)]
            for there in [(lab.outside_address(FAR[own.version]), FAR[own.version])]
            for (source, from_), (destination, to) in ((here, there), (there, here))
            for protocol in (TCP, UDP)
        ]
        assert not any(seen.delivered for seen in run_probes(probes))
        mark = frames.nonce()
        message = frames.arp((MAC, "10.0.0.10"), (MAC, "10.0.0.10"), mark)
        shout = frames.ethernet(MAC, frames.BROADCAST, frames.ARP, message)
        sender = lab.ports["tap-a"].namespace
        listeners = {"outside": lab.outside}
        assert not frames.arrived(sender, {"x": (mark, [shout])}, listeners, patience=0.4)[
            "outside"
        ]


def test_a_port_says_what_is_missing() -> None:
    links = [Link("br0", 1), Link("tap-a", 2, master=1, member_of="bridge")]
    found = bind(Policy(OPEN), "here", links, Abilities(Bridging.CLOSED))
    assert "nf_conntrack_bridge" in found.waiting["a"] and "closed" in found.waiting["a"]
    assert "a" in found.bindings, "it is bound, so that it is closed whatever it is called"
