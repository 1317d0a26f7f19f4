"""From whatever the kernel has, a plan leads to what is wanted, and says no more than it must."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from tests.builders import group, port, rule, state
from tests.drawing import Drawing
from tests.fakes.nftables import FakeKernel, Table, differences

from secgroupd.core import names
from secgroupd.core.compiler import compile_host, compile_ruleset
from secgroupd.core.draft import Binding
from secgroupd.core.host import FAMILIES, Abilities, Bridging, Generations, Host
from secgroupd.core.model import Clearing, State, Timeout
from secgroupd.core.plan import (
    ELEMENTS_A_LINE,
    Line,
    Observed,
    Plan,
    combined,
    diff,
    expected,
    removal,
)
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import Data, Ruleset
from secgroupd.errors import TransactionRefused
from secgroupd.reconcile import difference

DRAWN = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RANDOMS = st.randoms(use_true_random=False)
TABLE = "inet secgroupd"
NO_TABLE_OF_ANOTHER = re.compile(
    rf"(?:add|delete|flush) (?:table|chain|rule|set|map|element|ct timeout|counter) {TABLE}(?: .*)?"
)


def _compiled(random: Random, made: State | None = None) -> Ruleset:
    """A ruleset of a drawn state, on a host that has some of its ports."""
    policy = Policy(made or Drawing(random).state(port_count=3, most_rules=5))
    local = [p for p in policy.ports.values() if random.random() < 0.8]
    odd = random.choice(["uplink-side", "a,b", "tap*", 'x"y'])
    bindings = {p.id: Binding(p.interface or "", 40 + at) for at, p in enumerate(local)}
    if local:
        bindings[local[0].id] = Binding(random.choice([odd, local[0].interface or ""]), 39)
    newest = random.randint(2, 4)
    minimum = {p.id: random.randint(1, newest) for p in local}
    timeouts = {t: random.choice([30, 60]) for t in Timeout if random.random() < 0.2}
    mode = random.choice([*Clearing, Clearing.DOCUMENTED])
    return compile_ruleset(
        policy,
        Host(bindings, timeouts=timeouts),
        Generations(newest + random.randint(0, 1), newest, minimum, mode),
    )


def _loaded(ruleset: Ruleset) -> FakeKernel:
    kernel = FakeKernel()
    kernel.commit(diff(ruleset, None))
    return kernel


def _table(kernel: FakeKernel) -> Table:
    assert kernel.table is not None
    return kernel.table


def _check_converges(kernel: FakeKernel, desired: Ruleset) -> Plan:
    plan = diff(desired, kernel.observe())
    kernel.commit(plan)
    assert differences(kernel.observe(), expected(desired)) == {}
    assert not diff(desired, kernel.observe())
    texts = {
        name: [rule.text for rule in chain.rules] for name, chain in _table(kernel).chains.items()
    }
    assert texts == {c.name: [r.text for r in c.rules] for c in desired.chains.values()}
    return plan


@DRAWN
@given(RANDOMS)
def test_a_table_is_made_where_there_is_none(random: Random) -> None:
    desired = _compiled(random)
    _check_converges(FakeKernel(), desired)


@DRAWN
@given(RANDOMS)
def test_any_ruleset_leads_to_any_other_and_back(random: Random) -> None:
    one, other = _compiled(random), _compiled(random)
    kernel = _loaded(one)
    _check_converges(kernel, other)
    _check_converges(kernel, one)


@DRAWN
@given(RANDOMS)
def test_a_small_change_of_a_document_is_reached_too(random: Random) -> None:
    made = Drawing(random).state(port_count=3, most_rules=5)
    at = random.randrange(len(made.security_groups))
    groups = list(made.security_groups)
    rules = [r for r in groups[at].rules if random.random() < 0.8]
    groups[at] = replace(groups[at], rules=(*rules, Drawing(random).rule(777)))
    seed = random.randint(0, 1 << 30)
    before = _compiled(Random(seed), made)
    after = _compiled(Random(seed), replace(made, security_groups=tuple(groups)))
    _check_converges(_loaded(before), after)


def _host(random: Random) -> Mapping[str, Ruleset]:
    """The tables of a host that routes to some ports, has others on a bridge, or none of a kind."""
    made = Drawing(random).state(port_count=3, most_rules=4)
    bridges = random.choice([("br0",), (None,), ("br0", None)])
    bindings = {
        p.id: Binding(p.interface or "", bridge=random.choice(bridges))
        for p in Policy(made).ports.values()
        if random.random() < 0.8
    }
    return compile_host(
        Policy(made),
        Host(bindings, abilities=Abilities(random.choice([*Bridging]), random.random() < 0.9)),
        Generations(3, 2),
    )


def _observed(kernel: FakeKernel) -> Mapping[str, Observed]:
    tables = {family: kernel.observe(family) for family in FAMILIES}
    return {family: table for family, table in tables.items() if table is not None}


@DRAWN
@given(RANDOMS)
def test_the_tables_of_all_families_change_in_one_plan(random: Random) -> None:
    kernel = FakeKernel()
    for desired in (_host(random), _host(random), _host(random)):
        before, at = _observed(kernel), kernel.generation()
        plan = difference(desired, before)
        kernel.commit(plan)
        after = _observed(kernel)
        assert kernel.generation() - at <= 2
        assert after == {family: expected(table) for family, table in desired.items()}
        assert not difference(desired, after)
        for family in before.keys() & after.keys():
            again = kernel.reobserve(before[family], plan, family)
            assert differences(again, after[family]) == {}


def test_plans_that_are_combined_prepare_first_and_touch_what_each_touches() -> None:
    one = Plan((Line("add element inet secgroupd a { 1 }"),), (Line("add chain inet secgroupd b"),))
    other = Plan((Line("flush chain arp secgroupd a"),), (Line("add chain arp secgroupd c"),))
    got = combined([one, other, removal("bridge")])
    assert got.transactions == (
        (*one.preparation, *other.preparation),
        (*one.lines, *other.lines, Line("delete table bridge secgroupd")),
    )
    assert got.touched == {("inet", "a"), ("inet", "b"), ("arp", "a"), ("arp", "c")}
    assert not combined([])


# -- damage -------------------------------------------------------------------------------------


class NothingThere(Exception):
    """Earlier damage has left nothing that this one could harm."""


def _some(random: Random, names_there: Iterable[str]) -> str:
    found = sorted(names_there)
    if not found:
        raise NothingThere
    return random.choice(found)


def _some_chain(random: Random, kernel: FakeKernel) -> str:
    return _some(random, _table(kernel).chains)


def _some_set(random: Random, kernel: FakeKernel, *, interval: bool | None = None) -> str:
    sets = _table(kernel).sets
    return _some(random, (n for n, s in sets.items() if interval in {None, s.interval}))


def _map_of(random: Random, kernel: FakeKernel, purpose: str) -> str:
    return _some(random, (n for n in _table(kernel).sets if re.fullmatch(rf"{purpose}_[0-9]+", n)))


def _flush(random: Random, kernel: FakeKernel) -> None:
    kernel.text(f"flush chain {TABLE} {_some_chain(random, kernel)}")


def _foreign_rule(random: Random, kernel: FakeKernel) -> None:
    comment = random.choice(["", ' comment "somebody"'])
    kernel.text(f"add rule {TABLE} {_some_chain(random, kernel)} counter{comment}")


def _lost_elements(random: Random, kernel: FakeKernel) -> None:
    one = _table(kernel).sets[_some_set(random, kernel)]
    for key in random.sample(sorted(one.elements), random.randint(0, len(one.elements))):
        del one.elements[key]


def _extra_chain(random: Random, kernel: FakeKernel) -> None:
    kernel.text(
        f"add chain {TABLE} extra",
        f"add chain {TABLE} extra_too",
        f"add rule {TABLE} extra_too counter drop",
        f"add rule {TABLE} extra goto {random.choice([names.CLOSED, 'extra_too'])}",
        f"add rule {TABLE} {random.choice([names.MIDSTREAM, names.FROM_PORT])} jump extra",
    )


def _extra_base_chain(_: Random, kernel: FakeKernel) -> None:
    hook = "type filter hook forward priority 7; policy accept;"
    kernel.text(
        f"add chain {TABLE} extra_base {{ {hook} }}", f"add rule {TABLE} extra_base counter"
    )


def _extra_set(_: Random, kernel: FakeKernel) -> None:
    kernel.text(
        f"add set {TABLE} extra_set {{ type ipv4_addr; size 9; }}",
        f"add element {TABLE} extra_set {{ 10.0.0.1, 10.0.0.2 }}",
        f"add rule {TABLE} {names.OK_IN} ip saddr @extra_set return",
        f"add chain {TABLE} extra_end",
        f"add map {TABLE} extra_map {{ type ifname : verdict; size 9; }}",
        f'add element {TABLE} extra_map {{ "e" : goto extra_end }}',
    )


def _extra_counter(_: Random, kernel: FakeKernel) -> None:
    kernel.text(f"add counter {TABLE} extra_counter")


def _extra_timeout(_: Random, kernel: FakeKernel) -> None:
    kernel.text(f"add ct timeout {TABLE} extra_timeout {{ protocol tcp; l3proto ip; }}")


def _wrong_element(random: Random, kernel: FakeKernel) -> None:
    name = _map_of(random, kernel, "ports_from")
    kernel.text(
        f"add chain {TABLE} extra_way",
        f'add element {TABLE} {name} {{ "odd" : goto extra_way }}',
    )
    one = _table(kernel).sets[name]
    for key in one.elements:
        one.elements[key] = random.choice([one.elements[key], "accept", "goto extra_way"])


def _wrong_shape(random: Random, kernel: FakeKernel) -> None:
    """A set that is declared otherwise, as an older agent might have left it."""
    one = _table(kernel).sets[_some_set(random, kernel, interval=False)]
    if random.random() < 0.3 and not one.timeout:
        one.elements.clear()
        one.timeout = True
    else:
        one.size = (one.size or 0) + random.randint(1, 9)


def _another_kind(random: Random, kernel: FakeKernel) -> None:
    """A set under the name of a map, an interval set of other fields under the name of another."""
    name = _some_set(random, kernel, interval=random.choice([True, False]))
    table = _table(kernel)
    for chain in table.chains.values():
        chain.rules = [rule for rule in chain.rules if name not in rule.sets]
    one = table.sets[name]
    one.elements.clear()
    one.types = ("icmp_type", "icmp_code", "icmp_code") if one.interval else ("ipv4_addr",)
    one.data = random.choice([data for data in Data if data is not one.data])


def _wrong_hook(random: Random, kernel: FakeKernel) -> None:
    base = random.choice([names.FROM_PORT, names.TO_PORT])
    hook = random.choice(["prerouting", "postrouting", "forward"])
    kernel.text(
        f"delete chain {TABLE} {base}",
        f"add chain {TABLE} {base} {{ type filter hook {hook} priority -77; policy accept; }}",
        *(f"add rule {TABLE} {base} counter" for _ in range(random.randint(0, 1))),
    )


def _base_chain_without_hook(random: Random, kernel: FakeKernel) -> None:
    base = random.choice([names.FROM_PORT, names.TO_PORT])
    kernel.text(f"delete chain {TABLE} {base}", f"add chain {TABLE} {base}")


def _lost_objects(random: Random, kernel: FakeKernel) -> None:
    """Whatever can be deleted by somebody who flushes first, in any order."""
    kernel.run(Line(f"flush chain {TABLE} {name}") for name in _table(kernel).chains)
    table = _table(kernel)
    lines = [
        f"delete {'map' if s.data.value else 'set'} {TABLE} {n}" for n, s in table.sets.items()
    ]
    lines += [f"delete chain {TABLE} {name}" for name in table.chains]
    lines += [f"delete ct timeout {TABLE} {name}" for name in table.timeouts]
    lines += [f"delete counter {TABLE} {name}" for name in table.counters]
    for text in random.sample(lines, len(lines)):
        if random.random() < 0.6:
            _try(kernel, [text])


def _try(kernel: FakeKernel, texts: Iterable[str]) -> None:
    """Run what the kernel allows; what it refuses cannot have been done to it either."""
    try:
        kernel.text(*texts)
    except TransactionRefused:
        return


def _ordinary_chain_with_a_hook(random: Random, kernel: FakeKernel) -> None:
    chains = _table(kernel).chains
    _give_a_hook(kernel, _some(random, (n for n, chain in chains.items() if chain.hook is None)))


def _give_a_hook(kernel: FakeKernel, name: str) -> None:
    """Make a chain that others lead to anew, as one that packets meet by themselves."""
    table = _table(kernel)
    kernel.run(Line(f"flush chain {TABLE} {chain}") for chain in table.chains)
    for one in _table(kernel).sets.values():
        one.elements = {k: v for k, v in one.elements.items() if v.split(" ")[-1] != name}
    kernel.text(
        f"delete chain {TABLE} {name}",
        f"add chain {TABLE} {name} {{ type filter hook input priority 0; policy accept; }}",
    )


def _base_chain_that_is_led_to(random: Random, kernel: FakeKernel) -> None:
    base, ways = names.TO_PORT, _map_of(random, kernel, "live")
    kernel.text(
        f"delete chain {TABLE} {base}",
        f"add chain {TABLE} {base}",
        f'add element {TABLE} {ways} {{ "odd" : goto {base} }}',
    )


Damage = Callable[[Random, FakeKernel], None]
DAMAGES: Sequence[Damage] = [
    _flush, _foreign_rule, _lost_elements, _extra_chain, _extra_base_chain, _extra_set,
    _extra_counter, _extra_timeout, _wrong_element, _wrong_shape, _another_kind, _wrong_hook,
    _base_chain_without_hook, _lost_objects, _ordinary_chain_with_a_hook,
    _base_chain_that_is_led_to,
]  # fmt: skip


HARMLESS_TO_SETS: Sequence[Damage] = [_lost_elements, _wrong_shape, _wrong_hook, _flush]
"""After which interval sets are only made in a preparation, unless they are declared otherwise."""


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
@settings(DRAWN, max_examples=25)
@given(RANDOMS)
def test_damage_of_each_kind_is_repaired(damage: Damage, random: Random) -> None:
    desired = _compiled(random)
    kernel = _loaded(desired)
    try:
        damage(random, kernel)
    except NothingThere:
        reject()
    _check_converges(kernel, desired)


@settings(DRAWN, max_examples=100)
@given(RANDOMS)
def test_damage_of_several_kinds_is_repaired_on_the_way_to_something_else(random: Random) -> None:
    kernel = _loaded(_compiled(random))
    for damage in random.sample(DAMAGES, random.randint(2, 5)):
        there = _table(kernel).copy()
        try:
            damage(random, kernel)
        except (TransactionRefused, NothingThere):
            kernel.tables["inet"] = there
    _check_converges(kernel, _compiled(random))


def test_new_maps_that_lead_to_a_chain_of_another_kind_come_after_it() -> None:
    """A chain that stays must be an ordinary one before anything new can lead to it."""
    web, mail = rule("ingress", "tcp", "80", "10.0.0.0/8"), rule("ingress", "tcp", "25", "10.0.0.9")
    before, after = (
        compile_ruleset(
            Policy(state([group("g", *rules)], [port("p", ["g"], ["10.0.0.1"])])),
            Host({"p": Binding("tap-p")}),
            Generations(),
        )
        for rules in ([web], [web, mail])
    )
    led_to = {
        verdict.removeprefix("goto ")
        for name in after.sets.keys() - before.sets.keys()
        for verdict in after.sets[name].elements.values()
    }
    kept = led_to & before.chains.keys()
    assert kept - {names.DENY_IN}
    for name in sorted(kept):
        kernel = _loaded(before)
        _give_a_hook(kernel, name)
        _check_converges(kernel, after)


# -- what a plan says ---------------------------------------------------------------------------


def _pair(random: Random) -> tuple[FakeKernel, Ruleset, Plan]:
    """A kernel with one ruleset, perhaps damaged, and the plan that leads to another."""
    kernel = _loaded(_compiled(random))
    if random.random() < 0.4:
        random.choice(HARMLESS_TO_SETS)(random, kernel)
    desired = _compiled(random)
    return kernel, desired, diff(desired, kernel.observe())


@DRAWN
@given(RANDOMS)
def test_no_line_names_another_table(random: Random) -> None:
    _, desired, plan = _pair(random)
    for one in (plan, diff(desired, None)):
        for line in (line for part in one.transactions for line in part):
            assert NO_TABLE_OF_ANOTHER.fullmatch(line.text), line


@DRAWN
@given(RANDOMS)
def test_a_preparation_changes_nothing_that_a_packet_could_meet(random: Random) -> None:
    kernel, _, plan = _pair(random)
    before = _table(kernel).copy().in_use()
    kernel.run(plan.preparation)
    assert _table(kernel).in_use() == before


@DRAWN
@given(RANDOMS)
def test_what_counts_makes_no_interval_set_but_one_that_had_another_shape(random: Random) -> None:
    kernel, _, plan = _pair(random)
    there = _table(kernel).sets.keys()
    made = [
        line.text.split()[4]
        for line in plan.lines
        if re.match(r"add (?:set|map) ", line.text) and "flags interval;" in line.text
    ]
    assert set(made) <= there


@DRAWN
@given(RANDOMS)
def test_what_counts_makes_no_chain_but_hooked_and_passable_ones(random: Random) -> None:
    """A packet that is under way would find it without rules."""
    kernel = _loaded(_compiled(random))
    desired = _compiled(random)
    plan = diff(desired, kernel.observe())
    made = [line.text for line in plan.lines if line.text.startswith("add chain ")]
    chains = [desired.chains[text.split()[4]] for text in made]
    assert all(chain.hook or chain.passable for chain in chains)


def test_a_new_generation_is_one_transaction() -> None:
    policy = Policy(Drawing(Random(1)).state())
    host = Host({p.id: Binding(p.interface or "") for p in policy.ports.values()})
    one, other = (compile_ruleset(policy, host, Generations(n, n)) for n in (1, 2))
    plan = diff(other, _loaded(one).observe())
    assert plan.lines
    assert not plan.preparation


@DRAWN
@given(RANDOMS)
def test_an_interval_set_never_changes_between_two_rulesets(random: Random) -> None:
    kernel, desired = _loaded(_compiled(random)), _compiled(random)
    intervals = {n for n, s in _table(kernel).sets.items() if s.interval}
    plan = diff(desired, kernel.observe())
    for line in (line for part in plan.transactions for line in part):
        if " element " in line.text:
            assert line.text.split()[4] not in intervals


@DRAWN
@given(RANDOMS)
def test_nothing_is_said_about_what_stays_as_it_is(random: Random) -> None:
    one, other = _compiled(random), _compiled(random)
    before, after = expected(one), expected(other)
    same = {n for n, c in before.chains.items() if after.chains.get(n) == c}
    same |= {n for n, s in before.sets.items() if after.sets.get(n) == s}
    assert not same & {name for _, name in diff(other, before).touched}


@DRAWN
@given(RANDOMS)
def test_what_is_touched_is_all_that_differs_afterwards(random: Random) -> None:
    kernel, _, plan = _pair(random)
    before = kernel.observe()
    kernel.commit(plan)
    assert before is not None
    assert differences(kernel.reobserve(before, plan), kernel.observe()) == {}


def test_the_table_itself_is_never_deleted() -> None:
    for seed in range(40):
        _, _, plan = _pair(Random(seed))
        assert "delete table" not in plan.text()


def test_long_lists_of_elements_are_said_in_several_lines() -> None:
    members = [f"10.{at >> 8}.{at & 255}.7" for at in range(2 * ELEMENTS_A_LINE + 1)]
    made = state(
        [group("g", rule("ingress", "tcp", "80", "sg:g"))],
        [port("p", ["g"], members), port("q", ["g"], ["10.9.9.9"])],
    )
    host = Host({"q": Binding("tap-q")})
    desired = compile_ruleset(Policy(made), host, Generations())
    plan = _check_converges(FakeKernel(), desired)
    lines = [t for part in plan.transactions for t in part if " g4_" in t.text.split("{")[0]]
    assert sum(line.text.startswith("add element") for line in lines) == 3
    fewer = compile_ruleset(
        Policy(state(made.security_groups, [port("q", ["g"], ["10.9.9.9"])])), host, Generations()
    )
    _check_converges(_loaded(desired), fewer)


def test_a_member_more_is_one_element_more() -> None:
    rules = group("g", rule("ingress", "tcp", "80", "sg:g"))
    one, two = (
        compile_ruleset(
            Policy(state([rules], [port(f"p{n}", ["g"], [f"10.0.0.{n}"]) for n in range(count)])),
            Host({"p0": Binding("tap-p0")}),
            Generations(),
        )
        for count in (1, 2)
    )
    (line,) = diff(two, expected(one)).lines
    assert re.fullmatch(rf"add element {TABLE} g4_\S+ {{ 10.0.0.1 }}", line.text)
    assert line.origin == "security group g"
