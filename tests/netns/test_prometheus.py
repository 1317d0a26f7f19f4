"""A real Prometheus, from Debian, reads the metrics, and knows every expression that we hand out."""

import http.client
import json
import re
import signal
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.netns.agents import Agent, await_that, document

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
PROGRAMS = ROOT / ".venv" / "debian" / "usr" / "bin"
"""Where ``make test-host`` unpacks Debian's package; installed, it would start a server."""
GRAFANA = {"$host": ".*", "$__rate_interval": "4m", "$__range": "3h"}
"""What Grafana puts in place of its variables."""


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS / "promtool", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=MONITORING,
    )


def targets() -> list[tuple[str, str]]:
    """Return every expression of the dashboard as Grafana sends it, and the legend of its series."""
    board = json.loads((MONITORING / "dashboard.json").read_text())
    found = []
    for target in (target for panel in board["panels"] for target in panel["targets"]):
        expression = target["expr"]
        for variable, value in GRAFANA.items():
            expression = expression.replace(variable, value)
        found.append((expression, target.get("legendFormat", "")))
    return found


def expressions() -> list[str]:
    """Return every expression of the alert rules and of the dashboard."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return [*found, *(expression for expression, _ in targets())]


@pytest.fixture
def watched(agent: Agent) -> Iterator[Agent]:
    """A running agent with an odd interface, and a Prometheus that reads it every second."""
    settings = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    settings["rule_files"] = [str(MONITORING / "alerts.yaml")]
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["scrape_interval"] = "1s"
    config = agent.directory / "prometheus.yml"
    config.write_text(yaml.safe_dump(settings))
    agent.give(document().replace("id: p1", 'id: "p\\"1"'))
    agent.start()
    log = (agent.directory / "prometheus.log").open("wb")
    server = agent.lab.hv.popen(
        [
            str(PROGRAMS / "prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={agent.directory / 'tsdb'}",
            "--web.listen-address=127.0.0.1:9090",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        yield agent
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
        log.close()


def query(agent: Agent, expression: str) -> list[dict[str, Any]] | None:
    """Return what Prometheus finds, None while it is not there."""
    path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    status, content = agent.get(9090, path)
    if status in {0, http.client.SERVICE_UNAVAILABLE}:
        return None
    answer = json.loads(content)
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def called(legend: str, series: dict[str, Any]) -> str:
    """Return what Grafana calls a series."""
    return re.sub(r"{{(\w+)}}", lambda label: str(series["metric"][label[1]]), legend)


def test_a_real_prometheus_reads_every_metric_and_every_expression_finds_its_series(
    watched: Agent,
) -> None:
    await_that(lambda: query(watched, 'up{job="secgroupd"} == 1'), 60)
    assert (watched.passes(1000), watched.passes(1001)) == (True, False)
    denied = 'secgroupd_port_packets_total{port="p\\"1",direction="ingress",verdict="deny"} == 1'
    await_that(lambda: query(watched, denied))
    await_that(lambda: query(watched, 'secgroupd_rule_hits_total{rule="udp"} == 1'))
    for expression in expressions():
        assert query(watched, expression) is not None, expression
    for expression, legend in targets():
        series = query(watched, expression) or []
        assert not legend or len({called(legend, one) for one in series}) == len(series), expression
    for name in set(re.findall(r"secgroupd_\w+", " ".join(expressions()))):
        assert query(watched, name), f"nothing is called {name}"
    answer = json.loads(watched.get(9090, "/api/v1/targets")[1])
    assert [target["lastError"] for target in answer["data"]["activeTargets"]] == [""]


def test_names_and_help_texts_are_as_prometheus_wants_them(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    await_that(agent.scrape)
    done = promtool("check", "metrics", stdin=agent.scrape())
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_fire_when_they_should_and_not_otherwise() -> None:
    done = promtool("test", "rules", "alerts.test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())["tests"]
    fired = {
        case["alertname"]
        for one in tests
        for case in one["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules}
