"""What the kernel's counters say is read from any order of attributes, fast or not."""

from collections.abc import Mapping
from typing import cast

import pytest

from secgroupd.dataplane import nft_read
from secgroupd.dataplane.netlink import Netlink, attribute, text_attribute

OURS = text_attribute(1, "secgroupd")
KEY = b"tap1".ljust(16, b"\0")
PACKETS, BYTES = (attribute(kind, n.to_bytes(8, "big")) for kind, n in ((2, 7), (1, 1 << 40)))
PAD = attribute(3, b"")
COUNTERS = {
    "usual": BYTES + PACKETS,
    "turned round": PACKETS + BYTES,
    "padded": PAD + BYTES + PAD + PACKETS,
}
FLAGS = attribute(3, bytes(4))


class Kernel:
    """Answers dumps, by their number."""

    def __init__(self, dumps: Mapping[int, bytes]) -> None:
        self._dumps = dumps

    def request(self, *_: object) -> list[memoryview]:
        return []

    def dump(self, kind: int, *_: object) -> list[memoryview]:
        return [memoryview(self._dumps[kind & 0xFF])]


def asked(dumps: Mapping[int, bytes]) -> Netlink:
    return cast("Netlink", Kernel(dumps))


def elements(*found: bytes) -> Mapping[str, Mapping[bytes, tuple[int, int]]]:
    listed = OURS + attribute(3, b"".join(attribute(1, element) for element in found))
    dumps = {nft_read.GET_SET: OURS + text_attribute(2, "spoofs_1"), nft_read.GET_ELEMENTS: listed}
    return nft_read.counted(asked(dumps), "inet", ["spoofs", "others"])


def element(counter: bytes, name: str = "counter", key: bytes = KEY) -> bytes:
    expression = text_attribute(1, name) + attribute(2, counter)
    return attribute(1, attribute(1, key)) + attribute(nft_read.ELEMENT_EXPRESSION, expression)


@pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS)
def test_named_counters(counter: bytes) -> None:
    body = OURS + text_attribute(2, "r") + attribute(4, counter)
    found = nft_read.counters(asked({nft_read.GET_OBJECT: body}), "inet")
    assert found == {"r": (7, 1 << 40)}


@pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS)
@pytest.mark.parametrize(("before", "after"), [(b"", b""), (FLAGS, b""), (b"", FLAGS)])
def test_elements_counters(counter: bytes, before: bytes, after: bytes) -> None:
    found = elements(before + element(counter) + after, element(BYTES + PACKETS, key=b"x" * 16))
    assert found == {"spoofs": {KEY: (7, 1 << 40), b"x" * 16: (7, 1 << 40)}, "others": {}}


def test_what_counts_nothing_has_counted_nothing() -> None:
    without = attribute(1, attribute(1, KEY))
    for one in (without, element(BYTES + PACKETS, name="limiter"), element(b"", name="quota")):
        assert elements(one)["spoofs"] == {KEY: (0, 0)}
