"""A class's peers as lines: few look-ups, and nobody in a set who is not meant."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from tests.builders import address_group, group, peer, port, state

from secgroupd.core.model import Action, AnyPeer, Direction, Family
from secgroupd.core.peers import OWN_SET_FROM, Basis, Entry, Judge, PeerSets, simplified
from secgroupd.core.policy import Policy

IN = Judge(Direction.INGRESS, Family.IPV4, "vpc")
PORTS = [
    *(port(f"a{n}", ["a"], [f"10.1.{n >> 8}.{n & 255}"]) for n in range(OWN_SET_FROM)),
    port("b", ["b"], ["10.2.0.1"]),
    port("c", ["c"], ["10.3.0.1"]),
]
BOOK = address_group("book", "10.9.0.1-10.9.0.3", "10.9.0.2")


def entries(*texts: str) -> tuple[Entry, ...]:
    """``+PEER`` allows, ``-PEER`` denies; no peer is any."""
    made = ((t[1:] or None, Action.ALLOW if t[0] == "+" else Action.DENY) for t in texts)
    return simplified([(peer(who), action) for who, action in made])


def sets() -> PeerSets:
    groups = [group(one) for one in "abc"]
    return PeerSets(Policy(state(groups, PORTS, address_groups=[BOOK])))


def lines(*texts: str, made: PeerSets | None = None, judge: Judge = IN) -> list[str]:
    return [line.text for line in (made or sets()).lines(judge, entries(*texts), "x")]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        (["-10.0.0.0/8", "-"], []),
        (["+10.0.0.1", "-10.0.0.1", "-sg:a"], ["+10.0.0.1"]),
        (["+", "-10.0.0.1"], ["+"]),
        (["+0.0.0.0/0", "+sg:a"], ["+"]),
        (["-sg:a", "+sg:a", "+10.0.0.1"], ["-sg:a", "+10.0.0.1"]),
    ],
)
def test_what_decides_nothing_is_dropped(given: Sequence[str], kept: Sequence[str]) -> None:
    assert entries(*given) == entries(*kept)
    assert len(entries(*given)) == len(kept)


def test_everything_of_the_other_family_is_any_too() -> None:
    assert simplified([(peer("::/0"), Action.ALLOW)]) == ((AnyPeer(), Action.ALLOW),)


def test_nothing_allowed_is_one_denial_and_all_allowed_is_one_acceptance() -> None:
    assert lines() == lines("-10.0.0.0/8") == ["goto deny_in"]
    assert lines("+") == ["goto ok_in"]


def test_a_lone_network_is_compared_directly_by_the_connections_own_tuple() -> None:
    assert lines("+10.0.0.0/9") == ["ct reply ip daddr 10.0.0.0/9 goto ok_in", "goto deny_in"]
    out = Judge(Direction.EGRESS, Family.IPV4, "vpc", Basis.PACKET)
    assert lines("+10.0.0.1", judge=out) == ["ip daddr 10.0.0.1 accept", "goto deny_out"]


def test_neighbouring_networks_become_one() -> None:
    assert lines("+10.0.0.0/9", "+10.128.0.0/9")[0] == "ct reply ip daddr 10.0.0.0/8 goto ok_in"


def test_an_address_group_has_exactly_its_entries() -> None:
    made = sets()
    lines("+ag:book", made=made)
    (found,) = made.sets.values()
    (key,) = found.elements
    first, last = (ip_address(a).packed for a in ("10.9.0.1", "10.9.0.3"))
    assert (key[:4], key[8:12]) == (first, last)


def test_small_groups_and_addresses_are_united_and_a_large_one_stays_apart() -> None:
    made = sets()
    found = lines("+sg:a", "+sg:b", "+sg:c", "+203.0.113.9", made=made)
    assert len(found) == 3
    sizes = {one.name[0]: len(one.elements) for one in made.sets.values()}
    assert sizes == {"g": OWN_SET_FROM, "u": 3}


def test_a_group_seen_from_another_vpc_has_another_set_with_nobody_in_it() -> None:
    made = sets()
    lines("+sg:b", made=made)
    lines("+sg:b", made=made, judge=Judge(Direction.INGRESS, Family.IPV4, "other"))
    assert sorted(len(one.elements) for one in made.sets.values()) == [0, 1]


def test_many_changes_of_verdict_are_settled_into_three_look_ups() -> None:
    made = sets()
    alternating = ("-sg:b", "+10.2.0.0/16", "-10.9.0.2", "+ag:book", "-10.0.0.0/8", "+")
    found = lines(*alternating, made=made)
    assert [text.rsplit(" ", 2)[-1] for text in found] == ["deny_in", "ok_in", "ok_in", "deny_in"]
    by_letter = {one.name[:2]: set(one.elements) for one in made.sets.values()}
    denied = {ip_address(a).packed for a in ("10.2.0.1", "10.9.0.2")}
    assert by_letter["xd"] == denied
    assert by_letter["xa"] == set()
