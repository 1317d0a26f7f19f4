"""What is kept from one compile to the next spares work, and changes nothing of what comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import group, port, rule, state
from tests.drawing import Drawing

from secgroupd.core.compiler import compile_host
from secgroupd.core.draft import Binding
from secgroupd.core.host import Abilities, Bridging, Generations, Host
from secgroupd.core.kept import Kept
from secgroupd.core.model import Action, Clearing, Port, State
from secgroupd.core.nflog import SILENT, Logging
from secgroupd.core.plan import Known, Observed, expected
from secgroupd.core.policy import Policy, Profile
from secgroupd.core.ruleset import Ruleset
from secgroupd.reconcile import difference

DRAWN = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RANDOMS = st.randoms(use_true_random=False)
STEPS = 5


def _changed(random: Random, made: State) -> State:
    """The state after one change of something, or another one altogether."""
    groups, instances = list(made.security_groups), list(made.instances)
    if random.random() < 0.1 or not instances:
        return Drawing(random).state(port_count=3, most_rules=5)
    at = random.randrange(len(groups))
    one = random.randrange(len(instances))
    own = instances[one].ports
    match random.randrange(9):
        case 0:
            rules = (*groups[at].rules[1:], Drawing(random).rule(random.randint(700, 705)))
            groups[at] = replace(groups[at], rules=rules)
        case 1:
            groups[at] = replace(groups[at], rules=groups[at].rules[:-1])
        case 2:
            del instances[one]
        case 3:
            ports = tuple(replace(p, private_ips=p.private_ips[1:]) for p in own)
            instances[one] = replace(instances[one], ports=ports)
        case 4:
            ports = tuple(replace(p, security_groups=p.security_groups[::-1]) for p in own)
            instances[one] = replace(instances[one], ports=ports)
        case 5:
            ports = tuple(
                replace(p, source_check=not p.source_check, allowed_address_pairs=()) for p in own
            )
            instances[one] = replace(instances[one], ports=ports)
        case 6:
            ports = tuple(
                replace(p, port_security_enabled=not p.port_security_enabled) for p in own
            )
            instances[one] = replace(instances[one], ports=ports)
        case 7:
            books = tuple(replace(g, entries=g.entries[1:]) for g in made.address_groups)
            return replace(made, address_groups=books)
        case _:
            return replace(made, peerings=made.peerings[1:], load_balancers=made.load_balancers[1:])
    return replace(made, security_groups=tuple(groups), instances=tuple(instances))


def _host(random: Random, policy: Policy) -> Host:
    """A host that has most ports; most of the time, it is the same for the same state."""
    choose = Random(1) if random.random() < 0.7 else random
    bindings = {
        p.id: Binding(
            p.interface or "",
            40 + at if choose.random() < 0.2 else None,
            bridge=choose.choice(["br0", None]),
        )
        for at, p in enumerate(policy.ports.values())
        if choose.random() < 0.9
    }
    logging = Logging((5,)) if random.random() < 0.1 else SILENT
    abilities = Abilities(Bridging.FULL, choose.random() < 0.95)
    return Host(bindings, abilities=abilities, logging=logging)


def _generations(random: Random, policy: Policy) -> Generations:
    newest = random.randint(2, 3)
    minimum = {i: random.randint(1, newest) for i in policy.ports}
    mode = Clearing.STRICT if random.random() < 0.1 else Clearing.DOCUMENTED
    return Generations(newest + random.randint(0, 1), newest, minimum, mode)


@DRAWN
@given(RANDOMS)
def test_handed_on_or_not_the_same_is_compiled(random: Random) -> None:
    made = Drawing(random).state(port_count=3, most_rules=6)
    kept = Kept()
    observed: Mapping[str, Observed] = {}
    known: Mapping[str, Known] = {}
    for _ in range(STEPS):
        policy = Policy(made)
        host, generations = _host(random, policy), _generations(random, policy)
        kept = kept.next()
        tables = compile_host(policy, host, generations, kept)
        assert tables == compile_host(Policy(made), host, generations)
        plan = difference(tables, observed, known=known)
        assert plan == difference(tables, observed)
        observed = {family: expected(table) for family, table in tables.items()}
        known = {family: Known(table) for family, table in tables.items()}
        made = _changed(random, made)


# -- what a change costs ------------------------------------------------------------------------

GROUPS = 50


def _cloud() -> State:
    """Fifty groups, each of which lets in five others, and a port in each."""
    named = [f"g{at}" for at in range(GROUPS)]
    groups = [
        group(
            name,
            *(
                rule(
                    "ingress",
                    "tcp",
                    str(1000 + n),
                    f"sg:{named[(at + n) % GROUPS]}",
                    rule_id=f"r{n}",
                )
                for n in range(1, 6)
            ),
        )
        for at, name in enumerate(named)
    ]
    ports = [port(f"p{at}", [name], [f"10.0.0.{at + 1}"]) for at, name in enumerate(named)]
    return state(groups, ports)


def _compiled(made: State, kept: Kept) -> Mapping[str, Ruleset]:
    policy = Policy(made)
    bindings = {p.id: Binding(p.interface or "") for p in policy.ports.values()}
    return compile_host(policy, Host(bindings), Generations(), kept)


@dataclass(frozen=True)
class _Costs:
    """How many parts are compiled for a change."""

    profiles: int
    judging: int
    classes: int
    services: int


def _costs(before: State, after: State) -> _Costs:
    """Return what is compiled for a change that brings no port."""
    bindings = {p.id: Binding(p.interface or "") for p in Policy(before).ports.values()}
    first = Kept()
    compile_host(Policy(before), Host(bindings), Generations(), first)
    second = first.next()
    compile_host(Policy(after), Host(bindings), Generations(), second)
    tuples = [name for name in second.made if isinstance(name, tuple)]
    parts = [name[1] for name in tuples if name[0] == "inet"]
    return _Costs(
        sum(isinstance(part, Profile) for part in parts),
        sum(isinstance(part, tuple) and part[0] == "judging" for part in parts),
        sum(isinstance(name, str) and name.startswith("c_") for name in second.made),
        sum(name[0] == "services" for name in tuples),
    )


def test_where_nothing_has_changed_nothing_is_compiled() -> None:
    first = Kept()
    tables = _compiled(_cloud(), first)
    second = first.next()
    again = _compiled(_cloud(), second)
    assert second.made == []
    for name, chain in tables["inet"].chains.items():
        if name.startswith(("c_", "to_g", "from_g")):
            assert again["inet"].chains[name] is chain


def test_one_rule_changed_compiles_one_class() -> None:
    before = _cloud()
    groups = list(before.security_groups)
    rules = groups[7].rules
    another = replace(rules[0], peer=rule("ingress", "tcp", None, "192.0.2.0/24").peer)
    groups[7] = replace(groups[7], rules=(another, *rules[1:]))
    after = replace(before, security_groups=tuple(groups))
    assert _costs(before, after) == _Costs(profiles=1, judging=1, classes=1, services=1)


def _joined(before: State, *members: Port) -> State:
    """The state with ports more, on another host or none."""
    more = replace(state([], [*members]).instances[0], id=f"with-{members[0].id}", ports=members)
    return replace(before, instances=(*before.instances, more))


def test_one_member_added_compiles_nothing_again() -> None:
    before = _cloud()
    after = _joined(before, port("q", ["g9"], ["10.9.9.9"]))
    assert _costs(before, after) == _Costs(profiles=0, judging=0, classes=0, services=0)


def test_a_group_that_outgrows_its_set_compiles_what_lets_it_in_and_no_more() -> None:
    before = _cloud()
    many = [port(f"q{at}", ["g9"], [f"10.9.9.{at}"]) for at in range(1, 100)]
    # Of the five profiles that name the group, what judges IPv4 inbound; not IPv6, nor outbound.
    costs = _costs(before, _joined(before, *many))
    assert costs == _Costs(profiles=5, judging=5, classes=5, services=0)


@pytest.mark.parametrize(
    "peers",
    [
        ["sg:a"],
        ["sg:a", "sg:b", "10.0.0.0/24", "10.9.9.1"],
        ["-sg:a", "10.1.0.0/16", "-10.1.1.1", "sg:b", "-10.0.0.0/8", "sg:c"],
    ],
    ids=["alone", "united", "alternating"],
)
def test_members_come_in_any_number_and_the_same_is_compiled_as_anew(peers: Sequence[str]) -> None:
    rules = [
        rule("ingress", "tcp", "80", peer.removeprefix("-"), rule_id=f"r{at}", priority=at + 1)
        for at, peer in enumerate(peers)
    ]
    rules = [
        replace(each, action=Action.DENY) if peer.startswith("-") else each
        for each, peer in zip(rules, peers, strict=True)
    ]
    judged = group("g", *rules)
    groups = [judged, *(group(name) for name in "abc")]
    made = state(groups, [port("p", ["g"], ["10.0.0.1"])])
    kept = Kept()
    addresses = (f"10.0.{at >> 8}.{at & 255}" for at in count(2))
    for name, joining in (("a", 1), ("b", 1), ("a", 60), ("b", 300), ("c", 1), ("a", 1000)):
        members = [port(f"{name}-{one}", [name], [one]) for one in islice(addresses, joining)]
        made = _joined(made, *members)
        kept = kept.next()
        assert _compiled(made, kept) == _compiled(made, Kept())


def test_classes_follow_a_peering_that_goes_also_where_no_group_is_their_peer() -> None:
    hosts = [f"198.51.100.{at}" for at in range(1, 6)]
    rules = [rule("ingress", "tcp", "80", host, rule_id=host) for host in hosts]
    made = state(
        [group("g", *rules)],
        [port("p", ["g"], ["10.0.0.1"])],
        peerings=[("vpc", "other")],
    )
    kept = Kept()
    _compiled(made, kept)
    alone = replace(made, peerings=())
    assert _compiled(alone, kept.next()) == _compiled(alone, Kept())


def test_what_a_compile_does_not_use_is_not_kept() -> None:
    first = Kept()
    made = _cloud()
    _compiled(made, first)
    second = first.next()
    few = replace(made, instances=made.instances[:1])
    _compiled(few, second)
    third = second.next()
    _compiled(made, third)
    assert sum(isinstance(n, tuple) and n[0] == "services" for n in third.made) > 4 * (GROUPS - 2)
