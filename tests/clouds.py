"""Answers of clouds' interfaces as they look, and what each cloud's own model says of a packet."""

import json
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from secgroupd.commands.importing import CLOUDS, checked
from secgroupd.core.document import Parsed
from secgroupd.core.model import Direction
from secgroupd.core.policy import Policy
from secgroupd.core.verdict import Packet, decide
from secgroupd.importers.answers import Answer, read
from secgroupd.importers.notes import Notes

Json = dict[str, Any]


def imported(cloud: str, *values: object, **files: object) -> tuple[Parsed, list[str]]:
    """Import values as the files ``1.json``, ``2.json``, ...; returns the document and the notes."""
    notes = Notes()
    answers: list[Answer] = []
    for number, value in enumerate(values, 1):
        answers += read(f"{number}.json", json.dumps(value).encode())
    for name, value in files.items():
        answers += read(f"{name.replace('_', '-')}.json", json.dumps(value).encode())
    document = CLOUDS[cloud](answers, notes)
    _, parsed = checked(document, notes)
    return parsed, [str(note) for note in notes.taken]


def rules_of(parsed: Parsed, group_id: str) -> dict[str, Any]:
    groups = {group.id: group for group in parsed.state.security_groups}
    return {rule.id: rule for rule in groups[group_id].rules}


def allows(parsed: Parsed, port_id: str, direction: str, packet: Packet) -> bool:
    policy = Policy(parsed.state)
    return decide(policy, policy.ports[port_id], Direction(direction), packet).allowed


# OpenStack: the API's answers.


def os_rule(rule_id: str, group: str, **more: object) -> Json:
    return {
        "id": rule_id,
        "project_id": "p",
        "tenant_id": "p",
        "security_group_id": group,
        "direction": "ingress",
        "ethertype": "IPv4",
        "protocol": None,
        "port_range_min": None,
        "port_range_max": None,
        "remote_ip_prefix": None,
        "remote_group_id": None,
        "remote_address_group_id": None,
        "normalized_cidr": None,
        "description": "",
        "revision_number": 0,
        **more,
    }


def os_group(group_id: str, rules: Iterable[Json] = (), **more: object) -> Json:
    return {
        "id": group_id,
        "name": f"name-{group_id}",
        "description": "for tests",
        "stateful": True,
        "shared": False,
        "tags": [],
        "security_group_rules": list(rules),
        **more,
    }


def os_port(port_id: str, address: str, groups: Iterable[str], **more: object) -> Json:
    return {
        "id": port_id,
        "name": "",
        "network_id": "net-1",
        "device_id": f"vm-{port_id}",
        "device_owner": "compute:nova",
        "mac_address": mac_of(port_id),
        "fixed_ips": [{"subnet_id": "subnet-1", "ip_address": address}],
        "security_groups": list(groups),
        "allowed_address_pairs": [],
        "port_security_enabled": True,
        "binding:host_id": "hv1",
        "binding:profile": {},
        **more,
    }


def mac_of(name: str) -> str:
    digits = f"{sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**24:06x}"
    return f"fa:16:3e:{digits[:2]}:{digits[2:4]}:{digits[4:]}"


# AWS: what the command line prints.


def permission(protocol: object, first: object = None, last: object = None, **peers: Any) -> Json:
    made: Json = {"IpProtocol": protocol}
    if first is not None:
        made |= {"FromPort": first, "ToPort": last if last is not None else first}
    made |= {"IpRanges": [], "Ipv6Ranges": [], "PrefixListIds": [], "UserIdGroupPairs": []}
    return {**made, **peers}


def aws_group(
    group_id: str, inbound: Iterable[Json] = (), outbound: Iterable[Json] = (), **more: object
) -> Json:
    return {
        "Description": f"about {group_id}",
        "GroupName": f"name-{group_id}",
        "IpPermissions": list(inbound),
        "OwnerId": "111122223333",
        "GroupId": group_id,
        "IpPermissionsEgress": list(outbound),
        "VpcId": "vpc-1",
        **more,
    }


def interface(eni: str, address: str, groups: Iterable[str], **more: object) -> Json:
    return {
        "NetworkInterfaceId": eni,
        "VpcId": "vpc-1",
        "SubnetId": "subnet-1",
        "MacAddress": mac_of(eni),
        "PrivateIpAddress": address,
        "PrivateIpAddresses": [{"Primary": True, "PrivateIpAddress": address}],
        "Ipv6Addresses": [],
        "Groups": [{"GroupName": f"name-{each}", "GroupId": each} for each in groups],
        "SourceDestCheck": True,
        "InterfaceType": "interface",
        "RequesterManaged": False,
        "Status": "in-use",
        "Attachment": {"InstanceId": f"i-{eni}", "DeviceIndex": 0, "Status": "attached"},
        "TagSet": [],
        **more,
    }


# Huawei: the v3 API's answers.


