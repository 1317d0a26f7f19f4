"""``secgroupctl import`` as it is called."""

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.clouds import (
    aws_group,
    hw_group,
    hw_rule,
    imported,
    os_group,
    os_port,
    os_rule,
    permission,
)

from secgroupd.cli import main
from secgroupd.core.document import Source, parse

Capture = pytest.CaptureFixture[str]

WEB = {"security_groups": [os_group("g", [os_rule("r", "g", protocol="tcp", port_range_min=80, port_range_max=80)], name="web")]}  # fmt: skip


def written(directory: Path, name: str, value: object) -> str:
    path = directory / name
    path.write_text(json.dumps(value), encoding="utf-8")
    return str(path)


def test_the_document_goes_to_stdout_and_passes_check(capsys: Capture, tmp_path: Path) -> None:
    first = written(tmp_path, "groups.json", WEB)
    ports = written(tmp_path, "ports.json", {"ports": [os_port("p", "10.0.0.5", ["g"])]})
    assert main(["import", "openstack", first, ports]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert (
        "  - {id: r, direction: ingress, ethertype: IPv4, protocol: tcp, multiport: '80'}\n" in out
    )
    document = tmp_path / "document.yaml"
    document.write_text(out)
    assert main(["check", str(document)]) == 0
    assert capsys.readouterr().out == "fine: 0 errors, 0 warnings\n"


def test_the_order_of_files_and_of_their_lists_does_not_show(
    capsys: Capture, tmp_path: Path
) -> None:
    rules = [os_rule(str(n), "g", protocol=str(n)) for n in range(9)]
    one = written(tmp_path, "a.json", {"security_groups": [os_group("g", rules), os_group("f")]})
    two = written(
        tmp_path, "b.json", {"security_groups": [os_group("f"), os_group("g", rules[::-1])]}
    )
    main(["import", "openstack", one])
    first = capsys.readouterr().out
    main(["import", "openstack", two])
    assert capsys.readouterr().out == first


def test_what_is_not_carried_over_is_a_line_each_on_stderr(capsys: Capture, tmp_path: Path) -> None:
    groups = [
        os_group("g", [os_rule("r", "g", protocol="-1"), os_rule("s", "g", remote_group_id="gone")])
    ]
    path = written(tmp_path, "groups.json", {"security_groups": groups})
    assert main(["import", "openstack", path]) == 0
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        [path, "security group rule 'r'", "left out"],
        [path, "security group rule 's'", "kept, in group g"],
    ]
    assert "gone" in out


@pytest.mark.parametrize("content", [b"", b"{", b"[7]", b'{"error": "x"}', b"\xff\xfe\x00"])
def test_what_cannot_be_imported_is_an_error_and_prints_nothing(
    content: bytes, capsys: Capture, tmp_path: Path
) -> None:
    path = tmp_path / "answer.json"
    path.write_bytes(content)
    for cloud in ("huawei", "openstack", "aws"):
        assert main(["import", cloud, str(path)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"secgroupctl: {path}") and err.count("\n") == 1


def test_a_file_that_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    assert main(["import", "aws", str(tmp_path / "no.json")]) == 1
    assert "no.json: it cannot be read (No such file or directory)" in capsys.readouterr().err


def test_standard_input_and_pipes(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(WEB).encode())))
    assert main(["import", "openstack", "-"]) == 0
    first = capsys.readouterr().out
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(json.dumps(WEB)))
    writer.start()
    assert main(["import", "openstack", str(pipe)]) == 0
    writer.join()
    assert capsys.readouterr().out == first


def test_a_second_run_tells_what_has_changed(capsys: Capture, tmp_path: Path) -> None:
    path = written(tmp_path, "groups.json", WEB)
    main(["import", "openstack", path])
    old = tmp_path / "old.yaml"
    old.write_text(capsys.readouterr().out)
    assert main(["import", "openstack", path, "--diff", str(old)]) == 0
    assert capsys.readouterr().out == ""
    changed = {"security_groups": [os_group("g", [os_rule("s", "g", protocol="icmp")], name="web")]}
    assert (
        main(["import", "openstack", written(tmp_path, "b.json", changed), "--diff", str(old)]) == 2
    )
    assert capsys.readouterr().out == (
        "- security group g rule r: ingress allow IPv4 tcp 80 from anywhere\n"
        "+ security group g rule s: ingress allow IPv4 icmp from anywhere\n"
    )
    assert main(["import", "openstack", path, "--diff", str(tmp_path / "none.yaml")]) == 1


def test_what_is_over_a_limit_is_said(capsys: Capture, tmp_path: Path) -> None:
    group = {
        "id": "a",
        "name": "A",
        "ip_version": 4,
        "ip_set": [f"10.0.0.{n}" for n in range(1, 30)],
    }
    assert main(["import", "huawei", written(tmp_path, "a.json", {"address_groups": [group]})]) == 0
    assert "over a limit: address group 'a' has 29 entries" in capsys.readouterr().err


ODD = ["null", "true", "~", "0x1f", "1e3", "12:30:45", "- a", "a: b", "#", "'", '"', "&a", "*a", "!x", "%", "@", "`", "=", "{}", "[]", " a ", "2025-01-01", "é☃😀", "yes", "1_000"]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_ids_and_descriptions_stay_whatever_yaml_makes_of_them(text: str) -> None:
    rules = [hw_rule(text, text, description=text)]
    parsed, notes = imported(
        "huawei", {"security_groups": [hw_group(text, rules, name="n", description=text)]}
    )
    (group,) = parsed.state.security_groups
    (rule,) = group.rules
    assert (group.id, group.description, rule.id, rule.description) == (text, text, text, text)
    assert notes == []


def test_clouds_take_their_own_answers_only(capsys: Capture, tmp_path: Path) -> None:
    group: Any = {"SecurityGroups": [aws_group("sg-1", [permission("-1")])]}
    path = written(tmp_path, "a.json", group)
    assert main(["import", "huawei", path]) == 1
    assert "none of security_groups" in capsys.readouterr().err
    assert main(["import", "aws", path]) == 0
    parsed = parse([Source("a.yaml", capsys.readouterr().out)])
    assert [each.id for each in parsed.state.security_groups] == ["sg-1"]
