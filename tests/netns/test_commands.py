"""The commands that change a host, on a host of their own."""

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from secgroupd.cli import main
from secgroupd.core.model import TCP
from secgroupd.dataplane.nft import Nft
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.packets import Observation, Probe, probe

pytestmark = pytest.mark.netns

EXAMPLES = Path(__file__).parents[2] / "examples"
CLOUD = (EXAMPLES / "cloud.yaml").read_text(encoding="utf-8")
TESTS = EXAMPLES / "tests.yaml"

Capture = pytest.CaptureFixture[str]


OURS = "table inet secgroupd\ntable bridge secgroupd\ntable arp secgroupd\n"


class Host:
    """A lab with two instances of the example, and the commands run on its host."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab = lab
        self.document = directory / "cloud.yaml"
        self.document.write_text(CLOUD, encoding="utf-8")
        config = directory / "secgroupd.yaml"
        config.write_text(
            f"host_id: hv1\nstate_dir: {directory}/lib\nrun_dir: {directory}/run\n",
            encoding="utf-8",
        )
        self._config = str(config)
        for interface, address, mac in (
            ("tapapp1", "10.20.2.11", "fa:16:3e:20:02:0b"),
            ("tapdb1", "10.20.3.11", "fa:16:3e:20:03:0b"),
        ):
            lab.add_port(interface=interface, addresses=[address], mac=mac)

    def run(self, verb: str, *arguments: str) -> int:
        paths = [str(self.document)] if verb in {"plan", "apply"} else []
        with self._lab.hv.enter():
            return main(["--config", self._config, verb, *paths, *arguments])

    def edit(self, old: str, new: str) -> None:
        assert CLOUD.count(old) == 1
        self.document.write_text(CLOUD.replace(old, new), encoding="utf-8")

    def ask_database(self) -> Observation:
        app, db = self._lab.ports["tapapp1"], self._lab.ports["tapdb1"]
        return probe(
            Probe(
                source=app.namespace,
                source_address=app.addresses[0],
                destination=db.namespace,
                destination_address=db.addresses[0],
                protocol=TCP,
                dport=5432,
            )
        )

    def tables(self) -> str:
        return self._lab.hv.run(["nft", "list", "tables"]).stdout

    def generation(self) -> int:
        """The kernel's count of changes, by whomever."""
        with self._lab.hv.enter(), Nft() as nft:
            return nft.generation()

    def nft(self, *arguments: str, script: str) -> str:
        return self._lab.hv.run(["nft", *arguments, "-f", "-"], stdin=script).stdout


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Lab() as lab:
        yield Host(lab, tmp_path)


def test_plan_says_what_apply_does(host: Host, capsys: Capture) -> None:
    assert host.run("plan") == 2
    script = capsys.readouterr().out
    assert host.tables() == ""
    host.nft("--check", script=script)
    assert "# waiting: port-web-1: there is no interface tapweb1\n" in script
    assert host.run("apply") == 0
    assert host.tables() == OURS
    capsys.readouterr()
    assert host.run("plan") == 0
    assert capsys.readouterr().out.startswith("# nothing to do")


def test_apply_enforces(host: Host) -> None:
    assert host.run("apply") == 0
    assert host.ask_database().connected
    host.edit("enabled: true", "enabled: false")
    assert host.run("plan") == 2
    assert host.ask_database().connected
    assert host.run("apply") == 0
    assert not host.ask_database().delivered


def test_a_second_apply_writes_nothing(host: Host, capsys: Capture) -> None:
    assert host.run("apply") == 0
    first = host.generation()
    capsys.readouterr()
    assert host.run("apply") == 0
    assert capsys.readouterr().out.startswith("nothing to do")
    assert host.generation() == first


def test_plan_names_the_ports_that_are_judged_again(host: Host, capsys: Capture) -> None:
    assert host.run("apply") == 0
    host.edit("enabled: true", "enabled: false")
    capsys.readouterr()
    assert host.run("plan") == 2
    told = [line for line in capsys.readouterr().out.splitlines() if "judged again" in line]
    assert told == [
        "# inbound connections judged again: port-db-1 (rule-deleted)",
        "# inbound connections judged again: port-db-2 (rule-deleted)",
    ]


def test_a_refused_document_changes_nothing(host: Host, capsys: Capture) -> None:
    assert host.run("apply") == 0
    before = host.generation()
    host.edit("multiport: 5432\n", "multiport: 99999\n")
    capsys.readouterr()
    assert host.run("plan") == 1
    assert host.run("apply") == 1
    out, err = capsys.readouterr()
    assert out == "" and "[port-range]" in err
    assert host.generation() == before


