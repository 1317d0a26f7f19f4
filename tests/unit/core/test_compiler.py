"""What of a ruleset grows with what, as far as the kernel's time depends on it."""

import pytest
from tests.builders import group, port, rule, state

from secgroupd.core.compiler import compile_ruleset
from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations, Host
from secgroupd.core.policy import Policy


def anonymous_sets(count: int, family: str) -> int:
    """Return how many a host has with so many ports, each with groups and a source of its own."""
    made = [f"p{at}" for at in range(count)]
    groups = [group(f"g-{at}", rule("ingress", "tcp", "80"), rule("egress")) for at in made]
    ports = [port(at, [f"g-{at}"], [f"10.0.0.{n}"]) for n, at in enumerate(made, 1)]
    bridge = "br0" if family == "bridge" else None
    bindings = {at: Binding(f"tap{at}", bridge=bridge) for at in made}
    policy = Policy(state(groups, ports))
    compiled = compile_ruleset(policy, Host(bindings), Generations(), family)
    return sum(one.text.count("{") for chain in compiled.chains.values() for one in chain.rules)


@pytest.mark.parametrize("family", ["inet", "bridge", "arp"])
def test_no_port_and_no_profile_brings_an_anonymous_set(family: str) -> None:
    """For each of them the kernel walks the whole transaction: 5000 ports took it 85 seconds."""
    assert anonymous_sets(2, family) == anonymous_sets(20, family)
