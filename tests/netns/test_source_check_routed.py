"""The source check of routed ports: no spoof reaches another port or the host, or goes uncounted."""

import json
import re
import select
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from tests.awaiting import PATIENCE, await_until
from tests.builders import both, group, state
from tests.enforcing import enforce, kernel
from tests.spoofs import (
    MAC,
    NEIGHBOUR,
    NEIGHBOUR_MAC,
    NOBODY,
    OTHER4,
    OTHER6,
    OTHER_LOCAL,
    OTHER_VRRP_MAC,
    OWN4,
    OWN_LOCAL,
    PAIRS,
    PORT,
    VRRP_MAC,
    WIDE,
    Maker,
    Pair,
    marked,
)

from secgroupd.core.model import ICMPV6, Address, Port, State
from secgroupd.proving import frames
from secgroupd.proving.frames import mac_bytes
from secgroupd.proving.namespaces import Lab, Wiring

pytestmark = pytest.mark.netns

HOST_MAC = f"fe{MAC[2:]}"
HOST4, HOST_LOCAL = "169.254.1.1", IPv6Address("fe80::1")
UDP4_PORTS, UDP6_PORTS = (67, 68), (546, 547, 4000)
DHCP_SERVERS = "ff02::1:2"

NO_MAC = replace(PORT, mac_address=None)
BY_MAC = re.compile("MAC|link-local|gateway|multicast report from a neighbour")
"""Kinds that are told only by a MAC which the document names."""

SENDERS = {"addresses": PORT, "networks": WIDE, "no MAC": NO_MAC}
UNCHECKED = {
    "switched off": replace(PORT, source_check=False),
    "port security off": replace(PORT, port_security_enabled=False),
}


def _to_host(source: IPv6Address) -> Maker:
    return lambda mark: frames.ethernet(
        MAC, HOST_MAC, frames.IPV6, frames.udp(source, HOST_LOCAL, 4000, 4000, mark)
    )


def _with_priority(source: IPv4Address) -> Maker:
    return lambda mark: frames.tagged(
        frames.ethernet(MAC, HOST_MAC, frames.IPV4, frames.udp(source, OTHER4, 4000, 4000, mark)),
        vlan=0,
    )


def _report(source: IPv6Address) -> Maker:
    """To all nodes rather than routers: a host among those would hear itself, as if from the port."""

    def made(mark: bytes) -> bytes:
        body = bytes(4) + frames.option(mark)
        report = frames.icmpv6(source, frames.ALL_NODES, 143, body, hop_by_hop=True)
        return frames.ethernet(MAC, "33:33:00:00:00:01", frames.IPV6, report)

    return made


ON_BRIDGES = re.compile("ARP|tag|PPPoE|EtherType|VRRP advertisement|link-local|multicast report")
"""Kinds that a host neither forwards nor gives to programs, or only to routers."""
ROUTED = (
    *(pair for pair in PAIRS if not ON_BRIDGES.search(pair.name)),
    Pair("link-local of the gateway", _to_host(HOST_LOCAL), _to_host(OWN_LOCAL)),
    Pair("multicast report from a neighbour", _report(OTHER_LOCAL), _report(OWN_LOCAL)),
    Pair("multicast report from the gateway", _report(HOST_LOCAL), _report(NOBODY)),
    Pair("IPv4 of a neighbour with a priority tag", _with_priority(OTHER4), _with_priority(OWN4)),
)
FOR_HOST = _to_host(OWN_LOCAL)


def document(sender: Port) -> State:
    open_to_all = group("open", *both("egress"), *both())
    return state([open_to_all], [sender, NEIGHBOUR])


@contextmanager
def lab_of(made: State) -> Iterator[Lab]:
    macs = {"tap-a": MAC, "tap-b": NEIGHBOUR_MAC}
    with Lab(wired=Wiring.ROUTED) as lab:
        for instance in made.instances:
            for one in instance.ports:
                name = one.interface or ""
                lab.add_port(interface=name, addresses=one.private_ips, mac=macs[name])
        yield lab


