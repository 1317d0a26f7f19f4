"""OpenStack's network API, or what its command line prints as JSON -> a document.

Neutron's groups are unions of allows, so that every rule has the same priority and the order of a
port's groups does not matter. Facts of the command line are from python-openstackclient: its list of
rules prints "any" where a remote group or address group is meant, and leaves out ICMP types and codes
that are 0, so that what such a row means is not always known.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from secgroupd.core.model import Address, Family
from secgroupd.importers import fields
from secgroupd.importers.answers import Answer, Found, sort
from secgroupd.importers.draft import Document, Draft, Group, Port, Rule
from secgroupd.importers.neutron import (
    KINDS,
    address_group,
    check_same_rules,
    mappings,
    network_port,
    object_id,
    with_pairs,
)
from secgroupd.importers.notes import Item, Notes, Unsaid, Where, told

VPC = "openstack"
"""OpenStack has no VPCs: its networks are one, in which a group's members are everybody's."""

_COLUMNS = {
    "ID": "id",
    "Name": "name",
    "Description": "description",
    "Ethertype": "ethertype",
    "Direction": "direction",
    "IP Protocol": "protocol",
    "Security Group": "security_group_id",
    "Remote Security Group": "remote_group_id",
    "Remote Address Group": "remote_address_group_id",
    "Addresses": "addresses",
    "MAC Address": "mac_address",
    "Fixed IP Addresses": "fixed_ips",
    "Security Groups": "security_groups",
    "Device Owner": "device_owner",
}
"""The fields behind the columns of lists; ``IP Range`` and ``Port Range`` need more than a name."""

_MARKS = {
    "rule": ("IP Protocol", "Port Range", "port_range_min"),
    "address_group": ("Addresses", "addresses"),
    "port": ("MAC Address", "Fixed IP Addresses", "mac_address", "fixed_ips"),
    "group": ("Name", "rules", "security_group_rules"),
}
"""Keys by which objects are known that stand in no list with a name."""

_PORT_RANGE = re.compile(r"([0-9]+):([0-9]+)").fullmatch
_ICMP_RANGE = re.compile(r"type=([0-9]+)(?::code=([0-9]+))?").fullmatch

_PROTOCOLS = {
    "ipv6-encap": 41,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
}
"""Neutron's names that a document does not have (IANA's numbers)."""


@dataclass(slots=True)
class _Import:
    draft: Draft
    known: set[str] = field(default_factory=set)
    stateless: set[str] = field(default_factory=set)


def convert(answers: Iterable[Answer], notes: Notes) -> Document:
    """Return the document that the answers amount to.

    Raises:
        ImportRefused: something is none of these answers.
    """
    found = sort(answers, KINDS, notes, _kind)
    run = _Import(Draft(notes))
    rules = [*found["rule"], *_groups(found["group"], run, complete=bool(found["rule"]))]
    run.known = {key for each in rules if isinstance(each.value, dict) for key in each.value}
    for each in _best_first(rules):
        _rule(each, run)
    address_groups = _best_first(found["address_group"])
    for where, raw, _ in _converted(address_groups, "address group", run.draft):
        for made in address_group(where, raw, raw.get("addresses"), run.draft):
            run.draft.address_group(made)
    _fit_families(run.draft)
    _ports(found["port"], run)
    return run.draft.finish()


def _kind(item: Item) -> str | None:
    return next((kind for kind, keys in _MARKS.items() if any(k in item for k in keys)), None)


def _best_first(found: Iterable[Found]) -> list[Found]:
    """Return objects as the API names their fields; rows of lists last, and none for a known id."""
    rows, others = [], []
    ids = set()
    for each in found:
        if isinstance(each.value, dict) and "ID" in each.value:
            rows.append(each)
            continue
        others.append(each)
        if isinstance(each.value, dict) and isinstance(each.value.get("id"), str):
            ids.add(each.value["id"])
    kept = [row for row in rows if not _known_id(row, ids)]
    return others + kept


def _known_id(row: Found, ids: set[str]) -> bool:
    assert isinstance(row.value, dict)
    return isinstance(row.value["ID"], str) and row.value["ID"] in ids


def _as_api(item: Item) -> dict[str, object]:
    """Return an object with the API's names for its fields, whether it is a row or not."""
    if "ID" not in item:
        return dict(item)
    return {_COLUMNS[key]: value for key, value in item.items() if key in _COLUMNS}


