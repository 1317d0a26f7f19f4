"""What the daemon does when something has happened: read, decide, enforce, tell.

One thread calls it. It never raises for what an operator or the kernel can cause: that is logged,
shown in the status, and tried again.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from secgroupd.config import Settings
from secgroupd.core.bindings import Bound, Link, bind
from secgroupd.core.document import Parsed, parse
from secgroupd.core.drift import Change
from secgroupd.core.host import Bridging
from secgroupd.core.model import State
from secgroupd.core.nflog import LIVE_GROUP
from secgroupd.core.policy import Policy
from secgroupd.core.uncollected import uncollected
from secgroupd.drops import Drops
from secgroupd.errors import DataplaneError, DocumentError, Problem
from secgroupd.memory import PatientMemory
from secgroupd.metrics import Metrics, PortState, Result, Snapshot
from secgroupd.notify import notify
from secgroupd.reconcile import Outcome, Reconciler
from secgroupd.rundir import write_status
from secgroupd.sources import files
from secgroupd.suspicion import SECONDS, TIMES, Suspicion
from secgroupd.sweeper import Job, Sweeper
from secgroupd.traffic import Traffic

PORTS_NAMED = 5
"""How many of the ports that are held back the error of the status names."""

FATAL = Problem(
    "-",
    1,
    1,
    "document-fatal",
    f"the agent has ended {TIMES} times while it took this document up, which is left alone for "
    f"{SECONDS / 60:.0f} minutes: change it, or look into the journal for what ended the agent",
)

PROBLEMS_LOGGED = 50
"""How many problems of a refused document are logged; ``secgroupctl check`` shows all."""

log = logging.getLogger("secgroupd")


class LinkList(Protocol):
    """The links of this host."""

    def read(self) -> Sequence[Link]:
        """Return every link."""

    def forget(self) -> None:
        """Ask for them the next time, whatever has been told."""


@dataclass(slots=True)
class Guard:
    """Keeps a host enforced.

    Attributes:
        state: what is to be enforced: the newest accepted document.
        problems: why the newest document is refused; empty when it is accepted.
        error: why the last cycle failed; None when it did not.
        guarding: whether ports have been guarded once: by a cycle that went well, or by rules of an
            earlier agent, which stay.
        status: what was told last; replaced as a whole, so that other threads may read it.
    """

    settings: Settings
    reconciler: Reconciler
    memory: PatientMemory
    links: LinkList
    sweeper: Sweeper
    metrics: Metrics
    traffic: Traffic
    drops: Drops
    suspicion: Suspicion
    doubting: Suspicion
    now: Callable[[], float] = time.time
    state: State | None = None
    problems: tuple[Problem, ...] = ()
    error: str | None = None
    guarding: bool = False
    status: Mapping[str, object] = field(default_factory=dict)
    _digest: bytes = b""
    _reading: files.Reading | None = None
    _parsed_before: Parsed | None = None
    _undoubted: Parsed | None = None
    """An accepted document that has not been looked through for what is doubtful in it."""
    _bound: Bound = field(default_factory=lambda: Bound({}, {}))
    _enforced: State | None = None
    _last_success: float | None = None
    _repairs: int = 0
    _held: Mapping[str, str] = field(default_factory=dict)
    _memory_trouble: str | None = None

    def begin(self) -> None:
        """Take up what was in force before, until the document has been read."""
        self.state = self.reconciler.record.accepted
        if self.state is not None:
            log.info("resumed revision=%s", self.state.revision)

    def read(self, *, anew: bool = False, trusting: bool = True) -> None:
        """Read the document, if it has changed (or ``anew``: in any case).

        Args:
            anew: take it up even if it has not.
            trusting: whether a file's times are believed that say that it has not.
        """
        directory, before = self.settings.source_directory, self._reading
        reading = files.read(directory, wary=True, before=before, trusting=trusting)
        self._reading = reading
        if reading.digest == self._digest and not anew:
            return
        self._digest = reading.digest
        try:
            parsed = self._parsed(reading)
        except DocumentError as error:
            self.problems = error.problems
            for problem in error.problems[:PROBLEMS_LOGGED]:
                log.error("document-refused %s", problem)
            log.error(
                "document-refused problems=%d in-force=%s", len(error.problems), self._revision
            )
            return
        self.problems = ()
        self.state = parsed.state
        self._parsed_before = self._undoubted = parsed

    def _parsed(self, reading: files.Reading) -> Parsed:
        if not self.suspicion.taking_up(reading.digest):
            raise DocumentError((FATAL,))
        if reading.problems:
            raise DocumentError(reading.problems)
        before = self._parsed_before
        return parse(reading.sources, limits=self.settings.limits, before=before)

    @property
    def _revision(self) -> str:
        return self._enforced.revision if self._enforced else ""

    def enforce(self) -> bool:
        """Run a cycle; return whether it went well.

        Without any document, neither a new nor a remembered one, what an earlier agent has left in
        the kernel stays as it is; where nothing is, managed interfaces are closed.
        """
        with uncollected():
            well = self._enforce()
        if FATAL not in self.problems:
            self.suspicion.taken_up()
        return well

    def doubt(self) -> None:
        """Tell what is doubtful in a new document; it takes a while, and no change should wait for it."""
        parsed, self._undoubted = self._undoubted, None
        if parsed is None or not self.doubting.taking_up(self._digest):
            return
        for warning in parsed.warnings[:PROBLEMS_LOGGED]:
            log.warning("document-doubtful %s", warning)
        self.doubting.taken_up()

    def _enforce(self) -> bool:
        began = time.monotonic()
        state = self.state or State()
        try:
            if self.state is None and self.reconciler.enforces_something():
                if self.error is None:
                    log.warning("no-document rules=stay")
                self.error = "no document has been accepted; the rules that are there stay"
                self.guarding = True
                self.tell()
                return False
            links, abilities = self.links.read(), self.reconciler.abilities
            bound = bind(Policy(state), self.settings.host_id, links, abilities)
            outcome = self.reconciler.apply(state, bound.bindings, bound.links, bound.present)
        except DataplaneError as error:
            self._failed(error, time.monotonic() - began)
            return False
        self._succeeded(state, bound, outcome, time.monotonic() - began)
        return True

    @property
    def bridges(self) -> str:
        """What becomes of ports on a bridge of this host, in a word."""
        try:
            bridging = self.reconciler.abilities.bridging
        except DataplaneError:
            return "unknown"
        return {
            Bridging.FULL: "enforced",
            Bridging.CLOSED: "closed (nf_conntrack_bridge is missing)",
            Bridging.NONE: "OPEN (nf_tables for bridges is missing)",
        }[bridging]

    def heard(self, changes: Sequence[Change]) -> None:
        """Take what the kernel tells of transactions on the ruleset."""
        self.metrics.count_drift(self.reconciler.heard(changes))

    def resync(self) -> bool:
        """Run a cycle that trusts nothing it knows of the kernel."""
        self.reconciler.forget_kernel()
        self.links.forget()
        self.memory.retry()
        return self.enforce()

    def _failed(self, error: DataplaneError, seconds: float) -> None:
        if str(error) != self.error:
            log.error("apply-failed error=%s", _line(str(error)))
        self.error = str(error)
        self.metrics.count_cycle(Result.FAILED, seconds)
        self._close()
        self.tell()

    def _close(self) -> None:
        """Close what nothing guards, since what should be in force is not."""
        try:
            if self.reconciler.close():
                log.warning("closed reason=nothing-was-in-force")
        except DataplaneError as error:
            if str(error) != self.error:
                log.error("not-closed error=%s", _line(str(error)))

    def _succeeded(self, state: State, bound: Bound, outcome: Outcome, seconds: float) -> None:
        news = bool(outcome.plan) or state != self._enforced or self.error is not None
        news = news or outcome.held != self._held
        waiting = bound.waiting.items() - self._bound.waiting.items()
        self.error = _held_back(outcome)
        self.guarding = True
        if outcome.held != self._held:
            for port_id, reason in outcome.held.items():
                log.error("port-held-back port=%s reason=%s", port_id, _line(reason))
        self._held = outcome.held
        bound = replace(bound, waiting={**bound.waiting, **outcome.held})
        # A port that waits no longer may have changed nothing: its rules were there before it.
        news = news or bound.waiting != self._bound.waiting
        self._bound, self._enforced = bound, self.state
        self._last_success = self.now()
        self._repairs += outcome.drift
        result = Result.CHANGED if outcome.plan else Result.UNCHANGED
        self.metrics.count_cycle(result, seconds, repaired=outcome.drift)
        self.metrics.count_cleared(outcome.cleared, bound.bindings)
        self.traffic.show(outcome.policy, bound.bindings)
        self.drops.show(outcome.policy, bound.bindings)
        self.drops.logging(in_force=LIVE_GROUP in self.reconciler.logging.denied)
        if outcome.plan or outcome.cleared or outcome.arrived or outcome.vacated:
            job = Job(
                outcome.policy,
                outcome.generations,
                bound.bindings,
                outcome.cleared,
                outcome.arrived,
                outcome.vacated,
            )
            self.sweeper.submit(job)
        if outcome.plan:
            log.info(
                "applied revision=%s commands=%d ports=%d cleared=%d seconds=%.3f%s",
                state.revision,
                sum(len(part) for part in outcome.plan.transactions),
                len(bound.bindings),
                len(outcome.cleared.keys() & bound.bindings.keys()),
                seconds,
                _repaired(outcome),
            )
        for port_id, reason in sorted(waiting):
            log.info("port-waiting port=%s reason=%s", port_id, reason)
        if self.memory.trouble != self._memory_trouble:
            self._memory_trouble = self.memory.trouble
            news = True
            if self.memory.trouble:
                log.warning("record-not-kept error=%s", self.memory.trouble)
            else:
                log.info("record-kept")
        if news:
            self.tell()

    def tell(self) -> None:
        """Show how things are: in the status, the metrics and, in a line, to systemd."""
        ports = self._ports()
        states = list(ports.values())
        self.metrics.show(
            Snapshot(
                revision=self._revision,
                last_success=self._last_success,
                refused=bool(self.problems),
                ports={state: states.count(state) for state in PortState},
            )
        )
        self.status = {
            "revision": self._revision,
            "healthy": self.error is None and not self.problems,
            "error": self.error,
            "problems": [str(problem) for problem in self.problems[:PROBLEMS_LOGGED]],
            "ports": {
                port_id: {"state": state.value, "reason": self._bound.waiting.get(port_id)}
                for port_id, state in ports.items()
            },
            "generation": self.reconciler.record.generations.current,
            "drift_repairs": self._repairs,
            "last_success": self._last_success,
            "record_trouble": self.memory.trouble,
        }
        try:
            write_status(self.settings.run_dir, self.status)
        except OSError as error:
            log.warning("status-not-written error=%s", error)
        notify(f"STATUS={_line(self._summary(states.count(PortState.ENFORCED)))}")

    def _summary(self, ports: int) -> str:
        said = []
        if self.problems:
            more = len(self.problems) - 1
            said.append(
                f"document refused: {self.problems[0]}{f' and {more} more' if more else ''}"
            )
        if self.error is not None:
            said.append(f"error: {self.error}")
        if self._enforced:
            said.append(f"in force: revision {self._revision}, {ports} ports enforced")
        elif self.guarding and self.error is None:
            said.append("no document was ever accepted: managed interfaces are closed")
        return "; ".join(said)

    def _ports(self) -> dict[str, PortState]:
        if self._enforced is None:
            return {}
        found = dict.fromkeys(self._bound.waiting, PortState.WAITING)
        for instance in self._enforced.instances:
            for port in instance.ports:
                if port.id in self._bound.bindings and port.id not in found:
                    secure = port.port_security_enabled
                    found[port.id] = PortState.ENFORCED if secure else PortState.UNMANAGED
        return dict(sorted(found.items()))


def _held_back(outcome: Outcome) -> str | None:
    if not outcome.held:
        return None
    ports = ", ".join(list(outcome.held)[:PORTS_NAMED])
    more = len(outcome.held) - PORTS_NAMED
    return (
        f"the kernel refuses rules of {len(outcome.held)} ports, which are closed: {ports}"
        f"{f' and {more} more' if more > 0 else ''}"
    )


def _line(text: str) -> str:
    return text.replace("\n", " | ")


def _repaired(outcome: Outcome) -> str:
    if not outcome.drift:
        return ""
    return f" drift-repaired by={','.join(dict.fromkeys(map(str, outcome.culprits))) or 'unknown'}"
