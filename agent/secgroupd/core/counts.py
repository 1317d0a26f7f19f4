"""What the kernel has counted -> totals that only grow.

The kernel's counters go with what they are in: a table that somebody deletes, a rule that no port
here has any more, an interface that is made anew. Totals are made of their increments.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Place = tuple[str, str]
"""A table's family, and in it the name of a counter, or an interface."""


Owner = TypeVar("Owner", bound=Hashable)


class Count(NamedTuple):
    """Packets, and their bytes from the network header on."""

    packets: int = 0
    bytes: int = 0

    def plus(self, other: "Count") -> "Count":
        """Return the sum."""
        return Count(self.packets + other.packets, self.bytes + other.bytes)

    def less(self, other: "Count") -> "Count":
        """Return the difference, nothing being the least."""
        return Count(max(0, self.packets - other.packets), max(0, self.bytes - other.bytes))

    def most(self, other: "Count") -> "Count":
        """Return the larger of the packets, and of the bytes."""
        return Count(max(self.packets, other.packets), max(self.bytes, other.bytes))

    def since(self, before: "Count") -> "Count":
        """Return what has come since; all of it, where the counter has begun anew."""
        if self.packets < before.packets or self.bytes < before.bytes:
            return self
        return Count(self.packets - before.packets, self.bytes - before.bytes)


@dataclass(frozen=True, slots=True)
class Carried:
    """What an interface has received and sent, from the host's side, frames of any protocol."""

    received: Count
    sent: Count


@dataclass(frozen=True, slots=True)
class Counts:
    """One reading of the tables' counters.

    Attributes:
        rules: by the counters' names, what rules have decided.
        spoofs: by interface, what the source check has dropped.
        denied_from: by interface, what the rules have denied of what came from it.
        denied_to: by interface, what the rules have denied of what was to leave into it.
    """

    rules: Mapping[Place, Count] = field(default_factory=dict)
    spoofs: Mapping[Place, Count] = field(default_factory=dict)
    denied_from: Mapping[Place, Count] = field(default_factory=dict)
    denied_to: Mapping[Place, Count] = field(default_factory=dict)


@dataclass(slots=True)
class Tally(Generic[Owner]):
    """Totals by owner, of counters that change hands, begin anew, and go."""

    from_now: bool = False
    """Whether what a counter had when it was first seen is left out."""
    totals: dict[Owner, Count] = field(default_factory=dict)
    _seen: Mapping[Place, Count] = field(default_factory=dict)

    def take(self, counts: Mapping[Place, Count], owners: Mapping[str, Owner]) -> None:
        """Add what has been counted since the last reading.

        Args:
            counts: the reading.
            owners: whose each counter or interface is now, by its name; nobody else's is shown.
        """
        nothing = Count()
        totals = {owner: self.totals.get(owner, nothing) for owner in owners.values()}
        for place, count in counts.items():
            owner = owners.get(place[1])
            if owner is not None:
                fresh = count.since(self._seen.get(place, count if self.from_now else nothing))
                totals[owner] = totals[owner].plus(fresh)
        self.totals, self._seen = totals, counts
