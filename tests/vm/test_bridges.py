"""Ports on Linux bridges: what floods, what is broadcast, fragments, VPCs apart, hosts like libvirt's."""

import itertools
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.builders import both, group, port, rule, state
from tests.enforcing import bindings, enforce, enforcer
from tests.netns.agents import Agent, agent_on, await_that, document
from tests.netns.conversations import PATIENCE, Conversation, End, exchange
from tests.spoofs import MAC, NEIGHBOUR_MAC

from secgroupd.core.clearing import Scenario
from secgroupd.core.model import ICMP, TCP, UDP, Family, Rule, State
from secgroupd.proving import frames
from secgroupd.proving.attachment import Attachment
from secgroupd.proving.namespaces import BRIDGE, Lab, Wiring
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Probe, probe, run_probes

pytestmark = pytest.mark.vm

THIRD_MAC = "fa:16:3e:00:00:0c"
UNTOLD_MAC = "fa:16:3e:00:00:77"
OUTSIDE = "203.0.113.9"


def build(lab: Lab, made: State, bridges: dict[str, str] | None = None) -> None:
    for instance in made.instances:
        for one in instance.ports:
            name = one.interface or ""
            on = (bridges or {}).get(one.id)
            lab.add_port(interface=name, addresses=one.private_ips, mac=one.mac_address, bridge=on)


def flow(
    source: tuple[Namespace, str],
    destination: tuple[Namespace, str],
    protocol: int,
    dport: int | None,
) -> Probe:
    return Probe(
        source=source[0],
        source_address=ip_address(source[1]),
        destination=destination[0],
        destination_address=ip_address(destination[1]),
        protocol=protocol,
        dport=dport,
    )


def udp(ports: str) -> list[Rule]:
    return [rule("ingress", UDP, ports, family=family) for family in Family]


def trio() -> State:
    """Two ports that accept UDP 1000, one of which also 2000, and one that accepts all."""
    groups = [
        group("some", *both("egress"), *udp("1000")),
        group("more", *udp("2000")),
        group("all", *both("egress"), *both()),
    ]
    ports = [
        replace(port("a", ["some"], ["10.0.0.10", "fd00::10"]), mac_address=MAC),
        replace(port("b", ["some", "more"], ["10.0.0.11", "fd00::11"]), mac_address=NEIGHBOUR_MAC),
        replace(port("c", ["all"], ["10.0.0.12", "fd00::12"]), mac_address=THIRD_MAC),
    ]
    return state(groups, ports)


def test_what_a_bridge_floods_reaches_nobody_else_and_stamps_nothing() -> None:
    made = trio()
    with Lab(wired=Wiring.SWITCHED) as lab:
        build(lab, made)
        forgetful(lab)
        outside = lab.outside_address(OUTSIDE)
        listeners = {name: at.namespace for name, at in lab.ports.items()}
        mark = frames.nonce()
        ends = (ip_address(OUTSIDE), ip_address("10.0.0.10"))
        packet = frames.udp(*ends, 4000, 2000, mark)
        frame = frames.ethernet(lab.uplinks["uplink0"].mac, MAC, frames.IPV4, packet)
        sent = {"x": (mark, [frame])}
        before = frames.arrived(outside, sent, listeners, patience=2.0)
        assert before == {name: {"x"} for name in listeners}, "it floods"
        enforce(lab, made)
        seen = frames.arrived(outside, sent, listeners, patience=2.0)
        assert seen == dict.fromkeys(listeners, frozenset()), "it is for a, which denies it"
        # Had c's copy been judged by its rules, the connection would be stamped now.
        marks = re.findall(r"dport=2000.* mark=(\d+)", connections(lab))
        assert {int(found) for found in marks} <= {0}
        allowed = frames.udp(*ends, 4000, 1000, mark)
        frame = frames.ethernet(lab.uplinks["uplink0"].mac, MAC, frames.IPV4, allowed)
        seen = frames.arrived(outside, {"x": (mark, [frame])}, listeners, patience=2.0)
        assert {name for name, names in seen.items() if names} == {"tap-a"}


