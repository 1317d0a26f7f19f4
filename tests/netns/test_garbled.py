"""What the kernel says is garbled: it is understood or refused in words, and never anything else."""

import random
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from tests.enforcing import enforcer
from tests.netns.agents import CLIENT, PATIENCE, SERVER, Agent, await_that, document

from secgroupd.core.document import Source, parse
from secgroupd.core.draft import Binding
from secgroupd.core.model import UDP
from secgroupd.core.tracked import Place
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.dataplane.events import RulesetEvents
from secgroupd.dataplane.links import Links
from secgroupd.dataplane.netlink import (
    GENERAL,
    HEADER,
    NETLINK_NETFILTER,
    NLMSG_ERROR,
    attribute,
    opened,
    split_messages,
    text_attribute,
)
from secgroupd.dataplane.nft import Nft
from secgroupd.errors import DataplaneError
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.packets import Probe, probe

pytestmark = pytest.mark.netns

TRIES = 300
SILENCE = 0.02
NEW_TABLE, NEW_CHAIN = 0, 3


class Garbling(socket.socket):
    """A netlink socket on the way from which bytes are changed, lost and put in."""

    random: random.Random

    def recv(self, size: int, flags: int = 0) -> bytes:
        found = bytearray(super().recv(size, flags))
        for _ in range(self.random.choice((0, 0, 1, 1, 3))):
            at = self.random.randrange(len(found)) if found else 0
            match self.random.choice(("byte", "word", "cut", "insert", "empty")):
                case "byte" if found:
                    found[at] = self.random.randrange(256)
                case "word":
                    found[at & ~3 : (at & ~3) + 2] = self.random.randbytes(2)
                case "cut":
                    del found[at:]
                case "insert":
                    found[at:at] = self.random.randbytes(self.random.randrange(64))
                case _:
                    del found[:]
        return bytes(found)


def garbled(genuine: socket.socket, chance: random.Random) -> Garbling:
    made = Garbling(genuine.family, genuine.type, genuine.proto, genuine.detach())
    made.settimeout(SILENCE)
    made.random = chance
    return made


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A host with a port, its tables and a connection."""
    state = parse([Source("s.yaml", document())]).state
    with Lab() as made:
        made.add_port(interface="tap1", addresses=["10.0.0.1"])
        with enforcer(made) as reconciler:
            reconciler.apply(state, {"p1": Binding("tap1")})
        assert probe(
            Probe(
                source=made.outside_address(CLIENT),
                source_address=ip_address(CLIENT),
                destination=made.ports["tap1"].namespace,
                destination_address=ip_address(SERVER),
                protocol=UDP,
                dport=1000,
            )
        ).delivered
        yield made


def understood_or_refused(ask: Callable[[], object]) -> bool:
    """Ask; tell whether there was an answer, right or wrong."""
    try:
        ask()
    except DataplaneError:
        return False
    return True


def test_tables(lab: Lab) -> None:
    chance = random.Random(1)
    with lab.hv.enter(), Nft() as nft:
        nft._netlink._socket = garbled(nft._netlink._socket, chance)
        asks: list[Callable[[], object]] = [nft.observe, nft.counts, nft.adopting, nft.generation]
        answered = [understood_or_refused(chance.choice(asks)) for _ in range(TRIES)]
    assert {True, False} == set(answered)


def test_connections(lab: Lab) -> None:
    chance = random.Random(2)
    everybody: dict[Place, int] = {(zone, bytes((10, 0, 0, 1))): 1 << 30 for zone in range(3)}
    with lab.hv.enter(), Conntrack() as table:
        assert list(table.stale(everybody)), "there is one to be garbled"
        table._netlink._socket = garbled(table._netlink._socket, chance)

        def all_stale() -> object:
            return list(table.stale(everybody))

        answered = [understood_or_refused(all_stale) for _ in range(TRIES)]
    assert {True, False} == set(answered)


def test_links(lab: Lab) -> None:
    chance = random.Random(3)
    with lab.hv.enter(), Links() as links:
        links._dump = garbled(links._dump, chance)

        def asked() -> object:
            links.forget()
            return links.read()

        answered = [understood_or_refused(asked) for _ in range(TRIES)]
    assert {True, False} == set(answered)


def test_events(lab: Lab) -> None:
    chance = random.Random(4)
    with lab.hv.enter(), RulesetEvents() as events:
        events._events._socket = garbled(events._events._socket, chance)
        events._events._socket.settimeout(0)
        heard = []
        for at in range(TRIES // 4):
            lab.hv.run(["nft", f"add table ip t{at}; delete table ip t{at}"])
            heard += events.changes()
    assert any(change.generation is None for change in heard)
    assert any(change.process == "nft" for change in heard)


def create(kind: int, payload: bytes) -> None:
    """Make something in the inet family that nft would have no words for."""

    def message(number: int, flags: int, family: int, subsystem: int, body: bytes) -> bytes:
        content = GENERAL.pack(family, 0, subsystem) + body
        return HEADER.pack(HEADER.size + len(content), number, flags, 1, 0) + content

    begin, end = (message(number, 1, 0, 10, b"") for number in (16, 17))
    with opened(NETLINK_NETFILTER) as netlink:
        netlink.settimeout(PATIENCE)
        netlink.send(begin + message(10 << 8 | kind, 0x405, 1, 0, payload) + end)
        ((number, _, _, answer),) = split_messages(netlink.recv(4096))
    assert (number, bytes(answer[:4])) == (NLMSG_ERROR, b"\0\0\0\0")


@pytest.mark.parametrize("where", ["another table", "in the agent's"])
def test_names_that_are_no_text_are_no_hindrance(agent: Agent, where: str) -> None:
    agent.give(document())
    agent.start()
    odd = b"\xff\xfe '\"\0"
    with agent.lab.hv.enter():
        if where == "another table":
            create(NEW_TABLE, attribute(1, odd))
        else:
            create(NEW_CHAIN, text_attribute(1, "secgroupd") + attribute(3, odd))
    agent.give(document("1001"))
    await_that(lambda: agent.passes(1001))
    assert not agent.passes(1000) and not agent.ended()
    await_that(lambda: agent.status()["healthy"])
