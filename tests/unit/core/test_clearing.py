"""Every row of the clearing table, every change that clears nobody, and the traps between them."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from tests.builders import address_group, both, group, port, rule, state
from tests.worked import load

from secgroupd.core.clearing import Scenario, documented, everything, strict
from secgroupd.core.model import Port, SecurityGroup, State
from secgroupd.core.policy import Policy

ALLOW = rule("ingress", "tcp", "22", "10.0.0.0/8", rule_id="allow")
DENY = rule("ingress", "tcp", "22", "10.0.0.0/8", rule_id="deny", action="deny")
OUT_ALLOW = rule("egress", "tcp", "443", rule_id="out-allow")
OUT_DENY = rule("egress", "tcp", "25", rule_id="out-deny", action="deny")
FROM_A = rule("ingress", "tcp", "80", "sg:a", rule_id="from-a")
NOT_FROM_A = rule("ingress", "tcp", "80", "sg:a", rule_id="not-from-a", action="deny")

A1 = port("a1", ["a"], ["10.0.0.1"])
A2 = port("a2", ["a"], ["10.0.0.2"], host_id="elsewhere")
B1 = port("b1", ["b"], ["10.0.1.1"])
C1 = port("c1", ["c"], ["10.0.2.1"])


def cloud(
    a: tuple[SecurityGroup, ...] | SecurityGroup = (),
    *,
    b: SecurityGroup | None = None,
    ports: tuple[Port, ...] = (A1, A2, B1, C1),
    book: tuple[str, ...] = ("10.9.0.1",),
) -> State:
    own = a if isinstance(a, SecurityGroup) else group("a")
    return state(
        [own, b or group("b"), group("c")], ports, address_groups=[address_group("book", *book)]
    )


def cleared(before: State, after: State) -> dict[str, set[str]]:
    found = documented(Policy(before), Policy(after))
    return {port_id: {s.value for s in scenarios} for port_id, scenarios in found.items()}


def in_a(scenario: Scenario) -> dict[str, set[str]]:
    return {"a1": {scenario.value}, "a2": {scenario.value}}


NOBODY: dict[str, set[str]] = {}
BOOK_IN = rule("ingress", "tcp", "22", "ag:book", rule_id="book")
BOOK_OUT = rule("egress", "tcp", "22", "ag:book", rule_id="book")

MODIFIED: dict[str, dict[str, Any]] = {
    "priority": {"priority": 2},
    "action": {"action": DENY.action},
    "protocol": {"protocol": 17},
    "port": {"ports": FROM_A.ports},
    "peer": {"peer": FROM_A.peer},
}

CASES: dict[str, tuple[State, State, dict[str, set[str]]]] = {
    "C01-inbound": (cloud(group("a")), cloud(group("a", DENY)), in_a(Scenario.RULE_ADDED)),
    "C01-outbound": (cloud(group("a")), cloud(group("a", OUT_DENY)), in_a(Scenario.RULE_ADDED)),
    "C02-inbound": (cloud(group("a")), cloud(group("a", ALLOW)), NOBODY),
    "C02-outbound": (cloud(group("a")), cloud(group("a", OUT_ALLOW)), NOBODY),
    "C03": (cloud(group("a", ALLOW)), cloud(group("a")), in_a(Scenario.RULE_DELETED)),
    "C04-deny": (cloud(group("a", DENY)), cloud(group("a")), NOBODY),
    "C04-outbound-allow": (cloud(group("a", OUT_ALLOW)), cloud(group("a")), NOBODY),
    "C04-outbound-deny": (cloud(group("a", OUT_DENY)), cloud(group("a")), NOBODY),
    **{
        f"C05-{name}": (
            cloud(group("a", ALLOW)),
            cloud(group("a", replace(ALLOW, **change))),
            in_a(Scenario.RULE_MODIFIED),
        )
        for name, change in MODIFIED.items()
    },
    "C06-description": (
        cloud(group("a", ALLOW)),
        cloud(group("a", replace(ALLOW, description="ssh"))),
        NOBODY,
    ),
    "C06-outbound": (
        cloud(group("a", OUT_ALLOW)),
        cloud(group("a", replace(OUT_ALLOW, action=OUT_DENY.action, priority=9))),
        NOBODY,
    ),
    "C07-added": (
        cloud(group("a", BOOK_IN)),
        cloud(group("a", BOOK_IN), book=("10.9.0.1", "10.9.0.2")),
        in_a(Scenario.ADDRESS_GROUP_CHANGED),
    ),
    "C07-removed": (
        cloud(group("a", BOOK_IN), book=("10.9.0.1", "10.9.0.2")),
        cloud(group("a", BOOK_IN)),
        in_a(Scenario.ADDRESS_GROUP_CHANGED),
    ),
    "C08": (
        cloud(group("a", BOOK_OUT)),
        cloud(group("a", BOOK_OUT), book=("10.9.0.7",)),
        NOBODY,
    ),
    "C09-added": (
        cloud(ports=(A1, B1, C1)),
        cloud(ports=(A1, A2, B1, C1)),
        {"a2": {"instance-added"}},
    ),
    "C09-denied-peer": (
        cloud(b=group("b", NOT_FROM_A), ports=(A1, B1, C1)),
        cloud(b=group("b", NOT_FROM_A), ports=(A1, A2, B1, C1)),
        {"a2": {"instance-added"}, "b1": {"peer-instance-added"}},
    ),
    "C09-allowed-peer": (
        cloud(b=group("b", FROM_A), ports=(A1, B1, C1)),
        cloud(b=group("b", FROM_A), ports=(A1, A2, B1, C1)),
        {"a2": {"instance-added"}},
    ),
    "C10-removed": (
        cloud(ports=(A1, A2, B1, replace(C1, security_groups=("c", "a")))),
        cloud(ports=(A1, A2, B1, C1)),
        {**in_a(Scenario.INSTANCE_REMOVED), "c1": {"instance-removed"}},
    ),
    "C10-allowed-peer": (
        cloud(b=group("b", FROM_A), ports=(A1, A2, B1, C1)),
        cloud(b=group("b", FROM_A), ports=(A1, B1, C1)),
        {"a1": {"instance-removed"}, "b1": {"peer-instance-removed"}},
    ),
    "C10-denied-peer": (
        cloud(b=group("b", NOT_FROM_A), ports=(A1, A2, B1, C1)),
        cloud(b=group("b", NOT_FROM_A), ports=(A1, B1, C1)),
        {"a1": {"instance-removed"}},
    ),
}
"""Before, after, and who is cleared by what. C11 and C12 are about live connections."""

BY_KERNEL = {
    "C11": "test_a_change_cuts_what_it_denies_and_nothing_else (the port's own connections)",
    "C12": "test_a_change_cuts_what_it_denies_and_nothing_else (what is still allowed)",
}
"""Cases that only packets can prove; both are in tests/netns/test_clearing_kernel.py."""


@pytest.mark.parametrize("name", CASES)
def test_documented_case(name: str) -> None:
    before, after, expected = CASES[name]
    assert cleared(before, after) == expected


def test_all_documented_cases_are_covered() -> None:
    written = {case["id"] for case in load()["clearing_cases"]}
    assert {name[:3] for name in CASES} | set(BY_KERNEL) == written


def test_an_unchanged_document_clears_nobody() -> None:
    both_sides = cloud(group("a", ALLOW, DENY, BOOK_IN), b=group("b", FROM_A, NOT_FROM_A))
    assert cleared(both_sides, replace(both_sides, revision="later")) == NOBODY


def test_disabling_an_inbound_allow_is_deleting_it_and_enabling_a_deny_is_adding_it() -> None:
    off = replace(ALLOW, enabled=False)
    assert cleared(cloud(group("a", ALLOW)), cloud(group("a", off))) == in_a(Scenario.RULE_DELETED)
    assert cleared(cloud(group("a", off)), cloud(group("a", ALLOW))) == NOBODY
    deny_off = replace(DENY, enabled=False)
    after = cloud(group("a", DENY))
    assert cleared(cloud(group("a", deny_off)), after) == in_a(Scenario.RULE_ADDED)
    assert cleared(after, cloud(group("a", deny_off))) == NOBODY


def test_a_disabled_rule_counts_for_nothing() -> None:
    off = replace(DENY, enabled=False)
    assert cleared(cloud(group("a")), cloud(group("a", off))) == NOBODY
    changed = replace(off, priority=7)
    assert cleared(cloud(group("a", off)), cloud(group("a", changed))) == NOBODY
    silent = group("b", replace(NOT_FROM_A, enabled=False))
    before, after = cloud(b=silent, ports=(A1, B1, C1)), cloud(b=silent)
    assert cleared(before, after) == {"a2": {"instance-added"}}


@pytest.mark.parametrize("action", ["allow", "deny"])
def test_an_outbound_rule_about_a_group_clears_nobody_when_its_members_change(action: str) -> None:
    towards = group("b", rule("egress", "tcp", "80", "sg:a", action=action, rule_id="to-a"))
    fewer, more = cloud(b=towards, ports=(A1, B1, C1)), cloud(b=towards)
    assert cleared(fewer, more) == {"a2": {"instance-added"}}
    assert cleared(more, fewer) == {"a1": {"instance-removed"}}


def test_names_descriptions_and_interfaces_clear_nobody() -> None:
    named = cloud(replace(group("a", ALLOW), name="web", description="all of it"))
    assert cleared(cloud(group("a", ALLOW)), named) == NOBODY
    plugged = replace(A1, interface="tap-other", mac_address="02:00:00:00:00:01")
    assert cleared(cloud(), cloud(ports=(plugged, A2, B1, C1))) == NOBODY


def test_a_rule_that_changes_direction_is_deleted_and_added() -> None:
    turned = replace(DENY, direction=OUT_DENY.direction)
    assert cleared(cloud(group("a", DENY)), cloud(group("a", turned))) == in_a(Scenario.RULE_ADDED)
    turned = replace(ALLOW, direction=OUT_ALLOW.direction)
    after = cloud(group("a", turned))
    assert cleared(cloud(group("a", ALLOW)), after) == in_a(Scenario.RULE_DELETED)


def test_a_new_order_of_groups_clears_that_port_alone() -> None:
    one, other = (port("p", groups, ["10.0.5.1"]) for groups in (["a", "b"], ["b", "a"]))
    found = cleared(cloud(ports=(A1, B1, one)), cloud(ports=(A1, B1, other)))
    assert found == {"p": {"group-order-changed"}}


def test_a_member_with_another_address_has_been_removed_and_added() -> None:
    moved = replace(A2, private_ips=(ip_address("10.0.0.77"),))
    guarded = group("b", FROM_A, NOT_FROM_A)
    found = cleared(cloud(b=guarded), cloud(b=guarded, ports=(A1, moved, B1, C1)))
    assert found == {
        "a1": {"instance-removed"},
        "a2": {"instance-added", "instance-removed"},
        "b1": {"peer-instance-added", "peer-instance-removed"},
    }


def test_a_group_that_denies_itself_is_not_another_group() -> None:
    own = group("a", rule("ingress", None, None, "sg:a", action="deny", rule_id="self"))
    found = cleared(cloud(own, ports=(A1, B1, C1)), cloud(own))
    assert found == {"a2": {"instance-added"}}


def test_several_changes_at_once_add_up() -> None:
    before = cloud(group("a", ALLOW, BOOK_IN), b=group("b", FROM_A))
    after = cloud(
        group("a", BOOK_IN, DENY), b=group("b"), ports=(A1, A2, B1, C1), book=("10.9.0.8",)
    )
    every = {"rule-deleted", "rule-added", "address-group-changed"}
    assert cleared(before, after) == {"a1": every, "a2": every, "b1": {"rule-deleted"}}


def test_a_peering_that_comes_clears_those_with_group_peers_and_one_that_goes_all() -> None:
    ports = (port("x", ["b"], ["10.0.0.1"], vpc="vx"), port("y", ["a"], ["10.1.0.1"], vpc="vy"))
    groups = [group("a", ALLOW), group("b", FROM_A)]
    apart, peered = state(groups, ports), state(groups, ports, peerings=[("vx", "vy")])
    assert cleared(apart, peered) == {"x": {"peering-changed"}}
    # Nothing at all passes any more between VPCs that no peering connects.
    assert cleared(peered, apart) == {"x": {"peering-changed"}, "y": {"peering-changed"}}


def test_port_security_that_is_switched_on_clears_the_port() -> None:
    off = replace(B1, port_security_enabled=False)
    found = cleared(cloud(ports=(A1, off)), cloud(ports=(A1, B1)))
    assert found == {"b1": {"port-security-enabled"}}
    assert cleared(cloud(ports=(A1, B1)), cloud(ports=(A1, off))) == NOBODY


def test_ports_that_are_gone_are_not_cleared() -> None:
    assert "a2" not in cleared(cloud(), cloud(ports=(A1, B1, C1)))


def test_without_knowledge_of_before_every_port_is_cleared() -> None:
    found = everything(Policy(cloud()))
    assert set(found) == {"a1", "a2", "b1", "c1"}
    assert set(found.values()) == {frozenset({Scenario.STATE_LOST})}


@pytest.mark.parametrize(
    "change",
    [
        lambda: (cloud(group("a", OUT_ALLOW)), cloud(group("a"))),
        lambda: (cloud(group("a")), cloud(group("a", *both("egress")))),
        lambda: (cloud(group("a", BOOK_OUT)), cloud(group("a", BOOK_OUT), book=("10.9.0.7",))),
    ],
    ids=["outbound-allow-deleted", "outbound-allow-added", "outbound-address-group"],
)
def test_strict_clearing_takes_whoever_is_judged_by_something_else(
    change: Callable[[], tuple[State, State]],
) -> None:
    before, after = (Policy(one) for one in change())
    assert set(strict(before, after)) == {"a1", "a2"}
    assert documented(before, after) == {}
