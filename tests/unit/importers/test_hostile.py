"""Answers that are not what they should be: refused with a reason, or imported narrower."""

import contextlib
import copy
import random
from typing import Any

import pytest
from tests.clouds import (
    Json,
    aws_group,
    hw_group,
    hw_port,
    hw_rule,
    imported,
    interface,
    os_group,
    os_port,
    os_rule,
    permission,
)
from tests.unit.importers.test_equivalence import packet

from secgroupd.core.document import Parsed
from secgroupd.core.model import Direction
from secgroupd.core.policy import Policy
from secgroupd.core.verdict import Packet, decide
from secgroupd.errors import ImportRefused

# Nothing in here means anything to any of the clouds, so that only harm can come of it.
NONSENSE: tuple[Any, ...] = (
    "zorp",
    10**30,
    1.5,
    True,
    -7,
    {"a": 1},
    [["x"]],
    "\ud800",
    "a\nb",
    "x" * 300,
    "default@x",
)

OPENSTACK = {
    "security_groups": [
        os_group("g", [
            os_rule("1", "g", protocol="tcp", port_range_min=22, port_range_max=23, remote_ip_prefix="10.0.0.0/30"),
            os_rule("2", "g", protocol="icmp", port_range_min=8, port_range_max=0),
            os_rule("3", "g", remote_group_id="h"),
            os_rule("4", "g", direction="egress", ethertype="IPv6", protocol="udp", port_range_min=80, port_range_max=80),
            os_rule("5", "g", protocol="udp", port_range_min=443, port_range_max=443, remote_address_group_id="ag"),
        ]),
        os_group("h", [os_rule("6", "h", direction="egress", protocol="tcp", port_range_min=443, port_range_max=443)]),
    ],
    "address_groups": [{"id": "ag", "name": "ag", "addresses": ["192.0.2.0/24", "2001:db8::/32"]}],
    "ports": [os_port("p", "10.0.0.5", ["g"]), os_port("q", "10.0.0.6", ["h", "g"]), os_port("r", "10.0.0.7", ["h"])],
}  # fmt: skip

HUAWEI = {
    "security_groups": [
        hw_group("g", [
            hw_rule("1", "g", action="deny", priority=2, protocol="tcp", multiport="22-23", remote_ip_prefix="10.0.0.0/30"),
            hw_rule("2", "g", action="deny", priority=2, remote_group_id="h"),
            hw_rule("3", "g", action="deny", priority=2, remote_address_group_id="ag"),
            hw_rule("4", "g", action="deny", priority=2, protocol="icmp"),
            hw_rule("5", "g", priority=3),
            hw_rule("6", "g", priority=1, protocol="tcp", multiport="443", remote_ip_prefix="192.0.2.0/24"),
            hw_rule("7", "g", direction="egress", ethertype="IPv6", protocol="udp", multiport="80,443"),
            hw_rule("8", "g", priority=1, protocol="udp", enabled=False),
        ]),
        hw_group("h", [
            hw_rule("9", "h", action="deny", direction="egress", protocol="tcp", multiport="80"),
            hw_rule("0", "h", direction="egress", priority=50),
        ]),
    ],
    "address_groups": [{"id": "ag", "name": "ag", "ip_version": 4, "ip_set": ["192.0.2.0/24", "198.51.100.1"]}],
    "ports": [hw_port("p", "10.0.0.5", ["g"]), hw_port("q", "10.0.0.6", ["h", "g"]), hw_port("r", "10.0.0.7", ["h"])],
}  # fmt: skip

AWS = {
    "SecurityGroups": [
        aws_group("sg-1", [
            permission("tcp", 22, 23, IpRanges=[{"CidrIp": "10.0.0.0/30", "Description": "d"}]),
            permission("icmp", 8, 0, IpRanges=[{"CidrIp": "0.0.0.0/0"}]),
            permission("-1", UserIdGroupPairs=[{"GroupId": "sg-2", "UserId": "1"}]),
        ], [permission("udp", 80, Ipv6Ranges=[{"CidrIpv6": "::/0"}])]),
        aws_group("sg-2", [], [permission("tcp", 443, PrefixListIds=[{"PrefixListId": "pl-1"}])]),
    ],
    "PrefixLists": [{"PrefixListId": "pl-1", "AddressFamily": "IPv4", "Cidrs": ["192.0.2.0/24"]}],
    "NetworkInterfaces": [interface("p", "10.0.0.5", ["sg-1"]), interface("q", "10.0.0.6", ["sg-2", "sg-1"]), interface("r", "10.0.0.7", ["sg-2"])],
}  # fmt: skip

