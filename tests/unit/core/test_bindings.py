"""Which link carries which port, and which ports wait."""

from dataclasses import replace

import pytest
from tests.builders import port, state

from secgroupd.core.bindings import Bound, Link, bind
from secgroupd.core.draft import Binding
from secgroupd.core.host import Abilities, Bridging
from secgroupd.core.model import Port
from secgroupd.core.policy import Policy

MAC, TAP_MAC = "fa:16:3e:00:00:01", "fe:16:3e:00:00:01"


def bound(ports: list[Port], *links: Link, bridging: Bridging = Bridging.FULL) -> Bound:
    policy = Policy(state(ports=ports))
    found = bind(policy, "hv1", links, Abilities(bridging))
    other = bind(policy, "hv1", reversed(links), Abilities(bridging))
    assert found == other, "the order of links must not matter"
    return found


def roaming(port_id: str, mac: str | None = None, host_id: str | None = None) -> Port:
    return replace(port(port_id, interface=None, host_id=host_id), mac_address=mac)


def test_a_named_interface_is_bound_before_it_is_there() -> None:
    found = bound([port("p")])
    assert found.bindings == {"p": Binding("tap-p")}
    assert found.waiting == {"p": "there is no interface tap-p"}


def test_a_named_interface_that_is_there_waits_for_nothing() -> None:
    assert bound([port("p")], Link("tap-p", 7)) == Bound({"p": Binding("tap-p")}, {}, {"p": 7})


@pytest.mark.parametrize("name", ['a"b', "a\\b"])
def test_a_name_that_cannot_be_quoted_is_bound_by_index_once_it_is_there(name: str) -> None:
    one = port("p", interface=name)
    assert bound([one]) == Bound({}, {"p": f"there is no interface {name}"})
    assert bound([one], Link(name, 7)) == Bound({"p": Binding(name, 7)}, {}, {"p": 7})


@pytest.mark.parametrize(
    "link",
    [Link("t", 3, alias="p"), Link("t", 3, mac=MAC), Link("t", 3, mac=TAP_MAC)],
    ids=["alias", "mac", "libvirt"],
)
def test_a_port_without_a_name_is_found_and_bound_to_that_link_whatever_its_name(
    link: Link,
) -> None:
    assert bound([roaming("p", MAC)], Link("lo", 1), link) == Bound(
        {"p": Binding("t", 3)}, {}, {"p": 3}
    )


def test_an_alias_is_stronger_than_a_mac() -> None:
    found = bound([roaming("p", MAC)], Link("a", 2, alias="p"), Link("m", 3, mac=MAC))
    assert found == Bound({"p": Binding("a", 2)}, {}, {"p": 2})


@pytest.mark.parametrize(
    "links",
    [
        (Link("a", 2, alias="p"), Link("b", 3, alias="p")),
        (Link("a", 2, mac=MAC), Link("b", 3, mac=TAP_MAC)),
    ],
)
def test_where_two_links_fit_none_is_taken(links: tuple[Link, Link]) -> None:
    found = bound([roaming("p", MAC)], *links)
    assert found == Bound({}, {"p": "more than one interface fits: a, b"})


def test_where_two_ports_want_one_link_nobody_gets_it() -> None:
    found = bound([port("p", interface="t"), roaming("q", MAC)], Link("t", 2, mac=MAC))
    assert found.bindings == {}
    assert found.waiting == {
        "p": "interface t is claimed by q too",
        "q": "interface t is claimed by p too",
    }


def test_a_port_of_another_host_is_never_bound() -> None:
    elsewhere = replace(port("p", host_id="hv2"), mac_address=MAC)
    assert bound([elsewhere], Link("tap-p", 2, alias="p", mac=MAC)) == Bound({}, {})


def test_a_port_of_any_host_is_here_only_if_it_is_found() -> None:
    assert bound([roaming("p", MAC)], Link("lo", 1)) == Bound({}, {})


def test_a_port_of_this_host_waits_until_it_is_found() -> None:
    found = bound([roaming("p", MAC, "hv1"), roaming("q", None, "hv1")])
    assert found.bindings == {}
    assert found.waiting == {
        "p": f"no interface has the port's id as its alias or the MAC {MAC}",
        "q": "no interface has the port's id as its alias",
    }


