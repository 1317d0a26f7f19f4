"""The fields of a security group's rule, and how they fit together."""

from typing import Any

from secgroupd.core.addresses import network
from secgroupd.core.model import (
    ICMP,
    ICMPV6,
    PORT_PROTOCOLS,
    Action,
    AddressGroupPeer,
    AnyPeer,
    Direction,
    Family,
    GroupPeer,
    Peer,
    PrefixPeer,
    Rule,
    family_of,
)
from secgroupd.core.ports import multiport, protocol
from secgroupd.core.reading import (
    Field,
    Reader,
    Refusal,
    Shape,
    Values,
    mapping_kind,
    scalar_kind,
    shown,
)
from secgroupd.core.scalars import BOOLEAN, DESCRIPTION, ID, Plain, number_between, one_of

FAMILIES = {family.value.lower(): family for family in Family}
"""The IP versions, by the lower-case word for them."""

_PEERS = ("remote_ip_prefix", "remote_group_id", "remote_address_group_id")
_ANY_PEER = AnyPeer()
_PORTS_PATTERN = "^[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?){0,19}$"


def _ethertype(value: Plain) -> Family:
    family = FAMILIES.get(value.lower()) if isinstance(value, str) else None
    if family is None:
        raise Refusal("ethertype", f"{shown(value)} is not an ethertype: write IPv4 or IPv6")
    return family


def _digits(low: int, high: int, pattern: str) -> dict[str, object]:
    number = {"type": "integer", "minimum": low, "maximum": high}
    return {"anyOf": [number, {"type": "string", "pattern": pattern}]}


PORTS = scalar_kind(
    multiport,
    anyOf=[
        {"type": "string", "pattern": _PORTS_PATTERN},
        {"type": "integer", "minimum": 1, "maximum": 65535},
    ],
)
"""The kind of a list of destination ports."""

_ICMP_NUMBER = scalar_kind(
    number_between(0, 255, "icmp-number"),
    **_digits(0, 255, "^(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])$"),
)
_PRIORITY = scalar_kind(
    number_between(1, 100, "priority"), **_digits(1, 100, "^(100|[1-9][0-9]?)$")
)
_PROTOCOL = scalar_kind(
    protocol,
    anyOf=[{"type": "integer", "minimum": 0, "maximum": 255}, {"type": "string", "minLength": 1}],
)
_DIRECTION = scalar_kind(one_of({d.value: d for d in Direction}, "direction"), enum=[*Direction])
_ACTION = scalar_kind(one_of({a.value: a for a in Action}, "action"), enum=[*Action])
_ETHERTYPE = scalar_kind(
    _ethertype,
    anyOf=[
        {"enum": [family.value for family in Family]},
        {"type": "string", "pattern": "^[iI][pP][vV][46]$"},
    ],
)
_PREFIX = scalar_kind(network, type="string", minLength=2)

RULE = Shape(
    "rule",
    "One rule of a security group. Missing fields widen it: without a peer it means any address.",
    {
        "id": Field(ID, "unique in the group; derived from the content when it is missing"),
        "direction": Field(_DIRECTION, "ingress is towards the port, egress away", required=True),
        "action": Field(_ACTION, "allow or deny", default="allow"),
        "priority": Field(
            _PRIORITY, "1 (highest) to 100; deny before allow at the same", default=1
        ),
        "ethertype": Field(_ETHERTYPE, "the IP version, IPv4 or IPv6", default="IPv4"),
        "protocol": Field(_PROTOCOL, "a protocol's name or 0 to 255; all when it is missing"),
        "multiport": Field(PORTS, "destination ports such as 22-24,25; all when it is missing"),
        "icmp_type": Field(_ICMP_NUMBER, "0 to 255, with icmp or icmpv6; any when it is missing"),
        "icmp_code": Field(_ICMP_NUMBER, "0 to 255, with a type; any when it is missing"),
        "remote_ip_prefix": Field(_PREFIX, "the other end is in this CIDR or is this address"),
        "remote_group_id": Field(ID, "the other end is a member of this security group"),
        "remote_address_group_id": Field(ID, "the other end is in this address group"),
        "enabled": Field(BOOLEAN, "false makes the rule as good as absent", default=True),
        "description": Field(DESCRIPTION, "free text without < and >", default=""),
    },
)


def _rule(values: Values, reader: Reader) -> Rule | None:
    given, bad = values.given, values.bad
    if "direction" in bad:
        return None
    family = given.get("ethertype", Family.IPV4)
    number = given.get("protocol")
    if "protocol" not in bad:
        if "multiport" in given and number not in PORT_PROTOCOLS:
            _refuse_ports(values, reader, number)
        if "icmp_type" in given or number in {ICMP, ICMPV6}:
            _check_icmp(values, reader, number, family)
    if "icmp_code" in given and "icmp_type" not in given and "icmp_type" not in bad:
        message = "icmp_code needs a type: add icmp_type, or remove icmp_code"
        reader.report(values.at("icmp_code"), "code-without-type", message)
    return Rule(
        id=given.get("id", ""),
        direction=given["direction"],
        action=given.get("action", Action.ALLOW),
        priority=given.get("priority", 1),
        family=family,
        protocol=number,
        ports=given.get("multiport", ()),
        icmp_type=given.get("icmp_type"),
        icmp_code=given.get("icmp_code"),
        peer=_peer(values, reader, family),
        enabled=given.get("enabled", True),
        description=given.get("description", ""),
    )


def _refuse_ports(values: Values, reader: Reader, number: int | None) -> None:
    which = "all protocols have" if number is None else f"protocol {number} has"
    message = f"{which} no ports: remove multiport, or write tcp, udp, sctp, udplite or dccp"
    reader.report(values.at("multiport"), "ports-without-protocol", message)


def _check_icmp(values: Values, reader: Reader, number: int | None, family: Family) -> None:
    if number not in {ICMP, ICMPV6}:
        message = "icmp_type goes with ICMP only: write protocol icmp or icmpv6, or remove it"
        reader.report(values.at("icmp_type"), "icmp-without-protocol", message)
    elif values.complete("ethertype") and (number == ICMP) is not (family is Family.IPV4):
        right, other = ("icmpv6", "IPv4") if number == ICMP else ("icmp", "IPv6")
        message = (
            f"this protocol does not go with {family.value}: write {right}, or ethertype {other}"
        )
        reader.report(values.at("protocol"), "icmp-family", message)


def _peer(values: Values, reader: Reader, family: Family) -> Peer:
    given = values.given
    peers = [name for name in _PEERS if name in given]
    if not peers:
        return _ANY_PEER
    for name in peers[1:]:
        message = f"a rule has one peer, and {peers[0]} is given too: remove one, or make two rules"
        reader.report(values.at(name), "two-peers", message)
    peer: Any = given[peers[0]]
    if peers[0] == "remote_ip_prefix":
        actual = family_of(peer)
        if actual is not family and values.complete("ethertype"):
            message = (
                f"this is {actual.value} in an {family.value} rule: add ethertype: {actual.value}"
            )
            reader.report(values.at("remote_ip_prefix"), "peer-family", message)
        return PrefixPeer(peer)
    if peers[0] == "remote_group_id":
        return GroupPeer(peer)
    version = reader.family(peer)
    if version is not None and version is not family and values.complete("ethertype"):
        message = (
            f"this address group is {version.value} in an {family.value} rule: "
            f"add ethertype: {version.value}"
        )
        reader.report(values.at("remote_address_group_id"), "peer-family", message)
    return AddressGroupPeer(peer)


RULE_KIND = mapping_kind(RULE, _rule)
"""The kind of a rule; its id is empty when none is given."""
