import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from secgroupd.errors import DataplaneError
from secgroupd.proving.namespaces import Attachment, Kind, Lab, Wiring
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Probe, probe
from secgroupd.proving.wiring import netlink

pytestmark = pytest.mark.netns

KINDS: tuple[Kind, ...] = ("veth", "tap")
STRANGE_NAMES = ('tap"x', "tap*", "a;drop}", "it's", "$(id)", "-x", "täp", "fifteen-bytes..", "{")
PATIENCE = 20.0
RTM_DELLINK, RTMGRP_LINK = 17, 1


class Witness:
    """Holds the other end of a cable into a lab, and so learns from the kernel that it is gone."""

    def __init__(self) -> None:
        self.namespace = Namespace("witness")
        self.events = self.namespace.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE
        )
        self.events.bind((0, RTMGRP_LINK))
        self.events.settimeout(PATIENCE)

    def attach(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        try:
            with netlink(self.namespace) as route:
                peer = {"ifname": "witness", "net_ns_fd": fd}
                route.link("add", ifname="w0", kind="veth", peer=peer)
        finally:
            os.close(fd)

    def await_gone(self) -> None:
        while int.from_bytes(self.events.recv(65536)[4:6], sys.byteorder) != RTM_DELLINK:
            pass

    def close(self) -> None:
        self.events.close()
        self.namespace.close()


@pytest.fixture
def witness() -> Iterator[Witness]:
    with closing(Witness()) as made:
        yield made


def interfaces(namespace: Namespace) -> set[str]:
    with namespace.enter():
        return {name for _, name in socket.if_nameindex()}


def made_for_ports(lab: Lab) -> set[str]:
    """The host's interfaces besides those that every lab has."""
    return interfaces(lab.hv) - {"lo", "uplink0"} - lab.bridges.keys()


def own_interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def own_namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def open_descriptors() -> set[str]:
    # The descriptor that lists the others is among them, and gone when it is looked at.
    return {
        f"{at}:{Path(f'/proc/self/fd/{at}').readlink()}"
        for at in os.listdir("/proc/self/fd")  # noqa: PTH208
        if Path(f"/proc/self/fd/{at}").is_symlink()
    }


def children() -> set[str]:
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def reaches(one: Attachment, other: Attachment, at: int = 0) -> bool:
    flow = Probe(
        source=one.namespace,
        source_address=one.addresses[at],
        destination=other.namespace,
        destination_address=other.addresses[at],
        protocol=17,
        dport=53,
    )
    return probe(flow).connected


@pytest.mark.parametrize("kind", KINDS)
def test_ports_reach_each_other_and_the_outside_at_every_address(kind: Kind) -> None:
    with Lab() as lab:
        one = lab.add_port(
            interface="tap1", kind=kind, addresses=["10.0.0.1", "10.0.0.3", "2001:db8::1"]
        )
        other = lab.add_port(
            interface="tap2", kind=kind, addresses=["10.0.0.2", "172.16.9.9", "2001:db8::2"]
        )
        assert all(reaches(one, other, at) and reaches(other, one, at) for at in range(3))
        for address in ("203.0.113.9", "132.15.0.1", "169.254.169.254", "2001:db8:9::9"):
            outside = lab.outside_address(address)
            inside = one.addresses[2 if ":" in address else 0]
            for source, destination in ((outside, one.namespace), (one.namespace, outside)):
                ends = (ip_address(address), inside)
                there, here = ends if source is outside else ends[::-1]
                flow = Probe(
                    source=source,
                    source_address=there,
                    destination=destination,
                    destination_address=here,
                    protocol=6,
                    dport=80,
                )
                assert probe(flow).connected, address


@pytest.mark.parametrize("kind", KINDS)
def test_interfaces_have_exactly_the_names_given(kind: Kind) -> None:
    with Lab() as lab:
        ports = [
            lab.add_port(interface=name, addresses=[f"10.0.0.{at}"], kind=kind)
            for at, name in enumerate(STRANGE_NAMES, start=1)
        ]
        assert made_for_ports(lab) == set(STRANGE_NAMES)
        assert all(
            reaches(one, other) for one, other in zip(ports, ports[1:] + ports[:1], strict=True)
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sixteen-bytes...", "a/b", "a b", "a:b", "tap%d", ".", ""])
def test_a_name_that_no_interface_can_have_is_refused(kind: Kind, name: str) -> None:
    with Lab() as lab:
        with pytest.raises(ValueError, match="no interface can be named"):
            lab.add_port(interface=name, addresses=["10.0.0.1"], kind=kind)
        assert not made_for_ports(lab)
        assert not lab.ports
        port = lab.add_port(interface="tap1", addresses=["10.0.0.1"], kind=kind)
        other = lab.add_port(interface="tap2", addresses=["10.0.0.2"], kind=kind)
        assert reaches(port, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_that_the_kernel_refuses_halfway_leaves_nothing(kind: Kind) -> None:
    with Lab() as lab:
        with pytest.raises(DataplaneError, match="refused"):
            lab.add_port(interface="tap1", mac="01:00:5e:00:00:01", kind=kind)
        assert not made_for_ports(lab)
        assert not lab.ports


@pytest.mark.parametrize("kind", KINDS)
def test_mac_alias_and_kind_of_device(kind: Kind) -> None:
    with Lab() as lab:
        port = lab.add_port(
            interface="tap1",
            addresses=["10.0.0.1"],
            mac="FA:16:3E:AA:BB:CC",
            alias="port-1",
            kind=kind,
        )
        with lab.hv.enter(), IPRoute() as route:
            (link,) = route.get_links(port.index)
        with port.namespace.enter(), IPRoute() as route:
            (guest,) = route.get_links(port.guest_index)
        assert link.get_attr("IFLA_ADDRESS") == "fe:16:3e:aa:bb:cc"
        assert guest.get_attr("IFLA_ADDRESS") == port.mac == "fa:16:3e:aa:bb:cc"
        assert link.get_attr("IFLA_IFALIAS") == "port-1"
        expected = "tun" if kind == "tap" else "veth"
        assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == expected


def test_both_kinds_live_in_one_lab() -> None:
    with Lab() as lab:
        veth = lab.add_port(interface="v", addresses=["10.0.0.1"])
        tap = lab.add_port(interface="t", addresses=["10.0.0.2"], kind="tap")
        assert reaches(veth, tap) and reaches(tap, veth)


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_port_is_gone_and_can_come_back(kind: Kind, witness: Witness) -> None:
    with Lab() as lab:
        stays = lab.add_port(interface="tap1", addresses=["10.0.0.1"], kind=kind)
        goes = lab.add_port(interface="tap2", addresses=["10.0.0.2"], kind=kind)
        witness.attach(goes.namespace.path)
        lab.remove_port("tap2")
        witness.await_gone()
        assert made_for_ports(lab) == {"tap1"}
        assert list(lab.ports) == ["tap1"]
        back = lab.add_port(interface="tap2", addresses=["10.0.0.2"], kind=kind)
        assert reaches(stays, back) and reaches(back, stays)
        with pytest.raises(KeyError):
            lab.remove_port("tap3")


def test_what_would_be_ambiguous_is_refused() -> None:
    with Lab() as lab:
        lab.add_port(interface="tap1", addresses=["10.0.0.1"])
        lab.outside_address("203.0.113.9")
        with pytest.raises(ValueError, match="already has an interface"):
            lab.add_port(interface="tap1")
        with pytest.raises(ValueError, match="already has an interface"):
            lab.add_port(interface="uplink0")
        with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
            lab.add_port(interface="tap2", addresses=["10.0.0.1"])
        with pytest.raises(ValueError, match=r"203\.0\.113\.9"):
            lab.add_port(interface="tap2", addresses=["203.0.113.9"])
        with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
            lab.outside_address("10.0.0.1")
        assert made_for_ports(lab) == {"tap1"}
    with pytest.raises(ValueError, match="uplink"):
        Lab(uplinks=())


def test_an_outside_address_moves_between_uplinks() -> None:
    with Lab(uplinks=("bond0.100", "bond0.200")) as lab:
        port = lab.add_port(interface="tap1", addresses=["10.0.0.1"])
        for uplink in ("bond0.100", "bond0.200", "bond0.100"):
            outside = lab.outside_address("203.0.113.9", uplink=uplink)
            assert outside is lab.uplinks[uplink].namespace
            flow = Probe(
                source=port.namespace,
                source_address=port.addresses[0],
                destination=outside,
                destination_address=ip_address("203.0.113.9"),
                protocol=6,
                dport=443,
            )
            assert probe(flow).connected


def test_enter_moves_one_thread_and_always_comes_back() -> None:
    before = own_namespace()
    with Lab() as lab:
        inside, looked = threading.Event(), threading.Event()
        elsewhere: list[int] = []

        def look() -> None:
            inside.wait()
            elsewhere.append(own_namespace())
            looked.set()

        thread = threading.Thread(target=look)
        thread.start()
        with lab.hv.enter():
            assert own_namespace() == lab.hv.inode
            inside.set()
            looked.wait()
            with lab.outside.enter():
                assert own_namespace() == lab.outside.inode
            assert own_namespace() == lab.hv.inode
        thread.join()
        assert elsewhere == [before]
        with pytest.raises(ZeroDivisionError), lab.hv.enter():
            raise ZeroDivisionError
        assert own_namespace() == before


def test_programs_run_in_the_namespace() -> None:
    with Lab() as lab:
        assert lab.hv.run(["cat"], stdin="tap*;\n").stdout == "tap*;\n"
        assert "uplink0" in lab.hv.run(["ip", "-o", "link"]).stdout
        assert lab.hv.run(["false"], check=False).returncode == 1
        with pytest.raises(DataplaneError, match="nft in hv ended with 1"):
            lab.hv.run(["nft", "-f", "-"], stdin="nonsense\n")
        with lab.hv.popen(["ip", "-o", "link"], stdout=subprocess.PIPE, text=True) as process:
            out, _ = process.communicate()
        assert "uplink0" in out
        other = subprocess.run(
            ["nsenter", f"--net={lab.hv.path}", "ip", "-o", "link"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert other.stdout == out


def test_forget_empties_the_hosts_tracking_and_nobody_elses() -> None:
    with Lab(wired=Wiring.ROUTED) as lab, Lab(wired=Wiring.ROUTED) as bystander:
        for each in (lab, bystander):
            one = each.add_port(interface="tap1", addresses=["10.0.0.1", "2001:db8::1"])
            other = each.add_port(interface="tap2", addresses=["10.0.0.2", "2001:db8::2"])
            table = (
                "table inet t { chain c { type filter hook prerouting priority 0; ct mark 1; }\n}"
            )
            each.hv.run(["nft", "-f", "-"], stdin=table)
            assert reaches(one, other, 0) and reaches(one, other, 1)
            assert each.hv.run(["conntrack", "-C"]).stdout.strip() == "2"
        lab.forget()
        assert lab.hv.run(["conntrack", "-C"]).stdout.strip() == "0"
        assert bystander.hv.run(["conntrack", "-C"]).stdout.strip() == "2"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_nothing_is_left_of_a_closed_lab(
    kind: Kind, error: type[BaseException] | None, witness: Witness
) -> None:
    before = open_descriptors(), children(), own_interfaces(), own_namespace()

    def build_and_fail() -> None:
        with Lab() as lab:
            witness.attach(lab.hv.path)
            one = lab.add_port(interface="tap1", addresses=["10.0.0.1"], kind=kind)
            other = lab.add_port(interface="tap2", addresses=["10.0.0.2"], kind=kind)
            assert reaches(one, other)
            assert (children() != before[1]) == (kind == "tap")
            if error is not None:
                raise error

    if error is None:
        build_and_fail()
    else:
        with pytest.raises(error):
            build_and_fail()
    witness.await_gone()
    assert (open_descriptors(), children(), own_interfaces(), own_namespace()) == before


def test_closing_twice_is_harmless() -> None:
    lab = Lab()
    lab.add_port(interface="tap1", kind="tap")
    lab.close()
    lab.close()


def test_a_lab_that_cannot_be_made_leaves_nothing() -> None:
    before = open_descriptors(), children()
    with pytest.raises(ValueError, match="no interface can be named"):
        Lab(uplinks=("uplink0", "a/b"))
    assert (open_descriptors(), children()) == before


CHILD = """
import sys, threading
from secgroupd.proving.namespaces import Lab
with Lab() as lab:
    lab.add_port(interface="tap1", addresses=["10.0.0.1"], kind="tap")
    lab.add_port(interface="tap2", addresses=["10.0.0.2"], kind="veth")
    with open("/proc/self/task/%d/children" % threading.get_native_id()) as tasks:
        print(lab.hv.path, tasks.read().strip(), flush=True)
    threading.Event().wait()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_killed_process(number: signal.Signals, witness: Witness) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    ) as child:
        assert child.stdout is not None
        path, pump = child.stdout.readline().split()
        watched = os.pidfd_open(int(pump))
        try:
            witness.attach(path)
            child.send_signal(number)
            child.communicate(timeout=PATIENCE)
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            assert poll.poll(PATIENCE * 1000), "the process that carries frames lives on"
        finally:
            os.close(watched)
    assert child.returncode != 0
    witness.await_gone()
