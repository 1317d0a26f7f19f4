"""After a change: tidy the connection table, and count what was cleared, kept and cut.

Enforcement does not depend on this: a denied connection has been powerless since the rules'
transaction. TCP entries that the rules deny are deleted, so that they are not listed and do not
wait for days; that is safe, since a denied server's next segment opens nothing (it is no SYN).
Entries of other protocols are left to their own timeouts, because deleting one would let the
server's next packet open the connection again from inside. A sweep may fail, lag or be killed; the
next one finds the same entries.

A port that has come to this host may have been here before. The entries from then do not know what
its connections have done elsewhere, and the kernel would take their segments for out of the window.
They are made to forget it, and are otherwise left as they are: deleted, what is denied among them
could begin again in the port's time of grace.

What a port has opened does not say which port that was. Where one has gone, such entries are deleted,
or answers to it would reach whoever gets its address next. Only TCP's stay, for a port that comes back:
another one answers them with a reset.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from secgroupd.core.clearing import Cleared, Scenario
from secgroupd.core.model import TCP
from secgroupd.core.tracked import Connection, Inbound, Judge, Place


class Table(Protocol):
    """The kernel's connection table."""

    def stale(self, minimums: Mapping[Place, int]) -> Iterator[Connection]:
        """Yield the entries whose responder is at one of these places and whose stamp is older."""

    def tcp_of(self, places: Container[Place]) -> Iterator[Connection]:
        """Yield the TCP entries that have one of these places at an end."""

    def opened_at(self, places: Container[Place]) -> Iterator[Connection]:
        """Yield the entries that were opened from one of these places."""

    def forget_windows(self, connections: Sequence[Connection]) -> int:
        """Have none of their segments taken for invalid because of its sequence numbers."""

    def delete(self, connections: Sequence[Connection]) -> int:
        """Delete entries; return how many were still there."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Connections of ports that a change has cleared, counted under each row that cleared them."""

    cleared: Mapping[Scenario, int]
    kept: Mapping[Scenario, int]
    cut: Mapping[Scenario, int]
    deleted: int
    """Entries that were deleted, of whatever change."""


def stale(table: Table, judge: Judge) -> Iterator[Inbound]:
    """Yield the inbound connections of this host's ports that will be judged again."""
    for connection in table.stale(judge.minimums):
        inbound = judge.inbound(connection)
        if inbound is not None and inbound.stale:
            yield inbound


def welcome(table: Table, judge: Judge, arrived: Container[str]) -> int:
    """Let the TCP connections of ports that have come to this host go on with entries from before.

    Returns how many entries there were.

    Raises:
        DataplaneError: the table could not be read or changed; whatever was done stays done.
    """
    places = judge.places(arrived)
    return table.forget_windows(list(table.tcp_of(places))) if places else 0


def part_with(table: Table, places: Container[Place]) -> int:
    """Delete what was opened from places that ports have left, but TCP; return how many entries.

    Raises:
        DataplaneError: the table could not be read or changed; whatever was done stays done.
    """
    if not places:
        return 0
    return table.delete([one for one in table.opened_at(places) if one.protocol != TCP])


def sweep(
    table: Table, judge: Judge, cleared: Cleared, adopting: Container[str] = frozenset()
) -> Swept:
    """Delete what is denied and may be deleted; count the rest.

    Args:
        table: the connection table.
        judge: knows the policy and generations in force.
        cleared: the ports that the change has cleared, with the reasons.
        adopting: ids of ports in their time of grace. Nothing of theirs is deleted yet: a server's
            next segment would be taken for a connection of its own from before.

    Raises:
        DataplaneError: the table could not be read or changed; whatever was done stays done.
    """
    counts: dict[str, Counter[Scenario]] = {
        "cleared": Counter(),
        "kept": Counter(),
        "cut": Counter(),
    }
    doomed: list[Connection] = []
    for inbound in stale(table, judge):
        scenarios: Iterable[Scenario] = cleared.get(inbound.port.id, frozenset())
        counts["cleared"].update(scenarios)
        counts["kept" if inbound.decision.allowed else "cut"].update(scenarios)
        deletable = inbound.connection.protocol == TCP and inbound.port.id not in adopting
        if deletable and not inbound.decision.allowed:
            doomed.append(inbound.connection)
    deleted = table.delete(doomed)
    return Swept(**counts, deleted=deleted)
