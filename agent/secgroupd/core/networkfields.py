"""VPCs, peerings and load balancers: their fields."""

from secgroupd.core.model import (
    TCP,
    UDP,
    Forwarder,
    Listener,
    LoadBalancer,
    Member,
    Peering,
    Vpc,
)
from secgroupd.core.reading import (
    Field,
    Located,
    Reader,
    Refusal,
    Shape,
    Values,
    list_kind,
    mapping_kind,
    reference_kind,
    scalar_kind,
    shown,
)
from secgroupd.core.scalars import BOOLEAN, ID, INTERFACE, MAC, NAME, Plain, number_between
from secgroupd.core.tree import ListNode

_FORWARDERS = ("interface", "mac_address", "fwmark")
_LISTENER_PROTOCOLS = {"tcp": TCP, "udp": UDP}

VPC_ID = reference_kind("vpc", ID)
"""The kind of an id of one of the document's VPCs."""


def _vpc(values: Values, reader: Reader) -> Vpc | None:
    given = values.given
    uplinks: list[Located] = given.get("uplinks", [])
    for uplink, node in uplinks:
        what = f"uplink {shown(uplink)}"
        remedy = "remove one, because an uplink carries one VPC only"
        reader.claim(("uplink", uplink), node, "uplink-twice", what, remedy)
    if "id" not in given:
        return None
    names = tuple(sorted(uplink.value for uplink in uplinks))
    return Vpc(id=given["id"], name=given.get("name", ""), uplinks=names)


def _peering(values: Values, reader: Reader) -> Peering | None:
    if not values.complete("id", "vpc_ids"):
        return None
    ids = sorted(vpc.value for vpc in values.given["vpc_ids"])
    node = values.at("vpc_ids")
    if len(ids) == 2 and ids[0] != ids[1]:
        return Peering(id=values.given["id"], vpc_ids=(ids[0], ids[1]))
    if isinstance(node, ListNode) and len(ids) == len(node.items):
        message = f"{len(set(ids))} different VPCs are given: write the ids of two"
        reader.report(node, "peering", message)
    return None


def _forwarder(values: Values, reader: Reader) -> Forwarder | None:
    given = values.given
    if len(given) + len(values.bad) != 1:
        message = (
            f"{len(given) or 'no'} ways are given: write exactly one of {', '.join(_FORWARDERS)}"
        )
        reader.report(values.node, "forwards-through", message)
        return None
    return None if values.bad else Forwarder(**given)


def _listener_protocol(value: Plain) -> int:
    number = _LISTENER_PROTOCOLS.get(value.lower()) if isinstance(value, str) else None
    if number is None:
        message = f"{shown(value)} is not a listener's protocol: write TCP or UDP"
        raise Refusal("listener-protocol", message)
    return number


def _member(values: Values, _: Reader) -> Member | None:
    return None if values.bad else Member(**values.given)


def _listener(values: Values, _: Reader) -> Listener | None:
    if values.bad:
        return None
    given = dict(values.given)
    members = {member.value for member in given.pop("members", [])}
    ordered = sorted(members, key=lambda member: (member.port_id, member.protocol_port))
    return Listener(**given, members=tuple(ordered))


def _load_balancer(values: Values, reader: Reader) -> LoadBalancer | None:
    given = values.given
    listeners: list[Located] = given.get("listeners", [])
    named: dict[str, Listener] = {}
    for listener, node in listeners:
        if listener.id in named:
            message = f"listener {shown(listener.id)} is given twice: give one of them another id"
            reader.report(node, "duplicate-id", message)
        named[listener.id] = listener
    if values.bad or given["forwards_through"] is None:
        return None
    return LoadBalancer(
        id=given["id"],
        vpc_id=given["vpc_id"],
        name=given.get("name", ""),
        forwards_through=given["forwards_through"],
        listeners=tuple(named[key] for key in sorted(named)),
    )


VPC = Shape(
    "vpc",
    "A virtual private cloud; nothing of one has an influence on another.",
    {
        "id": Field(ID, "unique among the VPCs", required=True),
        "name": Field(NAME, "a name for people", default=""),
        "uplinks": Field(
            list_kind(INTERFACE), "host interfaces that carry this VPC and no other", default=[]
        ),
    },
)

PEERING = Shape(
    "peering",
    "Two VPCs whose group peers see each other's members.",
    {
        "id": Field(ID, "unique among the peerings", required=True),
        "vpc_ids": Field(
            list_kind(VPC_ID, minItems=2, maxItems=2), "the ids of the two VPCs", required=True
        ),
    },
)

_PROTOCOL_PORT = scalar_kind(
    number_between(1, 65535, "port-range"),
    anyOf=[
        {"type": "integer", "minimum": 1, "maximum": 65535},
        {"type": "string", "pattern": "^[1-9][0-9]{0,4}$"},
    ],
)
_FWMARK = scalar_kind(
    number_between(1, 2**32 - 1, "fwmark"),
    anyOf=[
        {"type": "integer", "minimum": 1, "maximum": 2**32 - 1},
        {"type": "string", "pattern": "^[1-9][0-9]{0,9}$"},
    ],
)

FORWARDER = Shape(
    "forwarder",
    "How a load balancer's traffic is told apart on this host: exactly one of the fields.",
    {
        "interface": Field(INTERFACE, "it comes in through this interface"),
        "mac_address": Field(MAC, "it comes from this MAC address"),
        "fwmark": Field(_FWMARK, "it carries this packet mark, 1 to 4294967295"),
    },
)

MEMBER = Shape(
    "member",
    "A backend of a listener.",
    {
        "port_id": Field(reference_kind("port", ID), "the id of the backend's port", required=True),
        "protocol_port": Field(
            _PROTOCOL_PORT, "the port that traffic reaches there", required=True
        ),
    },
)

LISTENER = Shape(
    "listener",
    "One protocol and port that a load balancer listens on.",
    {
        "id": Field(ID, "unique in the load balancer", required=True),
        "protocol": Field(
            scalar_kind(_listener_protocol, type="string", pattern="^([tT][cC][pP]|[uU][dD][pP])$"),
            "TCP or UDP",
            required=True,
        ),
        "protocol_port": Field(_PROTOCOL_PORT, "the port that it listens on", required=True),
        "transfer_client_ip": Field(
            BOOLEAN, "true lets its traffic pass the backends' inbound rules", default=False
        ),
        "members": Field(list_kind(mapping_kind(MEMBER, _member)), "its backends", default=[]),
    },
)

LOAD_BALANCER = Shape(
    "load_balancer",
    "A load balancer that forwards traffic to ports of this host.",
    {
        "id": Field(ID, "unique among the load balancers", required=True),
        "name": Field(NAME, "a name for people", default=""),
        "vpc_id": Field(VPC_ID, "the id of its VPC", required=True),
        "forwards_through": Field(
            mapping_kind(FORWARDER, _forwarder), "how its traffic is told apart", required=True
        ),
        "listeners": Field(
            list_kind(mapping_kind(LISTENER, _listener)), "what it listens on", default=[]
        ),
    },
)

VPC_KIND = mapping_kind(VPC, _vpc)
PEERING_KIND = mapping_kind(PEERING, _peering)
LOAD_BALANCER_KIND = mapping_kind(LOAD_BALANCER, _load_balancer)
