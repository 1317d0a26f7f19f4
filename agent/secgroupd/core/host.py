"""What the compiler must know besides the document: the host, and which judgements still hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from secgroupd.core.draft import Binding
from secgroupd.core.marks import LAST_GENERATION
from secgroupd.core.model import Clearing, Timeout
from secgroupd.core.nflog import SILENT, Logging


@dataclass(frozen=True, slots=True)
class Generations:
    """Which judgements still hold.

    ``current`` is what is stamped now. ``newest`` is the youngest minimum of any port: a stamp not
    older is fresh everywhere. ``minimum`` has each port's own; ports without one take ``newest``.
    With strict clearing no stamp is ever fresh: every packet is judged by the rules of now.
    """

    current: int = 1
    newest: int = 1
    minimum: Mapping[str, int] = field(default_factory=dict)
    mode: Clearing = Clearing.DOCUMENTED

    def __post_init__(self) -> None:
        """Refuse, with ValueError, what no mark can hold."""
        if not 0 <= self.current <= LAST_GENERATION:
            raise ValueError(f"no mark can hold generation {self.current}")

    def of(self, port_id: str) -> int:
        """Return the oldest generation whose judgement still holds for a port."""
        return self.minimum.get(port_id, self.newest)


class Bridging(Enum):
    """What this kernel can do for ports on a Linux bridge."""

    FULL = "full"
    CLOSED = "no connection tracking"
    """Bridge tables without connection tracking: ports on a bridge are closed."""
    NONE = "no bridge tables"
    """Nothing at all: frames between the ports of a bridge pass whatever the rules say."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this kernel can do. Without ``tracking`` of connections, every port is closed."""

    bridging: Bridging = Bridging.FULL
    tracking: bool = True


ABLE = Abilities()
"""Everything that the agent needs."""

FAMILIES = ("inet", "bridge", "arp")
"""The families in which there may be a table: routed ports, ports on bridges, ARP of routed ones."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the compiler must know of the host.

    ``bindings`` has the ports of this host by id. ``managed`` are interface names, or prefixes with
    a closing ``*``, that are closed unless a port claims them.
    """

    bindings: Mapping[str, Binding]
    managed: tuple[str, ...] = ("tap*", "vnet*")
    timeouts: Mapping[Timeout, int] = field(default_factory=dict)
    """Seconds; what is not named keeps the kernel's own, as do connections of no port."""
    abilities: Abilities = ABLE
    held: frozenset[str] = frozenset()
    """Ports that are closed whatever their rules say, because the kernel refuses theirs."""
    logging: Logging = SILENT
    left: frozenset[int] = frozenset()
    """Indices of links that ports have left, which are here still. What a port has opened has a mark for all
    time: only so is it kept from an interface that is closed."""
