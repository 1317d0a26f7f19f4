"""A kernel's one table, that runs the commands of plans and refuses what nft and the kernel refuse.

Written from what nft's text means, not from the agent's code: keys are packed by the types that a
set was declared with, so that a wrong declaration shows. ``tests/netns/test_plan_parity.py`` holds
it against the real kernel. At one place it is stricter: the kernel, told to delete an interval that
is not there, deletes the one that its first corner falls into.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from secgroupd.core.host import Abilities
from secgroupd.core.plan import Line, Observed, ObservedChain, ObservedSet, Plan
from secgroupd.core.ruleset import Data, Hook
from secgroupd.errors import TransactionRefused

FAMILIES = ("inet", "bridge", "arp")
MOST_JUMPS = 16
WIDTHS = {
    "ifname": 16,
    "iifname": 16,
    "ether_addr": 6,
    "@th,64,128": 16,
    "iface_index": 4,
    "mark": 4,
    "ipv4_addr": 4,
    "ipv6_addr": 16,
    "inet_service": 2,
    "inet_proto": 1,
    "icmp_type": 1,
    "icmp_code": 1,
    "icmpv6_type": 1,
    "icmpv6_code": 1,
}
"""Bytes of nft's types."""

COMMAND = re.compile(
    r"(add|delete|flush) (table|chain|rule|set|map|element|ct timeout|counter) (inet|bridge|arp) secgroupd"
    r"(?: (.*))?"
)
BASE = re.compile(r"type filter hook (\w+) priority (-?\d+); policy accept;")
RULE = re.compile(r'(?P<text>.*?)(?: comment "(?P<comment>[^"]*)")?')
TARGET = re.compile(r"\b(?:goto|jump) (\S+)")
VERDICT = re.compile(r"accept|drop|return|(?:goto|jump) \S+")
COUNTER = re.compile(r'"([^"]+)"')


class Refused(Exception):
    """What the kernel says to one command."""


@dataclass(frozen=True)
class Rule:
    text: str
    comment: str

    @cached_property
    def _bare(self) -> str:
        return re.sub(r'"[^"]*"', '""', self.text)

    @cached_property
    def targets(self) -> list[str]:
        return TARGET.findall(self._bare)

    @cached_property
    def sets(self) -> list[str]:
        return re.findall(r"@(?!th,)(\S+)", self._bare)

    @cached_property
    def timeouts(self) -> list[str]:
        return re.findall(r'ct timeout set "([^"]+)"', self.text)

    @cached_property
    def counters(self) -> list[str]:
        return re.findall(r'counter name "([^"]+)"', self.text)

    def data_of(self, name: str) -> Data:
        """Return what a set must lead to, for this rule to look it up."""
        if f"vmap @{name}" in self.text:
            return Data.VERDICT
        return (
            Data.COUNTER
            if re.search(rf"counter name [^\"]+ map @{name}", self.text)
            else Data.NOTHING
        )


@dataclass(slots=True)
class Chain:
    hook: Hook | None = None
    rules: list[Rule] = field(default_factory=list)


@dataclass(slots=True)
class Elements:
    """A set or map."""

    types: tuple[str, ...]
    data: Data
    interval: bool
    timeout: bool
    size: int | None
    elements: dict[bytes, str] = field(default_factory=dict)

    @property
    def key_length(self) -> int:
        return sum(_padded(WIDTHS[name]) for name in self.types)

    @property
    def shape(self) -> tuple[object, ...]:
        """What the kernel compares when a set is declared once more; the size is not."""
        return self.types, self.data, self.interval, self.timeout

    @property
    def targets(self) -> list[str]:
        if self.data is not Data.VERDICT:
            return []
        return [name for verdict in self.elements.values() for name in TARGET.findall(verdict)]

    @property
    def counters(self) -> set[str]:
        return set(self.elements.values()) if self.data is Data.COUNTER else set()

    def overlaps(self, raw: bytes) -> bool:
        """Tell whether an interval element meets another one that is not the same."""
        return any(raw != other and self._meet(raw, other) for other in self.elements)

    def _meet(self, one: bytes, other: bytes) -> bool:
        half, offset = self.key_length, 0
        for name in self.types:
            width = WIDTHS[name]
            first, last = slice(offset, offset + width), slice(half + offset, half + offset + width)
            if one[last] < other[first] or other[last] < one[first]:
                return False
            offset += _padded(width)
        return True


