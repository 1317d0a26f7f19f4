"""Each row of the clearing table, with real connections of every kind, in both families.

Of each kind there are four inbound connections of the port: two that the change denies and two that
it still allows, the client speaking first on one of each and the server on the other; and one that
the port has opened itself. What is denied does not get a byte through from the commit on, in either
direction; what is allowed, and what the port opened, notices nothing.
"""

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from tests.awaiting import await_until
from tests.builders import address_group, both, group, port, rule, state
from tests.enforcing import bindings, enforcer
from tests.netns.conversations import Conversation, Conversations, exchange

from secgroupd.core.model import ICMP, SCTP, TCP, UDP, Family, Rule, SecurityGroup, State
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Judge
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.proving.namespaces import Lab
from secgroupd.sweep import sweep

pytestmark = pytest.mark.netns

PROTOCOLS = (TCP, UDP, ICMP, SCTP)
OPEN = both("egress")


@dataclass(frozen=True)
class Addresses:
    """Who is who in one family."""

    server: str
    friend: str
    foe: str
    friend_net: str
    foe_net: str

    @property
    def family(self) -> Family:
        return Family.IPV6 if ":" in self.server else Family.IPV4


V4 = Addresses("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.2/32", "10.0.0.3/32")
V6 = Addresses("fd00::1", "fd00::2", "fd00::3", "fd00::2/128", "fd00::3/128")
FAMILIES = pytest.mark.parametrize("who", [V4, V6], ids=["ipv4", "ipv6"])


def _cloud(
    who: Addresses,
    judged: SecurityGroup,
    *more: SecurityGroup,
    groups: tuple[str, ...] = ("judged", "out"),
    foe: tuple[str, ...] = ("out", "foes"),
    friend: tuple[str, ...] = ("out", "friends"),
    entries: tuple[str, ...] = (),
) -> State:
    base = {g.id: g for g in (group("out", *OPEN), group("foes"), group("friends"), judged, *more)}
    return state(
        base.values(),
        [
            port("server", groups, [who.server]),
            port("friend", (*friend, "in"), [who.friend]),
            port("foe", (*foe, "in"), [who.foe]),
        ],
        address_groups=[address_group("book", *(entries or (who.friend,)))],
    )


def _with_in(made: State) -> State:
    """Friend and foe accept everything, so that the server can open connections to them."""
    return replace(
        made,
        security_groups=tuple(
            sorted((*made.security_groups, group("in", *both())), key=lambda g: g.id)
        ),
    )


Row = Callable[[Addresses], tuple[State, State]]


def _in(
    who: Addresses,
    remote: str | None,
    rule_id: str = "r",
    *,
    action: str = "allow",
    priority: int = 1,
) -> Rule:
    return rule(
        "ingress",
        None,
        None,
        remote,
        action=action,
        priority=priority,
        family=who.family,
        rule_id=rule_id,
    )


def deny_added(who: Addresses) -> tuple[State, State]:
    allow = _in(who, None, priority=5)
    deny = _in(who, who.foe_net, "d", action="deny")
    return _cloud(who, group("judged", allow)), _cloud(who, group("judged", allow, deny))


def outbound_deny_added(who: Addresses) -> tuple[State, State]:
    """The inbound rule went before, which cleared; then an outbound deny clears once more."""
    allow, deny = _in(who, who.friend_net), _in(who, who.foe_net, "d", action="deny")
    useless = rule("egress", UDP, "9", action="deny", family=who.family, rule_id="o")
    before = _cloud(who, group("judged", _in(who, None, "all", priority=9), allow))
    return before, _cloud(
        who, group("judged", _in(who, None, "all", priority=9), allow, deny, useless)
    )


def allow_deleted(who: Addresses) -> tuple[State, State]:
    friend, foe = _in(who, who.friend_net), _in(who, who.foe_net, "f")
    return _cloud(who, group("judged", friend, foe)), _cloud(who, group("judged", friend))


def allow_disabled(who: Addresses) -> tuple[State, State]:
    friend, foe = _in(who, who.friend_net), _in(who, who.foe_net, "f")
    return (
        _cloud(who, group("judged", friend, foe)),
        _cloud(who, group("judged", friend, replace(foe, enabled=False))),
    )


def rule_modified(who: Addresses) -> tuple[State, State]:
    return (
        _cloud(who, group("judged", _in(who, None))),
        _cloud(who, group("judged", _in(who, who.friend_net))),
    )


def priority_modified(who: Addresses) -> tuple[State, State]:
    allow = _in(who, None, priority=5)
    return (
        _cloud(who, group("judged", allow, _in(who, who.foe_net, "d", action="deny", priority=9))),
        _cloud(who, group("judged", allow, _in(who, who.foe_net, "d", action="deny", priority=2))),
    )


def entry_removed(who: Addresses) -> tuple[State, State]:
    judged = group("judged", _in(who, "ag:book"))
    return (
        _cloud(who, judged, entries=(who.friend, who.foe)),
        _cloud(who, judged, entries=(who.friend,)),
    )


def entry_added_to_a_deny(who: Addresses) -> tuple[State, State]:
    judged = group("judged", _in(who, None, priority=5), _in(who, "ag:book", "d", action="deny"))
    return _cloud(who, judged, entries=("198.51.100.1" if who is V4 else "2001:db8::1",)), _cloud(
        who, judged, entries=(who.foe,)
    )