class Ears:
    """Hear what reaches programs of the host, and the neighbour's interface."""

    def __init__(self, lab: Lab) -> None:
        self._sender = lab.ports["tap-a"].namespace
        self._open = ExitStack()
        self._ears = [self._udp4(lab, port) for port in UDP4_PORTS]
        self._ears += [self._udp6(lab, port) for port in UDP6_PORTS]
        messages = lab.hv.socket(socket.AF_INET6, socket.SOCK_RAW, ICMPV6)
        wire = lab.ports["tap-b"].namespace.socket(
            socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)
        )
        self._ears += [self._open.enter_context(ear) for ear in (messages, wire)]
        group_of = struct.Struct("=16sI").pack
        servers = group_of(
            socket.inet_pton(socket.AF_INET6, DHCP_SERVERS), lab.ports["tap-a"].index
        )
        messages.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, servers)

    def __enter__(self) -> "Ears":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _udp4(self, lab: Lab, port: int) -> socket.socket:
        ear = self._open.enter_context(lab.hv.socket(socket.AF_INET, socket.SOCK_DGRAM))
        ear.bind(("", port))
        return ear

    def _udp6(self, lab: Lab, port: int) -> socket.socket:
        ear = self._open.enter_context(lab.hv.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        ear.bind(("::", port))
        return ear

    def heard(self, makers: Mapping[str, Maker]) -> set[str]:
        """Send what the makers make, and something for the host; return what came before that."""
        marks: dict[bytes, str] = {}
        for name, maker in (*makers.items(), ("last", FOR_HOST)):
            mark = frames.nonce()
            made = maker(mark)
            marks[mark] = name
            frames.send(
                self._sender, [_routed(f) for f in ([made] if isinstance(made, bytes) else made)]
            )
        found: set[str] = set()
        while "last" not in found:
            ready, _, _ = select.select(self._ears, [], [], PATIENCE)
            assert ready, f"what is for the host did not arrive; only {found}"
            for ear in ready:
                content = ear.recv(65536)
                found |= {name for mark, name in marks.items() if mark in content}
        # It came last, so the rest is there by now; a busy socket may not have been read yet.
        while ready := select.select(self._ears, [], [], 0)[0]:
            for ear in ready:
                content = ear.recv(65536)
                found |= {name for mark, name in marks.items() if mark in content}
        return found - {"last"}


def _routed(frame: bytes) -> bytes:
    """Return a frame as it is sent to a neighbour that is behind a router."""
    there = mac_bytes(NEIGHBOUR_MAC)
    return mac_bytes(HOST_MAC) + frame[6:] if frame[:6] == there else frame


def spoofs(lab: Lab) -> Mapping[str, int]:
    """What the source check has dropped, by interface."""
    found: Counter[str] = Counter()
    with kernel(lab) as nft:
        for (_, interface), count in nft.counts().spoofs.items():
            found[interface] += count.packets
    return found


def denied(lab: Lab) -> int:
    """Packets that the rules have denied on their way out of a port."""
    with kernel(lab) as nft:
        return sum(count.packets for count in nft.counts().denied_from.values())


@pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS)
def test_spoofs_are_dropped_and_counted_and_their_twins_pass(sender: Port) -> None:
    pairs = [pair for pair in ROUTED if sender is WIDE or not pair.wide]
    if sender is NO_MAC:
        pairs = [pair for pair in pairs if not BY_MAC.search(pair.name)]
    made = document(sender)
    with lab_of(made) as lab, Ears(lab) as ears:
        everything = {p.name: p.spoof for p in pairs} | {
            f"honest {p.name}": p.honest for p in pairs
        }
        assert everything.keys() - ears.heard(everything) == set(), "without rules all arrives"
        enforce(lab, made)
        assert {p.name for p in pairs} - ears.heard({p.name: p.honest for p in pairs}) == set()
        assert spoofs(lab) == {"tap-a": 0, "tap-b": 0}
        for pair in pairs:
            before, denied_before = spoofs(lab)["tap-a"], denied(lab)
            assert ears.heard({pair.name: pair.spoof}) == set()
            by_rules = pair.counted == "deny_out"
            _, pieces = marked(pair.spoof)
            dropped = 0 if by_rules else len(pieces)
            assert spoofs(lab) == {"tap-a": before + dropped, "tap-b": 0}, pair.name
            assert denied(lab) == denied_before + by_rules, pair.name


