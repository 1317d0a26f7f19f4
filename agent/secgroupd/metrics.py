"""Numbers about the agent's work, and the application that shows them.

The loop's thread writes, the server's threads read. What is read from the kernel is read when
somebody asks, so that nothing is done for metrics that nobody collects.
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from wsgiref.types import WSGIApplication

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from secgroupd.core.clearing import Cleared, Scenario
from secgroupd.page import Large, Page
from secgroupd.sweeper import Totals

CONNTRACK = Path("/proc/sys/net/netfilter")
"""Where the kernel shows the connection table's size, of the reading thread's namespace."""

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram of cycles, in seconds."""


class Result(StrEnum):
    """How a cycle ended; the values are label values."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    FAILED = "failed"


class PortState(StrEnum):
    """What a port of this host, or an interface, is; the values are label values."""

    ENFORCED = "enforced"
    WAITING = "waiting"
    UNMANAGED = "unmanaged"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What holds now, as opposed to what has been counted.

    ``last_success`` is in seconds of Unix time; None before the first success.
    """

    revision: str = ""
    last_success: float | None = None
    refused: bool = False
    ports: Mapping[PortState, int] = field(default_factory=dict)


class Sweeps(Protocol):
    """Who counts connections."""

    @property
    def totals(self) -> Totals:
        """What has been counted so far."""


class Metrics(Collector):
    """Counts what the loop reports, and shows it in a registry and on a page.

    Args:
        registry: where it is shown; None makes one.
        sweeps: who counts connections.
        traffic: what else the page shows.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        sweeps: Sweeps | None = None,
        traffic: Large | None = None,
    ) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._sweeps, self._traffic = sweeps, traffic
        self._lock = threading.Lock()
        self._snapshot = Snapshot()
        self._results = Counter(dict.fromkeys(Result, 0))
        self._seconds = 0.0
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._repairs = self._drifts = 0
        self._cleared: Counter[str] = Counter()
        self.registry.register(self)

    @property
    def page(self) -> WSGIApplication:
        """The application that answers every request with all metrics."""
        return Page(self.registry, self._traffic)

    def show(self, snapshot: Snapshot) -> None:
        """Take what holds from now on."""
        with self._lock:
            self._snapshot = snapshot

    def count_cycle(self, result: Result, seconds: float, *, repaired: bool = False) -> None:
        """Count a cycle, how long it took, and whether it repaired a drift."""
        with self._lock:
            self._results[result] += 1
            self._seconds += seconds
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
            self._repairs += repaired

    def count_drift(self, changes: int) -> None:
        """Count transactions of others that have touched the agent's tables."""
        with self._lock:
            self._drifts += changes

    def count_cleared(self, cleared: Cleared, local: Iterable[str]) -> None:
        """Count the ports of this host whose connections a change has cleared, by scenario."""
        with self._lock:
            for port_id in local:
                self._cleared.update(each.value for each in cleared.get(port_id, ()))

    def collect(self) -> Iterable[Metric]:
        """Return every metric (called by the registry)."""
        with self._lock:
            found = [*self._cycles(), *self._standing(self._snapshot)]
        connections = () if self._sweeps is None else _connections(self._sweeps.totals)
        return [*found, *connections, *_conntrack()]

    def _cycles(self) -> Iterable[Metric]:
        applied = CounterMetricFamily(
            "secgroupd_apply", "Cycles of comparing and applying, by result.", labels=["result"]
        )
        for result in Result:
            applied.add_metric([result.value], self._results[result])
        yield applied
        total, buckets = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self._buckets, strict=True):
            total += count
            buckets.append((bound, total))
        yield HistogramMetricFamily(
            "secgroupd_apply_duration_seconds",
            "Time from the beginning to the end of a cycle.",
            buckets=buckets,
            sum_value=self._seconds,
        )
        yield CounterMetricFamily(
            "secgroupd_drift_events",
            "Transactions of others that touched the agent's tables, as far as the kernel told.",
            value=self._drifts,
        )
        yield CounterMetricFamily(
            "secgroupd_drift_repairs",
            "Cycles that found the agent's table changed by somebody else and put it right.",
            value=self._repairs,
        )
        cleared = CounterMetricFamily(
            "secgroupd_cleared_ports",
            "Ports of this host whose inbound connections a change had judged again, by reason.",
            labels=["scenario"],
        )
        for scenario, count in sorted(self._cleared.items()):
            cleared.add_metric([scenario], count)
        yield cleared

    @staticmethod
    def _standing(snapshot: Snapshot) -> Iterable[Metric]:
        if snapshot.last_success is not None:
            yield GaugeMetricFamily(
                "secgroupd_last_success_timestamp_seconds",
                "When a cycle last ended with the kernel as it should be, in Unix time.",
                value=snapshot.last_success,
            )
        yield InfoMetricFamily(
            "secgroupd_revision",
            "The revision of the document that is in force; empty for none.",
            value={"revision": snapshot.revision},
        )
        ports = GaugeMetricFamily(
            "secgroupd_ports",
            "Ports of this host by state: enforced, waiting for an interface of their own, or "
            "unmanaged because their port security is switched off.",
            labels=["state"],
        )
        for state in PortState:
            ports.add_metric([state.value], snapshot.ports.get(state, 0))
        yield ports
        yield GaugeMetricFamily(
            "secgroupd_document_refused",
            "1 while the document is refused and the last accepted one stays in force, else 0.",
            value=float(snapshot.refused),
        )


def _connections(totals: Totals) -> Iterable[Metric]:
    for name, counts, text in (
        (
            "cleared",
            totals.cleared,
            "Connections found to be judged again after a change, by reason.",
        ),
        ("kept", totals.kept, "Of the connections cleared, those that the rules still allow."),
        ("cut", totals.cut, "Of the connections cleared, those that the rules deny now."),
    ):
        family = CounterMetricFamily(f"secgroupd_connections_{name}", text, labels=["scenario"])
        for scenario in Scenario:
            family.add_metric([scenario.value], counts.get(scenario, 0))
        yield family
    yield GaugeMetricFamily(
        "secgroupd_sweep_pending",
        "1 while a change waits for its sweep of the connection table, or one has failed.",
        value=float(totals.pending),
    )


def _conntrack() -> Iterable[Metric]:
    for name, file, text in (
        ("entries", "nf_conntrack_count", "Connections that the kernel tracks."),
        ("limit", "nf_conntrack_max", "Connections that the kernel can track."),
    ):
        try:
            value = int((CONNTRACK / file).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        yield GaugeMetricFamily(f"secgroupd_conntrack_{name}", text, value=value)
