"""A table while it is being compiled: its chains and sets, and maps from interfaces to verdicts.

Interfaces are matched by name wherever nft text can say it, by index where it cannot; every map
from interfaces therefore comes in two parts, of which the second is seldom needed.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from secgroupd.core import names
from secgroupd.core.kept import Kept
from secgroupd.core.model import Port
from secgroupd.core.nflog import (
    ALL_LOGGED_A_SECOND,
    LOGGED_A_SECOND,
    LOGGED_AT_ONCE,
    METERED,
    SILENT,
    Logging,
    log_statements,
)
from secgroupd.core.peers import Membership
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import (
    Chain,
    Data,
    Hook,
    Key,
    NftRule,
    Ruleset,
    Set,
    capacity,
    index_key,
    interface_key,
    quotable,
)

T = TypeVar("T")

ROOM = 1000
"""Elements for which a map from interfaces always has room, so that small hosts never resize one."""


@dataclass(frozen=True, slots=True)
class Binding:
    """The interface that carries a port here.

    ``index`` is there where the port is found by it rather than by the name: because nft text cannot
    say the name, or because the port was found by its link's alias or MAC. A link that is renamed
    keeps its index, so that nobody who gets the name gets the rules. ``bridge`` is the Linux bridge
    that the interface is a port of, None where the host routes to it.
    """

    interface: str
    index: int | None = None
    bridge: str | None = None

    @property
    def matchable(self) -> bool:
        """Whether a rule can name the interface."""
        return quotable(self.interface) or self.index is not None


LocalPort = tuple[Port, Binding]


@dataclass(frozen=True, slots=True)
class InterfaceMap:
    """A verdict map from interfaces, by the names of its one or two parts."""

    by_name: str
    by_index: str | None = None

    def lines(self, side: str, guard: str = "") -> list[str]:
        """Return lines that look an interface up, by name in the last one.

        Args:
            side: ``i`` for the interface a packet came from, ``o`` for the one it goes to.
            guard: an expression that must match first, with a closing space.
        """
        lines = [f"{guard}{side}ifname vmap @{self.by_name}"]
        if self.by_index is not None:
            lines.insert(0, f"{guard}{side}if vmap @{self.by_index}")
        return lines


@dataclass(slots=True)
class Draft:
    """What has been compiled so far; each object is made once, under a name that is its meaning."""

    family: str
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)
    timeouts: dict[str, str] = field(default_factory=dict)
    counters: set[str] = field(default_factory=set)
    members: dict[str, Membership] = field(default_factory=dict)
    """Sets that are to be filled with members of groups, by name."""
    logging: Logging = SILENT

    def chain(
        self,
        name: str,
        lines: Iterable[str],
        origin: str = "",
        hook: Hook | None = None,
        *,
        passable: bool = False,
    ) -> str:
        """Make a chain; return its name."""
        rules = tuple(NftRule(line, origin) for line in lines)
        self.chains[name] = Chain(name, rules, hook, passable)
        return name

    def put(self, new: Set) -> str:
        """Make a set; return its name."""
        self.sets[new.name] = new
        return new.name

    def take(self, part: "Draft") -> None:
        """Take in a part that was compiled by itself."""
        self.chains.update(part.chains)
        self.sets.update(part.sets)
        self.counters.update(part.counters)
        self.members.update(part.members)

    def fill(self, policy: Policy, kept: Kept) -> None:
        """Make the sets of members of groups."""
        for one in self.members.values():
            self.put(one.filled(policy, kept))

    def interface_map(self, purpose: str, verdicts: Mapping[Binding, str]) -> InterfaceMap:
        """Make the map from interfaces to verdicts that serves a purpose."""
        by_name = {
            interface_key(binding.interface): verdict
            for binding, verdict in verdicts.items()
            if binding.index is None and quotable(binding.interface)
        }
        by_index = {
            index_key(binding.index): verdict
            for binding, verdict in verdicts.items()
            if binding.index is not None
        }
        named = self._sized(purpose, Key.INTERFACE, by_name, data=Data.VERDICT)
        if not by_index:
            return InterfaceMap(named)
        indexed = self._sized(f"{purpose}_index", Key.INDEX, by_index, data=Data.VERDICT)
        return InterfaceMap(named, indexed)

    def interface_set(self, purpose: str, bindings: Iterable[Binding]) -> str:
        """Make the set of the interfaces whose names can be said; return its name."""
        elements = {interface_key(b.interface): "" for b in bindings if quotable(b.interface)}
        return self._sized(purpose, Key.INTERFACE, elements)

    def leaving(self, purpose: str, bindings: Sequence[Binding]) -> list[str]:
        """Make the sets of some interfaces; return the expressions that match what leaves by one."""
        named = [b for b in bindings if b.index is None]
        indexed = [index_key(b.index) for b in bindings if b.index is not None]
        found = [f"oifname @{self.interface_set(purpose, named)}"]
        if indexed:
            found.append(f"oif @{self.host_set(f'{purpose}_index', Key.INDEX, indexed)}")
        return found

    def host_set(self, purpose: str, key: Key, elements: Iterable[bytes]) -> str:
        """Make a hash set of some key; return its name."""
        return self._sized(purpose, key, dict.fromkeys(elements, ""))

    def host_map(self, purpose: str, key: Key, verdicts: Mapping[bytes, str]) -> str:
        """Make a hash map of some key to verdicts; return its name."""
        return self._sized(purpose, key, verdicts, data=Data.VERDICT)

    def counting_set(self, purpose: str, bindings: Iterable[Binding]) -> str:
        """Make a set of interfaces that counts what matches each; return its name."""
        elements = {interface_key(b.interface): "" for b in bindings if quotable(b.interface)}
        return self._sized(purpose, Key.INTERFACE, elements, counted=True)

    def logging_denied(self, chain: str, side: str = "") -> list[str]:
        """Return lines that log what is about to be dropped in a chain, if anybody listens.

        Args:
            chain: its name, by which whoever listens knows it.
            side: ``i`` or ``o``, where one of the packet's interfaces is a port's, which then has a
                limit of its own; else empty.
        """
        if not self.logging.denied:
            return []
        meter = ""
        if side:
            logged = Set(names.LOGGED, Key.INTERFACE, {}, size=METERED, timeout=True, metered=True)
            limit = f"limit rate {LOGGED_A_SECOND}/second burst {LOGGED_AT_ONCE} packets"
            meter = f"update @{self.put(logged)} {{ {side}ifname {limit} }} "
        all_of_them = f"limit rate {ALL_LOGGED_A_SECOND}/second burst {ALL_LOGGED_A_SECOND} packets"
        return [f"{meter}{all_of_them} {log_statements(chain, self.logging.denied)}"]

    def logging_accepted(self, chain: str) -> list[str]:
        """Return lines that log the first packets of connections in a chain, if that is wanted."""
        if not self.logging.accepted:
            return []
        return [f"ct state new {log_statements(chain, self.logging.accepted)}"]

    def _sized(
        self,
        purpose: str,
        key: Key,
        elements: Mapping[bytes, str],
        *,
        data: Data = Data.NOTHING,
        counted: bool = False,
    ) -> str:
        size = capacity(max(len(elements), ROOM))
        name = f"{purpose}_{size}"
        return self.put(Set(name, key, elements, data, size=size, origin="ports", counted=counted))

    def ruleset(self) -> Ruleset:
        """Return the finished table."""
        counters = frozenset(self.counters)
        return Ruleset(self.family, self.chains, self.sets, self.timeouts, counters)


def drafted(
    draft: Draft, kept: Kept, name: Hashable, inputs: object, make: Callable[[Draft, Kept], T]
) -> T:
    """Put a part into a table: what was made of the same inputs, or what is made now.

    Args:
        draft: the table.
        kept: what the compile before has made.
        name: tells the part from others of the table.
        inputs: what it depends on, besides the table's family and what it logs.
        make: makes it in a draft of its own; what it returns is returned.
    """

    def made(within: Kept) -> tuple[Draft, T]:
        own = Draft(draft.family, logging=draft.logging)
        return own, make(own, within)

    part, found = kept.part((draft.family, name), (draft.logging, inputs), made)
    draft.take(part)
    return found


def quoted_pattern(name: str) -> str:
    """Return a managed interface pattern as nft text, whose closing asterisk is a wildcard too."""
    return f'"{name}"'


def covered(interface: str, patterns: Iterable[str]) -> bool:
    """Tell whether one of the patterns of managed interfaces matches a name."""
    for pattern in patterns:
        if interface.startswith(pattern[:-1]) if pattern[-1:] == "*" else interface == pattern:
            return True
    return False


def covering(interfaces: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the patterns that are needed to match all of some names; none where they cannot."""
    needed = set()
    for name in interfaces:
        for pattern in patterns:
            if covered(name, (pattern,)):
                needed.add(pattern)
                break
        else:
            return []
    return sorted(needed)
