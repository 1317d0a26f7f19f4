"""The frames that tests of the source check send: well made, and untouched by a bridge without rules."""

import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from tests.spoofs import MAC, NEIGHBOUR, NEIGHBOUR_MAC, PAIRS, PORT, Maker, marked

from secgroupd.core.model import Address
from secgroupd.proving import frames
from secgroupd.proving.namespaces import BRIDGE, Attachment, Kind, Lab, Wiring
from secgroupd.proving.netns import Namespace

pytestmark = pytest.mark.netns

PATIENCE = 3.0
"""Seconds within which what must arrive does."""
SILENCE = 0.3
"""Seconds without news after which what must not arrive has not."""

OWN = (IPv4Address("10.0.0.10"), IPv6Address("fd00::10"))
OTHER = (IPv4Address("10.0.0.11"), IPv6Address("fd00::11"))
SOL_PACKET, PACKET_AUXDATA, VLAN_VALID, VLAN_TPID_VALID = 263, 8, 0x10, 0x40
UDP, ICMP, ICMPV6, FRAGMENT = 17, 1, 58, 44
ARP, PPPOE = b"\x08\x06", b"\x88\x64"


def makers() -> dict[str, Maker]:
    """Every frame of the source check's tests, by name."""
    return {p.name: p.spoof for p in PAIRS} | {f"honest: {p.name}": p.honest for p in PAIRS}


class Net:
    """Two instances and a bystander on a bridge that learns nothing, so that spoofs do no harm."""

    def __init__(self, lab: Lab, kind: Kind) -> None:
        self.lab = lab
        self.sender = self._add(PORT.interface or "", PORT.private_ips, MAC, kind)
        self.receiver = self._add(
            NEIGHBOUR.interface or "", NEIGHBOUR.private_ips, NEIGHBOUR_MAC, kind
        )
        self.bystander = self._add("tap-c", (ip_address("10.0.0.12"),), None, kind)
        lab.hv.run(["ip", "link", "set", BRIDGE, "type", "bridge", "fdb_flush"])

    def _add(
        self, name: str, addresses: tuple[Address, ...], mac: str | None, kind: Kind
    ) -> Attachment:
        made = self.lab.add_port(interface=name, addresses=addresses, mac=mac, kind=kind)
        self.lab.hv.run(["bridge", "link", "set", "dev", name, "learning", "off"])
        return made

    def drop(self, rule: str) -> None:
        text = (
            f"table bridge t {{ chain c {{ type filter hook forward priority 0; {rule} drop; }}; }}"
        )
        self.lab.hv.run(["nft", "-f", "-"], stdin=text)


