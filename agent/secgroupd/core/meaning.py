"""What a profile is compiled from, as one value: its groups' rules, and what the peers in them stand for.

Values that are equal to those of the compile before are the same objects, so that comparing what
hundreds of profiles depend on costs nothing where nothing has changed.
"""

from collections.abc import Iterable

from secgroupd.core.kept import Kept
from secgroupd.core.model import AddressGroupPeer, Family, GroupPeer, Peer, Rule
from secgroupd.core.peers import group_set
from secgroupd.core.policy import Policy, Profile

Named = tuple[Peer, Family]
"""A peer that a rule names, and the family that the rule is about."""


class Meanings:
    """Finds what profiles are compiled from."""

    def __init__(self, policy: Policy, kept: Kept) -> None:
        self._policy, self._kept = policy, kept
        self._found: dict[tuple[str, Named], object] = {}
        self._groups: dict[tuple[str, str], object] = {}

    def of_profile(self, profile: Profile) -> object:
        """Return a value that differs whenever a profile's chains may differ."""
        groups = [self._of_group(profile.vpc_id, group_id) for group_id in profile.groups]
        return self._policy.visible_vpcs(profile.vpc_id), groups

    def of_peers(self, vpc_id: str, named: Iterable[Named]) -> object:
        """Return what peers stand for in a VPC."""
        return [self._of_peer(vpc_id, each) for each in named]

    def _of_group(self, vpc_id: str, group_id: str) -> object:
        key = vpc_id, group_id
        if key not in self._groups:
            group = self._policy.groups.get(group_id)
            rules = () if group is None else group.rules
            named = self._kept.part(("named", group_id), rules, lambda _: _named(rules))
            value = rules, self.of_peers(vpc_id, named)
            self._groups[key] = self._kept.part(("group", *key), value, lambda _: value)
        return self._groups[key]

    def _of_peer(self, vpc_id: str, named: Named) -> object:
        key = vpc_id, named
        if key not in self._found:
            peer, family = named
            if isinstance(peer, GroupPeer):
                self._found[key] = group_set(
                    self._policy, self._kept, vpc_id, family, peer.group_id
                )
            elif isinstance(peer, AddressGroupPeer):
                self._found[key] = self._policy.address_groups.get(peer.address_group_id)
            else:
                self._found[key] = None
        return self._found[key]


def _named(rules: Iterable[Rule]) -> tuple[Named, ...]:
    """Return the peers whose meaning is not in the rules themselves."""
    return tuple(
        dict.fromkeys(
            (rule.peer, rule.family)
            for rule in rules
            if isinstance(rule.peer, GroupPeer | AddressGroupPeer)
        )
    )
