import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from secgroupd import __version__
from secgroupd.cli import main
from secgroupd.core.document import Source, parse

EXAMPLES = Path(__file__).parents[2] / "examples"
CLOUD, TESTS = str(EXAMPLES / "cloud.yaml"), str(EXAMPLES / "tests.yaml")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "secgroupd.yaml"
    path.write_text(
        f"host_id: hv1\nstate_dir: {tmp_path}/lib\nrun_dir: {tmp_path}/run\n", encoding="utf-8"
    )
    return str(path)


def written(directory: Path, text: str, name: str = "document.yaml") -> str:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_check_accepts_the_example(capsys: Capture) -> None:
    assert main(["check", CLOUD]) == 0
    assert capsys.readouterr().out == "fine: 0 errors, 0 warnings\n"


def test_check_prints_each_problem_at_its_place(capsys: Capture, tmp_path: Path) -> None:
    path = written(tmp_path, "version: 1\nvpcs:\n  - {id: a, nmae: b}\n  - {id: a}\n")
    assert main(["check", path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines[:2]] == [f"{path}:3:13:", f"{path}:4:10:"]
    assert lines[0].endswith("[unknown-field]") and " error: " in lines[0]
    assert lines[-1] == "refused: 2 errors, 0 warnings"


def test_check_warns_and_accepts(capsys: Capture, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "version: 1\nsecurity_groups:\n  - id: a\n    rules:\n"
        "      - {id: r, direction: ingress, remote_group_id: nobody}\n",
    )
    assert main(["check", "--json", path]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert [problem["severity"] for problem in found["problems"]] == ["warning"]


def test_check_strictly(capsys: Capture, tmp_path: Path) -> None:
    path = written(tmp_path, "version: 1\nsecurity_groups: [{id: a}]\n")
    assert main(["check", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path}:2:19: warning: ")
    assert lines[0].endswith("[empty-security-group]")
    assert lines[1:] == [
        "Each warning's [code] is explained in docs/warnings.md.",
        "fine: 0 errors, 1 warning",
    ]
    assert main(["check", "--strict", path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "refused: 0 errors, 1 warning, counted as errors (--strict)"
    assert main(["check", "--strict", "--json", path]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
    assert main(["check", "--strict", CLOUD]) == 0
    assert capsys.readouterr().out == "fine: 0 errors, 0 warnings\n"


def test_check_tells_the_revision_that_an_agent_will_report(
    capsys: Capture, tmp_path: Path
) -> None:
    assert main(["check", "--json", written(tmp_path, "version: 1\nvpcs: [{id: a}]\n")]) == 0
    revision = json.loads(capsys.readouterr().out)["revision"]
    assert revision == parse([Source("x", "version: 1\nvpcs: [{id: a}]\n")]).state.revision


def test_check_as_json(capsys: Capture, tmp_path: Path) -> None:
    path = written(tmp_path, "version: 2\n")
    assert main(["check", "--json", path]) == 1
    found = json.loads(capsys.readouterr().out)
    (problem,) = found["problems"]
    assert found["revision"] is None
    assert (found["ok"], problem.pop("message")[:11]) == (False, "version '2'")
    assert problem == {
        "file": path,
        "line": 1,
        "column": 10,
        "severity": "error",
        "code": "version",
    }


def test_check_merges_files_and_directories(capsys: Capture, tmp_path: Path) -> None:
    directory = tmp_path / "state.d"
    directory.mkdir()
    written(directory, "version: 1\nvpcs: [{id: a}]\n", "a.yaml")
    written(directory, '{"vpcs": [{"id": "b"}]}', "b.json")
    written(directory, "not: read", "c.txt")
    assert main(["check", str(directory)]) == 0
    extra = written(tmp_path, "vpcs: [{id: a}]\n")
    assert main(["check", str(directory), extra]) == 1
    assert f"{extra}:1:13: error: " in capsys.readouterr().out


def test_check_of_a_missing_file(capsys: Capture, tmp_path: Path) -> None:
    assert main(["check", str(tmp_path / "missing.yaml")]) == 1
    assert "missing.yaml:1:1: error: " in capsys.readouterr().out


def test_compile_prints_the_table(capsys: Capture) -> None:
    assert main(["compile", CLOUD]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("table inet secgroupd {\n") and out.endswith("\n}\n")
    assert '"tapweb1" : jump to_sg-web_' in out
    assert err == ""


def test_compile_mentions_ports_without_interface(
    capsys: Capture, tmp_path: Path, config: str
) -> None:
    path = written(
        tmp_path,
        "version: 1\nvpcs: [{id: v}]\ninstances:\n"
        "  - {id: a, ports: [{id: here, vpc_id: v, interface: tap1, host_id: hv1}]}\n"
        "  - {id: b, ports: [{id: there, vpc_id: v, interface: tap2, host_id: hv2}]}\n"
        '  - {id: c, ports: [{id: unnamed, vpc_id: v, mac_address: "02:00:00:00:00:01"}]}\n',
    )
    assert main(["compile", path, "--config", config]) == 0
    out, err = capsys.readouterr()
    assert '"tap1"' in out
    assert '"tap2"' not in out
    assert err.startswith("left out: unnamed: ") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "dport", "code", "verdict"),
    [
        ("app-1", "5432", 0, "ALLOW"),
        ("web-1", "5432", 3, "DENY"),
        ("203.0.113.5", "22", 0, "ALLOW"),
    ],
)
def test_explain_says_the_verdict_first(
    capsys: Capture, source: str, dport: str, code: int, verdict: str
) -> None:
    question = ["--from", source, "--to", "db-1", "--protocol", "tcp", "--dport", dport]
    assert main(["explain", CLOUD, *question]) == code
    assert capsys.readouterr().out.startswith(f"{verdict}  tcp {dport}\n")


def test_explain_marks_the_deciding_rule(capsys: Capture) -> None:
    question = ["--from", "app-1", "--to", "port-db-1", "--protocol", "6", "--dport", "5432"]
    assert main(["explain", CLOUD, *question]) == 0
    out = capsys.readouterr().out
    _, _, ingress = out.partition("ingress at port-db-1: allow\n")
    reason, group, first, second, rest = ingress.splitlines()
    assert reason == "  by rule sql-from-app of group sg-db"
    assert group.strip() == "sg-db"
    assert first.split() == [
        "1",
        "allow",
        "tcp",
        "5432",
        "from",
        "group",
        "sg-db",
        "replication-in",
    ]
    assert second.split()[0] == "->" and second.endswith("sql-from-app")
    assert rest.strip() == "(2 more rules not reached)"


def test_explain_fits_a_terminal(capsys: Capture, tmp_path: Path) -> None:
    uuid = "0f7b9a52-3f44-4a5e-9d0c-%012d"
    group, rule, port = (uuid % number for number in (1, 2, 3))
    ports = ",".join(f"{number}-{number + 5}" for number in range(20000, 20200, 10))
    path = written(
        tmp_path,
        "version: 1\nvpcs: [{id: v}]\nsecurity_groups:\n"
        f"  - {{id: {group}, rules: [{{id: {rule}, direction: ingress, protocol: tcp,\n"
        f"     multiport: '{ports}', remote_group_id: {group}}}]}}\n"
        f"instances: [{{id: i, ports: [{{id: {port}, vpc_id: v, private_ips: ['2001:db8::1',\n"
        f"  10.0.0.1], security_groups: [{group}]}}]}}]\n",
    )
    question = ["--from", "203.0.113.9", "--to", port, "--protocol", "tcp", "--dport", "20000"]
    assert main(["explain", path, *question]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.endswith(rule) for line in lines)


def test_explain_as_json(capsys: Capture) -> None:
    question = ["--from", "198.51.100.200", "--to", "web-1", "--protocol", "tcp", "--dport", "80"]
    assert main(["explain", "--json", CLOUD, *question]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "verdict": "deny",
        "egress": None,
        "ingress": {
            "port": "port-web-1",
            "verdict": "deny",
            "reason": "rule",
            "security_group": "sg-web",
            "rule": "no-scanners",
        },
    }


def test_a_question_about_nobody_is_one_line(capsys: Capture) -> None:
    question = ["--from", "wep-1", "--to", "db-1", "--protocol", "icmp"]
    assert main(["explain", CLOUD, *question]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "secgroupctl: there is no port or instance 'wep-1': did you mean web-1?\n"


def test_the_example_tests_pass(capsys: Capture) -> None:
    assert main(["test", CLOUD, TESTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "14 tests: all as expected"
    assert max(map(len, lines)) <= 80


def test_an_unmet_expectation_fails(capsys: Capture, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "- {from: web-1, to: db-1, protocol: tcp, dport: 5432, expect: allow}\n"
        "- {name: right, from: app-1, to: db-1, protocol: tcp, dport: 5432, expect: allow}\n",
    )
    assert main(["test", CLOUD, path]) == 1
    out = capsys.readouterr().out
    assert "FAIL  allow   deny   web-1 to db-1 (tcp 5432)\n" in out
    assert f"{path}:1:3\n" in out
    assert out.endswith("2 tests: 1 test not as expected\n")
    assert main(["test", "--json", CLOUD, path]) == 1
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert list(first) == ["index", "name", "expect", "got", "ok", "egress", "ingress"]
    assert (first["index"], first["name"], first["got"], first["ok"]) == (0, None, "deny", False)
    assert (second["index"], second["name"], second["ok"]) == (1, "right", True)
    assert second["egress"]["rule"] == "out-to-db"


def test_a_refused_file_of_tests(capsys: Capture, tmp_path: Path) -> None:
    path = written(tmp_path, "- {from: web-1, to: nobody, protocol: icmp, expect: allow}\n")
    assert main(["test", CLOUD, path]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith(f"{path}:1:3: error: there is no port or instance")
    assert err.splitlines()[-1] == "secgroupctl: refused: 1 problem"


def test_graph_draws_every_group(capsys: Capture) -> None:
    assert main(["graph", CLOUD]) == 0
    out, err = capsys.readouterr()
    shown = [each.text for each in ET.fromstring(out).iter("{http://www.w3.org/2000/svg}text")]
    assert {"sg-web", "sg-app", "sg-db", "sg-base", "office", "tcp 80,443", "deny all"} <= {*shown}
    assert err == ""


def test_graph_without_graphviz_names_the_remedy(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["graph", CLOUD]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("secgroupctl: cannot run dot")
    assert "apt install graphviz" in err and "--dot" in err
    assert main(["graph", "--dot", CLOUD]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("digraph secgroupd {\n") and out.endswith("\n}\n")
    assert err == ""


def test_graph_passes_on_what_dot_complains_of(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho no plugin >&2\nexit 3\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["graph", CLOUD]) == 1
    assert capsys.readouterr() == ("", "secgroupctl: dot failed (3): no plugin\n")


def test_graph_merges_files(capsys: Capture, tmp_path: Path) -> None:
    extra = written(tmp_path, "security_groups: [{id: sg-extra}]\n")
    assert main(["graph", "--dot", CLOUD, extra]) == 0
    assert '"sg-extra\\n0 ports"' in capsys.readouterr().out


def test_status_of_nothing(capsys: Capture, config: str) -> None:
    assert main(["status", "--config", config]) == 4
    assert capsys.readouterr().out == "not running\n"


@pytest.mark.parametrize("verb", ["check", "compile", "plan", "apply"])
def test_refused_settings_stop_every_verb(capsys: Capture, tmp_path: Path, verb: str) -> None:
    path = written(tmp_path, "hostid: x\n", "settings.yaml")
    assert main(["--config", path, verb, CLOUD]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith(f"{path}:1:1: error: ")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["explain", CLOUD],
        ["explain", CLOUD, "--from", "a", "--to", "b", "--protocol", "tpc"],
        ["explain", CLOUD, "--from", "a", "--to", "b", "--protocol", "tcp", "--dport", "0"],
        ["explain", CLOUD, "--from", "a", "--to", "b", "--protocol", "1", "--icmp-type", "256"],
        ["explain", CLOUD, "--from", "a", "--to", "b", "--protocol", "1", "--ethertype", "arp"],
    ],
)
def test_wrong_usage_is_2(argv: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: secgroupctl")


def test_the_version_is_printed(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"secgroupctl {__version__}\n")


def test_a_reader_that_leaves_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "secgroupd.cli", "compile", CLOUD],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent / "agent")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