def _groups(found: Iterable[Found], run: _Import, *, complete: bool) -> list[Found]:
    """Enter the groups, and return the rules that stand in them."""
    rules: list[Found] = []
    seen: dict[str, set[str]] = {}
    draft = run.draft
    for where, raw, each in _converted(found, "security group", draft):
        group_id = draft.notes.tried(where, "left out", partial(fields.group_id, raw.get("id")))
        if group_id is None:
            continue
        inner = raw.get("security_group_rules", raw.get("rules"))
        is_row = isinstance(each.value, dict) and "ID" in each.value
        if is_row:
            why_not = "this list does not tell: give the API's answer, or what show prints"
            draft.notes.take(Where(each.file, "security groups"), "taken for stateful", why_not)
        known = complete or isinstance(inner, list)
        name, description = raw.get("name"), raw.get("description")
        draft.group(where, group_id, name, description, known=known)
        if raw.get("stateful", True) is not True:
            run.stateless.add(group_id)
            why = "a document's groups are stateful: answers that it does not let out would pass"
            draft.notes.take(where, "its rules left out", f"it is stateless, and {why}")
        if isinstance(inner, list):
            check_same_rules(where, group_id, inner, seen)
            rules += (Found(each.file, entry, group_id) for entry in inner)
        elif inner is not None:
            draft.notes.take(where, "its rules left out", f"they are {told(inner)}")
    return rules


def _converted(
    found: Iterable[Found], kind: str, draft: Draft
) -> list[tuple[Where, dict[str, object], Found]]:
    return [
        (Where(where.file, f"{kind} {told(raw.get('id'))}"), raw, each)
        for where, item, each in mappings(found, kind, draft)
        for raw in (_as_api(item),)
    ]


def _rule(found: Found, run: _Import) -> None:
    draft = run.draft
    for where, item, _ in _converted([found], "security group rule", draft):
        try:
            raw = _row(item, found.value) if _is_row(found) else item
            group = _group_of(found, raw, run)
            if group is None:
                return
            rule = _read(raw, run.known)
        except Unsaid as why:
            draft.notes.take(where, "left out", why)
            return
        rule |= draft.text(where, "description", raw.get("description"))
        rule_id = object_id(where, raw, Notes())
        if rule_id is None:
            draft.notes.take(where, "another id", "it has none that a document takes")
        draft.rule(where, group, rule_id, rule)


def _is_row(found: Found) -> bool:
    return isinstance(found.value, dict) and "ID" in found.value


def _group_of(found: Found, raw: Item, run: _Import) -> Group | None:
    """Return the group that a rule stands in; None for one whose rules are left out."""
    # Beside the kinds that lists have, this is the id of the group that the rule was found in.
    inside = found.kind if found.kind not in {"", "row", "show"} else None
    written = raw.get("security_group_id")
    group_id = fields.group_id(inside if written is None else written)
    if inside not in {None, group_id}:
        raise Unsaid(f"it stands in group {inside}, and names {group_id}")
    if group_id in run.stateless:
        return None
    if group_id not in run.draft.groups:
        thing = Where(found.file, f"security group {group_id}")
        run.draft.notes.take(thing, "its name left out", "only rules of it are in the answers")
        return run.draft.group(thing, group_id)
    return run.draft.groups[group_id]


def _read(raw: Item, known: set[str]) -> Rule:
    key = "ethertype" if "ethertype" in raw else "ether_type"
    family = fields.ethertype(fields.needed(raw, key))
    rule: Rule = {"direction": fields.direction(raw.get("direction")), "ethertype": family.value}
    number = _protocol(fields.needed(raw, "protocol"), family)
    if number is not None:
        rule |= fields.protocol_field(number, family)
    first, last = (fields.needed(raw, f"port_range_{end}") for end in ("min", "max"))
    if fields.is_icmp(number):
        rule |= fields.icmp_fields(first, last)
    elif fields.has_ports(number):
        rule |= fields.port_fields(first, last)
    elif (first, last) != (None, None):
        raise Unsaid("it has ports, and its protocol has none")
    return rule | fields.peer_fields(raw, family, known, masked=True)


