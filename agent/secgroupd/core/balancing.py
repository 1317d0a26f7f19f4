"""Load balancers that pass their clients' addresses on: what they forward is exempt from inbound rules.

Their packets look like the clients' own, so that they are told apart by how they come: through an
interface, with a mark, or from a MAC address. Each packet towards a port is asked for that. Answers,
and ICMP errors, are known by the connection, whose mark keeps the way that it was brought: they pass
while that way leads to the port, and are judged by the rules as soon as it does not.

On a bridge, the interface is known no later than where frames are forwarded, and where the host routes
into it, no later than where packets are. There the connection gets its mark, by which its packets are
known where they are about to leave into the port.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from secgroupd.core import marks, names
from secgroupd.core.draft import Binding, Draft, LocalPort
from secgroupd.core.model import Port
from secgroupd.core.policy import Exemption, Policy
from secgroupd.core.ruleset import Key, index_key, interface_key, joined_key, quotable

EXEMPT = "exempt"
"""The set of interfaces, each with the marks of connections that are exempt at it."""
THROUGH = {
    Key.THROUGH_INTERFACE: ("through_interface", "iifname . oifname"),
    Key.THROUGH_MARK: ("through_mark", "meta mark . oifname"),
    Key.THROUGH_MAC: ("through_mac", "ether saddr . oifname"),
}
"""The maps that tell load balancers' packets to ports apart, and what begins what is looked up there."""
INTO = {
    Key.INTERFACE_TO4: ("interface_to4", "iifname . ip daddr"),
    Key.INTERFACE_TO6: ("interface_to6", "iifname . ip6 daddr"),
    Key.MAC_TO4: ("mac_to4", "ether saddr . ip daddr"),
    Key.MAC_TO6: ("mac_to6", "ether saddr . ip6 daddr"),
}
"""The same for packets that the host routes into a bridge, which tells no port."""
INTO_BRIDGE = {
    Key.THROUGH_INTERFACE: {4: Key.INTERFACE_TO4, 6: Key.INTERFACE_TO6},
    Key.THROUGH_MAC: {4: Key.MAC_TO4, 6: Key.MAC_TO6},
}
"""The latter by the former, and IP version. What carries a mark carries it over a bridge, too."""


@dataclass(frozen=True, slots=True)
class Exempt:
    """Lines that let pass what is exempt: towards ports, and what is known by its connection's mark.

    ``original`` is for what goes to ports at which the connection ends, ``reply`` for what they answer.
    ``forwarded`` marks what is exempt where it is forwarded, before ``to_port`` is asked.
    """

    forwarded: tuple[str, ...] = ()
    to_port: tuple[str, ...] = ()
    original: tuple[str, ...] = ()
    reply: tuple[str, ...] = ()


def add_exemptions(
    draft: Draft,
    policy: Policy,
    judged: Sequence[LocalPort],
    bridged: Sequence[LocalPort],
    before: Sequence[str],
) -> Exempt:
    """Make the chains, maps and the set that tell what is exempt; return the lines that look it up.

    Ports and forwarding interfaces whose names no rule can say are left to the rules.

    Args:
        draft: the table.
        policy: the resolved document.
        judged: the ports of the table.
        bridged: ports behind whose bridges the host may route.
        before: lines for what is let pass, before its connection is marked.
    """
    if not policy.exemptions:
        return Exempt()
    known: list[bytes] = []
    led: Mapping[Key, dict[bytes, str]] = {key: {} for key in (*THROUGH, *INTO)}
    for _, binding, one, (key, told) in _told(policy, judged):
        own = interface_key(binding.interface)
        verdict = f"goto {_chain(draft, one, before)}"
        led[key].setdefault(joined_key(told, own, *_service(one)), verdict)
        # The client may be a port here, which has a bit of the mark for itself.
        way = marks.way(one)
        known += [joined_key(own, index_key(mark)) for mark in (way, way | marks.JUDGED_OUT)]
    for port, _, one, (key, told) in _told(policy, bridged):
        for address in port.private_ips if key in INTO_BRIDGE else ():
            into = led[INTO_BRIDGE[key][address.version]]
            verdict = f"goto {_chain(draft, one, before)}"
            into.setdefault(joined_key(told, address.packed, *_service(one)), verdict)
    found = {
        key: f"ct direction original {fields} . meta l4proto . th dport "
        f"vmap @{draft.host_map(name, key, led[key])}"
        for key, (name, fields) in {**THROUGH, **INTO}.items()
        if led[key]
    }
    where_forwarded = {*INTO, *([Key.THROUGH_INTERFACE] if draft.family == "bridge" else [])}
    forwarded = tuple(line for key, line in found.items() if key in where_forwarded)
    towards = tuple(line for key, line in found.items() if key not in where_forwarded)
    if not known:
        return Exempt(forwarded)
    exempt = draft.host_set(EXEMPT, Key.EXEMPT, known)
    brought = f"ct mark and 0x{marks.BALANCED:08x} != 0x0"
    original = f"ct direction original {brought} oifname . ct mark @{exempt} accept"
    reply = f"ct direction reply {brought} iifname . ct mark @{exempt} accept"
    # What is on a bridge may have got its mark where it was forwarded, here or by the host.
    marked = [original] if draft.family == "bridge" else []
    return Exempt(forwarded, (*towards, *marked), (original,), (reply,))


def _told(
    policy: Policy, ports: Iterable[LocalPort]
) -> Iterator[tuple[Port, Binding, Exemption, tuple[Key, bytes]]]:
    """Yield what is exempt at ports, with the map in which it is looked up, and what is looked up first."""
    for port, binding in ports:
        for one in policy.exemptions.get(port.id, ()) if quotable(binding.interface) else ():
            if how := _recognised(one):
                yield port, binding, one, how


def _service(one: Exemption) -> tuple[bytes, bytes]:
    return bytes([one.protocol]), one.dport.to_bytes(2, "big")


def _chain(draft: Draft, one: Exemption, before: Sequence[str]) -> str:
    """Make the chain that lets pass what comes the way that an exemption tells; return its name."""
    way = marks.way(one)
    name = names.brought(way)
    if name not in draft.chains:
        stamp = f"ct mark set ct mark and 0x{marks.JUDGED_OUT:08x} or 0x{way:x}"
        lines = [*before, *draft.logging_accepted(name), stamp, "accept"]
        draft.chain(name, lines, f"load balancer {one.balancer_id}")
    return name


def _recognised(one: Exemption) -> tuple[Key, bytes] | None:
    """Return in which map a load balancer's packets are looked up, and what they begin with there."""
    forwarder = one.forwarder
    if forwarder.fwmark is not None:
        return Key.THROUGH_MARK, index_key(forwarder.fwmark)
    if forwarder.mac_address is not None:
        return Key.THROUGH_MAC, bytes.fromhex(forwarder.mac_address.replace(":", ""))
    if forwarder.interface is not None and quotable(forwarder.interface):
        return Key.THROUGH_INTERFACE, interface_key(forwarder.interface)
    return None
