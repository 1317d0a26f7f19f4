"""What the kernel tells of one packet's way through the rules -> steps in words.

The kernel names chains and numbers rules; a rule's comment is its digest, by which it is found in
what the compiler makes of the document in force. Rules that stand in the same place with other words
are told as the kernel numbers them: the tables are not, or no longer, what the document says.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from secgroupd.core import names
from secgroupd.core.headers import ArpHeaders, Headers, parse_headers
from secgroupd.core.ruleset import TABLE, NftRule, Ruleset

COUNTER = re.compile(r'counter name "(\w+)"')

RULE, POLICY = "rule", "policy"

MEANINGS = {
    names.RAW_FROM: "before connection tracking",
    names.RAW_OUT: "before connection tracking, from the host",
    names.RAW_MANAGED: "source check",
    names.CHECK: "source check",
    names.CHECK_IP4: "source check, IPv4",
    names.CHECK_IP6: "source check, IPv6",
    names.CHECK_NEWCOMER: "source check of who has no address yet",
    names.ND_CHECK: "source check of neighbour discovery",
    names.SPOOFED: "not the port's to send",
    names.FROM_PORT: "does it come from a port?",
    names.TO_PORT: "is it about to reach a port?",
    names.FORWARDED: "from where to where?",
    names.FROM_MANAGED: "packets that come from ports",
    names.TO_MANAGED: "packets that are about to reach ports",
    names.KNOWN_FROM: "connections that have been judged",
    names.KNOWN_TO: "connections that have been judged",
    names.LIVE_FROM: "connections that have been judged",
    names.LIVE_TO: "connections that have been judged",
    names.RELATED_FROM: "ICMP errors about connections",
    names.RELATED_TO: "ICMP errors about connections",
    names.MIDSTREAM: "TCP that belongs to no connection",
    names.LINK_IN: "what the network itself needs",
    names.LINK_OUT: "what the network itself needs",
    names.OK_IN: "allowed inbound",
    names.OK_OUT: "allowed outbound",
    names.DENY_IN: "denied inbound",
    names.DENY_OUT: "denied outbound",
    names.APART: "between VPCs that no peering connects",
    names.CLOSED: "interface without a port",
    names.STRANGE: "a frame that rules cannot judge",
    names.ELSEWHERE: "a frame for another MAC than a port's own",
    names.STRAY: "a frame that is meant for another port",
}
"""What chains are for; those of security groups say it by their origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that the kernel tells of a traced packet.

    Attributes:
        packet: what tells the packets apart, for a while.
        family: the table's.
        table: its name.
        chain: the chain's.
        kind: ``rule`` (one has matched), ``policy`` (a base chain has come to its end) or
            ``return``.
        handle: the rule's number.
        verdict: as nft writes it.
        came_from: the interface it came in by, where that is told.
        leaves_into: the interface it leaves by, where that is told.
        ethertype: its protocol, where the packet is shown.
        payload: its network and transport headers, where they are shown.
    """

    packet: int
    family: str
    table: str
    chain: str
    kind: str
    handle: int
    verdict: str
    came_from: str | None = None
    leaves_into: str | None = None
    ethertype: int = 0
    payload: bytes = b""

    @property
    def headers(self) -> Headers | ArpHeaders | None:
        """What the packet's headers tell, if they are shown here."""
        return parse_headers(self.ethertype, self.payload) if self.payload else None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a packet's way through the agent's tables."""

    family: str
    chain: str
    meaning: str
    rule: str
    verdict: str

    def as_json(self) -> Mapping[str, object]:
        """Return it as ``secgroupctl trace --json`` prints it."""
        return {
            "family": self.family,
            "chain": self.chain,
            "meaning": self.meaning,
            "rule": self.rule,
            "verdict": self.verdict,
        }


Handles = Mapping[tuple[str, str, int], str]
"""By family, chain and number: the digest of a rule."""


def steps(
    events: Iterable[Event],
    handles: Handles,
    tables: Mapping[str, Ruleset],
    counters: Mapping[str, str],
) -> Iterator[Step]:
    """Yield the steps of one packet through the agent's tables, in words.

    Args:
        events: what the kernel tells of it.
        handles: the rules in the kernel.
        tables: what the compiler makes of the document in force, by family.
        counters: which rule of which group each named counter counts for.
    """
    for event in events:
        # The end of a chain is told too, as a rule without a number.
        ends = event.kind == "return" or (event.kind == RULE and not event.handle)
        if event.table != TABLE or ends:
            continue
        chain = tables[event.family].chains.get(event.chain) if event.family in tables else None
        rules = {} if chain is None else {rule.digest: rule for rule in chain.rules}
        found = rules.get(handles.get((event.family, event.chain, event.handle), ""))
        yield Step(
            event.family,
            event.chain,
            MEANINGS.get(event.chain)
            or _decides(found, counters)
            or _origin(found, rules.values()),
            _text(event, found),
            event.verdict,
        )


def _text(event: Event, rule: NftRule | None) -> str:
    if event.kind == POLICY:
        return "(nothing in it ends the way)"
    return rule.text if rule is not None else f"(rule {event.handle}, which is not the document's)"


def _decides(rule: NftRule | None, counters: Mapping[str, str]) -> str | None:
    counted = COUNTER.search(rule.text) if rule else None
    return counters.get(counted[1]) if counted else None


def _origin(rule: NftRule | None, rules: Iterable[NftRule]) -> str:
    origins = [rule.origin] if rule else [each.origin for each in rules]
    return next((origin for origin in origins if origin), "")


def packets(events: Iterable[Event]) -> Mapping[int, tuple[Event, ...]]:
    """Return what was told of each packet, in order."""
    found: dict[int, list[Event]] = {}
    for event in events:
        found.setdefault(event.packet, []).append(event)
    return {packet: tuple(told) for packet, told in found.items()}
