"""Huawei Cloud's v3 network API (and its v1 and v2 fields for ports) -> a document.

Its model is the document's own: ordered groups, priorities, deny rules. A missing action or priority
is the cloud's default only where no rule of the answers has one, which is how older API versions
answer.
"""

from collections.abc import Iterable
from functools import partial

from secgroupd.core.model import Family
from secgroupd.core.ports import multiport
from secgroupd.core.reading import Refusal
from secgroupd.errors import ImportRefused
from secgroupd.importers import fields, neutron
from secgroupd.importers.answers import Answer, Found, ends, sort
from secgroupd.importers.draft import Document, Draft, Group, Partial, Port, Rule
from secgroupd.importers.neutron import (
    address_group,
    check_same_rules,
    mappings,
    network_port,
    object_id,
    with_pairs,
)
from secgroupd.importers.notes import Item, Notes, Unsaid, Where, named, told

KINDS = {
    **neutron.KINDS,
    "sub_network_interfaces": "sub_interface",
    "sub_network_interface": "sub_interface",
    "vpcs": "vpc",
    "vpc": "vpc",
    "peerings": "peering",
    "peering": "peering",
}
"""What stands under the keys of an answer."""

VIRTUAL_OWNER = "neutron:VIP_PORT"
"""The ``device_owner`` of virtual IPs, which are no members of any group."""

_ACTIVE = "ACTIVE"
UNKNOWN_VPC = "huawei"
"""The VPC of ports whose answers name none."""


def convert(answers: Iterable[Answer], notes: Notes) -> Document:
    """Return the document that the answers amount to.

    Raises:
        ImportRefused: something is none of the API's answers, or what is wrong with it may hide a
            deny.
    """
    answers = list(answers)
    draft = Draft(notes, denies=True)
    found = sort(answers, KINDS, notes)
    for where, item, _ in mappings(found["vpc"], "VPC", draft):
        vpc_id = object_id(where, item, notes)
        if vpc_id is not None:
            draft.vpcs[vpc_id] = str(draft.text(where, "name", item.get("name")).get("name", ""))
    draft.peerings_known = bool(found["peering"])
    for each in found["peering"]:
        _peering(each, draft)
    complete = ends(answers, "security_group_rules")
    rules = [*found["rule"], *_groups(found["group"], draft, complete=complete)]
    known = {key for each in rules if isinstance(each.value, dict) for key in each.value}
    for each in rules:
        _rule(each, known, draft, complete=complete)
    for where, item, _ in mappings(found["address_group"], "address group", draft):
        _address_group(where, item, draft)
    for where, item, _ in mappings(found["port"], "port", draft):
        port = _port(where, item, draft)
        if port is not None:
            draft.port(port)
    for where, item, _ in mappings(found["sub_interface"], "sub-interface", draft):
        _sub_interface(where, item, draft)
    for kind, key in (("port", "ports"), ("sub_interface", "sub_network_interfaces")):
        whole = ends(answers, key) and all(isinstance(each.value, dict) for each in found[kind])
        if found[kind] and not whole:
            draft.lost_member(None)
    return draft.finish()


def _peering(found: Found, draft: Draft) -> None:
    item = found.value if isinstance(found.value, dict) else {}
    where = Where(found.file, named("peering", item.get("id")))
    status = item.get("status")
    if isinstance(status, str) and status != _ACTIVE:
        draft.notes.take(where, "left out", f"it is {told(status)}")
        return
    peering_id = object_id(where, item, draft.notes)
    pair = draft.notes.tried(where, "left out", lambda: _peered(item))
    if peering_id is None or pair is None:
        draft.peerings_known = False
        return
    for vpc_id in pair:
        draft.vpcs.setdefault(vpc_id, "")
    draft.peerings[peering_id] = pair


def _peered(item: Item) -> tuple[str, str]:
    """Return the two VPCs of an active peering, sorted."""
    if item.get("status") != _ACTIVE:
        raise Unsaid(f"its status is {told(item.get('status'))}")
    infos = (item.get("request_vpc_info"), item.get("accept_vpc_info"))
    one, other = (
        fields.identifier(info.get("vpc_id") if isinstance(info, dict) else None) for info in infos
    )
    if one == other:
        raise Unsaid("its two ends are one VPC")
    return min(one, other), max(one, other)


