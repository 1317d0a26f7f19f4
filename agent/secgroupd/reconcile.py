"""One cycle: what should be, what is, the difference as one transaction, read back.

The only place where deciding (``core``) and doing (``dataplane``) meet. It owns the interfaces that
it needs; ``cli`` and ``daemon`` hand in the adapters. A cycle may die at any line: before the
transaction the *intent* is kept, after it the result, so that the next cycle clears whatever either
of them clears, and the ruleset itself is always computed from what is in force now.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from secgroupd.core import clearing, origins
from secgroupd.core.clearing import Cleared
from secgroupd.core.compiler import compile_host
from secgroupd.core.draft import Binding
from secgroupd.core.drift import Change
from secgroupd.core.holding import ports_behind
from secgroupd.core.host import FAMILIES, Abilities, Bridging, Generations, Host
from secgroupd.core.kept import Kept
from secgroupd.core.marks import LAST_GENERATION
from secgroupd.core.model import Clearing, State, Timeout
from secgroupd.core.names import ADOPTING, FROM_PORT, TO_PORT
from secgroupd.core.nflog import SILENT, Logging
from secgroupd.core.plan import Known, Line, Observed, Plan, combined, diff, expected, removal
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import TABLE, Ruleset, quotable, quoted
from secgroupd.core.tracked import Judge, Place, vacated
from secgroupd.core.zones import zones
from secgroupd.errors import (
    DataplaneError,
    NotCommitted,
    NotConverged,
    OutcomeUnknown,
    TransactionRefused,
)

GENERATION_EPOCH = 1_600_000_000
"""Second (Unix time) from which generations are counted. A generation is never below the seconds
since then, so that one made after every record was lost is younger than any stamp that is left."""

LAST_BY_CLOCK = LAST_GENERATION - (1 << 28)
"""The greatest generation that a clock may tell (2046): one that is wrong by decades would tell one that no
mark can hold, which a record would keep when it is right again. From here on they are counted."""

TOUCHED_ALONE = 500
"""Up to how many chains and sets are read back by themselves rather than with the whole table."""

SUSPECTS = 4
"""How many of those who changed our tables last are remembered until the next cycle names them."""

COMMIT_TRIES = 3
"""How often a transaction of unknown outcome is read back and tried again within a cycle."""


class Kernel(Protocol):
    """The table in the kernel."""

    def observe(self, family: str = "inet", before: Observed | None = None) -> Observed | None:
        """Return the table of a family, or None when there is none.

        ``before`` is what was known of it, or what it should be, which spares work and memory where it
        is so.
        """

    def reobserve(self, known: Observed, plan: Plan, family: str = "inet") -> Observed:
        """Return a table, of which only what a plan touches has changed since it was known."""

    def abilities(self) -> Abilities:
        """Return what the kernel can do."""

    def generation(self) -> int:
        """Return a number that every change of any table raises."""

    def owning(self) -> bool:
        """Tell whether tables can be had that nobody else can change."""

    def commit(self, plan: Plan) -> None:
        """Make a plan true in one transaction, or raise and change nothing."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered from one cycle to the next, and over restarts.

    ``accepted`` is in force. ``intended`` was about to be committed when the record was written,
    and may or may not be in force; None when the commit is known.
    """

    accepted: State | None = None
    intended: State | None = None
    generations: Generations = field(default_factory=lambda: Generations(0, 0))
    bindings: Mapping[str, Binding] = field(default_factory=dict)
    links: Mapping[str, int] | None = None
    """Index of the link of each port that had one; None where that is not known."""
    left: tuple[int, ...] = ()
    """Indices of links that ports have left, and that were here still."""


class Memory(Protocol):
    """Where the record is kept."""

    def load(self) -> Record:
        """Return the record; an empty one when there is none that can be read."""

    def save(self, record: Record) -> None:
        """Keep a record."""


class Forgetful:
    """A memory that lasts as long as its object."""

    def __init__(self) -> None:
        self._record = Record()

    def load(self) -> Record:
        """Return what was saved last."""
        return self._record

    def save(self, record: Record) -> None:
        """Keep a record."""
        self._record = record


@dataclass(frozen=True, slots=True)
class Proposal:
    """A cycle that has been thought through and not yet done."""

    policy: Policy
    tables: Mapping[str, Ruleset]
    plan: Plan
    cleared: Cleared
    record: Record
    came: frozenset[str]
    """Ports that were not here in the cycle before, or had another link, or none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cycle did."""

    revision: str
    policy: Policy
    plan: Plan
    cleared: Cleared
    generations: Generations
    drift: bool
    """Whether the kernel had something else than what the cycle before had left."""
    culprits: tuple[Change, ...] = ()
    """Who may have changed it, as far as the kernel has told."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Ports that are closed because the kernel refuses what is theirs, and what it says."""
    arrived: frozenset[str] = frozenset()
    """Ports that have come since the cycle before; none where nothing is known of that."""
    vacated: frozenset[Place] = frozenset()
    """Where ports were in the cycle before and are not any more."""


