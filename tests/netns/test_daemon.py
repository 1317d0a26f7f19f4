"""The daemon as a process of its own, on a host of its own."""

import json
import signal
import socket
import sys
from ipaddress import ip_address

import pytest
from tests.netns.agents import CLIENT, SERVER, Agent, await_that, document
from tests.netns.conversations import Conversations, exchange

from secgroupd.cli import main
from secgroupd.core.model import UDP, Address
from secgroupd.proving import frames

pytestmark = pytest.mark.netns


def test_it_follows_its_document_and_keeps_the_last_good_one(agent: Agent) -> None:
    agent.give(document("1000"))
    agent.start()
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    assert agent.ask("status") == 0
    before = agent.status()["revision"]
    agent.give(document("1001"))
    await_that(lambda: agent.status()["revision"] != before)
    assert (agent.passes(1000), agent.passes(1001)) == (False, True)
    in_force = agent.status()["revision"]
    agent.give(document("70000"))
    await_that(lambda: agent.status()["problems"])
    assert agent.status()["revision"] == in_force and "cloud.yaml:7:" in agent.log.read_text()
    assert (agent.passes(1000), agent.passes(1001)) == (False, True)
    assert agent.ask("status") == 3
    agent.give(document("1000"))
    await_that(lambda: agent.status()["revision"] == before)
    assert agent.ask("status") == 0


def test_what_is_doubtful_is_told_once_it_is_enforced(agent: Agent) -> None:
    agent.give(document().replace("instances:\n", "  - {id: spare}\ninstances:\n"))
    agent.start()
    await_that(lambda: "document-doubtful" in agent.log.read_text())
    log = agent.log.read_text()
    assert "spare" in log
    assert log.index(" applied ") < log.index("document-doubtful")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_the_rules_stay_and_a_restart_writes_nothing(
    agent: Agent, number: signal.Signals
) -> None:
    agent.give(document())
    agent.start()
    before = agent.generation()
    assert agent.stop(number) == (0 if number is signal.SIGTERM else -number)
    assert agent.ask("status") == 4
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    agent.start()
    await_that(lambda: agent.status().get("healthy"))
    assert agent.generation() == before
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)


def test_a_change_while_it_was_down_clears_as_a_running_one_would(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    lab = agent.lab
    with Conversations() as talk:
        far = (lab.outside_address(CLIENT), CLIENT)
        here = (lab.ports["tap1"].namespace, SERVER)
        flow = talk.open(UDP, far, here, 1000)
        own = talk.open(UDP, here, far, 4000)
        agent.stop(signal.SIGKILL)
        agent.give(document("1001"))
        assert exchange([flow], "server") == {flow.name}, "nobody has told the kernel yet"
        agent.start()
        for speaker in ("server", "client", "server"):
            assert exchange([flow], speaker, expected=0) == set()
        assert exchange([own], "server") == {own.name}


def test_without_document_and_record_managed_interfaces_are_closed(agent: Agent) -> None:
    agent.give("version: 1\nnonsense: true\n")
    agent.start()
    assert not agent.passes(1000)
    assert agent.ask("status") == 3
    agent.give(document())
    await_that(lambda: agent.passes(1000))


def test_without_document_and_record_what_is_closed_stays_closed_whatever_others_do(
    agent: Agent,
) -> None:
    agent.give("version: 1\nnonsense: true\n")
    assert agent.ask("guard") == 0
    agent.start()
    assert not agent.passes(1000)
    agent.lab.hv.run(["nft", "delete", "table", "inet", "secgroupd"])
    await_that(lambda: "table inet secgroupd" in agent.lab.hv.run(["nft", "list", "tables"]).stdout)
    assert not agent.passes(1000)


def test_a_refused_document_at_the_start_leaves_what_was_accepted_in_force(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    agent.stop()
    agent.give("version: 1\nnonsense: true\n")
    agent.lab.hv.run(["nft", "delete", "table", "inet", "secgroupd"])
    agent.start()
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)


def test_with_nothing_to_go_by_the_rules_that_are_there_stay(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    agent.stop()
    agent.give("version: 1\nnonsense: true\n")
    (agent.directory / "lib" / "accepted.json").write_text("torn")
    before = agent.generation()
    agent.start()
    assert agent.generation() == before and agent.passes(1000)
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000)


@pytest.mark.parametrize("identity", ["host_id: hv1", 'mac_address: "fa:16:3e:00:00:02"'])
def test_a_port_is_found_by_alias_or_mac_when_its_interface_appears(
    agent: Agent, identity: str
) -> None:
    agent.configure(host_id="hv1")
    agent.lab.remove_port("tap1")
    agent.give(document(identity=identity))
    agent.start()
    alias = "p1" if identity.startswith("host_id") else None
    agent.lab.add_port(
        interface="tap1", addresses=[SERVER], alias=alias, mac="fa:16:3e:00:00:02", kind="tap"
    )
    await_that(lambda: agent.passes(1000))
    assert not agent.passes(1001)


def test_what_somebody_else_flushes_is_put_back(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    agent.lab.hv.run(["nft", "flush", "ruleset"])
    await_that(lambda: agent.status()["drift_repairs"] == 1)
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)


def test_a_second_daemon_is_refused_and_the_first_goes_on(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    second = agent.lab.hv.run(
        [sys.executable, "-m", "secgroupd.daemon", "--config", str(agent.config)], check=False
    )
    assert second.returncode == 1 and "another secgroupd runs" in second.stderr
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))


