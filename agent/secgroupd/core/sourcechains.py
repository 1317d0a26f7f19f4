"""The source check as chains: before connection tracking, so that no spoofed packet is ever tracked.

Ports with a MAC and single addresses share one chain and a few hash sets, whose elements are
interface, MAC and address together. A port with wider pairs, without a MAC, or with a name that nft
text cannot say has a chain of its own. Whatever passes is accepted, so that what none of it speaks of
meets what closes interfaces; the rest is counted by port and dropped.

A packet is looked at as it came in: in fragments, which carry its addresses. What only the whole
packet tells, the target of neighbour discovery, is checked after defragmentation (``nd_check``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from secgroupd.core import names, origins
from secgroupd.core.draft import Binding, Draft, InterfaceMap, LocalPort, quoted_pattern
from secgroupd.core.intervals import merged
from secgroupd.core.model import Port
from secgroupd.core.ruleset import (
    Hook,
    Key,
    Set,
    box,
    content_digest,
    digest,
    interface_key,
    joined_key,
    quotable,
)
from secgroupd.core.sourcecheck import LINK_LOCAL, Sender, macs, senders

PRIORITY = -450
"""Before connection tracking (-200) and the defragmentation before it, at -400 where packets are routed and
-200 where they are bridged: a fragment in another's name would be put among that one's own, and pass as part of them."""

RARP = "0x8035"
"""What a hypervisor announces a migrated instance with."""

DHCP_DISCOVER = "ip saddr 0.0.0.0 udp sport 68 udp dport 67"
NO_ADDRESS = "ip6 saddr ::"
NO_ADDRESS_YET = "icmpv6 type { 131, 132, 133, 135, 143 }"
"""What an IPv6 host sends before it has an address: duplicate address detection with the multicast
reports that go before it (RFC 3590), and router solicitations (RFC 4861, 4.1)."""

NETWORKS_IN_LINE = 2
"""Networks of one MAC and family that are compared one by one; more are looked up in a set."""

ARP_FORM = "arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation 1-2"
"""Requests and replies; a range, for anonymous sets are dear in chains of which there are many: for
each the kernel walks the whole transaction (``nf_tables_bind_set``), 85 s for 5000 ports."""


@dataclass(frozen=True, slots=True)
class Checks:
    """The way into the source check.

    ``ports`` leads to the chains that tell whether a port may send a packet; what comes back is no
    port's. ``at_once`` are lines that accept when one look-up has found interface, MAC and address
    together, as it does for nearly every packet.
    """

    ports: InterfaceMap
    at_once: tuple[str, ...] = ()


def add_checks(draft: Draft, ports: Sequence[LocalPort]) -> Checks:
    """Make the chains and sets of the source check; return the way into them.

    Args:
        draft: the table, of family ``inet``, ``bridge`` or ``arp``.
        ports: those of this table, with their bindings.
    """
    local = [(p, b) for p, b in ports if b.matchable]
    checked = [(p, b) for p, b in local if p.port_security_enabled and p.source_check]
    plain = {b: sent for p, b in checked if _plain(sent := senders(p), b)}
    verdicts = {binding: "accept" for _, binding in local}
    if draft.family == "bridge":
        draft.chain(names.STRANGE, [*draft.logging_denied(names.STRANGE), "counter drop"])
        known = f"ether type {{ ip, ip6, arp, {RARP} }}"
        draft.chain(names.UNTAGGED, [f"{known} return", f"goto {names.STRANGE}"])
        unchecked = draft.chain(names.UNCHECKED, [f"jump {names.UNTAGGED}", "accept"])
        verdicts |= {b: f"jump {unchecked}" for p, b in local if p.port_security_enabled}
    if not checked:
        return Checks(draft.interface_map("checks", verdicts))
    spoofs = draft.counting_set(names.SPOOFS, [b for _, b in checked])
    # What the host itself broadcasts into a routed port comes back here as if it were the port's,
    # but has no frame around it any more: that is no spoof of the port's.
    logging = [f"ether type != 0 {line}" for line in draft.logging_denied(names.SPOOFED, "i")]
    drops = [f"ether type != 0 iifname @{spoofs} drop", "counter drop"]
    draft.chain(names.SPOOFED, [*logging, *drops])
    at_once = _add_shared(draft, plain, add_stations(draft, checked))
    if draft.family != "arp":
        newcomer = [f"{NO_ADDRESS_YET} accept", f"goto {names.SPOOFED}"]
        draft.chain(names.CHECK_NEWCOMER, newcomer)
    for port, binding in checked:
        own = names.CHECK if binding in plain else _own_chain(draft, port)
        verdicts[binding] = f"jump {own}"
    return Checks(draft.interface_map("checks", verdicts), at_once if plain else ())


def add_nd_checks(draft: Draft, ports: Sequence[LocalPort]) -> list[str]:
    """Make the check of neighbour discovery's targets; return the lines that lead into it.

    A solicitation's sender has been checked already, unless it has no address yet.
    """
    verdicts: dict[Binding, str] = {}
    targets: list[bytes] = []
    for port, binding in ports:
        if not (port.source_check and binding.matchable):
            continue
        sent = senders(port)
        if _plain(sent, binding):
            verdicts[binding] = f"jump {names.ND_CHECK}"
            name = interface_key(binding.interface)
            targets += [joined_key(name, address) for _, address in _exact(sent, 6)]
        else:
            verdicts[binding] = f"jump {_own_nd_chain(draft, port)}"
    if not verdicts:
        return []
    found = draft.host_set("targets", Key.TARGET, targets)
    own = [f"iifname . @th,64,128 @{found} return"]
    draft.chain(names.ND_CHECK, [*_SENT_WITH_ADDRESS, *own, f"goto {names.SPOOFED}"])
    asked = "meta l4proto ipv6-icmp icmpv6 type { 135, 136 } "
    return draft.interface_map("nd_checks", verdicts).lines("i", asked)


_SENT_WITH_ADDRESS = ("icmpv6 type 135 ip6 saddr != :: return",)


def add_stations(draft: Draft, ports: Iterable[LocalPort]) -> str:
    """Make the set of the MACs of ports, each with its interface; return its name."""
    return draft.host_set(
        "stations",
        Key.STATION,
        (
            joined_key(interface_key(binding.interface), _mac(mac))
            for port, binding in ports
            if stationed(port, binding)
            for mac in macs(port)
        ),
    )


def stationed(port: Port, binding: Binding) -> bool:
    """Tell whether every MAC of a port is known, and in the set of stations."""
    return port.source_check and port.mac_address is not None and quotable(binding.interface)


def add_home(draft: Draft, port: Port) -> str:
    """Make the chain that tells a port's own frames by their IP addresses, as its MAC is not known.

    What is broadcast never comes here. Returns when a frame is the port's.
    """
    lines = ["ether type arp return", f"ip6 daddr {LINK_LOCAL} return"]
    mine = [sender for sender in senders(port) if sender.network != LINK_LOCAL]
    if port.mac_address is not None:
        lines += [f"ether daddr {mac} return" for mac in macs(port)]
    for version, word in ((4, "ip daddr"), (6, "ip6 daddr")):
        lines += _own_lines(draft, mine, version, word, "return")
    lines.append(f"goto {names.STRAY}")
    return draft.chain(f"{names.HOME}_{digest(*lines)}", lines, origins.port(port.id))


def _plain(sent: Iterable[Sender], binding: Binding) -> bool:
    """Tell whether hash sets can say all that a port may send from."""
    return quotable(binding.interface) and all(
        sender.mac is not None and sender.network.prefixlen == sender.network.max_prefixlen
        for sender in sent
    )


def _exact(sent: Iterable[Sender], version: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (MAC, address) pairs of a port that sends from nothing wider."""
    for sender in sent:
        if sender.network.version == version and sender.mac is not None:
            yield _mac(sender.mac), sender.network.network_address.packed


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _add_shared(
    draft: Draft, plain: Mapping[Binding, Iterable[Sender]], stations: str
) -> tuple[str, ...]:
    """Make the chains that every plain port shares; return the lines that most packets need.

    Args:
        draft: the table.
        plain: what plain ports may send from, by their bindings.
        stations: the set of their MACs.
    """

    def keys(version: int) -> Iterator[bytes]:
        for binding, sent in plain.items():
            name = interface_key(binding.interface)
            for pair in _exact(sent, version):
                yield joined_key(name, *pair)

    senders4 = draft.host_set("senders4", Key.SENDER4, keys(4))
    spoofed = f"goto {names.SPOOFED}"
    station = f"iifname . ether saddr @{stations}"
    if draft.family != "inet":
        sent = (
            f"iifname . ether saddr . arp saddr ip @{senders4} "
            f"iifname . arp saddr ether . arp saddr ip @{senders4}"
        )
        probe = (
            f"arp operation request arp saddr ip 0.0.0.0 {station} "
            f"iifname . arp saddr ether . arp daddr ip @{senders4}"
        )
        arp = [f"{ARP_FORM} {sent} accept", f"{ARP_FORM} {probe} accept", spoofed]
        draft.chain(names.CHECK_ARP if draft.family == "bridge" else names.CHECK, arp)
    if draft.family == "arp":
        return ()
    senders6 = draft.host_set("senders6", Key.SENDER6, keys(6))
    own4 = f"iifname . ether saddr . ip saddr @{senders4} accept"
    own6 = f"iifname . ether saddr . ip6 saddr @{senders6} accept"
    four = [own4, f"{DHCP_DISCOVER} {station} accept", spoofed]
    six = [
        own6,
        f"{NO_ADDRESS} {NO_ADDRESS_YET} {station} accept",
        spoofed,
    ]
    ways = {
        "ip": draft.chain(names.CHECK_IP4, four),
        "ip6": draft.chain(names.CHECK_IP6, six),
    }
    field = "meta protocol"
    if draft.family == "bridge":
        field = "ether type"
        rarp = draft.chain(names.CHECK_RARP, [f"{station} accept", spoofed])
        ways |= {"arp": names.CHECK_ARP, RARP: rarp}
    leading = [f"{field} {word} goto {chain}" for word, chain in ways.items()]
    last = f"goto {names.STRANGE}" if draft.family == "bridge" else spoofed
    draft.chain(names.CHECK, [*leading, last])
    return (f"{field} ip {own4}", f"{field} ip6 {own6}")


