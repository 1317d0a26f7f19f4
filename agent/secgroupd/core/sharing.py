"""VPCs that peerings connect and that have the same addresses: nothing can tell their traffic apart."""

from collections.abc import Iterator

from secgroupd.core.doubts import Doubt, Finding
from secgroupd.core.model import Address
from secgroupd.core.policy import Policy
from secgroupd.core.reading import shown
from secgroupd.core.zones import connected


def shared_addresses(policy: Policy) -> Iterator[Finding]:
    """Yield ports that have an address of another port's, once for each two VPCs.

    Peered VPCs exchange packets, so that one connection table must serve them both, and with them
    what peerings connect with either.
    """
    together = connected(policy)
    owners: dict[tuple[str, Address], str] = {}
    told: set[frozenset[str]] = set()
    for port in sorted(policy.ports.values(), key=lambda port: port.id):
        for address in port.private_ips:
            first = owners.setdefault((together[port.vpc_id], address), port.id)
            vpcs = frozenset((port.vpc_id, policy.ports[first].vpc_id))
            if len(vpcs) == 1 or vpcs in told or address.is_link_local:
                continue
            told.add(vpcs)
            one, other = sorted(vpcs)
            message = (
                f"port {shown(port.id)} has the address {address} of port {shown(first)}, and peerings "
                f"connect VPC {shown(one)} with {shown(other)}, over others perhaps: on one host, nothing tells "
                "their connections apart: change one address, or remove a peering"
            )
            yield Finding(f"port:{port.id}", Doubt.SHARED_ADDRESS, message)