def forgetful(lab: Lab) -> None:
    """Have the bridge learn nothing, so that it sends every frame to every port."""
    for name in ("uplink0", *lab.ports):
        lab.hv.run(["bridge", "link", "set", "dev", name, "learning", "off"])
    lab.hv.run(["ip", "link", "set", BRIDGE, "type", "bridge", "fdb_flush"])


def test_what_a_bridge_floods_of_a_connection_reaches_no_interface_that_is_closed() -> None:
    made = trio()
    with Lab(wired=Wiring.SWITCHED) as lab:
        build(lab, made)
        enforce(lab, made)
        lab.add_port(interface="tap-x", addresses=["10.0.0.13"])
        forgetful(lab)
        outside = lab.outside_address(OUTSIDE)
        own = lab.uplinks["uplink0"].mac
        listeners = {"outside": outside} | {n: at.namespace for n, at in lab.ports.items()}
        there, here = ip_address(OUTSIDE), ip_address("10.0.0.10")
        mark = frames.nonce()
        asked = frames.ethernet(own, MAC, frames.IPV4, frames.udp(there, here, 4000, 1000, mark))
        answer = frames.ethernet(MAC, own, frames.IPV4, frames.udp(here, there, 1000, 4000, mark))
        for sender, frame, whom in (
            (outside, asked, {"tap-a"}),
            (lab.ports["tap-a"].namespace, answer, {"outside"}),
            (outside, asked, {"tap-a"}),
        ):
            others = {n: at for n, at in listeners.items() if at is not sender}
            seen = frames.arrived(sender, {"x": (mark, [frame])}, others, patience=2.0)
            assert {name for name, names in seen.items() if names} == whom


def test_what_is_for_a_mac_that_nobody_told_reaches_who_may_have_any() -> None:
    groups = [group("all", *both("egress"), *both())]
    ports = [
        replace(port("told", ["all"], ["10.0.0.10"]), mac_address=MAC),
        port("by-address", ["all"], ["10.0.0.11"]),
        replace(port("any", ["all"], ["10.0.0.12"]), mac_address=NEIGHBOUR_MAC, source_check=False),
        port("free", [], ["10.0.0.13"], mac=THIRD_MAC, security=False),
    ]
    made = state(groups, ports)
    with Lab(wired=Wiring.SWITCHED) as lab:
        build(lab, made)
        enforce(lab, made)
        lab.add_port(interface="tap-x", addresses=["10.0.0.14"])
        forgetful(lab)
        outside = lab.outside_address(OUTSIDE)
        own = lab.uplinks["uplink0"].mac
        listeners = {name: at.namespace for name, at in lab.ports.items()}
        sent = {}
        for target in ("10.0.0.10", "10.0.0.11", "10.0.0.99"):
            mark = frames.nonce()
            packet = frames.udp(ip_address(OUTSIDE), ip_address(target), 4000, 1000, mark)
            sent[target] = mark, [frames.ethernet(own, UNTOLD_MAC, frames.IPV4, packet)]
        assert frames.arrived(outside, sent, listeners, patience=2.0) == {
            "tap-told": set(),
            "tap-by-address": {"10.0.0.11"},
            "tap-any": sent.keys(),
            "tap-free": sent.keys(),
            "tap-x": set(),
        }


def connections(lab: Lab) -> str:
    return lab.hv.run(["conntrack", "-L"]).stdout


@pytest.mark.parametrize(
    ("target", "mac"), [("255.255.255.255", frames.BROADCAST), ("224.0.0.251", "01:00:5e:00:00:fb")]
)
def test_broadcast_and_multicast_reach_whom_the_rules_let_them(target: str, mac: str) -> None:
    made = trio()
    with Lab(wired=Wiring.SWITCHED) as lab:
        build(lab, made)
        enforce(lab, made)
        outside = lab.outside_address(OUTSIDE)
        listeners = {name: at.namespace for name, at in lab.ports.items()}
        sent = {}
        for number in (1000, 2000, 3000):
            mark = frames.nonce()
            packet = frames.udp(ip_address(OUTSIDE), ip_address(target), 4000, number, mark)
            whole = frames.ethernet(lab.uplinks["uplink0"].mac, mac, frames.IPV4, packet)
            sent[str(number)] = (mark, [whole])
        expected = {
            "tap-a": {"1000"},
            "tap-b": {"1000", "2000"},
            "tap-c": {"1000", "2000", "3000"},
        }
        for _ in range(2):  # the second time, all of it belongs to a tracked connection
            assert frames.arrived(outside, sent, listeners, patience=2.0) == expected


