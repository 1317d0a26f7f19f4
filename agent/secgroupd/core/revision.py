"""A digest of a state's content."""

import json
from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType

from secgroupd.core.model import State


def revision(state: State, known: Mapping[int, bytes] = MappingProxyType({})) -> str:
    """Return 16 hexadecimal digits that identify what a state says, names included.

    Tuples of a state are sorted where order means nothing, so that neither the order of the
    document's lists nor its division into files shows. ``revision`` and ``places`` do not count.

    Args:
        state: the state.
        known: digests of objects in its sections, by the identity of each.
    """
    total = blake2b(digest_size=8)
    for each in fields(state):
        value = getattr(state, each.name)
        if isinstance(value, tuple):
            total.update(b"%s %d " % (each.name.encode(), len(value)))
            for one in value:
                total.update(known.get(id(one)) or digest(one))
        elif each.name not in {"revision", "places"}:
            total.update(f"{each.name} {json.dumps(value, default=plain)} ".encode())
    return total.hexdigest()


def digest(value: object) -> bytes:
    """Return the digest of an object of the model."""
    content = json.dumps(value, default=plain, check_circular=False)
    return blake2b(content.encode(), digest_size=16).digest()


def plain(value: object) -> object:
    """Return a value of the model as what JSON has; every dataclass field counts."""
    names = getattr(value, "__dataclass_fields__", None)
    if names is not None:
        return [type(value).__name__, *[getattr(value, name) for name in names]]
    if isinstance(value, IPv4Address | IPv6Address):
        return [value.version, int(value)]
    if isinstance(value, IPv4Network | IPv6Network):
        return [value.version, int(value.network_address), value.prefixlen]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no place in a digest: teach plain() about it")