@dataclass(slots=True)
class Table:
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, Elements] = field(default_factory=dict)
    timeouts: dict[str, str] = field(default_factory=dict)
    counters: set[str] = field(default_factory=set)

    def copy(self) -> "Table":
        return Table(
            {name: Chain(one.hook, list(one.rules)) for name, one in self.chains.items()},
            {name: replace(one, elements=dict(one.elements)) for name, one in self.sets.items()},
            dict(self.timeouts),
            set(self.counters),
        )

    def observed(self) -> Observed:
        return Observed(
            {
                name: ObservedChain(chain.hook, tuple(rule.comment for rule in chain.rules))
                for name, chain in self.chains.items()
            },
            {
                name: ObservedSet(
                    one.key_length,
                    one.data,
                    one.interval,
                    one.timeout,
                    one.size,
                    {} if one.timeout else dict(one.elements),
                )
                for name, one in self.sets.items()
            },
            frozenset(self.timeouts),
            frozenset(self.counters),
        )

    def led_to(self, chain: str) -> Iterator[str]:
        """Yield the chains that a chain's rules lead to, directly or over a map."""
        for rule in self.chains[chain].rules:
            yield from rule.targets
            for name in rule.sets:
                yield from self.sets[name].targets

    def in_use(self) -> "Table":
        """Return the part of the table that some packet could meet, with everything in it."""
        found, waiting = Table(), [name for name, chain in self.chains.items() if chain.hook]
        while waiting:
            name = waiting.pop()
            if name in found.chains:
                continue
            found.chains[name] = self.chains[name]
            for rule in self.chains[name].rules:
                found.sets |= {used: self.sets[used] for used in rule.sets}
                found.timeouts |= {used: self.timeouts[used] for used in rule.timeouts}
                found.counters |= set(rule.counters).union(
                    *(self.sets[used].counters for used in rule.sets)
                )
            waiting += self.led_to(name)
        return found