@pytest.mark.parametrize("wired", Wiring)
@pytest.mark.parametrize("version", [4, 6])
def test_fragments_are_judged_like_whole_packets(wired: Wiring, version: int) -> None:
    made = trio()
    own, client = ("10.0.0.11", OUTSIDE) if version == 4 else ("fd00::11", "2001:db8::9")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with Lab(wired=wired) as lab:
        build(lab, made)
        outside, instance = lab.outside_address(client), lab.ports["tap-b"].namespace
        enforce(lab, made)
        with (
            outside.socket(family, socket.SOCK_DGRAM) as caller,
            instance.socket(family, socket.SOCK_DGRAM) as allowed,
            instance.socket(family, socket.SOCK_DGRAM) as denied,
        ):
            caller.bind((client, 0))
            allowed.bind((own, 2000))
            denied.bind((own, 3000))
            large = bytes(4000)
            caller.sendto(large, (own, 3000))
            caller.sendto(large, (own, 2000))
            allowed.settimeout(PATIENCE)
            got, peer = allowed.recvfrom(65536)
            assert got == large
            allowed.sendto(large, peer)
            caller.settimeout(PATIENCE)
            assert caller.recv(65536) == large, "the answer, in fragments too, passes"
            with pytest.raises(BlockingIOError):
                denied.recv(65536)


def test_an_interface_that_no_port_claims_is_closed_from_its_first_frame() -> None:
    made = trio()
    with Lab(wired=Wiring.SWITCHED) as lab:
        build(lab, made)
        enforce(lab, made)
        lab.add_port(interface="tapnew", addresses=["10.0.0.99", "fd00::99"])
        lab.add_port(interface="other", addresses=["10.0.0.98", "fd00::98"])
        stranger, other = lab.ports["tapnew"], lab.ports["other"].namespace
        third = lab.ports["tap-c"].namespace
        message = frames.arp(
            (stranger.mac, "10.0.0.99"), (stranger.mac, "10.0.0.99"), mark := frames.nonce()
        )
        shout = frames.ethernet(stranger.mac, frames.BROADCAST, frames.ARP, message)
        listeners = {"c": third, "other": other, "outside": lab.outside}
        seen = frames.arrived(stranger.namespace, {"x": (mark, [shout])}, listeners, patience=2.0)
        assert not any(seen.values()), "not even ARP"
        probes = [
            flow((stranger.namespace, "10.0.0.99"), (third, "10.0.0.12"), TCP, 80),
            flow((third, "fd00::12"), (stranger.namespace, "fd00::99"), UDP, 80),
            flow((third, "10.0.0.12"), (other, "10.0.0.98"), UDP, 80),
        ]
        assert [one.delivered for one in run_probes(probes)] == [False, False, True]


def vpcs(*, denied: bool) -> State:
    """Two VPCs that are alike to the last address; one of them may deny what both allow."""
    groups = []
    for vpc in "xy":
        remote = "ingress", UDP, "1000", f"sg:g{vpc}"
        rules = [*both("egress"), rule(*remote, rule_id="in", priority=9)]
        if denied and vpc == "x":
            rules.append(rule("ingress", UDP, "1000", action="deny", rule_id="deny"))
        groups.append(group(f"g{vpc}", *rules))
    ports = [
        replace(port(f"{vpc}{at}", [f"g{vpc}"], [f"10.0.0.{at}"], vpc=vpc), mac_address=mac)
        for vpc, first in (("x", "aa"), ("y", "bb"))
        for at, mac in ((1, f"fa:16:3e:{first}:00:01"), (2, f"fa:16:3e:{first}:00:02"))
    ]
    return state(groups, ports)


