"""Load balancers that pass their clients' addresses on: what they forward is exempt from inbound rules.

Their packets look like the clients' own, so that they are told apart by how they come: through an
interface, with a mark, or from a MAC address. Only what opens a connection, or goes with it, can be
told so: answers are known by the connection, whose mark keeps that no rule has judged it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from secgroupd.core import names
from secgroupd.core.draft import Draft, LocalPort
from secgroupd.core.policy import Exemption, Policy
from secgroupd.core.ruleset import Key, index_key, interface_key, joined_key, quotable

BALANCED = 0x40000000
"""Bit of the ct mark: a load balancer has brought the connection, which no inbound rule has judged."""

EXEMPT = "exempt"
THROUGH = {
    Key.THROUGH_INTERFACE: ("through_interface", "iifname"),
    Key.THROUGH_MARK: ("through_mark", "meta mark"),
    Key.THROUGH_MAC: ("through_mac", "ether saddr"),
}
"""The sets that tell load balancers' packets apart, and what is looked up in each first."""


@dataclass(frozen=True, slots=True)
class Exempt:
    """Lines that let pass what is exempt: towards ports, and their answers."""

    to_port: tuple[str, ...] = ()
    from_port: tuple[str, ...] = ()


def add_exemptions(draft: Draft, policy: Policy, judged: Sequence[LocalPort]) -> Exempt:
    """Make the sets that tell what is exempt; return the lines that look it up.

    Ports and forwarding interfaces whose names no rule can say are left to the rules.
    """
    answers: list[bytes] = []
    keys: Mapping[Key, list[bytes]] = {key: [] for key in THROUGH}
    for port, binding in judged:
        if not quotable(binding.interface):
            continue
        own = interface_key(binding.interface)
        for one in policy.exemptions.get(port.id, ()):
            service = (own, bytes([one.protocol]), one.dport.to_bytes(2, "big"))
            how = _recognised(one)
            if how is not None:
                keys[how[0]].append(joined_key(how[1], *service))
                answers.append(joined_key(*service))
    if not answers:
        return Exempt()
    towards = [
        f"ct direction original {field} . oifname . meta l4proto . th dport "
        f"@{draft.host_set(name, key, keys[key])} goto {names.OK_BALANCED}"
        for key, (name, field) in THROUGH.items()
        if keys[key]
    ]
    answering = (
        f"ct direction reply ct mark and 0x{BALANCED:08x} != 0x0 iifname . meta l4proto . th sport "
        f"@{draft.host_set(EXEMPT, Key.EXEMPT, answers)} goto {names.OK_BALANCED}"
    )
    return Exempt(tuple(towards), (answering,))


def _recognised(one: Exemption) -> tuple[Key, bytes] | None:
    """Return in which set a load balancer's packets are looked up, and what they begin with there."""
    forwarder = one.forwarder
    if forwarder.fwmark is not None:
        return Key.THROUGH_MARK, index_key(forwarder.fwmark)
    if forwarder.mac_address is not None:
        return Key.THROUGH_MAC, bytes.fromhex(forwarder.mac_address.replace(":", ""))
    if forwarder.interface is not None and quotable(forwarder.interface):
        return Key.THROUGH_INTERFACE, interface_key(forwarder.interface)
    return None
