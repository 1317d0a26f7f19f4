"""A hypervisor made of namespaces: the host, one instance behind each port, and the outside.

::

    instance (eth0) --veth or tap-- NAME [ hv: ruleset under test ] uplink0 --veth-- (eth0) outside

Routed, the host routes each private IP to its interface; the instances and the outside send
everything to a link-local next hop. Switched, all host ends are ports of one bridge, and everybody
speaks to everybody's own MAC. Behind a gateway, as with libvirt, only the instances are on the
bridge, and the host routes between it and the outside. All addressing is fixed beforehand, so that
the first packet goes at once.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import ClassVar, Literal, Self

from secgroupd.core.model import Address
from secgroupd.proving import wiring
from secgroupd.proving.netns import Namespace
from secgroupd.proving.taps import TapPump
from secgroupd.proving.tracking import forget_connections

Kind = Literal["veth", "tap"]


class Wiring(StrEnum):
    """How a lab's ports are connected to its host."""

    ROUTED = "routed"
    SWITCHED = "switched"
    GATEWAY = "gateway"


BRIDGE = "br0"
"""The bridge of ports that name none."""

DEFAULT_UPLINK = "uplink0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One cable between the host and another namespace.

    ``interface`` and ``index`` are those of the host's end; ``mac`` and ``guest_index`` those of
    the end in ``namespace``, where the interface is named eth0. ``bridge`` is the bridge that the
    host's end is a port of, None where it is routed.
    """

    interface: str
    index: int
    namespace: Namespace
    guest_index: int
    mac: str
    kind: Kind
    addresses: tuple[Address, ...] = ()
    bridge: str | None = None


class Lab:
    """A hypervisor with as many ports as are added, none at first.

    Use it as a context manager, or call ``close``. When the process dies without either, the
    kernel takes everything down, because only the process held it.

    Attributes:
        hv: The host's namespace, in which the ruleset belongs. It has the address 169.254.1.1.

    Args:
        uplinks: Names of the host's interfaces that lead outside; there is at least one.
        wired: How ports are connected; None takes ``Lab.default_wiring``.

    Raises:
        ValueError: No uplink, or a name that no interface can have.
        DataplaneError: The process may not make namespaces.
    """

    default_wiring: ClassVar[Wiring] = Wiring.ROUTED
    """What labs are wired like when nobody says: the tests run on ports of every kind."""

    def __init__(
        self, *, uplinks: Iterable[str] = (DEFAULT_UPLINK,), wired: Wiring | None = None
    ) -> None:
        names = tuple(uplinks)
        self.wiring = wired or self.default_wiring
        self._bridges: dict[str, int] = {}
        if not names:
            raise ValueError("a lab needs an uplink")
        self._open = ExitStack()
        self._ports: dict[str, Attachment] = {}
        self._uplinks: dict[str, Attachment] = {}
        self._outside: dict[Address, str] = {}
        self._pump: TapPump | None = None
        self._made = 0
        try:
            self.hv = self._namespace("hv", filters=True)
            wiring.make_forwarder(self.hv)
            wiring.own_addresses(self.hv, 1, wiring.GATEWAYS[:1])
            outward = BRIDGE if self.wiring is Wiring.SWITCHED else None
            for name in names:
                self._uplinks[name] = self._attach(
                    name, "veth", mac=None, alias=None, bridge=outward
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def ports(self) -> Mapping[str, Attachment]:
        """The ports by the name of their interface."""
        return MappingProxyType(self._ports)

    @property
    def uplinks(self) -> Mapping[str, Attachment]:
        """The uplinks by name, in the order given; each leads to an outside of its own."""
        return MappingProxyType(self._uplinks)

    @property
    def outside(self) -> Namespace:
        """The namespace behind the first uplink."""
        return next(iter(self._uplinks.values())).namespace

    def add_port(
        self,
        *,
        interface: str,
        addresses: Iterable[Address | str] = (),
        mac: str | None = None,
        kind: Kind = "veth",
        alias: str | None = None,
        bridge: str | None = None,
    ) -> Attachment:
        """Add an instance with one port.

        Args:
            interface: Exact name of the host's end, of up to 15 bytes; any character but
                slash, colon, per cent and white space.
            addresses: Private IPs of either family; the host routes them to the interface.
            mac: The instance's MAC; None takes the next of fa:16:3e. The host's end gets the
                same with the first byte fe, as libvirt does.
            kind: A veth, or a tap device whose frames another process carries.
            alias: The link alias of the host's end.
            bridge: A bridge to put it on, an island that the host does not route to, on which any
                address may be used again. None takes the lab's wiring.

        Raises:
            ValueError: Another port of the lab has the name or one of the addresses, or no
                interface can have the name.
            DataplaneError: The kernel refused.
        """
        typed = tuple(wiring.as_address(address) for address in addresses)
        if interface in self._ports or interface in self._uplinks:
            raise ValueError(f"the lab already has an interface {interface!r}")
        island = bridge is not None
        if bridge is None and self.wiring is not Wiring.ROUTED:
            bridge = BRIDGE
        taken = {
            address
            for port in self._ports.values()
            if not island or port.bridge == bridge
            for address in port.addresses
        }
        if twice := (taken | (set() if island else self._outside.keys())) & set(typed):
            raise ValueError(f"another namespace of the lab has {min(map(str, twice))}")
        port = self._attach(interface, kind, mac=mac, alias=alias, addresses=typed, bridge=bridge)
        self._ports[interface] = port
        return port

    def remove_port(self, interface: str) -> None:
        """Delete a port's interface with its routes, and the instance behind it.

        Raises:
            KeyError: There is no such port.
        """
        port = self._ports.pop(interface)
        try:
            wiring.delete_link(self.hv, interface)
        finally:
            port.namespace.close()

    def outside_address(self, address: Address | str, *, uplink: str | None = None) -> Namespace:
        """Let an address be outside, behind an uplink (the first unless named), from now on.

        The host's route moves when the address was behind another uplink.

        Returns:
            The namespace that owns the address.

        Raises:
            ValueError: A port has the address.
        """
        typed = wiring.as_address(address)
        if any(typed in port.addresses for port in self._ports.values()):
            raise ValueError(f"{typed} is the private IP of a port")
        name = next(iter(self._uplinks)) if uplink is None else uplink
        attachment = self._uplinks[name]
        if self._outside.get(typed) != name:
            wiring.own_addresses(attachment.namespace, attachment.guest_index, (typed,))
            self._route_from_host(attachment, (typed,))
            for port in self._neighbours(attachment):
                wiring.route_to(port.namespace, port.guest_index, (typed,), attachment.mac)
            self._outside[typed] = name
        return attachment.namespace

    def forget(self) -> None:
        """Delete every conntrack entry of the host (and of nothing else).

        Probes differ in ports or identifiers, so one never rides on another's entry. Protocols
        without either (GRE, ESP, most numbers; DCCP too on kernels that no longer track it) are
        tracked by addresses alone: call this between two probes of such a protocol between the
        same addresses, in either direction.
        """
        forget_connections(self.hv)

    def close(self) -> None:
        """Take everything down and end the lab's process. May be repeated."""
        self._ports.clear()
        self._uplinks.clear()
        self._open.close()

    def _namespace(self, name: str, *, filters: bool = False) -> Namespace:
        namespace = Namespace(name, filters=filters)
        self._open.callback(namespace.close)
        wiring.make_quiet(namespace)
        return namespace

    def _attach(
        self,
        interface: str,
        kind: Kind,
        *,
        mac: str | None,
        alias: str | None,
        addresses: tuple[Address, ...] = (),
        bridge: str | None = None,
    ) -> Attachment:
        wiring.check_name(interface)
        self._made += 1
        mac = (mac or f"fa:16:3e:00:{self._made >> 8:02x}:{self._made & 255:02x}").lower()
        host_mac = ("ee" if mac.startswith("fe") else "fe") + mac[2:]
        guest = self._namespace(f"the namespace behind {interface}")
        with ExitStack() as undo:
            undo.callback(guest.close)
            undo.callback(wiring.delete_link, self.hv, interface)
            attachment = self._wire(interface, kind, guest, mac, host_mac, alias, addresses, bridge)
            undo.pop_all()
        return attachment

    def _wire(
        self,
        interface: str,
        kind: Kind,
        guest: Namespace,
        mac: str,
        host_mac: str,
        alias: str | None,
        addresses: tuple[Address, ...],
        bridge: str | None,
    ) -> Attachment:
        if kind == "tap":
            self._tap_pump().join((self.hv, interface), (guest, wiring.GUEST_INTERFACE))
        else:
            wiring.make_veth(self.hv, interface, guest)
        gateway = host_mac if bridge is None else wiring.BRIDGE_MAC
        guest_index = wiring.set_up(guest, wiring.GUEST_INTERFACE, mac, peer_mac=gateway)
        on = None if bridge is None else self._bridge(bridge)
        index = wiring.set_up(self.hv, interface, host_mac, alias=alias, peer_mac=mac, bridge=on)
        wiring.own_addresses(guest, guest_index, addresses)
        made = Attachment(
            interface=interface,
            index=index,
            namespace=guest,
            guest_index=guest_index,
            mac=mac,
            kind=kind,
            addresses=addresses,
            bridge=bridge,
        )
        self._route_from_host(made, addresses)
        for other in self._neighbours(made):
            theirs = other.addresses or self._outside_of(other)
            wiring.route_to(guest, guest_index, theirs, other.mac)
            wiring.route_to(other.namespace, other.guest_index, addresses, mac)
        return made

    def _bridge(self, name: str) -> int:
        """Return the index of a bridge, made when it is first asked for."""
        if name not in self._bridges:
            self._bridges[name] = wiring.make_bridge(self.hv, name)
        return self._bridges[name]

    def _route_from_host(self, to: Attachment, addresses: tuple[Address, ...]) -> None:
        if to.bridge in {None, BRIDGE}:
            index = to.index if to.bridge is None else self._bridges[to.bridge]
            wiring.route_to(self.hv, index, addresses, to.mac)

    def _neighbours(self, of: Attachment) -> Iterator[Attachment]:
        """Yield what else is on the same bridge."""
        for one in (*self._ports.values(), *self._uplinks.values()):
            if one.bridge is not None and one.bridge == of.bridge and one is not of:
                yield one

    def _outside_of(self, uplink: Attachment) -> tuple[Address, ...]:
        return tuple(a for a, name in self._outside.items() if name == uplink.interface)

    def _tap_pump(self) -> TapPump:
        if self._pump is None:
            self._pump = TapPump()
            self._open.callback(self._pump.close)
        return self._pump
