"""A cycle may die at any line; whatever was cleared or should have been stays cleared.

What counts is read from the kernel's own table: which stamp a connection would have been given, and
which stamps a port still honours.
"""

import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from random import Random

import pytest
from tests.builders import address_group, both, group, port, rule, state
from tests.drawing import Drawing
from tests.fakes.nftables import FakeKernel, Table, differences

from secgroupd.core.clearing import Scenario, documented
from secgroupd.core.compiler import compile_host, compile_ruleset
from secgroupd.core.draft import Binding
from secgroupd.core.drift import Change
from secgroupd.core.host import Abilities, Host
from secgroupd.core.marks import LAST_GENERATION
from secgroupd.core.model import Clearing, Port, Rule, State
from secgroupd.core.names import ADOPTING, LEFT
from secgroupd.core.plan import Plan, expected
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import index_key
from secgroupd.errors import NotConverged, OutcomeUnknown, TransactionRefused
from secgroupd.reconcile import (
    COMMIT_TRIES,
    GENERATION_EPOCH,
    Forgetful,
    Memory,
    Outcome,
    Reconciler,
    Record,
)


class Died(Exception):
    """The agent's process ends here."""


class Moment(Enum):
    """Where in a cycle the agent may die."""

    BEFORE_INTENT = auto()
    BEFORE_COMMIT = auto()
    AFTER_PREPARATION = auto()
    AFTER_COMMIT = auto()
    BEFORE_SAVING = auto()
    AFTER_SAVING = auto()


@dataclass
class Fate:
    """Where the agent will die, if anywhere."""

    moment: Moment | None = None

    def meet(self, moment: Moment) -> None:
        if self.moment is moment:
            self.moment = None
            raise Died(moment.name)


class MortalKernel(FakeKernel):
    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self.fate = fate

    def commit(self, plan: Plan) -> None:
        self.fate.meet(Moment.BEFORE_COMMIT)
        if plan.preparation:
            self.run(plan.preparation)
        self.fate.meet(Moment.AFTER_PREPARATION)
        if plan.lines:
            self.run(plan.lines)
        self.fate.meet(Moment.AFTER_COMMIT)


class MortalMemory(Forgetful):
    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self.fate = fate
        self.saves = 0

    def save(self, record: Record) -> None:
        self.fate.meet(Moment.BEFORE_INTENT if record.intended else Moment.BEFORE_SAVING)
        super().save(record)
        self.saves += 1
        if not record.intended:
            self.fate.meet(Moment.AFTER_SAVING)


@dataclass
class Clock:
    seconds: float = GENERATION_EPOCH + 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class World:
    """One host: its kernel and disk stay, agents come and go."""

    fate: Fate = field(default_factory=Fate)
    clock: Clock = field(default_factory=Clock)
    kernel: MortalKernel = field(init=False)
    memory: MortalMemory = field(init=False)

    def __post_init__(self) -> None:
        self.kernel = MortalKernel(self.fate)
        self.memory = MortalMemory(self.fate)

    def agent(self, **more: object) -> Reconciler:
        memory: Memory = self.memory
        return replace(Reconciler(self.kernel, memory, now=self.clock), **more)  # type: ignore[arg-type]

    def apply(self, made: State) -> Outcome:
        """Start an agent, run one cycle."""
        return self.agent().apply(made, _bindings(made))

    def die(self, made: State, moment: Moment) -> bool:
        """Start an agent that dies; tell whether it came to that."""
        self.fate.moment = moment
        try:
            self.apply(made)
        except Died:
            return True
        self.fate.moment = None
        return False

    @property
    def table(self) -> Table:
        assert self.kernel.table is not None
        return self.kernel.table

    @property
    def stamp(self) -> int:
        """The generation that the kernel stamps now."""
        texts = [rule.text for rule in self.table.chains["ok_in"].rules]
        (number,) = (m[1] for t in texts if (m := re.search(r" or (0x[0-9a-f]+)$", t)))
        return int(number, 16)

    @property
    def fresh_everywhere(self) -> int:
        """The oldest stamp that the kernel accepts at any port."""
        texts = [rule.text for rule in self.table.chains["known_to"].rules]
        (number,) = (m[1] for t in texts if (m := re.search(r"(?:==|>=) (0x[0-9a-f]+) accept", t)))
        return int(number, 16)

    def minimum(self, one: Port) -> int:
        """The oldest stamp that the kernel accepts at a port."""
        key = (one.interface or "").encode().ljust(16, b"\0")
        (verdict,) = (s.elements[key] for n, s in self.table.sets.items() if n.startswith("live_"))
        return min(int(verdict.removeprefix("jump gen_")), self.fresh_everywhere)

    def check_enforces(self, made: State) -> None:
        """The kernel has exactly this state, and memory says so."""
        record = self.memory.load()
        wanted = compile_host(Policy(made), Host(_bindings(made)), record.generations)
        assert wanted.keys() == self.kernel.tables.keys()
        for family, table in wanted.items():
            assert differences(self.kernel.observe(family), expected(table)) == {}
        assert (record.accepted, record.intended) == (made, None)


