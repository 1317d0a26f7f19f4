"""Small transactions without libnftables, which reads every chain, set and counter of a table before each.

What a change of a rule or a member mostly consists of is said here in the kernel's own messages: elements,
and rules of the few forms that ``core/peers.py`` and the generations have. Everything else, and all that
the kernel refuses, is left to libnftables, whose refusals name lines, and so are tables that the writer
owns: they are changed through its own socket or not at all. A test holds every rule that is
written here against what libnftables makes of the same text. Numbers are those of
``linux/netfilter/nf_tables.h``.
"""

import errno
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network

from secgroupd.core.headers import IPV6
from secgroupd.core.plan import Line
from secgroupd.core.ruleset import TABLE, Data
from secgroupd.dataplane.netlink import (
    NLA_NESTED,
    NLM_F_APPEND,
    NLM_F_CREATE,
    Message,
    Netlink,
    attribute,
    text_attribute,
)
from secgroupd.dataplane.nft_read import FAMILIES, OBJECT_COUNTER, SUBSYSTEM
from secgroupd.errors import OutcomeUnknown

LARGEST = 1 << 16
"""Bytes of a transaction that the kernel's sockets take in one piece, whatever their settings."""

NEW_CHAIN, DELETE_CHAIN, NEW_RULE, DELETE_RULE = 3, 5, 6, 8
NEW_ELEMENTS, DELETE_ELEMENTS, NEW_OBJECT, DELETE_OBJECT = 12, 14, 18, 20

CODES = {"drop": 0, "accept": 1, "return": -5, "jump": -3, "goto": -4}
CT_DIRECTION, CT_MARK, CT_DST_IP, CT_DST_IP6 = 1, 3, 20, 22
META_PROTOCOL, META_L4PROTO = 1, 16
EQUAL, UNEQUAL, AT_MOST, AT_LEAST = 0, 1, 3, 5
TO_NETWORK_ORDER = 1
VERDICT, FIRST, SECOND = 0, 1, 9
"""Registers: the verdict's, that of 16 bytes, and that of 4 bytes behind the first 4."""
BEHIND_IPV6 = 2

ALL_BITS = 0xFFFFFFFF


def written(netlink: Netlink, lines: Sequence[Line]) -> bool:
    """Run a transaction if all of it can be said; tell whether it was done, else nothing was changed.

    Raises:
        OutcomeUnknown: the kernel has not said what became of it.
    """
    messages = encoded(lines)
    if messages is None:
        return False
    try:
        return netlink.transact(SUBSYSTEM >> 8, messages)
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            return False
        raise OutcomeUnknown(f"the kernel gave no answer to a transaction ({error})") from error


def encoded(lines: Iterable[Line]) -> list[Message] | None:
    """Return the messages of a transaction; None where a line has no form here, or there are many."""
    found = []
    size = 0
    for line in lines:
        message = _message(line)
        size += len(message[3]) if message else LARGEST
        if message is None or size >= LARGEST:
            return None
        found.append(message)
    return found


def _message(line: Line) -> Message | None:
    words = line.text.split(maxsplit=5)
    if len(words) < 5 or words[3] != TABLE:
        return None
    command, name, rest = f"{words[0]} {words[1]}", words[4], "".join(words[5:])
    said = _WHOLE.get(command) if not rest else None
    kind, flags, number, more = said or (0, 0, 0, None)
    if command == "add rule":
        kind, flags, number, more = NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, 2, _rule(rest)
    elif command == "add element" and line.of is not None:
        kind, flags, number, more = NEW_ELEMENTS, NLM_F_CREATE, 2, _elements(line)
    elif command == "delete element" and line.of is not None:
        kind, flags, number, more = DELETE_ELEMENTS, 0, 2, _elements(line)
    if more is None:
        return None
    body = text_attribute(1, TABLE) + text_attribute(number, name) + more
    return SUBSYSTEM | kind, flags, FAMILIES[words[2]], body