def talk_in(lab: Lab, vpc: str, ends: list[socket.socket]) -> Conversation:
    """An exchange whose ports are the same in every VPC."""
    made = []
    for at, number in ((1, 5555), (2, 1000)):
        namespace = lab.ports[f"tap-{vpc}{at}"].namespace
        one = namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ends.append(one)
        one.bind((f"10.0.0.{at}", number))
        one.connect((f"10.0.0.{3 - at}", 6555 - number))
        made.append(End(one))
    talk = Conversation(f"udp in {vpc}", *made)
    for speaker in ("client", "server", "client", "server"):
        assert exchange([talk], speaker) == {talk.name}
    return talk


def test_two_vpcs_with_the_same_addresses_never_touch_each_other() -> None:
    first, after = vpcs(denied=False), vpcs(denied=True)
    ends: list[socket.socket] = []
    with Lab(wired=Wiring.GATEWAY) as lab, enforcer(lab) as reconciler:
        build(lab, first, {f"{vpc}{at}": f"br{vpc}" for vpc in "xy" for at in (1, 2)})
        reconciler.apply(first, bindings(lab, first))
        try:
            in_x, in_y = talk_in(lab, "x", ends), talk_in(lab, "y", ends)
            zones = set(re.findall(r"sport=5555 dport=1000 .*zone=(\d+)", connections(lab)))
            assert len(zones) == 2 and "0" not in zones
            outcome = reconciler.apply(after, bindings(lab, after))
            assert set(outcome.cleared) == {"x1", "x2"}
            assert Scenario.RULE_ADDED in outcome.cleared["x1"]
            for speaker in ("server", "client"):
                assert exchange([in_x, in_y], speaker, expected=1) == {in_y.name}
            with enforcer(lab, reconciler.memory) as restarted:
                assert not restarted.apply(after, bindings(lab, after)).plan
            back = reconciler.apply(first, bindings(lab, first))
            assert set(back.cleared) <= {"x1", "x2"}
            assert exchange([in_x, in_y], "client") == {in_x.name, in_y.name}
            again = set(re.findall(r"sport=5555 dport=1000 .*zone=(\d+)", connections(lab)))
            assert again == zones
        finally:
            for one in ends:
                one.close()


APART = {"b": "brb", "c": "brc"}
"""The host routes to one port itself, and to two behind a bridge each, of which it is the gateway."""
TOGETHER = dict.fromkeys("abc", "brx")
"""All are on one bridge, and reach each other there."""
BEHIND_ONE = {"a": "br0", "b": "br0"}
"""Two are on one bridge, whose gateway is the host, and reach each other through it."""


@pytest.mark.parametrize("filtered", [0, 1], ids=["", "br_netfilter"])
@pytest.mark.parametrize(
    "bridges", [APART, TOGETHER, BEHIND_ONE], ids=["apart", "together", "behind one"]
)
@pytest.mark.parametrize("peerings", [[], [("b", "c")], [("a", "b"), ("b", "c")]])
def test_only_vpcs_that_see_each_other_are_connected(
    peerings: list[tuple[str, str]], bridges: dict[str, str], filtered: int
) -> None:
    ports = [
        port(vpc, ["open"], [f"10.{n}.0.1", f"fd0{n}::1"], vpc=vpc)
        for n, vpc in enumerate("abc", start=1)
    ]
    made = state([group("open", *both("egress"), *both())], ports, peerings=peerings)
    with Lab(wired=Wiring.ROUTED) as lab:
        build(lab, made, bridges)
        subprocess.run(["modprobe", "br_netfilter"], check=True)
        for name in ("iptables", "ip6tables"):
            lab.hv.write_sysctl(f"bridge/bridge-nf-call-{name}", filtered)
        if bridges is APART:
            for at in (lab.ports["tap-b"], lab.ports["tap-c"]):
                be_gateway_of(lab, at)
        if bridges is BEHIND_ONE:
            forget_each_other(lab.ports["tap-a"], lab.ports["tap-b"])
        enforce(lab, made)
        probes = {
            (one.id, other.id, version): flow(
                (lab.ports[one.interface or ""].namespace, str(one.private_ips[version])),
                (lab.ports[other.interface or ""].namespace, str(other.private_ips[version])),
                TCP,
                80,
            )
            for one, other in itertools.permutations(ports, 2)
            for version in (0, 1)
        }
        seen = run_probes(list(probes.values()))
    connected = [key for key, one in zip(probes, seen, strict=True) if one.connected]
    wanted = {*peerings, *(pair[::-1] for pair in peerings)}
    assert sorted(connected) == sorted((*pair, version) for pair in wanted for version in (0, 1))