@dataclass(slots=True)
class Reconciler:
    """Keeps one host's tables equal to one document; a single thread calls it."""

    kernel: Kernel
    memory: Memory = field(default_factory=Forgetful)
    managed: tuple[str, ...] = ("tap*", "vnet*")
    mode: Clearing = Clearing.DOCUMENTED
    grace: int = 60
    """Seconds in which a port that has come to this host may continue TCP connections that nobody
    has tracked: those it had before the agent came, or before it came to this host."""
    timeouts: Mapping[Timeout, int] = field(default_factory=dict)
    logging: Logging = SILENT
    protect: bool = False
    """Whether nobody else is to be able to change the tables, where kernel and nft can have that."""
    now: Callable[[], float] = time.time
    _record: Record | None = None
    _known: Mapping[str, Observed] | None = None
    _known_before: Mapping[str, Observed] = field(default_factory=dict)
    """What was known before it was forgotten."""
    _known_at: int = -1
    _equal: Mapping[str, Known] = field(default_factory=dict)
    """By family, the ruleset that the known table was found to be equal to."""
    _kept: Kept = field(default_factory=Kept)
    _policies: tuple[Policy, ...] = ()
    """Those of the last states, whose derived views need not be computed again."""
    _distrusted: bool = False
    _suspects: tuple[Change, ...] = ()
    _held: Mapping[str, str] = field(default_factory=dict)
    _held_for: State | None = None
    _abilities: Abilities | None = None
    _owning: bool | None = None

    @property
    def record(self) -> Record:
        """What is remembered."""
        if self._record is None:
            self._record = self.memory.load()
        return self._record

    def propose(
        self,
        state: State,
        bindings: Mapping[str, Binding],
        links: Mapping[str, int] | None = None,
        present: AbstractSet[int] = frozenset(),
    ) -> Proposal:
        """Think a cycle through: nothing is changed, in the kernel or in memory.

        Args:
            state: the document to enforce.
            bindings: the ports that live on this host, by id.
            links: the indices of their links, of those that are there; None where nobody knows.
            present: the indices of all links of the host.
        """
        policy = self._policy(state)
        cleared = self._cleared(policy)
        came = _came(self.record, bindings, links)
        generations = self._generations(bindings, cleared, came)
        kept = self._kept.next()
        left = _left(self.record, links, present)
        tables = compile_host(policy, self.host(bindings, left), generations, kept)
        self._kept = kept
        plan = self._difference(tables)
        if plan:
            plan = replace(plan, lines=(*plan.lines, *self._adoption(policy, bindings, came)))
        record = Record(state, None, generations, dict(bindings), links, left)
        return Proposal(policy, tables, plan, cleared, record, came)

    @property
    def abilities(self) -> Abilities:
        """What the kernel can do; it is asked once.

        Raises:
            DataplaneError: it could not be asked.
        """
        if self._abilities is None:
            # Should it fail, what others do from here on is a reason to ask again before it is time.
            self._known_at = self.kernel.generation()
            self._abilities = self.kernel.abilities()
        return self._abilities

    def _difference(self, tables: Mapping[str, Ruleset]) -> Plan:
        observed = self._observed(tables)
        plan = difference(tables, observed, owned=self._owned(), known=self._equal)
        if not plan:
            self._equal = {family: Known(table) for family, table in tables.items()}
        return plan

    def _owned(self) -> bool:
        """Tell whether tables that are made now are to be the writer's alone."""
        if self.protect and self._owning is None:
            self._owning = self.kernel.owning()
        return self.protect and bool(self._owning)

    def _policy(self, state: State) -> Policy:
        found = next((one for one in self._policies if one.state is state), None)
        policy = found or Policy(state)
        self._policies = (policy, *(one for one in self._policies if one is not policy))[:2]
        return policy

    def host(self, bindings: Mapping[str, Binding], left: Iterable[int] = ()) -> Host:
        """Return what the compiler must know of the host with these ports, and of links without theirs."""
        held = frozenset(self._held)
        return Host(
            bindings,
            self.managed,
            self.timeouts,
            self.abilities,
            held,
            self.logging,
            frozenset(left),
        )

    def apply(
        self,
        state: State,
        bindings: Mapping[str, Binding],
        links: Mapping[str, int] | None = None,
        present: AbstractSet[int] = frozenset(),
    ) -> Outcome:
        """Run a cycle: afterwards the kernel has the document's ruleset and nothing else is there.

        Arguments are those of ``propose``.

        Raises:
            TransactionRefused: the kernel refused it and is unchanged.
            OutcomeUnknown: the writer failed every time.
            NotConverged: the kernel shows something else than what was committed.
            DataplaneError: the kernel could not be read.
        """
        generation = self.kernel.generation()
        drift = self._known is not None and generation != self._known_at
        if self._distrusted or state != self._held_for:
            self._held, self._held_for = {}, state
        if drift or self._distrusted:
            self._forget()
            self._distrusted = False
        before = self.record
        proposal = self._proposed_and_committed(state, bindings, links, present)
        if not proposal.plan:
            self._known_at = generation
        if proposal.record != self.record:
            self._save(proposal.record)
        drifted = drift and bool(proposal.plan) and before.accepted == state
        suspects, self._suspects = self._suspects, ()
        return Outcome(
            state.revision,
            proposal.policy,
            proposal.plan,
            proposal.cleared,
            proposal.record.generations,
            drifted,
            suspects if drifted else (),
            dict(self._held),
            proposal.came if _remembers(before) else frozenset(),
            self._vacated(before, proposal),
        )

    def _vacated(self, before: Record, done: Proposal) -> frozenset[Place]:
        after = done.record
        if before.accepted is None or (before.accepted, before.bindings) == (
            after.accepted,
            after.bindings,
        ):
            return frozenset()
        policy = self._policy(before.accepted)
        return vacated(
            Judge(policy, before.generations, before.bindings),
            Judge(done.policy, after.generations, after.bindings),
        )

    def _proposed_and_committed(
        self,
        state: State,
        bindings: Mapping[str, Binding],
        links: Mapping[str, int] | None,
        present: AbstractSet[int],
    ) -> Proposal:
        """Commit what is to be done; ports whose lines the kernel refuses are held back for it.

        Not for a first refusal: the kernel may have been other than what was known of it.
        """
        refused = False
        while True:
            proposal = self.propose(state, bindings, links, present)
            if not proposal.plan:
                return proposal
            self._intend(state, proposal)
            try:
                self._commit(proposal)
            except TransactionRefused as error:
                others = bindings.keys() - self._held
                to_blame = ports_behind(proposal.policy, others, error.origins)
                if not to_blame:
                    raise
                if not refused:
                    refused = True
                    continue
                self._held = {**self._held, **dict.fromkeys(sorted(to_blame), str(error))}
            else:
                return proposal

    def _intend(self, state: State, proposal: Proposal) -> None:
        """Keep what is about to be committed, where it matters to the next cycle."""
        before = self.record
        stamped = proposal.record.generations != before.generations
        if stamped or before.accepted != state:
            # A generation that may have been stamped is never given again.
            # Only the number is taken over: what the commit would have made true is made again.
            number = proposal.record.generations.current
            generations = replace(before.generations, current=number)
            intent = replace(before, intended=state, generations=generations)
            if before.intended is not None and before.intended != state:
                # Either of two documents may be in force by now: the next cycle trusts neither.
                intent = replace(intent, accepted=None)
            self._save(intent)

    def enforces_something(self) -> bool:
        """Tell whether tables of the agent judge packets, whoever made them.

        Raises:
            DataplaneError: the kernel could not be read.
        """
        return not self._unguarded()

    def close(self) -> bool:
        """Close managed interfaces to the packets that no table of the agent judges.

        Tables that judge stay as they are: they know more. No record is left of it, for an empty
        document that nobody wrote must not count as accepted.

        Returns:
            Whether anything had to be closed.

        Raises:
            DataplaneError: the kernel could not be read, or refuses even that.
        """
        unguarded = self._unguarded()
        if not unguarded:
            return False
        closing = compile_host(Policy(State()), self.host({}), Generations(0, 0))
        known = {family: table for family, table in self._observed().items() if family in unguarded}
        wanted = {family: closing[family] for family in unguarded}
        plan = difference(wanted, known, owned=self._owned())
        self._forget()
        self.kernel.commit(plan)
        return True

    def _unguarded(self) -> list[str]:
        """Return the families of which no table judges packets."""
        if self.kernel.generation() != self._known_at:
            self._forget()
        needed = ["inet"] if self.abilities.bridging is Bridging.NONE else ["inet", "bridge"]
        observed = self._observed()
        return [family for family in needed if not _judges(observed.get(family))]

    def heard(self, changes: Iterable[Change]) -> int:
        """Take what the kernel tells of transactions; return how many of others touched our tables.

        Those that touched none of them need no look at the tables: the known generation moves on.
        """
        touched = 0
        for change in changes:
            number = change.generation
            if number is not None and number <= self._known_at:
                continue
            if number == self._known_at + 1 and not change.ours:
                self._known_at = number
            elif change.ours and number is not None:
                touched += 1
                self._suspects = (*self._suspects, change)[-SUSPECTS:]
        return touched

    def disturbed(self) -> bool:
        """Tell whether anybody has changed any table since the last cycle.

        False when the kernel cannot be asked, which the next cycle will say.
        """
        try:
            return self.kernel.generation() != self._known_at
        except DataplaneError:
            return False

    def forget_kernel(self) -> None:
        """Read the whole table again in the next cycle, whatever its generation says."""
        self._distrusted = True

    def _save(self, record: Record) -> None:
        self.memory.save(record)
        self._record = record

    def _forget(self) -> None:
        if self._known is not None:
            self._known_before, self._known = self._known, None

    def _observed(
        self, tables: Mapping[str, Ruleset] = MappingProxyType({})
    ) -> Mapping[str, Observed]:
        """Return what the kernel has: what is known, or what is read now.

        Args:
            tables: what it should have. What it has is as large, and is held as the same objects.
        """
        if self._known is None:
            self._equal = {}
            self._known_at = self.kernel.generation()
            known, self._known_before = self._known_before, {}
            before = {f: expected(table) for f, table in tables.items() if f not in known}
            before |= known
            seen = {family: self.kernel.observe(family, before.get(family)) for family in FAMILIES}
            self._known = {family: table for family, table in seen.items() if table is not None}
        return self._known

    def _cleared(self, after: Policy) -> Cleared:
        record = self.record
        if record.accepted is None:
            return clearing.everything(after)
        found: dict[str, frozenset[clearing.Scenario]] = {}
        for before in (record.accepted, record.intended):
            if before is None or before == after.state:
                continue
            rows = clearing.strict if self.mode is Clearing.STRICT else clearing.documented
            for port_id, scenarios in rows(self._policy(before), after).items():
                found[port_id] = found.get(port_id, frozenset()) | scenarios
        return found

    def _generations(
        self, bindings: Mapping[str, Binding], cleared: Cleared, came: AbstractSet[str]
    ) -> Generations:
        """Return the generations after a change: younger where it clears, the same where not.

        An interface that another port has now, or none, makes every stamp be looked at again,
        since a fresh one would pass without its interface being asked for.
        """
        old = self.record.generations
        asked = {port_id for port_id in cleared if port_id in bindings} | came
        moved = dict(bindings) != dict(self.record.bindings)
        if not asked and not moved and old.mode is self.mode:
            return old
        told = min(int(self.now()) - GENERATION_EPOCH, LAST_BY_CLOCK)
        current = max(old.current + 1, told)
        kept = {i: number for i, number in old.minimum.items() if i in bindings}
        if old.mode is not self.mode:
            # What strict clearing has let through was stamped without regard to generations.
            asked = set(bindings)
        minimum = {**kept, **dict.fromkeys(sorted(asked), current)}
        return Generations(current, current, minimum, self.mode)

    def _adoption(
        self, policy: Policy, bindings: Mapping[str, Binding], came: AbstractSet[str]
    ) -> tuple[Line, ...]:
        """Return lines that let ports go on with what they were doing before anybody tracked it.

        Ports that have come, and those whose VPC is tracked in another zone now.
        """
        if not self.grace or not self.abilities.tracking:
            return ()
        accepted = self.record.accepted
        before = self._policy(accepted) if accepted is not None else None
        old, new = zones(before, self._local(before)) if before else {}, zones(policy, bindings)
        moved = {vpc_id for vpc_id, number in new.items() if old.get(vpc_id, number) != number}
        return tuple(
            Line(
                f"add element {'bridge' if binding.bridge else 'inet'} {TABLE} {ADOPTING} "
                f"{{ {quoted(binding.interface)} timeout {self.grace}s }}",
                origins.port(port_id),
            )
            for port_id, binding in sorted(bindings.items())
            if (port_id in came or policy.ports[port_id].vpc_id in moved)
            and quotable(binding.interface)
            and (binding.bridge is None or self.abilities.bridging is Bridging.FULL)
        )

    def _local(self, policy: Policy) -> list[str]:
        """Return the ports of a policy that were here in the cycle before."""
        return [port_id for port_id in self.record.bindings if port_id in policy.ports]

    def _commit(self, proposal: Proposal) -> None:
        plan = proposal.plan
        for attempt in range(1, COMMIT_TRIES + 1):
            before, self._known = self._known, None
            expected_at = self._known_at + len(plan.transactions)
            try:
                self.kernel.commit(plan)
            except NotCommitted as error:
                # What it has prepared is not taken for somebody else's doing, which would be a
                # reason to try again at once.
                self._known_at += error.made
                if attempt == COMMIT_TRIES or not isinstance(error, OutcomeUnknown):
                    raise
            else:
                self._read_back(before, plan, expected_at, proposal.tables.keys())
            plan = self._difference(proposal.tables)
            if not plan:
                return
            # Elements that come and go by themselves are not read back: they are sent again.
            again = self._adoption(proposal.policy, proposal.record.bindings, proposal.came)
            plan = replace(plan, lines=(*plan.lines, *again))
        rest = [line.text for lines in plan.transactions for line in lines]
        raise NotConverged(
            "the transaction was committed, and the kernel shows something else: "
            f"{len(rest)} commands would put it right, first {rest[0][:100]!r}"
        )

    def _read_back(
        self,
        before: Mapping[str, Observed] | None,
        plan: Plan,
        expected_at: int,
        families: AbstractSet[str],
    ) -> None:
        """Read what a small plan has touched, if nobody else has changed anything meanwhile."""
        if before is None or before.keys() != families or len(plan.touched) > TOUCHED_ALONE:
            return
        touched = {family for family, _ in plan.touched}
        known = {
            family: self.kernel.reobserve(table, plan, family) if family in touched else table
            for family, table in before.items()
        }
        if self.kernel.generation() == expected_at:
            self._known, self._known_at = known, expected_at
            self._equal = {
                family: Known(one.ruleset, one.touched | plan.touched_in(family))
                for family, one in self._equal.items()
            }


