"""What a profile is compiled from, as one value: its groups' rules, and what the peers in them stand for.

For a group that is the name of its set: who is in it changes no line, and is filled in later.

Values that are equal to those of the compile before are the same objects, so that comparing what
hundreds of profiles depend on costs nothing where nothing has changed.
"""

from collections.abc import Iterable, Sequence

from secgroupd.core.kept import Kept
from secgroupd.core.model import AddressGroupPeer, Family, GroupPeer, Peer
from secgroupd.core.peers import GroupMembers
from secgroupd.core.policy import Policy, Profile

Named = tuple[str, str, str]
"""A peer that a rule names and that means something elsewhere: its kind and id, and the family that
the rule is about. (Plain text, since tens of thousands are looked up.)"""

GROUP, ADDRESS_GROUP = "group", "address group"


class Meanings:
    """Finds what profiles are compiled from."""

    def __init__(self, policy: Policy, kept: Kept) -> None:
        self._policy, self._kept = policy, kept
        self._found: dict[str, dict[Named, object]] = {}
        self._groups: dict[tuple[str, str], object] = {}

    def of_profile(self, profile: Profile) -> object:
        """Return a value that differs whenever a profile's chains may differ."""
        groups = [self._of_group(profile.vpc_id, group_id) for group_id in profile.groups]
        return self._policy.visible_vpcs(profile.vpc_id), groups

    def of_peers(self, vpc_id: str, named: Sequence[Named]) -> object:
        """Return what peers stand for in a VPC."""
        found = self._found.setdefault(vpc_id, {})
        for each in named:
            if each not in found:
                found[each] = self._of_peer(vpc_id, each)
        return [found[each] for each in named]

    def _of_group(self, vpc_id: str, group_id: str) -> object:
        key = vpc_id, group_id
        if key not in self._groups:
            group = self._policy.groups.get(group_id)
            rules = () if group is None else group.rules
            peers = ((rule.peer, rule.family) for rule in rules)
            named = self._kept.part(("named", group_id), rules, lambda _: named_by(peers))
            value = rules, self.of_peers(vpc_id, named)
            self._groups[key] = self._kept.part(("group", *key), value, lambda _: value)
        return self._groups[key]

    def _of_peer(self, vpc_id: str, named: Named) -> object:
        kind, peer_id, family = named
        if kind == ADDRESS_GROUP:
            return self._policy.address_groups.get(peer_id)
        members = GroupMembers(vpc_id, Family(family), peer_id)
        return members.filled(self._policy, self._kept).name


def named_by(peers: Iterable[tuple[Peer, Family]]) -> tuple[Named, ...]:
    """Return the peers whose meaning is not in the rules themselves."""
    found: dict[Named, None] = {}
    for peer, family in peers:
        if isinstance(peer, GroupPeer):
            found[GROUP, peer.group_id, family.value] = None
        elif isinstance(peer, AddressGroupPeer):
            found[ADDRESS_GROUP, peer.address_group_id, family.value] = None
    return tuple(found)
