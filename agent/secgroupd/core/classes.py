"""One direction's rules of a profile -> maps and chains, and the lines that lead into them.

A map finds the class of protocol and destination port, or of ICMP type and code, over the whole
ordered list of groups; the class's chain looks the peer up and ends in a verdict.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from secgroupd.core import names
from secgroupd.core.draft import Draft, drafted
from secgroupd.core.kept import Kept
from secgroupd.core.meaning import Meanings, Named, named_by
from secgroupd.core.model import Direction, Family
from secgroupd.core.peers import Basis, Entry, Judge, Membership, PeerSets, simplified
from secgroupd.core.policy import OrderedRule, Policy, Profile
from secgroupd.core.ruleset import Chain, Data, Key, NftRule, Set, box, content_digest, digest
from secgroupd.core.services import (
    Box,
    LinkService,
    ServiceClass,
    icmp_protocol,
    partition,
)

IP_WORDS = {Family.IPV4: "ip", Family.IPV6: "ip6"}
ICMP_WORDS = {Family.IPV4: "icmp", Family.IPV6: "icmpv6"}
"""nft's words for the headers of each family."""

REPLY_TYPES = {
    Family.IPV4: {8: 0, 13: 14, 15: 16, 17: 18},
    Family.IPV6: {128: 129, 139: 140},
}
"""ICMP types that open a tracked connection, with the type of their replies."""


@dataclass(slots=True)
class Judging:
    """Lines that lead into one direction's compiled rules, for each kind of packet."""

    first: list[str] = field(default_factory=list)
    reply: list[str] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Scope:
    """One profile, direction and family: the stem of its names, and what its classes refer to."""

    stem: str
    judge: Judge
    rules: tuple[OrderedRule, ...]
    origin: str
    parted: "_Parted"

    def named(self, service: ServiceClass) -> "_Class":
        """Return what is known of a class without asking what its peers mean."""
        # The services are held as long as what is known of them, so that each is known by identity.
        known = (
            self.parted.classes.get(id(service)) if self.judge.basis is Basis.CONNECTION else None
        )
        if known is None:
            entries = self.entries(service)
            peers = named_by((entry.peer, self.judge.family) for entry in entries)
            name = f"c_{self.class_digest(service)}"
            known = _Class(name, f"goto {name}", entries, peers)
            if self.judge.basis is Basis.CONNECTION:
                self.parted.classes[id(service)] = known
        return known

    def class_digest(self, service: ServiceClass) -> str:
        """Return what names a class: its rules by id, so that what they say may change in place."""
        judge = self.judge
        ids = [part for at in service.rules for part in self._id(at)]
        where = [judge.direction, judge.family.value, judge.vpc_id, judge.basis.value]
        return digest(*where, str(service.link_service), str(service.source_port), *ids)

    def _id(self, place: int) -> tuple[str, str]:
        return self.rules[place].group_id, self.rules[place].rule.id

    def entries(self, service: ServiceClass) -> tuple[Entry, ...]:
        """Return the peers that decide in a class, in order."""
        matching = (self.rules[place] for place in service.rules)
        return simplified(
            Entry(one.rule.peer, one.rule.action, names.counter(one.group_id, one.rule.id))
            for one in matching
        )


@dataclass(frozen=True, slots=True)
class _Class:
    """A class's name, its verdict if it has a chain, and the peers that decide in it.

    ``named`` are those peers that mean something elsewhere.
    """

    name: str
    verdict: str
    entries: tuple[Entry, ...]
    named: tuple[Named, ...]


@dataclass(slots=True)
class _Parted:
    """A profile's rules of one direction and family in classes, and what comes of these alone.

    Attributes:
        services: the class of each element of the map that finds classes; None of those of ICMP,
            where it is told by type.
        keys: of the elements.
        icmp: the classes of ICMP by type, if its types are told apart.
        untold: the class of ICMP where they are not.
        classes: those of connections, by the identity of the service class.
        map: the map as it was made last; it is the same while all verdicts in it are.
    """

    services: tuple[ServiceClass | None, ...]
    keys: tuple[bytes, ...]
    icmp: tuple[Box, ...]
    untold: ServiceClass
    classes: dict[int, _Class] = field(default_factory=dict)
    map: Set | None = None


