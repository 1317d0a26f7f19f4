"""A class's peers -> nft lines: at most a handful of set lookups, however many peers there are.

Consecutive peers with one verdict are a *run*. In a run, a large group is looked up in a hash set of
its own, which is shared by everything that names it. What stands between such groups is *folded*:
single addresses and members of small groups into one map, networks into another. Where verdicts
alternate more than that, the whole class is folded into four maps.

Whatever is folded, the rule that decides is counted: a map leads from the peer to the counter of
the first rule that matches it, which is settled here, for every address.

Lines depend on which groups there are, and in steps on how large they are, but not on who is in them:
the sets that say so are named by what they mean, and filled when the lines of a whole table are known.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from itertools import groupby
from typing import Protocol

from secgroupd.core import origins
from secgroupd.core.intervals import Interval, merged, without
from secgroupd.core.kept import Kept
from secgroupd.core.model import (
    Action,
    AddressGroupPeer,
    AnyPeer,
    Direction,
    Family,
    GroupPeer,
    Peer,
    PrefixPeer,
)
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import (
    Data,
    Key,
    NftRule,
    Set,
    box,
    capacity,
    content_digest,
    digest,
    slug,
)

OWN_SET_FROM = 256
"""Room for members (``capacity``) from which a group keeps a set of its own beside others: copying it
would cost more."""
OWN_SETS = 2
"""How many groups of a run may keep a set of their own; the others are united."""
LITERALS = 2
"""Networks and single addresses of a run that are compared directly, which beats a set lookup."""
RUNS = 3
"""How many runs a class may have before its first matches are settled by the compiler."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one rule contributes to a class: its peer, its verdict, and the counter of its packets."""

    peer: Peer
    action: Action
    counter: str


class Basis(Enum):
    """Which address is the peer's: the tracked connection's, or for the untrackable the packet's."""

    CONNECTION = "connection"
    PACKET = "packet"


@dataclass(frozen=True, slots=True)
class Judge:
    """Where a class stands: the direction and family it judges, from which VPC, and its exits."""

    direction: Direction
    family: Family
    vpc_id: str
    basis: Basis = Basis.CONNECTION

    @property
    def address(self) -> str:
        """The nft expression of the peer's address, as the port's instance sees it.

        A connection's tuples are the same in packets of both directions, so that one chain judges
        first packets and packets judged again: an originator called the original tuple's
        destination, a responder answers to the reply tuple's, whatever the host's NAT made of it.
        """
        word = "ip" if self.family is Family.IPV4 else "ip6"
        inbound = self.direction is Direction.INGRESS
        if self.basis is Basis.PACKET:
            return f"{word} {'saddr' if inbound else 'daddr'}"
        return f"ct {'reply' if inbound else 'original'} {word} daddr"

    @property
    def allow(self) -> str:
        """Where an allowed packet goes."""
        if self.basis is Basis.PACKET:
            return "accept"
        return "goto ok_in" if self.direction is Direction.INGRESS else "goto ok_out"

    @property
    def deny(self) -> str:
        """Where a denied packet goes."""
        return "goto deny_in" if self.direction is Direction.INGRESS else "goto deny_out"

    def verdict(self, action: Action) -> str:
        """Return where a decided packet goes."""
        return self.allow if action is Action.ALLOW else self.deny