class FakeKernel:
    """The kernel as the reconciler knows it, with the agent's tables."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self._generation = 1

    @property
    def table(self) -> Table | None:
        """The table of routed ports."""
        return self.tables.get("inet")

    def abilities(self) -> Abilities:
        return Abilities()

    def owning(self) -> bool:
        return False

    def observe(self, family: str = "inet", before: Observed | None = None) -> Observed | None:  # noqa: ARG002
        return self.tables[family].observed() if family in self.tables else None

    def reobserve(self, known: Observed, plan: Plan, family: str = "inet") -> Observed:
        """As the real one: only what the plan touches is read."""
        now = self.observe(family)
        if now is None:
            raise AssertionError("there is no table to look at again")
        chains, sets, counters = dict(known.chains), dict(known.sets), set(known.counters)
        for name in (name for where, name in plan.touched if where == family):
            chains.pop(name, None)
            sets.pop(name, None)
            chains |= {name: now.chains[name]} if name in now.chains else {}
            sets |= {name: now.sets[name]} if name in now.sets else {}
            counters = counters | {name} if name in now.counters else counters - {name}
        return Observed(chains, sets, now.timeouts, frozenset(counters))

    def generation(self) -> int:
        return self._generation

    def others_change(self) -> None:
        """Somebody changes another table of the host."""
        self._generation += 1

    def commit(self, plan: Plan) -> None:
        for lines in plan.transactions:
            self.run(lines)

    def run(self, lines: Iterable[Line]) -> None:
        """Run one transaction, wholly or not at all.

        Raises:
            TransactionRefused: as the real adapter does.
        """
        tables = {family: table.copy() for family, table in self.tables.items()}
        for line in lines:
            match = COMMAND.fullmatch(line.text)
            if match is None:
                raise AssertionError(f"no command that a plan has: {line.text}")
            family = match[3]
            try:
                table = _Command(tables.pop(family, None)).run(match[1], match[2], match[4] or "")
            except Refused as error:
                detail = f"{error}: {line.text[:200]}"
                raise TransactionRefused(detail, (line.origin,) if line.origin else ()) from None
            tables |= {family: table} if table is not None else {}
        try:
            for table in tables.values():
                _check_depth(table)
        except Refused as error:
            raise TransactionRefused(str(error), ()) from None
        self.tables = tables
        self._generation += 1

    def text(self, *texts: str) -> None:
        """Run commands, as somebody at the keyboard would, in one transaction."""
        self.run([Line(text) for text in texts])


def _check_depth(table: Table) -> None:
    """Refuse loops, and chains too deep in one another, as the kernel does at commit."""
    depths: dict[str, int] = {}

    def depth(name: str, above: frozenset[str]) -> int:
        if name in above:
            raise Refused("too many links: a loop")
        if name not in depths:
            below = [depth(target, above | {name}) for target in set(table.led_to(name))]
            depths[name] = 1 + max(below, default=0)
        return depths[name]

    for name in table.chains:
        if depth(name, frozenset()) > MOST_JUMPS:
            raise Refused("too many links")


@dataclass(slots=True)
class _Command:
    """Runs one command on a table that may be changed."""

    found: Table | None

    @property
    def table(self) -> Table:
        if self.found is None:
            raise Refused("no such table")
        return self.found

    def run(self, verb: str, kind: str, rest: str) -> Table | None:
        name, _, body = rest.partition(" ")
        if kind == "table":
            self.found = (self.found or Table()) if verb == "add" else None
            return self.found
        actions = {
            "add chain": lambda: self._add_chain(name, _body(body)),
            "add rule": lambda: self._add_rule(name, body),
            "add set": lambda: self._add_set(name, _body(body), is_map=False),
            "add map": lambda: self._add_set(name, _body(body), is_map=True),
            "add counter": lambda: self.table.counters.add(name),
            "add element": lambda: self._elements(verb, name, _body(body)),
            "add ct timeout": lambda: self._add_timeout(name, _body(body)),
            "flush chain": lambda: self._flush(name),
            "delete chain": lambda: self._delete_chain(name),
            "delete set": lambda: self._delete_set(name, is_map=False),
            "delete map": lambda: self._delete_set(name, is_map=True),
            "delete element": lambda: self._elements(verb, name, _body(body)),
            "delete ct timeout": lambda: self._delete_timeout(name),
            "delete counter": lambda: self._delete_counter(name),
        }
        actions[f"{verb} {kind}"]()
        return self.found

    def _chain(self, name: str) -> Chain:
        if name not in self.table.chains:
            raise Refused(f"no such chain {name}")
        return self.table.chains[name]

    def _flush(self, name: str) -> None:
        self._chain(name).rules.clear()

    def _set(self, name: str) -> Elements:
        if name not in self.table.sets:
            raise Refused(f"no such set {name}")
        return self.table.sets[name]

    def _rules(self) -> Iterator[Rule]:
        for chain in self.table.chains.values():
            yield from chain.rules

    def _add_chain(self, name: str, body: str) -> None:
        hook = None
        if body:
            match = BASE.fullmatch(body)
            if match is None:
                raise AssertionError(f"no declaration of a chain: {body}")
            hook = Hook(match[1], int(match[2]))
        there = self.table.chains.get(name)
        if there is None:
            self.table.chains[name] = Chain(hook)
        elif hook is not None and hook != there.hook:
            raise Refused(f"{name} exists with another hook")

    def _check_target(self, verdict: str) -> None:
        for target in TARGET.findall(verdict):
            if self._chain(target).hook is not None:
                raise Refused(f"{target} is a base chain")

    def _add_rule(self, chain: str, body: str) -> None:
        match = RULE.fullmatch(body)
        if match is None or not match["text"]:
            raise AssertionError(f"no rule: {body}")
        rule = Rule(match["text"], match["comment"] or "")
        for target in rule.targets:
            self._check_target(f"goto {target}")
        for name in rule.sets:
            if self._set(name).data is not rule.data_of(name):
                raise Refused(f"{name} is a set where a map is wanted, or the reverse")
        self._check_counters(rule.counters)
        for name in rule.timeouts:
            if name not in self.table.timeouts:
                raise Refused(f"no such timeout {name}")
        self._chain(chain).rules.append(rule)

    def _add_set(self, name: str, body: str, *, is_map: bool) -> None:
        parts = dict(part.split(" ", 1) for part in re.findall(r"(\w+ [^;]+);", body))
        flags = parts.pop("flags", "").split(",")
        kind = parts.pop("type", None) or parts.pop("typeof")
        size = parts.pop("size", None)
        key, _, data = kind.partition(" : ")
        if parts or bool(data) is not is_map:
            raise AssertionError(f"no declaration of a set: {body}")
        made = Elements(
            tuple(key.split(" . ")),
            Data(data),
            "interval" in flags,
            "timeout" in flags,
            int(size) if size else None,
        )
        there = self.table.sets.setdefault(name, made)
        if there.shape != made.shape:
            raise Refused(f"{name} exists with another declaration")

    def _elements(self, verb: str, name: str, body: str) -> None:
        one = self._set(name)
        for text in _apart(body):
            key, verdict = _element(one, text)
            if verb == "delete":
                if key not in one.elements:
                    raise Refused(f"{name} has no element {text}")
                del one.elements[key]
                continue
            if bool(one.data.value) is not bool(verdict):
                raise Refused(f"{name} takes no element {text}")
            if one.elements.get(key, verdict) != verdict:
                raise Refused(f"{name} has {text} with another verdict")
            if one.interval and one.overlaps(key):
                raise Refused(f"{name} has an element that overlaps {text}")
            if one.data is Data.COUNTER:
                self._check_counters([verdict])
            else:
                self._check_target(verdict)
            one.elements[key] = verdict
            if one.size is not None and len(one.elements) > one.size:
                raise Refused(f"{name} is full")

    def _check_counters(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.table.counters:
                raise Refused(f"no such counter {name}")

    def _delete_counter(self, name: str) -> None:
        self._check_counters([name])
        used = {counter for rule in self._rules() for counter in rule.counters}
        if name in used.union(*(one.counters for one in self.table.sets.values())):
            raise Refused(f"{name} is in use")
        self.table.counters.discard(name)

    def _add_timeout(self, name: str, body: str) -> None:
        if self.table.timeouts.setdefault(name, body) != body:
            raise Refused(f"{name} exists with another declaration")

    def _delete_chain(self, name: str) -> None:
        self._chain(name)
        used = {target for rule in self._rules() for target in rule.targets}
        used |= {target for one in self.table.sets.values() for target in one.targets}
        if name in used:
            raise Refused(f"{name} is in use")
        del self.table.chains[name]

    def _delete_set(self, name: str, *, is_map: bool) -> None:
        if bool(self._set(name).data.value) is not is_map:
            raise Refused(f"{name} is of the other kind")
        if any(name in rule.sets for rule in self._rules()):
            raise Refused(f"{name} is in use")
        del self.table.sets[name]

    def _delete_timeout(self, name: str) -> None:
        if name not in self.table.timeouts:
            raise Refused(f"no such timeout {name}")
        if any(name in rule.timeouts for rule in self._rules()):
            raise Refused(f"{name} is in use")
        del self.table.timeouts[name]


def _body(text: str) -> str:
    """Return what stands in the braces."""
    return text.removeprefix("{").removesuffix("}").strip()


def _apart(text: str) -> list[str]:
    """Split at commas that are not in a quoted name."""
    return [part.strip() for part in re.findall(r'(?:"[^"]*"|[^",])+', text)]


def _element(one: Elements, text: str) -> tuple[bytes, str]:
    """Return an element's key, first and last corner where it is an interval, and its verdict."""
    key = re.split(r" : | timeout ", text)[0]
    rest = text[len(key) :].strip()
    verdict = rest.removeprefix(": ") if rest.startswith(": ") else ""
    if one.data is Data.COUNTER and (match := COUNTER.fullmatch(verdict)):
        verdict = match[1]
    elif verdict and not VERDICT.fullmatch(verdict):
        raise AssertionError(f"no verdict: {verdict}")
    if rest and not verdict and not (one.timeout and re.fullmatch(r"timeout \d+s", rest)):
        raise AssertionError(f"no element: {text}")
    names = key.split(" . ")
    if len(names) != len(one.types):
        raise Refused(f"{text} has other fields than {one.types}")
    first, last = b"", b""
    for kind, value in zip(one.types, names, strict=True):
        low, dash, high = (value, "", "") if value[0] == '"' else value.partition("-")
        try:
            first += _packed(kind, low)
            last += _packed(kind, high if dash else low)
        except ValueError:
            raise Refused(f"{text} is no {kind}") from None
    if first > last or (first != last and not one.interval):
        raise Refused(f"{text} is a range that cannot be")
    return (first + last if one.interval else first), verdict