def _bindings(made: State) -> Mapping[str, Binding]:
    return {p.id: Binding(p.interface or "") for p in Policy(made).ports.values()}


def _ports(made: State) -> Mapping[str, Port]:
    return Policy(made).ports


def _cleared(before: State, after: State) -> frozenset[str]:
    return frozenset(documented(Policy(before), Policy(after)))


# -- pairs of documents -------------------------------------------------------------------------

ALLOW = rule("ingress", "tcp", "22", "10.0.0.0/8", rule_id="allow", priority=9)
DENY = rule("ingress", "tcp", "22", "10.1.0.0/16", rule_id="deny", action="deny")
PORTS = (
    port("a1", ["a"], ["10.0.0.1"]),
    port("a2", ["a", "b"], ["10.0.0.2", "fd00::2"]),
    port("b1", ["b"], ["10.0.0.3"]),
    port("c1", ["c"], ["10.0.0.4"]),
)


def _cloud(
    *rules: Rule,
    b: tuple[Rule, ...] = (rule("ingress", "tcp", "80", "sg:a", rule_id="from-a"),),
    ports: tuple[Port, ...] = PORTS,
    book: tuple[str, ...] = ("203.0.113.1", "203.0.113.9"),
    revision: str = "",
) -> State:
    groups = [group("a", *both("egress"), *rules), group("b", *b), group("c")]
    return state(groups, ports, address_groups=[address_group("book", *book)], revision=revision)


BOOK = rule("ingress", "udp", None, "ag:book", rule_id="book")
CHANGES: dict[str, tuple[State, State]] = {
    "deny added": (_cloud(ALLOW), _cloud(ALLOW, DENY)),
    "allow deleted": (_cloud(ALLOW, BOOK), _cloud(BOOK)),
    "rule modified": (_cloud(ALLOW), _cloud(replace(ALLOW, ports=BOOK.ports))),
    "entry removed": (_cloud(BOOK), _cloud(BOOK, book=("203.0.113.1",))),
    "member removed": (_cloud(ALLOW), _cloud(ALLOW, ports=PORTS[1:])),
    "member added": (_cloud(ALLOW, ports=PORTS[1:]), _cloud(ALLOW)),
    "order changed": (
        _cloud(ALLOW),
        _cloud(ALLOW, ports=(PORTS[0], replace(PORTS[1], security_groups=("b", "a")), *PORTS[2:])),
    ),
    "several": (_cloud(ALLOW, BOOK), _cloud(DENY, b=(), ports=PORTS[:3])),
    "allow added, which clears nobody": (_cloud(), _cloud(ALLOW)),
    "deny deleted, which clears nobody": (_cloud(ALLOW, DENY), _cloud(ALLOW)),
}
CHANGES |= {
    f"drawn {seed}": (Drawing(Random(seed)).state(), Drawing(Random(seed + 50)).state())
    for seed in range(6)
}
CHANGE = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
MOMENT = pytest.mark.parametrize("moment", Moment)


# -- without disturbance ------------------------------------------------------------------------