@dataclass(frozen=True, slots=True)
class Classes:
    """Compiles a profile's rules into a table, where equal classes are one chain.

    ``own`` keeps what is made for this profile alone, ``kept`` what it shares with others.
    """

    draft: Draft
    policy: Policy
    meanings: Meanings
    kept: Kept
    own: Kept

    def judging(self, profile: Profile, direction: Direction, stem: str, origin: str) -> Judging:
        """Compile one direction's rules; return the lines that lead into them."""
        found = Judging()
        for family in Family:
            one = self._of_family(profile, direction, family, stem, origin)
            found.first += one.first
            found.reply += one.reply
            found.untracked += one.untracked
        return found

    def _of_family(
        self, profile: Profile, direction: Direction, family: Family, stem: str, origin: str
    ) -> Judging:
        """Compile one direction's rules of a family, if they or what their peers mean have changed."""
        rules = self._rules(profile.groups, direction, family)
        judge = Judge(direction, family, profile.vpc_id)

        def make(draft: Draft, own: Kept) -> Judging:
            return replace(self, draft=draft, own=own).made(judge, rules, stem, origin)

        named = self.own.part(
            ("named", direction, family),
            rules,
            lambda _: named_by((one.rule.peer, family) for one in rules),
        )
        inputs = rules, self.meanings.of_peers(profile.vpc_id, named), self._visible(judge)
        return drafted(self.draft, self.own, ("judging", direction, family), inputs, make)

    def made(self, judge: Judge, rules: tuple[OrderedRule, ...], stem: str, origin: str) -> Judging:
        """Compile rules of one direction and family; return the lines that lead into them."""
        parted = self._parted(rules, judge.direction, judge.family)
        stem_here = f"{names.towards(judge.direction)}{judge.family.version}_{stem}"
        scope = _Scope(stem_here, judge, rules, origin, parted)
        name = self._service_map(scope)
        word = f"meta protocol {IP_WORDS[judge.family]} th"
        return Judging(
            [f"{word} dport . meta l4proto vmap @{name}"],
            [f"{word} sport . meta l4proto vmap @{name}"],
            self._untracked(scope),
        )

    def _rules(
        self, groups: Sequence[str], direction: Direction, family: Family
    ) -> tuple[OrderedRule, ...]:
        """Return the rules of an ordered list of groups; those of before where they are the same."""
        found: list[OrderedRule] = []
        for group_id in groups:
            make = partial(self._rules_of, group_id, direction, family)
            group = self.policy.groups.get(group_id)
            name = "rules", group_id, direction, family
            found += self.own.part(name, group and group.rules, make)
        return tuple(found)

    def _rules_of(
        self, group_id: str, direction: Direction, family: Family, _: Kept
    ) -> tuple[OrderedRule, ...]:
        return self.policy.rules((group_id,), direction, family)

    def _visible(self, judge: Judge) -> frozenset[str]:
        return self.policy.visible_vpcs(judge.vpc_id)

    def _parted(
        self, rules: Sequence[OrderedRule], direction: Direction, family: Family
    ) -> _Parted:
        def make(_: Kept) -> _Parted:
            found = partition([ordered.rule for ordered in rules], direction, family)
            icmp = icmp_protocol(family)
            # Half of the boxes lie between ports that rules name, and many of those are equal.
            once: dict[ServiceClass, ServiceClass] = {}
            return _Parted(
                tuple(
                    None
                    if found.icmp and b.low[0] == icmp
                    else once.setdefault(b.service, b.service)
                    for b in found.boxes
                ),
                tuple(box(Key.SERVICE, b.low[::-1], b.high[::-1]) for b in found.boxes),
                found.icmp,
                next(b.service for b in found.boxes if b.low[0] <= icmp <= b.high[0]),
            )

        return self.own.part(("services", direction, family), rules, make)

    def _service_map(self, scope: _Scope) -> str:
        """Make the map from protocol and port to the chain of the class; return its name."""
        parted = scope.parted
        verdicts = [
            f"goto {self._icmp_chains(scope, parted.icmp)}"
            if service is None
            else self._class(scope, service)
            for service in parted.services
        ]
        if parted.map is None or list(parted.map.elements.values()) != verdicts:
            elements = dict(zip(parted.keys, verdicts, strict=True))
            parted.map = self._interval_map("m", Key.SERVICE, elements, scope.origin)
        return self.draft.put(parted.map)

    @staticmethod
    def _interval_map(letter: str, key: Key, elements: Mapping[bytes, str], origin: str) -> Set:
        name = f"{letter}_{content_digest(elements)}"
        return Set(name, key, elements, Data.VERDICT, origin=origin)

    def _icmp_chains(self, scope: _Scope, boxes: Iterable[Box]) -> str:
        """Make the maps from ICMP type and code to classes, for first packets and for replies."""
        replies = [
            Box((reply, piece.low[1]), (reply, piece.high[1]), piece.service)
            for piece in boxes
            for request, reply in REPLY_TYPES[scope.judge.family].items()
            if piece.low[0] <= request <= piece.high[0]
        ]
        word = ICMP_WORDS[scope.judge.family]
        lookup = f"{word} type . {word} code vmap"
        reply_map, own_map = self._icmp_map(scope, replies), self._icmp_map(scope, boxes)
        deny = scope.judge.deny
        replied = self.draft.chain(
            f"icmp_reply_{scope.stem}", [f"{lookup} @{reply_map}", deny], scope.origin
        )
        return self.draft.chain(
            f"icmp_{scope.stem}",
            [f"ct direction reply goto {replied}", f"{lookup} @{own_map}", deny],
            scope.origin,
        )

    def _icmp_map(self, scope: _Scope, boxes: Iterable[Box]) -> str:
        four = scope.judge.family is Family.IPV4
        key = Key.ICMP if four else Key.ICMPV6
        elements = {box(key, b.low, b.high): self._class(scope, b.service) for b in boxes}
        return self.draft.put(
            self._interval_map("i4" if four else "i6", key, elements, scope.origin)
        )

    def _untracked(self, scope: _Scope) -> list[str]:
        """Return lines that judge ICMP which opens no connection: errors nobody caused, and such.

        Conntrack calls it invalid; the rules still decide, by the packet's own addresses.
        """
        judge, parted = scope.judge, scope.parted
        packets = replace(
            scope, judge=Judge(judge.direction, judge.family, judge.vpc_id, Basis.PACKET)
        )
        protocol = "icmp" if judge.family is Family.IPV4 else "ipv6-icmp"
        if parted.icmp:
            name = self._icmp_map(packets, parted.icmp)
            word = ICMP_WORDS[judge.family]
            return [f"meta l4proto {protocol} {word} type . {word} code vmap @{name}"]
        verdict = self._class(packets, parted.untold)
        return [] if verdict == judge.deny else [f"meta l4proto {protocol} {verdict}"]

    def _class(self, scope: _Scope, service: ServiceClass) -> str:
        """Return the verdict of a class: the jump to its chain, which equal classes share."""
        known = scope.named(service)
        name, entries = known.name, known.entries
        draft = self.draft
        if name in draft.chains:
            return known.verdict
        meant = self.meanings.of_peers(scope.judge.vpc_id, known.named) if known.named else None
        inputs = entries, meant, self._visible(scope.judge)
        made = self.own.part(name, inputs, lambda _: self._made(name, scope, service, entries))
        draft.counters.update(made.counters)
        draft.members.update(made.members)
        for one in made.sets:
            draft.put(one)
        if made.chain is None:
            return scope.judge.deny
        draft.chains[name] = made.chain
        return known.verdict

    def _made(
        self, name: str, scope: _Scope, service: ServiceClass, entries: Sequence[Entry]
    ) -> "_Made":
        judge, peers = scope.judge, PeerSets(self.policy, self.kept)
        lines = peers.lines(judge, entries, scope.origin)
        if service.link_service is not None:
            allow = service.link_service is LinkService.DHCP_ALLOW
            verdict = judge.allow if allow else judge.deny
            # A reply has the conversation's source port as its destination.
            ends = ("original udp sport", "reply udp dport")
            texts = (f"ct direction {end} {service.source_port} {verdict}" for end in ends)
            lines = (*(NftRule(text, scope.origin) for text in texts), *lines)
        denies = [line.text for line in lines] == [judge.deny]
        chain = None if denies else Chain(name, lines)
        return _Made(
            chain, tuple(peers.sets.values()), tuple(peers.members.items()), tuple(peers.counters)
        )


@dataclass(frozen=True, slots=True)
class _Made:
    """A class as it was compiled; without a chain it denies everything."""

    chain: Chain | None
    sets: tuple[Set, ...]
    members: tuple[tuple[str, Membership], ...]
    counters: tuple[str, ...]
