"""Ruleset and what the kernel has -> the lines that change it, no more than needed.

What packets meet changes in one transaction. What that one needs anew, it must find ready, since a
packet that is under way when it is committed sees both sides of it:

- A packet keeps the generation it began with for rules, while a map shows it the elements of now. A
  chain that is made in the same transaction has no rules in the older generation, so that such a
  packet would fall through it.
- The kernel fills an interval set only at the end of a commit, after the new rules have begun to be
  used. Therefore interval sets never change, they are named by their content.

So a plan makes new chains and interval sets in a transaction before, in which nothing that packets
meet refers to them yet; unless the only new ones are chains that a packet may fall through.

Order within a transaction: what is referred to is made before what refers to it, and removed after
it. Chains are compared by their rules' digests, which the kernel keeps as comments, so a
fresh process recognises what is there without any memory of its own.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import compress, filterfalse
from operator import is_not

from secgroupd.core.ruleset import TABLE, Chain, Data, Hook, Ruleset, Set, key_text, padded

OWNED = " { flags owner, persist; }"
"""What makes a table its writer's alone, and has it stay when that one ends."""

SAYABLE = re.compile(r"[A-Za-z][A-Za-z0-9/_.-]*").fullmatch
"""Tells whether nft can say a name; the kernel takes any."""

ELEMENTS_A_LINE = 500
"""Elements in one command; a refused line then names few objects, and lines stay readable."""


@dataclass(frozen=True, slots=True)
class ObservedSet:
    """A set as the kernel has it; see ``Set`` for what the fields mean."""

    key_length: int
    data: Data
    interval: bool
    timeout: bool
    size: int | None
    elements: Mapping[bytes, str]
    seen: bytes = field(default=b"", compare=False, repr=False)
    """Digest of what the kernel has shown of the elements; empty where they were not read."""


@dataclass(frozen=True, slots=True)
class ObservedChain:
    """A chain as the kernel has it: its hook and its rules' digests (empty for a foreign rule)."""

    hook: Hook | None
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """The table as the kernel has it."""

    chains: Mapping[str, ObservedChain]
    sets: Mapping[str, ObservedSet]
    timeouts: frozenset[str] = frozenset()
    counters: frozenset[str] = frozenset()
    dormant: bool = False
    """Whether somebody has put the table to sleep: it is there, and no packet meets it."""
    orphaned: bool = False
    """Whether the process that owned the table is gone, so that anybody may take it over."""


