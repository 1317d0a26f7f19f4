"""Which VPCs are tracked apart, and that a zone's number stays what it is."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.builders import port, state

from secgroupd.core.model import AddressPair, Port, State
from secgroupd.core.policy import Policy
from secgroupd.core.zones import LAST_ZONE, zones


def member(vpc: str, *ips: str, pairs: tuple[str, ...] = ()) -> Port:
    """A port whose id is unlike any other's."""
    name = "-".join((vpc, *ips, *pairs))
    return replace(
        port(name, ips=ips, vpc=vpc),
        allowed_address_pairs=tuple(AddressPair(network=ip_network(text)) for text in pairs),
    )


def zoned(*ports: Port, peerings: tuple[tuple[str, str], ...] = ()) -> Mapping[str, int]:
    return zones(Policy(state(ports=ports, peerings=peerings)))


def with_uplinks(made: State, vpc_id: str) -> State:
    vpcs = tuple(replace(v, uplinks=("bond0.7",)) if v.id == vpc_id else v for v in made.vpcs)
    return replace(made, vpcs=vpcs)


def test_vpcs_that_share_no_address_are_in_the_hosts_own_zone() -> None:
    ports = (
        member("a", "10.0.0.1", "fd00::1"),
        member("b", "10.0.0.2", "fd00::2"),
        # The same number in the other family is another address.
        member("c", "::a00:1"),
    )
    assert zoned(*ports) == {"a": 0, "b": 0, "c": 0}
    assert zoned() == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (member("a", "10.0.0.1"), member("b", "10.0.0.1")),
        (member("a", "fd00::1"), member("b", "fd00::1")),
        (member("a", "10.0.0.1", "fd00::1"), member("b", "10.0.0.2", "fd00::1")),
        (member("a", "10.0.8.1"), member("b", "10.0.0.1", pairs=("10.0.8.0/24",))),
        (member("a", "10.0.8.0"), member("b", pairs=("10.0.8.0/24",))),
        (member("a", "10.0.8.255"), member("b", pairs=("10.0.8.0/24",))),
        (member("a", pairs=("10.0.0.0/8",)), member("b", pairs=("10.0.8.0/24",))),
        (member("a", pairs=("fd00:8::/61",)), member("b", "fd00:8:0:7::1")),
    ],
)
def test_vpcs_that_share_an_address_are_tracked_apart(one: Port, other: Port) -> None:
    found = zoned(one, other, member("c", "192.0.2.1"))
    assert found["c"] == 0
    assert 0 not in {found["a"], found["b"]} and found["a"] != found["b"]


@pytest.mark.parametrize("beside", ["10.0.7.255", "10.0.9.0"])
def test_beside_a_pairs_network_is_not_in_it(beside: str) -> None:
    assert zoned(member("a", beside), member("b", pairs=("10.0.8.0/24",))) == {"a": 0, "b": 0}


def test_an_address_inside_a_long_span_counts_though_a_short_one_ends_in_between() -> None:
    found = zoned(
        member("a", pairs=("10.0.0.0/8",)), member("a", "10.0.0.1"), member("b", "10.255.255.255")
    )
    assert 0 not in found.values()


def test_ports_of_one_vpc_may_share_addresses() -> None:
    assert zoned(member("a", "10.0.0.1"), member("a", pairs=("10.0.0.0/24",))) == {"a": 0}


@pytest.mark.parametrize("text", ["169.254.1.1", "fe80::1", "febf::1"])
def test_link_local_addresses_tell_nothing(text: str) -> None:
    assert zoned(member("a", text), member("b", text)) == {"a": 0, "b": 0}
    everywhere = {"169.254.1.1": "169.254.0.0/16"}.get(text, "fe80::/10")
    assert zoned(member("a", text), member("b", pairs=(everywhere,))) == {"a": 0, "b": 0}


@pytest.mark.parametrize(
    ("text", "wider"), [("169.254.1.1", "169.254.0.0/15"), ("fe80::1", "fe80::/9")]
)
def test_a_network_that_is_more_than_link_local_is_like_any_other(text: str, wider: str) -> None:
    inside = str(ip_network(wider)[-1])
    assert 0 not in zoned(member("a", inside), member("b", pairs=(wider,))).values()
    assert zoned(member("a", text), member("b", pairs=(wider,))) == {"a": 0, "b": 0}


