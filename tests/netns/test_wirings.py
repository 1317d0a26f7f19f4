"""How a lab's ports hang on its host: routed, switched, behind it as a gateway, on islands; and moves."""

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from itertools import permutations

import pytest

from secgroupd.core.model import ICMP, ICMPV6, TCP, UDP, Address
from secgroupd.proving.namespaces import BRIDGE, Attachment, Kind, Lab, Wiring
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Probe, run_probes
from secgroupd.proving.wiring import BRIDGE_MAC, GATEWAYS, own_addresses

pytestmark = pytest.mark.netns

OUTSIDE = ("203.0.113.9", "2001:db8:9::9")
HOST = (GATEWAYS[0], ip_address("2001:db8:1::1"))
IP_LINKS = ["ip", "-d", "-j", "link"]
PATIENCE = 2.0
"""Seconds without news after which what must arrive is lost."""

End = tuple[Namespace, tuple[Address, ...]]

every_wiring = pytest.mark.parametrize("wired", Wiring)


def made(wired: Wiring, kind: Kind = "veth", count: int = 3) -> Lab:
    """A lab with ports tap1, tap2... and an address outside, in both families."""
    lab = Lab(wired=wired)
    for at in range(1, count + 1):
        lab.add_port(interface=f"tap{at}", addresses=[f"10.0.0.{at}", f"fd00::{at}"], kind=kind)
    for address in OUTSIDE:
        lab.outside_address(address)
    own_addresses(lab.hv, 1, HOST[1:])
    return lab


def end(one: Attachment) -> End:
    return one.namespace, one.addresses


def everybody(lab: Lab) -> list[End]:
    """Every instance, the outside and the host."""
    attached = [*lab.ports.values(), *lab.uplinks.values()]
    return [*map(end, attached), (lab.hv, HOST)]


def between(source: End, destination: End) -> Iterator[Probe]:
    """In both families, in every way that is answered."""
    for one, other in zip(source[1], destination[1], strict=True):
        for protocol in (TCP, UDP, ICMP if one.version == 4 else ICMPV6):
            yield Probe(
                source=source[0],
                source_address=one,
                destination=destination[0],
                destination_address=other,
                protocol=protocol,
                dport=4242 if protocol in {TCP, UDP} else None,
            )


def all_pairs(ends: Iterable[End]) -> list[Probe]:
    return [one for pair in permutations(ends, 2) for one in between(*pair)]


def lost(probes: Iterable[Probe], patience: float = PATIENCE) -> list[str]:
    sent = list(probes)
    return [
        f"{one.source_address} to {one.destination_address}, {one.method}"
        for one, seen in zip(sent, run_probes(sent, timeout=patience), strict=True)
        if not seen.connected
    ]


def reaches(one: End, other: End) -> bool:
    """Whether everything arrives and is answered (and not only some of it)."""
    probes = list(between(one, other))
    missing = lost(probes, 0.4)
    assert len(missing) in {0, len(probes)}, missing
    return not missing


@pytest.mark.parametrize("kind", ["veth", "tap"])
@every_wiring
def test_everybody_reaches_everybody(wired: Wiring, kind: Kind) -> None:
    with made(wired, kind) as lab:
        assert lost(all_pairs(everybody(lab))) == []


@every_wiring
def test_what_the_host_forwards_and_what_the_bridge_switches(wired: Wiring) -> None:
    with made(wired) as lab:
        drop = "table inet t { chain c { type filter hook prerouting priority 0; drop; }; }"
        lab.hv.run(["nft", "-f", "-"], stdin=drop)
        one, other = (end(lab.ports[name]) for name in ("tap1", "tap2"))
        outside = end(lab.uplinks["uplink0"])
        assert reaches(one, other) is (wired is not Wiring.ROUTED)
        assert reaches(one, outside) is reaches(outside, one) is (wired is Wiring.SWITCHED)
        assert not reaches(one, (lab.hv, HOST))


