"""Inbound rules that let the world at ports by which machines and their data are managed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from secgroupd.core.coverage import Match, Part, Parts
from secgroupd.core.doubts import Doubt, Finding
from secgroupd.core.intervals import Interval, merged, without
from secgroupd.core.model import (
    TCP,
    Action,
    AddressGroupPeer,
    Direction,
    Family,
    PrefixPeer,
)
from secgroupd.core.reading import shown
from secgroupd.core.shadowing import Fronts

MANAGEMENT_PORTS: Mapping[int, str] = MappingProxyType({
    22: "SSH", 23: "Telnet", 445: "SMB", 1433: "SQL Server", 2375: "Docker", 2376: "Docker",
    2379: "etcd", 3306: "MySQL", 3389: "RDP", 5432: "PostgreSQL", 5900: "VNC", 5985: "WinRM",
    5986: "WinRM", 6379: "Redis", 6443: "Kubernetes", 9200: "Elasticsearch", 10250: "kubelet",
    11211: "memcached", 27017: "MongoDB",
})  # fmt: skip
"""TCP ports whose client commands the machine, or holds its data; docs/warnings.md argues each."""

_WORLD: Mapping[Family, tuple[Interval, int]] = MappingProxyType(
    {
        Family.IPV4: ((0, (224 << 24) - 1), 1 << 25),
        Family.IPV6: ((2 << 124, (4 << 124) - 1), 1 << 116),
    }
)
"""The unicast addresses of the Internet (0.0.0.0 to 223.255.255.255 and 2000::/3), and how many of them nobody
means who means a network of their own: as many as a /7 has, or a /12."""

_NAMED = 3


def opened(groups: Mapping[str, Parts], fronts: Fronts) -> Iterator[Finding]:
    """Yield allows of management ports from the world that something does come through.

    What denies that come before them shut, in the own group or at all ports in groups before it, is
    not open.
    """
    for group_id, parts in groups.items():
        for family in Family:
            part = parts.get((Direction.INGRESS, family))
            if part is None:
                continue
            for match in part.matches:
                ports = _management(match)
                if not ports:
                    continue
                own = [each for each in _denies([part]) if each.level < match.level]
                open_ports: set[int] = set()
                for front in fronts.get(group_id, [()]):
                    others = [
                        groups.get(each, {}).get((Direction.INGRESS, family)) for each in front
                    ]
                    open_ports.update(_open(match, ports, [*own, *_denies(others)]))
                    if len(open_ports) == len(ports):
                        break
                if open_ports:
                    yield _told(match, sorted(open_ports))


def _management(match: Match) -> list[int]:
    """Return the management ports of an allow from the world."""
    rule = match.rule
    if rule.action is Action.DENY or rule.protocol not in {None, TCP} or match.dropped:
        return []
    if not _is_world(match.addresses, rule.family):
        return []
    return [port for port in MANAGEMENT_PORTS if match.has_detail(port)]


def _open(match: Match, ports: Sequence[int], denies: Sequence[Match]) -> Iterable[int]:
    """Return the ports that denies which come before leave open to the world."""
    if not denies:
        return ports
    return [port for port in ports if _is_world(_left(match, port, denies), match.rule.family)]


def _left(match: Match, port: int, denies: Iterable[Match]) -> list[Interval]:
    denied = merged(
        addresses for deny in denies if deny.has_detail(port) for addresses in deny.addresses
    )
    return [piece for addresses in match.addresses for piece in without(addresses, denied)]


def _denies(parts: Iterable[Part | None]) -> list[Match]:
    return [
        match
        for part in parts
        if part is not None and Action.DENY in part.actions
        for match in part.matches
        if match.rule.action is Action.DENY and match.rule.protocol in {None, TCP}
    ]


def _is_world(addresses: Iterable[Interval], family: Family) -> bool:
    """Return whether disjoint intervals have many of the Internet's addresses."""
    (low, high), many = _WORLD[family]
    return sum(max(0, min(last, high) - max(first, low) + 1) for first, last in addresses) >= many


def _told(match: Match, ports: Sequence[int]) -> Finding:
    rule = match.rule
    match rule.peer:
        case AddressGroupPeer(group_id):
            who = f"address group {shown(group_id)}, which is much of the Internet,"
        case PrefixPeer(network) if network.prefixlen:
            who = str(network)
        case _:
            who = "everybody"
    named = ", ".join(f"{port} ({MANAGEMENT_PORTS[port]})" for port in ports[:_NAMED])
    if len(ports) > _NAMED:
        named += f" and {len(ports) - _NAMED} more management ports"
    message = (
        f"rule {shown(rule.id)} opens port{'' if len(ports) == 1 else 's'} {named} to {who}: "
        "name the addresses that need it, or a group"
    )
    key = f"rule:{match.group_id}/{rule.id}" if match.own else f"security_group:{match.group_id}"
    return Finding(key, Doubt.OPEN_MANAGEMENT_PORT, message)
