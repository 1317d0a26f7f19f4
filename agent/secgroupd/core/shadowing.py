"""Rules that decide nothing, or nothing that would not be decided the same without them.

Inside a group all that is found can be removed at once, and no decision changes; a property test
holds that against the evaluator. Between groups it depends on a port's order of groups: a rule is
*overruled* at a port if rules of groups before its own decide otherwise all that it matches.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from secgroupd.core.coverage import Level, Match, Part, Parts, covering
from secgroupd.core.doubts import Doubt, Finding, listed
from secgroupd.core.model import Action, Direction, Family
from secgroupd.core.policy import Policy
from secgroupd.core.reading import shown

_LOOKED_THROUGH = 256
"""Rules between two others that are looked at, so that time stays linear in rules."""


def decided_within(group_id: str, parts: Parts) -> Iterator[Finding]:
    """Yield the rules that their own group makes superfluous, and mark them as dropped."""
    for part in parts.values():
        if len(part.matches) > 1:
            yield from _shadowed(group_id, part)
            yield from _redundant(group_id, part)


def _shadowed(group_id: str, part: Part) -> Iterator[Finding]:
    for match in part.matches:
        if not match.own:
            continue

        def before(other: Match, level: Level = match.level) -> bool:
            return not other.dropped and other.level < level

        by = covering(match, (part,), before)
        if not by:
            continue
        match.dropped = True
        key, name = f"rule:{group_id}/{match.rule.id}", shown(match.rule.id)
        if len(by) == 1 and by[0].rule.action is not match.rule.action and by[0].equals(match):
            message = (
                f"rule {name} never decides, because rule {shown(by[0].rule.id)} says the opposite "
                f"of the same traffic and wins ({_why_first(by[0], match)}): remove one of the two"
            )
            yield Finding(key, Doubt.CONTRADICTORY_RULE, message)
            continue
        message = (
            f"rule {name} never decides, because {_rules(by)} all of it before: "
            f"remove {'one of the two' if len(by) == 1 else 'it'}, or change their priorities"
        )
        yield Finding(key, Doubt.SHADOWED_RULE, message)


def _redundant(group_id: str, part: Part) -> Iterator[Finding]:
    """Yield the rules of which others decide all that they do, and in the same way.

    The others may come before, at the same priority, or after, up to the first rule that decides
    otherwise. Rules that match less are asked first, so that of two the wider one is kept.
    """
    for match in sorted(part.matches, key=_extent):
        if not match.own or match.dropped:
            continue
        by = covering(match, (part,), partial(_decides_alike, match, len(part.matches)))
        if any(other.at > match.at for other in by):
            end = _first_otherwise(match, part)
            by = covering(match, (part,), partial(_decides_alike, match, end))
        if not by:
            continue
        match.dropped = True
        message = (
            f"rule {shown(match.rule.id)} is not needed, because {_rules(by)} all of it, "
            "and what is decided stays the same without it: remove it"
        )
        yield Finding(f"rule:{group_id}/{match.rule.id}", Doubt.REDUNDANT_RULE, message)


def _decides_alike(match: Match, end: int, other: Match) -> bool:
    """Return whether another rule, if it stands before ``end``, decides as if a rule were not there."""
    if other.dropped or other is match:
        return False
    if other.level < match.level:
        return True
    return other.rule.action is match.rule.action and other.at < end


def _extent(match: Match) -> tuple[int, int, int, int]:
    details = sum(last - first + 1 for first, last in match.details)
    # A group has few members, compared with a network.
    addresses = sum(last - first + 1 for first, last in match.addresses)
    return match.rule.protocol is None, addresses, details, -match.at


def _first_otherwise(match: Match, part: Part) -> int:
    """Return the position of the first later rule that may decide otherwise, if it is asked."""
    end = len(part.matches)
    if len(part.actions) == 1:
        return end
    for at in range(match.at + 1, end):
        other = part.matches[at]
        otherwise = other.rule.action is not match.rule.action
        if at > match.at + _LOOKED_THROUGH or (otherwise and other.may_overlap(match)):
            return at
    return end


def _why_first(one: Match, other: Match) -> str:
    if one.rule.priority == other.rule.priority:
        return "at the same priority deny comes before allow"
    return f"priority {one.rule.priority} comes before {other.rule.priority}"


def _rules(matches: Sequence[Match]) -> str:
    ids = listed([match.rule.id for match in matches])
    return f"rule {ids} matches" if len(matches) == 1 else f"rules {ids} together match"


Fronts = Mapping[str, Mapping[tuple[str, ...], Sequence[str]]]
"""The groups that stand before a group in ports' lists, with the ids of the ports that have them so."""


