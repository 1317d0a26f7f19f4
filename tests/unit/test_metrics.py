"""What the metrics say."""

from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from secgroupd.core.clearing import Scenario
from secgroupd.metrics import Metrics, PortState, Result, Snapshot


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def families(metrics: Metrics) -> list[Metric]:
    """What a scrape is answered, read by Prometheus's own parser."""
    environ: dict[str, object] = {}
    setup_testing_defaults(environ)
    (page,) = metrics.page(environ, lambda *_: bytes)
    return list(text_string_to_metric_families(page.decode()))


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


def test_every_metric_has_a_help_text(metrics: Metrics) -> None:
    metrics.show(Snapshot('odd "id"\n\\', 1.0))
    metrics.count_cleared({"p": frozenset({Scenario.STRICT})}, ["p"])
    found = families(metrics)
    assert len(found) >= 8
    for family in found:
        assert family.name.startswith("secgroupd_") and family.documentation.endswith(".")
