"""Which interface carries which port: found by name, alias or MAC, and never guessed."""

from dataclasses import replace

from tests.builders import group, port, state

from secgroupd.core.bindings import Bound, Link, bind
from secgroupd.core.compiler import Binding
from secgroupd.core.model import Port
from secgroupd.core.policy import Policy

MAC = "fa:16:3e:00:00:01"


def bound(*ports: Port, links: tuple[Link, ...] = ()) -> Bound:
    return bind(Policy(state([group("g")], ports)), "hv1", links)


NAMED = port("p", ["g"], interface="tap1")
LOOSE = replace(port("p", ["g"], interface=None, host_id="hv1"), mac_address=MAC)


def test_a_named_interface_is_bound_before_it_is_there() -> None:
    found = bound(NAMED)
    assert found.bindings == {"p": Binding("tap1")}
    assert "p" in found.waiting
    assert not bound(NAMED, links=(Link("tap1", 3),)).waiting


def test_a_name_that_no_rule_can_say_is_bound_by_index_once_it_is_there() -> None:
    odd = port("p", ["g"], interface='tap"1')
    assert bound(odd).bindings == {}
    assert bound(odd, links=(Link('tap"1', 3),)).bindings == {"p": Binding('tap"1', 3)}


def test_ports_of_other_hosts_are_not_bound() -> None:
    assert bound(replace(NAMED, host_id="hv2"), links=(Link("tap1", 3),)).bindings == {}
    assert bound(replace(NAMED, host_id="hv1")).bindings == {"p": Binding("tap1")}


def test_the_alias_comes_before_the_mac() -> None:
    links = (Link("one", 1, mac=MAC), Link("two", 2, alias="p"))
    assert bound(LOOSE, links=links).bindings == {"p": Binding("two")}
    assert bound(LOOSE, links=links[:1]).bindings == {"p": Binding("one")}


def test_a_tap_with_libvirts_form_of_the_mac_is_found() -> None:
    tap = Link("vnet0", 1, mac="fe" + MAC[2:])
    assert bound(LOOSE, links=(tap,)).bindings == {"p": Binding("vnet0")}


def test_what_is_ambiguous_is_not_bound_and_says_so() -> None:
    links = (Link("one", 1, mac=MAC), Link("two", 2, mac="fe" + MAC[2:]))
    found = bound(LOOSE, links=links)
    assert found.bindings == {} and "one" in found.waiting["p"] and "two" in found.waiting["p"]
    rival = replace(LOOSE, id="q", mac_address=None)
    contested = bound(LOOSE, rival, links=(Link("one", 1, mac=MAC, alias="q"),))
    assert contested.bindings == {}
    assert set(contested.waiting) == {"p", "q"}


def test_a_port_of_no_host_and_no_name_that_is_nowhere_is_none_of_ours() -> None:
    found = bound(replace(LOOSE, host_id=None))
    assert (found.bindings, found.waiting) == ({}, {})


def test_the_order_of_links_means_nothing() -> None:
    links = (Link("one", 1, mac=MAC), Link("two", 2, alias="p"), Link("tap1", 3))
    assert bound(LOOSE, links=links) == bound(LOOSE, links=links[::-1])
