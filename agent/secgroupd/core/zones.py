"""Policy -> conntrack zones: where two VPCs of a host have the same addresses, they are tracked apart.

A zone is a VPC's, never a port's: a flow between two ports of one host comes back through the other
interface. Peered VPCs exchange traffic, so they share one. A VPC that overlaps with no other on the
same host stays in zone 0, where the host's own connections and its NAT are; one that names its
uplinks is carried by itself and gets a zone of its own. A number is made from the VPC's id alone (that of the first
among peers), so that it is the same after a restart, on every host and for every document, but for
the rare VPC whose number another one has already.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from secgroupd.core.model import Port
from secgroupd.core.policy import Policy

LAST_ZONE = 65535

_LINK_LOCAL = ((0xA9FE << 16, (0xA9FE << 16) + 0xFFFF), (0xFE80 << 112, (0xFEC0 << 112) - 1))
"""169.254.0.0/16 and fe80::/10 by IP version: every link has them, so that they tell nothing."""


def zones(policy: Policy, local: Iterable[str]) -> Mapping[str, int]:
    """Return each VPC's conntrack zone on a host, 0 for the host's own.

    Args:
        policy: the resolved document.
        local: ids of the ports on this host. Only their VPCs can meet here; of these, the ports of
            every host count, since a connection's other end may be anywhere.
    """
    together = connected(policy)
    here = {together[policy.ports[port_id].vpc_id] for port_id in local}
    apart: set[str] = set()
    if len(here) > 1:
        ports = [port for port in policy.ports.values() if together[port.vpc_id] in here]
        apart |= set(_overlapping(ports, together))
    apart |= {together[vpc.id] for vpc in policy.state.vpcs if vpc.uplinks}
    numbers: dict[str, int] = {}
    taken: set[int] = set()
    for name in sorted(apart):
        number = _number(name)
        while number in taken:
            number = number % LAST_ZONE + 1
        taken.add(number)
        numbers[name] = number
    return {vpc_id: numbers.get(name, 0) for vpc_id, name in together.items()}


def _number(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % LAST_ZONE + 1


def connected(policy: Policy) -> dict[str, str]:
    """Return by VPC the first id of all that peerings connect it with, over any number of steps."""
    ids = {vpc.id for vpc in policy.state.vpcs} | {p.vpc_id for p in policy.ports.values()}
    found: dict[str, str] = {}
    for first in sorted(ids):
        reached = [first] if first not in found else []
        while reached:
            vpc_id = reached.pop()
            found[vpc_id] = first
            reached += [other for other in policy.visible_vpcs(vpc_id) if other not in found]
    return found


def _overlapping(ports: Iterable[Port], together: Mapping[str, str]) -> Iterator[str]:
    """Yield the connected VPCs that share an address with others."""
    spans = sorted(
        (version, first, last, together[port.vpc_id])
        for port in ports
        for version, first, last in _addresses(port)
    )
    open_spans: list[tuple[int, int, str]] = []
    for version, first, last, name in spans:
        open_spans = [span for span in open_spans if span[:2] >= (version, first)]
        for _, _, other in open_spans:
            if other != name:
                yield from (other, name)
        open_spans.append((version, last, name))


def _addresses(port: Port) -> Iterator[tuple[int, int, int]]:
    for address in port.private_ips:
        yield from _unless_link_local(address.version, int(address), int(address))
    for pair in port.allowed_address_pairs:
        network = pair.network
        first, last = int(network.network_address), int(network.broadcast_address)
        yield from _unless_link_local(network.version, first, last)


def _unless_link_local(version: int, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    low, high = _LINK_LOCAL[version == 6]
    if not (low <= first and last <= high):
        yield version, first, last
