"""Policy -> ruleset: everything that a valid document can say compiles.

Two base chains see every packet. ``from_port`` (prerouting, after conntrack, before the host's
DNAT) judges what came in from a port, ``to_port`` (postrouting, after the host's SNAT) what is
about to leave into one. In both:

1. A packet of a tracked connection whose stamp is fresh is accepted: one comparison.
2. Otherwise the interface's name leads, by one verdict map, to the chains of the port's *profile*
   (its VPC and ordered groups; ports of one profile share them). An interface that is managed and
   not in the map is closed.
3. New packets, and packets of connections with a stale stamp, are judged: one map finds the class
   of protocol and destination port over the port's whole list of groups, the class's chain looks
   the peer up in a few sets. Replies of a stale connection are judged by the same classes, found
   by their source port; the peer's address is always the connection's original one.
4. Who is allowed is stamped: ``ok_in`` writes the generation into the low bits of the ct mark,
   ``ok_out`` sets the top bit. A change that clears connections raises the generation that is
   asked for, in the same transaction as the rules.

Ports may be closed, never forgotten: each miss of a map ends in a drop.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from secgroupd.core import names, sourcechains
from secgroupd.core.draft import Binding, Draft, InterfaceMap, LocalPort
from secgroupd.core.model import Clearing, Direction, Family, Timeout
from secgroupd.core.peers import Basis, Entry, Judge, PeerSets, simplified
from secgroupd.core.policy import OrderedRule, Policy, Profile
from secgroupd.core.ruleset import (
    Chain,
    Hook,
    Key,
    NftRule,
    Ruleset,
    Set,
    box,
    content_digest,
    digest,
    quotable,
)
from secgroupd.core.services import (
    Box,
    LinkService,
    ServiceClass,
    Services,
    icmp_protocol,
    partition,
)
from secgroupd.core.verdict import ICMP_ROUTER_TYPES, MLD_TYPES, ND_TYPES, ROUTER_TYPES
from secgroupd.core.zones import zones

FROM_PORT_HOOK = Hook("prerouting", -150)
"""After conntrack (-200), before destination NAT (-100): packets as the instance sent them."""

TO_PORT_HOOK = Hook("postrouting", 150)
"""After source NAT (100), which also undoes destination NAT for replies: ports as the instance
knows them. Peers are read from the connection, so the host's own NAT does not hide them."""

JUDGED_OUT = 0x80000000
"""Bit of the ct mark: the outbound rules of the originator's port have allowed the connection."""
GENERATION_MASK = 0x7FFFFFFF
"""Bits of the ct mark: the generation in which the responder's inbound rules last allowed it."""

POLICIES = {
    "tcp": {Timeout.TCP_ESTABLISHED: "established", Timeout.TCP_FIN_WAIT: "fin_wait"},
    "udp": {Timeout.UDP: "unreplied", Timeout.UDP_STREAM: "replied"},
}
"""Timeouts by protocol, with nftables' names for them."""

REPLY_TYPES = {
    Family.IPV4: {8: 0, 13: 14, 15: 16, 17: 18},
    Family.IPV6: {128: 129, 139: 140},
}
"""ICMP types that open a tracked connection, with the type of their replies."""


@dataclass(frozen=True, slots=True)
class Generations:
    """Which judgements still hold.

    ``current`` is what is stamped now. ``newest`` is the youngest minimum of any port: a stamp not
    older is fresh everywhere. ``minimum`` has each port's own; ports without one take ``newest``.
    With strict clearing no stamp is ever fresh: every packet is judged by the rules of now.
    """

    current: int = 1
    newest: int = 1
    minimum: Mapping[str, int] = field(default_factory=dict)
    mode: Clearing = Clearing.DOCUMENTED

    def of(self, port_id: str) -> int:
        """Return the oldest generation whose judgement still holds for a port."""
        return self.minimum.get(port_id, self.newest)


class Bridging(Enum):
    """What this kernel can do for ports on a Linux bridge."""

    FULL = "full"
    CLOSED = "no connection tracking"
    """Bridge tables without connection tracking: ports on a bridge are closed."""
    NONE = "no bridge tables"
    """Nothing at all: frames between the ports of a bridge pass whatever the rules say."""