def hw_rule(rule_id: str, group: str, **more: object) -> Json:
    return {
        "id": rule_id,
        "project_id": "p",
        "security_group_id": group,
        "direction": "ingress",
        "ethertype": "IPv4",
        "protocol": None,
        "multiport": None,
        "remote_ip_prefix": None,
        "remote_group_id": None,
        "remote_address_group_id": None,
        "action": "allow",
        "priority": 1,
        "enabled": True,
        "description": "",
        "created_at": "2025-08-13T07:12:36Z",
        "updated_at": "2025-08-13T07:12:36Z",
        **more,
    }


def hw_group(group_id: str, rules: Iterable[Json] | None = (), **more: object) -> Json:
    made: Json = {
        "id": group_id,
        "name": f"name-{group_id}",
        "description": "for tests",
        "project_id": "p",
        "enterprise_project_id": "0",
        "tags": [],
        **more,
    }
    return made if rules is None else {**made, "security_group_rules": list(rules)}


def hw_port(port_id: str, address: str, groups: Iterable[object], **more: object) -> Json:
    return {
        "id": port_id,
        "name": "",
        "device_id": f"ecs-{port_id}",
        "device_owner": "compute:az1",
        "mac_address": mac_of(port_id),
        "private_ips": [{"subnet_cidr_id": "s", "ip_address": address}],
        "security_groups": list(groups),
        "allowed_address_pairs": [],
        "port_security_enabled": True,
        "virsubnet_id": "subnet-1",
        "vpc_id": "vpc-1",
        "binding:host_id": "hv1",
        **more,
    }


# What the clouds' own models say, straight from the answers.

_NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "sctp": 132, "icmpv6": 58, "ipv6-icmp": 58, "gre": 47}
_WITH_PORTS = {6, 17, 132}

Members = Callable[[str], set[str]]


def os_allows(
    groups: Iterable[Json], port: Json, members: Members, direction: str, packet: Packet
) -> bool:
    """Neutron: a packet passes if any rule of any group of the port allows it."""
    return any(
        _os_matches(rule, members, packet)
        for group in groups
        if group["id"] in port["security_groups"]
        for rule in group["security_group_rules"]
        if rule["direction"] == direction
    )


def _os_matches(rule: Json, members: Members, packet: Packet) -> bool:
    if rule["ethertype"] != packet.family.value:
        return False
    written = rule["protocol"]
    if written is not None:
        number = int(written) if str(written).isdigit() else _NUMBERS[written]
        if written == "icmp" and packet.family.version == 6:
            number = 58
        if number != packet.protocol:
            return False
        low, high = rule["port_range_min"], rule["port_range_max"]
        if number in _WITH_PORTS and low is not None and not low <= packet.dport <= high:
            return False
        if number in {1, 58} and low not in {None, packet.icmp_type}:
            return False
        if number in {1, 58} and high not in {None, packet.icmp_code}:
            return False
    if rule["remote_group_id"] is not None:
        return str(packet.peer) in members(rule["remote_group_id"])
    prefix = rule["remote_ip_prefix"]
    return prefix is None or _within(packet, prefix)


def _within(packet: Packet, prefix: str) -> bool:
    return ip_address(str(packet.peer)) in ip_network(prefix, strict=False)


def aws_allows(
    groups: Iterable[Json],
    eni: Json,
    members: Members,
    lists: Mapping[str, list[str]],
    direction: str,
    packet: Packet,
) -> bool:
    """EC2: a packet passes if any permission of any group of the interface covers it."""
    key = "IpPermissions" if direction == "ingress" else "IpPermissionsEgress"
    own = {each["GroupId"] for each in eni["Groups"]}
    return any(
        _aws_traffic(each, packet) and _aws_peer(each, members, lists, packet)
        for group in groups
        if group["GroupId"] in own
        for each in group[key]
    )


def _aws_traffic(each: Json, packet: Packet) -> bool:
    written = str(each["IpProtocol"])
    if written == "-1":
        return True
    number = int(written) if written.isdigit() else _NUMBERS[written]
    if number != packet.protocol:
        return False
    if number in {6, 17}:
        return bool(each["FromPort"] <= packet.dport <= each["ToPort"])
    if number in {1, 58}:
        return each["FromPort"] in {-1, packet.icmp_type} and each["ToPort"] in {
            -1,
            packet.icmp_code,
        }
    return True


def _aws_peer(each: Json, members: Members, lists: Mapping[str, list[str]], packet: Packet) -> bool:
    prefixes = [entry["CidrIp"] for entry in each["IpRanges"]]
    prefixes += [entry["CidrIpv6"] for entry in each["Ipv6Ranges"]]
    for entry in each["PrefixListIds"]:
        prefixes += lists.get(entry["PrefixListId"], [])
    return any(_within(packet, prefix) for prefix in prefixes) or any(
        str(packet.peer) in members(entry["GroupId"]) for entry in each["UserIdGroupPairs"]
    )
