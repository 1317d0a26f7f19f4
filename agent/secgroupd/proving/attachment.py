"""What hangs on a lab's host: cables to other namespaces, routed or on a bridge."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from secgroupd.core.model import Address
from secgroupd.proving.netns import Namespace

Kind = Literal["veth", "tap"]


class Wiring(StrEnum):
    """How a lab's ports are connected to its host."""

    ROUTED = "routed"
    SWITCHED = "switched"
    GATEWAY = "gateway"


BRIDGE = "br0"
"""The bridge of ports that name none, and the only one that the host routes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One cable between the host and another namespace.

    ``interface`` and ``index`` are those of the host's end; ``mac`` and ``guest_index`` those of
    the end in ``namespace``, where the interface is named eth0. ``bridge`` is the bridge that the
    host's end is a port of, None where it is routed. ``addresses`` are behind the cable now.
    """

    interface: str
    index: int
    namespace: Namespace
    guest_index: int
    mac: str
    host_mac: str
    kind: Kind
    addresses: tuple[Address, ...] = ()
    bridge: str | None = None

    @property
    def island(self) -> str | None:
        """The bridge, if the host does not route to it; its addresses may be others' as well."""
        return None if self.bridge == BRIDGE else self.bridge
