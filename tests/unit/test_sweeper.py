"""The background thread: what becomes of the jobs that it is handed."""

import threading
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest
from tests.awaiting import PATIENCE, await_until
from tests.builders import group, port, rule, state

from secgroupd import sweeper as module
from secgroupd.core.clearing import Cleared, Scenario
from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations
from secgroupd.core.model import TCP, UDP
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Connection, Endpoint, Place
from secgroupd.errors import DataplaneError
from secgroupd.sweeper import Job, Sweeper, Totals

SERVERS = {"p": "10.0.0.1", "q": "10.0.0.2"}
POLICY = Policy(
    state(
        [group("g", rule("ingress", "tcp", "80", rule_id="in"))],
        [port(name, ["g"], [address]) for name, address in SERVERS.items()],
    )
)
BINDINGS = {name: Binding(f"tap-{name}") for name in SERVERS}
OLD, NOW = 5, 6

ADDED = frozenset({Scenario.RULE_ADDED})
DELETED = frozenset({Scenario.RULE_DELETED})


def job(cleared: Cleared) -> Job:
    return Job(POLICY, Generations(NOW, NOW, dict.fromkeys(SERVERS, NOW)), BINDINGS, cleared)


def entry(server: str, dport: int, protocol: int = TCP, stamp: int = OLD) -> Connection:
    here, there = ip_address(SERVERS[server]), ip_address("203.0.113.9")
    return Connection(
        protocol=protocol,
        original=Endpoint(there, here, 40000, dport),
        reply=Endpoint(here, there, dport, 40000),
        mark=stamp,
        handle=f"{server}-{protocol}-{dport}-{stamp}".encode(),
    )


@dataclass
class Entries:
    """A table in memory that can be out of order for a number of readings, or held up."""

    entries: list[Connection] = field(default_factory=list)
    failures: int = 0
    readings: int = 0
    opened: int = 0
    closed: int = 0
    welcomed: list[str] = field(default_factory=list)
    reading: threading.Event = field(default_factory=threading.Event)
    may_read: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_read.set()

    @contextmanager
    def open(self) -> Iterator["Entries"]:
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1

    def stale(self, minimums: Mapping[Place, int]) -> Iterator[Connection]:
        self.reading.set()
        assert self.may_read.wait(PATIENCE)
        self.readings += 1
        if self.failures:
            self.failures -= 1
            raise DataplaneError("the table is out of order")
        for each in list(self.entries):
            if each.stamp < minimums.get((each.zone, each.reply.source.packed), 0):
                yield each

    def tcp_of(self, places: Container[Place]) -> Iterator[Connection]:
        for each in list(self.entries):
            if (each.zone, each.reply.source.packed) in places:
                yield each

    def opened_at(self, places: Container[Place]) -> Iterator[Connection]:
        for each in list(self.entries):
            if (each.zone, each.original.source.packed) in places:
                yield each

    def forget_windows(self, connections: Sequence[Connection]) -> int:
        self.welcomed += [each.handle.decode() for each in connections]
        return len(connections)

    def delete(self, connections: Sequence[Connection]) -> int:
        doomed = {each.handle for each in connections}
        before = len(self.entries)
        self.entries = [each for each in self.entries if each.handle not in doomed]
        return before - len(self.entries)

    def handles(self) -> set[str]:
        return {each.handle.decode() for each in self.entries}


@dataclass
class Grace:
    """The interfaces in their time of grace; unknown for a number of askings."""

    interfaces: tuple[str, ...] = ()
    failures: int = 0

    @contextmanager
    def open(self) -> Iterator["Grace"]:
        if self.failures:
            self.failures -= 1
            raise DataplaneError("nobody knows")
        yield self

    def adopting(self) -> Collection[str]:
        return self.interfaces


@contextmanager
def running(table: Entries, grace: Grace | None = None) -> Iterator[Sweeper]:
    made = Sweeper(table.open, (grace or Grace()).open)
    made.start()
    try:
        yield made
    finally:
        table.may_read.set()
        made.stop()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)


def finish(sweeper: Sweeper, table: Entries, closed: int = 1) -> None:
    await_until(lambda: table.closed >= closed and not sweeper.totals.pending)