FAMILIES = ("inet", "bridge", "arp")
"""The families in which there may be a table: routed ports, ports on bridges, ARP of routed ones."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the compiler must know of the host.

    ``bindings`` has the ports of this host by id. ``managed`` are interface names, or prefixes with
    a closing ``*``, that are closed unless a port claims them.
    """

    bindings: Mapping[str, Binding]
    managed: tuple[str, ...] = ("tap*", "vnet*")
    timeouts: Mapping[Timeout, int] = field(default_factory=dict)
    """Seconds; what is not named keeps the kernel's own, as do connections of no port."""
    bridging: Bridging = Bridging.FULL


def compile_host(policy: Policy, host: Host, generations: Generations) -> Mapping[str, Ruleset]:
    """Compile the tables for a host, by family.

    Args:
        policy: the resolved document.
        host: the ports that live here, and which interfaces are closed by default.
        generations: which stamps are fresh.

    Returns:
        Rulesets that are equal, to the byte, for equal arguments. ``inet`` is always there; so is
        ``bridge`` where the kernel takes it, if only to keep closed what may be plugged into a
        bridge any moment. ``arp`` is there for routed ports with a source check.
    """
    tables = {"inet": compile_ruleset(policy, host, generations)}
    if host.bridging is not Bridging.NONE:
        tables["bridge"] = compile_ruleset(policy, host, generations, "bridge")
    arp = Draft("arp")
    routed = [(p, b) for p, b in _local(policy, host, "inet") if p.port_security_enabled]
    if any(p.source_check for p, _ in routed):
        sourcechains.add_raw_hooks(arp, sourcechains.add_checks(arp, routed), None)
        tables["arp"] = arp.ruleset({})
    return tables


def compile_ruleset(
    policy: Policy, host: Host, generations: Generations, family: str = "inet"
) -> Ruleset:
    """Compile the table of one family: ``inet`` for routed ports, ``bridge`` for those on bridges."""
    return _Compiler(policy, host, generations, Draft(family)).ruleset()


def _local(policy: Policy, host: Host, family: str) -> list[LocalPort]:
    """Return the ports that a family's table judges, in order."""
    return [
        (policy.ports[port_id], host.bindings[port_id])
        for port_id in sorted(host.bindings)
        if (host.bindings[port_id].bridge is not None) == (family == "bridge")
    ]


@dataclass(slots=True)
class _Maps:
    """The maps that lead from an interface to its port's chains."""

    ports_from: InterfaceMap
    ports_to: InterfaceMap
    live: InterfaceMap

    def ports(self, side: str) -> InterfaceMap:
        """Return the map for packets from ports (``i``) or to them (``o``)."""
        return self.ports_from if side == "i" else self.ports_to