def test_flush_asks(host: Host, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.run("apply") == 0
    for answer in ("", "no\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        assert host.run("flush") == 1
        assert host.tables() == OURS
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    capsys.readouterr()
    assert host.run("flush") == 0
    assert host.tables() == ""
    assert capsys.readouterr().out == OURS.replace("table", "removed: table")


def test_flush_removes_nothing_else(host: Host, capsys: Capture) -> None:
    host.nft(script="table inet mine {}\ntable ip secgroupd {}\n")
    assert host.run("flush", "--yes") == 0
    assert capsys.readouterr().out == "there is no table secgroupd\n"
    host.edit("enabled: true", "enabled: false")
    assert host.run("apply") == 0
    assert host.run("flush", "--yes") == 0
    assert host.tables() == "table inet mine\ntable ip secgroupd\n"
    assert host.ask_database().connected


def test_the_kernel_confirms_the_example(capsys: Capture) -> None:
    assert main(["test", str(EXAMPLES / "cloud.yaml"), str(TESTS), "--kernel", "--json"]) == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(results) == 14
    assert all(one["kernel"] == one["expect"] == one["got"] for one in results)


def test_the_kernel_contradicts_a_wrong_expectation(capsys: Capture, tmp_path: Path) -> None:
    tests = tmp_path / "tests.yaml"
    tests.write_text(
        "- {from: web-1, to: db-1, protocol: tcp, dport: 5432, expect: allow}\n"
        "- {from: app-1, to: db-1, protocol: tcp, dport: 5432, expect: allow}\n",
        encoding="utf-8",
    )
    assert main(["test", str(EXAMPLES / "cloud.yaml"), str(tests), "--kernel"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  allow   deny   deny    web-1 to db-1" in out
    assert "ok    allow   allow  allow   app-1 to db-1" in out


def test_no_packet_is_sent_between_unconnected_vpcs(capsys: Capture, tmp_path: Path) -> None:
    document, tests = tmp_path / "document.yaml", tmp_path / "tests.yaml"
    document.write_text(
        "version: 1\nvpcs: [{id: a}, {id: b}]\n"
        "security_groups: [{id: open, preset: all-ports-open}]\n"
        "instances:\n"
        "  - {id: x, ports: [{id: x-1, vpc_id: a, private_ips: [10.0.0.1],"
        " security_groups: [open]}]}\n"
        "  - {id: y, ports: [{id: y-1, vpc_id: b, private_ips: [10.0.0.2],"
        " security_groups: [open]}]}\n",
        encoding="utf-8",
    )
    tests.write_text(
        "- {from: x, to: y, protocol: tcp, dport: 1, expect: deny}\n", encoding="utf-8"
    )
    assert main(["test", str(document), str(tests), "--kernel", "--json"]) == 0
    (result,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (result["got"], result["kernel"]) == ("deny", None)


def test_plan_names_the_connections_that_would_be_cut(host: Host, capsys: Capture) -> None:
    assert host.run("apply") == 0
    assert host.ask_database().answered
    host.edit("enabled: true", "enabled: false")
    capsys.readouterr()
    assert host.run("plan") == 2
    cut = [line for line in capsys.readouterr().out.splitlines() if "would be cut" in line]
    assert len(cut) == 1
    assert "port-db-1: tcp 10.20.2.11:" in cut[0] and "-> 10.20.3.11:5432" in cut[0]


def test_plan_names_the_connections_of_a_port_that_leaves(host: Host, capsys: Capture) -> None:
    assert host.run("apply") == 0
    assert host.ask_database().answered
    host.edit("interface: tapdb1", "host_id: elsewhere")
    capsys.readouterr()
    assert host.run("plan") == 2
    cut = [line for line in capsys.readouterr().out.splitlines() if "would be cut" in line]
    assert len(cut) == 1
    assert "port-db-1: tcp 10.20.2.11:" in cut[0] and "leaves its interface" in cut[0]


def answer(text: str) -> TextIO:
    """What somebody types, on a descriptor that can be waited for."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return os.fdopen(reading)


@pytest.mark.parametrize(
    ("typed", "kept"), [("yes\n", True), ("no\n", False), ("", False)], ids=["yes", "no", "nobody"]
)
def test_apply_goes_back_unless_confirmed(
    host: Host, monkeypatch: pytest.MonkeyPatch, typed: str, kept: bool
) -> None:
    assert host.run("apply") == 0
    host.edit("enabled: true", "enabled: false")
    with answer(typed) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert host.run("apply", "--confirm", "0.2") == (0 if kept else 1)
    assert host.ask_database().delivered is not kept


def test_a_first_apply_that_is_not_confirmed_leaves_no_table(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answer("no\n") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert host.run("apply", "--confirm", "5") == 1
    assert "secgroupd" not in host.tables()
    assert host.run("apply") == 0
