"""Replies are judged, when their connection has become stale, as the answers that they are.

With strict clearing every packet is judged, so that a reply that is looked up by the wrong end, or
as the wrong type, does not come through.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from tests.builders import group, port, rule, state
from tests.enforcing import bindings, enforcer
from tests.netns.conversations import Conversation, Conversations, EchoEnd, End, exchange

from secgroupd.core.model import ICMPV6, Clearing, Family, Rule, State
from secgroupd.core.verdict import DHCP_PORTS
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.reconcile import Reconciler

pytestmark = pytest.mark.netns

Place = tuple[Namespace, str]

GUEST = {Family.IPV4: "10.0.0.1", Family.IPV6: "fd00::1"}
FAR = {Family.IPV4: "203.0.113.9", Family.IPV6: "2001:db8::9"}


class Odd(Conversations):
    """Conversations with ports, or ICMP types, of their own."""

    def dhcp(self, client: Place, server: Place, ports: tuple[int, int]) -> Conversation:
        """UDP between a client's and a server's well-known port; nobody has spoken yet."""
        sockets = []
        for place, number in zip((client, server), ports, strict=True):
            made = self._socket(*place, socket.SOCK_DGRAM)
            made.bind((place[1], number))
            sockets.append(made)
        sockets[0].connect((server[1], ports[1]))
        sockets[1].connect((client[1], ports[0]))
        return Conversation(f"dhcp from {client[1]}", *(End(one) for one in sockets))

    def node_information(self, client: Place, server: Place) -> Conversation:
        """ICMPv6 node information queries and their replies, both by hand."""
        ends = []
        for (place, other), kind in (((client, server), 139), ((server, client), 140)):
            made = self._socket(*place, socket.SOCK_RAW, ICMPV6)
            made.bind((place[1], 0))
            made.connect((other[1], 0))
            ends.append(EchoEnd(made, kind=kind, ident=7))
        return Conversation(f"query from {client[1]}", *ends)


def _document(*rules: Rule) -> State:
    """A guest with these rules, which has both families."""
    return state([group("g", *rules)], [port("guest", ["g"], [*GUEST.values()], interface="tap1")])


@contextmanager
def _running(document: State) -> Iterator[tuple[Lab, Odd, Reconciler]]:
    with Lab() as lab, Odd() as talk, enforcer(lab) as reconciler:
        lab.add_port(interface="tap1", addresses=[*GUEST.values()])
        reconciler.apply(document, bindings(lab, document))
        yield lab, talk, reconciler


def _places(lab: Lab, family: Family) -> tuple[Place, Place]:
    far = lab.outside_address(ip_address(FAR[family]))
    return (lab.ports["tap1"].namespace, GUEST[family]), (far, FAR[family])


def _check_talks(conversation: Conversation) -> None:
    for who in ("client", "server", "client", "server"):
        assert exchange([conversation], who) == {conversation.name}, (conversation.name, who)


@pytest.mark.parametrize("family", Family)
def test_dhcp_goes_on_in_both_directions_when_it_is_judged_again(family: Family) -> None:
    document = _document()
    server_port, client_port = DHCP_PORTS[family]
    with _running(document) as (lab, talk, reconciler):
        guest, far = _places(lab, family)
        asked = talk.dhcp(guest, far, (client_port, server_port))
        _check_talks(asked)
        reconciler.mode = Clearing.STRICT
        reconciler.apply(document, bindings(lab, document))
        _check_talks(asked)


@pytest.mark.parametrize("family", Family)
def test_a_server_that_speaks_first_is_answered_when_it_is_judged_again(family: Family) -> None:
    """As with a forced renewal: nothing but the server's own port lets the answer through."""
    document = _document()
    with _running(document) as (lab, talk, reconciler):
        guest, far = _places(lab, family)
        called = talk.dhcp(far, guest, DHCP_PORTS[family])
        _check_talks(called)
        reconciler.mode = Clearing.STRICT
        reconciler.apply(document, bindings(lab, document))
        _check_talks(called)


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_node_information_goes_on_while_it_is_allowed(direction: str) -> None:
    asked = rule(direction, ICMPV6, icmp=(139, None), family=Family.IPV6)
    other = rule(direction, ICMPV6, icmp=(140, None), family=Family.IPV6)
    with _running(_document(asked)) as (lab, talk, reconciler):
        guest, far = _places(lab, Family.IPV6)
        ends = (far, guest) if direction == "ingress" else (guest, far)
        query = talk.node_information(*ends)
        _check_talks(query)
        reconciler.mode = Clearing.STRICT
        reconciler.apply(_document(asked), bindings(lab, _document(asked)))
        _check_talks(query)
        reconciler.apply(_document(other), bindings(lab, _document(other)))
        for who in ("client", "server"):
            assert exchange([query], who, expected=0) == set()
