"""Keys as the kernel's bytes, and names that nothing but equal content shares."""

import pytest

from secgroupd.core.ruleset import (
    Data,
    Key,
    NftRule,
    Set,
    box,
    capacity,
    content_digest,
    digest,
    interface_key,
    key_text,
    pack,
    quotable,
    quoted,
    slug,
)


@pytest.mark.parametrize("count", [0, 1, 51, 52, 204, 205, 100_000])
def test_capacity_leaves_a_quarter_of_room_and_is_no_more_than_four_times_too_large(
    count: int,
) -> None:
    size = capacity(count)
    assert size >= count * 5 // 4
    assert size == 64 or size < count * 5


def test_fields_are_padded_to_registers_each_by_itself() -> None:
    assert pack(Key.SERVICE, (80, 6)) == b"\0\x50\0\0" + b"\6\0\0\0"
    assert pack(Key.NETWORK4, (1, 255)) == b"\0\0\0\1" + b"\xff\0\0\0"


@pytest.mark.parametrize("values", [(65536, 6), (80, 256), (80,), (80, 6, 0)])
def test_what_does_not_fit_a_field_is_no_key(values: tuple[int, ...]) -> None:
    with pytest.raises((OverflowError, ValueError)):
        pack(Key.SERVICE, values)


def test_keys_read_as_nft_writes_them() -> None:
    assert key_text(Key.SERVICE, box(Key.SERVICE, (22, 6), (24, 6))) == "22-24 . 6"
    assert key_text(Key.NETWORK4, box(Key.NETWORK4, (1, 0), (1, 255))) == "0.0.0.1 . 0-255"
    assert key_text(Key.IPV6, bytes(15) + b"\1") == "::1"
    for data, value, text in (
        (Data.NOTHING, "", "0.0.0.0"),
        (Data.VERDICT, "goto x", "0.0.0.0 : goto x"),
        (Data.COUNTER, "x", '0.0.0.0 : "x"'),
    ):
        assert Set("s", Key.IPV4, {bytes(4): value}, data).text(bytes(4)) == text
    assert key_text(Key.INTERFACE, interface_key("tap1")) == '"tap1"'


@pytest.mark.parametrize(
    ("name", "text"),
    [("tap*", '"tap\\*"'), ("a*b", '"a*b"'), ("a b", '"a b"'), ("x" * 15, f'"{"x" * 15}"')],
)
def test_a_quoted_name_is_no_wildcard(name: str, text: str) -> None:
    assert quoted(name) == text


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\tb"])
def test_names_that_nft_cannot_say_are_not_written(name: str) -> None:
    assert not quotable(name)
    with pytest.raises(ValueError, match="a"):
        quoted(name)


def test_digests_tell_parts_apart_whatever_they_contain() -> None:
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("2:ab", "c"), ("",), ()]
    assert len({digest(*one) for one in parts}) == len(parts)


def test_content_is_named_whatever_its_order_and_by_its_verdicts_too() -> None:
    one, other = {b"a": "accept", b"b": "drop"}, {b"b": "drop", b"a": "accept"}
    assert content_digest(one) == content_digest(other)
    assert content_digest(one) != content_digest({b"a": "drop", b"b": "accept"})


def test_a_rules_digest_is_of_its_text_alone() -> None:
    assert NftRule("accept", "x").digest == NftRule("accept", "y").digest
    assert NftRule("accept").digest != NftRule("drop").digest


def test_an_id_becomes_an_identifier() -> None:
    assert slug('sg ä/{}";x', 8) == "sg______"


def test_a_declaration_says_what_the_kernel_cannot_guess() -> None:
    one = Set("m", Key.SERVICE, {}, Data.VERDICT)
    assert one.declaration == "type inet_service . inet_proto : verdict; flags interval;"
    timed = Set("t", Key.INTERFACE, {}, size=9, timeout=True)
    assert timed.declaration == "type ifname; flags timeout; size 9;"