def _groups(found: Iterable[Found], draft: Draft, *, complete: bool) -> list[Found]:
    """Enter the groups, and return the rules that stand in them.

    Args:
        found: the groups.
        draft: takes them.
        complete: whether there is a list of rules besides, in which those of every group stand.
    """
    rules: list[Found] = []
    seen: dict[str, set[str]] = {}
    for where, item, each in mappings(found, "security group", draft):
        group_id = draft.notes.tried(where, "left out", partial(fields.group_id, item.get("id")))
        if group_id is None:
            continue
        inner = item.get("security_group_rules", item.get("security_group_rule"))
        name, description = item.get("name"), item.get("description")
        known = complete or isinstance(inner, list)
        draft.group(where, group_id, name, description, known=known)
        if isinstance(inner, list):
            check_same_rules(where, group_id, inner, seen)
            rules += (Found(each.file, entry, group_id) for entry in inner)
        elif inner is not None:
            raise ImportRefused(
                f"{each.file}: {where.thing}: its rules are no list: fetch it again"
            )
    return rules


def _rule(found: Found, known: set[str], draft: Draft, *, complete: bool) -> None:
    item = found.value
    if not isinstance(item, dict):
        raise _may_deny(Where(found.file, "a security group rule"), f"it is {told(item)}")
    where = Where(found.file, f"security group rule {told(item.get('id'))}")
    action = _action(item, known)
    group = _group_of(where, found, item, draft, denies=action == "deny", complete=complete)
    if group is None:
        return
    read = _read(item, known)
    if action is None:
        action = "deny"
        draft.notes.take(
            where, "taken for a deny", f"its action {told(item.get('action'))} is none"
        )
    if read.doubts and action == "allow":
        draft.notes.take(where, "left out", "; ".join(read.doubts))
        return
    if read.doubts:
        draft.notes.take(where, "denies more", "; ".join(read.doubts))
    rule: Rule = {
        "action": action,
        **read.fields,
        **_enabled(where, item, known, draft, deny=action == "deny"),
    }
    if action == "deny":
        rule.setdefault("priority", 1)
    rule |= draft.text(where, "description", item.get("description"))
    rule_id = object_id(where, item, Notes())
    if rule_id is None:
        draft.notes.take(where, "another id", "it has none that a document takes")
    for number, each in enumerate(_in_every_way(rule)):
        suffix = "" if number == 0 or rule_id is None else f"-{number}"
        draft.rule(where, group, None if rule_id is None else f"{rule_id}{suffix}", each)


def _may_deny(where: Where, why: str) -> ImportRefused:
    return ImportRefused(
        f"{where.file}: {where.thing}: {why}, and what it may deny would be open: fetch it again"
    )


def _action(item: Item, known: set[str]) -> str | None:
    action = item.get("action")
    if action is None and ("action" not in known):
        return "allow"
    return next((word for word in ("allow", "deny") if action == word), None)


def _group_of(
    where: Where, found: Found, item: Item, draft: Draft, *, denies: bool, complete: bool
) -> Group | None:
    """Return the group that a rule stands in; None, and a note, for an allow without one."""
    written = item.get("security_group_id") or found.kind
    try:
        group_id = fields.group_id(written)
    except Unsaid as why:
        if denies or item.get("action") != "allow":
            raise _may_deny(where, f"its group cannot be read ({why})") from None
        draft.notes.take(where, "left out", f"its group cannot be read: {why}")
        return None
    if found.kind and group_id != found.kind:
        raise _may_deny(where, f"it stands in group {found.kind}, and names {group_id}")
    if group_id not in draft.groups:
        thing = Where(found.file, f"security group {group_id}")
        draft.notes.take(thing, "its name left out", "only rules of it are in the answers")
        return draft.group(thing, group_id, known=complete)
    return draft.groups[group_id]


def _read(item: Item, known: set[str]) -> Partial:
    read = Partial()
    read.take(lambda: {"direction": fields.direction(item.get("direction"))})
    read.take(lambda: {"priority": _priority(item, known)})
    read.take(lambda: {"ethertype": fields.ethertype(fields.needed(item, "ethertype")).value})
    written = read.fields.get("ethertype")
    family = None if written is None else Family(written)
    read.take(lambda: _traffic(item, family))
    read.take(lambda: fields.peer_fields(item, family, known, masked=False))
    return read


def _traffic(item: Item, family: Family | None) -> Rule:
    written = fields.needed(item, "protocol")
    number = None if fields.blank(written) else fields.protocol(written)
    if number is None or family is None:
        return _ports(item, None) if number is None else {}
    return fields.protocol_field(number, family) | _ports(item, number)


