"""Maps from interfaces: by name where nft text can say it, by index where not, and never guessed."""

import pytest

from secgroupd.core.draft import ROOM, Binding, Draft, InterfaceMap
from secgroupd.core.ruleset import Data, Key, capacity, index_key, interface_key

NAMED, ODD, LOST = Binding("tap1"), Binding('a"b', 7), Binding('a"c')
SIZE = capacity(ROOM)


def test_a_binding_can_be_matched_by_a_name_or_an_index() -> None:
    assert [b.matchable for b in (NAMED, ODD, LOST)] == [True, True, False]


def test_a_map_of_names_alone_is_one_map() -> None:
    draft = Draft("inet")
    found = draft.interface_map("ports", {NAMED: "goto x", LOST: "goto y"})
    assert found == InterfaceMap(f"ports_{SIZE}")
    assert found.lines("o", "ct state new ") == [f"ct state new oifname vmap @ports_{SIZE}"]
    (made,) = draft.sets.values()
    assert made.data is Data.VERDICT and made.key is Key.INTERFACE
    assert made.elements == {interface_key("tap1"): "goto x"}


def test_what_no_name_can_say_is_looked_up_first_by_its_index() -> None:
    draft = Draft("inet")
    found = draft.interface_map("ports", {NAMED: "goto x", ODD: "goto y"})
    assert found.lines("i") == [f"iif vmap @ports_index_{SIZE}", f"iifname vmap @ports_{SIZE}"]
    assert draft.sets[f"ports_index_{SIZE}"].elements == {index_key(7): "goto y"}
    assert draft.sets[f"ports_{SIZE}"].elements == {interface_key("tap1"): "goto x"}


@pytest.mark.parametrize("counted", [True, False])
def test_sets_of_interfaces_leave_out_what_they_cannot_say(counted: bool) -> None:
    draft = Draft("inet")
    make = draft.counting_set if counted else draft.interface_set
    made = draft.sets[make("some", [NAMED, ODD, LOST])]
    assert made.elements == {interface_key("tap1"): ""}
    assert made.counted is counted and made.data is Data.NOTHING


@pytest.mark.parametrize(("count", "grows"), [(0, False), (ROOM, False), (5 * ROOM, True)])
def test_the_size_is_in_the_name_and_has_room_from_the_start(count: int, grows: bool) -> None:
    draft = Draft("inet")
    name = draft.host_set("some", Key.INDEX, (index_key(at) for at in range(count)))
    size = draft.sets[name].size
    assert size is not None and name == f"some_{size}" and size >= max(count, ROOM)
    assert (size > SIZE) is grows