def _own_chain(draft: Draft, port: Port) -> str:
    """Make the chain of a port that is not plain; equal ones are one."""
    lines: list[str] = []
    last: list[str] = []
    if draft.family == "bridge":
        lines.append(f"jump {names.UNTAGGED}")
    for mac, mine in groupby(sorted(senders(port), key=_mac_first), key=lambda s: s.mac):
        ours = list(mine)
        frame = "" if mac is None else f"ether saddr {mac} "
        sender = "" if mac is None else f"{frame}arp saddr ether {mac} "
        if draft.family != "arp":
            for version, word in ((4, "ip saddr"), (6, "ip6 saddr")):
                lines += _own_lines(draft, ours, version, f"{frame}{word}", "accept")
            lines.append(f"{frame}{DHCP_DISCOVER} accept")
            last.append(f"{frame}{NO_ADDRESS} goto {names.CHECK_NEWCOMER}")
        if draft.family != "inet":
            lines += [
                f"{sender}{ARP_FORM} {said} accept"
                for network in (s.network for s in ours if s.network.version == 4)
                for said in (
                    f"arp saddr ip {network}",
                    f"arp operation request arp saddr ip 0.0.0.0 arp daddr ip {network}",
                )
            ]
        if draft.family == "bridge":
            lines.append(f"{frame}ether type {RARP} accept")
    lines += [*last, f"goto {names.SPOOFED}"]
    name = f"{names.CHECK}_{digest(*lines)}"
    return draft.chain(name, lines, origins.port(port.id))


