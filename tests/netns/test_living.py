"""``explain --live``: a connection that exists, who let it in, and what becomes of it."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.netns.agents import CLIENT, SERVER, Agent, await_that

from secgroupd.cli import main

pytestmark = pytest.mark.netns

DOCUMENT = """
version: 1
vpcs: [{id: v}]
security_groups:
  - id: g
    rules:
      - {id: NAME, direction: ingress, protocol: PROTOCOL, multiport: "80", remote_ip_prefix: 0.0.0.0/0, action: ACTION}
      - {id: out, direction: egress, protocol: udp, action: OUT}
instances:
  - id: i
    ports:
      - {id: p1, interface: tap1, vpc_id: v, private_ips: [10.0.0.1], security_groups: [g]}
"""


def document(name: str, protocol: str = "udp", action: str = "allow", out: str = "allow") -> str:
    words = {"NAME": name, "PROTOCOL": protocol, "ACTION": action, "OUT": out}
    text = DOCUMENT
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def give(agent: Agent, text: str) -> None:
    """Give it a document, and wait until it is in force."""
    before = agent.status().get("revision")
    agent.give(text)
    await_that(lambda: agent.status().get("revision") != before)


class Asked:
    """What ``explain --live --json`` says, and its exit code."""

    def __init__(self, agent: Agent, capsys: pytest.CaptureFixture[str], *question: str) -> None:
        capsys.readouterr()
        arguments = ["--config", str(agent.config), "explain", "--live", *question]
        with agent.lab.hv.enter():
            self.code = main([*arguments, "--json"])
            self.found = json.loads(capsys.readouterr().out)
            main(arguments)
            self.told = capsys.readouterr().out


INBOUND = ("--from", CLIENT, "--to", "p1", "--protocol", "udp", "--dport", "80")
OUTBOUND = ("--from", "p1", "--to", CLIENT, "--protocol", "udp")


@contextmanager
def udp(agent: Agent, *, inward: bool) -> Iterator[None]:
    """A conversation between the port and somebody outside."""
    tap1, outside = agent.lab.ports["tap1"].namespace, agent.lab.outside_address(CLIENT)
    ends = [(outside, CLIENT), (tap1, SERVER)] if inward else [(tap1, SERVER), (outside, CLIENT)]
    sockets = []
    for namespace, address in ends:
        with namespace.enter():
            made = socket.socket(type=socket.SOCK_DGRAM)
        made.bind((address, 80 if namespace is ends[1][0] else 0))
        made.settimeout(5)
        sockets.append(made)
    asking, answering = sockets
    with asking, answering:
        asking.sendto(b"?", (ends[1][1], 80))
        _, sender = answering.recvfrom(16)
        answering.sendto(b"!", sender)
        assert asking.recv(16) == b"!"
        yield


def test_the_rule_of_its_time_is_named_when_it_has_another_name_now(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.give(document("first"))
    agent.start()
    revision = agent.status()["revision"]
    with udp(agent, inward=True):
        asked = Asked(agent, capsys, *INBOUND)
        (one,) = asked.found
        assert asked.code == 0 and one["next"] == "passes" and one["direction"] == "ingress"
        assert (one["source"], one["destination"], one["dport"]) == (CLIENT, SERVER, 80)
        (admitted,) = one["admitted"]
        assert (admitted["rule"], admitted["revision"]) == ("first", revision)
        give(agent, document("second"))
        asked = Asked(agent, capsys, *INBOUND)
        (one,) = asked.found
        assert one["now"]["rule"] == "second"
        assert ("first", revision) in {(a["rule"], a["revision"]) for a in one["admitted"]}
        assert "let in" in asked.told and "first of group g" in asked.told
        assert max(map(len, asked.told.splitlines())) <= 80


def test_what_will_be_cut_is_told(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.give(document("web"))
    agent.start()
    with udp(agent, inward=True):
        give(agent, document("web", action="deny"))
        asked = Asked(agent, capsys, *INBOUND)
    (one,) = asked.found
    assert (asked.code, one["next"]) == (3, "cut")
    assert (one["now"]["verdict"], one["now"]["rule"]) == ("deny", "web")
    assert [a["verdict"] for a in one["admitted"]] == ["allow"]
    assert "dropped" in asked.told


def test_what_goes_on_though_a_new_one_would_be_denied(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.give(document("web"))
    agent.start()
    with udp(agent, inward=False):
        give(agent, document("web", out="deny"))
        asked = Asked(agent, capsys, *OUTBOUND)
    (one,) = asked.found
    assert one["direction"] == "egress"
    assert (one["now"]["verdict"], one["next"], asked.code) == ("deny", "passes", 0)
    assert [a["rule"] for a in one["admitted"]] == ["out"]


def test_there_is_none(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.give(document("web"))
    agent.start()
    asked = Asked(agent, capsys, *INBOUND)
    assert (asked.code, asked.found) == (4, [])
    assert "no such connection" in asked.told


def test_nothing_is_in_force(agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    question = ["explain", "--live", "--from", CLIENT, "--to", "p1", "--protocol", "udp"]
    with agent.lab.hv.enter():
        assert main(["--config", str(agent.config), *question]) == 1
    assert "nothing is in force" in capsys.readouterr().err