@pytest.mark.parametrize("how", UNCHECKED)
def test_the_switch_lets_everything_out_that_the_rules_allow(how: str) -> None:
    made = document(UNCHECKED[how])
    pairs = [pair for pair in ROUTED if not pair.wide]
    with lab_of(made) as lab, Ears(lab) as ears:
        enforce(lab, made)
        missing = {p.name for p in pairs} - ears.heard({p.name: p.spoof for p in pairs})
        judged = {p.name for p in pairs if p.counted != "spoofed"}
        assert missing == (judged if how == "switched off" else set())
        assert spoofs(lab) == {"tap-b": 0}


@dataclass(frozen=True)
class Said:
    """An ARP message, and what a host learns from it that believes everything."""

    name: str
    sender: tuple[str, str]
    target: tuple[str, str]
    operation: int = frames.REQUEST
    mac: str = MAC
    own: bool = False
    wide: bool = False

    @property
    def frame(self) -> bytes:
        message = frames.arp(self.sender, self.target, frames.nonce(), operation=self.operation)
        return frames.ethernet(self.mac, frames.BROADCAST, frames.ARP, message)


ASKED = ("00:00:00:00:00:00", HOST4)
REPLY = frames.REPLY
SAYINGS = (
    Said("request", (MAC, "10.0.0.10"), ASKED, own=True),
    Said("request as a neighbour", (MAC, "10.0.0.11"), ASKED),
    Said("request with another MAC inside", (NEIGHBOUR_MAC, "10.0.0.10"), ASKED),
    Said("request with another MAC outside", (MAC, "10.0.0.10"), ASKED, mac=NEIGHBOUR_MAC),
    Said("reply", (MAC, "10.0.0.10"), (HOST_MAC, HOST4), REPLY, own=True),
    Said("reply as a neighbour", (MAC, "10.0.0.11"), (HOST_MAC, HOST4), REPLY),
    Said("reply as somebody elsewhere", (MAC, "203.0.113.9"), (HOST_MAC, HOST4), REPLY),
    Said("pair", (MAC, "10.0.0.100"), (MAC, "10.0.0.100"), own=True),
    Said("undeclared pair", (MAC, "10.0.0.102"), (MAC, "10.0.0.102")),
    Said(
        "pair with its MAC",
        (VRRP_MAC, "10.0.0.101"),
        (VRRP_MAC, "10.0.0.101"),
        mac=VRRP_MAC,
        own=True,
    ),
    Said("pair without its MAC", (MAC, "10.0.0.101"), (MAC, "10.0.0.101")),
    Said(
        "pair with an undeclared MAC",
        (OTHER_VRRP_MAC, "10.0.0.101"),
        (OTHER_VRRP_MAC, "10.0.0.101"),
        mac=OTHER_VRRP_MAC,
    ),
    Said("network", (MAC, "10.0.8.77"), (MAC, "10.0.8.77"), own=True, wide=True),
    Said("beside the network", (MAC, "10.0.9.1"), (MAC, "10.0.9.1"), wide=True),
)


def prepare_for_arp(lab: Lab) -> None:
    """Let the host know nobody behind the port, and learn from whoever speaks."""
    lab.hv.write_sysctl("ipv4/conf/tap-a/arp_accept", 1)
    lab.hv.run(["ip", "-4", "neigh", "flush", "dev", "tap-a", "nud", "permanent"])


