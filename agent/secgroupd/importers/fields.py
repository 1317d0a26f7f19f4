"""Single values of answers as a document spells them; what has no counterpart is ``Unsaid``."""

from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import TypeVar

from secgroupd.core import addresses, scalars
from secgroupd.core.model import (
    PORT_PROTOCOLS,
    PROTOCOL_NUMBERS,
    Address,
    Family,
    Network,
    family_of,
)
from secgroupd.core.reading import Refusal
from secgroupd.core.scalars import Plain
from secgroupd.importers.notes import Item, Unsaid, told

T = TypeVar("T")

_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}
_ICMP_FAMILIES = {"icmp": Family.IPV4, "icmpv6": Family.IPV6}

PEERS = ("remote_ip_prefix", "remote_group_id", "remote_address_group_id")
"""The three kinds of peers, as Neutron's descendants call them."""

DIRECTIONS = ("ingress", "egress")


def needed(item: Item, key: str) -> object:
    """Return a field that may be null, but not missing.

    APIs send every field, null where it means any. One that is missing was not fetched, so that
    nobody knows what it narrows.
    """
    if key not in item:
        raise Unsaid(f"the answer has no field {key}: fetch it whole")
    return item[key]


def blank(value: object) -> bool:
    """Tell whether a value is null, which some answers write as an empty text."""
    return value is None or value == ""


def whole(value: object) -> int:
    """Return a whole number, also from decimal text."""
    number = scalars.whole_number(value) if isinstance(value, str | int) else None
    if number is None:
        raise Unsaid(f"{told(value)} is no whole number")
    return number


def number_in(value: object, low: int, high: int, what: str) -> int:
    """Return a whole number in a range with both ends in."""
    number = whole(value)
    if not low <= number <= high:
        raise Unsaid(f"{what} {told(value)} is not from {low} to {high}")
    return number


def _core(parse: Callable[[Plain], T], value: object) -> T:
    if not isinstance(value, str):
        raise Unsaid(f"{told(value)} is no text")
    try:
        return parse(value)
    except Refusal as refusal:
        raise Unsaid(refusal.message) from None


def identifier(value: object) -> str:
    """Return an id."""
    return _core(scalars.identifier, value)


def group_id(value: object) -> str:
    """Return the id of a security group; the agent's own begin with ``default@``."""
    text = identifier(value)
    if text.startswith("default@"):
        raise Unsaid(f"{told(value)} is an id of the agent's own")
    return text


def mac(value: object) -> str:
    """Return a MAC address."""
    return _core(scalars.mac_address, value)


def host_address(value: object) -> Address:
    """Return an address that a port can have."""
    return _core(addresses.host_address, value)


def network(value: object, *, masked: bool = False) -> Network:
    """Return a network; ``masked`` cuts the bits off that are set behind its prefix."""
    if masked and isinstance(value, str):
        try:
            addresses.network(value)
        except Refusal as refusal:
            if refusal.code == "host-bits":
                return ip_network(value, strict=False)
    return _core(addresses.network, value)


def entry(value: object) -> tuple[Family, str]:
    """Return the family and the text of an address group's entry."""
    found = _core(addresses.address_range, value)
    return family_of(found.first), str(value)


def ethertype(value: object) -> Family:
    """Return the IP version of a rule."""
    for family in Family:
        if isinstance(value, str) and value.lower() == family.value.lower():
            return family
    raise Unsaid(f"{told(value)} is no ethertype")


def direction(value: object) -> str:
    """Return the direction of a rule."""
    if value not in DIRECTIONS:
        raise Unsaid(f"{told(value)} is no direction")
    return str(value)


def protocol(value: object) -> int:
    """Return the number of a protocol that is given by name or number; -1 is none."""
    if isinstance(value, str) and value.lower() in PROTOCOL_NUMBERS:
        return PROTOCOL_NUMBERS[value.lower()]
    try:
        return number_in(value, 0, 255, "protocol")
    except Unsaid:
        raise Unsaid(f"{told(value)} is no protocol that a document has") from None


def protocol_field(number: int, family: Family) -> dict[str, object]:
    """Return a rule's field for a protocol; ICMP goes with its own IP version only."""
    name = _NAMES.get(number)
    if name is not None and _ICMP_FAMILIES.get(name, family) is not family:
        raise Unsaid(f"{name} does not go with {family.value}")
    return {"protocol": name or number}


def has_ports(number: int | None) -> bool:
    """Tell whether a protocol has destination ports."""
    return number in PORT_PROTOCOLS


def is_icmp(number: int | None) -> bool:
    """Tell whether a protocol has types and codes."""
    return number in {PROTOCOL_NUMBERS["icmp"], PROTOCOL_NUMBERS["icmpv6"]}


def port_fields(first: object, last: object) -> dict[str, object]:
    """Return a rule's ports from the ends of a range; both null, or all of them, is none.

    A document's ports begin with 1: the port 0 of a wider range is nobody's and falls away.
    """
    if first is None and last is None:
        return {}
    low, high = (number_in(each, 0, 65535, "port") for each in (first, last))
    if low > high:
        raise Unsaid(f"ports {low}-{high} are backwards")
    if (low, high) == (0, 65535):
        return {}
    if high == 0:
        raise Unsaid("a document has no port 0")
    low = max(low, 1)
    return {"multiport": str(low) if low == high else f"{low}-{high}"}


def icmp_fields(kind: object, code: object) -> dict[str, object]:
    """Return a rule's ICMP type and code, null meaning any."""
    if kind is None:
        if code is not None:
            raise Unsaid(f"ICMP code {told(code)} has no type")
        return {}
    result: dict[str, object] = {"icmp_type": number_in(kind, 0, 255, "ICMP type")}
    if code is not None:
        result["icmp_code"] = number_in(code, 0, 255, "ICMP code")
    return result


def peer_fields(
    item: Item, family: Family | None, known: set[str], *, masked: bool
) -> dict[str, object]:
    """Return a rule's peer.

    Args:
        item: the rule of the answer.
        family: its IP version, None if that is not known.
        known: fields that any rule of the answers has. An API that is older than address groups
            sends no field for them.
        masked: whether the cloud ignores bits behind a prefix.
    """
    given = [key for key in PEERS if not blank(item.get(key))]
    if len(given) > 1:
        raise Unsaid("it has several peers")
    if not given:
        for key in PEERS:
            if key != "remote_address_group_id" or key in known:
                needed(item, key)
        return {}
    value = item[given[0]]
    if given[0] == "remote_group_id":
        return {given[0]: group_id(value)}
    if given[0] == "remote_address_group_id":
        return {given[0]: identifier(value)}
    block = network(value, masked=masked)
    if family is not family_of(block):
        raise Unsaid(f"{told(value)} is not of the rule's ethertype")
    return {given[0]: str(block)}


def halves(block: Network) -> Sequence[Network]:
    """Return a network, or its halves if it is everything: a document has no pair of all addresses."""
    return list(block.subnets()) if block.prefixlen == 0 else [block]
