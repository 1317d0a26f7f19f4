"""A digest of a state's content."""

import json
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from secgroupd.core.model import State


def revision(state: State) -> str:
    """Return 16 hexadecimal digits that identify what a state says, names included.

    Tuples of a state are sorted where order means nothing, so that neither the order of the
    document's lists nor its division into files shows. ``revision`` and ``places`` do not count.
    """
    content = json.dumps(
        replace(state, revision="", places={}), default=plain, check_circular=False
    )
    return blake2b(content.encode(), digest_size=8).hexdigest()


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
