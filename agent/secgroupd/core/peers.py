"""A class's peers -> nft lines: at most a handful of set lookups, however many peers there are.

Consecutive peers with one verdict are a *run*. In a run, members of groups are looked up in hash
sets (a large group has its own set, shared by everything that names it; small ones are united) and
networks in one interval set. Where verdicts alternate more than that, first matches are settled
here and three sets remain: addresses denied, addresses allowed, networks allowed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from itertools import groupby

from secgroupd.core.intervals import Interval, merged, without
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
    Key,
    NftRule,
    Set,
    box,
    capacity,
    content_digest,
    digest,
    slug,
)

OWN_SET_FROM = 128
"""Members from which a group keeps a set of its own beside others: copying it would cost more."""
OWN_SETS = 2
"""How many groups of a run may keep a set of their own; the others are united."""
LITERALS = 2
"""Networks and single addresses of a run that are compared directly, which beats a set lookup."""
RUNS = 3
"""How many runs a class may have before its first matches are settled by the compiler."""

Entry = tuple[Peer, Action]


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


def simplified(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Drop entries that decide nothing: repeated peers, what follows any peer, closing denies."""
    kept: list[Entry] = []
    seen: set[Peer] = set()
    for given, action in entries:
        everything = isinstance(given, PrefixPeer) and given.network.prefixlen == 0
        peer: Peer = AnyPeer() if everything else given
        if peer in seen:
            continue
        seen.add(peer)
        kept.append((peer, action))
        if isinstance(peer, AnyPeer):
            break
    while kept and kept[-1][1] is Action.DENY:
        kept.pop()
    return tuple(kept)