def member_removed_from_an_allowed_group(who: Addresses) -> tuple[State, State]:
    judged = group("judged", _in(who, "sg:friends"))
    return (
        _cloud(who, judged, foe=("out", "friends")),
        _cloud(who, judged, foe=("out", "foes")),
    )


def member_added_to_a_denied_group(who: Addresses) -> tuple[State, State]:
    judged = group("judged", _in(who, None, priority=5), _in(who, "sg:foes", "d", action="deny"))
    return _cloud(who, judged, foe=("out",)), _cloud(who, judged, foe=("out", "foes"))


def port_added_to_a_group(who: Addresses) -> tuple[State, State]:
    judged = group("judged", _in(who, None))
    strict = group("strict", _in(who, who.foe_net, action="deny"))
    return (
        _cloud(who, judged, strict),
        _cloud(who, judged, strict, groups=("strict", "judged", "out")),
    )


def port_removed_from_a_group(who: Addresses) -> tuple[State, State]:
    judged, more = group("judged", _in(who, who.friend_net)), group("more", _in(who, None))
    return (
        _cloud(who, judged, more, groups=("judged", "more", "out")),
        _cloud(who, judged, more),
    )


def order_changed(who: Addresses) -> tuple[State, State]:
    judged = group("judged", _in(who, None))
    strict = group("strict", _in(who, who.foe_net, action="deny"))
    return (
        _cloud(who, judged, strict, groups=("judged", "strict", "out")),
        _cloud(who, judged, strict, groups=("strict", "judged", "out")),
    )


ROWS: list[Row] = [
    deny_added, outbound_deny_added, allow_deleted, allow_disabled, rule_modified,
    priority_modified, entry_removed, entry_added_to_a_deny, member_removed_from_an_allowed_group,
    member_added_to_a_denied_group, port_added_to_a_group, port_removed_from_a_group, order_changed,
]  # fmt: skip


@dataclass
class Scene:
    """The lab, and its conversations by what becomes of them."""

    lab: Lab
    denied: dict[str, list[Conversation]]
    kept: dict[str, list[Conversation]]

    @classmethod
    def build(cls, lab: Lab, talk: Conversations, who: Addresses) -> "Scene":
        server, friend, foe = (
            lab.ports[f"tap-{name}"].namespace for name in ("server", "friend", "foe")
        )
        made: dict[str, dict[str, list[Conversation]]] = {
            "denied": {"client": [], "server": []},
            "kept": {"client": [], "server": []},
        }
        dport = 5000
        for protocol in PROTOCOLS:
            for speaker in ("client", "server"):
                for kind, where, address in (
                    ("kept", friend, who.friend),
                    ("denied", foe, who.foe),
                ):
                    dport += 1
                    one = talk.open(protocol, (where, address), (server, who.server), dport)
                    made[kind][speaker].append(one)
                dport += 1
                outbound = talk.open(protocol, (server, who.server), (foe, who.foe), dport)
                made["kept"][speaker].append(outbound)
        return cls(lab, made["denied"], made["kept"])

    def check(self) -> None:
        """Let everybody speak, whoever was to be first; only the kept ones are heard."""
        for first in ("client", "server"):
            second = "server" if first == "client" else "client"
            for speaker in (first, second):
                everybody = self.denied[first] + self.kept[first]
                names = {c.name for c in self.kept[first]}
                heard = exchange(everybody, speaker, expected=len(names))
                assert heard == names, f"{first} first, {speaker} speaks"


def _lost(conversation: Conversation) -> int:
    """Segments that TCP had to send again, on both sides.

    Those that it sent again because the answer was late, as on a busy machine, do not count: the
    other side reports what it got twice (DSACK).
    """
    lost = 0
    for end in (conversation.client, conversation.server):
        info = end.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 224)
        (sent_again,), (got_twice,) = (struct.unpack_from("=I", info, at) for at in (100, 216))
        lost += sent_again - got_twice
    return lost


def _build(lab: Lab, before: State) -> None:
    for instance in before.instances:
        for one in instance.ports:
            lab.add_port(
                interface=one.interface or "", addresses=one.private_ips, mac=one.mac_address
            )


@FAMILIES
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_a_change_cuts_what_it_denies_and_nothing_else(row: Row, who: Addresses) -> None:
    before, after = (_with_in(one) for one in row(who))
    with Lab() as lab, Conversations() as talk:
        _build(lab, before)
        with enforcer(lab) as reconciler:
            reconciler.apply(before, bindings(lab, before))
            scene = Scene.build(lab, talk, who)
            outcome = reconciler.apply(after, bindings(lab, after))
            assert "server" in outcome.cleared
            scene.check()
            with lab.hv.enter(), Conntrack() as table:
                local = bindings(lab, after)
                swept = sweep(
                    table, Judge(Policy(after), outcome.generations, local), outcome.cleared
                )
            assert swept.deleted == 2, "one denied TCP connection for each who speaks first"
            scene.check()
        kept = [c for speaking in scene.kept.values() for c in speaking if c.name.startswith("tcp")]
        assert kept
        await_until(lambda: sum(map(_lost, kept)) == 0)