def _nested(kind: int, payload: bytes) -> bytes:
    return attribute(kind | NLA_NESTED, payload)


def _number(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack(">I", number & ALL_BITS))


def _value(kind: int, value: bytes) -> bytes:
    return _nested(kind, attribute(1, value))


_COUNTER_TYPE = _number(3, OBJECT_COUNTER)
_ZERO = attribute(1, bytes(8)) + attribute(2, bytes(8))
"""A counter's bytes and packets."""

_WHOLE: dict[str, tuple[int, int, int, bytes]] = {
    "add chain": (NEW_CHAIN, NLM_F_CREATE, 3, b""),
    "delete chain": (DELETE_CHAIN, 0, 3, b""),
    "flush chain": (DELETE_RULE, 0, 2, b""),
    "add counter": (NEW_OBJECT, NLM_F_CREATE, 2, _COUNTER_TYPE + _nested(4, _ZERO)),
    "delete counter": (DELETE_OBJECT, 0, 2, _COUNTER_TYPE),
}
"""Commands that name an object and no more: message, flags, the attribute of the name, what follows."""


def _elements(line: Line) -> bytes:
    """Return the attribute with the elements that a line adds or removes."""
    one = line.of
    assert one is not None
    adding = line.text.startswith("add")
    parts = []
    for raw in line.keys:
        half = len(raw) // 2 if one.key.value.interval else len(raw)
        body = _value(1, raw[:half])
        if adding and one.data is Data.VERDICT:
            body += _nested(2, _verdict(one.elements[raw]))
        elif adding and one.data is Data.COUNTER:
            body += text_attribute(9, one.elements[raw])
        if half < len(raw):
            body += _value(10, raw[half:])
        parts.append(_nested(1, body))
    return _nested(3, b"".join(parts))


def _verdict(text: str) -> bytes:
    """Return a verdict as data: ``accept``, ``goto CHAIN``."""
    word, _, chain = text.partition(" ")
    code = _number(1, CODES[word])
    return _nested(2, code + text_attribute(2, chain) if chain else code)


def _rule(text: str) -> bytes | None:
    """Return expressions and comment of a rule; None where it has a part that has no form here."""
    at, expressions = 0, list[bytes]()
    while (found := COMMENT.match(text, at)) is None:
        for pattern, make in _FORMS:
            if part := pattern.match(text, at):
                expressions += make(*part.groups())
                at = part.end()
                break
        else:
            return None
    comment = found[1].encode() + b"\0"
    userdata = attribute(7, bytes((0, len(comment))) + comment)
    return _nested(4, b"".join(_nested(1, each) for each in expressions)) + userdata


def _expression(name: str, *parts: bytes) -> bytes:
    return text_attribute(1, name) + _nested(2, b"".join(parts))


def _compare(value: bytes, how: int = EQUAL) -> bytes:
    return _expression("cmp", _number(1, FIRST), _number(2, how), _value(3, value))


def _mask(mask: bytes, flip: bytes) -> bytes:
    registers = _number(1, FIRST) + _number(2, FIRST) + _number(3, len(mask))
    return _expression("bitwise", registers, _value(4, mask), _value(5, flip))


def _own_order(number: int) -> bytes:
    return struct.pack("=I", number)


def _swap(register: int, length: int, size: int) -> bytes:
    registers = _number(1, register) + _number(2, register) + _number(3, TO_NETWORK_ORDER)
    return _expression("byteorder", registers, _number(4, length), _number(5, size))


def _load_ct(key: int, direction: int | None = None) -> bytes:
    way = b"" if direction is None else attribute(3, bytes([direction]))
    return _expression("ct", _number(1, FIRST), _number(2, key), way)


DIRECTIONS = {"original": 0, "reply": 1}


def _direction(word: str) -> list[bytes]:
    return [_load_ct(CT_DIRECTION), _compare(bytes([DIRECTIONS[word]]))]