def test_peered_vpcs_share_a_zone_over_any_number_of_steps() -> None:
    ports = [member(vpc, f"10.0.0.{at}") for at, vpc in enumerate("abcd", 1)]
    chain = (("c", "b"), ("a", "b"), ("d", "c"))
    alone = zoned(*ports, peerings=chain)
    assert set(alone.values()) == {0}
    found = zoned(*ports, member("x", "10.0.0.4"), peerings=chain)
    assert len({found[vpc] for vpc in "abcd"}) == 1
    assert found["x"] not in {0, found["a"]} and found["a"] != 0


def test_overlapping_vpcs_that_are_peered_are_one_and_overlap_with_nobody() -> None:
    ports = (member("a", "10.0.0.1"), member("b", "10.0.0.1"))
    assert zoned(*ports, peerings=(("a", "b"),)) == {"a": 0, "b": 0}


def test_a_vpc_with_uplinks_has_a_zone_of_its_own_with_all_its_peers() -> None:
    ports = [member(vpc, f"10.0.0.{at}") for at, vpc in enumerate("abc", 1)]
    made = state(ports=ports, peerings=(("a", "b"),))
    found = zones(Policy(with_uplinks(made, "b")))
    assert found["a"] == found["b"] != 0 and found["c"] == 0
    empty = replace(made, instances=(), peerings=())
    assert zones(Policy(with_uplinks(empty, "b")))["b"] != 0, "though it has no port"


def test_a_number_is_the_same_whatever_else_the_document_says() -> None:
    two = (member("a", "10.0.0.1"), member("b", "10.0.0.1"))
    before = zoned(*two)
    assert zoned(*reversed(two)) == before
    more = [member(vpc, f"10.0.{at}.1") for at, vpc in enumerate(("0", "ab", "c", "z"), 1)]
    apart = (member("0", "10.0.0.1"), member("z", "10.0.0.1"))
    for others in (more, apart, [member("c", pairs=("10.0.0.0/16",))]):
        found = zoned(*others, *two)
        assert {vpc: found[vpc] for vpc in "ab"} == before
    # It is known to the kernel's connection table, over restarts and new versions of the agent.
    assert before == {"a": 31944, "b": 58449}


def _collision() -> tuple[str, str]:
    """Two ids that get one number where the other is not there to take it."""
    seen: dict[int, str] = {}
    for name in (f"v{at}" for at in range(2000)):
        number = zoned(member(name, "10.0.0.1"), member("third", "10.0.0.1"))[name]
        if number in seen:
            return seen[number], name
        seen[number] = name
    raise AssertionError("two of 2000 names should collide among 65535 numbers")


def test_names_that_collide_are_tracked_apart_all_the_same() -> None:
    one, other = _collision()
    found = zoned(member(one, "10.0.0.1"), member(other, "10.0.0.1"))
    first, second = sorted((one, other))
    assert found[second] == found[first] % LAST_ZONE + 1
    assert zoned(member(other, "10.0.0.1"), member(one, "10.0.0.1")) == found


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 12)), unique=True, max_size=12),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=3),
)
def test_only_vpcs_in_different_zones_or_without_a_common_address_are_apart(
    placed: list[tuple[str, int]], peered: list[tuple[str, str]]
) -> None:
    used = {vpc for vpc, _ in placed}
    peerings = tuple((a, b) for a, b in peered if a != b and {a, b} <= used)
    found = zoned(*(member(vpc, f"10.0.0.{at}") for vpc, at in placed), peerings=peerings)
    assert found.keys() == used
    assert all(0 <= number <= LAST_ZONE for number in found.values())
    assert all(found[a] == found[b] for a, b in peerings)
    together = {vpc: {vpc} for vpc in used}
    for a, b in peerings:
        both = together[a] | together[b]
        together |= dict.fromkeys(both, both)
    for a, b in combinations(sorted(used), 2):
        shared = {at for vpc, at in placed if vpc in together[a]} & {
            at for vpc, at in placed if vpc in together[b]
        }
        if b not in together[a] and shared:
            assert 0 not in {found[a], found[b]} and found[a] != found[b]
    for vpc in used:
        outside = {at for other, at in placed if other not in together[vpc]}
        if not outside & {at for other, at in placed if other in together[vpc]}:
            assert found[vpc] == 0