def _priority(item: Item, known: set[str]) -> int:
    if item.get("priority") is None and "priority" not in known:
        return 1
    return fields.number_in(item.get("priority"), 1, 100, "priority")


def _ports(item: Item, number: int | None) -> Rule:
    if "multiport" in item:
        written = item["multiport"]
    elif "port_range_min" in item and "port_range_max" in item:
        first, last = item["port_range_min"], item["port_range_max"]
        if fields.is_icmp(number):
            return fields.icmp_fields(first, last)
        if not fields.has_ports(number) and (first, last) != (None, None):
            raise Unsaid("its protocol has no ports")
        return fields.port_fields(first, last)
    else:
        written = fields.needed(item, "multiport")
    if fields.blank(written):
        return {}
    if written == "1-65535" and number is None:
        return {}
    if not fields.has_ports(number):
        # What ports of ICMP mean in this API is not documented.
        raise Unsaid(f"its protocol has no ports, and it has {told(written)}")
    try:
        multiport(written if isinstance(written, str | int) else "")
    except Refusal as refusal:
        raise Unsaid(refusal.message) from None
    return {} if written == "1-65535" else {"multiport": str(written)}


def _enabled(where: Where, item: Item, known: set[str], draft: Draft, *, deny: bool) -> Rule:
    enabled = item.get("enabled", None if "enabled" in known else True)
    if enabled is True:
        return {}
    if enabled is not False:
        draft.notes.take(where, "enabled" if deny else "disabled", f"enabled is {told(enabled)}")
        return {} if deny else {"enabled": False}
    return {"enabled": False}


def _in_every_way(rule: Rule) -> Iterable[Rule]:
    """Yield a deny whose direction or IP version is not known once for each."""
    for direction in [rule["direction"]] if "direction" in rule else fields.DIRECTIONS:
        for family in [rule["ethertype"]] if "ethertype" in rule else [f.value for f in Family]:
            order = ("direction", "action", "priority", "ethertype")
            first = {**rule, "direction": direction, "ethertype": family}
            yield {**{key: first[key] for key in order}, **first}


def _address_group(where: Where, item: Item, draft: Draft) -> None:
    entries, extra = item.get("ip_set"), item.get("ip_extra_set")
    if not entries and isinstance(extra, list):
        # The same entries, each with a remark.
        entries = [entry.get("ip") if isinstance(entry, dict) else entry for entry in extra]
    groups = address_group(where, item, entries, draft)
    versions = {family.version: family for family in Family}
    written = item.get("ip_version")
    family = versions.get(written) if isinstance(written, int) else None
    for group in groups:
        if family is None or (group.entries and group.family is not family):
            draft.notes.take(
                where, "left out", f"ip_version {told(written)} does not fit its entries"
            )
        elif len(groups) == 1:
            group.family = family
            draft.address_group(group)
    if len(groups) > 1:
        draft.notes.take(where, "left out", "its entries are of both IP versions")


def _sub_interface(where: Where, item: Item, draft: Draft) -> None:
    """Enter an interface whose tagged traffic goes through another one's, as a member."""
    addresses = [item.get(key) for key in ("private_ip_address", "ipv6_ip_address")]
    fields_of_port = {
        **{key: item.get(key) for key in ("id", "vpc_id", "mac_address", "security_groups")},
        "device_id": item.get("parent_device_id"),
        "private_ips": [each for each in addresses if not fields.blank(each)],
    }
    port = _port(where, fields_of_port, draft)
    if port is not None:
        draft.unbind(port, "its tagged traffic is its parent's, and tagged frames do not pass")
        draft.port(port)


def _port(where: Where, item: Item, draft: Draft) -> Port | None:
    if item.get("device_owner") == VIRTUAL_OWNER:
        draft.notes.take(where, "left out", "a virtual IP is no member of a group")
        return None
    what = f"put into VPC {UNKNOWN_VPC}"
    read = draft.notes.tried(where, what, lambda: fields.identifier(item.get("vpc_id")))
    vpc_id = read or UNKNOWN_VPC
    port = network_port(where, item, draft, ordered=True, vpc_id=vpc_id)
    if port is None:
        return None
    if read is None:
        # It is no member where it belongs, and does not see those that are.
        draft.lost_member(None)
    profile = item.get("binding:profile")
    if isinstance(profile, dict) and profile.get("disable_security_groups"):
        why = "a document has no port with source check and without rules"
        draft.notes.take(where, "disable_security_groups left out", why)
    return with_pairs(port, item.get("allowed_address_pairs"), draft, switch=True)
