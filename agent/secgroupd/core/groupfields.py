"""Address groups and security groups: their fields, and what one entry must not do to the next."""

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b

from secgroupd.core.addresses import address_range
from secgroupd.core.model import (
    AddressGroup,
    AnyPeer,
    Family,
    PrefixPeer,
    Preset,
    Rule,
    SecurityGroup,
    family_of,
)
from secgroupd.core.policy import DEFAULT_GROUP_NAME, own_group_rules, preset_rules
from secgroupd.core.reading import (
    Field,
    Located,
    Place,
    Reader,
    Refusal,
    Shape,
    Values,
    list_kind,
    mapping_kind,
    scalar_kind,
    shown,
)
from secgroupd.core.revision import plain
from secgroupd.core.rulefields import PORTS, RULE_KIND
from secgroupd.core.scalars import BOOLEAN, DESCRIPTION, ID, NAME, Plain, identifier, one_of

ON_DEMAND_PREFIX = DEFAULT_GROUP_NAME + "@"
"""Begins the ids of default groups that are made on demand; a document cannot use it."""

VERSIONS = {4: Family.IPV4, "4": Family.IPV4, 6: Family.IPV6, "6": Family.IPV6}
"""What an address group's ``ip_version`` can be."""


def _version(value: Plain) -> Family:
    family = None if isinstance(value, bool) else VERSIONS.get(value)
    if family is None:
        raise Refusal("ip-version", f"{shown(value)} is not an IP version: write 4 or 6")
    return family


def _group_id(value: Plain) -> str:
    text = identifier(value)
    if text.startswith(ON_DEMAND_PREFIX):
        message = f"ids that begin with {ON_DEMAND_PREFIX} are the agent's own: write another id"
        raise Refusal("id", message)
    return text


def _address_group(values: Values, reader: Reader) -> AddressGroup | None:
    given = values.given
    family = given.get("ip_version")
    entries: list[Located] = given.get("ip_set", [])
    for entry, node in entries:
        if family is not None and (actual := family_of(entry.first)) is not family:
            message = f"this is {actual.value} in an {family.value} group: remove it, or make a second group"
            reader.report(node, "entry-family", message)
    if family is None or "id" not in given:
        return None
    return AddressGroup(
        id=given["id"],
        family=family,
        entries=tuple(
            sorted({entry.value for entry in entries}, key=lambda e: (int(e.first), int(e.last)))
        ),
        name=given.get("name", ""),
        description=given.get("description", ""),
    )


def _security_group(values: Values, reader: Reader) -> SecurityGroup | None:
    given = values.given
    preset = given.get("preset")
    for name in ("preset_ports", "preset_icmp"):
        if name in given and preset is not Preset.FAST_ADD and values.complete("preset"):
            message = f"{name} goes with the preset fast-add only: remove it, or use that preset"
            reader.report(values.at(name), "preset-field", message)
    if "id" not in given:
        return None
    group = SecurityGroup(
        id=given["id"],
        name=given.get("name", ""),
        description=given.get("description", ""),
        preset=preset,
        preset_ports=given.get("preset_ports", ()),
        preset_icmp=given.get("preset_icmp", False),
    )
    rules = _named_rules(group, given.get("rules", []), reader)
    return replace(group, rules=rules)


def _named_rules(group: SecurityGroup, located: list[Located], reader: Reader) -> tuple[Rule, ...]:
    taken = {rule.id for rule in preset_rules(group)}
    named: dict[str, Rule] = {}
    for written, node in located:
        rule = written
        code, what, remedy = "duplicate-id", f"rule {shown(rule.id)}", "give one of them another id"
        if not rule.id:
            rule = replace(rule, id=derived_id(rule))
            code, what, remedy = "same-rule-twice", "the same rule", "remove one, or give both ids"
        key = f"rule:{group.id}/{rule.id}"
        place = reader.place(node)
        if rule.id in taken:
            message = f"rule {shown(rule.id)} comes with the preset: give this one another id"
            reader.report(node, "duplicate-id", message)
        elif rule.id in named:
            message = f"{what} is already given at {reader.places[key]}: {remedy}"
            reader.report(node, code, message)
        else:
            named[rule.id] = rule
            reader.places[key] = place
    return tuple(named[rule_id] for rule_id in sorted(named))


