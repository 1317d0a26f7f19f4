"""What is kept from one compile to the next spares work, and changes nothing of what comes out."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders import group, port, rule, state
from tests.drawing import Drawing

from secgroupd.core.compiler import compile_host
from secgroupd.core.draft import Binding
from secgroupd.core.host import Abilities, Bridging, Generations, Host
from secgroupd.core.kept import Kept
from secgroupd.core.model import Clearing, State
from secgroupd.core.nflog import SILENT, Logging
from secgroupd.core.plan import Known, Observed, expected
from secgroupd.core.policy import Policy
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


def _costs(before: State, after: State) -> tuple[int, int, int]:
    """How many profiles, classes and lists of rules are compiled for a change."""
    first = Kept()
    _compiled(before, first)
    second = first.next()
    _compiled(after, second)
    profiles = [name for name in second.made if isinstance(name, tuple) and name[0] == "inet"]
    classes = [name for name in second.made if isinstance(name, str) and name.startswith("c_")]
    services = [n for n in second.made if isinstance(n, tuple) and n[0] == "services"]
    return len(profiles), len(classes), len(services)


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
    assert _costs(before, replace(before, security_groups=tuple(groups))) == (1, 1, 1)


def test_one_member_added_compiles_the_classes_that_name_its_group() -> None:
    before = _cloud()
    there = port("q", ["g9"], ["10.9.9.9"])
    more = replace(state([], [there]).instances[0], id="more")
    after = replace(before, instances=(*before.instances, more))
    first = Kept()
    bindings = {p.id: Binding(p.interface or "") for p in Policy(before).ports.values()}
    compile_host(Policy(before), Host(bindings), Generations(), first)
    second = first.next()
    compile_host(Policy(after), Host(bindings), Generations(), second)
    assert sum(isinstance(n, str) and n.startswith("c_") for n in second.made) == 5


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