@dataclass(slots=True)
class PeerSets:
    """Collects the sets that lines refer to, each under a name that says what it means."""

    policy: Policy
    sets: dict[str, Set] = field(default_factory=dict)

    def lines(self, judge: Judge, entries: Sequence[Entry], origin: str) -> tuple[NftRule, ...]:
        """Return the lines that judge simplified entries; what matches none of them is denied."""
        runs = [
            (action, [peer for peer, _ in run])
            for action, run in groupby(entries, key=lambda entry: entry[1])
        ]
        texts: list[str] = []
        if len(runs) > RUNS:
            texts = self._settled(judge, entries)
        else:
            for action, peers in runs:
                texts += self._run(judge, peers, judge.verdict(action))
        if not entries or not isinstance(entries[-1][0], AnyPeer) or len(runs) > RUNS:
            texts.append(judge.deny)
        return tuple(NftRule(text, origin) for text in texts)

    def _run(self, judge: Judge, peers: Sequence[Peer], verdict: str) -> list[str]:
        if any(isinstance(peer, AnyPeer) for peer in peers):
            return [verdict]
        groups = sorted({peer.group_id for peer in peers if isinstance(peer, GroupPeer)})
        hosts = {
            int(p.network.network_address)
            for p in peers
            if isinstance(p, PrefixPeer) and _is_host(p)
        }
        networks = [
            p
            for p in peers
            if (isinstance(p, PrefixPeer) and not _is_host(p)) or isinstance(p, AddressGroupPeer)
        ]
        literal: list[str] = []
        if not groups and len(hosts) <= LITERALS:
            literal, hosts = [_network_text(judge, host, host) for host in sorted(hosts)], set()
        own, united = self._shared_out(judge, groups, hosts=bool(hosts))
        texts = [f"{judge.address} {network} {verdict}" for network in literal]
        texts += [f"{judge.address} @{self._group_set(judge, g)} {verdict}" for g in own]
        if united or hosts:
            texts.append(f"{judge.address} @{self._union(judge, united, hosts)} {verdict}")
        if networks:
            texts += [f"{match} {verdict}" for match in self._networks(judge, networks)]
        return texts

    def _shared_out(
        self, judge: Judge, groups: Sequence[str], *, hosts: bool
    ) -> tuple[list[str], list[str]]:
        """Split groups into those looked up in their own sets and those united in one."""
        if len(groups) == 1 and not hosts:
            return list(groups), []
        by_size = sorted(groups, key=lambda g: (-len(self._members(judge, g)), g))
        own = [g for g in by_size[:OWN_SETS] if len(self._members(judge, g)) >= OWN_SET_FROM]
        return own, [g for g in groups if g not in own]

    def _members(self, judge: Judge, group_id: str) -> frozenset[int]:
        return self.policy.members(group_id, judge.vpc_id, judge.family)

    def _scope(self, judge: Judge) -> str:
        return ",".join(sorted(self.policy.visible_vpcs(judge.vpc_id)))

    def _group_set(self, judge: Judge, group_id: str) -> str:
        members = self._members(judge, group_id)
        stem = f"{slug(group_id)}_{digest(self._scope(judge), group_id)}"
        return self._hash_set(judge, "g", stem, members, f"security group {group_id}")

    def _union(self, judge: Judge, groups: Sequence[str], hosts: set[int]) -> str:
        members = frozenset(hosts).union(*(self._members(judge, group) for group in groups))
        stem = digest(self._scope(judge), *groups, "", *(str(host) for host in sorted(hosts)))
        origin = "security groups " + ", ".join(groups) if groups else "addresses of rules"
        return self._hash_set(judge, "u", stem, members, origin)

    def _hash_set(
        self, judge: Judge, letter: str, stem: str, members: frozenset[int], origin: str
    ) -> str:
        size = capacity(len(members))
        name = f"{letter}{judge.family.version}_{stem}_{size}"
        if name not in self.sets:
            key = Key.IPV4 if judge.family is Family.IPV4 else Key.IPV6
            length = judge.family.bits // 8
            elements = {member.to_bytes(length, "big"): "" for member in members}
            self.sets[name] = Set(name, key, elements, size=size, origin=origin)
        return name

    def _networks(self, judge: Judge, peers: Sequence[Peer]) -> list[str]:
        """Return expressions that match the union of networks and address groups."""
        ids = sorted(
            f"net {p.network}" if isinstance(p, PrefixPeer) else f"group {p.address_group_id}"
            for p in peers
            if isinstance(p, PrefixPeer | AddressGroupPeer)
        )
        ranges = merged(r for p in peers for r in self.policy.ranges(p, judge.vpc_id, judge.family))
        literal = len(ranges) <= LITERALS and all(_is_network(*one) for one in ranges)
        if literal and not any(isinstance(p, AddressGroupPeer) for p in peers):
            return [f"{judge.address} {_network_text(judge, *one)}" for one in ranges]
        origin = ", ".join(i.replace("group ", "address group ", 1) for i in ids)
        return [f"{judge.address} . meta l4proto @{self._interval_set(judge, ranges, origin)}"]

    def _interval_set(self, judge: Judge, ranges: Sequence[Interval], origin: str) -> str:
        key = Key.NETWORK4 if judge.family is Family.IPV4 else Key.NETWORK6
        elements = {box(key, (first, 0), (last, 255)): "" for first, last in ranges}
        name = f"n{judge.family.version}_{content_digest(elements)}"
        self.sets.setdefault(name, Set(name, key, elements, origin=origin))
        return name

    def _settled(self, judge: Judge, entries: Sequence[Entry]) -> list[str]:
        """Settle first matches: every single address by itself, networks as disjoint ranges."""
        spans = [self.policy.ranges(peer, judge.vpc_id, judge.family) for peer, _ in entries]
        undecided = {
            a for (p, _), span in zip(entries, spans, strict=True) if _is_single(p) for a, _ in span
        }
        decided: dict[Action, set[int]] = {Action.ALLOW: set(), Action.DENY: set()}
        covered: list[Interval] = []
        allowed: list[Interval] = []
        for (peer, action), span in zip(entries, spans, strict=True):
            if _is_single(peer):
                here = undecided & {address for address, _ in span}
            else:
                here = {a for a in undecided if any(first <= a <= last for first, last in span)}
                fresh = [piece for one in merged(span) for piece in without(one, covered)]
                covered = merged([*covered, *fresh])
                allowed += fresh if action is Action.ALLOW else []
            decided[action] |= here
            undecided -= here
        stem = digest(self._scope(judge), *(f"{action} {peer!r}" for peer, action in entries))
        texts = [
            f"{judge.address} @{name} {judge.verdict(action)}"
            for action, letter in ((Action.DENY, "xd"), (Action.ALLOW, "xa"))
            for name in [
                self._hash_set(judge, letter, stem, frozenset(decided[action]), "settled peers")
            ]
        ]
        name = self._interval_set(judge, merged(allowed), "settled peers")
        return [*texts, f"{judge.address} . meta l4proto @{name} {judge.allow}"]


def _is_host(peer: Peer) -> bool:
    return isinstance(peer, PrefixPeer) and peer.network.prefixlen == peer.network.max_prefixlen


def _is_single(peer: Peer) -> bool:
    return isinstance(peer, GroupPeer) or _is_host(peer)


def _is_network(first: int, last: int) -> bool:
    """Tell whether a range is a network: a power of two of addresses, aligned."""
    size = last - first + 1
    return size & (size - 1) == 0 and first % size == 0


def _network_text(judge: Judge, first: int, last: int) -> str:
    length = judge.family.bits - (last - first + 1).bit_length() + 1
    make = IPv4Network if judge.family is Family.IPV4 else IPv6Network
    network = make((first, length))
    return str(network.network_address) if length == judge.family.bits else str(network)