def _packed(kind: str, text: str) -> bytes:
    """Return a field's bytes in the kernel: big end first, filled up to whole registers."""
    width = WIDTHS[kind]
    if kind in {"ifname", "iifname"}:
        name = text[1:-1]
        if text[0] + text[-1] != '""' or "*" in name.removesuffix("\\*"):
            raise AssertionError(f"not the name of one interface: {text}")
        raw = name.replace("\\*", "*").encode()
    elif kind in {"iface_index", "mark"}:
        raw = int(text).to_bytes(width, sys.byteorder)
    elif kind == "ether_addr":
        raw = bytes.fromhex(text.replace(":", ""))
    elif kind == "@th,64,128":
        raw = int(text, 16).to_bytes(width, "big")
    elif kind == "ipv4_addr":
        raw = IPv4Address(text).packed
    elif kind == "ipv6_addr":
        raw = IPv6Address(text).packed
    else:
        raw = int(text).to_bytes(width, "big")
    if len(raw) > width:
        raise Refused(f"{text} is too long")
    return raw.ljust(_padded(width), b"\0")


def _padded(width: int) -> int:
    return (width + 3) // 4 * 4


def differences(one: Observed | None, other: Observed | None) -> Mapping[str, Sequence[object]]:
    """Return what differs, by name, for messages that can be read."""
    if one is None or other is None:
        return {} if one is other else {"table": (one is None, other is None)}
    found: dict[str, Sequence[object]] = {}
    for name in one.chains.keys() | other.chains.keys():
        if one.chains.get(name) != other.chains.get(name):
            found[f"chain {name}"] = (one.chains.get(name), other.chains.get(name))
    for name in one.sets.keys() | other.sets.keys():
        if one.sets.get(name) != other.sets.get(name):
            found[f"set {name}"] = (one.sets.get(name), other.sets.get(name))
    if one.timeouts != other.timeouts:
        found["timeouts"] = (one.timeouts, other.timeouts)
    if one.counters != other.counters:
        found["counters"] = (one.counters, other.counters)
    return found
