"""A hypervisor made of namespaces: the host, one instance behind each port, and the outside.

::

    instance (eth0) --veth or tap-- NAME [ hv: ruleset under test ] uplink0 --veth-- (eth0) outside

Routed, the host routes each private IP to its interface; the instances and the outside send
everything to a link-local next hop. Switched, all host ends are ports of one bridge, and everybody
speaks to everybody's own MAC. Behind a gateway, as with libvirt, only the instances are on the
bridge, and the host routes between it and the outside. All addressing is fixed beforehand, so that
the first packet goes at once.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import ClassVar, Self

from secgroupd.core.model import Address
from secgroupd.proving import wiring
from secgroupd.proving.attachment import BRIDGE, Attachment, Kind, Wiring
from secgroupd.proving.netns import Namespace
from secgroupd.proving.taps import TapPump
from secgroupd.proving.tracking import forget_connections
from secgroupd.proving.ways import Ways, check_apart, tables

__all__ = ["BRIDGE", "DEFAULT_UPLINK", "Attachment", "Kind", "Lab", "Wiring"]

DEFAULT_UPLINK = "uplink0"


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
        if not names:
            raise ValueError("a lab needs an uplink")
        self.wiring = wired or self.default_wiring
        self._open = ExitStack()
        self._ports: dict[str, Attachment] = {}
        self._uplinks: dict[str, Attachment] = {}
        self._bridges: dict[str, int] = {}
        self._ways = Ways()
        self._pump: TapPump | None = None
        self._made = 0
        try:
            self.hv = self._namespace("hv", filters=True)
            wiring.make_forwarder(self.hv)
            wiring.own_addresses(self.hv, 1, wiring.GATEWAYS[:1])
            outward = BRIDGE if self.wiring is Wiring.SWITCHED else None
            for name in names:
                self._check_free(name)
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
    def bridges(self) -> Mapping[str, int]:
        """The index of each bridge that was asked for until now, by name."""
        return MappingProxyType(self._bridges)

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
            ValueError: Another interface of the lab has the name, another port or the outside one
                of the addresses, another end on the bridge the MAC; or no interface can have the
                name.
            DataplaneError: The kernel refused.
        """
        typed = tuple(wiring.as_address(address) for address in addresses)
        self._check_free(interface)
        if bridge is None and self.wiring is not Wiring.ROUTED:
            bridge = BRIDGE
        with ExitStack() as undo:
            port = self._attach(interface, kind, mac=mac, alias=alias, bridge=bridge)
            undo.callback(port.namespace.close)
            undo.callback(wiring.delete_link, self.hv, interface)
            port = replace(port, addresses=typed)
            check_apart([*self._attached, port])
            wiring.own_addresses(port.namespace, port.guest_index, typed)
            self._ports[interface] = port
            undo.callback(self._write_ways)
            undo.callback(self._ports.pop, interface)
            self._write_ways()
            undo.pop_all()
        return port

    def remove_port(self, interface: str) -> None:
        """Delete a port's interface with its routes, and the instance behind it.

        Raises:
            KeyError: There is no such port.
        """
        port = self._ports.pop(interface)
        try:
            self._write_ways()
            wiring.delete_link(self.hv, interface)
        finally:
            port.namespace.close()

    def plug(self, interface: str, bridge: str) -> Attachment:
        """Move a port or uplink to a bridge, from another or from being routed.

        The bridge is made when it is first asked for. All but br0 are islands, as for ``add_port``.

        Raises:
            KeyError: There is no such port or uplink.
            ValueError: An address is used there already, or the MAC.
            DataplaneError: The kernel refused.
        """
        return self._move(interface, bridge)

    def unplug(self, interface: str) -> Attachment:
        """Let the host route to a port or uplink that is on a bridge.

        Raises:
            KeyError: There is no such port or uplink.
            ValueError: The host routes to one of its addresses somewhere else.
            DataplaneError: The kernel refused.
        """
        return self._move(interface, None)

    def outside_address(self, address: Address | str, *, uplink: str | None = None) -> Namespace:
        """Let an address be outside, behind an uplink (the first unless named), from now on.

        Everybody's route moves when the address was behind another uplink.

        Returns:
            The namespace that owns the address.

        Raises:
            ValueError: A port has the address, and the host could not tell the two apart.
        """
        typed = wiring.as_address(address)
        name = next(iter(self._uplinks)) if uplink is None else uplink
        attachment = self._uplinks[name]
        if typed in attachment.addresses:
            return attachment.namespace
        wanted = {
            each: replace(one, addresses=tuple(a for a in one.addresses if a != typed))
            for each, one in self._uplinks.items()
        }
        wanted[name] = replace(attachment, addresses=(*attachment.addresses, typed))
        check_apart([*self._ports.values(), *wanted.values()])
        wiring.own_addresses(attachment.namespace, attachment.guest_index, (typed,))
        self._uplinks |= wanted
        self._write_ways()
        return attachment.namespace

    def lead(self, address: Address | str, interface: str) -> None:
        """Send what is for an address to a port, from now on, although its instance lacks it.

        Raises:
            KeyError: There is no such port.
            ValueError: The address is somebody's.
        """
        port = self._ports[interface]
        wanted = replace(port, addresses=(*port.addresses, wiring.as_address(address)))
        check_apart([*(one for one in self._attached if one is not port), wanted])
        self._ports[interface] = wanted
        self._write_ways()

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

    @property
    def _attached(self) -> list[Attachment]:
        return [*self._ports.values(), *self._uplinks.values()]

    def _check_free(self, interface: str) -> None:
        wiring.check_name(interface)
        if interface in self._ports or interface in self._uplinks or interface in self._bridges:
            raise ValueError(f"the lab already has an interface {interface!r}")

    def _write_ways(self) -> None:
        self._ways.write(tables(self.hv, self._attached, self._bridges))

    def _attach(
        self,
        interface: str,
        kind: Kind,
        *,
        mac: str | None,
        alias: str | None,
        bridge: str | None,
    ) -> Attachment:
        mac = (mac or self._fresh_mac()).lower()
        host_mac = ("ee" if mac.startswith("fe") else "fe") + mac[2:]
        on = None if bridge is None else self._bridge(bridge)
        guest = self._namespace(f"the namespace behind {interface}")
        with ExitStack() as undo:
            undo.callback(guest.close)
            undo.callback(wiring.delete_link, self.hv, interface)
            if kind == "tap":
                self._tap_pump().join((self.hv, interface), (guest, wiring.GUEST_INTERFACE))
            else:
                wiring.make_veth(self.hv, interface, guest)
            guest_index = wiring.set_up(guest, wiring.GUEST_INTERFACE, mac)
            if on is not None:
                wiring.put_on_bridge(self.hv, interface, on)
            index = wiring.set_up(self.hv, interface, host_mac, alias=alias)
            if on is None:
                wiring.be_gateway(self.hv, index)
            wiring.use_gateway(guest, guest_index, host_mac if on is None else wiring.BRIDGE_MAC)
            if kind == "veth":  # a tap has its carrier from the start
                wiring.await_up(guest, guest_index)
                wiring.await_up(self.hv, index)
            if on is not None:
                wiring.await_up(self.hv, on)
            undo.pop_all()
        return Attachment(
            interface=interface,
            index=index,
            namespace=guest,
            guest_index=guest_index,
            mac=mac,
            host_mac=host_mac,
            kind=kind,
            bridge=bridge,
        )

    def _move(self, interface: str, bridge: str | None) -> Attachment:
        group = self._ports if interface in self._ports else self._uplinks
        old = group[interface]
        moved = replace(old, bridge=bridge)
        check_apart([*(one for one in self._attached if one is not old), moved])
        if bridge is not None:
            wiring.put_on_bridge(self.hv, interface, self._bridge(bridge))
            wiring.await_up(self.hv, self._bridge(bridge))
        elif old.bridge is not None:
            wiring.take_off_bridge(self.hv, interface)
        gateway = moved.host_mac if bridge is None else wiring.BRIDGE_MAC
        wiring.use_gateway(moved.namespace, moved.guest_index, gateway)
        group[interface] = moved
        self._write_ways()
        return moved

    def _bridge(self, name: str) -> int:
        """Return the index of a bridge, made when it is first asked for."""
        if name not in self._bridges:
            self._check_free(name)
            self._bridges[name] = wiring.make_bridge(self.hv, name)
        return self._bridges[name]

    def _fresh_mac(self) -> str:
        used = {one.mac for one in self._attached}
        while True:
            self._made += 1
            mac = f"fa:16:3e:ff:{self._made >> 8:02x}:{self._made & 255:02x}"
            if mac not in used:
                return mac

    def _tap_pump(self) -> TapPump:
        if self._pump is None:
            self._pump = TapPump()
            self._open.callback(self._pump.close)
        return self._pump