@CHANGE
def test_a_change_is_enforced_and_clears_what_the_table_of_clearing_says(
    change: tuple[State, State],
) -> None:
    before, after = change
    world = World()
    world.apply(before)
    old = world.stamp
    outcome = world.apply(after)
    world.check_enforces(after)
    cleared = _cleared(before, after)
    assert set(outcome.cleared) == cleared
    for port_id, one in _ports(after).items():
        if one.port_security_enabled:
            honoured = world.minimum(one) <= old
            came = port_id not in _ports(before)
            assert honoured is not (port_id in cleared or came), port_id


def test_an_unchanged_document_is_an_empty_plan_and_writes_nothing() -> None:
    made = _cloud(ALLOW)
    world = World()
    agent = world.agent()
    agent.apply(made, _bindings(made))
    saves, generation = world.memory.saves, world.kernel.generation()
    for one in (agent, world.agent()):
        outcome = one.apply(made, _bindings(made))
        assert not outcome.plan and not outcome.cleared and not outcome.drift
    assert (world.memory.saves, world.kernel.generation()) == (saves, generation)


def test_what_clears_nobody_raises_no_generation() -> None:
    before, after = CHANGES["allow added, which clears nobody"]
    world = World()
    world.apply(before)
    old = world.stamp
    outcome = world.apply(after)
    assert outcome.plan and (world.stamp, world.fresh_everywhere) == (old, old)


def test_generations_only_grow_even_when_the_clock_goes_back() -> None:
    world = World()
    stamps = []
    for at, made in enumerate([one for pair in CHANGES.values() for one in pair]):
        world.clock.seconds += (5.0, -3600.0, 0.0)[at % 3]
        world.apply(made)
        stamps.append(world.stamp)
        assert world.fresh_everywhere <= world.stamp
    assert stamps == sorted(stamps)
    assert len(set(stamps)) > len(CHANGES)


def test_a_clock_that_is_wrong_by_decades_tells_no_generation_that_a_mark_cannot_hold() -> None:
    world = World()
    right = world.clock.seconds
    stamps = []
    for at, years in enumerate((0, 30, 60, 90, 0)):
        world.clock.seconds = right + years * 365 * 86400
        world.apply(_cloud(replace(DENY, id=f"deny-{at}")))
        stamps.append(world.stamp)
        assert world.fresh_everywhere <= world.stamp <= LAST_GENERATION
    assert stamps == sorted({*stamps})
    assert len(stamps) == 5


def test_a_generation_is_never_below_the_seconds_since_the_epoch() -> None:
    world = World()
    world.apply(_cloud())
    assert world.stamp == int(world.clock.seconds) - GENERATION_EPOCH
    world.clock.seconds += 50
    world.apply(_cloud(DENY))
    assert world.stamp == int(world.clock.seconds) - GENERATION_EPOCH
    world.apply(_cloud(DENY, replace(DENY, id="more")))
    assert world.stamp == int(world.clock.seconds) - GENERATION_EPOCH + 1


def test_a_lost_record_clears_everything_above_every_earlier_stamp() -> None:
    made = _cloud(ALLOW)
    world = World()
    world.apply(_cloud())
    for _ in range(3):
        world.clock.seconds += 1
        world.apply(_cloud(DENY))
        world.apply(made)
    old = world.stamp
    world.clock.seconds += 100
    world.memory.save(Record())
    outcome = world.apply(made)
    assert set(outcome.cleared) == set(_ports(made))
    assert set(outcome.cleared.values()) == {frozenset({Scenario.STATE_LOST})}
    assert world.stamp > old and all(world.minimum(p) > old for p in PORTS)
    world.check_enforces(made)


def test_a_port_that_appears_later_honours_no_earlier_stamp() -> None:
    made = _cloud(ALLOW)
    world = World()
    agent = world.agent()
    some = {i: b for i, b in _bindings(made).items() if i != "a2"}
    agent.apply(made, some)
    old = world.stamp
    outcome = agent.apply(made, _bindings(made))
    assert not outcome.cleared
    assert outcome.generations.minimum["a2"] == world.minimum(PORTS[1]) > old
    assert world.minimum(PORTS[0]) == old
    agent.apply(made, some)
    again = agent.apply(made, _bindings(made))
    assert again.generations.minimum["a2"] == world.stamp > outcome.generations.minimum["a2"]


