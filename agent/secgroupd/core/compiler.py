"""Policy -> ruleset: everything that a valid document can say compiles.

Ports on bridges get the same chains in a table of their own family. Two base chains see every
packet; where the host carries VPCs that do not see each other, a third one stands between them. ``from_port`` (prerouting, after conntrack, before the host's
DNAT) judges what came in from a port, ``to_port`` (postrouting, after the host's SNAT) what is
about to leave into one. In both:

1. Only what comes from (goes into) a managed interface, or one that a port claims, is looked at.
2. A packet of a tracked connection whose stamp is fresh is accepted: one comparison.
3. Otherwise the interface's name leads, by one verdict map, to the chains of the port's *profile*
   (its VPC and ordered groups; ports of one profile share them). What is not in the map is closed.
4. New packets, and packets of connections with a stale stamp, are judged: one map finds the class
   of protocol and destination port over the port's whole list of groups, the class's chain looks
   the peer up in a few sets. Replies of a stale connection are judged by the same classes, found
   by their source port; the peer's address is read from the connection, not from the packet.
5. Who is allowed is stamped: ``ok_in`` writes the generation into the low bits of the ct mark,
   ``ok_out`` sets the top bit. A change that clears connections raises the generation that is
   asked for, in the same transaction as the rules.

Ports may be closed, never forgotten: each miss of a map ends in a drop.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from secgroupd.core import balancing, names, origins, sourcechains
from secgroupd.core.classes import IP_WORDS, Classes, Judging
from secgroupd.core.draft import (
    Binding,
    Draft,
    InterfaceMap,
    LocalPort,
    covered,
    covering,
    drafted,
    quoted_pattern,
)
from secgroupd.core.host import Bridging, Generations, Host
from secgroupd.core.kept import Kept
from secgroupd.core.marks import INBOUND, JUDGED_OUT, LAST_GENERATION
from secgroupd.core.meaning import Meanings
from secgroupd.core.model import AH, DCCP, Clearing, Direction, Family, Timeout
from secgroupd.core.policy import Policy, Profile
from secgroupd.core.ruleset import Hook, Key, Ruleset, Set, digest, index_key, quotable
from secgroupd.core.verdict import ICMP_ROUTER_TYPES, MLD_TYPES, ND_TYPES, ROUTER_TYPES
from secgroupd.core.walls import add_walls
from secgroupd.core.zones import zones

T = TypeVar("T")

FROM_PORT_HOOK = Hook("prerouting", -150)
"""After conntrack (-200), before destination NAT (-100): packets as the instance sent them."""

TO_PORT_HOOK = Hook("postrouting", 150)
"""After source NAT (100), which also undoes destination NAT for replies: ports as the instance
knows them. Peers are read from the connection, so the host's own NAT does not hide them."""

FORWARDED_HOOK = Hook("forward", 10)
"""A bridge's postrouting does not know where a packet came from. With br_netfilter, its forward skips
what stands at 0 and before."""

POLICIES = {
    "tcp": {Timeout.TCP_ESTABLISHED: "established", Timeout.TCP_FIN_WAIT: "fin_wait"},
    "udp": {Timeout.UDP: "unreplied", Timeout.UDP_STREAM: "replied"},
}
"""Timeouts by protocol, with nftables' names for them."""


