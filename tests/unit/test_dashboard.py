"""The dashboard: what Grafana does not complain of, and shows wrongly."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from secgroupd.metrics import PortState, Result

MONITORING = Path(__file__).parents[2] / "monitoring"
BOARD = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = BOARD["panels"]
WIDTH = 24
"""Columns of Grafana's grid."""

panels = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])


def thresholds(title: str, name: str | None = None) -> list[float]:
    """Return where a panel, or what is called so in it, changes its colour."""
    (panel,) = [panel for panel in PANELS if panel["title"] == title]
    found = panel["fieldConfig"]["defaults"].get("thresholds")
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            (found,) = [one["value"] for one in override["properties"] if one["id"] == "thresholds"]
    return [step["value"] for step in found["steps"] if step["value"] is not None]


def alert(name: str) -> float:
    """Return the number from which on an alert is sent."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    (expression,) = [one["expr"] for one in rules["groups"][0]["rules"] if one["alert"] == name]
    return float(expression.rpartition(" > ")[2])


def test_panels_fill_the_page_and_do_not_overlap() -> None:
    taken = [
        (x, y)
        for at in (panel["gridPos"] for panel in PANELS)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    height = max(y for _, y in taken) + 1
    assert sorted(taken) == [(x, y) for x in range(WIDTH) for y in range(height)]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_the_page_opens_with_the_default_source_and_all_hosts_that_are_asked() -> None:
    source, host = BOARD["templating"]["list"]
    assert source["current"]["value"] == "default"
    assert host["current"]["value"] == "$__all"
    # An agent that is down has no other series.
    assert host["query"]["query"] == 'label_values(up{job="secgroupd"}, instance)'


@panels
def test_a_panel_says_what_it_shows_and_asks_the_chosen_source_for_the_chosen_hosts(
    panel: dict[str, Any],
) -> None:
    assert panel["description"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
    for target in panel["targets"]:
        selectors = re.findall(r"\b(?:secgroupd_\w+|up)\b(\{.*?\})?", target["expr"])
        assert selectors
        assert all('instance=~"$host"' in selector for selector in selectors), target["expr"]


@panels
def test_only_what_goes_over_time_is_asked_for_over_time(panel: dict[str, Any]) -> None:
    over_time = panel["type"] == "timeseries"
    for target in panel["targets"]:
        assert target.get("instant", False) is not over_time
        # Otherwise each series is a table of its own, of which one is shown.
        assert (target.get("format") == "table") is (panel["type"] == "table")


@panels
def test_a_rate_sees_several_readings_and_leaves_none_out(panel: dict[str, Any]) -> None:
    settings = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))
    every = settings["scrape_configs"][0]["scrape_interval"]
    assert every == "30s"
    for target in panel["targets"]:
        spans = re.findall(r"\[(.*?)\]", target["expr"])
        # Grafana takes four times the interval at least, and all that is between two points.
        assert set(spans) <= {"$__rate_interval", "$__range"}
        if "$__rate_interval" in spans:
            assert target["interval"] == "1m"


@panels
def test_what_is_set_for_a_name_is_set_for_a_name_that_is_there(panel: dict[str, Any]) -> None:
    there = {target.get("legendFormat", "") for target in panel["targets"]}
    there |= set(Result) if "{{result}}" in there else set()
    there |= set(PortState) if "{{state}}" in there else set()
    asked = {f"Value #{target['refId']}" for target in panel["targets"]}
    for one in panel.get("transformations", ()):
        renamed = one["options"].get("renameByName", {})
        assert {name for name in renamed if name.startswith("Value #")} <= asked
        there |= set(renamed.values())
    named = [override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]]
    assert set(named) <= there
    assert len(named) == len(set(named))


def test_red_begins_where_an_alert_is_sent() -> None:
    late, full = alert("SecgroupdNotApplied"), alert("SecgroupdConnectionTableNearlyFull")
    assert thresholds("Now", "Last success")[-1] == late
    assert thresholds("Hosts", "Last success")[-1] == late
    assert thresholds("Now", "Connection table")[-1] == full
    assert thresholds("Connection tables: the ten fullest")[-1] == full
