"""Draws documents full of overlaps, and questions at the edges of what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from random import Random

from tests.builders import VPC, address_group, group, port, rule, state

from secgroupd.core.model import (
    ICMP,
    ICMPV6,
    PORT_PROTOCOLS,
    TCP,
    UDP,
    Address,
    AddressGroupPeer,
    Family,
    Forwarder,
    GroupPeer,
    Listener,
    LoadBalancer,
    Member,
    Port,
    PrefixPeer,
    Rule,
    State,
)
from secgroupd.core.policy import Policy
from secgroupd.proving.questions import FlowQuestion

GRE, SCTP, VRRP = 47, 132, 112

OUTSIDE = {
    Family.IPV4: ("203.0.113.9", "203.0.113.10", "198.51.100.7", "10.0.0.200", "10.0.1.1"),
    Family.IPV6: ("2001:db8:9::9", "2001:db8:9::a", "2001:db8:7::7", "fd00::200", "fd00:0:0:1::1"),
}
NETWORKS = {
    Family.IPV4: (
        "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/30", "10.0.0.2/31", "10.0.0.3/32",
        "203.0.113.0/24", "203.0.113.8/30", "203.0.113.9/32", "198.51.100.0/24", "128.0.0.0/1",
    ),
    Family.IPV6: (
        "::/0", "fd00::/8", "fd00::/64", "fd00::2/127", "fd00::3/128",
        "2001:db8::/32", "2001:db8:9::/48", "2001:db8:9::9/128", "8000::/1",
    ),
}  # fmt: skip
PORTS = (
    None,
    "80",
    "80-90",
    "22,443",
    "443",
    "1-65535",
    "85-100",
    "22-24,25,8000-8100",
    "1",
    "65535",
)
ENTRIES = {
    Family.IPV4: ("10.0.0.2", "10.0.0.1-10.0.0.3", "203.0.113.0/24", "203.0.113.9", "10.0.0.0/29"),
    Family.IPV6: ("fd00::2", "fd00::1-fd00::3", "2001:db8:9::/48", "2001:db8:9::9", "fd00::/125"),
}
GROUPS = ("sg-a", "sg-b", "sg-c", "sg-d")
FORWARDERS = (
    Forwarder(interface="lb0"),
    Forwarder(interface="lb1"),
    Forwarder(mac_address="fa:16:3e:00:00:99"),
    Forwarder(fwmark=4660),
)
"""How load balancers are told apart: every one of a document otherwise."""


@dataclass(frozen=True)
class Drawing:
    """Draws with one source of randomness, so that a seed tells everything."""

    random: Random

    def rule(self, at: int) -> Rule:
        r = self.random
        family = r.choice(list(Family))
        protocol: int | None = r.choice(
            [None, TCP, TCP, TCP, UDP, UDP, ICMP if family is Family.IPV4 else ICMPV6, SCTP, GRE]
        )
        multiport = r.choice(PORTS) if protocol in PORT_PROTOCOLS else None
        icmp = None
        if protocol in {ICMP, ICMPV6} and r.random() < 0.6:
            echo, query = (8, 13) if family is Family.IPV4 else (128, 139)
            icmp = (r.choice([echo, echo, 3, query]), r.choice([None, None, 0, 1]))
        remote = r.choice(
            [
                None,
                r.choice(NETWORKS[family]),
                r.choice(NETWORKS[family]),
                f"sg:{r.choice((*GROUPS, 'sg-dangling'))}",
                f"ag:ag-{family.version}-{r.randint(1, 2)}",
            ]
        )
        return rule(
            r.choice(["ingress", "ingress", "egress"]),
            protocol,
            multiport,
            remote,
            action=r.choice(["allow", "allow", "deny"]),
            priority=r.choice([1, 1, 2, 50, 100]),
            family=family,
            rule_id=f"r{at:03}",
            icmp=icmp,
            enabled=r.random() < 0.92,
        )

    def state(self, port_count: int = 4, most_rules: int = 12) -> State:
        r = self.random
        groups = []
        for group_id in GROUPS:
            drawn = [self.rule(at) for at in range(r.randint(0, most_rules))]
            # Without some open groups hardly a packet would get through both ends.
            for direction in ("ingress", "egress"):
                if r.random() < 0.45:
                    drawn += [
                        rule(
                            direction,
                            action="allow",
                            priority=100,
                            family=family,
                            rule_id=f"open-{direction}-{family.value}",
                        )
                        for family in Family
                    ]
            groups.append(group(group_id, *drawn))
        address_groups = [
            address_group(f"ag-{family.version}-{at}", *r.sample(ENTRIES[family], r.randint(1, 4)))
            for family in Family
            for at in (1, 2)
        ]
        ports = [
            port(
                f"p{at}",
                r.sample(GROUPS, r.randint(0, 3)),
                [f"10.0.0.{at}", f"fd00::{at}"],
                mac=f"fa:16:3e:00:00:{at:02x}" if r.random() < 0.85 else None,
                security=r.random() < 0.95,
            )
            for at in range(1, port_count + 1)
        ]
        balancers = self.load_balancers(ports)
        return state(groups, ports, address_groups=address_groups, load_balancers=balancers)

    def load_balancers(self, ports: Sequence[Port]) -> list[LoadBalancer]:
        """Load balancers that lead to the services that questions ask for, often to the same ones."""
        r = self.random
        forwarders = r.sample(FORWARDERS, r.randint(0, 3))
        return [
            LoadBalancer(
                id=f"lb-{at}",
                vpc_id=VPC,
                forwards_through=forwarder,
                listeners=tuple(self._listener(number, ports) for number in range(r.randint(0, 3))),
            )
            for at, forwarder in enumerate(forwarders)
        ]

    def _listener(self, number: int, ports: Sequence[Port]) -> Listener:
        r = self.random
        members = r.sample(ports, r.randint(0, min(2, len(ports))))
        return Listener(
            id=f"l-{number}",
            protocol=r.choice([TCP, UDP]),
            protocol_port=8000 + number,
            transfer_client_ip=r.random() < 0.8,
            members=tuple(Member(port_id=p.id, protocol_port=r.choice([22, 80])) for p in members),
        )

    def question(self, policy: Policy) -> FlowQuestion:
        """A question whose fields sit on the bounds that the policy's rules set."""
        r = self.random
        family = r.choice(list(Family))
        ports = list(policy.ports.values())
        inside = r.choice(ports)
        rules = [
            one
            for group_id in policy.groups_of(inside)
            for one in policy.groups[group_id].rules
            if one.family is family
        ]
        chosen = r.choice(rules) if rules and r.random() < 0.8 else None
        other = self._other_end(policy, inside, chosen, family)
        protocol, dport, icmp_type, icmp_code = self._service(chosen, family)
        own = self._address(inside, family)
        ends = (own, other) if chosen and chosen.direction == "egress" else (other, own)
        return FlowQuestion(
            source=str(ends[0]),
            destination=str(ends[1]),
            protocol=protocol,
            dport=dport,
            icmp_type=icmp_type,
            icmp_code=icmp_code,
        )

    @staticmethod
    def _address(one: Port, family: Family) -> Address:
        return next(a for a in one.private_ips if a.version == family.version)

    def _other_end(
        self, policy: Policy, inside: Port, chosen: Rule | None, family: Family
    ) -> Address:
        r = self.random
        others = [self._address(p, family) for p in policy.ports.values() if p.id != inside.id]
        make = IPv4Address if family is Family.IPV4 else IPv6Address
        outside: list[Address] = [make(text) for text in OUTSIDE[family]]
        known = set(others)
        edges: list[Address] = []
        if chosen and isinstance(chosen.peer, PrefixPeer | AddressGroupPeer | GroupPeer):
            for first, last in policy.ranges(chosen.peer, inside.vpc_id, family):
                numbers = (first - 1, first, last, last + 1)
                edges += [make(number) for number in numbers if 0 <= number < 1 << family.bits]
        usable = [a for a in edges if a in known or self._can_be_outside(a)]
        return r.choice(r.choice([others, outside, usable or outside]))

    @staticmethod
    def _can_be_outside(address: Address) -> bool:
        text = str(address)
        inside = text.startswith(("10.0.0.", "fd00::"))
        good = text.startswith(("203.0.113.", "198.51.100.", "2001:db8:"))
        own = {f"10.0.0.{n}" for n in range(1, 9)} | {f"fd00::{n}" for n in range(1, 9)}
        return (inside and text not in own and text != "fd00::") or good

    def _service(
        self, chosen: Rule | None, family: Family
    ) -> tuple[int, int | None, int | None, int | None]:
        r = self.random
        icmp = ICMP if family is Family.IPV4 else ICMPV6
        protocol = chosen.protocol if chosen else None
        if protocol is None:
            protocol = r.choice([TCP, TCP, UDP, icmp, GRE, SCTP, VRRP])
        if protocol in PORT_PROTOCOLS:
            edges = [80, 22, 443]
            for span in chosen.ports if chosen else ():
                edges += [span.first - 1, span.first, span.last, span.last + 1]
            return protocol, r.choice([p for p in edges if 1 <= p <= 65535]), None, None
        if protocol == icmp:
            echo, query = (8, 13) if family is Family.IPV4 else (128, 139)
            kind = chosen.icmp_type if chosen and chosen.icmp_type is not None else echo
            icmp_type = r.choice([kind, echo, query])
            code = chosen.icmp_code if chosen and chosen.icmp_code is not None else 0
            return protocol, None, icmp_type, r.choice([code, 0])
        return protocol, None, None, None