def test_an_interface_that_another_port_takes_over_honours_no_earlier_stamp() -> None:
    made = _cloud(ALLOW)
    world = World()
    agent = world.agent()
    agent.apply(made, {"a1": Binding("tap-x")})
    old = world.stamp
    outcome = agent.apply(made, {"b1": Binding("tap-x")})
    assert outcome.generations.minimum == {"b1": world.stamp}
    assert world.fresh_everywhere > old


def test_a_change_of_the_clearing_mode_judges_everything_again() -> None:
    made = _cloud(ALLOW)
    world = World()
    world.apply(made)
    for mode in (Clearing.STRICT, Clearing.DOCUMENTED):
        old = world.stamp
        world.agent(mode=mode).apply(made, _bindings(made))
        assert all(world.minimum(p) > old for p in PORTS)


# -- deaths -------------------------------------------------------------------------------------


@MOMENT
@CHANGE
def test_an_agent_that_dies_is_followed_by_one_that_finishes(
    change: tuple[State, State], moment: Moment
) -> None:
    before, after = change
    world, undisturbed = World(), World()
    for one in (world, undisturbed):
        one.apply(before)
    old = world.stamp
    wanted = set(undisturbed.apply(after).cleared)
    died = world.die(after, moment)
    finished = world.apply(after)
    world.check_enforces(after)
    recorded = not died or moment is Moment.AFTER_SAVING
    assert set(finished.cleared) == (set() if recorded else wanted)
    for port_id in wanted:
        one_port = _ports(after)[port_id]
        if one_port.port_security_enabled:
            assert world.minimum(one_port) > old, port_id
    assert world.stamp >= old
    assert not world.apply(after).plan


@MOMENT
@CHANGE
def test_the_first_agent_may_die_too(change: tuple[State, State], moment: Moment) -> None:
    _, made = change
    world = World()
    world.die(made, moment)
    world.apply(made)
    world.check_enforces(made)


@pytest.mark.parametrize(
    ("change", "moment"),
    [pytest.param(CHANGES[n], m, id=f"{n}-{m.name}") for n in CHANGES for m in Moment],
)
def test_a_document_that_went_back_while_nobody_ran_clears_what_it_let_in(
    change: tuple[State, State], moment: Moment
) -> None:
    before, after = change
    world = World()
    world.apply(before)
    old = world.stamp
    world.die(after, moment)
    came_into_force = moment.value >= Moment.AFTER_COMMIT.value
    let_in = world.stamp if came_into_force else old
    world.apply(before)
    world.check_enforces(before)
    for port_id in _cleared(after, before) if came_into_force else ():
        one = _ports(before)[port_id]
        if one.port_security_enabled:
            assert world.minimum(one) > let_in, port_id


def test_two_deaths_in_a_row_forget_nothing() -> None:
    """``wide`` comes into force and is not recorded; ``narrow`` is only intended."""
    wide = _cloud(ALLOW, DENY)
    narrow = _cloud(replace(DENY, priority=2))
    world = World()
    world.apply(_cloud())
    assert world.die(wide, Moment.AFTER_COMMIT)
    let_in = world.stamp
    assert world.die(narrow, Moment.BEFORE_COMMIT)
    world.apply(_cloud())
    world.check_enforces(_cloud())
    assert {"a1", "a2"} == _cleared(wide, _cloud())
    assert all(world.minimum(p) > let_in for p in PORTS[:2])


def test_a_generation_that_was_stamped_is_not_given_again_after_a_death() -> None:
    """A port appears, its agent dies, and the clock has not moved on (or went back)."""
    made = _cloud(ALLOW)
    world = World()
    world.agent().apply(made, {i: b for i, b in _bindings(made).items() if i != "a2"})
    assert world.die(made, Moment.AFTER_COMMIT)
    let_in = world.stamp
    outcome = world.apply(_cloud(ALLOW, DENY))
    assert "a2" in outcome.cleared
    assert world.minimum(PORTS[1]) > let_in


def test_a_new_document_after_a_death_clears_for_both_that_may_have_been_in_force() -> None:
    first, second, third = _cloud(ALLOW), _cloud(ALLOW, DENY, BOOK), _cloud(ALLOW, DENY)
    world = World()
    world.apply(first)
    assert world.die(second, Moment.AFTER_COMMIT)
    let_in = world.stamp
    outcome = world.apply(third)
    assert outcome.cleared["a1"] == {Scenario.RULE_ADDED, Scenario.RULE_DELETED}
    assert world.minimum(PORTS[0]) > let_in
    world.check_enforces(third)


