"""A packet's way through a compiled ruleset, without a kernel.

Knows the few words that the compiler writes and refuses every other, so that a new one is met here
before it is met by a packet. Elements are looked up by the kernel's own bytes.
"""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from ipaddress import ip_address, ip_network

from secgroupd.core.model import ICMP, ICMPV6, TCP, UDP, Address, Family, family_of
from secgroupd.core.ruleset import Data, Ruleset, Set, index_key, interface_key, joined_key

MOST_JUMPS = 16
"""Chains in one another that the kernel allows (NFT_JUMP_STACK_SIZE)."""


class State(StrEnum):
    """What connection tracking says of a packet."""

    NEW = "new"
    ESTABLISHED = "established"
    RELATED = "related"
    INVALID = "invalid"
    UNTRACKED = "untracked"


BESIDE_CONNECTIONS = frozenset({State.INVALID, State.UNTRACKED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """One packet at one hook.

    ``sport`` and ``dport`` are the first four bytes behind the IP header, whatever they mean there.
    ``mac`` is the sender's, ``fwmark`` the packet's own mark, ``mark`` the connection's.
    ``original`` is source and destination of the connection's first packet; None takes this
    packet's own. ``confirmed`` tells whether one of the connection's packets has passed all of the host, where
    the state does not. ``flags`` counts for TCP, ``target`` for neighbour discovery (None: the sender).
    """

    source: Address
    destination: Address
    protocol: int
    sport: int = 0
    dport: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    flags: frozenset[str] = frozenset({"syn"})
    iif: str = ""
    iif_index: int = 0
    oif: str = ""
    oif_index: int = 0
    fwmark: int = 0
    mac: bytes = bytes(6)
    state: State = State.NEW
    reply: bool = False
    confirmed: bool = False
    mark: int = 0
    original: tuple[Address, Address] | None = None
    target: Address | None = None

    @property
    def family(self) -> Family:
        return family_of(self.source)

    @property
    def tracked(self) -> bool:
        return self.state not in BESIDE_CONNECTIONS


@dataclass(frozen=True, slots=True)
class Walked:
    """What became of a packet: the verdict, the connection's mark now, and the chains it saw.

    ``counted`` are the counters that it has raised, one by one.
    """

    accepted: bool
    mark: int
    path: tuple[str, ...]
    counted: tuple[str, ...] = ()


class UnknownText(AssertionError):
    """A rule says something that this walker has never heard of."""


Condition = Callable[["Walk"], bool]
Made = Callable[["re.Match[str]"], Condition]


def _is_protocol(number: int) -> Made:
    return lambda _: lambda walk: walk.packet.protocol == number


def _protocol(match: re.Match[str]) -> Condition:
    return _is_protocol(int(match[1]))(match)


def _state(match: re.Match[str]) -> Condition:
    states = {State(word) for word in match[2].split(",")}
    return lambda walk: (walk.packet.state in states) is not (match[1] == "!= ")


def _direction(match: re.Match[str]) -> Condition:
    wanted = match[1] == "reply"
    return lambda walk: walk.packet.tracked and walk.packet.reply is wanted


def _confirmed(_: re.Match[str]) -> Condition:
    later = {State.ESTABLISHED, State.RELATED}
    return lambda walk: walk.packet.confirmed or walk.packet.state in later


COMPARISONS: Mapping[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
}


def _mark(match: re.Match[str]) -> Condition:
    mask, compare, number = int(match[1], 16), COMPARISONS[match[2]], int(match[3], 16)
    return lambda walk: walk.packet.tracked and compare(walk.mark & mask, number)


def _mark_between(match: re.Match[str]) -> Condition:
    mask, first, last = (int(number, 16) for number in match.groups())
    return lambda walk: walk.packet.tracked and first <= walk.mark & mask <= last


def _literal(match: re.Match[str]) -> Condition:
    """A network or address that stands in the rule: ``KEY NETWORK``."""
    name, network = match[1], ip_network(match[2])

    def condition(walk: "Walk") -> bool:
        raw = _bytes(walk.packet, name)
        return raw is not None and ip_address(raw) in network

    return condition


def _interface_like(match: re.Match[str]) -> Condition:
    side, name = match[1], match[2]
    if name.endswith("*"):
        return lambda walk: _interface(walk.packet, side).startswith(name[:-1])
    return lambda walk: _interface(walk.packet, side) == name


def _types(match: re.Match[str]) -> Condition:
    protocol = ICMP if match[1] == "icmp" else ICMPV6
    types = {int(number) for number in match[2].split(",")}
    return lambda walk: walk.packet.protocol == protocol and walk.packet.icmp_type in types


def _has_address(_: re.Match[str]) -> Condition:
    return lambda walk: not walk.packet.source.is_unspecified


def _target(match: re.Match[str]) -> Condition:
    """The first bits of the target of neighbour discovery."""
    length, value = int(match[1]), int(match[2], 16)

    def condition(walk: "Walk") -> bool:
        raw = _bytes(walk.packet, "@th,64,128")
        return raw is not None and int.from_bytes(raw, "big") >> (128 - length) == value

    return condition


def _udp_port(match: re.Match[str]) -> Condition:
    raw = int(match[2]).to_bytes(2, "big")
    return lambda walk: walk.packet.protocol == UDP and _bytes(walk.packet, f"th {match[1]}") == raw


def _no_opening(_: re.Match[str]) -> Condition:
    looked_at = {"fin", "syn", "rst", "ack"}
    return lambda walk: walk.packet.protocol == TCP and walk.packet.flags & looked_at != {"syn"}


def _no_icmp(_: re.Match[str]) -> Condition:
    return lambda walk: walk.packet.protocol not in {ICMP, ICMPV6}


def _family(match: re.Match[str]) -> Condition:
    wanted = Family.IPV4 if match[1] == "ip" else Family.IPV6
    return lambda walk: walk.packet.family is wanted


def _lookup(match: re.Match[str]) -> Condition:
    """A set's look-up: ``KEY @SET``."""
    fields, name = match[1].split(" . "), match[2]

    def condition(walk: "Walk") -> bool:
        key = _key(walk.now, fields)
        return key is not None and walk.find(name, key, Data.NOTHING) is not None

    return condition


def _counter(match: re.Match[str]) -> Condition:
    """A counter: no condition, but it takes its turn among them."""

    def condition(walk: "Walk") -> bool:
        walk.counted.append(match[1])
        return True

    return condition


def _counter_of_key(match: re.Match[str]) -> Condition:
    """The counter that a map has for a key; without one, the rule ends: ``counter name KEY map @M``."""
    fields, name = match[1].split(" . "), match[2]

    def condition(walk: "Walk") -> bool:
        key = _key(walk.packet, fields)
        found = None if key is None else walk.find(name, key, Data.COUNTER)
        if found is not None:
            walk.counted.append(found)
        return found is not None

    return condition


FIELD = (
    r"(?:meta l4proto|meta mark|ct mark|ether saddr|th [sd]port|icmp (?:type|code)|icmpv6 (?:type|code)|[io]ifname|[io]if"
    r"|(?:ct (?:original|reply) )?ip6? [sd]addr|@th,64,128)"
)
KEY = rf"{FIELD}(?: \. {FIELD})*"

CONDITIONS: Sequence[tuple[re.Pattern[str], Made]] = [
    (re.compile(pattern + " "), made)
    for pattern, made in (
        (r"ct state (!= )?([a-z,]+)", _state),
        (r"ct direction (original|reply)", _direction),
        (r"ct status confirmed", _confirmed),
        (r"ct mark and (0x[0-9a-f]+) (==|!=) (0x[0-9a-f]+)", _mark),
        (r"ct mark and (0x[0-9a-f]+) (0x[0-9a-f]+)-(0x[0-9a-f]+)", _mark_between),
        (r"meta protocol (ip6?)", _family),
        (r"meta l4proto ([0-9]+)", _protocol),
        (r"meta l4proto icmp", _is_protocol(ICMP)),
        (r"meta l4proto ipv6-icmp", _is_protocol(ICMPV6)),
        (r"meta l4proto != \{ icmp, ipv6-icmp \}", _no_icmp),
        (r"(icmp|icmpv6) type \{ ([0-9, ]+) \}", _types),
        (r"(icmp|icmpv6) type ([0-9]+)", _types),
        (r"ip6 saddr != ::", _has_address),
        (r"@th,64,([0-9]+) (0x[0-9a-f]+)", _target),
        (r"udp ([sd]port) ([0-9]+)", _udp_port),
        (r"tcp flags & \(fin \| syn \| rst \| ack\) != syn", _no_opening),
        (r'([io])ifname "([^"\\]+)"', _interface_like),
        (rf"({KEY}) @(\S+)", _lookup),
        (r'counter name "([^"]+)"', _counter),
        (rf"counter name ({KEY}) map @(\S+)", _counter_of_key),
        (r"((?:ct (?:original|reply) )?ip6? [sd]addr) ([0-9a-f:.]+(?:/[0-9]+)?)", _literal),
    )
]
VERDICT = re.compile(r"accept|drop|return|(?:goto|jump) (\S+)")
STAMP = re.compile(
    r"ct mark set (?:(?P<plain>[0-9]+)"
    r"|ct mark (?:and (?P<mask>0x[0-9a-f]+) )?or (?P<bits>0x[0-9a-f]+))"
)
VERDICT_MAP = re.compile(rf"({KEY}) vmap @(\S+)")


def _interface(packet: Packet, side: str) -> str:
    return packet.iif if side == "i" else packet.oif


def _beside(packet: Packet, name: str) -> bytes | None:
    """Return the bytes of what is known of a packet besides its network and transport headers."""
    match name:
        case "meta l4proto":
            return bytes([packet.protocol])
        case "meta mark":
            return index_key(packet.fwmark)
        case "ct mark":
            return index_key(packet.mark) if packet.tracked else None
        case "ether saddr":
            return packet.mac
        case "iifname" | "oifname":
            return interface_key(_interface(packet, name[0]))
        case _:
            return index_key(packet.iif_index if name == "iif" else packet.oif_index)


def _bytes(packet: Packet, name: str) -> bytes | None:
    """Return a field's bytes, or None where the packet has no such field."""
    original = packet.original or (packet.source, packet.destination)
    match name.split():
        case ["meta" | "ether" | "iifname" | "oifname" | "iif" | "oif", *_] | ["ct", "mark"]:
            return _beside(packet, name)
        case ["th", end]:
            return (packet.sport if end == "sport" else packet.dport).to_bytes(2, "big")
        case ["icmp" | "icmpv6" as word, part]:
            if packet.protocol != (ICMP if word == "icmp" else ICMPV6):
                return None
            return bytes([packet.icmp_type if part == "type" else packet.icmp_code])
        case ["ct", which, word, end]:
            if not packet.tracked or (word == "ip") is not (packet.family is Family.IPV4):
                return None
            ends = original if which == "original" else original[::-1]
            return ends[0 if end == "saddr" else 1].packed
        case ["@th,64,128"]:
            return (packet.target or packet.source).packed if packet.protocol == ICMPV6 else None
        case [word, end]:
            if (word == "ip") is not (packet.family is Family.IPV4):
                return None
            return (packet.source if end == "saddr" else packet.destination).packed
        case _:
            raise UnknownText(name)


def _key(packet: Packet, names: Sequence[str]) -> list[bytes] | None:
    found = [_bytes(packet, name) for name in names]
    parts = [part for part in found if part is not None]
    return parts if len(parts) == len(found) else None


def _matching(one: Set, parts: Sequence[bytes]) -> Iterator[str]:
    """Yield the verdicts of the elements of an interval set that a key falls into."""
    for raw, verdict in one.elements.items():
        half, offset, inside = len(raw) // 2, 0, True
        for part in parts:
            first = raw[offset : offset + len(part)]
            last = raw[half + offset : half + offset + len(part)]
            inside = inside and first <= part <= last
            offset += (len(part) + 3) // 4 * 4
        if offset != half:
            raise UnknownText(f"{one.name} has keys of {half} bytes, asked for {offset}")
        if inside:
            yield verdict


@dataclass(frozen=True)
class Rule:
    """One rule, understood: when all conditions hold, the action is taken."""

    conditions: tuple[Condition, ...]
    verdict: str = ""
    stamp: Callable[[int], int] | None = None
    fields: tuple[str, ...] = ()
    map_name: str = ""


def understood(text: str) -> Rule:
    """Return a rule's meaning.

    Raises:
        UnknownText: the text is not of the compiler's vocabulary.
    """
    conditions: list[Condition] = []
    rest = text
    while True:
        if VERDICT.fullmatch(rest):
            return Rule(tuple(conditions), rest)
        if rest == "counter drop":
            return Rule(tuple(conditions), "drop")
        if match := STAMP.fullmatch(rest):
            return Rule(tuple(conditions), stamp=_stamping(match))
        if match := VERDICT_MAP.fullmatch(rest):
            fields = tuple(match[1].split(" . "))
            return Rule(tuple(conditions), fields=fields, map_name=match[2])
        for pattern, made in CONDITIONS:
            if match := pattern.match(rest):
                conditions.append(made(match))
                rest = rest[match.end() :]
                break
        else:
            raise UnknownText(text)


def _stamping(match: re.Match[str]) -> Callable[[int], int]:
    if match["plain"] is not None:
        plain = int(match["plain"])
        return lambda _: plain
    mask, bits = int(match["mask"] or "0xffffffff", 16), int(match["bits"], 16)
    return lambda mark: mark & mask | bits


@dataclass
class Walker:
    """Walks packets through one ruleset."""

    ruleset: Ruleset

    @cached_property
    def _understood(self) -> dict[str, tuple[Rule, ...]]:
        return {}

    def rules(self, name: str) -> tuple[Rule, ...]:
        """Return a chain's rules; those of the source check, which no walk reaches, stay unread."""
        if name not in self._understood:
            chain = self.ruleset.chains[name]
            self._understood[name] = tuple(understood(rule.text) for rule in chain.rules)
        return self._understood[name]

    def walk(self, base: str, packet: Packet) -> Walked:
        """Walk a packet through a base chain and what it leads to."""
        return Walk(self, packet).run(base)


@dataclass
class Walk:
    """One packet under way."""

    walker: Walker
    packet: Packet
    mark: int = 0
    path: list[str] = field(default_factory=list)
    counted: list[str] = field(default_factory=list)

    @property
    def now(self) -> Packet:
        """The packet with its connection's mark as it is by now."""
        return replace(self.packet, mark=self.mark)

    def run(self, base: str) -> Walked:
        self.mark = self.packet.mark
        accepted = self._chain(base, 1)
        return Walked(accepted is not False, self.mark, tuple(self.path), tuple(self.counted))

    def _chain(self, name: str, depth: int) -> bool | None:
        """Return the verdict, or None where the chain's caller goes on."""
        if depth > MOST_JUMPS:
            raise UnknownText(f"more than {MOST_JUMPS} chains in one another: {self.path}")
        self.path.append(name)
        for rule in self.walker.rules(name):
            if not all(condition(self) for condition in rule.conditions):
                continue
            if rule.stamp is not None:
                self.mark = rule.stamp(self.mark) if self.packet.tracked else self.mark
                continue
            verdict = rule.verdict if not rule.map_name else self._mapped(rule)
            if verdict is None:
                continue
            word, _, target = verdict.partition(" ")
            if word in {"accept", "drop"}:
                return word == "accept"
            if word == "return":
                return None
            found = self._chain(target, depth + 1)
            if found is not None or word == "goto":
                return found
        return None

    def _mapped(self, rule: Rule) -> str | None:
        key = _key(self.packet, rule.fields)
        if key is None:
            return None
        verdict = self.find(rule.map_name, key, Data.VERDICT)
        if verdict is not None and not VERDICT.fullmatch(verdict):
            raise UnknownText(f"{rule.map_name}: {verdict}")
        return verdict

    def find(self, name: str, parts: Sequence[bytes], data: Data) -> str | None:
        """Return what a set or map has for a key, or None where it is missing."""
        one = self.walker.ruleset.sets[name]
        if one.data is not data:
            raise UnknownText(f"{name} leads to {one.data}, wanted {data}")
        if not one.key.value.interval:
            lengths = [len(part) for part in parts]
            if lengths != list(one.key.value.fields):
                raise UnknownText(f"{name} has no keys of {lengths} bytes")
            return one.elements.get(joined_key(*parts))
        found = list(_matching(one, parts))
        if len(found) > 1:
            raise UnknownText(f"{name} has overlapping elements")
        return found[0] if found else None