def compile_host(
    policy: Policy, host: Host, generations: Generations, kept: Kept | None = None
) -> Mapping[str, Ruleset]:
    """Compile the tables for a host, by family.

    Args:
        policy: the resolved document.
        host: the ports that live here, and which interfaces are closed by default.
        generations: which stamps are fresh.
        kept: what the compile before has made; what it made of the same is in this one, too.

    Returns:
        Rulesets that are equal, to the byte, for equal arguments. ``inet`` is always there; so is
        ``bridge`` where the kernel takes it, if only to keep closed what may be plugged into a
        bridge any moment. ``arp`` is there for routed ports with a source check.
    """
    kept = Kept() if kept is None else kept
    tables = {"inet": compile_ruleset(policy, host, generations, kept=kept)}
    if host.abilities.bridging is not Bridging.NONE:
        tables["bridge"] = compile_ruleset(policy, host, generations, "bridge", kept)
    arp = Draft("arp", logging=host.logging)
    routed = [(p, b) for p, b in _local(policy, host, "inet") if p.port_security_enabled]
    if any(p.source_check for p, _ in routed):
        patterns = covering((b.interface for _, b in routed), host.managed)
        checks = drafted(
            arp, kept, "checks", routed, lambda d, _: sourcechains.add_checks(d, routed)
        )
        sourcechains.add_arp_hook(arp, checks, patterns)
        tables["arp"] = arp.ruleset()
    return tables


def compile_ruleset(
    policy: Policy,
    host: Host,
    generations: Generations,
    family: str = "inet",
    kept: Kept | None = None,
) -> Ruleset:
    """Compile the table of one family: ``inet`` for routed ports, ``bridge`` for those on bridges."""
    kept, draft = Kept() if kept is None else kept, Draft(family, logging=host.logging)
    return _Compiler(policy, host, generations, draft, kept).ruleset()


def _local(policy: Policy, host: Host, family: str) -> list[LocalPort]:
    """Return the ports that a family's table judges, in order."""
    return [
        (policy.ports[port_id], host.bindings[port_id])
        for port_id in sorted(host.bindings.keys() - host.held)
        if (host.bindings[port_id].bridge is not None) == (family == "bridge")
    ]


