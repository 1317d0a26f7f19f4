"""Which ports are held back when the kernel refuses a transaction because of one object."""

from collections.abc import Collection, Iterable, Iterator

from secgroupd.core.model import AddressGroupPeer, Direction, Family, GroupPeer
from secgroupd.core.policy import Policy

LIST = "security groups "
"""What the origin of a profile's lines begins with: they are of ports with this list of groups."""


def ports_behind(policy: Policy, local: Iterable[str], origins: Collection[str]) -> frozenset[str]:
    """Return the ports that the refused lines belong to.

    Args:
        policy: the resolved document.
        local: ids of the ports that are judged on this host.
        origins: what the refused lines come from, in the words of ``Line.origin``.

    Returns:
        Empty when no port can be blamed: such a line is everybody's.
    """
    wanted = {part for origin in origins for part in _parts(origin)}
    return frozenset(port_id for port_id in local if not wanted.isdisjoint(_of(policy, port_id)))


def _parts(origin: str) -> list[str]:
    """Return the objects that an origin lists; an ordered list of groups is one thing."""
    return [origin] if origin.startswith(LIST) else origin.split(", ")


def _of(policy: Policy, port_id: str) -> Iterator[str]:
    """Yield every origin that lines of a port can have."""
    groups = policy.groups_of(policy.ports[port_id])
    yield f"port {port_id}"
    yield LIST + ", ".join(groups)
    for direction in Direction:
        for family in Family:
            for rule in policy.rules(groups, direction, family):
                peer = rule.rule.peer
                if isinstance(peer, GroupPeer):
                    yield f"security group {peer.group_id}"
                elif isinstance(peer, AddressGroupPeer):
                    yield f"address group {peer.address_group_id}"