# -- what the kernel does -----------------------------------------------------------------------


class SilentKernel(FakeKernel):
    """A writer that gives no answer for a while, whether or not it has done its work."""

    def __init__(self, silences: int, *, does_it: bool) -> None:
        super().__init__()
        self.silences = silences
        self.does_it = does_it

    def commit(self, plan: Plan) -> None:
        if not self.silences or self.does_it:
            super().commit(plan)
        if self.silences:
            self.silences -= 1
            raise OutcomeUnknown("silence")


@pytest.mark.parametrize("does_it", [True, False])
def test_an_unknown_outcome_is_read_back(does_it: bool) -> None:
    made = _cloud(ALLOW)
    kernel = SilentKernel(COMMIT_TRIES - 1, does_it=does_it)
    memory = Forgetful()
    outcome = Reconciler(kernel, memory).apply(made, _bindings(made))
    wanted = compile_ruleset(Policy(made), Host(_bindings(made)), outcome.generations)
    assert differences(kernel.observe(), expected(wanted)) == {}
    assert memory.load().accepted == made


def test_a_writer_that_stays_silent_is_told() -> None:
    made = _cloud(ALLOW)
    kernel = SilentKernel(COMMIT_TRIES, does_it=False)
    agent = Reconciler(kernel)
    with pytest.raises(OutcomeUnknown):
        agent.apply(made, _bindings(made))
    assert agent.record.accepted is None
    assert agent.apply(made, _bindings(made)).plan
    assert agent.record.accepted == made


def test_a_kernel_that_cannot_be_asked_at_the_start_is_asked_early_only_when_somebody_changes_it() -> (
    None
):
    class Unanswering(FakeKernel):
        def abilities(self) -> Abilities:
            raise OutcomeUnknown("silence")

    kernel = Unanswering()
    agent = Reconciler(kernel)
    with pytest.raises(OutcomeUnknown):
        _ = agent.abilities
    assert not agent.disturbed()
    kernel.others_change()
    assert agent.disturbed()


def _adopted(kernel: FakeKernel) -> set[bytes]:
    assert kernel.table is not None
    return set(kernel.table.sets[ADOPTING].elements)


def test_ports_that_are_met_for_the_first_time_are_adopted_once() -> None:
    made = _cloud(ALLOW)
    kernel = FakeKernel()
    agent = Reconciler(kernel)
    agent.apply(made, {"a1": Binding("tap-a1")})
    assert _adopted(kernel) == {b"tap-a1".ljust(16, b"\0")}
    kernel.text(f'delete element inet secgroupd {ADOPTING} {{ "tap-a1" }}')
    agent.apply(_cloud(DENY), {"a1": Binding("tap-a1"), "a2": Binding("tap-a2")})
    assert _adopted(kernel) == {b"tap-a2".ljust(16, b"\0")}


@pytest.mark.parametrize("mode", Clearing)
@pytest.mark.parametrize(
    ("before", "after", "came"),
    [
        ({"a1": 7}, {"a1": 7}, set()),
        ({"a1": 7}, {"a1": 8}, {"a1"}),
        ({}, {"a1": 7}, {"a1"}),
        ({"a1": 7}, {}, set()),
        (None, {"a1": 7}, set()),
        ({"a1": 7}, None, set()),
    ],
    ids=["same", "another", "was-missing", "is-missing", "unknown-before", "unknown-now"],
)
def test_a_port_whose_link_is_another_has_come(
    mode: Clearing,
    before: Mapping[str, int] | None,
    after: Mapping[str, int] | None,
    came: set[str],
) -> None:
    made = _cloud(ALLOW)
    world = World()
    world.agent(mode=mode, grace=0).apply(made, _bindings(made), before)
    generation = world.kernel.generation()
    outcome = world.agent(mode=mode).apply(made, _bindings(made), after)
    assert outcome.arrived == came
    assert _adopted(world.kernel) == {f"tap-{i}".encode().ljust(16, b"\0") for i in came}
    assert (world.kernel.generation() != generation) is bool(came)
    assert world.memory.load().links == after
    assert not world.agent(mode=mode).apply(made, _bindings(made), after).arrived


