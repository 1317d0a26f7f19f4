"""Security groups: presets, and the default group."""

import pytest
from tests.documents import accepted, problems

from secgroupd.core.model import (
    PortRange,
    Preset,
)


def test_rule_ids_of_a_preset_are_taken() -> None:
    text = (
        "version: 1\nsecurity_groups:\n- id: g\n  preset: all-ports-open\n  rules:\n"
        "  - {id: preset-in-all-v4, direction: ingress}\n"
    )
    assert [(p.line, p.code) for p in problems(text)] == [(6, "duplicate-id")]


def test_fast_add() -> None:
    text = "version: 1\nsecurity_groups: [{id: g, preset: fast-add, preset_ports: '80,22', preset_icmp: true}]"
    group = accepted(text).state.security_groups[0]
    assert group.preset is Preset.FAST_ADD and group.preset_icmp
    assert group.preset_ports == (PortRange(22, 22), PortRange(80, 80))


DEFAULT_RULES = (
    "{direction: ingress, ethertype: IPv4, remote_group_id: d, priority: 100}",
    "{direction: ingress, ethertype: IPv6, remote_group_id: d}",
    "{direction: egress, ethertype: IPv4, remote_ip_prefix: 0.0.0.0/0}",
    "{id: x, direction: egress, ethertype: IPv6, description: out}",
)


def default_group(*lines: str, more: str = "") -> str:
    body = "".join(f"  - {line}\n" for line in lines)
    return f"version: 1\nsecurity_groups:\n- id: d\n  name: default\n  rules:\n{body}{more}"


def test_the_default_group_can_be_written_out() -> None:
    assert len(accepted(default_group(*DEFAULT_RULES)).state.security_groups[0].rules) == 4


@pytest.mark.parametrize(
    "lines",
    [
        (),
        DEFAULT_RULES[:3],
        (*DEFAULT_RULES, "{direction: ingress, protocol: tcp}"),
        (DEFAULT_RULES[0].replace("remote_group_id: d", "enabled: true"), *DEFAULT_RULES[1:]),
        (DEFAULT_RULES[0].replace("}", ", enabled: false}"), *DEFAULT_RULES[1:]),
        (*DEFAULT_RULES[:3], DEFAULT_RULES[3].replace("}", ", action: deny}")),
    ],
)
def test_the_default_group_is_not_to_be_changed(lines: tuple[str, ...]) -> None:
    found = problems(default_group(*lines))
    assert [(p.line, p.column, p.code) for p in found] == [(3, 3, "default-group")]
    assert "allow_default_group_changes: true" in found[0].message
    state = accepted(default_group(*lines), "allow_default_group_changes: true\n").state
    assert state.allow_default_group_changes


def test_two_default_groups_are_ambiguous_once_a_port_needs_one() -> None:
    other = "- {id: e, name: default}\n"
    head = default_group(*DEFAULT_RULES, more=other) + "allow_default_group_changes: true\n"
    ports = "vpcs: [{id: v}]\ninstances: [{id: i, ports: [{id: p, vpc_id: v%s}]}]\n"
    assert len(accepted(head + ports % ", security_groups: [d]").state.security_groups) == 2
    found = problems(head + ports % "")
    assert [(p.line, p.column, p.code) for p in found] == [(10, 3, "two-default-groups")]