def fronts_of(policy: Policy) -> Fronts:
    """Return what stands before each group, at the ports that rules judge."""
    fronts: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for port in policy.ports.values():
        if port.port_security_enabled:
            order = policy.groups_of(port)
            for at, group_id in enumerate(order):
                fronts.setdefault(group_id, {}).setdefault(order[:at], []).append(port.id)
    return fronts


def decided_before(groups: Mapping[str, Parts], fronts: Fronts) -> Iterator[Finding]:
    """Yield the rules that groups before their own overrule: denies anywhere, allows everywhere.

    An allow that is overruled at some ports only is what a group that shuts these off is for.
    """
    for group_id, parts in groups.items():
        before = fronts.get(group_id, {})
        for key, part in parts.items():
            for action in part.actions:
                opposed = [
                    (_opposed(groups, front, key, action), ports) for front, ports in before.items()
                ]
                needed = all if action is Action.ALLOW else any
                if needed(others for others, _ in opposed):
                    yield from _overruled(part, action, opposed)


def _opposed(
    groups: Mapping[str, Parts],
    front: Iterable[str],
    key: tuple[Direction, Family],
    action: Action,
) -> list[Part]:
    """Return the rules of groups that have some with another action."""
    parts = (groups.get(each, {}).get(key) for each in front)
    return [part for part in parts if part is not None and part.actions - {action}]


def _overruled(
    part: Part, action: Action, opposed: Sequence[tuple[Sequence[Part], Sequence[str]]]
) -> Iterator[Finding]:
    of_group = sum(len(ports) for _, ports in opposed)
    for match in part.matches:
        if match.rule.action is not action or match.dropped or not match.own:
            continue
        first: Sequence[Match] = ()
        at: list[str] = []
        for others, ports in opposed:
            by = covering(match, others, partial(_decides_otherwise, action)) if others else []
            if by:
                first = first or by
                at += ports
            elif action is Action.ALLOW:
                break
        else:
            if at:
                yield _told(match, first, at, of_group)


def _decides_otherwise(action: Action, other: Match) -> bool:
    return other.rule.action is not action and not other.dropped


def _told(match: Match, by: Sequence[Match], ports: Sequence[str], of_group: int) -> Finding:
    denies = match.rule.action is Action.DENY
    other = "allow" if denies else "deny"
    rules = listed([each.rule.id for each in by])
    before = f"group {listed(list(dict.fromkeys(each.group_id for each in by)))}"
    if len(by) == 1:
        why = f"rule {rules} ({other}) of {before} matches all of it and comes first there"
    else:
        why = f"rules {rules} ({other}) of {before} together match all of it and come first there"
    where = (
        f"port {shown(ports[0])}"
        if of_group == 1
        else f"{len(ports)} of the {of_group} ports of group {shown(match.group_id)}, "
        f"such as {shown(ports[0])}"
    )
    message = (
        f"rule {shown(match.rule.id)} never {'denies' if denies else 'allows'} anything at {where}, "
        f"because {why}: change the order of the groups, or remove one of the rules"
    )
    return Finding(f"rule:{match.group_id}/{match.rule.id}", Doubt.OVERRULED_RULE, message)
