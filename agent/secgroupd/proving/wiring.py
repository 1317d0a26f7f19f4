"""What the lab asks of netlink: links, addresses, routes and neighbours, all fixed beforehand.

Every neighbour entry is permanent and no address is probed for duplicates, so no packet ever waits
for an answer that the ruleset could forbid. Interface names travel as netlink attributes and may
hold any character that the kernel takes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from secgroupd.core.model import Address
from secgroupd.errors import DataplaneError
from secgroupd.proving.netns import Namespace

GATEWAYS: tuple[IPv4Address, IPv6Address] = (IPv4Address("169.254.1.1"), IPv6Address("fe80::1"))
"""The next hops that every instance uses; on the hypervisor's side, each interface answers to both."""

GUEST_INTERFACE = "eth0"

BRIDGE_MAC = "fe:ff:ff:00:00:01"
"""The MAC of every bridge of a lab: fixed, so that it does not follow the ports that come and go."""

_PERMANENT = 0x80
_NO_DAD = 0x02
_ON_LINK = 0x04
_QUEUE_FRAMES = 4096
_LONGEST_NAME = 15


@contextmanager
def netlink(namespace: Namespace) -> Iterator[Any]:
    """Open a route socket in a namespace, for the block's duration.

    Raises:
        DataplaneError: The kernel refused what the block asked for.
    """
    with namespace.enter(), IPRoute() as route:
        try:
            yield route
        except NetlinkError as error:
            raise DataplaneError(f"the kernel refused a link or route: {error}") from error


def family_number(address: Address) -> int:
    """Return AF_INET or AF_INET6."""
    return int(AF_INET if address.version == 4 else AF_INET6)


def make_forwarder(namespace: Namespace) -> None:
    """Let a namespace forward both families and trust every route, as a hypervisor does."""
    for name, value in (
        ("ipv4/ip_forward", 1),
        ("ipv6/conf/all/forwarding", 1),
        ("ipv4/conf/all/rp_filter", 0),
        ("ipv4/conf/default/rp_filter", 0),
        ("ipv4/conf/all/send_redirects", 0),
        ("ipv4/conf/default/send_redirects", 0),
        ("ipv4/icmp_ratelimit", 0),
        ("ipv6/icmp/ratelimit", 0),
    ):
        namespace.write_sysctl(name, value)


def make_quiet(namespace: Namespace) -> None:
    """Keep a fresh namespace from sending anything by itself but its group memberships."""
    for scope in ("all", "default"):
        namespace.write_sysctl(f"ipv6/conf/{scope}/disable_ipv6", 0)
        namespace.write_sysctl(f"ipv6/conf/{scope}/accept_dad", 0)
        namespace.write_sysctl(f"ipv6/conf/{scope}/accept_ra", 0)
        namespace.write_sysctl(f"ipv6/conf/{scope}/router_solicitations", 0)
    with netlink(namespace) as route:
        route.link("set", index=1, state="up")


def check_name(interface: str) -> None:
    """Check that an interface can have a name.

    Raises:
        ValueError: The kernel would refuse it, shorten it or fill it in.
    """
    if (
        not 1 <= len(os.fsencode(interface)) <= _LONGEST_NAME
        or interface in {".", ".."}
        or any(letter in "/:%\0" or letter.isspace() for letter in interface)
    ):
        raise ValueError(f"no interface can be named {interface!r}")


def make_veth(host: Namespace, interface: str, guest: Namespace) -> None:
    """Make a veth named ``interface`` in ``host`` whose other end is the guest's interface."""
    with netlink(host) as route:
        peer = {"ifname": GUEST_INTERFACE, "net_ns_fd": guest.fd}
        route.link("add", ifname=interface, kind="veth", peer=peer)


def set_up(
    namespace: Namespace,
    interface: str,
    mac: str,
    *,
    alias: str | None = None,
    peer_mac: str,
    bridge: int | None = None,
) -> int:
    """Give an interface its MAC, take it up, and make it know its gateways' MAC.

    With the index of a ``bridge``, it becomes a port of that and has no addresses.

    Returns:
        The interface's index.
    """
    with netlink(namespace) as route:
        index: int = route.link_lookup(ifname=interface)[0]
        named = {} if alias is None else {"ifalias": alias}
        route.link("set", index=index, address=mac, txqlen=_QUEUE_FRAMES, state="up", **named)
        if bridge is not None:
            route.link("set", index=index, master=bridge)
            return index
        for gateway in GATEWAYS:
            if namespace.filters:
                if gateway.version == 6:
                    route.addr(
                        "add", index=index, address=str(gateway), prefixlen=64, flags=_NO_DAD
                    )
            else:
                _add_neighbour(route, index, gateway, peer_mac)
                _add_default_route(route, index, gateway)
    return index


def make_bridge(host: Namespace, name: str) -> int:
    """Make a bridge that forwards at once and has the gateways' addresses; return its index."""
    with netlink(host) as route:
        route.link(
            "add",
            ifname=name,
            kind="bridge",
            address=BRIDGE_MAC,
            br_stp_state=0,
            br_forward_delay=0,
            # Nobody asks for groups here: what a port joins it is sent, like everything else.
            br_mcast_snooping=0,
        )
    return set_up(host, name, BRIDGE_MAC, peer_mac=BRIDGE_MAC)


def _add_neighbour(route: Any, index: int, address: Address, mac: str) -> None:
    route.neigh(
        "replace",
        family=family_number(address),
        dst=str(address),
        lladdr=mac,
        ifindex=index,
        state=_PERMANENT,
    )


def _add_default_route(route: Any, index: int, gateway: Address) -> None:
    family = family_number(gateway)
    any_address = "0.0.0.0/0" if gateway.version == 4 else "::/0"
    route.route(
        "add", family=family, dst=any_address, gateway=str(gateway), oif=index, flags=_ON_LINK
    )


def own_addresses(namespace: Namespace, index: int, addresses: tuple[Address, ...]) -> None:
    """Add addresses, each as a network of its own, to an interface of the namespace."""
    with netlink(namespace) as route:
        for address in addresses:
            route.addr(
                "replace",
                index=index,
                address=str(address),
                prefixlen=address.max_prefixlen,
                flags=_NO_DAD,
            )


def route_to(host: Namespace, index: int, addresses: tuple[Address, ...], mac: str) -> None:
    """Route addresses to the interface with this index, behind which ``mac`` answers to them."""
    with netlink(host) as route:
        for address in addresses:
            _add_neighbour(route, index, address, mac)
            route.route(
                "replace",
                family=family_number(address),
                dst=f"{address}/{address.max_prefixlen}",
                oif=index,
            )


def delete_link(namespace: Namespace, interface: str) -> None:
    """Delete an interface if it is there; the other end of a veth goes with it."""
    with netlink(namespace) as route:
        for index in route.link_lookup(ifname=interface):
            route.link("del", index=index)


def as_address(address: Address | str) -> Address:
    """Return the typed form of an address."""
    return ip_address(address)
