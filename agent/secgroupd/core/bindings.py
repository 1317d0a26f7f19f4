"""Ports and links -> which interface carries which port of this host.

A binding must never be guessed: where two links could carry a port, or two ports want one link,
nobody gets it, and the link stays closed if it is managed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from secgroupd.core.draft import Binding
from secgroupd.core.host import ABLE, Abilities, Bridging
from secgroupd.core.model import Port
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import quotable

LIBVIRT_FIRST_BYTE = "fe"
"""First byte of the MAC that libvirt gives to a tap; the other five are the instance's. A tap with
the instance's own MAC would swallow what is sent to the instance."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface of this host.

    ``mac`` is lower case with colons, None for links without one. ``master`` is the index of the
    bridge, bond or other link that this one is a port of, and ``member_of`` the kind of that, as the
    kernel calls it (``bridge``, ``bond``, ``vrf``, ``openvswitch``).
    """

    name: str
    index: int
    alias: str | None = None
    mac: str | None = None
    master: int | None = None
    up: bool = False
    member_of: str | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """Which ports this host carries, and which of its ports wait and why.

    A port whose interface is named is in ``bindings`` whether or not the link is there (its rules
    wait for it), and in ``waiting`` too while it is not. Ports that may be on any host and have
    neither a name nor a link here are in neither. ``links`` has the index of each bound port's link,
    where that is there: a name may be another link's by now, an index never is.
    """

    bindings: Mapping[str, Binding]
    waiting: Mapping[str, str]
    links: Mapping[str, int] = field(default_factory=dict)
    present: frozenset[int] = field(default=frozenset(), compare=False)
    """The indices of all links of the host, beside what became of the ports."""


ROUTED = frozenset({None, "vrf"})
"""Kinds of master whose members' packets are routed by the host under the members' own names."""

NO_TRACKING = "is on a bridge, and this kernel does not track bridged connections"
UNENFORCEABLE: Mapping[Bridging, str] = {
    Bridging.CLOSED: f"{NO_TRACKING} (module nf_conntrack_bridge): it is closed",
    Bridging.NONE: f"{NO_TRACKING}, nor can it close the port (nf_tables for bridges): IT IS OPEN",
}
"""Why a port on a bridge waits."""

UNTRACKED = "this kernel does not track connections (module nf_conntrack): it is closed"
"""Why every port waits."""


def bind(policy: Policy, host_id: str, links: Iterable[Link], abilities: Abilities = ABLE) -> Bound:
    """Find the interfaces of the ports that live on this host.

    Args:
        policy: the resolved document.
        host_id: what the document calls this host.
        links: every link of the host.
        abilities: what the kernel can do; where it cannot track a port's connections, the port is
            bound, so that it is closed, and waits.

    Returns:
        The same for equal arguments, whatever the order of the links.
    """
    return _Binder(sorted(links, key=lambda link: link.index), host_id, abilities).bind(policy)


class _Binder:
    def __init__(self, links: Sequence[Link], host_id: str, abilities: Abilities) -> None:
        self._host_id = host_id
        self._abilities = abilities
        self._names = {link.index: link.name for link in links}
        self._by_name = {link.name: link for link in links}
        self._by_alias: dict[str, list[Link]] = {}
        self._by_mac: dict[str, list[Link]] = {}
        for link in links:
            if link.alias:
                self._by_alias.setdefault(link.alias, []).append(link)
            if link.mac:
                self._by_mac.setdefault(link.mac, []).append(link)

    def bind(self, policy: Policy) -> Bound:
        wanted: dict[str, Binding] = {}
        waiting: dict[str, str] = {}
        for port in sorted(policy.ports.values(), key=lambda port: port.id):
            if port.host_id not in {None, self._host_id}:
                continue
            binding, reason = self._find(port)
            if binding is not None:
                wanted[port.id] = binding
            if reason is not None:
                waiting[port.id] = reason
        bound = _without_rivals(wanted, waiting)
        found = {i: self._by_name.get(one.interface) for i, one in bound.bindings.items()}
        indices = {i: link.index for i, link in found.items() if link}
        return replace(bound, links=indices, present=frozenset(self._names))

    def _find(self, port: Port) -> tuple[Binding | None, str | None]:
        if port.interface is not None:
            return self._named(port.interface)
        links = self._candidates(port)
        if len(links) == 1:
            return self._on(links[0], links[0].index)
        if links:
            names = ", ".join(link.name for link in links)
            return None, f"more than one interface fits: {names}"
        if port.host_id is None:
            return None, None
        by_mac = f" or the MAC {port.mac_address}" if port.mac_address else ""
        return None, f"no interface has the port's id as its alias{by_mac}"

    def _named(self, interface: str) -> tuple[Binding | None, str | None]:
        link = self._by_name.get(interface)
        if link is not None:
            return self._on(link, None if quotable(interface) else link.index)
        reason = f"there is no interface {interface}"
        # A name that no rule can say is matched by index, which only a link that is there has.
        return (Binding(interface) if quotable(interface) else None), reason

    def _on(self, link: Link, index: int | None) -> tuple[Binding, str | None]:
        """Return the binding to a link, and why it does not do, if so."""
        if link.member_of in ROUTED:
            return Binding(link.name, index), None if self._abilities.tracking else UNTRACKED
        master = self._names.get(link.master or 0, f"link {link.master}")
        if link.member_of == "bridge":
            reason = UNENFORCEABLE.get(self._abilities.bridging)
            return Binding(link.name, index, master), reason and f"{link.name} {reason}"
        kind = link.member_of
        return Binding(link.name, index), (
            f"{link.name} belongs to {master} ({kind}), so that no rule of nftables sees its packets"
        )

    def _candidates(self, port: Port) -> Sequence[Link]:
        if found := self._by_alias.get(port.id):
            return found
        if port.mac_address is None:
            return ()
        taps = LIBVIRT_FIRST_BYTE + port.mac_address[2:]
        macs = dict.fromkeys((port.mac_address, taps))
        return [link for mac in macs for link in self._by_mac.get(mac, ())]


def _without_rivals(wanted: Mapping[str, Binding], waiting: Mapping[str, str]) -> Bound:
    claims: dict[str, list[str]] = {}
    for port_id, binding in wanted.items():
        claims.setdefault(binding.interface, []).append(port_id)
    bindings, reasons = {}, dict(waiting)
    for port_id, binding in wanted.items():
        claimants = claims[binding.interface]
        if len(claimants) == 1:
            bindings[port_id] = binding
        else:
            others = ", ".join(each for each in claimants if each != port_id)
            reasons[port_id] = f"interface {binding.interface} is claimed by {others} too"
    return Bound(bindings, dict(sorted(reasons.items())))