BRIDGE = Link("br0", 2)


def on_bridge(
    name: str, index: int = 3, *, alias: str | None = None, mac: str | None = None
) -> Link:
    return Link(name, index, alias, mac, master=BRIDGE.index, member_of="bridge")


@pytest.mark.parametrize(
    ("one", "link"),
    [
        (port("p"), on_bridge("tap-p")),
        (roaming("p"), on_bridge("t", alias="p")),
        (roaming("p", MAC), on_bridge("t", mac=MAC)),
        (roaming("p", MAC), on_bridge("t", mac=TAP_MAC)),
    ],
    ids=["name", "alias", "mac", "libvirt"],
)
def test_a_link_on_a_bridge_is_bound_with_its_bridge_however_it_is_found(
    one: Port, link: Link
) -> None:
    found = bound([one], BRIDGE, link)
    index = None if one.interface else link.index
    assert found == Bound({"p": Binding(link.name, index, "br0")}, {}, {"p": link.index})


def test_a_bridge_that_is_not_in_the_list_is_called_by_its_index() -> None:
    assert bound([port("p")], on_bridge("tap-p")).bindings == {
        "p": Binding("tap-p", None, "link 2")
    }


def test_a_name_that_cannot_be_quoted_is_bound_by_index_on_a_bridge_too() -> None:
    found = bound([port("p", interface='a"b')], BRIDGE, on_bridge('a"b'))
    assert found == Bound({"p": Binding('a"b', 3, "br0")}, {}, {"p": 3})


def test_members_of_a_vrf_are_routed() -> None:
    link = Link("tap-p", 3, master=2, member_of="vrf")
    assert bound([port("p")], Link("vrf1", 2), link) == Bound({"p": Binding("tap-p")}, {}, {"p": 3})


@pytest.mark.parametrize("kind", ["bond", "team", "openvswitch", "hsr", "unheard-of"])
def test_members_of_anything_else_wait_though_they_are_bound_so_that_they_are_closed(
    kind: str,
) -> None:
    found = bound([port("p")], Link("m0", 2), Link("tap-p", 3, master=2, member_of=kind))
    assert found.bindings == {"p": Binding("tap-p")}
    assert found.waiting == {
        "p": f"tap-p belongs to m0 ({kind}), so that no rule of nftables sees its packets"
    }


@pytest.mark.parametrize(
    ("bridging", "reason"),
    [
        (Bridging.CLOSED, "it is closed"),
        (Bridging.NONE, "IT IS OPEN"),
    ],
)
def test_a_port_on_a_bridge_waits_where_the_kernel_cannot_track_it(
    bridging: Bridging, reason: str
) -> None:
    ports = [port("p"), port("q")]
    found = bound(ports, BRIDGE, on_bridge("tap-p"), Link("tap-q", 4), bridging=bridging)
    assert found.bindings == {"p": Binding("tap-p", None, "br0"), "q": Binding("tap-q")}
    assert found.waiting.keys() == {"p"}
    assert found.waiting["p"].startswith("tap-p is on a bridge, and this kernel does not track")
    assert found.waiting["p"].endswith(reason)


def test_every_port_waits_where_the_kernel_tracks_nothing() -> None:
    ports = [port("p"), port("q")]
    links = [BRIDGE, on_bridge("tap-p"), Link("tap-q", 4)]
    without = Abilities(Bridging.CLOSED, tracking=False)
    found = bind(Policy(state(ports=ports)), "hv1", links, without)
    assert found.bindings.keys() == found.waiting.keys() == {"p", "q"}
    assert "nf_conntrack" in found.waiting["q"] and "closed" in found.waiting["q"]


def test_two_links_on_bridges_that_fit_are_as_doubtful_as_any() -> None:
    found = bound(
        [roaming("p", MAC)], BRIDGE, on_bridge("a", mac=MAC), on_bridge("b", 4, mac=TAP_MAC)
    )
    assert found == Bound({}, {"p": "more than one interface fits: a, b"})