def be_gateway_of(lab: Lab, at: Attachment) -> None:
    """Let the host route to an instance on an island."""
    on = ["dev", at.bridge or ""]
    for address in at.addresses:
        lab.hv.run(["ip", "route", "add", str(address), *on])
        neighbour = [str(address), *on, "lladdr", at.mac, "nud", "permanent"]
        lab.hv.run(["ip", "neigh", "add", *neighbour])


def forget_each_other(*on_one_bridge: Attachment) -> None:
    """Let instances reach each other over their gateway alone."""
    for one, other in itertools.permutations(on_one_bridge, 2):
        for address in other.addresses:
            one.namespace.run(["ip", "route", "del", str(address)])


NAT = """
table ip nat {
    chain pre {
        type nat hook prerouting priority -100;
        ip daddr 198.51.100.1 tcp dport 80 dnat to 10.0.0.10:8080
    }
    chain post {
        type nat hook postrouting priority 100;
        ip saddr 10.0.0.0/24 oifname "uplink0" masquerade
    }
}
"""


def libvirt(*rules: object) -> State:
    return state(
        [group("g", *rules)],  # type: ignore[arg-type]
        [replace(port("a", ["g"], ["10.0.0.10", "fd00::10"]), mac_address=MAC)],
    )


@pytest.fixture
def libvirt_lab() -> Iterator[Lab]:
    """A bridge with an address of the host's, and NAT to the outside."""
    with Lab(wired=Wiring.GATEWAY) as lab:
        build(lab, libvirt())
        lab.hv.run(["ip", "addr", "add", "198.51.100.1/32", "dev", "lo"])
        lab.hv.run(["nft", "-f", "-"], stdin=NAT)
        yield lab


def test_behind_the_hosts_nat_rules_see_what_the_instance_sees(libvirt_lab: Lab) -> None:
    lab = libvirt_lab
    outside, instance = lab.outside_address(OUTSIDE), lab.ports["tap-a"].namespace

    def forwarded(made: State) -> bool:
        """Whether a client reaches the port forward: TCP 80 of the host, 8080 of the instance."""
        enforce(lab, made)
        with (
            instance.socket(socket.AF_INET, socket.SOCK_STREAM) as server,
            outside.socket(socket.AF_INET, socket.SOCK_STREAM) as caller,
        ):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("10.0.0.10", 8080))
            server.listen()
            caller.settimeout(2.0)
            try:
                caller.connect(("198.51.100.1", 80))
            except TimeoutError:
                return False
            return True

    assert forwarded(libvirt(rule("ingress", TCP, "8080", f"{OUTSIDE}/32")))
    assert not forwarded(libvirt(rule("ingress", TCP, "80")))
    assert not forwarded(libvirt(rule("ingress", TCP, "8080", "198.51.100.1/32")))
    enforce(lab, libvirt(rule("egress", UDP, "53", f"{OUTSIDE}/32")))
    with (
        outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as allowed,
        outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as denied,
        instance.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller,
    ):
        allowed.bind((OUTSIDE, 53))
        denied.bind((OUTSIDE, 54))
        caller.bind(("10.0.0.10", 0))
        for number in (54, 53):
            caller.sendto(b"who?", (OUTSIDE, number))
        allowed.settimeout(PATIENCE)
        _, peer = allowed.recvfrom(100)
        assert peer[0] != "10.0.0.10", "it came through the host's NAT"
        allowed.sendto(b"me", peer)
        caller.settimeout(PATIENCE)
        assert caller.recv(100) == b"me", "and so does the answer"
        with pytest.raises(BlockingIOError):
            denied.recv(100)


