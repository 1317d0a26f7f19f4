"""Elements of the usual shape are read at once, and as attribute by attribute."""

import struct

import pytest

from secgroupd.dataplane.netlink import attribute, text_attribute
from secgroupd.dataplane.nft_read import _element

KEY = bytes(range(8))
JUMP, GOTO, DROP = 0xFFFFFFFD, 0xFFFFFFFC, 0


def _verdict(code: int, chain: bytes = b"", *, twisted: bool = False) -> bytes:
    parts = [attribute(1, struct.pack(">I", code))]
    if chain:
        parts.append(chain)
    return attribute(2, attribute(2, b"".join(reversed(parts) if twisted else parts)))


@pytest.mark.parametrize("name", ["c", "c_1", "c_12", "c_123", "c_4f2a9b"])
@pytest.mark.parametrize("twisted", [False, True])
@pytest.mark.parametrize(("code", "word"), [(JUMP, "jump"), (GOTO, "goto")])
def test_a_verdict_that_leads_to_a_chain(code: int, word: str, name: str, twisted: bool) -> None:
    verdict = _verdict(code, text_attribute(2, name), twisted=twisted)
    element = attribute(1, attribute(1, KEY)) + verdict
    assert _element(memoryview(element)) == (KEY, f"{word} {name}")


def test_other_elements() -> None:
    key, end = attribute(1, attribute(1, KEY)), attribute(10, attribute(1, KEY[::-1]))
    for rest, value in ((b"", ""), (_verdict(DROP), "drop"), (_verdict(7), "code 7")):
        assert _element(memoryview(key + end + rest)) == (KEY + KEY[::-1], value)
    odd = attribute(1, attribute(1, KEY[:6]))
    assert _element(memoryview(odd)) == (KEY[:6], "")
    assert _element(memoryview(attribute(1, b""))) == (b"", "")
    flagged = attribute(1, attribute(9, b"") + attribute(1, KEY))
    assert _element(memoryview(flagged)) == (KEY, "")