def derived_id(rule: Rule) -> str:
    """Return the id of a rule that is given none.

    It depends on what the rule matches and decides, so that switching the rule off or describing it
    does not make it another one.
    """
    content = json.dumps(replace(rule, id="", description="", enabled=True), default=plain)
    return "rule-" + blake2b(content.encode(), digest_size=8).hexdigest()


def check_default_groups(
    groups: list[SecurityGroup],
    reader: Reader,
    places: Mapping[str, Place],
    *,
    changes_allowed: bool,
    needed_at: Place | None,
) -> None:
    """Report groups named ``default`` that change the default group's rules, or that are ambiguous.

    Args:
        groups: every group of the document.
        reader: takes the problems.
        places: where objects stand, by ``kind:id``.
        changes_allowed: whether the document allows changes of the rules.
        needed_at: where a port stands whose list of groups is empty, None without any.
    """
    named = [group for group in groups if group.name == DEFAULT_GROUP_NAME]
    named.sort(key=lambda group: places[f"security_group:{group.id}"])
    if needed_at is not None:
        for group in named[1:]:
            first = places[f"security_group:{named[0].id}"]
            message = (
                f"the port at {needed_at} needs the default group, and {first} defines one already: "
                "rename one of them, or list the port's groups"
            )
            reader.report(places[f"security_group:{group.id}"], "two-default-groups", message)
    for group in named:
        if not changes_allowed and not _is_default(group):
            message = (
                "the default group's rules are not to be changed: leave the group out, "
                "write its four rules, or add allow_default_group_changes: true"
            )
            reader.report(places[f"security_group:{group.id}"], "default-group", message)


def _is_default(group: SecurityGroup) -> bool:
    wanted = {_essence(rule) for rule in own_group_rules(group.id)}
    return group.preset is None and {_essence(rule) for rule in group.rules} == wanted


def _essence(rule: Rule) -> Rule:
    """A rule without what the default group's rules may differ in."""
    peer = rule.peer
    if isinstance(peer, PrefixPeer) and peer.network.prefixlen == 0:
        peer = AnyPeer()
    return replace(rule, id="", description="", priority=1, peer=peer)


ADDRESS_GROUP = Shape(
    "address_group",
    "A named list of addresses of one IP version, which rules can have as their peer.",
    {
        "id": Field(ID, "unique among the address groups", required=True),
        "name": Field(NAME, "a name for people", default=""),
        "description": Field(DESCRIPTION, "free text without < and >", default=""),
        "ip_version": Field(
            scalar_kind(_version, enum=[4, 6, "4", "6"]), "4 or 6, for every entry", required=True
        ),
        "ip_set": Field(
            list_kind(scalar_kind(address_range, type="string", minLength=2)),
            "addresses, CIDRs and ranges such as 192.168.3.20-192.168.3.100",
            default=[],
        ),
    },
)

SECURITY_GROUP = Shape(
    "security_group",
    "A security group: rules in two directions; what no rule of a port's groups allows is denied.",
    {
        "id": Field(
            scalar_kind(_group_id, **ID.schema), "unique among the security groups", required=True
        ),
        "name": Field(NAME, "a name for people; default marks the default group", default=""),
        "description": Field(DESCRIPTION, "free text without < and >", default=""),
        "preset": Field(
            scalar_kind(one_of({p.value: p for p in Preset}, "preset"), enum=[*Preset]),
            "a set of rules to start from, besides the ones in rules",
        ),
        "preset_ports": Field(PORTS, "TCP ports that the preset fast-add opens to 0.0.0.0/0"),
        "preset_icmp": Field(BOOLEAN, "whether the preset fast-add opens ICMP", default=False),
        "rules": Field(list_kind(RULE_KIND), "the group's rules, in any order", default=[]),
    },
)

ADDRESS_GROUP_KIND = mapping_kind(ADDRESS_GROUP, _address_group)
SECURITY_GROUP_KIND = mapping_kind(SECURITY_GROUP, _security_group)
