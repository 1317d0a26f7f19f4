"""What the APIs of OpenStack and of Huawei's cloud, which descends from it, have in common."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from secgroupd.core.addresses import SOURCE_CHECK_OFF
from secgroupd.core.model import Address, Family
from secgroupd.importers import fields
from secgroupd.importers.answers import Found, items
from secgroupd.importers.draft import CLOSED, AddressGroup, Draft, Port, differs
from secgroupd.importers.notes import Item, Notes, Unsaid, Where, named, told

KINDS = {
    "security_groups": "group",
    "security_group": "group",
    "security_group_rules": "rule",
    "security_group_rule": "rule",
    "address_groups": "address_group",
    "address_group": "address_group",
    "ports": "port",
    "port": "port",
}
"""What stands under the keys of an answer."""

ADMIN_OWNERS = "network:"
"""Begins the ``device_owner`` of DHCP servers' and routers' ports, which no rules judge."""


def mappings(found: Iterable[Found], kind: str, draft: Draft) -> list[tuple[Where, Item, Found]]:
    """Return the entries that are mappings, each with its place and its id in words."""
    result: list[tuple[Where, Item, Found]] = []
    for each in found:
        if isinstance(each.value, dict):
            where = Where(each.file, named(kind, each.value.get("id")))
            result.append((where, each.value, each))
        else:
            draft.notes.take(Where(each.file, kind), "left out", f"{told(each.value)} stands there")
    return result


def check_same_rules(
    where: Where, group_id: str, rules: Iterable[object], seen: dict[str, set[str]]
) -> None:
    """Compare the rules of a group with those that it has had in an answer before.

    Raises:
        ImportRefused: they are others, and one of the two may allow what the cloud does not.
    """
    ids = {told(rule.get("id") if isinstance(rule, dict) else rule) for rule in rules}
    if seen.setdefault(group_id, ids) != ids:
        raise differs(where)


def object_id(where: Where, item: Item, notes: Notes) -> str | None:
    """Return the id of an object; None, and a note, if it has none that a document takes."""
    return notes.tried(where, "left out", lambda: fields.identifier(item.get("id")))


def address_group(where: Where, item: Item, entries: object, draft: Draft) -> list[AddressGroup]:
    """Return an address group for each IP version that the entries have; of none, an IPv4 one."""
    group_id = object_id(where, item, draft.notes)
    if group_id is None:
        return []
    texts = {
        **draft.text(where, "name", item.get("name")),
        **draft.text(where, "description", item.get("description")),
    }
    by_family: dict[Family, list[str]] = {}
    whole = entries is not None
    if not whole:
        draft.notes.take(where, "its entries left out", "they are not in the answers")
    for entry in items(entries):
        try:
            family, text = fields.entry(entry)
            by_family.setdefault(family, []).append(text)
        except Unsaid as why:
            draft.notes.take(where, "an entry left out", why)
            whole = False
    groups: list[AddressGroup] = []
    for family in sorted(by_family or {Family.IPV4: []}, key=lambda family: family.version):
        new_id = group_id if not groups else f"{group_id}-{family.value.lower()}"
        made = {"id": new_id, **texts}
        groups.append(AddressGroup(where, made, tuple(by_family.get(family, ())), family, whole))
    return groups


def network_port(
    where: Where, item: Item, draft: Draft, *, ordered: bool, vpc_id: str
) -> Port | None:
    """Return a port as both APIs tell it; None, and a note, if it is none that rules judge."""
    raw_groups = item.get("security_groups", item.get("security_group_ids"))
    owner = item.get("device_owner")
    if isinstance(owner, str) and owner.startswith(ADMIN_OWNERS) and not raw_groups:
        draft.notes.take(where, "left out", f"a port of {told(owner)} is judged by no rules")
        return None
    groups, groups_known = _groups(where, raw_groups, draft, ordered=ordered)
    port_id = object_id(where, item, draft.notes)
    if port_id is None:
        draft.lost_member(groups if groups_known else None)
        return None
    addresses, whole = _addresses(where, item, draft)
    mac = _optional(where, "mac_address", item.get("mac_address"), draft, fields.mac)
    host = item.get("binding:host_id", item.get("binding_host_id"))
    device = item.get("device_id")
    secured = item.get("port_security_enabled", True)
    if not isinstance(secured, bool):
        draft.notes.take(where, "security on", f"port_security_enabled is {told(secured)}")
    names = draft.text(where, "name", item.get("name")) if not device else {}
    return Port(
        where=where,
        port_id=port_id,
        instance_id=_optional(where, "device_id", device, draft, fields.identifier) or port_id,
        vpc_id=vpc_id,
        name=str(names.get("name", "")),
        mac=mac,
        host_id=_optional(where, "binding:host_id", host, draft, fields.identifier),
        addresses=addresses,
        groups=groups,
        secured=secured is not False,
        groups_known=groups_known,
        addresses_known=whole,
    )


def _optional(
    where: Where, name: str, value: object, draft: Draft, read: Callable[[object], str]
) -> str | None:
    if fields.blank(value):
        return None
    return draft.notes.tried(where, f"{name} left out", lambda: read(value))


def _groups(
    where: Where, value: object, draft: Draft, *, ordered: bool
) -> tuple[tuple[str, ...], bool]:
    """Return a port's groups, and whether they are all it has; where order counts, gaps close."""
    groups, known = [], value is not None
    for entry in items(value):
        try:
            groups.append(fields.group_id(entry))
        except Unsaid as why:
            known = False
            draft.notes.take(where, "a group left out", why)
            if ordered:
                groups.append(CLOSED)
    unique = dict.fromkeys(groups)
    return tuple(unique if ordered else sorted(unique)), known


