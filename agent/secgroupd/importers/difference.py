"""What differs between two documents, as a list for people: what a new import has changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from secgroupd.core.model import (
    AddressGroup,
    AddressGroupPeer,
    AddressPair,
    AddressRange,
    GroupPeer,
    Instance,
    PortRange,
    Rule,
    SecurityGroup,
    State,
)
from secgroupd.core.wording import matches, port_list, protocol_name

_CONTAINED = {(SecurityGroup, "rules"), (Instance, "ports")}
"""Fields that hold objects of their own."""


def changes(old: State, new: State) -> Iterator[str]:
    """Yield a line for each object that was added (+) or removed (-), and each changed field (~)."""
    one, other = dict(_objects(old)), dict(_objects(new))
    for key in sorted(one.keys() | other.keys()):
        name = " ".join(key)
        if key not in one:
            yield f"+ {name}{_told(other[key])}"
        elif key not in other:
            yield f"- {name}{_told(one[key])}"
        else:
            yield from (f"~ {name}: {change}" for change in _changed(one[key], other[key]))
    if old.allow_default_group_changes != new.allow_default_group_changes:
        word = _word(new.allow_default_group_changes)
        yield f"~ document: allow_default_group_changes: now {word}"


def _objects(state: State) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every object with its kind and id; a rule and a port with what they are in as well."""
    kinds: Mapping[str, Sequence[Any]] = {
        "VPC": state.vpcs,
        "peering": state.peerings,
        "address group": state.address_groups,
        "security group": state.security_groups,
        "instance": state.instances,
        "load balancer": state.load_balancers,
    }
    for kind, objects in kinds.items():
        for each in objects:
            yield (kind, each.id), each
            if isinstance(each, SecurityGroup):
                yield from (((kind, each.id, "rule", rule.id), rule) for rule in each.rules)
            if isinstance(each, Instance):
                yield from (((kind, each.id, "port", port.id), port) for port in each.ports)


def _told(value: object) -> str:
    if isinstance(value, Rule):
        return f": {value.direction} {value.action} {value.family.value} {matches(value)}"
    if isinstance(value, SecurityGroup | Instance) and value.name:
        return f" ({value.name})"
    return ""


def _changed(old: Any, new: Any) -> Iterator[str]:
    for each in fields(old):
        one, other = getattr(old, each.name), getattr(new, each.name)
        if one == other or (type(old), each.name) in _CONTAINED:
            continue
        if isinstance(old, AddressGroup) and each.name == "entries":
            yield from (f"+ {_word(entry)}" for entry in other if entry not in one)
            yield from (f"- {_word(entry)}" for entry in one if entry not in other)
        elif each.name == "protocol":
            yield f"protocol: {protocol_name(one)} -> {protocol_name(other)}"
        else:
            yield f"{each.name}: {_word(one)} -> {_word(other)}"


def _word(value: Any) -> str:
    """Return a field's value in short."""
    match value:
        case None | "":
            word = "none"
        case tuple():
            word = ", ".join(_word(each) for each in value) or "none"
        case PortRange(first, last):
            word = port_list([(first, last)])
        case AddressRange(first, last):
            word = str(first) if first == last else f"{first}-{last}"
        case AddressPair(network=network, mac_address=mac_address):
            word = f"{network} {mac_address or ''}".rstrip()
        case GroupPeer(group_id):
            word = f"group {group_id}"
        case AddressGroupPeer(group_id):
            word = f"addresses {group_id}"
        case bool():
            word = str(value).lower()
        case _ if is_dataclass(value):
            # The other peers, and the parts of load balancers.
            word = " ".join(_word(getattr(value, each.name)) for each in fields(value))
        case _:
            word = str(getattr(value, "value", value))
    return word or "anywhere"
