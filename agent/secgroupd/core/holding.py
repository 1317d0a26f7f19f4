"""Which ports are held back when the kernel refuses a transaction because of one object."""

from collections.abc import Collection, Iterable, Iterator

from secgroupd.core import origins
from secgroupd.core.model import AddressGroupPeer, Direction, Family, GroupPeer
from secgroupd.core.policy import Policy


def ports_behind(policy: Policy, local: Iterable[str], refused: Collection[str]) -> frozenset[str]:
    """Return the ports that the refused lines belong to.

    Args:
        policy: the resolved document.
        local: ids of the ports that are judged on this host.
        refused: what the refused lines come from, as ``Line.origin`` has it.

    Returns:
        Empty when no port can be blamed: such a line is everybody's.
    """
    wanted = {part for origin in refused for part in origins.parts(origin)}
    return frozenset(port_id for port_id in local if not wanted.isdisjoint(_of(policy, port_id)))


def _of(policy: Policy, port_id: str) -> Iterator[str]:
    """Yield every origin that lines of a port can have."""
    groups = policy.groups_of(policy.ports[port_id])
    yield origins.port(port_id)
    yield origins.profile(groups)
    for direction in Direction:
        for family in Family:
            for rule in policy.rules(groups, direction, family):
                peer = rule.rule.peer
                if isinstance(peer, GroupPeer):
                    yield origins.group(peer.group_id)
                elif isinstance(peer, AddressGroupPeer):
                    yield origins.address_group(peer.address_group_id)