def learned(lab: Lab) -> set[tuple[str, str]]:
    """Return (MAC, address) of every IPv4 neighbour that the host knows behind the port."""
    argv = ["ip", "-j", "-4", "neigh", "show", "dev", "tap-a", "nud", "all"]
    found = json.loads(lab.hv.run(argv).stdout)
    return {(one["lladdr"], one["dst"]) for one in found if "lladdr" in one and one["dst"] != HOST4}


def say(lab: Lab, said: Said, *, dropped: bool) -> None:
    """Send a message; wait until it has been learned from or counted, and only that."""
    before = spoofs(lab).get("tap-a", 0)
    frames.send(lab.ports["tap-a"].namespace, [said.frame])
    if dropped:
        await_until(lambda: spoofs(lab)["tap-a"] > before)
        assert learned(lab) == set(), said.name
    else:
        await_until(lambda: said.sender in learned(lab))
    assert spoofs(lab).get("tap-a", 0) == before + dropped, said.name
    lab.hv.run(["ip", "-4", "neigh", "flush", "dev", "tap-a"])
    await_until(lambda: not learned(lab))


@pytest.mark.parametrize("sender", [PORT, WIDE], ids=["addresses", "networks"])
def test_the_host_learns_no_neighbour_from_a_spoofed_arp_message(sender: Port) -> None:
    made = document(sender)
    sayings = [said for said in SAYINGS if sender is WIDE or not said.wide]
    with lab_of(made) as lab:
        prepare_for_arp(lab)
        for said in sayings:
            say(lab, said, dropped=False)
        enforce(lab, made)
        for said in sayings:
            say(lab, said, dropped=not said.own)


@pytest.mark.parametrize("how", UNCHECKED)
def test_the_switch_lets_every_arp_message_reach_the_host(how: str) -> None:
    made = document(UNCHECKED[how])
    with lab_of(made) as lab:
        prepare_for_arp(lab)
        enforce(lab, made)
        for said in SAYINGS:
            say(lab, said, dropped=False)


def test_without_a_known_mac_the_address_of_an_arp_message_is_checked_all_the_same() -> None:
    made = document(NO_MAC)
    with lab_of(made) as lab:
        prepare_for_arp(lab)
        enforce(lab, made)
        for said in SAYINGS:
            if "MAC" not in said.name and not said.wide:
                say(lab, said, dropped=not said.own)


@pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS)
def test_an_arp_probe_is_only_for_an_own_address(sender: Port) -> None:
    made = document(sender)
    with lab_of(made) as lab:
        prepare_for_arp(lab)
        enforce(lab, made)
        own, foreign = (
            Said("probe", (MAC, "0.0.0.0"), (ASKED[0], address))
            for address in ("10.0.0.100", "10.0.0.11")
        )
        frames.send(lab.ports["tap-a"].namespace, [own.frame])
        say(lab, SAYINGS[0], dropped=False)
        assert spoofs(lab)["tap-a"] == 0
        say(lab, foreign, dropped=True)


def test_what_the_host_broadcasts_into_a_port_is_no_spoof_of_the_ports() -> None:
    """The kernel loops a copy back, which arrives as if the port had sent it."""
    made = document(PORT)
    with lab_of(made) as lab:
        enforce(lab, made)
        before = spoofs(lab)
        mark = frames.nonce()
        instance = lab.ports["tap-a"].namespace
        with (
            lab.hv.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            instance.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear,
        ):
            ear.bind(("eth0", 3))
            server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap-a")
            server.sendto(mark, ("255.255.255.255", 68))
            ear.settimeout(PATIENCE)
            while mark not in ear.recv(2048):
                continue
        assert spoofs(lab) == before