def test_a_port_that_has_come_is_welcomed_once_though_its_job_is_replaced() -> None:
    table = Entries([entry("p", 80, stamp=NOW), entry("q", 80, stamp=NOW)])
    table.may_read.clear()
    with running(table) as sweeper:
        sweeper.submit(job({}))
        assert table.reading.wait(PATIENCE)
        sweeper.submit(replace(job({}), arrived=frozenset({"p"})))
        sweeper.submit(job({}))
        table.may_read.set()
        finish(sweeper, table, closed=2)
        sweeper.submit(job({}))
        finish(sweeper, table, closed=3)
    assert table.welcomed == [f"p-{TCP}-80-{NOW}"]


def test_what_was_opened_from_where_no_port_is_any_more_is_deleted_but_tcp() -> None:
    table = Entries([entry("p", 80, UDP, stamp=NOW), entry("q", 80, stamp=NOW)])
    opened = frozenset((one.zone, one.original.source.packed) for one in table.entries)
    table.may_read.clear()
    with running(table) as sweeper:
        sweeper.submit(job({}))
        assert table.reading.wait(PATIENCE)
        sweeper.submit(replace(job({}), vacated=opened))
        sweeper.submit(job({}))
        table.may_read.set()
        finish(sweeper, table, closed=2)
        assert table.handles() == {f"q-{TCP}-80-{NOW}"}
        table.entries.append(entry("p", 80, UDP, stamp=NOW))
        sweeper.submit(job({}))
        finish(sweeper, table, closed=3)
    assert len(table.entries) == 2


def test_nothing_is_opened_without_a_job() -> None:
    table = Entries([entry("p", 22)])
    with running(table) as sweeper:
        assert sweeper.totals == Totals()
    assert table.opened == 0


def test_a_job_is_swept_and_what_is_denied_is_deleted() -> None:
    table = Entries([entry("p", 80), entry("p", 22), entry("p", 23, stamp=NOW)])
    with running(table) as sweeper:
        sweeper.submit(job({"p": DELETED}))
        await_until(lambda: sweeper.totals.cleared)
        totals = sweeper.totals
    assert table.handles() == {"p-6-80-5", "p-6-23-6"}
    assert totals == Totals(
        {Scenario.RULE_DELETED: 2}, {Scenario.RULE_DELETED: 1}, {Scenario.RULE_DELETED: 1}
    )
    assert table.opened == table.closed == 1


def test_an_entry_of_another_protocol_is_counted_and_left_alone() -> None:
    table = Entries([entry("p", 80, UDP)])
    with running(table) as sweeper:
        sweeper.submit(job({"p": DELETED}))
        await_until(lambda: sweeper.totals.cut)
        assert sweeper.totals.cut == {Scenario.RULE_DELETED: 1}
    assert table.handles() == {"p-17-80-5"}


def test_a_port_in_its_time_of_grace_loses_no_entry() -> None:
    table = Entries([entry("p", 22), entry("q", 22)])
    with running(table, Grace(("tap-p",))) as sweeper:
        sweeper.submit(job({"p": ADDED, "q": ADDED}))
        await_until(lambda: sweeper.totals.cut)
        assert sweeper.totals.cut == {Scenario.RULE_ADDED: 2}
    assert table.handles() == {"p-6-22-5"}


def test_what_was_not_cleared_by_a_change_is_deleted_without_being_counted() -> None:
    table = Entries([entry("p", 22)])
    with running(table) as sweeper:
        sweeper.submit(job({}))
        await_until(lambda: table.closed == 1)
        assert sweeper.totals.cleared == {}
    assert table.handles() == set()


def test_counts_add_up_by_scenario() -> None:
    table = Entries([entry("p", 80), entry("q", 80), entry("p", 80, UDP)])
    with running(table) as sweeper:
        sweeper.submit(job({"p": ADDED | DELETED, "q": ADDED}))
        await_until(lambda: sweeper.totals.cleared)
        assert sweeper.totals.cleared == {Scenario.RULE_ADDED: 3, Scenario.RULE_DELETED: 2}
        sweeper.submit(job({"q": DELETED}))
        await_until(lambda: sweeper.totals.cleared[Scenario.RULE_DELETED] == 3)
        totals = sweeper.totals
    assert totals.cleared == {Scenario.RULE_ADDED: 3, Scenario.RULE_DELETED: 3}
    assert totals.kept == {Scenario.RULE_ADDED: 2, Scenario.RULE_DELETED: 2}
    assert totals.cut == {Scenario.RULE_ADDED: 1, Scenario.RULE_DELETED: 1}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("failures", [1, 3])