def _judges(table: Observed | None) -> bool:
    """Tell whether packets meet a table: a first transaction may have made it, and a second one not."""
    if table is None or table.dormant:
        return False
    met = (table.chains.get(name) for name in (FROM_PORT, TO_PORT))
    return all(chain is not None and chain.hook is not None for chain in met)


def _came(
    before: Record, bindings: Mapping[str, Binding], links: Mapping[str, int] | None
) -> frozenset[str]:
    """Return the ports that were not here in the cycle before.

    Nor was one whose link is another: it may have been on another host between, while no agent ran.
    """
    found = bindings.keys() - before.generations.minimum.keys()
    if links is not None and before.links is not None:
        found |= {port_id for port_id, index in links.items() if before.links.get(port_id) != index}
    return frozenset(found)


def _left(
    before: Record, links: Mapping[str, int] | None, present: AbstractSet[int]
) -> tuple[int, ...]:
    """Return the links that some port had and none has now, of those that are here."""
    had = {*before.left, *(before.links or {}).values()}
    return tuple(sorted((had & present) - {*(links or {}).values()}))


def _remembers(before: Record) -> bool:
    """Tell whether the ports of the cycle before are known, be its document in doubt or not."""
    return before.accepted is not None or bool(before.generations.minimum)


def difference(
    tables: Mapping[str, Ruleset],
    observed: Mapping[str, Observed],
    *,
    owned: bool = False,
    known: Mapping[str, Known] = MappingProxyType({}),
) -> Plan:
    """Return the one plan that makes the tables of every family what they are to be."""
    wanted = [family for family in FAMILIES if family in tables]
    plans = [
        diff(tables[family], observed.get(family), owned=owned, known=known.get(family))
        for family in wanted
    ]
    plans += [removal(family) for family in FAMILIES if family in observed.keys() - tables.keys()]
    return combined(plans)