def test_links_that_ports_have_left_are_known_until_they_go_or_have_a_port_again() -> None:
    world = World()
    made, present = _cloud(ALLOW), {5, 6, 7}
    first, second, *_ = sorted(_ports(made))
    both_here, one_here = {first: 5, second: 6}, {first: 5}
    fewer = {i: at for i, at in _bindings(made).items() if i != second}

    def left(links: Mapping[str, int], here: AbstractSet[int] = present) -> set[int]:
        bound = fewer if links is one_here else _bindings(made)
        world.agent().apply(made, bound, links, here)
        raws = [s.elements for n, s in world.table.sets.items() if n.startswith(f"{LEFT}_")]
        return {number for raw in raws for number in here if index_key(number) in raw}

    assert left(both_here) == set()
    assert left(one_here) == {6}
    assert left(one_here) == {6}, "the next agent knows it, too"
    assert left({first: 5, second: 7}) == {6}, "the port is back, at another link"
    assert left(both_here) == {7}
    assert left(one_here) == {6, 7}
    assert left(one_here, {5, 7}) == {7}, "the link is gone"
    assert left(one_here) == {7}


def test_who_has_come_is_known_though_the_document_in_force_is_not() -> None:
    first, second, third = _cloud(ALLOW), _cloud(ALLOW, DENY, BOOK), _cloud(ALLOW, DENY)
    some = {i: b for i, b in _bindings(first).items() if i != "a2"}
    world = World()
    world.agent().apply(first, some)
    assert world.die(second, Moment.BEFORE_COMMIT)
    assert world.die(third, Moment.BEFORE_COMMIT)
    assert world.memory.load().accepted is None
    assert world.apply(third).arrived == {"a2"}


def test_nobody_has_come_to_an_agent_that_remembers_nothing() -> None:
    assert not World().apply(_cloud(ALLOW)).arrived


def test_without_grace_nobody_is_adopted() -> None:
    made = _cloud(ALLOW)
    kernel = FakeKernel()
    Reconciler(kernel, grace=0).apply(made, _bindings(made))
    assert not _adopted(kernel)


def test_ports_are_adopted_although_the_first_try_came_to_nothing() -> None:
    made = _cloud(ALLOW)
    kernel = SilentKernel(1, does_it=False)
    Reconciler(kernel).apply(made, _bindings(made))
    assert len(_adopted(kernel)) == len(PORTS)


class Refusing(FakeKernel):
    refuses = False

    def commit(self, plan: Plan) -> None:
        if self.refuses:
            raise TransactionRefused("no", ("security group a",))
        super().commit(plan)


def test_a_refused_change_leaves_what_was_in_force_and_its_record() -> None:
    kernel, memory = Refusing(), Forgetful()
    agent = Reconciler(kernel, memory)
    first, second = _cloud(ALLOW), _cloud(DENY)
    agent.apply(first, _bindings(first))
    there = kernel.observe()
    kernel.refuses = True
    with pytest.raises(TransactionRefused):
        agent.apply(second, _bindings(second))
    assert kernel.observe() == there
    assert memory.load().accepted == first
    kernel.refuses = False
    assert set(agent.apply(second, _bindings(second)).cleared) == _cleared(first, second)


class Deaf(FakeKernel):
    """Says that it has done everything, and does nothing."""

    deaf = False

    def commit(self, plan: Plan) -> None:
        if not self.deaf:
            super().commit(plan)


def test_a_kernel_that_does_not_do_what_it_says_is_told() -> None:
    kernel = Deaf()
    agent = Reconciler(kernel)
    agent.apply(_cloud(), _bindings(_cloud()))
    kernel.deaf = True
    with pytest.raises(NotConverged, match=r"shows something else: .* would put it right"):
        agent.apply(_cloud(DENY), _bindings(_cloud()))
    assert agent.record.accepted == _cloud()


