"""What the lab asks of netlink: links, addresses, routes and neighbours, all fixed beforehand.

Every neighbour entry is permanent and no address is probed for duplicates, so no packet ever waits
for an answer that the ruleset could forbid. Interface names travel as netlink attributes and may
hold any character that the kernel takes.
"""

import os
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENODEV, ENOENT, ESRCH
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_NETLINK, NETLINK_ROUTE, SOCK_RAW
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

_GONE = frozenset({ENODEV, ENOENT, ESRCH})
_PERMANENT = 0x80
_NO_DAD = 0x02
_ON_LINK = 0x04
_QUEUE_FRAMES = 4096
_LONGEST_NAME = 15
_LINK_EVENTS, _ROUTE6_EVENTS = 1, 0x400
_LOCAL_TABLE = 255
_LONGEST_EVENT = 65536
_PATIENCE = 10.0


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
    """Let a namespace forward both families and trust every route, as a hypervisor does.

    Bridged packets are for the tables of bridges alone.
    """
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
    with namespace.enter():
        filters_bridged = Path("/proc/sys/net/bridge").is_dir()
    if filters_bridged:
        # Otherwise the tables of routed packets would see bridged ones too, as br_netfilter has it.
        for family in ("iptables", "ip6tables", "arptables"):
            namespace.write_sysctl(f"bridge/bridge-nf-call-{family}", 0)


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


def set_up(namespace: Namespace, interface: str, mac: str, *, alias: str | None = None) -> int:
    """Give an interface its MAC and take it up.

    Returns:
        The interface's index.
    """
    with netlink(namespace) as route:
        index: int = route.link_lookup(ifname=interface)[0]
        named = {} if alias is None else {"ifalias": alias}
        route.link("set", index=index, address=mac, txqlen=_QUEUE_FRAMES, state="up", **named)
    return index


def await_up(namespace: Namespace, index: int) -> None:
    """Wait until an interface sends and receives what it is given.

    When the other end of a cable comes up, the kernel starts the queue, the bridge port and the
    IPv6 of this end a moment later, and until then packets are lost.

    Raises:
        DataplaneError: That does not happen within some seconds.
    """
    with netlink(namespace) as route:

        def is_up() -> bool:
            return bool(route.get_links(index)[0].get_attr("IFLA_OPERSTATE") == "UP")

        _await(namespace, _LINK_EVENTS, is_up, f"the interface with index {index} does not come up")


def _await(namespace: Namespace, events: int, condition: Callable[[], bool], failure: str) -> None:
    """Wait for what the kernel does by itself and reports to these groups of netlink."""
    with namespace.socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE) as reports:
        reports.bind((0, events))
        while not condition():
            ready, _, _ = select.select([reports], [], [], _PATIENCE)
            if not ready:
                raise DataplaneError(failure)
            reports.recv(_LONGEST_EVENT)


def be_gateway(host: Namespace, index: int) -> None:
    """Let an interface of the host have the gateways' link-local address.

    The IPv4 one is the host's own and answered to at every interface.
    """
    with netlink(host) as route:
        route.addr("replace", index=index, address=str(GATEWAYS[1]), prefixlen=64, flags=_NO_DAD)


def use_gateway(guest: Namespace, index: int, mac: str) -> None:
    """Send everything that has no way of its own to the gateways, which answer at ``mac``."""
    with netlink(guest) as route:
        for gateway in GATEWAYS:
            _add_neighbour(route, index, gateway, mac)
            _add_default_route(route, index, gateway)


def make_bridge(host: Namespace, name: str) -> int:
    """Make a bridge that forwards at once and answers as the gateways; return its index."""
    with netlink(host) as route:
        route.link(
            "add",
            ifname=name,
            kind="bridge",
            br_stp_state=0,
            br_forward_delay=0,
            # Nobody asks for groups here: what a port joins it is sent, like everything else.
            br_mcast_snooping=0,
        )
    index = set_up(host, name, BRIDGE_MAC)
    be_gateway(host, index)
    return index


def put_on_bridge(host: Namespace, interface: str, bridge: int) -> None:
    """Make an interface a port of the bridge with this index (only), without addresses."""
    # With IPv6 it would go on joining groups and reporting them to whatever is behind it.
    host.write_sysctl(f"ipv6/conf/{interface}/disable_ipv6", 1)
    with netlink(host) as route:
        (index,) = route.link_lookup(ifname=interface)
        route.link("set", index=index, master=bridge)


def take_off_bridge(host: Namespace, interface: str) -> None:
    """Make an interface routed that was a port of a bridge."""
    with netlink(host) as route:
        (index,) = route.link_lookup(ifname=interface)
        route.link("set", index=index, master=0)
    host.write_sysctl(f"ipv6/conf/{interface}/disable_ipv6", 0)
    be_gateway(host, index)


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
        "replace", family=family, dst=any_address, gateway=str(gateway), oif=index, flags=_ON_LINK
    )


def own_addresses(namespace: Namespace, index: int, addresses: tuple[Address, ...]) -> None:
    """Add addresses, each as a network of its own, to an interface of the namespace.

    Returns when the namespace takes what is sent to them, which in IPv6 is a moment later.

    Raises:
        DataplaneError: The kernel refused, or that does not happen within some seconds.
    """
    with netlink(namespace) as route:

        def in_use() -> bool:
            found = route.get_routes(family=AF_INET6, table=_LOCAL_TABLE)
            return {a for a in addresses if a.version == 6} <= {
                ip_address(one.get_attr("RTA_DST") or "::") for one in found
            }

        for address in addresses:
            route.addr(
                "replace",
                index=index,
                address=str(address),
                prefixlen=address.max_prefixlen,
                flags=_NO_DAD,
            )
        names = ", ".join(map(str, addresses))
        _await(namespace, _ROUTE6_EVENTS, in_use, f"not taken into use: {names}")


@dataclass(frozen=True, slots=True)
class Way:
    """How an address is reached: over the interface with this index, at this MAC."""

    index: int
    mac: str


def change_ways(
    namespace: Namespace, gained: Mapping[Address, Way], lost: Mapping[Address, Way]
) -> None:
    """Give a namespace routes and neighbours, then take others away.

    What went with its interface already is no error, and a route that leads over another interface
    by now stays.

    Raises:
        DataplaneError: The kernel refused.
    """
    with netlink(namespace) as route:
        for address, way in gained.items():
            _add_neighbour(route, way.index, address, way.mac)
            route.route("replace", **_host_route(address, way))
        for address, way in lost.items():
            with _unless_gone():
                route.neigh(
                    "del", family=family_number(address), dst=str(address), ifindex=way.index
                )
            with _unless_gone():
                route.route("del", **_host_route(address, way))


def _host_route(address: Address, way: Way) -> dict[str, Any]:
    whole = f"{address}/{address.max_prefixlen}"
    return {"family": family_number(address), "dst": whole, "oif": way.index}


@contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in _GONE:
            raise


def delete_link(namespace: Namespace, interface: str) -> None:
    """Delete an interface if it is there; the other end of a veth goes with it."""
    with netlink(namespace) as route:
        for index in route.link_lookup(ifname=interface):
            route.link("del", index=index)


def as_address(address: Address | str) -> Address:
    """Return the typed form of an address."""
    return ip_address(address)