def _own_lines(
    draft: Draft, ours: Iterable[Sender], version: int, expression: str, passes: str
) -> list[str]:
    """Return lines that let one MAC's networks of one family pass."""
    networks = [sender.network for sender in ours if sender.network.version == version]
    if len(networks) <= NETWORKS_IN_LINE:
        return [f"{expression} {network} {passes}" for network in networks]
    key = Key.NETWORK4 if version == 4 else Key.NETWORK6
    bounds = merged(
        (int(network.network_address), int(network.broadcast_address)) for network in networks
    )
    elements = {box(key, (first, 0), (last, 255)): "" for first, last in bounds}
    name = f"s{version}_{content_digest(elements)}"
    draft.put(Set(name, key, elements, origin="allowed address pairs"))
    return [f"{expression} . meta l4proto @{name} {passes}"]


def _own_nd_chain(draft: Draft, port: Port) -> str:
    """Make the check of neighbour discovery's targets of a port that is not plain."""
    lines = list(_SENT_WITH_ADDRESS)
    for network in dict.fromkeys(s.network for s in senders(port) if s.network.version == 6):
        length = network.prefixlen
        lines.append(f"@th,64,{length} 0x{int(network.network_address) >> (128 - length):x} return")
    lines.append(f"goto {names.SPOOFED}")
    return draft.chain(f"{names.ND_CHECK}_{digest(*lines)}", lines, origins.port(port.id))


