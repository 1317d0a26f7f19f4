"""The lab's Vagrantfile, scripts, tables and policy: what can be said of them without starting it."""

import os
import re
import subprocess
from itertools import permutations
from pathlib import Path

import pytest

from laboratory.edits import CONVERSATIONS, PEERED, ROWS, Row, edited, label
from laboratory.scenario import BY_ADDRESS, CONNECTED, ONE_WAY
from laboratory.tables import FAMILIES, HERE, hosts, instances, packages
from secgroupd.core.clearing import documented
from secgroupd.core.document import Source, parse
from secgroupd.core.model import TCP, UDP, Action, Direction, Family, State
from secgroupd.core.policy import Policy
from secgroupd.core.reachability import Question, explain
from secgroupd.core.verdict import Packet, decide

POLICY = (HERE / "policy" / "lab.yaml").read_text(encoding="utf-8")
SCRIPTS = sorted([*HERE.glob("provision/*.sh"), *HERE.glob("guest/*.sh"), HERE / "lab-test"])

# VirtualBox is not Debian's. To have its settings validated it is enough that it tells its version.
VBOXMANAGE = "#!/bin/sh\necho 7.0.20r163906\n"


def state(text: str) -> State:
    return parse([Source("lab.yaml", text)]).state


@pytest.mark.parametrize("debian", ["12", "13", None])
@pytest.mark.parametrize("provider", ["libvirt", "virtualbox"])
def test_vagrant_accepts_the_vagrantfile(provider: str, debian: str | None, tmp_path: Path) -> None:
    program = tmp_path / "VBoxManage"
    program.write_text(VBOXMANAGE)
    program.chmod(0o755)
    done = subprocess.run(
        ["vagrant", "validate"],
        cwd=HERE,
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "VAGRANT_HOME": str(tmp_path / "home"),
            "VAGRANT_DOTFILE_PATH": str(tmp_path / "machines"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_DEFAULT_PROVIDER": provider,
            **({"LAB_DEBIAN": debian} if debian else {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_plain_ones(script: Path) -> None:
    done = subprocess.run(
        ["shellcheck", "-x", "-S", "warning", "-s", "sh", str(script.relative_to(HERE.parent))],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_page_names_every_package_that_is_installed() -> None:
    page = (HERE.parent / "docs" / "lab.md").read_text(encoding="utf-8")
    for role in {host.role for host in hosts().values()}:
        for package in packages(role):
            assert f"`{package}`" in page, package


def test_the_table_of_instances_is_the_policys() -> None:
    found = {
        instance.id: (
            port.host_id,
            port.interface,
            [str(address) for address in port.private_ips],
            port.mac_address,
        )
        for instance in state(POLICY).instances
        for port in instance.ports
    }
    assert found == {
        each.name: (each.host, each.interface, [each.at(family) for family in FAMILIES], each.mac)
        for each in instances().values()
    }
    assert {each.host for each in instances().values()} <= set(hosts())


def test_the_policy_is_accepted_and_only_groups_that_wait_for_members_are_doubted() -> None:
    warnings = parse([Source("lab.yaml", POLICY)]).warnings
    assert {warning.code for warning in warnings} == {"unused-security-group"}
    assert len(warnings) == 2


@pytest.mark.parametrize("family", [0, 1], ids=FAMILIES)
def test_rules_open_a_port_between_the_vpcs_which_only_a_peering_connects(family: int) -> None:
    apart, peered = Policy(state(POLICY)), Policy(state(edited(POLICY, *PEERED)))
    names = [name for name in instances() if name[0] in CONNECTED]
    clients = [name for name in names if "app" in name]
    pairs = [(a, b) for a in clients for b in names if a[0] != b[0]]
    assert len({(a[0], instances()[a].host == instances()[b].host) for a, b in pairs}) == 4
    for client, server in pairs:
        for policy in (apart, peered):
            port, other = policy.ports[f"p-{server}"], policy.ports[f"p-{client}"]
            packet = Packet(peer=other.private_ips[family], protocol=TCP, dport=BY_ADDRESS)
            assert decide(policy, port, Direction.INGRESS, packet).allowed
        question = Question(
            source=client,
            destination=server,
            protocol=TCP,
            dport=BY_ADDRESS,
            family=list(Family)[family],
        )
        assert explain(peered, question).verdict is Action.ALLOW
        assert explain(apart, question).verdict is Action.DENY


@pytest.mark.parametrize("family", list(Family), ids=FAMILIES)
def test_a_peering_lets_in_some_of_the_streams_that_nobody_answers(family: Family) -> None:
    _, number, _ = ONE_WAY
    found = {}
    for text in (POLICY, edited(POLICY, *PEERED)):
        policy = Policy(state(text))
        found[text] = {
            explain(policy, Question(source=a, destination=b, protocol=UDP, dport=number, family=family)).verdict
            for a in instances() for b in instances()
            if {a[0], b[0]} == set(CONNECTED)
        }  # fmt: skip
    assert list(found.values()) == [{Action.DENY}, {Action.ALLOW, Action.DENY}]


@pytest.mark.parametrize("family", list(Family), ids=FAMILIES)
def test_the_same_addresses_are_judged_otherwise_in_the_other_vpc(family: Family) -> None:
    policy = Policy(state(POLICY))
    at = {
        (name[0], instance.at(FAMILIES[list(Family).index(family)])): name
        for name, instance in instances().items()
    }
    shared = {address for vpc, address in at if vpc == "r"}
    assert shared == {address for vpc, address in at if vpc == "b"}
    found: dict[str, list[Action]] = {"b": [], "r": []}
    for vpc, verdicts in found.items():
        for a, b in permutations(sorted(shared), 2):
            question = Question(
                source=at[vpc, a], destination=at[vpc, b], protocol=TCP, dport=80, family=family
            )
            verdicts.append(explain(policy, question).verdict)
    otherwise = sum(one is not other for one, other in zip(*found.values(), strict=True))
    assert otherwise == 8, "each way between a web and an app server"


@pytest.mark.parametrize("family", [0, 1], ids=FAMILIES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", "-", row.change))
def test_each_row_cuts_what_the_table_clears_and_the_rules_then_deny(row: Row, family: int) -> None:
    after = state(edited(POLICY, *row.edits))
    assert after.revision != state(POLICY).revision
    policy = Policy(after)
    cleared = documented(Policy(state(POLICY)), policy)
    for vpc in CONNECTED:
        cut = set()
        for client, server, number in CONVERSATIONS:
            port = policy.ports[f"p-{vpc}-{server}"]
            peer = policy.ports[f"p-{vpc}-{client}"].private_ips[family]
            packet = Packet(peer=peer, protocol=6, dport=number)
            if port.id in cleared and not decide(policy, port, Direction.INGRESS, packet).allowed:
                cut.add(label(client, server, number))
        assert cut == row.cut
