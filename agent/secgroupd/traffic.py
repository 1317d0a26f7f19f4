"""Metrics of the packets: what each port was allowed and denied, and how often each rule decided.

Everything is read from the kernel when somebody asks, in one pass, and at most once a second,
whoever asks how often.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from secgroupd.core import names
from secgroupd.core.counts import Carried, Count, Counts, Place, Tally
from secgroupd.core.draft import Binding
from secgroupd.core.model import Direction, Family, Rule, State
from secgroupd.core.policy import OrderedRule, Policy
from secgroupd.core.wording import matches
from secgroupd.errors import DataplaneError
from secgroupd.page import LargeFamily

FRESH_SECONDS = 1.0
"""For how long a reading counts as of now: what bounds the cost of readers in a hurry."""

log = logging.getLogger("secgroupd.metrics")


class Kernel(Protocol):
    """Who has counted."""

    def counts(self) -> Counts:
        """Return what the tables have counted."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Who can be counted: the rules and ports of this host."""

    policy: Policy
    bindings: Mapping[str, Binding]

    def rules(self) -> Iterator[OrderedRule]:
        """Yield each rule that judges a port here once, in order of groups and evaluation."""
        ports = (self.policy.ports[port_id] for port_id in self.bindings)
        judged = (port for port in ports if port.port_security_enabled)
        groups = {group: None for port in judged for group in self.policy.groups_of(port)}
        for group in sorted(groups):
            for direction in Direction:
                for family in Family:
                    yield from self.policy.rules([group], direction, family)


@dataclass(frozen=True, slots=True)
class Hits:
    """The packets that a rule has decided: first ones of connections, and those judged again."""

    group_id: str
    rule: Rule
    count: Count

    def as_json(self) -> Mapping[str, object]:
        """Return it as ``secgroupctl rules --json`` prints it."""
        return {
            "security_group": self.group_id,
            "rule": self.rule.id,
            "direction": self.rule.direction.value,
            "ethertype": f"IPv{self.rule.family.version}",
            "priority": self.rule.priority,
            "action": self.rule.action.value,
            "matches": matches(self.rule),
            "packets": self.count.packets,
            "bytes": self.count.bytes,
        }


@dataclass(slots=True)
class _Flow:
    """The totals of one direction, by port."""

    denied: Tally[str] = field(default_factory=Tally)
    carried: Tally[str] = field(default_factory=lambda: Tally(from_now=True))
    dropped: Tally[str] = field(default_factory=lambda: Tally(from_now=True))
    """What the agent has dropped of what was carried."""
    allowed: dict[str, Count] = field(default_factory=dict)

    def take(
        self,
        denied: Mapping[Place, Count],
        dropped: Mapping[Place, Count],
        carried: Mapping[Place, Count],
        owners: Mapping[str, str],
    ) -> None:
        self.denied.take(denied, owners)
        self.dropped.take(dropped, owners)
        self.carried.take(carried, owners)
        there = {name for _, name in carried}
        self.allowed = {
            port: self._passed(port).most(self.allowed.get(port, Count()))
            for name, port in owners.items()
            if name in there
        }

    def _passed(self, port: str) -> Count:
        return self.carried.totals[port].less(self.dropped.totals[port])


