"""Ruleset and what the kernel has -> the lines of one transaction, no more than needed.

Order within the transaction: what is referred to is made before what refers to it, and removed
after it. Chains are compared by their rules' digests, which the kernel keeps as comments, so a
fresh process recognises what is there without any memory of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from secgroupd.core.ruleset import TABLE, Chain, Hook, Ruleset, Set, element_text, key_text

ELEMENTS_A_LINE = 500
"""Elements in one command; a refused line then names few objects, and lines stay readable."""


@dataclass(frozen=True, slots=True)
class ObservedSet:
    """A set as the kernel has it; see ``Set`` for what the fields mean."""

    key_length: int
    is_map: bool
    interval: bool
    timeout: bool
    size: int | None
    elements: Mapping[bytes, str]


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


@dataclass(frozen=True, slots=True)
class Line:
    """One nft command, and the object of the document that it comes from."""

    text: str
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The commands of one transaction, in order; false when there is nothing to do."""

    lines: tuple[Line, ...]

    def __bool__(self) -> bool:
        return bool(self.lines)

    def text(self) -> str:
        """Return what is sent to the kernel, one command a line."""
        return "".join(f"{line.text}\n" for line in self.lines)


def expected(ruleset: Ruleset) -> Observed:
    """Return what the kernel shows when it has exactly this ruleset."""
    return Observed(
        {c.name: ObservedChain(c.hook, c.digests) for c in ruleset.chains.values()},
        {s.name: _expected_set(s) for s in ruleset.sets.values()},
    )


def _expected_set(one: Set) -> ObservedSet:
    length = sum((field + 3) // 4 * 4 for field in one.key.value.fields)
    return ObservedSet(
        length, one.is_map, one.key.value.interval, one.timeout, one.size, one.elements
    )


def diff(desired: Ruleset, observed: Observed | None) -> Plan:
    """Return the transaction that turns the observed table into the desired one.

    Args:
        desired: what is to be there.
        observed: what is there; None when there is no table.

    Returns:
        A plan whose commit makes ``expected(desired)`` true; an empty one when it is already. A set
        or base chain that cannot be changed in place has the whole table replaced, in the same
        transaction.
    """
    if observed is None:
        return Plan(tuple(_Difference(desired, Observed({}, {})).lines(make_table=True)))
    if _must_replace(desired, observed):
        lines = _Difference(desired, Observed({}, {})).lines(make_table=True)
        return Plan((Line(f"delete table {desired.family} {TABLE}"), *lines))
    return Plan(tuple(_Difference(desired, observed).lines(make_table=False)))


def _must_replace(desired: Ruleset, observed: Observed) -> bool:
    for name, there in observed.sets.items():
        wanted = desired.sets.get(name)
        if wanted is None:
            continue
        shape = _expected_set(wanted)
        if (shape.key_length, shape.is_map, shape.interval, shape.timeout, shape.size) != (
            there.key_length,
            there.is_map,
            there.interval,
            there.timeout,
            there.size,
        ):
            return True
    return any(
        name in desired.chains and desired.chains[name].hook != there.hook
        for name, there in observed.chains.items()
    )


def _chunks(texts: Iterable[str]) -> Iterable[str]:
    pending: list[str] = []
    for text in texts:
        pending.append(text)
        if len(pending) == ELEMENTS_A_LINE:
            yield ", ".join(pending)
            pending = []
    if pending:
        yield ", ".join(pending)


@dataclass(frozen=True, slots=True)
class _Difference:
    desired: Ruleset
    observed: Observed

    @property
    def table(self) -> str:
        return f"{self.desired.family} {TABLE}"

    def lines(self, *, make_table: bool) -> Iterable[Line]:
        if make_table:
            yield Line(f"add table {self.table}")
        for name in sorted(self.desired.sets.keys() - self.observed.sets.keys()):
            one = self.desired.sets[name]
            yield Line(f"add {one.kind} {self.table} {name} {{ {one.declaration} }}", one.origin)
        yield from self._chains()
        yield from self._elements()
        for name in sorted(self.observed.sets.keys() - self.desired.sets.keys()):
            kind = "map" if self.observed.sets[name].is_map else "set"
            yield Line(f"delete {kind} {self.table} {name}")
        for name in sorted(self.observed.chains.keys() - self.desired.chains.keys()):
            yield Line(f"delete chain {self.table} {name}")

    def _chains(self) -> Iterable[Line]:
        changed: list[Chain] = []
        for name in sorted(self.desired.chains):
            chain = self.desired.chains[name]
            there = self.observed.chains.get(name)
            if there is None:
                hook = f" {{ {chain.hook.text} }}" if chain.hook else ""
                yield Line(f"add chain {self.table} {name}{hook}")
            if (there.digests if there else ()) != chain.digests:
                changed.append(chain)
        for chain in changed:
            if chain.name in self.observed.chains:
                yield Line(f"flush chain {self.table} {chain.name}")
        for name in sorted(self.observed.chains.keys() - self.desired.chains.keys()):
            yield Line(f"flush chain {self.table} {name}")
        for chain in changed:
            for rule in chain.rules:
                text = f'{rule.text} comment "{rule.digest}"'
                yield Line(f"add rule {self.table} {chain.name} {text}", rule.origin)

    def _elements(self) -> Iterable[Line]:
        added: list[Line] = []
        for name in sorted(self.desired.sets):
            one = self.desired.sets[name]
            if one.timeout:
                continue
            there = self.observed.sets.get(name)
            old = there.elements if there else {}
            gone = sorted(raw for raw, verdict in old.items() if one.elements.get(raw) != verdict)
            new = sorted(raw for raw, verdict in one.elements.items() if old.get(raw) != verdict)
            for part in _chunks(key_text(one.key, raw) for raw in gone):
                yield Line(f"delete element {self.table} {name} {{ {part} }}", one.origin)
            texts = _chunks(element_text(one.key, raw, one.elements[raw]) for raw in new)
            added += [
                Line(f"add element {self.table} {name} {{ {part} }}", one.origin) for part in texts
            ]
        yield from added