@dataclass(slots=True)
class _Compiler:
    policy: Policy
    host: Host
    generations: Generations
    draft: Draft
    peers: PeerSets = field(init=False)

    def __post_init__(self) -> None:
        self.peers = PeerSets(self.policy)

    def ruleset(self) -> Ruleset:
        local = _local(self.policy, self.host, self.draft.family)
        if self._bridged and (not local or self.host.bridging is not Bridging.FULL):
            # Tracking bridged connections concerns every bridge of the host: not without need.
            self._closed()
            return self.draft.ruleset({})
        judged = [(port, binding) for port, binding in local if port.port_security_enabled]
        maps = self._dispatch(local)
        profiles = {self.policy.profile_of(port) for port, _ in judged}
        for profile in sorted(profiles, key=lambda p: (p.vpc_id, p.groups)):
            self._profile(profile, maps)
        self._shared(judged)
        self._raw(judged)
        self._base(maps, self._guards(judged))
        return self.draft.ruleset(self.peers.sets)

    @property
    def _bridged(self) -> bool:
        return self.draft.family == "bridge"

    @property
    def _trusting(self) -> bool:
        """Whether a fresh stamp spares a packet the rules."""
        return self.generations.mode is Clearing.DOCUMENTED

    # -- interfaces -------------------------------------------------------------------------

    def _dispatch(self, local: Iterable[LocalPort]) -> _Maps:
        """Make the maps from interfaces to chains."""
        found: dict[str, dict[Binding, str]] = {"ports_from": {}, "ports_to": {}, "live": {}}
        for port, binding in local:
            if not port.port_security_enabled:
                verdicts = {"ports_from": "accept", "ports_to": "accept"}
            else:
                stem = names.profile_digest(self.policy.profile_of(port))
                minimum = names.generation(self.generations.of(port.id))
                verdicts = {
                    "ports_from": f"goto from_{stem}",
                    "ports_to": f"goto to_{stem}",
                    "live": f"jump {minimum}",
                }
            for purpose, verdict in verdicts.items():
                found[purpose][binding] = verdict
        for binding in self.host.bindings.values():
            # Names that no rule can say are closed in the other family's table by index.
            if not quotable(binding.interface):
                for purpose in ("ports_from", "ports_to"):
                    found[purpose].setdefault(binding, f"goto {names.CLOSED}")
        return _Maps(*(self.draft.interface_map(name, v) for name, v in found.items()))

    def _closed(self) -> None:
        """Make a table that only closes: what is managed, and what ports of the document claim."""
        self.draft.chain(names.CLOSED, ["counter drop"])
        for base, hook, side in _SIDES:
            self.draft.chain(base, self._closing(side), hook=hook)

    def _closing(self, side: str) -> list[str]:
        """Return lines that close managed interfaces and those that ports of the document claim.

        A claimed interface comes here when it is judged in another family's table, or when the map
        misses for a moment: kernels before 6.12.48 can miss a key whose verdict is being replaced.
        """
        managed = self.host.managed
        lines = [f"{side}ifname {_pattern(name)} goto {names.CLOSED}" for name in managed]
        claimed = [b for b in self.host.bindings.values() if not _covered(b.interface, managed)]
        if any(quotable(binding.interface) for binding in claimed):
            name = self.draft.interface_set("claimed", claimed)
            lines.append(f"{side}ifname @{name} goto {names.CLOSED}")
        by_index = {b: f"goto {names.CLOSED}" for b in claimed if not quotable(b.interface)}
        if self._bridged and by_index:
            lines += self.draft.interface_map("claimed_by_index", by_index).lines(side)
        return lines

    def _raw(self, judged: Sequence[LocalPort]) -> None:
        """Make what comes before connection tracking: the source check, and zones."""
        checks = sourcechains.add_checks(self.draft, judged)
        sourcechains.add_raw_hooks(
            self.draft, checks, sourcechains.add_zones(self.draft, self._zones())
        )

    def _zones(self) -> dict[Binding, int]:
        """Return the interfaces whose packets are tracked in a zone other than the host's own.

        Besides ports: their VPC's uplinks, and bridges all of whose ports are in one zone, for what
        comes from the rest of such a bridge, and what the host sends into it.
        """
        by_vpc = zones(self.policy, self.host.bindings)
        found: dict[Binding, int] = {}
        on_bridge: dict[str, set[int]] = {}
        for port_id, binding in self.host.bindings.items():
            number = by_vpc[self.policy.ports[port_id].vpc_id]
            if binding.bridge is not None:
                on_bridge.setdefault(binding.bridge, set()).add(number)
            if number and (binding.bridge is not None) == self._bridged:
                found[binding] = number
        for bridge, numbers in on_bridge.items():
            if len(numbers) == 1 and numbers != {0}:
                found[Binding(bridge)] = numbers.pop()
        for vpc in self.policy.state.vpcs:
            if number := by_vpc[vpc.id]:
                found |= {Binding(uplink): number for uplink in vpc.uplinks}
        return found

    def _guards(self, judged: Sequence[LocalPort]) -> list[str]:
        """Return lines that keep from a bridge's port what is not meant for it.

        A bridge floods frames whose destination it has not learned. Such a copy must neither be
        judged by the rules of a port that it is not meant for, nor stamp its connection there.
        """
        if not self._bridged:
            return []
        stray = self.draft.chain(names.STRAY, ["counter drop"])
        tagged = {binding: f"goto {names.STRANGE}" for _, binding in judged}
        strays = {b: f"goto {stray}" for p, b in judged if sourcechains.stationed(p, b)}
        for port, binding in judged:
            if port.source_check and binding not in strays:
                strays[binding] = f"jump {sourcechains.add_home(self.draft, port)}"
        stations = sourcechains.add_stations(self.draft, judged)
        unicast = "ether daddr and 01:00:00:00:00:00 == 00:00:00:00:00:00"
        unknown = f"{unicast} oifname . ether daddr != @{stations} "
        return [
            *self.draft.interface_map("access", tagged).lines("o", "ether type { 8021q, 8021ad } "),
            *self.draft.interface_map("strays", strays).lines("o", unknown),
        ]

    # -- the shared skeleton ----------------------------------------------------------------

    def _shared(self, judged: Sequence[LocalPort]) -> None:
        g = self.generations
        stamp = f"ct mark set ct mark and 0x{JUDGED_OUT:08x} or 0x{g.current:x}"
        limits = self._limits()
        self.draft.chain(names.OK_IN, [*limits, stamp, "accept"])
        self.draft.chain(
            names.OK_OUT, [*limits, f"ct mark set ct mark or 0x{JUDGED_OUT:08x}", "accept"]
        )
        # With strict clearing, ICMP errors about a connection end when its packets do.
        forget = [] if self._trusting else ["ct mark set 0"]
        for name in (names.DENY_IN, names.DENY_OUT):
            self.draft.chain(name, [*forget, "counter drop"])
        self.draft.chain(names.CLOSED, ["counter drop"])
        self.draft.put(Set(names.ADOPTING, Key.INTERFACE, {}, size=65536, timeout=True))
        self.draft.chain(names.MIDSTREAM, [f"iifname @{names.ADOPTING} return", "counter drop"])
        types_in = ", ".join(str(t) for t in sorted(ND_TYPES | MLD_TYPES))
        types_out = ", ".join(str(t) for t in sorted((ND_TYPES | MLD_TYPES) - ROUTER_TYPES))
        all_types = f"meta l4proto ipv6-icmp icmpv6 type {{ {types_in} }}"
        arp_in = ["ether type arp accept"] if self._bridged else []
        arp_out = [f"ether type {{ arp, {sourcechains.RARP} }} accept"] if self._bridged else []
        self.draft.chain(names.LINK_IN, [*arp_in, f"{all_types} accept"])
        self.draft.chain(
            names.LINK_OUT,
            [
                *arp_out,
                *sourcechains.add_nd_checks(self.draft, judged),
                f"meta l4proto ipv6-icmp icmpv6 type {{ {types_out} }} accept",
                f"{all_types} goto {names.DENY_OUT}",
            ],
        )
        for number in {g.of(port.id) for port, _ in judged}:
            self.draft.chain(
                names.generation(number),
                [f"ct mark and 0x{GENERATION_MASK:08x} >= 0x{number:x} goto {names.OK_IN}"],
            )

    def _limits(self) -> list[str]:
        """Return lines that give new connections the timeouts of the settings."""
        lines = []
        for protocol, spelled in POLICIES.items():
            wanted = {
                name: self.host.timeouts[timeout]
                for timeout, name in spelled.items()
                if timeout in self.host.timeouts
            }
            policy = ", ".join(f"{name} : {seconds}" for name, seconds in wanted.items())
            for family in Family if wanted else ():
                word = _ip_word(family)
                body = f"protocol {protocol}; l3proto {word}; policy = {{ {policy} }};"
                name = f"t{family.version}_{protocol}_{digest(body)}"
                self.draft.timeouts[name] = body
                lines.append(
                    f"ct state new meta protocol {word} meta l4proto {protocol} "
                    f'ct timeout set "{name}"'
                )
        return lines

    def _base(self, maps: _Maps, guards: Sequence[str]) -> None:
        # Nothing is stamped later than now: where the newest minimum is now, fresh means equal,
        # which costs the kernel half of what an order does.
        g = self.generations
        order = "==" if g.newest == g.current else ">="
        fresh_in = f"ct mark and 0x{GENERATION_MASK:08x} {order} 0x{g.newest:x} accept"
        judged_out = f"ct mark and 0x{JUDGED_OUT:08x} != 0x0 accept"
        self.draft.chain(
            names.KNOWN_FROM,
            [f"ct direction original {judged_out}", f"ct direction reply {fresh_in}"],
        )
        self.draft.chain(
            names.KNOWN_TO,
            [f"ct direction original {fresh_in}", f"ct direction reply {judged_out}"],
        )
        for base, hook, side in _SIDES:
            known = names.KNOWN_FROM if side == "i" else names.KNOWN_TO
            lines = list(guards) if side == "o" else []
            lines += [f"ct state established jump {known}"] if self._trusting else []
            lines += maps.ports(side).lines(side)
            self.draft.chain(base, [*lines, *self._closing(side)], hook=hook)
            related = names.RELATED_FROM if side == "i" else names.RELATED_TO
            judged_again = "reply" if side == "i" else "original"
            self.draft.chain(
                related,
                [
                    "meta l4proto != { icmp, ipv6-icmp } return",
                    f"jump {known}",
                    *(f"ct direction {judged_again} {line}" for line in maps.live.lines(side)),
                    f"goto {names.DENY_OUT if side == 'i' else names.DENY_IN}",
                ],
            )

    # -- profiles ---------------------------------------------------------------------------

    def _profile(self, profile: Profile, maps: _Maps) -> None:
        stem = names.profile_digest(profile)
        origin = "security groups " + ", ".join(profile.groups)
        judging = {
            direction: self._judging(profile, direction, stem, origin) for direction in Direction
        }
        for direction in Direction:
            self._hook_chains(_HookScope(stem, direction, origin), judging, maps)

    def _judging(
        self, profile: Profile, direction: Direction, stem: str, origin: str
    ) -> "_Judging":
        """Compile one direction's rules; return the lines that lead into them."""
        found = _Judging()
        for family in Family:
            rules = self.policy.rules(profile.groups, direction, family)
            services = partition([ordered.rule for ordered in rules], direction, family)
            judge = Judge(direction, family, profile.vpc_id)
            scope = _Scope(
                f"{names.towards(direction)}{family.version}_{stem}", judge, rules, origin
            )
            name = self._service_map(scope, services)
            word = f"meta protocol {_ip_word(family)} th"
            found.first.append(f"{word} dport . meta l4proto vmap @{name}")
            found.reply.append(f"{word} sport . meta l4proto vmap @{name}")
            found.untracked.extend(self._untracked(scope, services))
        return found

    def _hook_chains(
        self,
        scope: "_HookScope",
        judging: Mapping[Direction, "_Judging"],
        maps: _Maps,
    ) -> None:
        """Make the chains at one hook: towards the ports for ingress, from them for egress.

        At either hook, packets of the other direction's connections appear as replies.
        """
        inbound = scope.direction is Direction.INGRESS
        side, stem, origin = names.towards(scope.direction), scope.stem, scope.origin
        own = judging[scope.direction]
        others = judging[Direction.EGRESS if inbound else Direction.INGRESS]
        deny = f"goto {names.DENY_IN if inbound else names.DENY_OUT}"
        known = maps.live.lines("i") if self._trusting and not inbound else []
        replied = self.draft.chain(f"{side}_reply_{stem}", [*known, *others.reply, deny], origin)
        link = names.LINK_IN if inbound else names.LINK_OUT
        odd = self.draft.chain(f"{side}_odd_{stem}", [f"jump {link}", *own.untracked, deny], origin)
        established = [f"ct state established {line}" for line in maps.live.lines("o")]
        # Related to a connection or not: a port is no router.
        types = ", ".join(str(kind) for kind in sorted(ICMP_ROUTER_TYPES))
        no_router = [] if inbound else [f"icmp type {{ {types} }} {deny}"]
        pieces = self._later_fragments() if inbound and self._bridged else []
        seen = self.draft.chain(
            f"{side}_seen_{stem}",
            [
                *no_router,
                f"ct state invalid,untracked goto {odd}",
                *pieces,
                f"ct state related jump {names.RELATED_TO if inbound else names.RELATED_FROM}",
                f"ct direction reply goto {replied}",
                *(established if self._trusting and inbound else []),
                *own.first,
                deny,
            ],
            origin,
        )
        syn_only = f"tcp flags & (fin | syn | rst | ack) != syn jump {names.MIDSTREAM}"
        first = [] if inbound else [syn_only]
        self.draft.chain(
            f"{side}_{stem}",
            [f"ct state != new goto {seen}", *pieces, *first, *own.first, deny],
            origin,
        )

    def _later_fragments(self) -> list[str]:
        """Return lines that keep fragments which tell no ports from being judged by them.

        What the host routes into a bridge may be in fragments when it leaves. The first one is
        judged like any packet, and its connection stamped; with it, the others pass.
        """
        chain = self.draft.chain(
            names.FRAGMENT, [f"jump {names.KNOWN_TO}", f"goto {names.DENY_IN}"]
        )
        return [f"ip frag-off & 0x1fff != 0 goto {chain}", f"frag frag-off != 0 goto {chain}"]

    def _service_map(self, scope: "_Scope", services: Services) -> str:
        """Make the map from protocol and port to the chain of the class; return its name."""
        icmp = icmp_protocol(scope.judge.family)
        elements: dict[bytes, str] = {}
        for piece in services.boxes:
            if services.icmp and piece.low[0] == icmp:
                verdict = f"goto {self._icmp_chains(scope, services.icmp)}"
            else:
                verdict = self._class(scope, piece.service)
            elements[box(Key.SERVICE, piece.low[::-1], piece.high[::-1])] = verdict
        return self._interval_map("m", Key.SERVICE, elements, scope.origin)

    def _interval_map(
        self, letter: str, key: Key, elements: Mapping[bytes, str], origin: str
    ) -> str:
        name = f"{letter}_{content_digest(elements)}"
        return self.draft.put(Set(name, key, elements, is_map=True, origin=origin))

    def _icmp_chains(self, scope: "_Scope", boxes: Iterable[Box]) -> str:
        """Make the maps from ICMP type and code to classes, for first packets and for replies."""
        replies = [
            Box((reply, piece.low[1]), (reply, piece.high[1]), piece.service)
            for piece in boxes
            for request, reply in REPLY_TYPES[scope.judge.family].items()
            if piece.low[0] <= request <= piece.high[0]
        ]
        word = _icmp_word(scope.judge.family)
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

    def _icmp_map(self, scope: "_Scope", boxes: Iterable[Box]) -> str:
        four = scope.judge.family is Family.IPV4
        key = Key.ICMP if four else Key.ICMPV6
        elements = {box(key, b.low, b.high): self._class(scope, b.service) for b in boxes}
        return self._interval_map("i4" if four else "i6", key, elements, scope.origin)

    def _untracked(self, scope: "_Scope", services: Services) -> list[str]:
        """Return lines that judge ICMP which opens no connection: errors nobody caused, and such.

        Conntrack calls it invalid; the rules still decide, by the packet's own addresses.
        """
        icmp = icmp_protocol(scope.judge.family)
        judge = scope.judge
        packets = _Scope(
            scope.stem,
            Judge(judge.direction, judge.family, judge.vpc_id, Basis.PACKET),
            scope.rules,
            scope.origin,
        )
        protocol = "icmp" if judge.family is Family.IPV4 else "ipv6-icmp"
        if services.icmp:
            name = self._icmp_map(packets, services.icmp)
            word = _icmp_word(judge.family)
            return [f"meta l4proto {protocol} {word} type . {word} code vmap @{name}"]
        own = next(b.service for b in services.boxes if b.low[0] <= icmp <= b.high[0])
        verdict = self._class(packets, own)
        return [] if verdict == judge.deny else [f"meta l4proto {protocol} {verdict}"]

    # -- classes ----------------------------------------------------------------------------

    def _class(self, scope: "_Scope", service: ServiceClass) -> str:
        """Return the verdict of a class: the jump to its chain, which equal classes share."""
        judge = scope.judge
        entries = scope.entries(service)
        lines = self.peers.lines(judge, entries, scope.origin)
        if service.link_service is not None:
            allow = service.link_service is LinkService.DHCP_ALLOW
            verdict = judge.allow if allow else judge.deny
            # A reply has the conversation's source port as its destination.
            ends = ("original udp sport", "reply udp dport")
            texts = (f"ct direction {end} {service.source_port} {verdict}" for end in ends)
            lines = (*(NftRule(text, scope.origin) for text in texts), *lines)
        if len(lines) == 1:
            return lines[0].text
        name = f"c_{scope.class_digest(service)}"
        self.draft.chains.setdefault(name, Chain(name, lines))
        return f"goto {name}"


