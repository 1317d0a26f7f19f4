"""What is shown of the kernel's counters: by port and by rule, and never less than before."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry
from tests.builders import both, group, port, rule, state

from secgroupd.core import names
from secgroupd.core.counts import Carried, Count, Counts
from secgroupd.core.draft import Binding
from secgroupd.core.model import TCP
from secgroupd.core.policy import Policy
from secgroupd.errors import DataplaneError
from secgroupd.traffic import FRESH_SECONDS, Traffic

ODD = 'p"\n\\'
POLICY = Policy(
    state(
        [group("g", rule("ingress", TCP, "80"), *both("egress")), group("elsewhere", *both())],
        [port("p", ["g"], ["10.0.0.1"]), port(ODD, ["g"], ["10.0.0.2"])],
    )
)
BINDINGS = {"p": Binding("tap1"), ODD: Binding("tap2")}
WEB = POLICY.groups["g"].rules[0]


@dataclass
class Host:
    """A host's counters and clock; ``trouble`` is what reading them raises."""

    counts: Counts = field(default_factory=Counts)
    interfaces: Mapping[str, Carried] = field(default_factory=dict)
    trouble: Exception | None = None
    opened: int = 0
    closed: int = 0
    time: float = 0.0

    @contextmanager
    def open(self) -> Iterator["Reader"]:
        self.opened += 1
        try:
            yield Reader(self)
        finally:
            self.closed += 1

    def later(self) -> None:
        self.time += FRESH_SECONDS


@dataclass
class Reader:
    host: Host

    def counts(self) -> Counts:
        if self.host.trouble:
            raise self.host.trouble
        return self.host.counts


class Shown:
    """A host's traffic in a registry."""

    def __init__(self) -> None:
        self.host = Host()
        self.traffic = Traffic(self.host.open, lambda: self.host.interfaces, lambda: self.host.time)
        self.registry = CollectorRegistry()
        self.registry.register(self.traffic)
        self.traffic.show(POLICY, BINDINGS)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"secgroupd_{name}_total", labels)

    def port(self, direction: str, verdict: str, unit: str = "packets") -> float | None:
        return self.value(f"port_{unit}", port="p", direction=direction, verdict=verdict)


@pytest.fixture
def shown() -> Shown:
    return Shown()


def test_drops_are_shown_by_the_port_that_has_the_interface(shown: Shown) -> None:
    spoofs = {("inet", "tap1"): Count(5), ("arp", "tap1"): Count(2), ("inet", "gone"): Count(9)}
    shown.host.counts = Counts(spoofs=spoofs)
    assert shown.value("source_check_drops", port="p") == 7
    assert shown.value("source_check_drops", port=ODD) == 0
    shown.traffic.show(POLICY, {ODD: Binding("tap1")})
    shown.host.counts = Counts(spoofs={**spoofs, ("inet", "tap1"): Count(6)})
    assert shown.value("source_check_drops", port="p") is None
    assert shown.value("source_check_drops", port=ODD) == 1
    assert shown.host.opened == shown.host.closed > 0, "every reading opens its own and closes it"


def test_rules_that_judge_a_port_here_are_shown_and_no_others(shown: Shown) -> None:
    name = names.counter("g", WEB.id)
    shown.host.counts = Counts({("inet", name): Count(3, 30), ("bridge", name): Count(1, 10)})
    labels = {"security_group": "g", "rule": WEB.id, "direction": "ingress"}
    assert shown.value("rule_hits", **labels) == 4
    hits = shown.traffic.hits()
    assert {one.group_id for one in hits} == {"g"} and len(hits) == 3
    assert [one.count for one in hits if one.rule == WEB] == [Count(4, 40)]
    shown.traffic.per_rule = False
    assert shown.value("rule_hits", **labels) is None


def test_what_was_allowed_is_what_was_carried_less_what_was_dropped(shown: Shown) -> None:
    def carried(received: int, sent: int) -> None:
        one = Carried(Count(received, 100 * received), Count(sent, 100 * sent))
        shown.host.interfaces = {"tap1": one}
        shown.host.later()

    carried(1000, 2000)
    assert (shown.port("egress", "allow"), shown.port("ingress", "allow")) == (0, 0)
    shown.host.counts = Counts(
        spoofs={("inet", "tap1"): Count(2, 200)},
        denied_from={("inet", "tap1"): Count(3, 300)},
        denied_to={("inet", "tap1"): Count(7, 700)},
    )
    carried(1000, 2000)
    assert shown.port("egress", "allow") == 0
    shown.host.counts = Counts(
        spoofs={("inet", "tap1"): Count(4, 400)},
        denied_from={("inet", "tap1"): Count(6, 600)},
        denied_to={("inet", "tap1"): Count(9, 900)},
    )
    carried(1100, 2050)
    assert (shown.port("egress", "allow"), shown.port("ingress", "allow")) == (95, 50)
    assert (shown.port("egress", "deny"), shown.port("ingress", "deny")) == (6, 9)
    assert shown.port("egress", "allow", "bytes") == 9500
    carried(10, 10)
    assert shown.port("ingress", "allow") == 60, "the interface was made anew"


def test_what_is_written_is_what_the_registry_says(shown: Shown) -> None:
    name = names.counter("g", WEB.id)
    denied = {("inet", "tap1"): Count(1_234_567, 1 << 40), ("inet", "tap2"): Count(1, 60)}
    shown.host.counts = Counts({("inet", name): Count(3, 30)}, denied, denied, denied)
    shown.host.interfaces = {"tap2": Carried(Count(10, 100), Count(20, 200))}
    families = shown.traffic.families()
    assert [len(family.numbers) for family in families] == [2, 6, 6, 3]
    page = b"".join(family.written(generate_latest) for family in families)
    assert page == generate_latest(shown.registry)


def test_readers_in_a_hurry_get_the_last_reading(shown: Shown) -> None:
    for _ in range(5):
        shown.traffic.hits()
    assert shown.host.opened == 1
    shown.host.later()
    shown.traffic.hits()
    assert shown.host.opened == 2


@pytest.mark.parametrize("trouble", [DataplaneError("no"), PermissionError("no")])
def test_what_cannot_be_read_is_left_out_and_logged_once(
    trouble: Exception, shown: Shown, caplog: pytest.LogCaptureFixture
) -> None:
    for said in (1, 2):
        shown.host.trouble = trouble
        for _ in range(3):
            assert shown.value("source_check_drops", port="p") is None
        assert [r.getMessage() for r in caplog.records] == ["counters-unread error=no"] * said
        with pytest.raises(DataplaneError, match="no"):
            shown.traffic.hits()
        shown.host.trouble = None
        assert shown.value("source_check_drops", port="p") == 0
        shown.host.later()