def _mac_first(sender: Sender) -> tuple[str, int, int, int]:
    network = sender.network
    return sender.mac or "", network.version, int(network.network_address), network.prefixlen


def add_zones(draft: Draft, zones: Mapping[Binding, int]) -> InterfaceMap | None:
    """Make the map from interfaces to the chains that put their packets into a zone."""
    for number in sorted(set(zones.values())):
        draft.chain(names.zone(number), [f"ct zone set {number}"])
    verdicts = {binding: f"jump {names.zone(number)}" for binding, number in zones.items()}
    return draft.interface_map("zones", verdicts) if verdicts else None


def add_raw_hooks(
    draft: Draft, checks: Checks, zones: InterfaceMap | None, leading: Sequence[str]
) -> None:
    """Make the base chains before connection tracking: zones, and the source check.

    What comes from an interface that no port claims ends here, or it would have a say in the
    connections of ports.

    Args:
        draft: the table, of family ``inet`` or ``bridge``.
        checks: the way into the source check.
        zones: leads to the chains that set zones.
        leading: lines that lead what comes from managed and claimed interfaces to RAW_MANAGED.
    """
    lines = zones.lines("i") if zones else []
    if zones and draft.family == "bridge":
        lines.append(f"meta ibrname vmap @{zones.by_name}")
    elif zones:
        draft.chain(names.RAW_OUT, zones.lines("o"), hook=Hook("output", PRIORITY))
    inside = [*checks.at_once, *checks.ports.lines("i"), f"goto {names.CLOSED}"]
    draft.chain(names.RAW_MANAGED, inside)
    draft.chain(names.RAW_FROM, [*lines, *leading], hook=Hook("prerouting", PRIORITY))


def add_arp_hook(draft: Draft, checks: Checks, patterns: Sequence[str]) -> None:
    """Make the base chain for the ARP of routed ports.

    Args:
        draft: the table of family ``arp``.
        checks: the way into the source check.
        patterns: what covers the names of all ports that rules judge, if anything does: to compare
            with it costs packets of other interfaces half of what a look-up does.
    """
    lines = checks.ports.lines("i")
    if patterns:
        draft.chain(names.RAW_MANAGED, [lines.pop()])
        lines += [f"iifname {quoted_pattern(one)} goto {names.RAW_MANAGED}" for one in patterns]
    draft.chain(names.RAW_FROM, lines, hook=Hook("input", PRIORITY))
