"""Two policies -> whose inbound connections are cleared, and by which row of the cloud's table.

Clearing itself is the data path's work: a cleared port asks for a younger stamp, so that every
inbound connection of its is judged again at its next packet. Here is only decided who is cleared.
The rows are those of the cloud's documentation, "impact of changing security group configuration
on existing connections"; what the documentation leaves open is marked.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from secgroupd.core.model import (
    Action,
    AddressGroupPeer,
    Direction,
    GroupPeer,
    Peer,
    Port,
    Rule,
    SecurityGroup,
)
from secgroupd.core.policy import Policy


class Scenario(StrEnum):
    """A row of the clearing table; the values are label values of metrics."""

    INSTANCE_ADDED = "instance-added"
    PEER_INSTANCE_ADDED = "peer-instance-added"
    INSTANCE_REMOVED = "instance-removed"
    PEER_INSTANCE_REMOVED = "peer-instance-removed"
    RULE_ADDED = "rule-added"
    RULE_DELETED = "rule-deleted"
    RULE_MODIFIED = "rule-modified"
    ADDRESS_GROUP_CHANGED = "address-group-changed"
    GROUP_ORDER_CHANGED = "group-order-changed"
    PEERING_CHANGED = "peering-changed"
    """Not in the table: members of a group peer appear or vanish with the peering."""
    LISTENER_REMOVED = "listener-removed"
    """Not in the table: what a load balancer forwards is exempt from the port's rules no longer."""
    PORT_SECURITY_ENABLED = "port-security-enabled"
    """Not in the table: nothing of the port has been judged before."""
    STATE_LOST = "state-lost"
    """Nobody knows what was in force before: every connection is judged again."""
    STRICT = "strict"
    """Only with strict clearing: the port's rules, or what their peers mean, have changed."""


Cleared = Mapping[str, frozenset[Scenario]]
"""Port ids, each with every row that clears it."""


def documented(before: Policy, after: Policy) -> Cleared:
    """Return the ports whose inbound connections the cloud's table clears.

    Args:
        before: what has been in force, perhaps while no agent ran.
        after: what is to be in force.

    Returns:
        Ports of ``after`` on whatever host. Ports that only ``before`` has are gone.
    """
    found: dict[str, set[Scenario]] = {}
    for port_id, scenario in _Change(before, after).rows():
        if port_id in after.ports:
            found.setdefault(port_id, set()).add(scenario)
    return {port_id: frozenset(rows) for port_id, rows in sorted(found.items())}


def everything(after: Policy) -> Cleared:
    """Return every port, cleared because what was in force before is not known."""
    return {port_id: frozenset({Scenario.STATE_LOST}) for port_id in sorted(after.ports)}


def strict(before: Policy, after: Policy) -> Cleared:
    """Return the ports that are judged by something else than before, in either direction."""
    found = dict(documented(before, after))
    for port_id, port in sorted(after.ports.items()):
        old = before.ports.get(port_id)
        if old is None or _judged_by(before, old) != _judged_by(after, port):
            found[port_id] = found.get(port_id, frozenset()) | {Scenario.STRICT}
    return found


def _judged_by(policy: Policy, port: Port) -> object:
    """Return everything that decides about a port's packets, comparable across policies."""
    groups = [policy.groups.get(group_id) for group_id in policy.groups_of(port)]
    rules = [rule for group in groups if group for rule in group.rules if rule.enabled]
    meant = {
        rule.peer: policy.ranges(rule.peer, port.vpc_id, rule.family)
        for rule in rules
        if isinstance(rule.peer, GroupPeer | AddressGroupPeer)
    }
    exempt = policy.exemptions.get(port.id, ())
    identity = (port.vpc_id, port.port_security_enabled, port.private_ips, exempt)
    return (identity, policy.groups_of(port), rules, meant)


def _uses(group: SecurityGroup, action: Action | None, peers: Callable[[Peer], bool]) -> bool:
    """Tell whether a group has an enabled inbound rule with such an action and peer."""
    return any(
        rule.enabled
        and rule.direction is Direction.INGRESS
        and action in {None, rule.action}
        and peers(rule.peer)
        for rule in group.rules
    )