@dataclass(frozen=True, slots=True)
class Line:
    """One nft command, and the object of the document that it comes from.

    A command about elements also says which, in the kernel's own bytes: ``keys`` of the set ``of``.
    """

    text: str
    origin: str = ""
    of: Set | None = field(default=None, compare=False, repr=False)
    keys: tuple[bytes, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """The commands of a change, in order; false when there is nothing to do.

    ``preparation`` is a transaction that no packet notices; ``lines`` is the one that counts.
    """

    lines: tuple[Line, ...]
    preparation: tuple[Line, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lines or self.preparation)

    @property
    def transactions(self) -> tuple[tuple[Line, ...], ...]:
        """What is sent to the kernel, one after the other."""
        return tuple(part for part in (self.preparation, self.lines) if part)

    @property
    def touched(self) -> frozenset[tuple[str, str]]:
        """Family and name of each chain and set that the commands are about."""
        words = (line.text.split(maxsplit=5) for part in self.transactions for line in part)
        return frozenset((parts[2], parts[4]) for parts in words if parts[1] != "table")

    def touched_in(self, family: str) -> frozenset[str]:
        """Return the names of the chains and sets of a family that the commands are about."""
        return frozenset(name for where, name in self.touched if where == family)

    def text(self) -> str:
        """Return what is sent to the kernel, one command a line."""
        return "".join(f"{line.text}\n" for part in self.transactions for line in part)


def combined(plans: Iterable[Plan]) -> Plan:
    """Return one plan that does what several do, each to a table of its own."""
    parts = tuple(plans)
    return Plan(
        tuple(line for plan in parts for line in plan.lines),
        tuple(line for plan in parts for line in plan.preparation),
    )


def removal(family: str) -> Plan:
    """Return the plan that removes the table of a family."""
    return Plan((Line(f"delete table {family} {TABLE}"),))


def expected(ruleset: Ruleset) -> Observed:
    """Return what the kernel shows when it has exactly this ruleset."""
    return Observed(
        {c.name: ObservedChain(c.hook, c.digests) for c in ruleset.chains.values()},
        {s.name: _expected_set(s) for s in ruleset.sets.values()},
        frozenset(ruleset.timeouts),
        ruleset.counters,
    )


def _expected_set(one: Set) -> ObservedSet:
    length = sum(padded(field) for field in one.key.value.fields)
    return ObservedSet(
        length, one.data, one.key.value.interval, one.timeout, one.size, one.elements
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What need not be compared: a ruleset that was found to be there, but for what has been touched.

    A chain or set of a desired ruleset that is the same object as the known one's is there.
    """

    ruleset: Ruleset
    touched: AbstractSet[str] = frozenset()


def diff(
    desired: Ruleset,
    observed: Observed | None,
    *,
    owned: bool = False,
    known: Known | None = None,
) -> Plan:
    """Return the transaction that turns the observed table into the desired one.

    Args:
        desired: what is to be there.
        observed: what is there; None when there is no table.
        owned: the process that commits it is to own the table, so that nobody else can change it.
            Only a table that was made so can be: of others, everybody goes on being an owner.
        known: what of the observed table need not be compared again.

    Returns:
        A plan whose commit makes ``expected(desired)`` true; an empty one when it is already. A set
        or chain that is declared otherwise is made anew, for which every chain is filled anew. The
        table itself is not deleted: a packet that is under way would find its maps empty, and be
        lost. Only where somebody has put an object into it that nft has no words for, it is.
    """
    table = Line(f"add table {desired.family} {TABLE}{OWNED if owned else ''}")
    if observed is None:
        nothing = Observed({}, {})
        fresh = _Difference(desired, nothing, *_compared(desired, nothing, None)).plan()
        return Plan(fresh.lines, (table, *fresh.preparation))
    if observed.dormant:
        # Declared without the flag, it wakes up, and before anything else is done.
        awake = diff(desired, replace(observed, dormant=False, orphaned=False))
        return Plan(awake.lines, (table, *awake.preparation))
    found = _Difference(desired, observed, *_compared(desired, observed, known))
    if not all(map(SAYABLE, found.undesired)):
        # What nft cannot name, it can only remove with all the rest.
        fresh = diff(desired, None, owned=owned)
        return Plan((*removal(desired.family).lines, *fresh.preparation, *fresh.lines))
    if owned and observed.orphaned:
        # Before the rest: the transaction that changes a table's flags may make no hooked chain in it.
        adopted = diff(desired, replace(observed, orphaned=False))
        return Plan(adopted.lines, (table, *adopted.preparation))
    sets = {name for name in found.sets if _reshaped(desired.sets[name], observed.sets[name])}
    chains = {
        name for name in found.chains if desired.chains[name].hook != observed.chains[name].hook
    }
    return found.repair(sets, chains) if sets or chains else found.plan()


def _missing(names: Iterable[str], there: Container[str]) -> list[str]:
    """Return the names that are not there, sorted; they may be tens of thousands, and mostly are."""
    return sorted(filterfalse(there.__contains__, names))


def _compared(
    desired: Ruleset, observed: Observed, known: Known | None
) -> tuple[list[str], list[str]]:
    """Return the names of the chains, and those of the sets, that are there and otherwise."""
    there = known.ruleset if known else Ruleset(desired.family, {}, {})
    touched = known.touched if known else frozenset[str]()
    chains = {
        name
        for name in (*_others(desired.chains, there.chains), *touched)
        if (wanted := desired.chains.get(name)) and (found := observed.chains.get(name))
        if wanted.digests != found.digests or wanted.hook != found.hook
    }
    sets = {
        name
        for name in (*_others(desired.sets, there.sets), *touched)
        if (one := desired.sets.get(name)) and (other := observed.sets.get(name))
        if _reshaped(one, other) or _refilled(one, other)
    }
    return sorted(chains), sorted(sets)


def _others(desired: Mapping[str, object], there: Mapping[str, object]) -> Iterator[str]:
    """Yield the names of what is not the identical object there; it may be one of tens of thousands."""
    return compress(desired, map(is_not, desired.values(), map(there.get, desired)))


def _reshaped(wanted: Set, there: ObservedSet) -> bool:
    shape = _expected_set(wanted)
    return (shape.key_length, shape.data, shape.interval, shape.timeout, shape.size) != (
        there.key_length,
        there.data,
        there.interval,
        there.timeout,
        there.size,
    )


def _refilled(wanted: Set, there: ObservedSet) -> bool:
    # Mostly they are the same object, which two mappings do not look at before they compare all.
    return wanted.elements is not there.elements and wanted.elements != there.elements


def _leading(sets: Mapping[str, Set | ObservedSet], chains: AbstractSet[str]) -> set[str]:
    """Return the names of the maps that have an element which leads to one of some chains."""
    verdicts = {f"{word} {name}" for name in chains for word in ("goto", "jump")}
    return {name for name, one in sets.items() if not verdicts.isdisjoint(one.elements.values())}


def _words(chain: Chain) -> set[str]:
    """Return every word of a chain's rules: among them, the chains and sets that it refers to."""
    return {word for rule in chain.rules for word in rule.text.split()}


def _about(
    command: str, table: str, one: Set, keys: Sequence[bytes], text: Callable[[bytes], str]
) -> Iterator[Line]:
    """Yield the lines that do something with elements of a set, in nft's words by ``text``."""
    for at in range(0, len(keys), ELEMENTS_A_LINE):
        some = tuple(keys[at : at + ELEMENTS_A_LINE])
        body = ", ".join(map(text, some))
        yield Line(f"{command} {table} {one.name} {{ {body} }}", one.origin, one, some)


@dataclass(frozen=True)
class _Difference:
    """What is to be done; ``chains`` and ``sets`` are there, and otherwise than they are to be."""

    desired: Ruleset
    observed: Observed
    chains: Sequence[str]
    sets: Sequence[str]

    @cached_property
    def new_chains(self) -> list[str]:
        return _missing(self.desired.chains, self.observed.chains)

    @cached_property
    def new_sets(self) -> list[str]:
        return _missing(self.desired.sets, self.observed.sets)

    @cached_property
    def old_chains(self) -> list[str]:
        return _missing(self.observed.chains, self.desired.chains)

    @cached_property
    def old_sets(self) -> list[str]:
        return _missing(self.observed.sets, self.desired.sets)

    @cached_property
    def old_counters(self) -> list[str]:
        return _missing(self.observed.counters, self.desired.counters)

    @cached_property
    def old_timeouts(self) -> list[str]:
        return _missing(self.observed.timeouts, self.desired.timeouts)

    @property
    def undesired(self) -> Iterator[str]:
        """The names of what is there and not desired."""
        yield from self.old_chains
        yield from self.old_sets
        yield from self.old_timeouts
        yield from self.old_counters

    @property
    def table(self) -> str:
        return f"{self.desired.family} {TABLE}"

    def plan(self) -> Plan:
        new_chains = self._unhooked(self.new_chains)
        made = (*self._make(self.new_sets, new_chains),)
        changed = (*self._change(), *self._remove())
        prepared = any(not self.desired.chains[name].passable for name in new_chains)
        prepared = prepared or any(self.desired.sets[n].key.value.interval for n in self.new_sets)
        return Plan(changed, made) if prepared else Plan((*made, *changed))

    def repair(self, sets: AbstractSet[str], chains: AbstractSet[str]) -> Plan:
        """Take away what is declared otherwise than desired; the rest is as if it had never been.

        Maps that lead to a chain that is taken away go with it, or come only after it.
        """
        there = self.observed
        gone = {*self.old_sets} | sets | _leading(there.sets, chains)
        early = sorted({*self.new_sets} - _leading(self.desired.sets, chains))
        unhooked = self._unhooked(self.new_chains)
        late = {f"@{name}" for name in gone | ({*self.new_sets} - set(early))} | chains
        ready = [name for name in unhooked if late.isdisjoint(_words(self.desired.chains[name]))]
        preparation = [*self._declare(early, unhooked)]
        for name in ready:
            preparation += self._fill(self.desired.chains[name])
        for name in early:
            preparation += self._add(self.desired.sets[name], {})
        emptied = {
            name: ObservedChain(chain.hook, ())
            for name, chain in there.chains.items()
            if name not in chains
        }
        left = Observed(
            emptied
            | dict.fromkeys(unhooked, ObservedChain(None, ()))
            | {name: ObservedChain(None, self.desired.chains[name].digests) for name in ready},
            {name: one for name, one in there.sets.items() if name not in gone}
            | {name: _expected_set(self.desired.sets[name]) for name in early},
            there.timeouts | self.desired.timeouts.keys(),
            there.counters | self.desired.counters,
        )
        lines = [Line(f"flush chain {self.table} {name}") for name in sorted(there.chains)]
        for name in sorted(gone):
            kind = "set" if there.sets[name].data is Data.NOTHING else "map"
            lines.append(Line(f"delete {kind} {self.table} {name}"))
        lines += [Line(f"delete chain {self.table} {name}") for name in sorted(chains)]
        rest = _Difference(self.desired, left, *_compared(self.desired, left, None))
        for part in rest.plan().transactions:
            lines += part
        return Plan(tuple(lines), tuple(preparation))

    def _unhooked(self, chains: Iterable[str]) -> list[str]:
        return [name for name in chains if self.desired.chains[name].hook is None]

    def _declare(self, sets: Iterable[str], chains: Iterable[str]) -> Iterator[Line]:
        for name in _missing(self.desired.timeouts, self.observed.timeouts):
            body = self.desired.timeouts[name]
            yield Line(f"add ct timeout {self.table} {name} {{ {body} }}", "settings")
        for name in _missing(self.desired.counters, self.observed.counters):
            yield Line(f"add counter {self.table} {name}", "rules")
        for name in sets:
            one = self.desired.sets[name]
            yield Line(f"add {one.kind} {self.table} {name} {{ {one.declaration} }}", one.origin)
        for name in chains:
            yield Line(f"add chain {self.table} {name}")

    def _make(self, sets: Sequence[str], chains: Sequence[str]) -> Iterator[Line]:
        """Make and fill new sets and new chains that no hook calls."""
        yield from self._declare(sets, chains)
        for name in chains:
            yield from self._fill(self.desired.chains[name])
        for name in sets:
            yield from self._add(self.desired.sets[name], {})

    def _change(self) -> Iterator[Line]:
        """Change what exists, and make the chains that hooks call."""
        changed: list[Chain] = []
        hooked = (name for name in self.new_chains if self.desired.chains[name].hook)
        for name in sorted({*hooked, *self.chains}):
            chain = self.desired.chains[name]
            there = self.observed.chains.get(name)
            if there is None and chain.hook:
                yield Line(f"add chain {self.table} {name} {{ {chain.hook.text} }}")
                changed.append(chain)
            elif there is not None and there.digests != chain.digests:
                yield Line(f"flush chain {self.table} {name}")
                changed.append(chain)
        for name in self.old_chains:
            yield Line(f"flush chain {self.table} {name}")
        for chain in changed:
            yield from self._fill(chain)
        for name in self.sets:
            one, old = self.desired.sets[name], self.observed.sets[name].elements
            gone = sorted(raw for raw, verdict in old.items() if one.elements.get(raw) != verdict)
            yield from _about("delete element", self.table, one, gone, partial(key_text, one.key))
        for name in self.sets:
            yield from self._add(self.desired.sets[name], self.observed.sets[name].elements)

    def _remove(self) -> Iterator[Line]:
        for name in self.old_sets:
            kind = "set" if self.observed.sets[name].data is Data.NOTHING else "map"
            yield Line(f"delete {kind} {self.table} {name}")
        for name in self.old_chains:
            yield Line(f"delete chain {self.table} {name}")
        for name in self.old_counters:
            yield Line(f"delete counter {self.table} {name}")
        for name in self.old_timeouts:
            yield Line(f"delete ct timeout {self.table} {name}")

    def _fill(self, chain: Chain) -> Iterator[Line]:
        for rule, digest in zip(chain.rules, chain.digests, strict=True):
            text = f'{rule.text} comment "{digest}"'
            yield Line(f"add rule {self.table} {chain.name} {text}", rule.origin)

    def _add(self, one: Set, there: Mapping[bytes, str]) -> Iterator[Line]:
        if one.timeout:
            return
        new = sorted(raw for raw, verdict in one.elements.items() if there.get(raw) != verdict)
        yield from _about("add element", self.table, one, new, one.text)