def test_the_host_reaches_an_instance_only_as_the_rules_say(libvirt_lab: Lab) -> None:
    lab = libvirt_lab
    enforce(lab, libvirt(rule("ingress", TCP, "22", "169.254.1.1/32"), rule("egress", UDP, "53")))
    host, own = (lab.hv, "169.254.1.1"), (lab.ports["tap-a"].namespace, "10.0.0.10")
    asked = [
        flow(host, own, TCP, 22),
        flow(host, own, TCP, 23),
        flow(own, host, UDP, 53),
        flow(own, host, UDP, 54),
    ]
    assert [one.delivered for one in run_probes(asked)] == [True, False, True, False]
    assert probe(asked[0]).connected


def test_the_hosts_dhcp_works_without_any_rule(libvirt_lab: Lab) -> None:
    lab = libvirt_lab
    enforce(lab, libvirt())
    instance = lab.ports["tap-a"].namespace
    with lab.hv.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, BRIDGE.encode())
        server.bind(("", 67))
        mark = frames.nonce()
        ends = (ip_address("0.0.0.0"), ip_address("255.255.255.255"))
        discover = frames.udp(*ends, 68, 67, mark)
        frames.send(instance, [frames.ethernet(MAC, frames.BROADCAST, frames.IPV4, discover)])
        server.settimeout(PATIENCE)
        assert server.recv(2048) == mark
        with instance.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear:
            ear.bind(("eth0", 3))
            answer = frames.nonce()
            server.sendto(answer, ("255.255.255.255", 68))
            ear.settimeout(PATIENCE)
            while answer not in ear.recv(2048):
                continue
    ping = flow((instance, "10.0.0.10"), (lab.hv, "169.254.1.1"), ICMP, None)
    assert not probe(ping).delivered


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[Agent]:
    with Lab(wired=Wiring.SWITCHED) as lab, agent_on(lab, tmp_path) as made:
        yield made


@pytest.mark.parametrize("identity", ["interface: tap1", 'mac_address: "fa:16:3e:00:00:01"', ""])
def test_a_port_is_followed_between_bridges_and_the_host(moving: Agent, identity: str) -> None:
    """By its name, by its MAC (that of the tap is libvirt's), by the alias of its link."""
    lab = moving.lab
    moving.give(document("1000", identity or "mac_address: null"))
    moving.start()

    def enforced() -> bool:
        return (moving.passes(1000), moving.passes(1001)) == (True, False)

    assert enforced()
    for _ in range(2):
        lab.unplug("tap1")
        lab.unplug("uplink0")
        await_that(enforced)
        lab.plug("tap1", BRIDGE)
        lab.plug("uplink0", BRIDGE)
        await_that(enforced)
        lab.plug("tap1", "br7")
        lab.plug("uplink0", "br7")
        await_that(enforced)
    assert moving.ask("status") == 0, moving.log.read_text()


def sysctls(lab: Lab) -> dict[str, str]:
    """Every setting of the host's network that somebody could have meant."""
    with lab.hv.enter():
        found = {}
        for path in Path("/proc/sys/net").rglob("*"):
            if path.is_file() and path.name != "nf_conntrack_count":
                try:
                    found[str(path)] = path.read_text()
                except OSError:  # some are only written
                    continue
        return found


def test_no_setting_of_the_host_is_changed(moving: Agent) -> None:
    # What the kernel brings with connection tracking itself is there beforehand.
    moving.lab.hv.run(["nft", "-f", "-"], stdin="table bridge x {\nchain c {\nct state new\n}\n}\n")
    before = sysctls(moving.lab)
    moving.give(document("1000"))
    moving.start()
    assert moving.passes(1000)
    assert len(before) > 200 and sysctls(moving.lab) == before
