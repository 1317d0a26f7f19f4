"""The cloud's worked examples as states and questions, with IPv6 twins where they make sense.

``tests/cases/huawei_worked_examples.json`` says them in a neutral shorthand; what a case leaves
open (which address ``vm`` has, say) is filled in here.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from tests.builders import address_group, group, port, rule, state

from secgroupd.core.model import (
    ICMP,
    ICMPV6,
    PROTOCOL_NUMBERS,
    AddressGroup,
    AddressRange,
    Family,
    Port,
    PrefixPeer,
    Rule,
    SecurityGroup,
    State,
)
from secgroupd.proving.questions import FlowQuestion

FILE = Path(__file__).parent / "cases" / "huawei_worked_examples.json"
TWIN = int(IPv6Address("fd00:6464::"))
"""IPv6 twins of IPv4 addresses and networks: this prefix and the IPv4 address behind it."""

NAMES = {
    "vm": "172.31.0.1", "ECS-A": "10.20.1.1", "ECS-A1": "10.20.1.1", "ECS-A2": "10.20.1.2",
    "ECS-B": "10.20.2.1", "ECS-A01": "10.20.1.1", "ECS-B01": "10.20.2.1", "pc": "203.0.113.77",
    "internet": "198.51.100.77", "peer-in-sg-AB": "10.20.3.1", "sgB-member": "10.20.2.9",
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    name: str
    state: State
    question: FlowQuestion
    allowed: bool


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def _rule(written: dict[str, Any], own: str, at: int) -> Rule:
    remote = written["peer"]
    if remote == "sg:self":
        remote = f"sg:{own}"
    made = rule(
        "ingress" if written["dir"] == "ingress" else "egress",
        written.get("proto"),
        written.get("ports"),
        remote,
        action=written["action"],
        priority=written.get("prio", 1),
        rule_id=written.get("id", f"r{at}"),
    )
    return replace(made, family=Family(written["eth"])) if "eth" in written else made


def _groups(case: dict[str, Any], extra: dict[str, Any] | None, bare: bool) -> list[SecurityGroup]:
    """Groups keep the outbound defaults unless the case deletes them; inbound ones are as given."""
    defaults = load()["defaults_every_sg"]
    keep_egress = "egress" not in case.get("delete_defaults", [])
    made = []
    for name, rules in case["sg"].items():
        written = [] if bare else list(rules)
        if keep_egress:
            written += [d for d in defaults if d["dir"] == "egress"]
        if extra:
            written.append({"dir": "ingress", "eth": "IPv4", "proto": None, **extra})
        made.append(group(name, *(_rule(one, name, at) for at, one in enumerate(written))))
    return made


def _members(case: dict[str, Any], made: list[SecurityGroup]) -> dict[str, tuple[str, ...]]:
    """Return the address of every port of the case, with its groups."""
    order = case.get("port_security_groups")
    judged = tuple(order) if order else (made[0].id,)
    found = {NAMES["vm"]: judged}
    found |= {ip: (name,) for name, ips in case.get("members", {}).items() for ip in ips}
    special = {
        "W11-sgAB": {NAMES["peer-in-sg-AB"]: ("sg-AB",)},
        "W12-fig1": {NAMES["ECS-A"]: ("Sg-A",)},
        "W13-fig3": {NAMES["ECS-A1"]: ("Sg-A",), NAMES["ECS-A2"]: ("Sg-A",), NAMES["ECS-B"]: ("Sg-B",)},
        "W14-fig4-vip": {NAMES["ECS-A"]: ("Sg-A",), NAMES["ECS-B"]: ("Sg-B",)},
        "W15-fig5-peering": {NAMES["ECS-A01"]: ("Sg-A",), NAMES["ECS-B01"]: ("Sg-B",)},
        "W16-table4": {NAMES["sgB-member"]: ("Sg-B",)},
    }  # fmt: skip
    return found | special.get(case["id"], {})


def _case_state(case: dict[str, Any], expect: dict[str, Any]) -> State:
    made = _groups(case, expect.get("with_extra_rule"), bool(expect.get("without_rules")))
    members = _members(case, made)
    if "with_order" in expect:
        members[NAMES["vm"]] = tuple(expect["with_order"])
    known = {one.id for one in made}
    outbound = [d for d in load()["defaults_every_sg"] if d["dir"] == "egress"]
    made += [
        group(name, *(_rule(one, name, at) for at, one in enumerate(outbound)))
        for name in sorted({g for gs in members.values() for g in gs} - known)
    ]
    vpcs = {NAMES["ECS-B01"]: "vpc-b"} if case["id"] == "W15-fig5-peering" else {}
    ports = [
        port(f"p{at}", groups, [ip], vpc=vpcs.get(ip, "vpc"), interface=f"tap{at}")
        for at, (ip, groups) in enumerate(members.items())
    ]
    entries = case.get("address_groups", {"ipGroup-A": ["10.0.3.0/24"]})
    return state(
        made,
        ports,
        address_groups=[address_group(name, *ips) for name, ips in entries.items()],
        peerings=[("vpc", "vpc-b")] if vpcs and expect["verdict"] != "unreachable" else [],
    )


PACKET = re.compile(r"^(?P<src>[^>]+)>(?P<dst>\S+)\s*(?P<what>.*)$")


def _end(text: str) -> str:
    name = text.split("(", maxsplit=1)[0].strip().strip("[]")
    return NAMES.get(name, name)


def _service(what: str, version: int) -> tuple[int, int | None]:
    if match := re.match(r"(tcp|udp)/(\d+)", what):
        return PROTOCOL_NUMBERS[match[1]], int(match[2])
    if what.startswith("icmp"):
        return (ICMP if version == 4 else ICMPV6), None
    return PROTOCOL_NUMBERS["tcp"], 443


def _question(text: str) -> FlowQuestion:
    match = PACKET.match(text)
    assert match, text
    source, destination = _end(match["src"]), _end(match["dst"])
    protocol, dport = _service(match["what"], ip_address(source).version)
    return FlowQuestion(source=source, destination=destination, protocol=protocol, dport=dport)


def _twin_address(text: str) -> str:
    address = ip_address(text)
    return str(IPv6Address(TWIN + int(address)))


def _twin_rule(written: Rule) -> Rule:
    peer = written.peer
    if isinstance(peer, PrefixPeer):
        network = peer.network
        length = 0 if network.prefixlen == 0 else 96 + network.prefixlen
        base = 0 if length == 0 else TWIN + int(network.network_address)
        peer = PrefixPeer(IPv6Network((base, length)))
    protocol = ICMPV6 if written.protocol == ICMP else written.protocol
    return replace(written, family=Family.IPV6, peer=peer, protocol=protocol)


def _twin_entry(entry: AddressRange) -> AddressRange:
    return AddressRange(*(IPv6Address(TWIN + int(end)) for end in (entry.first, entry.last)))


def _twin_state(original: State) -> State:
    def twin_port(one: Port) -> Port:
        return replace(one, private_ips=tuple(IPv6Address(TWIN + int(a)) for a in one.private_ips))

    return replace(
        original,
        security_groups=tuple(
            replace(g, rules=tuple(_twin_rule(r) for r in g.rules if r.family is Family.IPV4))
            for g in original.security_groups
        ),
        address_groups=tuple(
            AddressGroup(
                id=g.id, family=Family.IPV6, entries=tuple(_twin_entry(e) for e in g.entries)
            )
            for g in original.address_groups
        ),
        instances=tuple(
            replace(i, ports=tuple(twin_port(p) for p in i.ports)) for i in original.instances
        ),
    )


def examples() -> Iterator[Example]:
    """Every packet of every case, then its IPv6 twin."""
    for case in load()["cases"]:
        for at, expect in enumerate(case["expect"]):
            if "pkt" not in expect:
                continue  # W16's quota has a test of its own
            text = expect["pkt"]
            if text.startswith("without peering"):
                text = "ECS-A01>ECS-B01"
            question = _question(text)
            made = _case_state(case, expect)
            if ip_address(question.source).version == 6:
                made = _with_own_ipv6(made, question)
                question = replace(question, destination="fd00:aaaa::1")
            allowed = expect["verdict"] == "allow"
            yield Example(f"{case['id']}-{at}", made, question, allowed)
            if ip_address(question.source).version == 4:
                protocol = ICMPV6 if question.protocol == ICMP else question.protocol
                twin = replace(
                    question,
                    source=_twin_address(str(question.source)),
                    destination=_twin_address(str(question.destination)),
                    protocol=protocol,
                )
                yield Example(f"{case['id']}-{at}-ipv6", _twin_state(made), twin, allowed)


def _with_own_ipv6(made: State, question: FlowQuestion) -> State:
    """Give the judged port an IPv6 address too."""

    def extended(one: Port) -> Port:
        if ip_address(str(question.destination)) not in one.private_ips:
            return one
        return replace(one, private_ips=(*one.private_ips, IPv6Address("fd00:aaaa::1")))

    return replace(
        made,
        instances=tuple(
            replace(i, ports=tuple(extended(p) for p in i.ports)) for i in made.instances
        ),
    )