@every_wiring
def test_ends_say_where_they_are(wired: Wiring) -> None:
    with made(wired) as lab:
        inside = None if wired is Wiring.ROUTED else BRIDGE
        assert {one.bridge for one in lab.ports.values()} == {inside}
        outward = BRIDGE if wired is Wiring.SWITCHED else None
        assert {one.bridge for one in lab.uplinks.values()} == {outward}
        assert set(lab.bridges) == ({inside} - {None})
        links = {link["ifname"]: link for link in json.loads(lab.hv.run(IP_LINKS).stdout)}
        for one in (*lab.ports.values(), *lab.uplinks.values()):
            assert links[one.interface].get("master") == one.bridge
            assert links[one.interface]["address"] == one.host_mac
        for name in lab.bridges:
            assert links[name]["address"] == BRIDGE_MAC
            data = links[name]["linkinfo"]["info_data"]
            assert (data["stp_state"], data["forward_delay"], data["mcast_snooping"]) == (0, 0, 0)


def test_neighbours_on_a_bridge_are_known_by_their_own_macs() -> None:
    with made(Wiring.SWITCHED) as lab:
        attached = [*lab.ports.values(), *lab.uplinks.values()]
        for one in attached:
            listed = json.loads(one.namespace.run(["ip", "-j", "neighbour"]).stdout)
            known = {
                (ip_address(each["dst"]), each["lladdr"])
                for each in listed
                if "PERMANENT" in each["state"]
            }
            expected = {
                (address, other.mac)
                for other in attached
                if other is not one
                for address in other.addresses
            }
            assert known == expected | {(gateway, BRIDGE_MAC) for gateway in GATEWAYS}


@every_wiring
def test_a_bridged_port_has_no_address_and_a_routed_one_is_the_gateway(wired: Wiring) -> None:
    def addresses(lab: Lab) -> list[str]:
        listed = json.loads(lab.hv.run(["ip", "-j", "address", "show", "dev", "tap1"]).stdout)
        return [each["local"] for each in listed[0]["addr_info"]]

    with made(wired, count=1) as lab:
        for _ in range(4):
            bridged = lab.ports["tap1"].bridge is not None
            assert ("fe80::1" in addresses(lab)) is not bridged
            assert bool(addresses(lab)) is not bridged
            if bridged:
                lab.unplug("tap1")
            else:
                lab.plug("tap1", BRIDGE)


@pytest.mark.parametrize("kind", ["veth", "tap"])
@every_wiring
def test_a_moved_port_reaches_everybody_and_is_reached(wired: Wiring, kind: Kind) -> None:
    with made(wired, kind) as lab:
        for bridge in (None, BRIDGE, None, BRIDGE):
            moved = lab.unplug("tap1") if bridge is None else lab.plug("tap1", bridge)
            assert moved == lab.ports["tap1"]
            assert moved.bridge == bridge
            assert lost(all_pairs(everybody(lab))) == []
        # Staying where it is changes nothing.
        assert lab.plug("tap1", BRIDGE) == lab.plug("tap1", BRIDGE)
        assert lost(all_pairs(everybody(lab))) == []


@every_wiring
def test_an_uplink_moves_like_a_port(wired: Wiring) -> None:
    with made(wired) as lab:
        for bridge in (BRIDGE, None, BRIDGE):
            moved = lab.unplug("uplink0") if bridge is None else lab.plug("uplink0", bridge)
            assert moved == lab.uplinks["uplink0"]
            assert moved.bridge == bridge
            assert lost(all_pairs(everybody(lab))) == []


@every_wiring
def test_an_island_is_reached_from_itself_only(wired: Wiring) -> None:
    with made(wired) as lab:
        moved = lab.plug("tap1", "island")
        fellow = lab.add_port(
            interface="fellow", addresses=["10.0.0.9", "fd00::9"], bridge="island"
        )
        assert moved.island == fellow.island == "island"
        for one in (lab.ports["tap2"], lab.uplinks["uplink0"]):
            assert not reaches(end(moved), end(one))
            assert not reaches(end(one), end(moved))
        assert lost(all_pairs([end(moved), end(fellow)])) == []
        lab.plug("uplink0", "island")
        assert lost(all_pairs([end(moved), end(fellow), end(lab.uplinks["uplink0"])])) == []
        back = lab.unplug("tap1")
        assert reaches(end(back), end(lab.ports["tap2"]))
        assert not reaches(end(back), end(fellow))


