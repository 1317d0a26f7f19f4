"""Large documents for the benchmarks, made from a seed."""

from ipaddress import IPv4Address, ip_network
from random import Random

from secgroupd.core.model import (
    TCP,
    UDP,
    Direction,
    GroupPeer,
    Instance,
    Port,
    PortRange,
    PrefixPeer,
    Rule,
    SecurityGroup,
    State,
    Vpc,
)


def cloud(
    *,
    ports: int,
    groups: int,
    rules: int,
    profiles: int,
    groups_a_port: int = 3,
    seed: int = 1,
    macs: bool = False,
) -> State:
    """Make a state.

    Args:
        ports: all on this host, one address each.
        groups: every rule belongs to one, evenly.
        rules: in all; nine in ten inbound.
        profiles: how many different ordered lists of groups the ports have.
        groups_a_port: length of each list.
        seed: of the random choices.
        macs: whether ports have MAC addresses; without one, each has a source check of its own.
    """
    random = Random(seed)
    names = [f"sg-{at:04}" for at in range(groups)]
    made: dict[str, list[Rule]] = {name: [] for name in names}
    for at in range(rules):
        name = names[at % groups]
        inbound = random.random() < 0.9
        first = random.randrange(1, 60000)
        last = first if random.random() < 0.8 else first + random.randrange(100)
        peer = (
            GroupPeer(random.choice(names))
            if random.random() < 0.5
            else PrefixPeer(ip_network((random.randrange(1 << 16) << 16, 16)))
        )
        made[name].append(
            Rule(
                id=f"r{at}",
                direction=Direction.INGRESS if inbound else Direction.EGRESS,
                protocol=random.choice([TCP, TCP, UDP]),
                ports=(PortRange(first, last),),
                priority=random.choice([1, 1, 10, 100]),
                peer=peer,
            )
        )
    lists = [tuple(random.sample(names, groups_a_port)) for _ in range(profiles)]
    instances = tuple(
        Instance(
            id=f"i{at:05}",
            ports=(
                Port(
                    id=f"p{at:05}",
                    vpc_id="vpc",
                    interface=f"tap{at}",
                    mac_address=mac_address(at) if macs else None,
                    private_ips=(IPv4Address(0x0A000000 + at + 1),),
                    security_groups=lists[at % profiles],
                ),
            ),
        )
        for at in range(ports)
    )
    return State(
        revision=str(seed),
        vpcs=(Vpc(id="vpc"),),
        security_groups=tuple(SecurityGroup(id=n, rules=tuple(r)) for n, r in made.items()),
        instances=instances,
    )


def mac_address(number: int) -> str:
    """Return the MAC address of a port."""
    return (0x02 << 40 | number).to_bytes(6, "big").hex(":")
