"""EC2's network interfaces -> ports.

Facts are from the EC2 API reference (NetworkInterface).
"""

from collections.abc import Iterator
from functools import partial

from secgroupd.core.addresses import SOURCE_CHECK_OFF
from secgroupd.core.model import Address
from secgroupd.importers import fields
from secgroupd.importers.answers import items
from secgroupd.importers.draft import Draft, Port
from secgroupd.importers.notes import Item, Unsaid, Where, told

NO_VPC = "aws"
"""The VPC of interfaces whose answers name none."""


def name_tag(item: Item, key: str) -> object:
    """Return the tag that EC2's console shows as an object's name."""
    for tag in items(item.get(key)):
        if isinstance(tag, dict) and tag.get("Key") == "Name":
            return tag.get("Value")
    return None


def interface(where: Where, item: Item, draft: Draft) -> None:
    """Enter an interface as a port; one that is EC2's own and has no groups is judged by no rules."""
    groups = []
    for entry in items(item.get("Groups")):
        try:
            groups.append(
                fields.group_id(entry.get("GroupId") if isinstance(entry, dict) else entry)
            )
        except Unsaid as why:
            draft.notes.take(where, "a group left out", why)
    if not groups and item.get("RequesterManaged") is True:
        kind = told(item.get("InterfaceType"))
        draft.notes.take(where, "left out", f"an interface of type {kind} has no groups")
        return
    texts: dict[str, str] = {}
    attachment = item.get("Attachment")
    instance = attachment.get("InstanceId") if isinstance(attachment, dict) else None
    for name, value, read in (
        ("NetworkInterfaceId", item.get("NetworkInterfaceId"), fields.identifier),
        ("VpcId", item.get("VpcId"), fields.identifier),
        ("MacAddress", item.get("MacAddress"), fields.mac),
        ("InstanceId", instance, fields.identifier),
    ):
        try:
            texts[name] = read(value)
        except Unsaid as why:
            if name != "InstanceId" or value is not None:
                draft.notes.take(where, f"its {name} left out", why)
    port_id = texts.get("NetworkInterfaceId")
    if port_id is None:
        draft.notes.take(where, "left out", "nobody can refer to it")
        return
    names = draft.text(where, "name", name_tag(item, "TagSet")) if "InstanceId" not in texts else {}
    draft.port(
        Port(
            where=where,
            port_id=port_id,
            instance_id=texts.get("InstanceId", port_id),
            vpc_id=texts.get("VpcId", NO_VPC),
            name=str(names.get("name", "")),
            mac=texts.get("MacAddress"),
            addresses=_addresses(where, item, draft),
            groups=tuple(sorted(set(groups))),
            pairs=_pairs(where, item, draft),
        )
    )


def _values(where: Where, item: Item, lists: dict[str, str], draft: Draft) -> Iterator[object]:
    for key, name in lists.items():
        for entry in items(item.get(key)):
            if isinstance(entry, dict):
                yield entry.get(name)
            else:
                draft.notes.take(where, f"one of its {key} left out", f"it is {told(entry)}")


def _addresses(where: Where, item: Item, draft: Draft) -> tuple[Address, ...]:
    found: set[Address] = set()
    lists = {"PrivateIpAddresses": "PrivateIpAddress", "Ipv6Addresses": "Ipv6Address"}
    for value in _values(where, item, lists, draft):
        try:
            found.add(fields.host_address(value))
        except Unsaid as why:
            draft.notes.take(where, "an address left out", why)
    return tuple(sorted(found, key=lambda a: (a.version, int(a))))


def _pairs(where: Where, item: Item, draft: Draft) -> tuple[dict[str, str], ...]:
    """Return what an interface may send from besides its addresses: delegated prefixes, or anything."""
    pairs = []
    lists = {"Ipv4Prefixes": "Ipv4Prefix", "Ipv6Prefixes": "Ipv6Prefix"}
    for value in _values(where, item, lists, draft):
        block = draft.notes.tried(where, "a delegated prefix left out", partial(_prefix, value))
        if block is not None:
            pairs.append({"ip_address": block})
            why = "a document's group peers are ports' own addresses only"
            draft.notes.take(where, f"{block} is no member of its groups", why)
    if item.get("SourceDestCheck") is False:
        pairs.append({"ip_address": SOURCE_CHECK_OFF})
    return tuple(sorted(pairs, key=lambda pair: pair["ip_address"]))


def _prefix(value: object) -> str:
    block = fields.network(value)
    if block.prefixlen == 0:
        raise Unsaid(f"{told(value)} is everything")
    return str(block)
