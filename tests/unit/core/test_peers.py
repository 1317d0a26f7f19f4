"""A class's peers as lines: few look-ups, and nobody in a set who is not meant."""

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from tests.builders import address_group, group, peer, port, state

from secgroupd.core.model import Action, AnyPeer, Direction, Family
from secgroupd.core.peers import OWN_SET_FROM, Basis, Entry, Judge, PeerSets, simplified
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import Data, Set

IN = Judge(Direction.INGRESS, Family.IPV4, "vpc")
PORTS = [
    *(port(f"a{n}", ["a"], [f"10.1.{n >> 8}.{n & 255}"]) for n in range(OWN_SET_FROM)),
    port("b", ["b"], ["10.2.0.1"]),
    port("c", ["c"], ["10.3.0.1"]),
]
BOOK = address_group("book", "10.9.0.1-10.9.0.3", "10.9.0.2")


def entries(*texts: str) -> tuple[Entry, ...]:
    """``+PEER`` allows, ``-PEER`` denies; no peer is any. Each is its own counter's name."""
    actions = {"+": Action.ALLOW, "-": Action.DENY}
    return simplified(Entry(peer(text[1:] or None), actions[text[0]], text) for text in texts)


def sets() -> PeerSets:
    groups = [group(one) for one in "abc"]
    return PeerSets(Policy(state(groups, PORTS, address_groups=[BOOK])))


def lines(*texts: str, made: PeerSets | None = None, judge: Judge = IN) -> list[str]:
    return [line.text for line in (made or sets()).lines(judge, entries(*texts), "x")]


def filled(made: PeerSets) -> dict[str, Set]:
    """All sets, with those who are members."""
    filled = {name: one.filled(made.policy, made.kept) for name, one in made.members.items()}
    assert all(one.name == name for name, one in filled.items())
    assert all(len(one.elements) <= (one.size or 0) for one in filled.values())
    return made.sets | filled


def hosts(made: PeerSets, letter: str) -> dict[str, str]:
    """The addresses of the one map of that letter, with the counters that they lead to."""
    (one,) = (one for name, one in filled(made).items() if name.startswith(letter))
    assert one.data is Data.COUNTER
    return {str(ip_address(raw)): value for raw, value in one.elements.items()}


def networks(made: PeerSets) -> dict[str, str]:
    """The networks of all maps, as FIRST-LAST, with the counters that they lead to."""
    return {
        f"{ip_address(raw[:4])}-{ip_address(raw[8:12])}": value
        for name, one in made.sets.items()
        if name.startswith("n4_")
        for raw, value in one.elements.items()
    }


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        (["+10.0.0.1", "-10.0.0.1", "-sg:a"], ["+10.0.0.1", "-sg:a"]),
        (["+", "-10.0.0.1"], ["+"]),
        (["-sg:a", "+sg:a", "+10.0.0.1"], ["-sg:a", "+10.0.0.1"]),
    ],
)
def test_what_decides_nothing_is_dropped(given: Sequence[str], kept: Sequence[str]) -> None:
    assert entries(*given) == entries(*kept)
    assert len(entries(*given)) == len(kept)


def test_everything_of_a_family_is_any_and_ends_the_class() -> None:
    for everything in ("0.0.0.0/0", "::/0"):
        (only,) = entries(f"+{everything}", "+sg:a")
        assert isinstance(only.peer, AnyPeer)


def test_nothing_is_denied_uncounted_and_everything_decided_is_counted() -> None:
    made = sets()
    assert lines(made=made) == ["goto deny_in"]
    assert lines("+", made=made) == ['counter name "+" goto ok_in']
    assert lines("-sg:b", "-", made=made)[-1] == 'counter name "-" goto deny_in'
    assert made.counters == {"+", "-sg:b", "-"}


def test_a_lone_network_is_compared_directly_by_the_connections_own_tuple() -> None:
    assert lines("+10.0.0.0/9") == [
        'ct reply ip daddr 10.0.0.0/9 counter name "+10.0.0.0/9" goto ok_in',
        "goto deny_in",
    ]
    out = Judge(Direction.EGRESS, Family.IPV4, "vpc", Basis.PACKET)
    assert lines("+10.0.0.1", judge=out) == [
        'ip daddr 10.0.0.1 counter name "+10.0.0.1" accept',
        "goto deny_out",
    ]