def _protocol(written: object, family: Family) -> int | None:
    if written is None or written == "any":
        return None
    word = written.lower() if isinstance(written, str) else written
    if word == "icmp" and family is Family.IPV6:
        # Neutron's older name of the protocol that goes with the ethertype.
        word = "icmpv6"
    if isinstance(word, str) and word in _PROTOCOLS:
        return _PROTOCOLS[word]
    return fields.protocol(word)


def _row(item: dict[str, object], columns: object) -> dict[str, object]:
    """Return a row of the list of rules with its two columns that are made of several fields."""
    assert isinstance(columns, dict)
    for column in ("IP Range", "Port Range", "Remote Security Group"):
        fields.needed(columns, column)
    raw = dict(item)
    for key in ("protocol", "remote_group_id", "remote_address_group_id"):
        if raw.get(key) == "":
            raw[key] = None
    prefix = columns["IP Range"]
    anywhere = prefix in (None, "", "0.0.0.0/0", "::/0")
    grouped = any(raw.get(k) is not None for k in ("remote_group_id", "remote_address_group_id"))
    if anywhere and not grouped and "remote_address_group_id" not in raw:
        raise Unsaid("the list has no column Remote Address Group, so that any may mean one")
    raw["remote_ip_prefix"] = None if anywhere else prefix
    raw.setdefault("remote_address_group_id", None)
    protocol = raw.get("protocol")
    icmp = {"icmp", "icmpv6", "ipv6-icmp", "1", "58"}
    spelled = columns["Port Range"] or ""
    if isinstance(protocol, str) and protocol.lower() in icmp:
        found = _ICMP_RANGE(spelled) if isinstance(spelled, str) else None
        if found is None:
            raise Unsaid("the list does not tell ICMP type 0 from any: give the API's answer")
        # Without a code it is 0 or any: what surely is allowed is 0.
        return {**raw, "port_range_min": found[1], "port_range_max": found[2] or "0"}
    ends = _PORT_RANGE(spelled) if isinstance(spelled, str) else None
    if ends is None and spelled != "":
        raise Unsaid(f"{told(spelled)} is no range of ports")
    first, last = (ends[1], ends[2]) if ends is not None else (None, None)
    return {**raw, "port_range_min": first, "port_range_max": last}


def _fit_families(draft: Draft) -> None:
    """Point IPv6 rules at the IPv6 part of address groups that have two."""
    for group in draft.groups.values():
        for _, rule in group.rules.values():
            part = f"{rule.get('remote_address_group_id')}-ipv6"
            if rule["ethertype"] == Family.IPV6.value and part in draft.address_groups:
                rule["remote_address_group_id"] = part


def _ports(found: Iterable[Found], run: _Import) -> None:
    draft = run.draft
    ports: list[tuple[Port, str | None]] = []
    for where, raw, _ in _converted(_best_first(found), "port", draft):
        port = network_port(where, raw, draft, ordered=False, vpc_id=VPC)
        if port is None:
            continue
        network = raw.get("network_id")
        port = with_pairs(port, raw.get("allowed_address_pairs"), draft, switch=False)
        ports.append((port, network if isinstance(network, str) and network else None))
    apart = _overlapping(ports)
    peers = {r.get("remote_group_id") for g in draft.groups.values() for _, r in g.rules.values()}
    for network in sorted(apart):
        why = "its addresses are another network's too; nothing passes between it and the others"
        thing = Where(next(p.where.file for p, n in ports if n == network), f"network {network}")
        draft.notes.take(thing, "made a VPC of its own", why)
    for port, network in ports:
        own = network if network in apart else None
        draft.port(replace(port, vpc_id=own) if own is not None else port)
        if port.pairs and not peers.isdisjoint(port.groups):
            why = "a document's group peers are ports' own addresses only"
            draft.notes.take(port.where, "its pairs are no members of its groups", why)


def _overlapping(ports: Iterable[tuple[Port, str | None]]) -> set[str]:
    """Return the networks that have an address which another network has too."""
    networks: dict[Address, set[str]] = {}
    for port, network in ports:
        if network is not None and _fits(network):
            for address in port.addresses:
                networks.setdefault(address, set()).add(network)
    return {name for names in networks.values() if len(names) > 1 for name in names}


def _fits(network: str) -> bool:
    try:
        return fields.identifier(network) != VPC
    except Unsaid:
        return False
