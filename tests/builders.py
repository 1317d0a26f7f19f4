"""Readable values of the model for tests: short arguments, sensible defaults."""

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from secgroupd.core.model import (
    PROTOCOL_NUMBERS,
    Action,
    AddressGroup,
    AddressGroupPeer,
    AddressRange,
    AnyPeer,
    Direction,
    Family,
    GroupPeer,
    Instance,
    LoadBalancer,
    Peer,
    Peering,
    Port,
    PortRange,
    PrefixPeer,
    Rule,
    SecurityGroup,
    State,
    Vpc,
    family_of,
)

VPC = "vpc"


def peer(text: str | None) -> Peer:
    """``sg:ID``, ``ag:ID``, an address or network, or None for any."""
    if text is None:
        return AnyPeer()
    if text.startswith("sg:"):
        return GroupPeer(text[3:])
    if text.startswith("ag:"):
        return AddressGroupPeer(text[3:])
    return PrefixPeer(ip_network(text))


def ports(text: str | None) -> tuple[PortRange, ...]:
    """``22-24,80`` as the model has it."""
    parts = (part.partition("-") for part in (text or "").split(",") if part)
    return tuple(sorted(PortRange(int(a), int(b or a)) for a, _, b in parts))


def rule(
    direction: str = "ingress",
    protocol: str | int | None = None,
    multiport: str | None = None,
    remote: str | None = None,
    *,
    action: str = "allow",
    priority: int = 1,
    family: Family | None = None,
    rule_id: str | None = None,
    icmp: tuple[int, int | None] | None = None,
    enabled: bool = True,
) -> Rule:
    number = PROTOCOL_NUMBERS[protocol] if isinstance(protocol, str) else protocol
    who = peer(remote)
    if family is None:
        family = family_of(who.network) if isinstance(who, PrefixPeer) else Family.IPV4
    content = (
        f"{direction}-{action}-{priority}-{protocol}-{multiport}-{remote}-{icmp}-{family.value}"
    )
    return Rule(
        id=rule_id or content,
        direction=Direction(direction),
        action=Action(action),
        priority=priority,
        family=family,
        protocol=number,
        ports=ports(multiport),
        icmp_type=icmp[0] if icmp else None,
        icmp_code=icmp[1] if icmp else None,
        peer=who,
        enabled=enabled,
    )


def both(direction: str = "ingress", action: str = "allow", priority: int = 1) -> tuple[Rule, Rule]:
    """Everything, in both families."""
    return (
        rule(direction, action=action, priority=priority, family=Family.IPV4),
        rule(direction, action=action, priority=priority, family=Family.IPV6),
    )


def group(group_id: str, *rules: Rule, name: str = "") -> SecurityGroup:
    return SecurityGroup(id=group_id, name=name, rules=rules)


def address_group(group_id: str, *entries: str) -> AddressGroup:
    ranges = []
    for entry in entries:
        if "-" in entry:
            first, last = (ip_address(part) for part in entry.split("-"))
        else:
            network = ip_network(entry)
            first, last = network.network_address, network.broadcast_address
        ranges.append(AddressRange(first, last))
    family = family_of(ranges[0].first) if ranges else Family.IPV4
    return AddressGroup(id=group_id, family=family, entries=tuple(ranges))


def port(
    port_id: str,
    groups: Iterable[str] = (),
    ips: Iterable[str] = (),
    *,
    vpc: str = VPC,
    interface: str | None = "",
    mac: str | None = None,
    security: bool = True,
    host_id: str | None = None,
) -> Port:
    """A port on the interface ``tap-ID`` unless another (or None) is given."""
    return Port(
        id=port_id,
        vpc_id=vpc,
        interface=f"tap-{port_id}" if interface == "" else interface,
        mac_address=mac,
        private_ips=tuple(ip_address(ip) for ip in ips),
        security_groups=tuple(groups),
        port_security_enabled=security,
        host_id=host_id,
    )


def state(
    groups: Iterable[SecurityGroup] = (),
    ports: Iterable[Port] = (),
    *,
    address_groups: Iterable[AddressGroup] = (),
    peerings: Iterable[tuple[str, str]] = (),
    load_balancers: Iterable[LoadBalancer] = (),
    revision: str = "r",
) -> State:
    """A state in which every port has an instance of its own, and VPCs are made as used."""
    all_ports = sorted(ports, key=lambda p: p.id)
    return State(
        revision=revision,
        vpcs=tuple(Vpc(id=vpc) for vpc in sorted({p.vpc_id for p in all_ports})),
        load_balancers=tuple(sorted(load_balancers, key=lambda b: b.id)),
        peerings=tuple(Peering(id="-".join(pair), vpc_ids=pair) for pair in peerings),
        address_groups=tuple(sorted(address_groups, key=lambda g: g.id)),
        security_groups=tuple(sorted(groups, key=lambda g: g.id)),
        instances=tuple(Instance(id=f"i-{p.id}", ports=(p,)) for p in all_ports),
    )
