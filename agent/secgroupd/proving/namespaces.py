"""A hypervisor made of namespaces: the host, one instance behind each port, and the outside.

::

    instance (eth0) --veth or tap-- NAME [ hv: ruleset under test ] uplink0 --veth-- (eth0) outside

The host routes each private IP to its interface; the instances and the outside send everything to
a link-local next hop. All addressing is fixed beforehand, so that the first packet goes at once.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Literal, Self

from secgroupd.core.model import Address
from secgroupd.proving import wiring
from secgroupd.proving.netns import Namespace
from secgroupd.proving.taps import TapPump
from secgroupd.proving.tracking import forget_connections

Kind = Literal["veth", "tap"]

DEFAULT_UPLINK = "uplink0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One cable between the host and another namespace.

    ``interface`` and ``index`` are those of the host's end; ``mac`` and ``guest_index`` those of
    the end in ``namespace``, where the interface is named eth0.
    """

    interface: str
    index: int
    namespace: Namespace
    guest_index: int
    mac: str
    kind: Kind
    addresses: tuple[Address, ...] = ()


class Lab:
    """A hypervisor with as many ports as are added, none at first.

    Use it as a context manager, or call ``close``. When the process dies without either, the
    kernel takes everything down, because only the process held it.

    Attributes:
        hv: The host's namespace, in which the ruleset belongs. It has the address 169.254.1.1.

    Args:
        uplinks: Names of the host's interfaces that lead outside; there is at least one.

    Raises:
        ValueError: No uplink, or a name that no interface can have.
        DataplaneError: The process may not make namespaces.
    """

    def __init__(self, *, uplinks: Iterable[str] = (DEFAULT_UPLINK,)) -> None:
        names = tuple(uplinks)
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
            for name in names:
                self._uplinks[name] = self._attach(name, "veth", mac=None, alias=None)
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

        Raises:
            ValueError: Another port of the lab has the name or one of the addresses, or no
                interface can have the name.
            DataplaneError: The kernel refused.
        """
        typed = tuple(wiring.as_address(address) for address in addresses)
        if interface in self._ports or interface in self._uplinks:
            raise ValueError(f"the lab already has an interface {interface!r}")
        taken = {address for port in self._ports.values() for address in port.addresses}
        if twice := (taken | self._outside.keys()) & set(typed):
            raise ValueError(f"another namespace of the lab has {min(map(str, twice))}")
        port = self._attach(interface, kind, mac=mac, alias=alias, addresses=typed)
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
            wiring.route_to(self.hv, attachment.index, (typed,), attachment.mac)
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
    ) -> Attachment:
        wiring.check_name(interface)
        self._made += 1
        mac = (mac or f"fa:16:3e:00:{self._made >> 8:02x}:{self._made & 255:02x}").lower()
        host_mac = ("ee" if mac.startswith("fe") else "fe") + mac[2:]
        guest = self._namespace(f"the namespace behind {interface}")
        with ExitStack() as undo:
            undo.callback(guest.close)
            undo.callback(wiring.delete_link, self.hv, interface)
            attachment = self._wire(interface, kind, guest, mac, host_mac, alias, addresses)
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
    ) -> Attachment:
        if kind == "tap":
            self._tap_pump().join((self.hv, interface), (guest, wiring.GUEST_INTERFACE))
        else:
            wiring.make_veth(self.hv, interface, guest)
        guest_index = wiring.set_up(guest, wiring.GUEST_INTERFACE, mac, peer_mac=host_mac)
        index = wiring.set_up(self.hv, interface, host_mac, alias=alias, peer_mac=mac)
        wiring.own_addresses(guest, guest_index, addresses)
        wiring.route_to(self.hv, index, addresses, mac)
        return Attachment(
            interface=interface,
            index=index,
            namespace=guest,
            guest_index=guest_index,
            mac=mac,
            kind=kind,
            addresses=addresses,
        )

    def _tap_pump(self) -> TapPump:
        if self._pump is None:
            self._pump = TapPump()
            self._open.callback(self._pump.close)
        return self._pump
