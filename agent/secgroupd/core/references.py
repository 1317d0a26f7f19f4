"""Groups without a use, peers that stand for nobody, and protocols that no packet has."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from secgroupd.core.doubts import Doubt, Finding, listed
from secgroupd.core.model import (
    AddressGroupPeer,
    Family,
    GroupPeer,
    Rule,
    SecurityGroup,
)
from secgroupd.core.policy import Policy
from secgroupd.core.reading import shown

NO_PROTOCOLS: Mapping[int, str] = MappingProxyType(
    {
        0: "the hop-by-hop options",
        43: "the routing header",
        44: "the fragment header",
        59: "what has nothing behind it",
        60: "the destination options",
    }
)
"""What stands before a protocol in IPv6 (or for none): rules judge the protocol behind it."""


def useless_references(policy: Policy) -> Iterator[Finding]:
    """Yield references to nothing, peers without addresses, and groups that are empty or unused.

    One cause is told once: at the group that is empty or unused, not at every rule that names it.
    """
    named = _named(policy)
    members = _members(policy)
    for group in policy.state.security_groups:
        for rule in group.rules:
            yield from _about_peer(policy, members, group, rule)
            yield from _about_protocol(group, rule)
        yield from _about_group(members, group, named.security_groups.get(group.id, 0))
    for address_group in policy.state.address_groups:
        if not address_group.entries:
            count = named.address_groups.get(address_group.id, 0)
            message = (
                f"address group {shown(address_group.id)} has no entries, so that "
                f"{_rules_that_name(count)}: add entries, or remove it"
            )
            yield Finding(f"address_group:{address_group.id}", Doubt.EMPTY_ADDRESS_GROUP, message)


@dataclass(slots=True)
class _Named:
    """How many enabled rules name a group as their peer, by its id."""

    security_groups: dict[str, int] = field(default_factory=dict)
    address_groups: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Members:
    """Which groups have ports, where they are judged, and which addresses they have there."""

    ports: set[str] = field(default_factory=set)
    vpcs: dict[str, set[str]] = field(default_factory=dict)
    """The VPCs of ports that a group judges."""
    addressed: set[tuple[str, str, Family]] = field(default_factory=set)
    """Groups that have an address of a family in a VPC."""


def _named(policy: Policy) -> _Named:
    found = _Named()
    for group in policy.state.security_groups:
        for rule in group.rules:
            match rule.peer:
                case GroupPeer(group_id) if rule.enabled:
                    counts = found.security_groups
                case AddressGroupPeer(group_id) if rule.enabled:
                    counts = found.address_groups
                case _:
                    continue
            counts[group_id] = counts.get(group_id, 0) + 1
    return found


def _members(policy: Policy) -> _Members:
    found = _Members()
    for port in policy.ports.values():
        families = {
            Family.IPV4 if address.version == 4 else Family.IPV6 for address in port.private_ips
        }
        for group_id in policy.groups_of(port):
            found.ports.add(group_id)
            if port.port_security_enabled:
                found.vpcs.setdefault(group_id, set()).add(port.vpc_id)
            found.addressed.update((group_id, port.vpc_id, family) for family in families)
    return found


def _about_peer(
    policy: Policy, members: _Members, group: SecurityGroup, rule: Rule
) -> Iterator[Finding]:
    key = f"rule:{group.id}/{rule.id}"
    match rule.peer:
        case GroupPeer(peer_id) if peer_id not in policy.groups:
            yield _dangling(key, rule, Doubt.DANGLING_SECURITY_GROUP, peer_id)
        case AddressGroupPeer(peer_id) if peer_id not in policy.address_groups:
            yield _dangling(key, rule, Doubt.DANGLING_ADDRESS_GROUP, peer_id)
        # The own group's members are the ports that the rule judges: where they have no address
        # of the rule's family, nothing is wrong with its peer.
        case GroupPeer(peer_id) if rule.enabled and peer_id != group.id:
            vpcs = members.vpcs.get(group.id, set())
            visible = {each for vpc in vpcs for each in policy.visible_vpcs(vpc)}
            if not vpcs or peer_id not in members.ports:
                return
            if any((peer_id, vpc, rule.family) in members.addressed for vpc in visible):
                return
            message = (
                f"rule {shown(rule.id)} matches nothing, because group {shown(peer_id)} has no "
                f"{rule.family.value} address in VPC {listed(sorted(vpcs))}, where ports of "
                f"group {shown(group.id)} are, or in one peered with it: correct the peer or "
                "the ethertype, peer the VPCs, or remove the rule"
            )
            yield Finding(key, Doubt.NEVER_MATCHING_PEER, message)
        case _:
            return


def _about_protocol(group: SecurityGroup, rule: Rule) -> Iterator[Finding]:
    number = rule.protocol
    if (
        rule.enabled
        and rule.family is Family.IPV6
        and number is not None
        and number in NO_PROTOCOLS
    ):
        message = (
            f"rule {shown(rule.id)} matches nothing, because in IPv6 {number} is the number of "
            f"{NO_PROTOCOLS[number]} and no protocol: name the protocol behind it, or remove the rule"
        )
        key = f"rule:{group.id}/{rule.id}"
        yield Finding(key, Doubt.NEVER_MATCHING_PROTOCOL, message)


def _dangling(key: str, rule: Rule, code: Doubt, peer_id: str) -> Finding:
    what = code.value.removeprefix("dangling-").replace("-", " ")
    message = (
        f"rule {shown(rule.id)} matches nothing, because there is no {what} "
        f"{shown(peer_id)}: define it, or remove the rule"
    )
    return Finding(key, code, message)


def _about_group(members: _Members, group: SecurityGroup, named: int) -> Iterator[Finding]:
    key, name = f"security_group:{group.id}", shown(group.id)
    # A document without ports is a part of one, or a draft: who has a group is not said there.
    if members.ports and group.id not in members.ports:
        message = f"no port is in group {name}, so that its rules judge nobody"
        if named:
            message += f", and {_rules_that_name(named)}"
        yield Finding(
            key, Doubt.UNUSED_SECURITY_GROUP, f"{message}: give it to a port, or remove it"
        )
    elif not named and group.preset is None and not any(rule.enabled for rule in group.rules):
        # A group without rules that others name is a label for its members.
        message = (
            f"group {name} has no enabled rules and is no rule's peer, so that it allows and means "
            "nothing: add rules, or remove it"
        )
        yield Finding(key, Doubt.EMPTY_SECURITY_GROUP, message)


def _rules_that_name(count: int) -> str:
    if count == 0:
        return "a rule that names it would match nothing"
    return (
        f"the {count} rules that name it match nothing"
        if count > 1
        else ("the rule that names it matches nothing")
    )