@pytest.mark.parametrize(
    "harm",
    [
        lambda kernel: kernel.text("flush chain inet secgroupd deny_in"),
        lambda kernel: kernel.text("delete table inet secgroupd"),
    ],
    ids=["a chain flushed", "the table deleted"],
)
@pytest.mark.parametrize("full", [False, True], ids=["noticed", "met by a full comparison"])
def test_what_others_did_to_the_table_is_undone_and_told(
    harm: Callable[[FakeKernel], None], full: bool
) -> None:
    made = _cloud(ALLOW)
    world = World()
    agent = world.agent()
    agent.apply(made, _bindings(made))
    harm(world.kernel)
    assert agent.disturbed()
    if full:
        agent.forget_kernel()
    outcome = agent.apply(made, _bindings(made))
    assert outcome.drift and outcome.plan and not outcome.cleared
    assert not agent.disturbed()
    world.check_enforces(made)


def test_what_others_do_to_their_own_tables_is_no_drift() -> None:
    made = _cloud(ALLOW)
    world = World()
    agent = world.agent()
    agent.apply(made, _bindings(made))
    world.kernel.others_change()
    outcome = agent.apply(made, _bindings(made))
    assert not outcome.drift and not outcome.plan


def test_changes_of_other_tables_that_are_heard_of_cost_no_look() -> None:
    made = _cloud(ALLOW)
    world = World()
    agent = world.agent()
    agent.apply(made, _bindings(made))
    first = world.kernel.generation()
    world.kernel.others_change()
    world.kernel.others_change()
    assert agent.disturbed()
    assert agent.heard([Change(first, ours=True), Change(first + 1, ours=False)]) == 0
    assert agent.disturbed(), "one is missing"
    assert agent.heard([Change(first + 2, ours=False)]) == 0
    assert not agent.disturbed()


@pytest.mark.parametrize(
    "between", [Change(None, ours=True), None], ids=["told to be lost", "not told"]
)
def test_changes_that_were_not_heard_of_are_looked_for(between: Change | None) -> None:
    made = _cloud(ALLOW)
    world = World()
    agent = world.agent()
    agent.apply(made, _bindings(made))
    first = world.kernel.generation()
    world.kernel.text("flush chain inet secgroupd deny_in")
    world.kernel.others_change()
    heard = [Change(first + 2, ours=False)]
    assert agent.heard(heard if between is None else [between, *heard]) == 0
    assert agent.disturbed()


def test_who_has_changed_our_tables_is_named_when_it_is_undone() -> None:
    made = _cloud(ALLOW)
    world = World()
    agent = world.agent()
    agent.apply(made, _bindings(made))
    mine = Change(world.kernel.generation(), ours=True, process="python3", pid=1)
    world.kernel.text("flush chain inet secgroupd deny_in")
    theirs = Change(world.kernel.generation(), ours=True, process="nft", pid=7)
    assert agent.heard([mine, theirs]) == 1
    outcome = agent.apply(made, _bindings(made))
    assert outcome.drift and outcome.culprits == (theirs,) and str(theirs) == "nft:7"
    world.kernel.others_change()
    assert agent.apply(made, _bindings(made)).culprits == ()


def test_a_change_beside_the_agent_in_the_same_moment_is_seen() -> None:
    """Somebody harms the table while a plan is committed: not only what it touched is read."""

    class Harmed(FakeKernel):
        harm = False

        def commit(self, plan: Plan) -> None:
            super().commit(plan)
            if self.harm:
                self.harm = False
                self.text("flush chain inet secgroupd closed")

    kernel = Harmed()
    agent = Reconciler(kernel)
    agent.apply(_cloud(), _bindings(_cloud()))
    kernel.harm = True
    outcome = agent.apply(_cloud(DENY), _bindings(_cloud()))
    wanted = compile_ruleset(Policy(_cloud(DENY)), Host(_bindings(_cloud())), outcome.generations)
    assert differences(kernel.observe(), expected(wanted)) == {}


def test_a_proposal_changes_nothing() -> None:
    world = World()
    world.apply(_cloud())
    saves, generation = world.memory.saves, world.kernel.generation()
    proposal = world.agent().propose(_cloud(DENY), _bindings(_cloud()))
    assert proposal.plan and set(proposal.cleared) == {"a1", "a2"}
    assert (world.memory.saves, world.kernel.generation()) == (saves, generation)
