"""States as files of a document, as somebody would write them."""

import json
from collections.abc import Iterator
from typing import Any

from secgroupd.core.model import GroupPeer, Instance, PrefixPeer, Rule, SecurityGroup, State

INSTANCES_A_FILE = 100

Sections = dict[str, list[Any]]
"""What is in one file: objects of the model, by section."""


def files(state: State, *, one: bool = False) -> Iterator[tuple[str, Sections]]:
    """Yield names of files and what is in each: one group or a hundred instances a file, or all."""
    head: Sections = {"vpcs": list(state.vpcs)}
    if one:
        groups, instances = list(state.security_groups), list(state.instances)
        yield "all.yaml", head | {"security_groups": groups, "instances": instances}
        return
    yield "head.yaml", head
    for group in state.security_groups:
        yield f"{group.id}.yaml", {"security_groups": [group]}
    for at in range(0, len(state.instances), INSTANCES_A_FILE):
        some = list(state.instances[at : at + INSTANCES_A_FILE])
        yield f"instances-{at:05}.yaml", {"instances": some}


def text(sections: Sections) -> str:
    """Return a file's content: YAML with one rule or instance a line."""
    lines = ["version: 1"] if "vpcs" in sections else []
    for section, entries in sections.items():
        lines.append(f"{section}:")
        for entry in entries:
            if isinstance(entry, SecurityGroup):
                lines += [f"- id: {entry.id}", "  rules:"]
                lines += [f"  - {json.dumps(_rule(rule))}" for rule in entry.rules]
            elif isinstance(entry, Instance):
                lines.append(f"- {json.dumps(_instance(entry))}")
            else:
                lines.append(f"- id: {entry.id}")
    return "\n".join(lines) + "\n"


def _rule(rule: Rule) -> dict[str, Any]:
    written: dict[str, Any] = {
        "id": rule.id,
        "direction": rule.direction.value,
        "action": rule.action.value,
        "priority": rule.priority,
        "protocol": rule.protocol,
        "multiport": ",".join(f"{each.first}-{each.last}" for each in rule.ports) or None,
    }
    if isinstance(rule.peer, GroupPeer):
        written["remote_group_id"] = rule.peer.group_id
    elif isinstance(rule.peer, PrefixPeer):
        written["remote_ip_prefix"] = str(rule.peer.network)
    return written


def _instance(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "ports": [
            {
                "id": port.id,
                "vpc_id": port.vpc_id,
                "mac_address": port.mac_address,
                "interface": port.interface,
                "host_id": port.host_id,
                "private_ips": [str(address) for address in port.private_ips],
                "security_groups": list(port.security_groups),
            }
            for port in instance.ports
        ],
    }
