"""The host's links, as the kernel has them."""

import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from secgroupd.core.bindings import Link
from secgroupd.dataplane.links import Links
from secgroupd.dataplane.netlink import Netlink, attribute
from secgroupd.proving.netns import Namespace

pytestmark = pytest.mark.netns

PATIENCE = 10.0
ODD = 't"\\*;}'
MAC = "fa:16:3e:00:00:01"


@pytest.fixture
def host() -> Iterator[Namespace]:
    made = Namespace("host")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def links(host: Namespace) -> Iterator[Links]:
    with host.enter():
        made = Links()
    with made:
        yield made


@pytest.fixture
def route(host: Namespace) -> Iterator[IPRoute]:
    with host.enter(), IPRoute() as made:
        yield made


def sees(links: Links) -> bool:
    ready, _, _ = select.select([links], [], [], PATIENCE)
    return bool(ready) and links.changed()


def named(links: Links, name: str) -> Link | None:
    return next((link for link in links.read() if link.name == name), None)


def add(route: IPRoute, name: str, **options: str) -> None:
    route.link("add", ifname=name, kind="veth", peer={"ifname": f"peer-{name[:10]}"}, **options)


def test_only_the_namespace_of_the_maker_is_seen(links: Links) -> None:
    assert [(link.name, link.index, link.mac) for link in links.read()] == [
        ("lo", 1, "00:00:00:00:00:00")
    ]


def test_everything_about_a_link_is_read(links: Links, route: IPRoute) -> None:
    route.link("add", ifname="br0", kind="bridge")
    bridge = named(links, "br0")
    assert bridge is not None
    add(route, ODD, address=MAC)
    made = named(links, ODD)
    assert made is not None
    route.link("set", index=made.index, ifalias="port a01 \u00e9")
    assert named(links, ODD) == Link(ODD, made.index, "port a01 \u00e9", MAC)
    route.link("set", index=made.index, master=bridge.index, state="up")
    after = named(links, ODD)
    assert after == Link(ODD, made.index, "port a01 \u00e9", MAC, bridge.index, True, "bridge")


def test_every_kind_of_change_wakes(links: Links, route: IPRoute) -> None:
    assert not links.changed()
    add(route, "tap1")
    assert sees(links)
    link = named(links, "tap1")
    assert link is not None
    # The kernel tells of no new alias while a link is down; but of its going up.
    for change in ({"address": MAC}, {"ifname": "tap2"}, {"state": "up"}, {"ifalias": "p"}):
        while links.changed():
            pass
        route.link("set", index=link.index, **change)
        assert sees(links), change
    while links.changed():
        pass
    route.link("del", index=link.index)
    assert sees(links)
    assert named(links, "tap2") is None


def test_a_name_that_is_not_utf8_hides_no_other(host: Namespace, links: Links) -> None:
    with host.enter(), socket.socket() as control:
        with IPRoute() as route:
            add(route, "odd")
            add(route, "tap1")
        request = struct.pack("16s16s", b"odd", b"o\xff")
        fcntl.ioctl(control, 0x8923, request)  # SIOCSIFNAME
    assert {link.name for link in links.read()} == {
        "lo",
        "o\udcff",
        "peer-odd",
        "tap1",
        "peer-tap1",
    }


def drops(links: Links) -> int:
    """How many events the kernel had no room for (the last but one column of its table)."""
    inode = os.fstat(links.fileno()).st_ino
    lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()
    return next(int(line.split()[-2]) for line in lines if line.split()[-1] == str(inode))


def test_lost_events_are_a_change_and_the_list_is_whole(
    host: Namespace, links: Links, route: IPRoute
) -> None:
    with socket.socket(fileno=os.dup(links.fileno())) as events:
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for number in range(40):
        add(route, f"tap{number}")
    with host.enter():
        assert drops(links) > 0
    assert sees(links)
    assert not links.changed()
    assert len(links.read()) == 81
    route.link("del", ifname="tap7")
    assert sees(links)
    assert len(links.read()) == 79


def test_sockets_that_somebody_closes_are_opened_again(links: Links, route: IPRoute) -> None:
    before = links.read()
    os.close(links.fileno())
    assert links.changed(), "whatever has happened meanwhile"
    add(route, "tap1")
    assert sees(links)
    os.close(links._dump.fileno())
    assert len(links.read()) == len(before) + 2


def test_requests_in_one_go_survive_a_socket_that_somebody_closed(host: Namespace) -> None:
    gone = (1 << 8 | 2, 2, attribute(1, b""))
    with host.enter(), Netlink() as netlink:
        before = netlink.post([gone, gone])
        os.close(netlink._socket.fileno())
        assert netlink.post([gone, gone]) == before
        assert len(before) == 2 and all(before)


def test_many_links_are_listed_whole(links: Links, route: IPRoute) -> None:
    for number in range(300):
        add(route, f"tap{number}")
    found = links.read()
    assert len(found) == 601
    assert [link.index for link in found] == sorted({link.index for link in found})


def test_a_list_is_read_again_when_something_has_been_told_and_not_else(
    links: Links, route: IPRoute
) -> None:
    first = links.read()
    assert links.read() is first
    route.link("add", ifname="tap1", kind="tuntap", mode="tap")
    assert named(links, "tap1")
    assert links.changed()
    assert links.read() is links.read()
    links.forget()
    assert links.read() is not first


def test_what_is_told_after_a_list_was_read_is_not_missed_by_whoever_took_the_event(
    links: Links, route: IPRoute
) -> None:
    links.read()
    route.link("add", ifname="tap1", kind="tuntap", mode="tap")
    assert links.changed()
    assert named(links, "tap1")