def _load_meta(key: int) -> bytes:
    return _expression("meta", _number(1, FIRST), _number(2, key))


def _ipv6() -> list[bytes]:
    return [_load_meta(META_PROTOCOL), _compare(struct.pack(">H", IPV6))]


def _protocol(number: str) -> list[bytes]:
    return [_load_meta(META_L4PROTO), _compare(bytes([int(number)]))]


def _mark(mask: str, condition: str, first: str, last: str | None) -> list[bytes]:
    loaded = [_load_ct(CT_MARK), _mask(_own_order(int(mask, 16)), bytes(4))]
    if last is None:
        how = UNEQUAL if condition == "!= " else EQUAL
        return [*loaded, _compare(_own_order(int(first, 16)), how)]
    low, high = (struct.pack(">I", int(each, 16)) for each in (first, last))
    return [*loaded, _swap(FIRST, 4, 4), _compare(low, AT_LEAST), _compare(high, AT_MOST)]


def _set_mark(mask: str | None, bits: str) -> list[bytes]:
    flip = int(bits, 16)
    kept = (ALL_BITS if mask is None else int(mask, 16)) & ~flip
    store = _expression("ct", _number(2, CT_MARK), _number(4, FIRST))
    return [_load_ct(CT_MARK), _mask(_own_order(kept), _own_order(flip)), store]


def _load_peer(direction: str, family: str) -> bytes:
    return _load_ct(CT_DST_IP if family == "ip" else CT_DST_IP6, DIRECTIONS[direction])


def _peer(direction: str, family: str, peer: str) -> list[bytes]:
    load = _load_peer(direction, family)
    if peer.startswith("@"):
        return [load, _expression("lookup", text_attribute(1, peer[1:]), _number(2, FIRST))]
    network = ip_network(peer)
    address, whole = network.network_address.packed, network.prefixlen // 8
    if network.prefixlen % 8:
        return [load, _mask(network.netmask.packed, bytes(len(address))), _compare(address)]
    return [load, _compare(address[:whole])]


def _counter(name: str) -> list[bytes]:
    return [_expression("objref", _number(1, OBJECT_COUNTER), text_attribute(2, name))]


def _counter_by_peer(direction: str, family: str, protocol: str | None, name: str) -> list[bytes]:
    loads = [_load_peer(direction, family)]
    if protocol:
        behind = SECOND if family == "ip" else BEHIND_IPV6
        loads.append(_expression("meta", _number(1, behind), _number(2, META_L4PROTO)))
    return [*loads, _expression("objref", _number(3, FIRST), text_attribute(4, name))]


def _count() -> list[bytes]:
    return [_expression("counter", _ZERO)]


def _ending(verdict: str) -> list[bytes]:
    return [_expression("immediate", _number(1, VERDICT), _nested(2, _verdict(verdict)))]


COMMENT = re.compile(r'comment "([^"]*)"$')

_PEER = r"ct (original|reply) (ip6?) daddr"

_FORMS: Sequence[tuple[re.Pattern[str], Callable[..., list[bytes]]]] = [
    (re.compile(pattern), make)
    for pattern, make in (
        (r"ct direction (original|reply) ", _direction),
        (r"meta protocol ip6 ", _ipv6),
        (r"meta l4proto (\d+) ", _protocol),
        (r"ct mark and (0x\w+) (== |!= |)(0x\w+)(?:-(0x\w+))? ", _mark),
        (r"ct mark set ct mark (?:and (0x\w+) )?or (0x\w+) ", _set_mark),
        (rf"counter name {_PEER}( \. meta l4proto)? map @(\S+) ", _counter_by_peer),
        (r'counter name "([^"]+)" ', _counter),
        (rf"{_PEER} (@\S+|[0-9a-f:.]+(?:/\d+)?) ", _peer),
        (r"counter (?!name)", _count),
        (r"(accept|drop|return|(?:goto|jump) \S+) ", _ending),
    )
]
