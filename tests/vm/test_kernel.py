"""The guest's kernel is Debian's own, and it refuses nothing of what the agent needs of a bridge."""

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.awaiting import PATIENCE, await_until

from secgroupd.core.model import DCCP, GRE, SCTP, UDPLITE
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.wiring import make_veth

pytestmark = pytest.mark.vm

FAMILIES = pytest.mark.parametrize("family", ["inet", "bridge"])

STATEMENTS = [
    "ct state established accept",
    "ct state established,related ct mark >= 7 accept",
    "ct zone set 5",
    "ct mark set 41 accept",
    "ct direction reply accept",
    "iifname vmap @ports",
    "iifname @adopting tcp flags & (syn | ack) == ack accept",
    "ip saddr . tcp dport @peers accept",
    "ip6 saddr fe80::/10 icmpv6 type nd-neighbor-advert drop",
    "counter name dropped drop",
]
"""Each as one rule of a chain at prerouting."""

TABLE = """
table {family} needs {{
    counter dropped {{ }}
    set adopting {{ type ifname; flags timeout; size 100; }}
    set peers {{ type ipv4_addr . inet_service; flags interval; elements = {{ 10.0.0.0/8 . 1-9 }}; }}
    map ports {{ type ifname : verdict; elements = {{ "tap1" : accept }}; }}
    chain from_port {{ type filter hook prerouting priority -150; {statement}; }}
}}
"""

ONE_WAY = """
table bridge needs {
    counter refused { }
    chain zone { type filter hook prerouting priority -300; ct zone set 5; }
    chain to_port {
        type filter hook postrouting priority 0;
        meta protocol arp accept
        ct state established accept
        oifname "port2" tcp dport 80 ct state new accept
        tcp dport 80 counter name refused
        drop
    }
}
"""
"""Over the bridge, connections may be opened to port2, and port1 only gets the answers.

At forward instead of postrouting, a chain of priority 0 is left out once br_netfilter is in force:
that one takes packets at priority -1 there, and hands them back behind 0.
"""

COUNTER = ("bridge", "needs", "refused")

MODULES = [
    "br_netfilter", "bridge", "dccp", "dummy", "nf_conntrack_bridge", "nf_flow_table", "nf_nat",
    "nf_tables", "nft_fib_inet", "nft_meta_bridge", "nft_reject_bridge", "sctp", "tun", "veth", "vrf",
]  # fmt: skip


@pytest.fixture
def host() -> Iterator[Namespace]:
    made = Namespace("host")
    yield made
    made.close()


def test_the_kernel_is_debians() -> None:
    assert "Debian" in os.uname().version
    assert Path("/lib/modules", os.uname().release, "modules.dep").exists()


@FAMILIES
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_table_takes(host: Namespace, family: str, statement: str) -> None:
    host.run(["nft", "-f", "-"], stdin=TABLE.format(family=family, statement=statement))
    assert "hook prerouting" in host.run(["nft", "list", "table", family, "needs"]).stdout


@pytest.mark.parametrize("module", MODULES)
def test_a_module_loads(module: str) -> None:
    done = subprocess.run(["modprobe", module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("/sys/module", module).exists()


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        (socket.SOCK_STREAM, SCTP),
        (socket.SOCK_DGRAM, UDPLITE),
        (socket.SOCK_RAW, GRE),
        (socket.SOCK_RAW, DCCP),  # raw as well: Debian lets nobody load the real one by a socket
    ],
    ids=["sctp", "udplite", "gre", "dccp"],
)
def test_a_socket_opens(kind: int, protocol: int) -> None:
    with socket.socket(socket.AF_INET, kind, protocol) as opened:
        opened.bind(("127.0.0.1", 0))


def test_a_tap_opens() -> None:
    with Lab() as lab:
        assert lab.add_port(interface="tap1", kind="tap").index


@pytest.mark.parametrize("br_netfilter", [0, 1])
def test_a_bridge_knows_which_connections_are_established(
    host: Namespace, br_netfilter: int
) -> None:
    subprocess.run(["modprobe", "br_netfilter"], check=True)
    host.write_sysctl("bridge/bridge-nf-call-iptables", br_netfilter)
    guests = {"10.0.0.1": Namespace("guest1"), "10.0.0.2": Namespace("guest2")}
    host.run(["ip", "link", "add", "br0", "up", "type", "bridge"])
    for number, (address, guest) in enumerate(guests.items(), start=1):
        make_veth(host, f"port{number}", guest)
        host.run(["ip", "link", "set", f"port{number}", "up", "master", "br0"])
        guest.run(["ip", "address", "add", f"{address}/24", "dev", "eth0"])
        guest.run(["ip", "link", "set", "eth0", "up"])
    host.run(["nft", "-f", "-"], stdin=ONE_WAY)

    def listener(address: str) -> socket.socket:
        made = guests[address].socket(socket.AF_INET, socket.SOCK_STREAM)
        made.bind((address, 80))
        made.listen()
        return made

    def caller(source: str, destination: str) -> socket.socket:
        made = guests[source].socket(socket.AF_INET, socket.SOCK_STREAM)
        made.connect_ex((destination, 80))
        return made

    def refused() -> bool:
        return "packets 0 " not in host.run(["nft", "list", "counter", *COUNTER]).stdout

    assert not refused()
    with listener("10.0.0.1") as refusing, listener("10.0.0.2") as answering:
        with caller("10.0.0.1", "10.0.0.2") as client:
            assert select.select([], [client], [], PATIENCE)[1], "no answer over the bridge"
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            # The client's last segment of the handshake may still be under way.
            assert select.select([answering], [], [], PATIENCE)[0], "no connection to accept"
            answering.accept()[0].close()
            assert "zone=5" in host.run(["conntrack", "-L"]).stdout
        with caller("10.0.0.2", "10.0.0.1"):
            await_until(refused)
            assert not select.select([refusing], [], [], 0)[0]
    for guest in guests.values():
        guest.close()
