"""State -> who is judged by which rules, and who is a member of what.

References are resolved here once: presets and default groups become rules, a port's groups become
one ordered list, a group peer becomes the addresses of its members as seen from a VPC.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_network

from secgroupd.core.model import (
    ICMP,
    TCP,
    Action,
    AddressGroup,
    AddressRange,
    AnyPeer,
    Direction,
    Family,
    Forwarder,
    GroupPeer,
    Peer,
    Port,
    PortRange,
    PrefixPeer,
    Preset,
    Rule,
    SecurityGroup,
    State,
)

WEB_PORTS = (22, 80, 443, 3389)
"""What the general-purpose web server preset opens (reference: the console's template table)."""

DEFAULT_GROUP_NAME = "default"
"""Name of the group that judges a port whose list of groups is empty."""


@dataclass(frozen=True, slots=True)
class OrderedRule:
    """A rule and the group that it stands in."""

    group_id: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class Profile:
    """What decides how a port is judged: its VPC and its ordered list of groups.

    Ports of one profile share everything that is compiled.
    """

    vpc_id: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exemption:
    """Traffic to a port that a load balancer forwards with its clients' addresses: no rule judges it."""

    balancer_id: str
    forwarder: Forwarder
    protocol: int
    dport: int


def default_group_id(vpc_id: str) -> str:
    """Return the id of the default group that is made on demand in a VPC."""
    return f"default@{vpc_id}"


def own_group_rules(group_id: str) -> tuple[Rule, ...]:
    """Return the rules that every preset and the default group begin with.

    Inbound everything from the own group, outbound everything, in both families.
    """
    both = ((Family.IPV4, "0.0.0.0/0", "v4"), (Family.IPV6, "::/0", "v6"))
    inbound = tuple(
        Rule(
            id=f"preset-in-self-{tag}",
            direction=Direction.INGRESS,
            family=family,
            peer=GroupPeer(group_id),
        )
        for family, _, tag in both
    )
    outbound = tuple(
        Rule(
            id=f"preset-out-all-{tag}",
            direction=Direction.EGRESS,
            family=family,
            peer=PrefixPeer(ip_network(everything)),
        )
        for family, everything, tag in both
    )
    return inbound + outbound


def _from_anywhere(rule_id: str, protocol: int, ports: tuple[PortRange, ...] = ()) -> Rule:
    return Rule(
        id=rule_id,
        direction=Direction.INGRESS,
        protocol=protocol,
        ports=ports,
        peer=PrefixPeer(ip_network("0.0.0.0/0")),
    )


def preset_rules(group: SecurityGroup) -> tuple[Rule, ...]:
    """Return the rules that a group's preset stands for; none without a preset."""
    match group.preset:
        case None:
            return ()
        case Preset.WEB_SERVER:
            opened = tuple(
                _from_anywhere(f"preset-in-tcp-{port}", TCP, (PortRange(port, port),))
                for port in WEB_PORTS
            )
            return (*own_group_rules(group.id), *opened, _from_anywhere("preset-in-icmp", ICMP))
        case Preset.ALL_OPEN:
            everyone = tuple(
                Rule(
                    id=f"preset-in-all-{tag}",
                    direction=Direction.INGRESS,
                    family=family,
                    peer=PrefixPeer(ip_network(everything)),
                )
                for family, everything, tag in (
                    (Family.IPV4, "0.0.0.0/0", "v4"),
                    (Family.IPV6, "::/0", "v6"),
                )
            )
            return (*own_group_rules(group.id), *everyone)
        case Preset.FAST_ADD:
            chosen: tuple[Rule, ...] = ()
            if group.preset_ports:
                chosen += (_from_anywhere("preset-in-tcp", TCP, group.preset_ports),)
            if group.preset_icmp:
                chosen += (_from_anywhere("preset-in-icmp", ICMP),)
            return (*own_group_rules(group.id), *chosen)


def _match_order(rule: Rule) -> tuple[int, bool, str]:
    return (rule.priority, rule.action is not Action.DENY, rule.id)


@dataclass(frozen=True)
class Policy:
    """A state with its references resolved; derived views are computed once, on demand."""

    state: State

    @cached_property
    def ports(self) -> Mapping[str, Port]:
        """Every port of the document by id, on whatever host."""
        return {port.id: port for instance in self.state.instances for port in instance.ports}

    @cached_property
    def groups(self) -> Mapping[str, SecurityGroup]:
        """Every group by id, presets expanded, default groups made where a port needs one."""
        found = {
            group.id: SecurityGroup(
                id=group.id, name=group.name, rules=preset_rules(group) + group.rules
            )
            for group in self.state.security_groups
        }
        if self.written_default is None:
            for port in self.ports.values():
                if not port.security_groups:
                    group_id = default_group_id(port.vpc_id)
                    found[group_id] = SecurityGroup(
                        id=group_id, name=DEFAULT_GROUP_NAME, rules=own_group_rules(group_id)
                    )
        return found

    @cached_property
    def written_default(self) -> str | None:
        """The id of the group that judges ports without any, where the document has written it."""
        named = [g.id for g in self.state.security_groups if g.name == DEFAULT_GROUP_NAME]
        return named[0] if named else None

    @cached_property
    def address_groups(self) -> Mapping[str, AddressGroup]:
        """Every address group by id."""
        return {group.id: group for group in self.state.address_groups}

    def groups_of(self, port: Port) -> tuple[str, ...]:
        """Return the ids of the groups that judge a port, in order."""
        if port.security_groups:
            return port.security_groups
        return (self.written_default or default_group_id(port.vpc_id),)

    def profile_of(self, port: Port) -> Profile:
        """Return what a port is judged by."""
        return Profile(port.vpc_id, self.groups_of(port))

    @cached_property
    def _group_rules(self) -> dict[tuple[str, Direction, Family], tuple[OrderedRule, ...]]:
        return {}

    def _rules_of_group(
        self, group_id: str, direction: Direction, family: Family
    ) -> tuple[OrderedRule, ...]:
        key = (group_id, direction, family)
        if key not in self._group_rules:
            group = self.groups.get(group_id)
            rules = () if group is None else group.rules
            self._group_rules[key] = tuple(
                OrderedRule(group_id, rule)
                for rule in sorted(rules, key=_match_order)
                if rule.enabled and rule.direction is direction and rule.family is family
            )
        return self._group_rules[key]

    def rules(
        self, groups: Iterable[str], direction: Direction, family: Family
    ) -> tuple[OrderedRule, ...]:
        """Return the enabled rules of an ordered list of groups in the order of evaluation."""
        return tuple(
            rule
            for group_id in groups
            for rule in self._rules_of_group(group_id, direction, family)
        )

    @cached_property
    def _visible(self) -> Mapping[str, frozenset[str]]:
        visible = {vpc.id: {vpc.id} for vpc in self.state.vpcs}
        for peering in self.state.peerings:
            one, other = peering.vpc_ids
            visible.setdefault(one, {one}).add(other)
            visible.setdefault(other, {other}).add(one)
        return {vpc: frozenset(vpcs) for vpc, vpcs in visible.items()}

    def visible_vpcs(self, vpc_id: str) -> frozenset[str]:
        """Return the VPCs whose members a group peer of a port in this VPC stands for."""
        return self._visible.get(vpc_id, frozenset({vpc_id}))

    @cached_property
    def exemptions(self) -> Mapping[str, tuple[Exemption, ...]]:
        """What is exempt from inbound rules, by the id of the port that it reaches.

        A listener's member in a VPC that the load balancer does not see is none.
        """
        found: dict[str, list[Exemption]] = {}
        for balancer in self.state.load_balancers:
            seen = self.visible_vpcs(balancer.vpc_id)
            for listener in balancer.listeners:
                for member in listener.members if listener.transfer_client_ip else ():
                    port = self.ports.get(member.port_id)
                    if port is not None and port.vpc_id in seen:
                        one = Exemption(
                            balancer.id,
                            balancer.forwards_through,
                            listener.protocol,
                            member.protocol_port,
                        )
                        found.setdefault(port.id, []).append(one)
        return {port_id: tuple(dict.fromkeys(exempt)) for port_id, exempt in found.items()}

    @cached_property
    def _members(self) -> Mapping[tuple[str, str], tuple[Port, ...]]:
        members: dict[tuple[str, str], list[Port]] = {}
        for port in self.ports.values():
            for group_id in self.groups_of(port):
                members.setdefault((group_id, port.vpc_id), []).append(port)
        return {key: tuple(ports) for key, ports in members.items()}

    @cached_property
    def _meant(self) -> dict[tuple[str, str, Family], frozenset[int]]:
        return {}

    def members(self, group_id: str, vpc_id: str, family: Family) -> frozenset[int]:
        """Return the private addresses, as integers, that a group peer means in a VPC."""
        key = (group_id, vpc_id, family)
        if key not in self._meant:
            self._meant[key] = self._addresses(group_id, vpc_id, family)
        return self._meant[key]

    def _addresses(self, group_id: str, vpc_id: str, family: Family) -> frozenset[int]:
        return frozenset(
            int(address)
            for vpc in self.visible_vpcs(vpc_id)
            for port in self._members.get((group_id, vpc), ())
            for address in port.private_ips
            if address.version == family.version
        )

    def ranges(self, peer: Peer, vpc_id: str, family: Family) -> tuple[tuple[int, int], ...]:
        """Return the addresses of a peer as (first, last) pairs of integers, unmerged."""
        if isinstance(peer, AnyPeer):
            return ((0, (1 << family.bits) - 1),)
        if isinstance(peer, PrefixPeer):
            network = peer.network
            return ((int(network.network_address), int(network.broadcast_address)),)
        if isinstance(peer, GroupPeer):
            return tuple((a, a) for a in sorted(self.members(peer.group_id, vpc_id, family)))
        group = self.address_groups.get(peer.address_group_id)
        if group is None or group.family is not family:
            return ()
        return tuple(_bounds(entry) for entry in group.entries)


def _bounds(entry: AddressRange) -> tuple[int, int]:
    return int(entry.first), int(entry.last)