def simplified(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Drop entries that decide nothing: repeated peers, and what follows any peer."""
    kept: dict[Peer, Entry] = {}
    for entry in entries:
        peer = entry.peer
        if isinstance(peer, PrefixPeer) and peer.network.prefixlen == 0:
            peer = AnyPeer()
        kept.setdefault(peer, replace(entry, peer=peer))
        if isinstance(peer, AnyPeer):
            break
    return tuple(kept.values())


@dataclass(frozen=True, slots=True)
class _Piece:
    """Addresses ``first..last``, no other piece's, and the entry that decides them."""

    first: int
    last: int
    entry: Entry


class Membership(Protocol):
    """A set whose elements are members of groups, before it is filled."""

    def filled(self, policy: Policy, kept: Kept) -> Set:
        """Return the set with those who are members by now."""


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """The set of a group's members as seen from a VPC; whatever names the group shares it."""

    vpc_id: str
    family: Family
    group_id: str

    def filled(self, policy: Policy, kept: Kept) -> Set:
        """Return the set with those who are members by now."""
        members = policy.members(self.group_id, self.vpc_id, self.family)
        scope = _scope(policy, self.vpc_id)

        def make(_: Kept) -> Set:
            size = capacity(len(members))
            meaning = digest(scope, self.group_id)
            name = f"g{self.family.version}_{slug(self.group_id)}_{meaning}_{size}"
            elements = {_packed(self.family, member): "" for member in members}
            key, origin = _ADDRESS_KEYS[self.family], origins.group(self.group_id)
            return Set(name, key, elements, size=size, origin=origin)

        name = "members", self.vpc_id, self.family, self.group_id
        return kept.part(name, (members, scope), make)


@dataclass(frozen=True, slots=True)
class FoldedMembers:
    """A map of single addresses to counters: members of groups, and others that stand between them.

    Attributes:
        action: what the rules do whose addresses are in it; None where all do the same.
    """

    name: str
    size: int
    judge: Judge
    entries: tuple[Entry, ...]
    action: Action | None

    def filled(self, policy: Policy, kept: Kept) -> Set:
        """Return the map with those who are members by now."""
        judge = self.judge

        def make(_: Kept) -> Set:
            elements = {
                _packed(judge.family, address): entry.counter
                for address, entry in _settle(policy, judge, self.entries)[0].items()
                if self.action in {None, entry.action}
            }
            key, origin = _ADDRESS_KEYS[judge.family], _origin(self.entries)
            return Set(self.name, key, elements, Data.COUNTER, self.size, origin=origin)

        # The name says all that is not said elsewhere.
        meant = [_meant(policy, kept, judge, entry.peer) for entry in self.entries]
        return kept.part(("folded", self.name), meant, make)


@dataclass(slots=True)
class PeerSets:
    """Collects the sets and counters that lines refer to, each under a name that is its meaning.

    Attributes:
        sets: those that are what the rules say.
        members: those that are to be filled with members of groups, by name.
    """

    policy: Policy
    kept: Kept = field(default_factory=Kept)
    sets: dict[str, Set] = field(default_factory=dict)
    members: dict[str, Membership] = field(default_factory=dict)
    counters: set[str] = field(default_factory=set)

    def lines(self, judge: Judge, entries: Sequence[Entry], origin: str) -> tuple[NftRule, ...]:
        """Return the lines that judge simplified entries; what matches none of them is denied.

        Every line that decides raises the counter of the first entry that matches.
        """
        self.counters.update(entry.counter for entry in entries)
        runs = [tuple(run) for _, run in groupby(entries, key=lambda entry: entry.action)]
        closing = runs.pop() if runs and runs[-1][0].action is Action.DENY else ()
        texts: list[str] = []
        if len(runs) > RUNS:
            texts = self._settled(judge, [entry for run in runs for entry in run])
        else:
            for run in runs:
                texts += self._run(judge, run)
        texts += self._run(judge, closing)
        total = bool(entries) and isinstance(entries[-1].peer, AnyPeer)
        if not total or (len(runs) > RUNS and not closing):
            texts.append(judge.deny)
        return tuple(NftRule(text, origin) for text in texts)

    def _run(self, judge: Judge, run: Sequence[Entry]) -> list[str]:
        """Return the lines of entries with one verdict, so that the first that matches counts."""
        texts: list[str] = []
        own = self._own_groups(judge, run)
        folded: list[Entry] = []
        for entry in run:
            peer = entry.peer
            if isinstance(peer, AnyPeer):
                match = ""
            elif isinstance(peer, GroupPeer) and peer.group_id in own:
                match = f"{judge.address} @{self._group_set(judge, peer.group_id)} "
            else:
                folded.append(entry)
                continue
            texts += self._folded(judge, folded)
            texts.append(f"{match}{_counted(judge, entry)}")
            folded = []
        return texts + self._folded(judge, folded)

    def _own_groups(self, judge: Judge, run: Sequence[Entry]) -> frozenset[str]:
        """Return the groups that are looked up in their own sets; the others' members are folded."""
        groups = [entry.peer.group_id for entry in run if isinstance(entry.peer, GroupPeer)]
        if len(groups) == 1:
            return frozenset(groups)
        sizes = {group: self._room(judge, group) for group in groups}
        by_size = sorted(groups, key=lambda group: (-sizes[group], group))
        return frozenset(group for group in by_size[:OWN_SETS] if sizes[group] >= OWN_SET_FROM)

    def _folded(self, judge: Judge, entries: Sequence[Entry]) -> list[str]:
        """Return lines for entries with one verdict, none of which has a line of its own yet."""
        networks = [entry.peer.network for entry in entries if isinstance(entry.peer, PrefixPeer)]
        if len(networks) == len(entries) <= LITERALS:
            return [
                f"{judge.address} {_literal(network)} {_counted(judge, entry)}"
                for network, entry in zip(networks, entries, strict=True)
            ]
        _, pieces = _settle(self.policy, judge, entries)
        action = entries[0].action
        return [
            *self._single_lines(judge, "u", entries, action),
            *self._piece_lines(judge, entries, pieces, action),
        ]

    def _settled(self, judge: Judge, entries: Sequence[Entry]) -> list[str]:
        """Return lines for entries whose verdicts alternate: who decides which address is settled."""
        _, pieces = _settle(self.policy, judge, entries)
        texts: list[str] = []
        for action, letter in ((Action.DENY, "xd"), (Action.ALLOW, "xa")):
            texts += self._single_lines(judge, letter, entries, action)
        for action in (Action.DENY, Action.ALLOW):
            some = [piece for piece in pieces if piece.entry.action is action]
            texts += self._piece_lines(judge, entries, some, action)
        return texts

    def _single_lines(
        self, judge: Judge, letter: str, entries: Sequence[Entry], action: Action
    ) -> list[str]:
        """Return the line that looks single addresses up; none where no entry could have any."""
        hosts = sum(_is_host(entry.peer) for entry in entries)
        groups = [entry.peer.group_id for entry in entries if isinstance(entry.peer, GroupPeer)]
        if not hosts and not groups:
            return []
        meaning = digest(
            _scope(self.policy, judge.vpc_id),
            *(f"{e.action} {e.peer!r} {e.counter}" for e in entries),
        )
        # As much room as all have by themselves: it does not change before one of theirs does.
        size = capacity(hosts) + sum(self._room(judge, group) for group in groups)
        name = f"{letter}{judge.family.version}_{meaning}_{size}"
        one = FoldedMembers(name, size, judge, tuple(entries), None if letter == "u" else action)
        if groups:
            self.members[name] = one
        else:
            self.sets[name] = one.filled(self.policy, self.kept)
        return [f"counter name {judge.address} map @{name} {judge.verdict(action)}"]

    def _piece_lines(
        self, judge: Judge, entries: Sequence[Entry], pieces: Sequence[_Piece], action: Action
    ) -> list[str]:
        """Return the line that looks networks up, none where there are none."""
        if not pieces:
            return []
        key = Key.NETWORK4 if judge.family is Family.IPV4 else Key.NETWORK6
        elements = {box(key, (p.first, 0), (p.last, 255)): p.entry.counter for p in _joined(pieces)}
        name = f"n{judge.family.version}_{content_digest(elements)}"
        self.sets[name] = Set(name, key, elements, Data.COUNTER, origin=_origin(entries))
        address = f"{judge.address} . meta l4proto"
        return [f"counter name {address} map @{name} {judge.verdict(action)}"]

    def _group_set(self, judge: Judge, group_id: str) -> str:
        """Refer to the set of a group's members; return its name."""
        one = GroupMembers(judge.vpc_id, judge.family, group_id)
        name = one.filled(self.policy, self.kept).name
        self.members[name] = one
        return name

    def _room(self, judge: Judge, group_id: str) -> int:
        """Return for how many members there is room in the set of a group."""
        one = GroupMembers(judge.vpc_id, judge.family, group_id)
        return one.filled(self.policy, self.kept).size or 0


def _settle(
    policy: Policy, judge: Judge, entries: Sequence[Entry]
) -> tuple[dict[int, Entry], list[_Piece]]:
    """Find the first entry that matches, for every address.

    Returns:
        The entries that decide single addresses, by address, which are looked up first; and
        disjoint pieces of the networks with theirs, in order of the addresses.
    """
    spans = [policy.ranges(entry.peer, judge.vpc_id, judge.family) for entry in entries]
    singles: dict[int, Entry] = {}
    pieces: list[_Piece] = []
    covered: list[Interval] = []
    for entry, span in zip(entries, spans, strict=True):
        if _is_single(entry.peer):
            for address, _ in span:
                if address not in singles:
                    singles[address] = _decider(pieces, address) or entry
            continue
        fresh = [piece for one in merged(span) for piece in without(one, covered)]
        covered = merged([*covered, *fresh])
        pieces = sorted(
            [*pieces, *(_Piece(first, last, entry) for first, last in fresh)],
            key=lambda piece: piece.first,
        )
    return singles, pieces


def _meant(policy: Policy, kept: Kept, judge: Judge, peer: Peer) -> object:
    """Return what a peer means that means something elsewhere."""
    if isinstance(peer, GroupPeer):
        return GroupMembers(judge.vpc_id, judge.family, peer.group_id).filled(policy, kept)
    if isinstance(peer, AddressGroupPeer):
        return policy.address_groups.get(peer.address_group_id)
    return None


def _scope(policy: Policy, vpc_id: str) -> str:
    return ",".join(sorted(policy.visible_vpcs(vpc_id)))


_ADDRESS_KEYS = {Family.IPV4: Key.IPV4, Family.IPV6: Key.IPV6}


def _packed(family: Family, address: int) -> bytes:
    return address.to_bytes(family.bits // 8, "big")


def _counted(judge: Judge, entry: Entry) -> str:
    return f'counter name "{entry.counter}" {judge.verdict(entry.action)}'


def _decider(pieces: Sequence[_Piece], address: int) -> Entry | None:
    """Return the entry of the piece that an address is in."""
    at = bisect_right(pieces, address, key=lambda piece: piece.first) - 1
    return pieces[at].entry if at >= 0 and address <= pieces[at].last else None


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Join neighbouring pieces that one entry decides."""
    joined: list[_Piece] = []
    for piece in pieces:
        if joined and joined[-1].entry == piece.entry and joined[-1].last + 1 == piece.first:
            joined[-1] = replace(joined[-1], last=piece.last)
        else:
            joined.append(piece)
    return joined


def _origin(entries: Iterable[Entry]) -> str:
    """Name the document's objects that a map of peers comes from."""
    found: list[str] = []
    for peer in (entry.peer for entry in entries):
        if isinstance(peer, GroupPeer):
            found.append(origins.group(peer.group_id))
        elif isinstance(peer, AddressGroupPeer):
            found.append(origins.address_group(peer.address_group_id))
        elif isinstance(peer, PrefixPeer):
            found.append(f"net {peer.network}")
    return origins.SEPARATOR.join(found)


def _literal(network: IPv4Network | IPv6Network) -> str:
    host = network.prefixlen == network.max_prefixlen
    return str(network.network_address if host else network)


def _is_host(peer: Peer) -> bool:
    return isinstance(peer, PrefixPeer) and peer.network.prefixlen == peer.network.max_prefixlen


def _is_single(peer: Peer) -> bool:
    return isinstance(peer, GroupPeer) or _is_host(peer)
