"""Load balancers that pass their clients' addresses on: what they forward is exempt from inbound rules.

Their packets look like the clients' own, so that they are told apart by how they come: through an
interface, with a mark, or from a MAC address. Each packet towards a port is asked for that. Answers,
and ICMP errors, are known by the connection, whose mark keeps the way that it was brought: they pass
while that way leads to the port, and are judged by the rules as soon as it does not.

On a bridge, the interface is known no later than where frames are forwarded. There the connection gets
its mark, by which its packets are known where they are about to leave into the port.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secgroupd.core import marks, names
from secgroupd.core.draft import Draft, LocalPort
from secgroupd.core.policy import Exemption, Policy
from secgroupd.core.ruleset import Key, index_key, interface_key, joined_key, quotable

EXEMPT = "exempt"
"""The set of interfaces, each with the marks of connections that are exempt at it."""
THROUGH = {
    Key.THROUGH_INTERFACE: ("through_interface", "iifname"),
    Key.THROUGH_MARK: ("through_mark", "meta mark"),
    Key.THROUGH_MAC: ("through_mac", "ether saddr"),
}
"""The maps that tell load balancers' packets apart, and what is looked up in each first."""


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
    draft: Draft, policy: Policy, judged: Sequence[LocalPort], before: Sequence[str]
) -> Exempt:
    """Make the chains, maps and the set that tell what is exempt; return the lines that look it up.

    Ports and forwarding interfaces whose names no rule can say are left to the rules.

    Args:
        draft: the table.
        policy: the resolved document.
        judged: the ports of the table.
        before: lines for what is let pass, before its connection is marked.
    """
    known: list[bytes] = []
    led: Mapping[Key, dict[bytes, str]] = {key: {} for key in THROUGH}
    for port, binding in judged:
        if not quotable(binding.interface):
            continue
        own = interface_key(binding.interface)
        for one in policy.exemptions.get(port.id, ()):
            how = _recognised(one)
            if how is None:
                continue
            service = (own, bytes([one.protocol]), one.dport.to_bytes(2, "big"))
            way = marks.way(one)
            chain = names.brought(way)
            if chain not in draft.chains:
                stamp = f"ct mark set ct mark and 0x{marks.JUDGED_OUT:08x} or 0x{way:x}"
                lines = [*before, *draft.logging_accepted(chain), stamp, "accept"]
                draft.chain(chain, lines, f"load balancer {one.balancer_id}")
            led[how[0]].setdefault(joined_key(how[1], *service), f"goto {chain}")
            # The client may be a port here, which has a bit of the mark for itself.
            known += [joined_key(own, index_key(mark)) for mark in (way, way | marks.JUDGED_OUT)]
    if not known:
        return Exempt()
    exempt = draft.host_set(EXEMPT, Key.EXEMPT, known)
    towards = {
        key: f"ct direction original {field} . oifname . meta l4proto . th dport "
        f"vmap @{draft.host_map(name, key, led[key])}"
        for key, (name, field) in THROUGH.items()
        if led[key]
    }
    brought = f"ct mark and 0x{marks.BALANCED:08x} != 0x0"
    original = f"ct direction original {brought} oifname . ct mark @{exempt} accept"
    forwarded: tuple[str, ...] = ()
    if draft.family == "bridge" and Key.THROUGH_INTERFACE in towards:
        forwarded = (towards.pop(Key.THROUGH_INTERFACE),)
    return Exempt(
        forwarded,
        (*towards.values(), *([original] if forwarded else [])),
        (original,),
        (f"ct direction reply {brought} iifname . ct mark @{exempt} accept",),
    )


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