def _judged(local: Iterable[LocalPort]) -> list[LocalPort]:
    return [(port, binding) for port, binding in local if port.port_security_enabled]


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
    kept: Kept

    def ruleset(self) -> Ruleset:
        local = _local(self.policy, self.host, self.draft.family)
        if self._only_closes(local):
            self._closed()
            return self.draft.ruleset()
        judged = _judged(local)
        maps = self._dispatch(local)
        self._profiles({self.policy.profile_of(port) for port, _ in judged})
        self.draft.fill(self.policy, self.kept)
        self._shared(judged)
        self._raw(local)
        bridged = [] if self._bridged else _local(self.policy, self.host, "bridge")
        exempt = balancing.add_exemptions(
            self.draft, self.policy, judged, _judged(bridged), self._limits()
        )
        # Where no port is, everything is closed, whatever stamp a connection has.
        self._base(maps, self._guards(local), exempt, trusting=self._trusting and bool(local))
        self._forwarded(local, bridged, exempt)
        return self.draft.ruleset()

    def _part(self, name: Hashable, inputs: object, make: Callable[[Draft, Kept], T]) -> T:
        return drafted(self.draft, self.kept, name, inputs, make)

    def _only_closes(self, local: Sequence[LocalPort]) -> bool:
        can = self.host.abilities
        # Tracking bridged connections concerns every bridge of the host: not without need.
        bridged = self._bridged and (not local or can.bridging is not Bridging.FULL)
        return bridged or not can.tracking

    @property
    def _bridged(self) -> bool:
        return self.draft.family == "bridge"

    @property
    def _trusting(self) -> bool:
        """Whether a fresh stamp spares a packet the rules."""
        return self.generations.mode is Clearing.DOCUMENTED

    # -- interfaces -------------------------------------------------------------------------

    def _dispatch(self, local: Sequence[LocalPort]) -> _Maps:
        """Make the maps from interfaces to chains."""
        # Names that no rule can say are closed in the other family's table by index.
        odd = [each for each in self.host.bindings.values() if not quotable(each.interface)]
        inputs = local, odd, self.policy.written_default
        ports_from, ports_to = self._part("ports", inputs, lambda d, _: self._ports(d, local, odd))
        fresh = self.generations.newest, self.generations.minimum
        live = self._part("live", (local, fresh), lambda d, _: self._live(d, local))
        return _Maps(ports_from, ports_to, live)

    def _ports(
        self, draft: Draft, local: Sequence[LocalPort], odd: Iterable[Binding]
    ) -> tuple[InterfaceMap, InterfaceMap]:
        stems: dict[Profile, str] = {}
        found: dict[str, dict[Binding, str]] = {"from": {}, "to": {}}
        for port, binding in local:
            profile = self.policy.profile_of(port)
            if profile not in stems:
                stems[profile] = names.profile_digest(profile)
            for side, verdicts in found.items():
                # Not goto: a packet that began in the generation before finds a chain that is new
                # in this one without rules. It must come back, to what closes the interface.
                jump = f"jump {side}_{stems[profile]}"
                verdicts[binding] = jump if port.port_security_enabled else "accept"
        for binding in odd:
            for verdicts in found.values():
                verdicts.setdefault(binding, f"goto {names.CLOSED}")
        ports_from = draft.interface_map("ports_from", found["from"])
        return ports_from, draft.interface_map("ports_to", found["to"])

    def _live(self, draft: Draft, local: Iterable[LocalPort]) -> InterfaceMap:
        verdicts = {
            binding: f"jump {names.generation(self.generations.of(port.id))}"
            for port, binding in local
            if port.port_security_enabled
        }
        return draft.interface_map("live", verdicts)

    def _add_closed(self) -> None:
        logging = self.draft.logging_denied(names.CLOSED)
        self.draft.chain(names.CLOSED, [*logging, "counter drop"])

    def _closed(self) -> None:
        """Make a table that only closes: what is managed, and what ports of the document claim."""
        self._add_closed()
        for base, _, hook, side in _SIDES:
            self.draft.chain(base, self._leading(side, names.CLOSED), hook=hook)

    def _leading(self, side: str, chain: str) -> list[str]:
        """Return lines that lead to a chain what has to do with a port, or may have.

        That is, by its interface: what is managed, and what ports of the document claim, here or in
        another family's table. Everything else is none of ours, and costs a comparison a pattern.
        """
        managed = self.host.managed
        lines = [f"{side}ifname {quoted_pattern(name)} goto {chain}" for name in managed]
        bindings = self.host.bindings.values()
        claimed = [b for b in bindings if not covered(b.interface, managed)]
        if any(quotable(binding.interface) for binding in claimed):
            lines.append(
                f"{side}ifname @{self.draft.interface_set('claimed', claimed)} goto {chain}"
            )
        # A link that is found by its index may have any other name by now.
        found = [index_key(b.index) for b in bindings if b.index is not None]
        if found:
            found_set = self.draft.host_set("claimed_by_index", Key.INDEX, found)
            lines.append(f"{side}if @{found_set} goto {chain}")
        return lines

    def _closed_at_once(self) -> list[str]:
        """Return lines that close what ports have left before any mark is looked at: a look-up more, seldom.

        What comes from there has ended before connection tracking.
        """
        if not self.host.left:
            return []
        left = self.draft.host_set(names.LEFT, Key.INDEX, map(index_key, sorted(self.host.left)))
        return [f"oif @{left} goto {names.CLOSED}"]

    def _raw(self, local: Sequence[LocalPort]) -> None:
        """Make what comes before connection tracking: the source check, and zones."""
        checks = self._part("checks", local, lambda d, _: sourcechains.add_checks(d, local))
        zoned = sourcechains.add_zones(self.draft, self._zones())
        leading = self._leading("i", names.RAW_MANAGED)
        sourcechains.add_raw_hooks(self.draft, checks, zoned, leading)

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

    def _guards(self, local: Sequence[LocalPort]) -> list[str]:
        """Return lines that keep from a bridge's port what is not meant for it.

        A bridge floods frames whose destination it has not learned. Such a copy must neither be
        judged by the rules of a port that it is not meant for, nor stamp its connection there, nor
        reach an interface that is closed because the connection's stamp is fresh.
        """
        if not self._bridged:
            return []
        judged = _judged(local)
        stray = self.draft.chain(names.STRAY, ["counter drop"])
        tagged = {binding: f"goto {names.STRANGE}" for _, binding in judged}
        # Who returns from there goes on: what is for any MAC, or for one that the document lacks.
        strays = {binding: "return" for _, binding in local}
        for port, binding in judged:
            if sourcechains.stationed(port, binding):
                strays[binding] = f"goto {stray}"
            elif port.source_check:
                strays[binding] = f"goto {sourcechains.add_home(self.draft, port)}"
        elsewhere = self.draft.interface_map("strays", strays).lines("o")
        self.draft.chain(names.ELSEWHERE, [*elsewhere, f"goto {names.CLOSED}"])
        stations = sourcechains.add_stations(self.draft, judged)
        unicast = "ether daddr and 01:00:00:00:00:00 == 00:00:00:00:00:00"
        return [
            *self.draft.interface_map("access", tagged).lines("o", "ether type { 8021q, 8021ad } "),
            f"{unicast} oifname . ether daddr != @{stations} jump {names.ELSEWHERE}",
        ]

    # -- the shared skeleton ----------------------------------------------------------------

    def _shared(self, judged: Sequence[LocalPort]) -> None:
        g = self.generations
        stamp = f"ct mark set ct mark and 0x{JUDGED_OUT:08x} or 0x{g.current:x}"
        limits = self._limits()
        stamps = {names.OK_IN: stamp, names.OK_OUT: f"ct mark set ct mark or 0x{JUDGED_OUT:08x}"}
        for name, line in stamps.items():
            logging = self.draft.logging_accepted(name)
            self.draft.chain(name, [*limits, *logging, *_UNTOLD, line, "accept"])
        for name, side in ((names.DENY_IN, "o"), (names.DENY_OUT, "i")):
            self._denying(name, side, judged)
        self._add_closed()
        self.draft.put(Set(names.ADOPTING, Key.INTERFACE, {}, size=65536, timeout=True))
        self.draft.chain(
            names.MIDSTREAM, [f"iifname @{names.ADOPTING} return", f"goto {names.DENY_OUT}"]
        )
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
                *_NO_ROUTER,
                *self._part("nd", judged, lambda d, _: sourcechains.add_nd_checks(d, judged)),
                f"meta l4proto ipv6-icmp icmpv6 type {{ {types_out} }} accept",
            ],
        )
        for number in {g.of(port.id) for port, _ in judged}:
            # Who finds no rules in it has no fresh stamp, and is judged by the rules it began with.
            self.draft.chain(
                names.generation(number),
                [f"{_judged_since(number)} goto {names.OK_IN}"],
                passable=True,
            )

    def _denying(self, name: str, side: str, judged: Sequence[LocalPort]) -> None:
        """Make a chain that ends what is denied, told by the interface on one side."""
        # With strict clearing, ICMP errors about a connection end when its packets do.
        forget = [] if self._trusting else ["ct mark set 0"]
        counting = self._part("denied", judged, lambda d, _: _counting_denied(d, judged))
        logging = self.draft.logging_denied(name, side)
        self.draft.chain(name, [*forget, *logging, *counting, "counter drop"])

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
                word = IP_WORDS[family]
                body = f"protocol {protocol}; l3proto {word}; policy = {{ {policy} }};"
                name = f"t{family.version}_{protocol}_{digest(body)}"
                self.draft.timeouts[name] = body
                lines.append(
                    f"ct state new meta protocol {word} meta l4proto {protocol} "
                    f'ct timeout set "{name}"'
                )
        return lines

    def _base(
        self, maps: _Maps, guards: Sequence[str], exempt: balancing.Exempt, *, trusting: bool
    ) -> None:
        # Nothing is stamped later than now: where the newest minimum is now, fresh means equal,
        # which costs the kernel half of what an order does.
        g = self.generations
        exactly = f"ct mark and 0x{INBOUND:08x} == 0x{g.newest:x}"
        fresh_in = f"{exactly if g.newest == g.current else _judged_since(g.newest)} accept"
        judged_out = f"ct mark and 0x{JUDGED_OUT:08x} != 0x0 accept"
        self.draft.chain(
            names.KNOWN_FROM,
            [f"ct direction original {judged_out}", f"ct direction reply {fresh_in}"],
        )
        self.draft.chain(
            names.KNOWN_TO,
            [f"ct direction original {fresh_in}", f"ct direction reply {judged_out}"],
        )
        for base, inside, hook, side in _SIDES:
            known = names.KNOWN_FROM if side == "i" else names.KNOWN_TO
            lines = [*self._closed_at_once(), *guards] if side == "o" else []
            lines += [f"ct state established jump {known}"] if trusting else []
            lines += [_UNANSWERED] if trusting and side == "i" else []
            answers = [f"ct state established {line}" for line in exempt.reply]
            lines += exempt.to_port if side == "o" else answers
            lines += maps.ports(side).lines(side)
            self.draft.chain(inside, [*lines, f"goto {names.CLOSED}"])
            self.draft.chain(base, self._leading(side, inside), hook=hook)
            live = names.LIVE_FROM if side == "i" else names.LIVE_TO
            self.draft.chain(live, maps.live.lines(side))
            related = names.RELATED_FROM if side == "i" else names.RELATED_TO
            judged_again = "reply" if side == "i" else "original"
            self.draft.chain(
                related,
                [
                    "meta l4proto != { icmp, ipv6-icmp } return",
                    *(_NO_ROUTER if side == "i" else ()),
                    f"jump {known}",
                    *(exempt.reply if side == "i" else exempt.original),
                    f"ct direction {judged_again} jump {live}",
                    f"goto {names.DENY_OUT if side == 'i' else names.DENY_IN}",
                ],
            )

    def _forwarded(
        self, local: Sequence[LocalPort], bridged: Sequence[LocalPort], exempt: balancing.Exempt
    ) -> None:
        """Make what is asked of both of a packet's interfaces; elsewhere a bridge knows only one."""
        told = local, bridged, self.policy.state.vpcs, self.policy.state.peerings
        managed = self.host.managed
        walls = self._part(
            "walls",
            (*told, managed),
            lambda d, _: add_walls(d, self.policy, local, bridged, managed),
        )
        if walls:
            self._denying(names.APART, "o", _judged(local))
        lines = [*walls, *exempt.forwarded]
        if lines:
            self.draft.chain(names.FORWARDED, lines, hook=FORWARDED_HOOK)

    # -- profiles ---------------------------------------------------------------------------

    def _profiles(self, profiles: Iterable[Profile]) -> None:
        meanings = Meanings(self.policy, self.kept)
        # Of what several have, the first one's is taken.
        ordered = sorted(profiles, key=lambda p: (p.vpc_id, p.groups), reverse=True)
        made_from = [(each, meanings.of_profile(each), self._trusting) for each in ordered]

        def make(draft: Draft, within: Kept) -> None:
            for inputs in made_from:
                profile = inputs[0]
                make_one = partial(self._profile, meanings, profile)
                drafted(draft, within, profile, inputs, make_one)

        self._part("profiles", made_from, make)

    def _profile(self, meanings: Meanings, profile: Profile, draft: Draft, within: Kept) -> None:
        stem = names.profile_digest(profile)
        origin = origins.profile(profile.groups)

        classes = Classes(draft, self.policy, meanings, self.kept, within)
        judging = {
            direction: classes.judging(profile, direction, stem, origin) for direction in Direction
        }
        for direction in Direction:
            self._hook_chains(draft, _HookScope(stem, direction, origin), judging)

    def _hook_chains(
        self,
        draft: Draft,
        scope: "_HookScope",
        judging: Mapping[Direction, Judging],
    ) -> None:
        """Make the chains at one hook: towards the ports for ingress, from them for egress.

        At either hook, packets of the other direction's connections appear as replies.
        """
        inbound = scope.direction is Direction.INGRESS
        side, stem, origin = names.towards(scope.direction), scope.stem, scope.origin
        own = judging[scope.direction]
        others = judging[Direction.EGRESS if inbound else Direction.INGRESS]
        deny = f"goto {names.DENY_IN if inbound else names.DENY_OUT}"
        known = [f"jump {names.LIVE_FROM}"] if self._trusting and not inbound else []
        replied = draft.chain(f"{side}_reply_{stem}", [*known, *others.reply, deny], origin)
        link = names.LINK_IN if inbound else names.LINK_OUT
        odd = draft.chain(f"{side}_odd_{stem}", [f"jump {link}", *own.untracked, deny], origin)
        established = [f"ct state established jump {names.LIVE_TO}"]
        pieces = self._later_fragments(draft) if inbound and self._bridged else []
        seen = draft.chain(
            f"{side}_seen_{stem}",
            [
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
        draft.chain(
            f"{side}_{stem}",
            [f"ct state != new goto {seen}", *pieces, *first, *own.first, deny],
            origin,
        )

    def _later_fragments(self, draft: Draft) -> list[str]:
        """Return lines that keep fragments which tell no ports from being judged by them.

        What the host routes into a bridge may be in fragments when it leaves. The first one is
        judged like any packet, and its connection stamped; with it, the others pass.
        """
        chain = draft.chain(names.FRAGMENT, [f"jump {names.KNOWN_TO}", f"goto {names.DENY_IN}"])
        return [f"ip frag-off & 0x1fff != 0 goto {chain}", f"frag frag-off != 0 goto {chain}"]


def _counting_denied(draft: Draft, judged: Sequence[LocalPort]) -> list[str]:
    """Return lines that drop what is denied, counted for the port that it came from or goes to.

    Where a packet is about to leave into a port, that port has denied it, wherever it came from.
    """
    bindings = [binding for _, binding in judged]
    return [
        f"{side}ifname @{draft.counting_set(purpose, bindings)} drop"
        for side, purpose in (("o", names.DENIED_TO), ("i", names.DENIED_FROM))
    ]


def _judged_since(number: int) -> str:
    """Return the condition that inbound rules have allowed a connection in a generation or later."""
    return f"ct mark and 0x{INBOUND:08x} 0x{number:x}-0x{LAST_GENERATION:08x}"


_NO_ROUTER = tuple(
    f"{word} type {kind} goto {names.DENY_OUT}"
    for word, kinds in (("icmp", ICMP_ROUTER_TYPES), ("icmpv6", ROUTER_TYPES))
    for kind in sorted(kinds)
)
"""A port is no router. What it says as one opens no connection, but the kernel relates redirects of both
families to the connection whose packet they quote, so that they must be told apart from errors about it."""

_UNTOLD = (
    f"meta protocol ip6 meta l4proto {AH} accept",
    f"meta l4proto {DCCP} accept",
)
"""What connection tracking tells less of than rules do: of IPv6, it looks behind an authentication header, and
newer kernels know DCCP by its addresses alone. With a stamp, such a packet would open what its rules say
nothing of; it is judged by itself, like every other of its kind."""

_UNANSWERED = f"ct state new ct status confirmed jump {names.KNOWN_FROM}"
"""Connections that nobody has answered stay new, with a mark from their first packet on. Towards ports they
are judged: whatever inbound rules cease to allow is cleared. What a port has opened is not, and goes on."""

_SIDES = (
    (names.FROM_PORT, names.FROM_MANAGED, FROM_PORT_HOOK, "i"),
    (names.TO_PORT, names.TO_MANAGED, TO_PORT_HOOK, "o"),
)
"""The two base chains that judge: name, the chain of what may be a port's, hook, and which of a
packet's interfaces is the port's."""


@dataclass(frozen=True, slots=True)
class _HookScope:
    """One profile at one hook, named by the direction whose first packets are judged there."""

    stem: str
    direction: Direction
    origin: str
