"""What of a ruleset grows with what, as far as the kernel's time depends on it."""

import pytest
from tests.builders import group, port, rule, state

from secgroupd.core.compiler import compile_ruleset
from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations, Host
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import Ruleset


def compiled(count: int, family: str) -> Ruleset:
    """Return the table of a host with so many ports, each with groups and a source of its own."""
    made = [f"p{at}" for at in range(count)]
    groups = [group(f"g-{at}", rule("ingress", "tcp", "80"), rule("egress")) for at in made]
    ports = [port(at, [f"g-{at}"], [f"10.0.0.{n}"]) for n, at in enumerate(made, 1)]
    bridge = "br0" if family == "bridge" else None
    bindings = {at: Binding(f"tap{at}", bridge=bridge) for at in made}
    policy = Policy(state(groups, ports))
    return compile_ruleset(policy, Host(bindings), Generations(), family)


def texts(table: Ruleset) -> list[str]:
    return [one.text for chain in table.chains.values() for one in chain.rules]


@pytest.mark.parametrize("family", ["inet", "bridge", "arp"])
def test_no_port_and_no_profile_brings_an_anonymous_set(family: str) -> None:
    """For each of them the kernel walks the whole transaction: 5000 ports took it 85 seconds."""
    few, many = ("".join(texts(compiled(count, family))).count("{") for count in (2, 20))
    assert few == many


@pytest.mark.parametrize("family", ["inet", "bridge"])
def test_no_profile_looks_a_port_up(family: str) -> None:
    """Before a commit the kernel walks a map once for each chain that refers to it: profiles times ports."""
    few, many = ("".join(texts(compiled(count, family))).count("@live_") for count in (2, 20))
    assert few == many