def test_a_table_that_fails_is_tried_again_with_the_cleared_ports(failures: int) -> None:
    table = Entries([entry("p", 80)], failures=failures)
    with running(table) as sweeper:
        sweeper.submit(job({"p": DELETED}))
        await_until(lambda: sweeper.totals.cleared)
        assert sweeper.totals == Totals({Scenario.RULE_DELETED: 1}, {Scenario.RULE_DELETED: 1}, {})
        assert table.readings == failures + 1
    assert table.opened == table.closed == failures + 1


@pytest.mark.usefixtures("soon")
def test_an_unknown_time_of_grace_is_asked_for_again_and_nothing_is_deleted_meanwhile() -> None:
    table, grace = Entries([entry("p", 22)]), Grace(("tap-p",), failures=2)
    with running(table, grace) as sweeper:
        sweeper.submit(job({"p": DELETED}))
        await_until(lambda: sweeper.totals.cut)
        assert (grace.failures, table.opened) == (0, 1)
    assert table.handles() == {"p-6-22-5"}


def test_a_failure_is_pending_until_a_sweep_succeeds() -> None:
    table = Entries(failures=1)
    with running(table) as sweeper:
        sweeper.submit(job({"p": DELETED}))
        await_until(lambda: table.closed == 1)
        await_until(lambda: sweeper.totals.pending)


@pytest.mark.usefixtures("soon")
def test_nothing_is_pending_any_more_after_a_retry() -> None:
    table = Entries(failures=1)
    with running(table) as sweeper:
        sweeper.submit(job({"p": DELETED}))
        finish(sweeper, table, closed=2)


@pytest.mark.usefixtures("soon")
def test_the_ports_of_a_failed_sweep_join_the_job_that_came_meanwhile() -> None:
    table = Entries([entry("p", 80), entry("q", 80)], failures=1)
    table.may_read.clear()
    with running(table) as sweeper:
        sweeper.submit(job({"p": ADDED}))
        assert table.reading.wait(PATIENCE)
        sweeper.submit(job({"q": DELETED}))
        table.may_read.set()
        await_until(lambda: sweeper.totals.cleared)
        assert sweeper.totals.cleared == {Scenario.RULE_ADDED: 1, Scenario.RULE_DELETED: 1}
        assert table.readings == 2


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("failures", [0, 1])
def test_jobs_that_come_during_a_sweep_become_one_with_the_ports_of_all(failures: int) -> None:
    table = Entries([entry("p", 80), entry("q", 80)])
    table.may_read.clear()
    with running(table) as sweeper:
        sweeper.submit(job({}))
        assert table.reading.wait(PATIENCE)
        sweeper.submit(job({"p": ADDED}))
        sweeper.submit(job({"p": DELETED, "q": DELETED}))
        assert sweeper.totals.pending
        table.failures = failures
        table.may_read.set()
        await_until(lambda: sweeper.totals.cleared)
        assert sweeper.totals.cleared == {Scenario.RULE_ADDED: 1, Scenario.RULE_DELETED: 2}
        assert table.readings == 2


def test_a_sweep_is_repeated_without_a_change_and_counts_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REPEAT_SECONDS", 0.01)
    table = Entries([entry("p", 80)])
    with running(table) as sweeper:
        sweeper.submit(job({"p": DELETED}))
        await_until(lambda: table.closed >= 3)
        assert sweeper.totals.cleared == {Scenario.RULE_DELETED: 1}


def test_stopping_ends_the_thread_and_waits_for_the_sweep_under_way() -> None:
    table = Entries([entry("p", 80)])
    table.may_read.clear()
    before = threading.active_count()
    with running(table) as sweeper:
        sweeper.submit(job({"p": DELETED}))
        assert table.reading.wait(PATIENCE)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert sweeper.totals.cleared == {Scenario.RULE_DELETED: 1}
