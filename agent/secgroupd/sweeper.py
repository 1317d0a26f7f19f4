"""Sweeps the connection table in the background, so that no change waits for it.

One thread, one job: the newest state of affairs. A job that comes while a sweep is under way waits;
one that comes while another waits takes its place, with the ports of both. Without a job, a sweep
is repeated now and then for what an earlier one had to leave.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from secgroupd.core.clearing import Cleared, Scenario
from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Judge, Place
from secgroupd.errors import DataplaneError
from secgroupd.sweep import Swept, Table, part_with, sweep, welcome

REPEAT_SECONDS = 300.0
"""Time between sweeps without a change; they only tidy."""

RETRY_SECONDS = 5.0
"""Time until a sweep that failed is tried again."""

log = logging.getLogger("secgroupd.sweeper")


class Adoption(Protocol):
    """Who knows which interfaces are in their time of grace."""

    def adopting(self) -> Collection[str]:
        """Return their names."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is in force, and the ports that have been cleared since the last sweep."""

    policy: Policy
    generations: Generations
    bindings: Mapping[str, Binding]
    cleared: Cleared
    arrived: frozenset[str] = frozenset()
    """Ids of the ports that this host did not have at the last sweep."""
    vacated: frozenset[Place] = frozenset()
    """Where ports of this host were then and are not any more."""

    def after(self, earlier: "Job | None") -> "Job":
        """Return this job with what is to be done for the changes of one that it replaces."""
        if earlier is None:
            return self
        merged = dict(earlier.cleared)
        for port_id, scenarios in self.cleared.items():
            merged[port_id] = merged.get(port_id, frozenset()) | scenarios
        return replace(
            self,
            cleared=merged,
            arrived=self.arrived | earlier.arrived,
            vacated=self.vacated | earlier.vacated,
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """Connections since the start of the process, by the row of the clearing table."""

    cleared: Mapping[Scenario, int] = field(default_factory=dict)
    kept: Mapping[Scenario, int] = field(default_factory=dict)
    cut: Mapping[Scenario, int] = field(default_factory=dict)
    pending: bool = False
    """Whether a change waits for its sweep, or a sweep has failed."""

    def plus(self, swept: Swept) -> "Totals":
        """Return the totals after one more sweep."""
        return Totals(
            Counter(self.cleared) + Counter(swept.cleared),
            Counter(self.kept) + Counter(swept.kept),
            Counter(self.cut) + Counter(swept.cut),
        )


class Sweeper:
    """The background thread.

    Args:
        open_table: opens the connection table, in the background thread, for one sweep.
        open_adoption: likewise, what knows the interfaces in their time of grace.
    """

    def __init__(
        self,
        open_table: Callable[[], AbstractContextManager[Table]],
        open_adoption: Callable[[], AbstractContextManager[Adoption]],
    ) -> None:
        self._open_table, self._open_adoption = open_table, open_adoption
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._last: Job | None = None
        self._failed = False
        self._stopping = False
        self._totals = Totals()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the sweep under way, if any, for which it waits a little."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def submit(self, job: Job) -> None:
        """Hand over what is in force now; returns at once."""
        with self._changed:
            self._waiting = job.after(self._waiting)
            self._changed.notify()

    @property
    def totals(self) -> Totals:
        """What has been counted so far."""
        with self._changed:
            return replace(self._totals, pending=self._failed or self._waiting is not None)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._sweep(job)
            except DataplaneError as error:
                log.warning("sweep-failed error=%s", error)
                with self._changed:
                    self._failed = True
                    self._waiting = self._waiting.after(job) if self._waiting else job

    def _next(self) -> Job | None:
        """Wait for a job; without one, return the last when it is time to repeat it."""
        with self._changed:
            if self._failed:
                self._changed.wait_for(lambda: self._stopping, timeout=RETRY_SECONDS)
            elif self._last is None:
                self._changed.wait_for(lambda: self._stopping or self._waiting)
            else:
                self._changed.wait_for(
                    lambda: self._stopping or self._waiting, timeout=REPEAT_SECONDS
                )
            if self._stopping:
                return None
            job, self._waiting = self._waiting or self._last, None
            return job

    def _sweep(self, job: Job) -> None:
        with self._open_adoption() as adoption:
            grace = adoption.adopting()
        spared = {port_id for port_id, b in job.bindings.items() if b.interface in grace}
        with self._open_table() as table:
            judge = Judge(job.policy, job.generations, job.bindings)
            part_with(table, job.vacated)
            welcome(table, judge, job.arrived)
            swept = sweep(table, judge, job.cleared, spared)
        with self._changed:
            self._totals = self._totals.plus(swept)
            self._last = replace(job, cleared={}, arrived=frozenset(), vacated=frozenset())
            self._failed = False
        for scenario in sorted(swept.cleared):
            log.info(
                "connections-cleared scenario=%s cleared=%d kept=%d cut=%d",
                scenario,
                swept.cleared[scenario],
                swept.kept.get(scenario, 0),
                swept.cut.get(scenario, 0),
            )