CLOUDS = {"openstack": OPENSTACK, "huawei": HUAWEI, "aws": AWS}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in a JSON value that something can be put at."""
    keys: list[Any] = (
        list(value)
        if isinstance(value, dict)
        else list(range(len(value)))
        if isinstance(value, list)
        else []
    )
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in places(value[key])]


def passing(parsed: Parsed, packets: list[Packet]) -> set[tuple[str, str, int]]:
    policy = Policy(parsed.state)
    return {
        (port.id, direction.value, number)
        for port in policy.ports.values()
        for direction in Direction
        for number, each in enumerate(packets)
        if decide(policy, port, direction, each).allowed
    }


def mutate(draw: random.Random, value: Json) -> str:
    holder, key = draw.choice(places(value))
    if isinstance(holder, dict) and draw.random() < 0.4:
        del holder[key]
        return f"without {key}"
    nonsense = copy.deepcopy(draw.choice(NONSENSE))
    if nonsense == "zorp" and (isinstance(holder, list) or key == "security_groups"):
        # As an id that would be sense: the port is in another group.
        nonsense = 1.5
    holder[key] = nonsense
    return f"{key} = {holder[key]!r:.40}"


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("changes", [1, 2, 6])
@pytest.mark.parametrize("seed", range(4))
def test_nonsense_never_widens_and_never_crashes(cloud: str, changes: int, seed: int) -> None:
    draw = random.Random(1000 * seed + changes)
    packets = [packet(draw) for _ in range(80)]
    whole, notes = imported(cloud, CLOUDS[cloud])
    assert notes == []
    before = passing(whole, packets)
    assert before
    refused = 0
    for _ in range(60):
        value = copy.deepcopy(CLOUDS[cloud])
        what = [mutate(draw, value) for _ in range(changes)]
        try:
            parsed, _ = imported(cloud, value)
        except ImportRefused:
            refused += 1
            continue
        known = {port for port, _, _ in before}
        after = {each for each in passing(parsed, packets) if each[0] in known}
        assert after <= before, (what, after - before)
    assert refused < 60


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("key", ["zorp", "x" * 300, ""])
def test_every_place_takes_nonsense(cloud: str, key: str) -> None:
    count = len(places(CLOUDS[cloud]))
    for number in range(count):
        value = copy.deepcopy(CLOUDS[cloud])
        holder, where = places(value)[number]
        holder[where] = key
        with contextlib.suppress(ImportRefused):
            imported(cloud, value)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_hundreds_of_groups(cloud: str) -> None:
    size = 300
    match cloud:
        case "openstack":
            value: Json = {
                "security_groups": [os_group(f"g{n}", [os_rule(f"{n}-{i}", f"g{n}", remote_group_id=f"g{(n + i) % size}") for i in range(20)]) for n in range(size)],
                "ports": [os_port(f"p{n}", f"10.0.{n // 250}.{n % 250 + 1}", [f"g{n}"], mac_address=f"fa:16:3e:00:{n // 256:02x}:{n % 256:02x}") for n in range(size)],
            }  # fmt: skip
        case "huawei":
            value = {
                "security_groups": [hw_group(f"g{n}", [hw_rule(f"{n}-{i}", f"g{n}", action="deny", remote_group_id=f"g{(n + i) % size}") for i in range(20)]) for n in range(size)],
                "ports": [hw_port(f"p{n}", f"10.0.{n // 250}.{n % 250 + 1}", [f"g{n}"], mac_address=f"fa:16:3e:00:{n // 256:02x}:{n % 256:02x}") for n in range(size)],
            }  # fmt: skip
        case _:
            value = {
                "SecurityGroups": [aws_group(f"g{n}", [permission("tcp", 1000 + i, UserIdGroupPairs=[{"GroupId": f"g{(n + i) % size}"}]) for i in range(20)]) for n in range(size)],
                "NetworkInterfaces": [interface(f"p{n}", f"10.0.{n // 250}.{n % 250 + 1}", [f"g{n}"], MacAddress=f"fa:16:3e:00:{n // 256:02x}:{n % 256:02x}") for n in range(size)],
            }  # fmt: skip
    parsed, notes = imported(cloud, value)
    assert (len(parsed.state.security_groups), notes) == (size, [])
    assert sum(len(group.rules) for group in parsed.state.security_groups) >= 20 * size