def test_metrics_are_served_and_a_busy_port_does_not_stop_it(agent: Agent) -> None:
    with agent.lab.hv.socket(socket.AF_INET, socket.SOCK_STREAM) as busy:
        busy.bind(("127.0.0.1", 9760))
        busy.listen()
        agent.give(document())
        agent.start()
        assert agent.passes(1000)

    await_that(agent.scrape)
    text = agent.scrape()
    assert 'secgroupd_ports{state="enforced"} 1.0' in text
    assert f'secgroupd_revision_info{{revision="{agent.status()["revision"]}"}} 1.0' in text
    assert "secgroupd_conntrack_entries" in text and "secgroupd_conntrack_limit" in text


def test_spoofs_are_counted_by_port_whatever_they_are_and_nothing_else_is(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    mine, thine = ip_address(SERVER), ip_address("10.0.0.2")
    client = ip_address(CLIENT)
    port = agent.lab.ports["tap1"]
    host_mac = f"fe{port.mac[2:]}"

    def dropped() -> str:
        return str(agent.metric('source_check_drops_total{port="p1"}'))

    def packet(source: Address) -> bytes:
        content = frames.udp(source, client, 4000, 4000, frames.nonce())
        return frames.ethernet(port.mac, host_mac, frames.IPV4, content)

    def announcement(address: Address) -> bytes:
        content = frames.arp((port.mac, str(address)), (port.mac, str(address)), frames.nonce())
        return frames.ethernet(port.mac, frames.BROADCAST, frames.ARP, content)

    await_that(lambda: dropped() == "0.0")
    frames.send(port.namespace, [packet(mine), announcement(mine)] * 3)
    frames.send(port.namespace, [packet(thine), announcement(thine), packet(thine)])
    await_that(lambda: dropped() not in {"0.0", "1.0", "2.0"})
    assert dropped() == "3.0", "both of the table inet and the one of the table arp"
    agent.lab.hv.run(["nft", "delete", "table", "inet", "secgroupd"])
    await_that(lambda: agent.status()["drift_repairs"] == 1)
    frames.send(port.namespace, [packet(thine)])
    await_that(lambda: dropped() == "4.0")


def test_hits_and_verdicts_are_counted_and_survive_what_happens_to_rules(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    def rules(*options: str) -> dict[str, int]:
        capsys.readouterr()
        assert main(["--config", str(agent.config), "rules", "--json", *options]) == 0
        found = json.loads(capsys.readouterr().out)
        return {one["rule"]: one["packets"] for one in found}

    labels = 'rule_hits_total{direction="ingress",rule="udp",security_group="g"}'
    denied = 'port_packets_total{direction="ingress",port="p1",verdict="deny"}'
    allowed = 'port_packets_total{direction="ingress",port="p1",verdict="allow"}'
    agent.give(document())
    agent.start()
    before = agent.metric(allowed)
    assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    await_that(lambda: agent.metric(labels) == 1 and agent.metric(denied) == 1)
    assert agent.metric(allowed) > before
    assert rules() == {"udp": 1, "out": 0} and rules("--unused") == {"out": 0}
    agent.give(document("1000-1001"))
    await_that(lambda: agent.passes(1001))
    await_that(lambda: rules()["udp"] >= 2)
    hits = agent.metric(labels)
    agent.stop()
    agent.start()
    assert agent.metric(labels) == hits
    assert agent.process
    agent.configure(metrics={"rule_hits": False})
    agent.process.send_signal(signal.SIGHUP)
    await_that(lambda: agent.metric(labels) == -1)
    assert rules("--sort", "hits", "--direction", "ingress") == {"udp": hits}
    assert agent.ask("rules") == 0
    table = capsys.readouterr().out
    assert "udp 1000-1001 from anywhere" in table and table.splitlines()[2] == "g"


def test_settings_are_read_again_on_hangup(agent: Agent) -> None:
    agent.give(document())
    agent.start()
    agent.lab.add_port(interface="other7", addresses=["10.0.7.1"])
    assert agent.process
    agent.configure(managed_interfaces=["tap*", "other*"])
    agent.process.send_signal(signal.SIGHUP)
    await_that(
        lambda: (
            "other"
            in agent.lab.hv.run(["nft", "list", "chain", "inet", "secgroupd", "to_port"]).stdout
        )
    )
    agent.configure(managed_interfaces="wrong")
    agent.process.send_signal(signal.SIGHUP)
    await_that(lambda: "settings-refused" in agent.log.read_text())
    assert agent.passes(1000)


def test_a_changed_limit_takes_effect_on_hangup(agent: Agent) -> None:
    many = ", ".join(f"g{at}" for at in range(6))
    groups = "".join(f"  - {{id: g{at}}}\n" for at in range(6))
    agent.give(
        document()
        .replace("security_groups: [g]", f"security_groups: [{many}]")
        .replace("instances:", f"{groups}instances:")
    )
    agent.start()
    assert agent.ask("status") == 0 and agent.process
    agent.configure(limits="enforce")
    agent.process.send_signal(signal.SIGHUP)
    await_that(lambda: agent.status()["problems"])


def test_the_status_is_asked_over_the_control_socket(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.give(document())
    agent.start()
    # What is told comes from the process: the file may be as old as it likes.
    (agent.directory / "run" / "status.json").write_text("{}")
    assert main(["--config", str(agent.config), "status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["running"] and told["ports"]["p1"]["state"] == "enforced"
    (agent.directory / "run" / "control").unlink()
    await_that((agent.directory / "run" / "control").exists)
    assert agent.ask("status") == 0
    agent.stop()
    assert agent.ask("status") == 4
    assert "not running" in capsys.readouterr().out
    assert not (agent.directory / "run" / "control").exists()


def test_a_socket_that_cannot_be_had_stops_nothing_and_is_made_when_it_can(agent: Agent) -> None:
    blocked = agent.directory / "run" / "control"
    blocked.mkdir(parents=True)
    agent.give(document())
    agent.start()
    assert agent.passes(1000)
    # Without one the status is what was written down last.
    assert agent.ask("status") == 0
    assert agent.log.read_text().count("control-not-served") == 1
    blocked.rmdir()
    await_that(blocked.is_socket)


def test_a_daemon_that_hangs_is_called_degraded_and_its_rules_stay(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    """F-09, the part that needs no systemd."""
    agent.give(document())
    agent.start()
    assert agent.process
    agent.pause()
    try:
        assert agent.ask("status") == 3
        assert "does not answer: timed out" in capsys.readouterr().out
        assert (agent.passes(1000), agent.passes(1001)) == (True, False)
    finally:
        agent.process.send_signal(signal.SIGCONT)
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))
    assert agent.ask("status") == 0