def test_an_address_group_has_exactly_its_entries() -> None:
    made = sets()
    lines("+ag:book", made=made)
    assert networks(made) == {"10.9.0.1-10.9.0.3": "+ag:book"}


def test_a_lone_group_is_looked_up_in_the_set_that_all_share() -> None:
    made = sets()
    once, again = lines("+10.8.0.0/16", "+sg:b", made=made), lines("+sg:b", made=made)
    assert once[1:] == again
    (one,) = filled(made).values()
    assert one.name.startswith("g4_b_") and one.data is Data.NOTHING
    assert again[0] == f'ct reply ip daddr @{one.name} counter name "+sg:b" goto ok_in'


def test_small_groups_and_addresses_are_united_and_a_large_one_stays_apart() -> None:
    made = sets()
    found = lines("+sg:b", "+sg:c", "+203.0.113.9", "+sg:a", made=made)
    assert len(found) == 3
    assert {name[0]: len(one.elements) for name, one in filled(made).items()} == {
        "g": OWN_SET_FROM,
        "u": 3,
    }
    assert hosts(made, "u4") == {
        "10.2.0.1": "+sg:b",
        "10.3.0.1": "+sg:c",
        "203.0.113.9": "+203.0.113.9",
    }


def test_the_first_that_matches_counts_however_peers_are_folded() -> None:
    made = sets()
    lines("+10.2.0.0/16", "+sg:b", "+10.3.0.1", "+10.0.0.0/8", "+sg:c", made=made)
    assert hosts(made, "u4") == {"10.2.0.1": "+10.2.0.0/16", "10.3.0.1": "+10.3.0.1"}
    assert networks(made) == {
        "10.0.0.0-10.1.255.255": "+10.0.0.0/8",
        "10.2.0.0-10.2.255.255": "+10.2.0.0/16",
        "10.3.0.0-10.255.255.255": "+10.0.0.0/8",
    }


def test_large_groups_and_what_stands_between_them_keep_their_order() -> None:
    found = lines("+10.8.0.0/16", "+sg:a", "+10.0.0.0/8")
    assert [text.split('"')[1] for text in found[:-1]] == ["+10.8.0.0/16", "+sg:a", "+10.0.0.0/8"]


def test_a_group_seen_from_another_vpc_has_another_set_with_nobody_in_it() -> None:
    made = sets()
    lines("+sg:b", made=made)
    lines("+sg:b", made=made, judge=Judge(Direction.INGRESS, Family.IPV4, "other"))
    assert sorted(len(one.elements) for one in filled(made).values()) == [0, 1]


def test_many_changes_of_verdict_are_settled_into_four_look_ups() -> None:
    made = sets()
    alternating = ("-sg:b", "+10.2.0.0/16", "-10.9.0.2", "+ag:book", "-10.0.0.0/8", "+")
    found = lines(*alternating, made=made)
    ends = [text.rsplit(" ", 2)[-1] for text in found]
    assert ends == ["deny_in", "ok_in", "deny_in", "ok_in", "deny_in"]
    assert hosts(made, "xd") == {"10.2.0.1": "-sg:b", "10.9.0.2": "-10.9.0.2"}
    assert hosts(made, "xa") == {}
    assert networks(made)["10.2.0.0-10.2.255.255"] == "+10.2.0.0/16"
    assert networks(made)["0.0.0.0-9.255.255.255"] == "+"
    assert networks(made)["10.9.0.4-10.255.255.255"] == "-10.0.0.0/8"


def test_closing_denies_come_after_what_is_settled() -> None:
    made = sets()
    found = lines("-sg:b", "+10.2.0.0/16", "-10.9.0.2", "+ag:book", "-sg:c", "-", made=made)
    assert found[-1] == 'counter name "-" goto deny_in'
    assert found[-2].endswith('counter name "-sg:c" goto deny_in')
