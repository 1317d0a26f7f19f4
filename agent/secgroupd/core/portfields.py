"""Instances and their ports: their fields, and what two ports must not share."""

from typing import Any

from secgroupd.core.addresses import host_address, pair_order, paired_network
from secgroupd.core.model import AddressPair, Instance, Port
from secgroupd.core.networkfields import VPC_ID
from secgroupd.core.reading import (
    Field,
    Located,
    Reader,
    Shape,
    Values,
    list_kind,
    mapping_kind,
    reference_kind,
    scalar_kind,
    shown,
)
from secgroupd.core.scalars import BOOLEAN, ID, INTERFACE, MAC, NAME

_SWITCH = object()


def _pair(values: Values, _: Reader) -> Any:
    if values.bad:
        return None
    network = values.given["ip_address"]
    if network is None:
        return _SWITCH
    return AddressPair(network=network, mac_address=values.given.get("mac_address"))


def _port(values: Values, reader: Reader) -> Port | None:
    given = values.given
    port_id, vpc_id = given.get("id"), given.get("vpc_id")
    addresses: list[Located] = given.get("private_ips", [])
    groups: list[Located] = given.get("security_groups", [])
    pairs: list[Located] = given.get("allowed_address_pairs", [])
    if vpc_id is not None:
        for address, node in addresses:
            what, remedy = f"{address} in this VPC", "correct one of the two"
            reader.claim(("ip", vpc_id, address), node, "address-twice", what, remedy)
    seen: set[str] = set()
    for group, node in groups:
        if group in seen:
            message = f"the port is in {shown(group)} already: remove one of the two"
            reader.report(node, "group-twice", message)
        seen.add(group)
    _claim_binding(values, reader)
    if port_id is None or vpc_id is None:
        return None
    kept = {pair.value for pair in pairs if pair.value is not _SWITCH}
    return Port(
        id=port_id,
        vpc_id=vpc_id,
        mac_address=given.get("mac_address"),
        interface=given.get("interface"),
        host_id=given.get("host_id"),
        private_ips=tuple(sorted({a.value for a in addresses}, key=lambda a: (a.version, a))),
        security_groups=tuple(group.value for group in groups),
        allowed_address_pairs=tuple(sorted(kept, key=pair_order)),
        source_check=all(pair.value is not _SWITCH for pair in pairs),
        port_security_enabled=given.get("port_security_enabled", True),
    )


def _claim_binding(values: Values, reader: Reader) -> None:
    """Report a port that would be bound to the interface of another one."""
    given, host = values.given, values.given.get("host_id")
    if not values.complete("host_id", "interface"):
        return
    if "interface" in given:
        what = f"interface {shown(given['interface'])}"
        remedy = "correct one of the two, or give their hosts"
        reader.bind(what, host, values.at("interface"), "interface-twice", remedy)
    elif "mac_address" in given:
        what = f"a port bound by MAC address {given['mac_address']}"
        remedy = "give the two ports their interfaces or hosts"
        reader.bind(what, host, values.at("mac_address"), "mac-twice", remedy)


def _instance(values: Values, _: Reader) -> Instance | None:
    given = values.given
    ports = tuple(sorted((p.value for p in given.get("ports", [])), key=lambda port: port.id))
    if "id" not in given:
        return None
    return Instance(id=given["id"], name=given.get("name", ""), ports=ports)


ADDRESS_PAIR = Shape(
    "address_pair",
    "What a port may send from besides its own addresses; 1.1.1.1/0 switches its source check off.",
    {
        "ip_address": Field(
            scalar_kind(paired_network, type="string", minLength=2),
            "an address or CIDR, or 1.1.1.1/0",
            required=True,
        ),
        "mac_address": Field(MAC, "the MAC address it sends with; the port's when it is missing"),
    },
)

PORT = Shape(
    "port",
    "One network interface of an instance.",
    {
        "id": Field(ID, "unique among the ports of all instances", required=True),
        "interface": Field(INTERFACE, "its interface; found by MAC or link alias when missing"),
        "host_id": Field(ID, "its host; on another one, it only counts as a member"),
        "vpc_id": Field(VPC_ID, "the id of its VPC", required=True),
        "mac_address": Field(MAC, "its MAC address, in hexadecimal with colons"),
        "private_ips": Field(
            list_kind(scalar_kind(host_address, type="string", minLength=2)),
            "its own addresses, without a prefix length",
            default=[],
        ),
        "security_groups": Field(
            list_kind(reference_kind("security_group", ID)),
            "ids of its groups in order of evaluation; the default group when it is empty",
            default=[],
        ),
        "allowed_address_pairs": Field(
            list_kind(mapping_kind(ADDRESS_PAIR, _pair)),
            "what it may send from besides its own addresses",
            default=[],
        ),
        "port_security_enabled": Field(
            BOOLEAN, "false switches rules and source check off", default=True
        ),
    },
)

INSTANCE = Shape(
    "instance",
    "A cloud server with its ports.",
    {
        "id": Field(ID, "unique among the instances", required=True),
        "name": Field(NAME, "a name for people", default=""),
        "ports": Field(list_kind(mapping_kind(PORT, _port)), "its ports, in any order", default=[]),
    },
)

INSTANCE_KIND = mapping_kind(INSTANCE, _instance)