def _addresses(where: Where, item: Item, draft: Draft) -> tuple[tuple[Address, ...], bool]:
    key = next((key for key in ("private_ips", "fixed_ips") if key in item), None)
    found, whole = [], key is not None
    for entry in items(item[key]) if key is not None else []:
        value = entry.get("ip_address") if isinstance(entry, dict) else entry
        try:
            found.append(fields.host_address(value))
        except Unsaid as why:
            whole = False
            draft.notes.take(where, "an address left out", why)
    return tuple(sorted(set(found), key=lambda a: (a.version, int(a)))), whole


def with_pairs(port: Port, value: object, draft: Draft, *, switch: bool) -> Port:
    """Return a port with its allowed address pairs.

    Args:
        port: the port.
        value: the pairs of the answer.
        draft: takes notes.
        switch: whether ``1.1.1.1/0`` switches the source check off and everything is refused, as in
            Huawei's cloud; otherwise everything is what Neutron takes it for.
    """
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for entry in items(value):
        try:
            for pair in _pairs(entry, port, switch=switch):
                pairs[pair["ip_address"], pair.get("mac_address", "")] = pair
        except Unsaid as why:
            draft.notes.take(port.where, "an allowed address pair left out", why)
    return replace(port, pairs=tuple(pairs[key] for key in sorted(pairs)))


def _pairs(entry: object, port: Port, *, switch: bool) -> list[dict[str, str]]:
    if not isinstance(entry, dict):
        raise Unsaid(f"{told(entry)} is no pair")
    address = entry.get("ip_address")
    if switch and address == SOURCE_CHECK_OFF:
        return [{"ip_address": SOURCE_CHECK_OFF}]
    block = fields.network(address, masked=not switch)
    if switch and block.prefixlen == 0:
        raise Unsaid(f"{told(address)} is no pair: {SOURCE_CHECK_OFF} switches the check off")
    mac = entry.get("mac_address")
    own = fields.blank(mac) or fields.mac(mac) == port.mac
    rest = {} if own else {"mac_address": fields.mac(mac)}
    return [{"ip_address": str(part), **rest} for part in fields.halves(block)]