@dataclass(frozen=True, slots=True)
class _Change:
    before: Policy
    after: Policy

    def rows(self) -> Iterator[tuple[str, Scenario]]:
        yield from self._memberships()
        yield from self._rules()
        yield from self._address_groups()
        yield from self._ports()
        yield from self._peerings()

    def _in_group(self, group_id: str) -> Iterable[str]:
        return _members(self.after, group_id)

    def _memberships(self) -> Iterator[tuple[str, Scenario]]:
        added: dict[str, set[str]] = {}
        removed: dict[str, set[str]] = {}
        for port_id in self._others():
            old, new = (_memberships(one, port_id) for one in (self.before, self.after))
            for group_id, _ in new - old:
                added.setdefault(group_id, set()).add(port_id)
            for group_id, _ in old - new:
                removed.setdefault(group_id, set()).add(port_id)
        for group_id in sorted(added.keys() | removed.keys()):
            for port in added.get(group_id, ()):
                yield port, Scenario.INSTANCE_ADDED
            if group_id in added:
                yield from self._referring(
                    group_id, Action.DENY, Scenario.PEER_INSTANCE_ADDED, (self.after,)
                )
            if group_id in removed:
                for port in {*removed[group_id], *self._in_group(group_id)}:
                    yield port, Scenario.INSTANCE_REMOVED
                yield from self._referring(
                    group_id,
                    Action.ALLOW,
                    Scenario.PEER_INSTANCE_REMOVED,
                    (self.before, self.after),
                )

    def _others(self) -> Iterable[str]:
        """Return the ports that may be members of something else than before, or as somebody else."""
        old, new = self.before.ports, self.after.ports
        every = old.keys() | new.keys()
        if self.before.written_default != self.after.written_default:
            return every
        return [port_id for port_id in every if old.get(port_id) is not new.get(port_id)]

    def _referring(
        self, group_id: str, action: Action, scenario: Scenario, policies: Iterable[Policy]
    ) -> Iterator[tuple[str, Scenario]]:
        """Yield the ports of other groups with such an inbound rule whose peer is the group."""
        peer = GroupPeer(group_id)
        referring = {
            other.id
            for policy in policies
            for other in policy.groups.values()
            if other.id != group_id and _uses(other, action, lambda p: p == peer)
        }
        for other_id in referring:
            for port in self._in_group(other_id):
                yield port, scenario

    def _rules(self) -> Iterator[tuple[str, Scenario]]:
        for group_id in sorted(self.before.groups.keys() & self.after.groups.keys()):
            old, new = self.before.groups[group_id], self.after.groups[group_id]
            if old.rules == new.rules:
                continue
            scenarios = set(_rule_rows(old, new))
            for port in self._in_group(group_id) if scenarios else ():
                for scenario in scenarios:
                    yield port, scenario

    def _address_groups(self) -> Iterator[tuple[str, Scenario]]:
        old = {g.id: (g.family, frozenset(g.entries)) for g in self.before.address_groups.values()}
        new = {g.id: (g.family, frozenset(g.entries)) for g in self.after.address_groups.values()}
        changed = {i for i in old.keys() | new.keys() if old.get(i) != new.get(i)}
        if not changed:
            return
        for group in self.after.groups.values():
            if _uses(
                group,
                None,
                lambda p: isinstance(p, AddressGroupPeer) and p.address_group_id in changed,
            ):
                for port in self._in_group(group.id):
                    yield port, Scenario.ADDRESS_GROUP_CHANGED

    def _ports(self) -> Iterator[tuple[str, Scenario]]:
        for port_id, port in self.after.ports.items():
            old = self.before.ports.get(port_id)
            if old is None:
                continue
            was, is_now = self.before.groups_of(old), self.after.groups_of(port)
            if was != is_now and sorted(was) == sorted(is_now):
                yield port_id, Scenario.GROUP_ORDER_CHANGED
            was_exempt = set(self.before.exemptions.get(port_id, ()))
            if was_exempt - set(self.after.exemptions.get(port_id, ())):
                yield port_id, Scenario.LISTENER_REMOVED
            if port.port_security_enabled and not old.port_security_enabled:
                yield port_id, Scenario.PORT_SECURITY_ENABLED

    def _peerings(self) -> Iterator[tuple[str, Scenario]]:
        for vpc in self.after.state.vpcs:
            was, is_now = self.before.visible_vpcs(vpc.id), self.after.visible_vpcs(vpc.id)
            for port_id, port in self.after.ports.items() if was != is_now else ():
                groups = (self.after.groups.get(g) for g in self.after.groups_of(port))
                # Where a peering goes, nothing passes any more, whatever rule has let it in.
                if port.vpc_id == vpc.id and (
                    was - is_now
                    or any(g and _uses(g, None, lambda p: isinstance(p, GroupPeer)) for g in groups)
                ):
                    yield port_id, Scenario.PEERING_CHANGED


def _memberships(policy: Policy, port_id: str) -> set[tuple[str, object]]:
    """Return the groups that a port is a member of, each with what makes it the member that it is."""
    port = policy.ports.get(port_id)
    if port is None:
        return set()
    what = port.vpc_id, frozenset(port.private_ips)
    return {(group_id, what) for group_id in policy.groups_of(port)}


def _members(policy: Policy, group_id: str) -> Iterable[str]:
    return [port_id for port_id, port in policy.ports.items() if group_id in policy.groups_of(port)]


def _rule_rows(old: SecurityGroup, new: SecurityGroup) -> Iterator[Scenario]:
    was = {rule.id: rule for rule in old.rules}
    is_now = {rule.id: rule for rule in new.rules}
    for rule_id in was.keys() | is_now.keys():
        one, other = was.get(rule_id), is_now.get(rule_id)
        kept = one and other and one.enabled and other.enabled and one.direction is other.direction
        if kept and one and other:
            inbound = other.direction is Direction.INGRESS
            if inbound and _matching(one) != _matching(other):
                yield Scenario.RULE_MODIFIED
            continue
        if one and one.enabled and one.action is Action.ALLOW and one.direction == "ingress":
            yield Scenario.RULE_DELETED
        if other and other.enabled and other.action is Action.DENY:
            yield Scenario.RULE_ADDED


def _matching(rule: Rule) -> tuple[object, ...]:
    """Return the fields of a rule whose change clears: all but its id and description."""
    return (
        rule.priority,
        rule.action,
        rule.family,
        rule.protocol,
        rule.ports,
        rule.icmp_type,
        rule.icmp_code,
        rule.peer,
    )