@pytest.mark.parametrize("spoofer", [PORT, WIDE], ids=["addresses", "networks"])
@pytest.mark.parametrize(("source", "far"), [(OTHER4, "203.0.113.9"), (OTHER6, "2001:db8:f::9")])
def test_no_fragment_of_somebody_elses_is_put_among_a_ports_own(
    source: Address, far: str, spoofer: Port
) -> None:
    """What its neighbour began, the instance ends: before the kernel puts them together, it is dropped."""
    made = document(spoofer)
    with lab_of(made) as lab, ExitStack() as opened:
        outside = lab.outside_address(far)
        family, kind = {
            4: (socket.AF_INET, frames.IPV4),
            6: (socket.AF_INET6, frames.IPV6),
        }[source.version]
        ear = opened.enter_context(outside.socket(family, socket.SOCK_DGRAM))
        ear.bind((far, 4000))
        ear.settimeout(PATIENCE)

        def begin_and_end(ending: str) -> bytes:
            mark = frames.nonce()
            packet = frames.udp(source, ip_address(far), 4000, 4000, bytes(1800) + mark)
            beginning, end = frames.fragments(packet, 1240)
            for name, piece in ((ending, end), ("tap-b", beginning)):
                at = lab.ports[name]
                frame = frames.ethernet(at.mac, at.host_mac, kind, piece)
                frames.send(at.namespace, [frame])
            return mark

        mixed = begin_and_end("tap-a")
        assert mixed in ear.recv(4096), "without rules the kernel puts them together"
        enforce(lab, made)
        begin_and_end("tap-a")
        own = begin_and_end("tap-b")
        assert own in ear.recv(4096)
        assert spoofs(lab) == {"tap-a": 1, "tap-b": 0}


def test_what_a_zoned_port_sends_in_fragments_is_put_together_in_its_zone() -> None:
    made = document(PORT)
    made = replace(made, vpcs=tuple(replace(vpc, uplinks=("uplink0",)) for vpc in made.vpcs))
    with (
        lab_of(made) as lab,
        lab.outside_address("203.0.113.9").socket(socket.AF_INET, socket.SOCK_DGRAM) as ear,
    ):
        ear.bind(("203.0.113.9", 4000))
        ear.settimeout(PATIENCE)
        enforce(lab, made)
        mark = frames.nonce()
        packet = frames.udp(OWN4, ip_address("203.0.113.9"), 4000, 4000, bytes(1800) + mark)
        for piece in frames.fragments(packet, 1240):
            frame = frames.ethernet(MAC, HOST_MAC, frames.IPV4, piece)
            frames.send(lab.ports["tap-a"].namespace, [frame])
        assert mark in ear.recv(4096)
        (entry,) = lab.hv.run(
            ["conntrack", "-L", "-p", "udp", "--dport", "4000"]
        ).stdout.splitlines()
        assert "zone=" in entry


def test_a_redirect_does_not_pass_because_it_is_about_a_connection() -> None:
    """The kernel relates an ICMPv6 redirect to the connection whose packet it quotes (RFC 4861, 4.5)."""
    made = document(PORT)
    with lab_of(made) as lab, ExitStack() as opened:
        enforce(lab, made)
        at, here = lab.ports["tap-a"], str(OWN_LOCAL)
        asking, answering = (
            opened.enter_context(where.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            for where in (lab.hv, at.namespace)
        )
        asking.bind((str(HOST_LOCAL), 4001, 0, at.index))
        answering.bind((here, 4000, 0, at.guest_index))
        asking.sendto(b"asked", (here, 4000, 0, at.index))
        for one in (asking, answering):
            one.settimeout(PATIENCE)
        assert answering.recv(64) == b"asked"
        answering.sendto(b"answered", (str(HOST_LOCAL), 4001, 0, at.guest_index))
        assert asking.recv(64) == b"answered"
        quoted = frames.udp(HOST_LOCAL, OWN_LOCAL, 4001, 4000, bytes(8))

        def redirect(mark: bytes) -> bytes:
            about = struct.pack("!BB6x", 4, (8 + len(quoted)) // 8) + quoted
            body = bytes(4) + OWN_LOCAL.packed * 2 + about + frames.option(mark)
            packet = frames.icmpv6(OWN_LOCAL, HOST_LOCAL, 137, body)
            return frames.ethernet(MAC, HOST_MAC, frames.IPV6, packet)

        with Ears(lab) as ears:
            before = denied(lab)
            assert ears.heard({"redirect": redirect}) == set()
            assert denied(lab) == before + 1