@dataclass(slots=True)
class _Judging:
    """Lines that lead into one direction's compiled rules, for each kind of packet."""

    first: list[str] = field(default_factory=list)
    reply: list[str] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)


_SIDES = ((names.FROM_PORT, FROM_PORT_HOOK, "i"), (names.TO_PORT, TO_PORT_HOOK, "o"))
"""The two base chains that judge: name, hook, and which of a packet's interfaces is the port's."""


@dataclass(frozen=True, slots=True)
class _HookScope:
    """One profile at one hook, named by the direction whose first packets are judged there."""

    stem: str
    direction: Direction
    origin: str


@dataclass(frozen=True, slots=True)
class _Scope:
    """One profile, direction and family: the stem of its names, and what its classes refer to."""

    stem: str
    judge: Judge
    rules: tuple[OrderedRule, ...]
    origin: str

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
        matching = (self.rules[place].rule for place in service.rules)
        return simplified([(rule.peer, rule.action) for rule in matching])


def _ip_word(family: Family) -> str:
    return "ip" if family is Family.IPV4 else "ip6"


def _icmp_word(family: Family) -> str:
    return "icmp" if family is Family.IPV4 else "icmpv6"


def _pattern(name: str) -> str:
    """Return a managed interface pattern as nft text, whose closing asterisk is a wildcard too."""
    return f'"{name}"'


def _covered(interface: str, patterns: Iterable[str]) -> bool:
    return any(
        interface.startswith(pattern[:-1]) if pattern.endswith("*") else interface == pattern
        for pattern in patterns
    )
