"""What is decoded equals what was encoded."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.drawing import Drawing

from secgroupd.core import model
from secgroupd.core.codec import (
    CodecError,
    Texts,
    decode,
    decode_since,
    encode,
    encode_known,
    encode_since,
)
from secgroupd.core.model import Address, GroupPeer, Peer, Rule, State

VALUES = [
    kind
    for kind in vars(model).values()
    if dataclasses.is_dataclass(kind) and kind.__module__ == model.__name__
]


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_class_of_the_model_survives(kind: type, data: st.DataObject) -> None:
    value = data.draw(st.from_type(kind))
    decoded: object = decode(kind, encode(kind, value))
    assert decoded == value
    assert repr(decoded) == repr(value), "equal values of other types would be another value"


@pytest.mark.parametrize("seed", range(20))
def test_whole_states_survive(seed: int) -> None:
    state = Drawing(Random(seed)).state()
    assert decode(State, encode(State, state)) == state


def test_what_was_encoded_before_is_taken_over_where_it_is_the_same_object() -> None:
    known: Texts = {}
    for seed in (1, 1, 2, 3):
        state = Drawing(Random(seed)).state()
        for one in (state, dataclasses.replace(state, instances=state.instances[1:])):
            text, known = encode_known(State, one, known)
            assert json.loads(text) == json.loads(encode(State, one))
            assert decode(State, text) == one
    group = Drawing(Random(4)).state().security_groups[0]
    forged, _ = encode_known(State, State(security_groups=(group,)), {id(group): (group, '"it"')})
    assert json.loads(forged)["security_groups"] == ["it"]


@pytest.mark.parametrize("seed", range(20))
def test_a_state_is_told_by_what_differs_from_another(seed: int) -> None:
    random = Random(seed)
    base, other = (Drawing(random).state() for _ in range(2))
    instances = [*base.instances, *other.instances]
    random.shuffle(instances)
    changed = dataclasses.replace(
        base, instances=tuple(instances[: random.randint(0, len(instances))]), revision="new"
    )
    for value in (changed, base, other, State()):
        text = encode_since(State, value, base)
        assert decode_since(State, text, decode(State, encode(State, base))) == value
    assert "10." not in encode_since(State, base, base)


@pytest.mark.parametrize(
    "text", ['{"instances":[[0]]}', '{"instances":[["a",1]]}', '{"instances":3}', "[]", '{"x":[]}']
)
def test_what_is_no_difference_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        decode_since(State, text, State())


def test_what_does_not_count_in_comparisons_is_not_kept() -> None:
    assert decode(State, encode(State, State(places={"port:p": "f:1"}))).places == {}


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Thing:
    """One field of each form."""

    name: str
    pair: tuple[int, str]
    colour: Colour | None
    at: Address | None
    peer: Peer
    counts: Mapping[str, int] = field(default_factory=dict)
    flag: bool = False


THING = Thing("n", (1, "x"), Colour.RED, IPv6Address("::1"), GroupPeer("g"), {"a": 1}, flag=True)


@pytest.mark.parametrize(
    "thing", [THING, Thing("", (0, ""), None, IPv4Address("0.0.0.0"), GroupPeer(""))]
)
def test_every_form_survives(thing: Thing) -> None:
    assert decode(Thing, encode(Thing, thing)) == thing


def test_a_field_with_a_default_may_be_missing() -> None:
    plain = json.loads(encode(Thing, THING))
    del plain["counts"], plain["flag"]
    assert decode(Thing, json.dumps(plain)) == dataclasses.replace(THING, counts={}, flag=False)


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"name": None},
        {"pair": [1]},
        {"pair": "xy"},
        {"pair": [True, "x"]},
        {"colour": "blue"},
        {"at": "10.0.0.256"},
        {"at": 1},
        {"peer": {"Rule": {}}},
        {"peer": {}},
        {"counts": []},
        {"counts": {"a": "1"}},
        {"flag": 1},
        {"more": 1},
    ],
    ids=str,
)
def test_anything_else_is_refused(change: dict[str, object]) -> None:
    plain = json.loads(encode(Thing, THING)) | change
    with pytest.raises(CodecError):
        decode(Thing, json.dumps(plain))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "{}", '{"id": "r"}', "[" * 100_000])
def test_text_that_says_no_value_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        decode(Rule, text)


def test_a_class_without_a_form_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="teach the codec"):
        encode(set, set())