@pytest.fixture(params=["veth", "tap"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Lab(wired=Wiring.SWITCHED) as lab:
        yield Net(lab, request.param)


@contextmanager
def listening(where: Namespace) -> Iterator[socket.socket]:
    with where.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear:
        ear.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
        ear.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        ear.bind(("eth0", 3))
        yield ear


def received(ear: socket.socket) -> Iterator[bytes]:
    """What came in until nothing waits, with the tag that the kernel takes out put in again."""
    while True:
        try:
            frame, beside, _, (_, _, kind, *_) = ear.recvmsg(65536, 256)
        except BlockingIOError:
            return
        if kind == socket.PACKET_OUTGOING:
            continue
        for level, name, data in beside:
            if (level, name) == (SOL_PACKET, PACKET_AUXDATA):
                status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", data[:20])
                if status & VLAN_VALID:
                    tag = struct.pack("!HH", tpid if status & VLAN_TPID_VALID else 0x8100, tci)
                    frame = frame[:12] + tag + frame[12:]
        yield frame


def await_frames(ear: socket.socket, wanted: Mapping[str, list[bytes]]) -> set[str]:
    """Return the names of those of which something did not arrive as it was sent."""
    missing = {(name, at): part for name, parts in wanted.items() for at, part in enumerate(parts)}
    deadline = time.monotonic() + PATIENCE
    while missing and (left := deadline - time.monotonic()) > 0:
        select.select([ear], [], [], left)
        came = set(received(ear))
        missing = {key: part for key, part in missing.items() if part not in came}
    return {name for name, _ in missing}


def test_every_frame_arrives_unchanged(net: Net) -> None:
    sent = {name: list(marked(maker)[1]) for name, maker in makers().items()}
    with listening(net.receiver.namespace) as ear:
        for parts in sent.values():
            frames.send(net.sender.namespace, parts)
        assert await_frames(ear, sent) == set()


def test_every_frame_is_heard_by_its_mark_wherever_a_bridge_floods_it(net: Net) -> None:
    sent = {name: marked(maker) for name, maker in makers().items()}
    listeners = {"b": net.receiver.namespace, "c": net.bystander.namespace}
    found = frames.arrived(net.sender.namespace, sent, listeners, patience=SILENCE)
    assert found == {"b": sent.keys(), "c": sent.keys()}


def test_only_what_arrives_is_reported(net: Net) -> None:
    sent = {name: marked(maker) for name, maker in makers().items()}
    net.drop('oif "tap-c"')
    net.drop("ether type arp")
    listeners = {"b": net.receiver.namespace, "c": net.bystander.namespace}
    found = frames.arrived(net.sender.namespace, sent, listeners, patience=SILENCE)
    arps = {name for name, (_, parts) in sent.items() if parts[0][12:14] == ARP}
    assert len(arps) > 8
    assert found == {"b": sent.keys() - arps, "c": set()}


def test_the_last_frame_ends_the_wait(net: Net) -> None:
    marks = {name: marked(PAIRS[0].honest) for name in ("first", "last")}
    begun = time.monotonic()
    found = frames.arrived(
        net.sender.namespace, marks, {"b": net.receiver.namespace}, patience=60.0, last="last"
    )
    assert time.monotonic() - begun < 30.0
    assert found == {"b": {"first", "last"}}


def folded(data: bytes) -> int:
    total = sum(data[at] << 8 | data[at + 1] for at in range(0, len(data) - 1, 2))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packets(frame: bytes) -> Iterator[bytes]:
    """The IP packet in a frame, if there is one, whatever tags are before it."""
    at = 12
    while frame[at : at + 2] in {b"\x81\x00", b"\x88\xa8"}:
        at += 4
    if frame[at : at + 2] == PPPOE:
        yield frame[at + 10 :]
    elif frame[at : at + 2] in {b"\x08\x00", b"\x86\xdd"}:
        yield frame[at + 2 :]


def wrong(packet: bytes) -> str | None:
    """Say what is wrong with the lengths and checksums of a packet, or nothing."""
    if packet[0] >> 4 == 4:
        length, protocol, ends = int.from_bytes(packet[2:4], "big"), packet[9], packet[12:20]
        body, in_fragments = packet[20:length], packet[6] & 0x3F or packet[7]
        if folded(packet[:20]) != 0xFFFF:
            return "header checksum"
    else:
        length, protocol, ends = 40 + int.from_bytes(packet[4:6], "big"), packet[6], packet[8:40]
        body, in_fragments = packet[40:length], protocol == FRAGMENT
        if protocol == 0:
            protocol, body = body[0], body[8 * (1 + body[1]) :]
    if length > len(packet) or packet[length:].strip(b"\0"):
        return "length"
    if in_fragments or protocol not in {UDP, ICMP, ICMPV6}:
        return None
    if protocol == UDP and int.from_bytes(body[4:6], "big") != len(body):
        return "UDP length"
    pseudo = b"" if protocol == ICMP else ends + struct.pack("!II", len(body), protocol)
    return None if folded(pseudo + body) == 0xFFFF else "checksum"


@pytest.mark.parametrize("name", makers())
def test_lengths_and_checksums_are_right(name: str) -> None:
    _, made = marked(makers()[name])
    for frame in made:
        assert len(frame) >= 60
        assert [wrong(packet) for packet in packets(frame)] in ([], [None])


def test_kernels_find_nothing_wrong_with_them(net: Net) -> None:
    def errors() -> dict[str, int]:
        found: dict[str, int] = {}
        for file in ("snmp6", "dev_snmp6/eth0"):
            text = net.receiver.namespace.run(["cat", f"/proc/net/{file}"]).stdout
            found |= {
                f"{file} {n}": int(v) for n, v in (line.split() for line in text.splitlines())
            }
        lines = net.receiver.namespace.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            pairs = zip(names.split()[1:], values.split()[1:], strict=True)
            found |= {f"{names.split()[0]} {n}": int(v) for n, v in pairs}
        return {n: v for n, v in found.items() if "Csum" in n or "HdrErr" in n or "Truncated" in n}

    before = errors()
    assert len(before) > 8
    sent = {name: marked(maker) for name, maker in makers().items()}
    everywhere = {"b": net.receiver.namespace}
    found = frames.arrived(net.sender.namespace, sent, everywhere, patience=SILENCE)
    assert found["b"] == sent.keys()
    assert errors() == before


def own_frame(packet: bytes) -> bytes:
    kind = frames.IPV4 if packet[0] >> 4 == 4 else frames.IPV6
    return frames.ethernet(MAC, NEIGHBOUR_MAC, kind, packet)


@pytest.mark.parametrize("order", ["whole", "in order", "reversed"])
@pytest.mark.parametrize("at", [0, 1], ids=["IPv4", "IPv6"])
def test_datagrams_reach_a_socket_in_one_piece_or_in_three(net: Net, at: int, order: str) -> None:
    mark = frames.nonce()
    packet = frames.udp(OWN[at], OTHER[at], 4000, 4001, bytes(8) + mark)
    parts = [packet] if order == "whole" else frames.fragments(packet, 16)
    assert len(parts) == (1 if order == "whole" else 2)
    if order == "reversed":
        parts.reverse()
    family = socket.AF_INET if at == 0 else socket.AF_INET6
    with net.receiver.namespace.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((str(OTHER[at]), 4001))
        frames.send(net.sender.namespace, [own_frame(part) for part in parts])
        select.select([server], [], [], PATIENCE)
        data, sender = server.recvfrom(100)
    assert (data, sender[:2]) == (bytes(8) + mark, (str(OWN[at]), 4000))


def answers(net: Net, asked: bytes) -> Iterator[bytes]:
    """What the sender hears until it is quiet, after it has asked."""
    with ExitStack() as opened:
        ear = opened.enter_context(listening(net.sender.namespace))
        frames.send(net.sender.namespace, [asked])
        while select.select([ear], [], [], SILENCE)[0]:
            yield from received(ear)


def test_a_kernel_answers_an_arp_request(net: Net) -> None:
    question = frames.arp((MAC, str(OWN[0])), ("00:00:00:00:00:00", str(OTHER[0])), frames.nonce())
    expected = frames.arp((NEIGHBOUR_MAC, str(OTHER[0])), (MAC, str(OWN[0])), b"", operation=2)
    wanted = frames.mac_bytes(MAC) + frames.mac_bytes(NEIGHBOUR_MAC) + b"\x08\x06" + expected
    asked = frames.ethernet(MAC, frames.BROADCAST, frames.ARP, question)
    assert any(heard.startswith(wanted) for heard in answers(net, asked))


def test_a_kernel_answers_a_neighbour_solicitation(net: Net) -> None:
    packet = frames.neighbour_discovery(OWN[1], OTHER[1], 135, OTHER[1], frames.nonce())
    heard = [frame[14:] for frame in answers(net, own_frame(packet)) if frame[12:14] == b"\x86\xdd"]
    told = [one for one in heard if one[6] == ICMPV6 and one[40] == 136]
    assert any(one[8:24] == one[48:64] == OTHER[1].packed for one in told)


def test_what_a_bridge_keeps_to_itself(net: Net) -> None:
    """Of the addresses that are the bridge's own, those of STP are forwarded while it is off."""
    sent = {}
    for last in ("00", "02", "0e", "10"):
        mark = frames.nonce()
        frame = frames.ethernet(MAC, f"01:80:c2:00:00:{last}", 0x88B5, mark)
        sent[last] = (mark, [frame])
    listeners = {"b": net.receiver.namespace}
    found = frames.arrived(net.sender.namespace, sent, listeners, patience=SILENCE)
    assert found == {"b": {"00", "10"}}