class Traffic(Collector):
    """Reads the kernel's counters, and keeps totals by port and by rule.

    Args:
        open_kernel: opens the tables' counters, in the thread that asks, for it alone.
        read_carried: reads what interfaces have carried, in the thread that asks.
    """

    def __init__(
        self,
        open_kernel: Callable[[], AbstractContextManager[Kernel]],
        read_carried: Callable[[], Mapping[str, Carried]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_rule = True
        self._open_kernel, self._read_carried, self._now = open_kernel, read_carried, now
        self._lock = threading.Lock()
        self._scene = Scene(Policy(State()), {})
        self._rules: tuple[Scene, Mapping[str, OrderedRule]] = (self._scene, {})
        self._hits: Tally[str] = Tally()
        self._spoofs: Tally[str] = Tally()
        self._flows = {direction: _Flow() for direction in Direction}
        self._read_at = float("-inf")
        self._trouble = False

    def show(self, policy: Policy, bindings: Mapping[str, Binding]) -> None:
        """Take who is counted from now on."""
        self._scene = Scene(policy, bindings)

    def hits(self) -> Sequence[Hits]:
        """Return what each rule that judges a port here has decided, in order of evaluation.

        Raises:
            DataplaneError: the counters could not be read.
        """
        with self._lock:
            rules = self._read()
            totals = self._hits.totals
            return [Hits(r.group_id, r.rule, totals[name]) for name, r in rules.items()]

    def families(self) -> Sequence[LargeFamily]:
        """Return what has been counted, for a page; nothing when the kernel cannot be read."""
        with self._lock:
            try:
                rules = self._read()
            except DataplaneError as error:
                if not self._trouble:
                    log.warning("counters-unread error=%s", error)
                self._trouble = True
                return []
            self._trouble = False
            return [self._dropped(), *self._ports(), *self._by_rule(rules)]

    def collect(self) -> Iterable[Metric]:
        """Return the same for a registry, which takes longer to write it."""
        return [metric for family in self.families() for metric in family.collect()]

    def _read(self) -> Mapping[str, OrderedRule]:
        """Bring the totals up to now; return the rules by the names of their counters."""
        scene = self._scene
        if self._rules[0] is not scene:
            named = {names.counter(r.group_id, r.rule.id): r for r in scene.rules()}
            self._rules = scene, named
            self._read_at = float("-inf")
        rules = self._rules[1]
        if self._now() - self._read_at < FRESH_SECONDS:
            return rules
        try:
            with self._open_kernel() as kernel:
                counts = kernel.counts()
            # After what was dropped: what is carried meanwhile may count too early, never twice.
            interfaces = self._read_carried()
        except OSError as error:
            raise DataplaneError(str(error)) from error
        ports = {binding.interface: port_id for port_id, binding in scene.bindings.items()}
        self._hits.take(counts.rules, {name: name for name in rules})
        self._spoofs.take(counts.spoofs, ports)
        dropped = {(f"spoofs {family}", name): c for (family, name), c in counts.spoofs.items()}
        self._flows[Direction.EGRESS].take(
            counts.denied_from,
            {**counts.denied_from, **dropped},
            {("", name): one.received for name, one in interfaces.items()},
            ports,
        )
        self._flows[Direction.INGRESS].take(
            counts.denied_to, {}, {("", name): one.sent for name, one in interfaces.items()}, ports
        )
        self._read_at = self._now()
        return rules

    def _dropped(self) -> LargeFamily:
        totals = sorted(self._spoofs.totals.items())
        return LargeFamily(
            "secgroupd_source_check_drops",
            "Packets and ARP messages that a port sent in another's name.",
            {"port": [port for port, _ in totals]},
            [count.packets for _, count in totals],
        )

    def _ports(self) -> Iterator[LargeFamily]:
        labels: dict[str, list[str]] = {"port": [], "direction": [], "verdict": []}
        counts: list[Count] = []
        for direction, flow in self._flows.items():
            for verdict, totals in (("allow", flow.allowed), ("deny", flow.denied.totals)):
                ports = sorted(totals)
                labels["port"] += ports
                labels["direction"] += [direction.value] * len(ports)
                labels["verdict"] += [verdict] * len(ports)
                counts += [totals[port] for port in ports]
        for unit, text, numbers in (
            ("packets", "Packets", [count.packets for count in counts]),
            ("bytes", "Bytes", [count.bytes for count in counts]),
        ):
            yield LargeFamily(
                f"secgroupd_port_{unit}",
                f"{text} to a port (ingress) and from it (egress) that the rules denied, and of "
                "all that its interface carried, those that were allowed, ARP included.",
                labels,
                numbers,
            )

    def _by_rule(self, rules: Mapping[str, OrderedRule]) -> Iterator[LargeFamily]:
        if not self.per_rule:
            return
        totals = self._hits.totals
        yield LargeFamily(
            "secgroupd_rule_hits",
            "Packets that a rule has decided: first packets of connections, and those that were "
            "judged again.",
            {
                "security_group": [ordered.group_id for ordered in rules.values()],
                "rule": [ordered.rule.id for ordered in rules.values()],
                "direction": [ordered.rule.direction.value for ordered in rules.values()],
            },
            [totals[name].packets for name in rules],
        )
