"""Connections that a load balancer has brought: who let them in, and what becomes of them.

What rules have let in is asked of the kernel's own connections in ``tests/netns/test_living.py``.
"""

from ipaddress import ip_address

import pytest
from tests.builders import VPC, group, port, rule, state

from secgroupd.core.host import Generations
from secgroupd.core.living import Epoch, Fate, standings
from secgroupd.core.marks import way
from secgroupd.core.model import TCP, Clearing, Forwarder, Listener, LoadBalancer, Member
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Connection, Endpoint, Judge
from secgroupd.core.verdict import Reason

CLIENT, SERVER = ip_address("203.0.113.9"), ip_address("10.0.0.1")
GENERATIONS = Generations(7, 7)
PORTS = [port("p", ["g"], [str(SERVER)])]


def balancer(balancer_id: str, interface: str) -> LoadBalancer:
    member = Member(port_id="p", protocol_port=8080)
    listener = Listener(
        id="l", protocol=TCP, protocol_port=80, transfer_client_ip=True, members=(member,)
    )
    forwarder = Forwarder(interface=interface)
    return LoadBalancer(
        id=balancer_id, vpc_id=VPC, forwards_through=forwarder, listeners=(listener,)
    )


ONE, OTHER = balancer("one", "lb0"), balancer("other", "lb1")


def policy(*balancers: LoadBalancer, allowed: bool = False) -> Policy:
    rules = [rule("ingress", TCP, "8080")] if allowed else []
    return Policy(state([group("g", *rules)], PORTS, load_balancers=balancers))


def brought() -> Connection:
    """A connection that the load balancer ``one`` has brought."""
    (exempt,) = policy(ONE).exemptions["p"]
    there, back = Endpoint(CLIENT, SERVER, 40000, 8080), Endpoint(SERVER, CLIENT, 8080, 40000)
    return Connection(TCP, there, back, way(exempt), b"")


@pytest.mark.parametrize("mode", Clearing)
@pytest.mark.parametrize(
    ("now", "fate", "reason"),
    [
        (policy(ONE, OTHER), Fate.PASSES, Reason.LOAD_BALANCER),
        (policy(OTHER), Fate.CUT, Reason.DEFAULT_DENY),
        (policy(OTHER, allowed=True), Fate.JUDGED_AND_PASSES, Reason.RULE),
    ],
)
def test_it_stands_while_what_brought_it_leads_there_and_is_judged_by_the_rules_then(
    now: Policy, fate: Fate, reason: Reason, mode: Clearing
) -> None:
    generations = Generations(7, 7, mode=mode)
    epochs = [Epoch("now", now, generations), Epoch("then", policy(ONE), GENERATIONS)]
    (found,) = standings(brought(), Judge(now, generations, ["p"]), epochs)
    assert (found.fate, found.now.reason) == (fate, reason)
    (admitted,) = found.admitted
    assert admitted[1].reason is Reason.LOAD_BALANCER
    assert admitted[0] == ("now" if reason is Reason.LOAD_BALANCER else "then")


def test_a_sweep_judges_it_the_same_way() -> None:
    for now, allowed in ((policy(ONE), True), (policy(OTHER), False)):
        found = Judge(now, GENERATIONS, ["p"]).inbound(brought())
        assert found is not None and found.stale and found.decision.allowed is allowed