@every_wiring
def test_islands_use_the_same_addresses_without_meeting(wired: Wiring) -> None:
    with Lab(wired=wired) as lab:
        places = {
            bridge: [
                lab.add_port(
                    interface=f"tap{number}-{bridge}",
                    addresses=[f"10.0.0.{number}", f"fd00::{number}"],
                    bridge=bridge,
                )
                for number in (1, 2)
            ]
            for bridge in (None, "red", "blue")
        }
        for here in places.values():
            assert lost(all_pairs(map(end, here))) == []
            for there in places.values():
                if there is not here:
                    strays = run_probes(list(between(end(here[0]), end(there[1]))), timeout=0.4)
                    assert not any(seen.delivered for seen in strays)


def test_what_could_mean_two_is_refused_and_leaves_nothing() -> None:
    with made(Wiring.SWITCHED) as lab:
        lab.add_port(interface="r1", addresses=["10.0.0.1"], bridge="red")
        before = lab.hv.run(["ip", "-j", "link"]).stdout
        taken = lab.ports["tap1"].mac
        with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
            lab.add_port(interface="r2", addresses=["10.0.0.1"], bridge="red")
        with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
            lab.add_port(interface="tap9", addresses=["10.0.0.1"])
        with pytest.raises(ValueError, match=taken):
            lab.add_port(interface="tap9", mac=taken.upper())
        with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
            lab.plug("r1", BRIDGE)
        with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
            lab.unplug("r1")
        with pytest.raises(ValueError, match=r"10\.0\.0\.2"):
            lab.lead("10.0.0.2", "tap1")
        for name in (BRIDGE, "red"):
            with pytest.raises(ValueError, match="already has an interface"):
                lab.add_port(interface=name)
        with pytest.raises(ValueError, match="already has an interface"):
            lab.plug("tap1", "tap2")
        with pytest.raises(ValueError, match="no interface can be named"):
            lab.plug("tap1", "a/b")
        with pytest.raises(KeyError):
            lab.plug("tap9", BRIDGE)
        with pytest.raises(KeyError):
            lab.unplug("tap9")
        assert lab.hv.run(["ip", "-j", "link"]).stdout == before
        assert lost(all_pairs(everybody(lab)[:3])) == []
        # A MAC may be used again where no frame could mean both.
        assert lab.add_port(interface="r2", mac=taken, bridge="red").mac == taken


@every_wiring
def test_an_address_can_be_led_to_an_instance_that_lacks_it(wired: Wiring) -> None:
    with made(wired) as lab:
        virtual = (ip_address("10.0.0.99"), ip_address("fd00::99"))
        for address in virtual:
            lab.lead(address, "tap1")
        sources = [end(lab.ports["tap2"]), end(lab.uplinks["uplink0"])]
        probes = [
            p for one in sources for p in between(one, (lab.ports["tap1"].namespace, virtual))
        ]
        seen = run_probes(probes, timeout=PATIENCE)
        assert all(one.delivered and not one.answered for one in seen)


def test_macs_that_nobody_named_are_not_those_that_somebody_did() -> None:
    with Lab() as trial:
        first, second = (trial.add_port(interface=f"tap{at}").mac for at in (1, 2))
    assert first != second
    with Lab(wired=Wiring.SWITCHED) as lab:
        lab.add_port(interface="named", mac=second)
        others = {lab.add_port(interface=f"tap{at}").mac for at in (1, 2)}
        assert second not in others
        assert len({*others, lab.uplinks["uplink0"].mac}) == 3


@every_wiring
def test_a_removed_port_leaves_no_way_behind(wired: Wiring) -> None:
    def ways(lab: Lab) -> list[str]:
        spaces = [lab.hv, lab.outside, lab.ports["tap2"].namespace]
        show = (
            ["ip", "route"],
            ["ip", "-6", "route"],
            ["ip", "neighbour", "show", "nud", "permanent"],
        )
        return [space.run(argv).stdout for space in spaces for argv in show]

    with made(wired, count=2) as lab:
        before = ways(lab)
        lab.add_port(interface="tap3", addresses=["10.0.0.3", "fd00::3"])
        assert ways(lab) != before
        lab.remove_port("tap3")
        assert ways(lab) == before
