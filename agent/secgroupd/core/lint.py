"""What is valid but doubtful in a state, and is worth a warning; limits."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from secgroupd.core.coverage import parts_of
from secgroupd.core.doubts import Doubt, Finding
from secgroupd.core.exempting import void_exemptions
from secgroupd.core.exposure import opened
from secgroupd.core.intervals import merged
from secgroupd.core.model import AddressGroupPeer, GroupPeer, Rule, SecurityGroup, State
from secgroupd.core.policy import Policy, preset_rules
from secgroupd.core.reading import Place, shown
from secgroupd.core.references import useless_references
from secgroupd.core.shadowing import decided_before, decided_within, fronts_of
from secgroupd.core.sharing import shared_addresses
from secgroupd.errors import Problem

MAX_GROUPS = 5
"""Security groups of one port (the cloud's limit)."""

MAX_INSTANCES = 6000
"""Instances in one security group (the cloud's limit)."""

MAX_COMPOSITE = 120
"""Composite rules in one security group, direction and IP version (the cloud's limit)."""

MAX_ENTRIES = 20
"""Entries of one address group (the cloud's limit)."""

_Places = Mapping[str, Place]


def warnings(state: State) -> tuple[Problem, ...]:
    """Return everything doubtful in a state, in order of place; columns are 1."""
    places = {key: _parsed(place) for key, place in state.places.items()}
    return tuple(sorted((*doubts(state, places), *excesses(state, places))))


def doubts(state: State, places: _Places) -> Iterator[Problem]:
    """Yield what is likely to be a mistake: see docs/warnings.md."""
    policy = Policy(state)
    fronts = fronts_of(policy)
    groups = {group.id: parts_of(group, policy.address_groups) for group in state.security_groups}
    for group_id, parts in groups.items():
        yield from _problems(places, decided_within(group_id, parts))
    # What is found above is not looked at again: one mistake is one warning.
    yield from _problems(places, decided_before(groups, fronts))
    yield from _problems(places, opened(groups, fronts))
    yield from _problems(places, useless_references(policy))
    yield from _problems(places, shared_addresses(policy))
    yield from _problems(places, void_exemptions(policy))


def _problems(places: _Places, findings: Iterable[Finding]) -> Iterator[Problem]:
    return (_warning(places, *finding) for finding in findings)


def excesses(state: State, places: _Places) -> Iterator[Problem]:
    """Yield what is over one of the cloud's limits, as warnings."""
    members: dict[str, int] = {}
    for instance in state.instances:
        for group_id in {group for port in instance.ports for group in port.security_groups}:
            members[group_id] = members.get(group_id, 0) + 1
        for port in instance.ports:
            if (count := len(port.security_groups)) > MAX_GROUPS:
                what = f"port {shown(port.id)} is in {count} groups"
                yield _excess(places, f"port:{port.id}", what, MAX_GROUPS)
    for address_group in state.address_groups:
        if (count := len(address_group.entries)) > MAX_ENTRIES:
            what = f"address group {shown(address_group.id)} has {count} entries"
            yield _excess(places, f"address_group:{address_group.id}", what, MAX_ENTRIES)
    for group in state.security_groups:
        key = f"security_group:{group.id}"
        if (count := members.get(group.id, 0)) > MAX_INSTANCES:
            what = f"group {shown(group.id)} has {count} instances"
            yield _excess(places, key, what, MAX_INSTANCES)
        yield from _too_many_composite(group, places)


def _too_many_composite(group: SecurityGroup, places: _Places) -> Iterator[Problem]:
    composite = [rule for rule in (*preset_rules(group), *group.rules) if _is_composite(rule)]
    for (direction, family), count in Counter((r.direction, r.family) for r in composite).items():
        if count > MAX_COMPOSITE:
            kind = (
                f"{direction} {family.value} rules with a group, an address group or several ports"
            )
            what = f"group {shown(group.id)} has {count} {kind}"
            yield _excess(places, f"security_group:{group.id}", what, MAX_COMPOSITE)


def _is_composite(rule: Rule) -> bool:
    if isinstance(rule.peer, GroupPeer | AddressGroupPeer):
        return True
    return len(merged((each.first, each.last) for each in rule.ports)) > 1


def _warning(places: _Places, key: str, code: Doubt, message: str) -> Problem:
    place = places.get(key, _NOWHERE)
    return Problem(place.file, place.line, place.column, code, message, "warning")


def _excess(places: _Places, key: str, what: str, limit: int) -> Problem:
    return _warning(places, key, Doubt.OVER_LIMIT, f"{what}: keep to at most {limit}")


def _parsed(place: str) -> Place:
    file, _, line = place.rpartition(":")
    return Place(file, int(line), 1)


_NOWHERE = Place("-", 1, 1)
