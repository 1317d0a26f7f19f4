"""Whom a refused line is laid to."""

import pytest
from tests.builders import address_group, group, port, rule, state

from secgroupd.core.holding import ports_behind
from secgroupd.core.policy import Policy

POLICY = Policy(
    state(
        [
            group("a", rule("ingress", "tcp", "80", "sg:b")),
            group("b", rule("egress", remote="ag:office"), rule("ingress", enabled=False)),
            group("c"),
        ],
        [port("1", ["a"]), port("2", ["a", "b"]), port("3", ["c"]), port("4", ["b"])],
        address_groups=[address_group("office", "203.0.113.0/28")],
    )
)


@pytest.mark.parametrize(
    ("origins", "ports"),
    [
        (["port 3"], "3"),
        (["security groups a"], "1"),
        (["security groups a, b"], "2"),
        (["security group b"], "12"),
        (["address group office"], "24"),
        (["net 10.0.0.0/8, address group office"], "24"),
        (["security group c"], ""),
        (["ports"], ""),
        (["", "port 9"], ""),
        (["port 1", "security groups c"], "13"),
        ([], ""),
    ],
)
def test_ports_are_blamed_for_what_they_have_or_refer_to(origins: list[str], ports: str) -> None:
    assert ports_behind(POLICY, "1234", origins) == set(ports)


def test_ports_of_other_hosts_are_not_blamed() -> None:
    assert ports_behind(POLICY, ["1"], ["security group b"]) == {"1"}
