"""What the metrics say, and how they are served."""

import http.client
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from secgroupd.core.clearing import Scenario
from secgroupd.errors import DataplaneError
from secgroupd.metrics import Endpoint, Metrics, PortState, Result, Snapshot


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@contextmanager
def served(metrics: Metrics, host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as finder:
        finder.bind((host, 0))
        listen = host, finder.getsockname()[1]
    endpoint = Endpoint(listen, metrics.registry)
    try:
        yield listen
    finally:
        endpoint.close()


def request(listen: tuple[str, int], method: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*listen, timeout=10)
    try:
        connection.request(method, "/metrics")
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_everything_is_there_from_the_start(metrics: Metrics) -> None:
    for result in Result:
        assert value(metrics, "secgroupd_apply_total", result=result.value) == 0
    for state in PortState:
        assert value(metrics, "secgroupd_ports", state=state.value) == 0
    assert value(metrics, "secgroupd_document_refused") == 0
    assert value(metrics, "secgroupd_drift_repairs_total") == 0
    assert value(metrics, "secgroupd_revision_info", revision="") == 1
    assert value(metrics, "secgroupd_last_success_timestamp_seconds") is None


def test_cycles_are_counted_by_result_and_duration(metrics: Metrics) -> None:
    metrics.count_cycle(Result.CHANGED, 0.02)
    metrics.count_cycle(Result.CHANGED, 0.025, repaired=True)
    metrics.count_cycle(Result.FAILED, 100.0)
    assert value(metrics, "secgroupd_apply_total", result="changed") == 2
    assert value(metrics, "secgroupd_apply_total", result="failed") == 1
    assert value(metrics, "secgroupd_drift_repairs_total") == 1
    name = "secgroupd_apply_duration_seconds"
    assert value(metrics, f"{name}_bucket", le="0.01") == 0
    assert value(metrics, f"{name}_bucket", le="0.025") == 2
    assert value(metrics, f"{name}_bucket", le="30.0") == 2
    assert value(metrics, f"{name}_bucket", le="+Inf") == value(metrics, f"{name}_count") == 3
    assert value(metrics, f"{name}_sum") == pytest.approx(100.045)


def test_cleared_ports_are_counted_where_they_live(metrics: Metrics) -> None:
    both = frozenset({Scenario.RULE_ADDED, Scenario.RULE_DELETED})
    metrics.count_cleared(
        {"p": both, "q": frozenset({Scenario.RULE_ADDED}), "far": both}, ["p", "q"]
    )
    assert value(metrics, "secgroupd_cleared_ports_total", scenario="rule-added") == 2
    assert value(metrics, "secgroupd_cleared_ports_total", scenario="rule-deleted") == 1


def test_what_holds_now_replaces_what_held_before(metrics: Metrics) -> None:
    metrics.show(Snapshot("one", 5.0, refused=True, ports={PortState.WAITING: 2}))
    metrics.show(Snapshot("two", 6.0, ports={PortState.ENFORCED: 3}))
    assert value(metrics, "secgroupd_revision_info", revision="two") == 1
    assert value(metrics, "secgroupd_revision_info", revision="one") is None
    assert value(metrics, "secgroupd_last_success_timestamp_seconds") == 6.0
    assert value(metrics, "secgroupd_document_refused") == 0
    assert value(metrics, "secgroupd_ports", state="enforced") == 3
    assert value(metrics, "secgroupd_ports", state="waiting") == 0


class Kernel:
    """A kernel's counters of the source check; ``trouble`` is what reading them raises."""

    def __init__(self, **dropped: int) -> None:
        self.dropped = dropped
        self.trouble: Exception | None = None
        self.opened = self.closed = 0

    def spoofs(self) -> Mapping[str, int]:
        if self.trouble:
            raise self.trouble
        return self.dropped

    @contextmanager
    def open(self) -> Iterator["Kernel"]:
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1


DROPS = "secgroupd_source_check_drops_total"


def test_spoofs_are_shown_by_the_port_that_has_the_interface_now() -> None:
    kernel = Kernel(tap1=7, tap2=0, gone=5)
    metrics = Metrics(CollectorRegistry(), open_drops=kernel.open)
    odd = 'p"\n\\'
    metrics.show(Snapshot(interfaces={"p": "tap1", odd: "tap2", "unchecked": "tap3"}))
    assert value(metrics, DROPS, port="p") == 7
    assert value(metrics, DROPS, port=odd) == 0
    assert value(metrics, DROPS, port="unchecked") is None
    with served(metrics) as listen:
        (found,) = [
            f
            for f in text_string_to_metric_families(request(listen, "GET")[1])
            if f.name == "secgroupd_source_check_drops"
        ]
    assert {one.labels["port"]: one.value for one in found.samples} == {"p": 7, odd: 0}
    metrics.show(Snapshot(interfaces={"q": "tap1"}))
    assert value(metrics, DROPS, port="p") is None
    assert value(metrics, DROPS, port="q") == 7
    assert kernel.opened == kernel.closed > 0, "every scrape opens its own and closes it"


@pytest.mark.parametrize("trouble", [DataplaneError("no"), PermissionError("no")])
def test_spoofs_that_cannot_be_read_are_left_out_and_logged_once(
    trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    kernel = Kernel(tap1=7)
    metrics = Metrics(CollectorRegistry(), open_drops=kernel.open)
    metrics.show(Snapshot(interfaces={"p": "tap1"}))
    for said in (1, 2):
        kernel.trouble = trouble
        for _ in range(3):
            assert value(metrics, DROPS, port="p") is None
            assert value(metrics, "secgroupd_document_refused") == 0, "the rest is shown"
        assert [r.getMessage() for r in caplog.records] == [
            "source-check-drops-unread error=no"
        ] * said
        kernel.trouble = None
        assert value(metrics, DROPS, port="p") == 7


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_it_is_served_and_every_metric_has_a_help_text(metrics: Metrics, host: str) -> None:
    metrics.show(Snapshot('odd "id"\n\\', 1.0))
    metrics.count_cleared({"p": frozenset({Scenario.STRICT})}, ["p"])
    with served(metrics, host) as listen:
        status, text = request(listen, "GET")
    assert status == 200
    families = list(text_string_to_metric_families(text))
    assert len(families) >= 8
    for family in families:
        assert family.name.startswith("secgroupd_") and family.documentation.endswith(".")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_nothing_but_get_is_answered(metrics: Metrics, method: str) -> None:
    with served(metrics) as listen:
        assert request(listen, method)[0] == 405


def test_a_busy_port_is_an_error_and_free_again_after_closing(metrics: Metrics) -> None:
    with served(metrics) as listen, pytest.raises(OSError, match="in use"):
        Endpoint(listen, metrics.registry)
    endpoint = Endpoint(listen, metrics.registry)
    endpoint.close()
