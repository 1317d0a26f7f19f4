"""Read the agent's own table back from the kernel, and nothing else's.

``nft list`` reads every table of the host and does not print what loads back; here the kernel's
own bytes are compared. Numbers are those of ``linux/netfilter/nf_tables.h``.
"""

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

from secgroupd.core.plan import Observed, ObservedChain, ObservedSet
from secgroupd.core.ruleset import TABLE, Data, Hook
from secgroupd.dataplane.netlink import (
    ATTRIBUTE,
    DumpInterrupted,
    Netlink,
    attribute,
    attributes,
    by_type,
    text,
    text_attribute,
    u32,
)

FAMILIES = {"inet": 1, "bridge": 7, "arp": 3}
ALL_FAMILIES = {**FAMILIES, "ip": 2, "ip6": 10, "netdev": 5}
SUBSYSTEM = 10 << 8
GET_TABLE, GET_CHAIN, GET_RULE, GET_SET, GET_ELEMENTS = 1, 4, 7, 10, 13
GET_GENERATION, GET_OBJECT = 16, 19
OBJECT_COUNTER, OBJECT_TIMEOUT = 1, 7

HOOK_NAMES = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
ARP_HOOK_NAMES = {0: "input", 1: "output"}

FLAG_DORMANT, FLAG_OWNER, FLAG_PERSIST = 0x1, 0x2, 0x4
FLAG_INTERVAL, FLAG_MAP, FLAG_TIMEOUT, FLAG_OBJECT = 0x4, 0x8, 0x10, 0x40
ELEMENT_CATCHALL = 0x2
ELEMENT_EXPRESSION, ELEMENT_OBJECT = 7, 9
COUNTER_BYTES, COUNTER_PACKETS = 1, 2

_COUNTER = attribute(COUNTER_BYTES, bytes(8)) + attribute(COUNTER_PACKETS, bytes(8))
_COUNTED = attribute(1, attribute(1, bytes(16))) + attribute(
    ELEMENT_EXPRESSION, text_attribute(1, "counter") + attribute(2, _COUNTER)
)
COUNTER, COUNTED = struct.Struct(">4sQ4sQ"), struct.Struct(">8s16s24sQ4sQ")
"""A counter, and an interface with one: numbers and key, and before each what says that it is one.

Nearly all are of this shape, and attributes one by one take several times as long. What is not (some
kernels pad numbers; elements can have more in them) is read that way.
"""
COUNTER_HEADS, COUNTED_HEADS = COUNTER.unpack(_COUNTER)[::2], COUNTED.unpack(_COUNTED)[::2]

LED = struct.Struct("=HHHH4sHH")
"""A verdict that leads to a chain, up to the chain's name: nearly every element of a table has one."""

VERDICTS = {0: "drop", 1: "accept", 0xFFFFFFFF: "continue", 0xFFFFFFFB: "return"}
LEADING = {0xFFFFFFFD: "jump", 0xFFFFFFFC: "goto"}

OURS = TABLE.encode() + b"\0"
"""The table's name as it is in attributes."""

READ_TRIES = 20


def generation(netlink: Netlink) -> int:
    """Return the number of the ruleset generation of this network namespace."""
    for body in netlink.request(SUBSYSTEM | GET_GENERATION, 0):
        for kind, payload in attributes(body):
            if kind == 1:
                return u32(payload)
    return 0


def observe(netlink: Netlink, family: str, before: Observed | None = None) -> Observed | None:
    """Return the table as it is in the kernel, or None when there is none.

    Args:
        netlink: to the kernel.
        family: the table's.
        before: the table as it was known before, or should be. Elements that the kernel shows as it
            did then, to the byte, are those; they are not made sense of again, which takes most of
            the time. What is equal to what was before is the identical objects, so that it is held
            once.

    Raises:
        DumpInterrupted: it kept changing while it was read.
        OSError: the kernel refused to show it.
    """
    for _ in range(READ_TRIES):
        began = generation(netlink)
        try:
            found = _read(netlink, FAMILIES[family], before)
        except FileNotFoundError:
            found = None
        if generation(netlink) == began:
            return found
    raise DumpInterrupted(errno.EINTR, "the ruleset kept changing while it was read")


def elements(netlink: Netlink, family: str, name: str) -> frozenset[bytes]:
    """Return the keys of one set's elements, none where there is no such set.

    Raises:
        OSError: the kernel refused to show it.
    """
    try:
        return frozenset(key for key, _ in map(_element, _dumped(netlink, FAMILIES[family], name)))
    except FileNotFoundError:
        return frozenset()


def counted(
    netlink: Netlink, family: str, purposes: Iterable[str]
) -> Mapping[str, Mapping[bytes, tuple[int, int]]]:
    """Return the packets and bytes that the elements of counting sets have counted.

    Args:
        netlink: a socket.
        family: that of the table; without a table nothing is counted.
        purposes: what the names of the sets begin with, before their size.

    Returns:
        By purpose, then by key.

    Raises:
        DumpInterrupted: the ruleset kept changing while it was read.
        OSError: the kernel refused to show it.
    """
    for _ in range(READ_TRIES):
        before = generation(netlink)
        try:
            found = _counted_in_sets(netlink, FAMILIES[family], purposes)
        except FileNotFoundError:
            found = {}
        if generation(netlink) == before:
            return found
    raise DumpInterrupted(errno.EINTR, "the ruleset kept changing while it was read")


def counters(netlink: Netlink, family: str) -> Mapping[str, tuple[int, int]]:
    """Return what the named counters have counted: packets and bytes, by name.

    Raises:
        DumpInterrupted: the ruleset kept changing while it was read.
        OSError: the kernel refused to show it.
    """
    return {
        name: _count(data)
        for name, data in _objects(netlink, FAMILIES[family], OBJECT_COUNTER).items()
    }


def handles(netlink: Netlink, family: str) -> Mapping[tuple[str, int], str]:
    """Return the comments of our rules by chain and the kernel's number of each.

    Raises:
        OSError: the kernel refused to show them.
    """
    try:
        bodies = netlink.dump(SUBSYSTEM | GET_RULE, FAMILIES[family], text_attribute(1, TABLE))
    except FileNotFoundError:
        return {}
    return {
        (text(parts[2]), int(struct.unpack(">Q", parts[3])[0])): (
            _comment(parts[7]) if 7 in parts else ""
        )
        for parts in _ours(bodies)
    }


def tables_with_sets(netlink: Netlink) -> Sequence[str]:
    """Return family and name of the tables of others that have sets, in order.

    Raises:
        OSError: the kernel refused to show them.
    """
    found = {
        f"{family} {text(by_type(body)[1])}"
        for family, number in ALL_FAMILIES.items()
        for body in netlink.dump(SUBSYSTEM | GET_SET, number)
    }
    return sorted(found - {f"{family} {TABLE}" for family in FAMILIES})


def reobserve(netlink: Netlink, family: str, known: Observed, names: Iterable[str]) -> Observed:
    """Return the table, read anew where the named chains and sets are concerned.

    Raises:
        OSError: the kernel refused to show it.
    """
    number = FAMILIES[family]
    chains, sets, counters = dict(known.chains), dict(known.sets), set(known.counters)
    for name in names:
        chains.pop(name, None)
        sets.pop(name, None)
        counters.discard(name)
        one = text_attribute(1, TABLE) + text_attribute(3, name)
        for found, hook in _chains(_ask(netlink, GET_CHAIN, number, one), number):
            rules = netlink.dump(SUBSYSTEM | GET_RULE, number, _of_table(name))
            chains[found] = ObservedChain(hook, tuple(_digests(rules).get(name, ())))
        one = _of_table(name)
        sets |= _sets(netlink, number, _ask(netlink, GET_SET, number, one), {})
        if _ask(netlink, GET_OBJECT, number, one + _number_attribute(3, OBJECT_COUNTER)):
            counters.add(name)
    timeouts = frozenset(_objects(netlink, number, OBJECT_TIMEOUT))
    flags = _flags(netlink, number) or 0
    return Observed(chains, sets, timeouts, frozenset(counters), *_condition(flags))


def _ask(netlink: Netlink, kind: int, family: int, payload: bytes) -> list[memoryview]:
    """Ask for one object; an empty answer means that there is none."""
    try:
        return netlink.request(SUBSYSTEM | kind, family, payload)
    except FileNotFoundError:
        return []


def _flags(netlink: Netlink, family: int) -> int | None:
    """Return the table's flags, or None when there is no table."""
    for body in netlink.dump(SUBSYSTEM | GET_TABLE, family):
        parts = by_type(body)
        if text(parts[1]) == TABLE:
            return u32(parts[2]) if 2 in parts else 0
    return None


def _read(netlink: Netlink, family: int, before: Observed | None) -> Observed | None:
    flags = _flags(netlink, family)
    if flags is None:
        return None
    # What was received of the rules is not held while the rest is read.
    digests = _digests(netlink.dump(SUBSYSTEM | GET_RULE, family, text_attribute(1, TABLE)))
    chains = {
        name: ObservedChain(hook, tuple(digests.get(name, ())))
        for name, hook in _chains(netlink.dump(SUBSYSTEM | GET_CHAIN, family), family)
    }
    sets = netlink.dump(SUBSYSTEM | GET_SET, family, text_attribute(1, TABLE))
    counters = frozenset(_objects(netlink, family, OBJECT_COUNTER))
    before = before or Observed({}, {})
    return Observed(
        before.chains if chains == before.chains else chains,
        _sets(netlink, family, sets, before.sets),
        frozenset(_objects(netlink, family, OBJECT_TIMEOUT)),
        before.counters if counters == before.counters else counters,
        *_condition(flags),
    )


def _condition(flags: int) -> tuple[bool, bool]:
    """Return whether a table of such flags is dormant, and whether its owner is gone."""
    return bool(flags & FLAG_DORMANT), flags & (FLAG_OWNER | FLAG_PERSIST) == FLAG_PERSIST


def _objects(netlink: Netlink, family: int, kind: int) -> Mapping[str, memoryview]:
    """Return the objects of a kind, by name: what each has in it."""
    wanted = text_attribute(1, TABLE) + _number_attribute(3, kind)
    bodies = netlink.dump(SUBSYSTEM | GET_OBJECT, family, wanted)
    return {text(parts[2]): parts[4] for parts in _ours(bodies)}


def _number_attribute(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack(">I", number))


def _ours(bodies: Iterable[memoryview]) -> Iterator[dict[int, memoryview]]:
    """Yield the attributes of the objects of our table; their first one names the table."""
    for body in bodies:
        parts = by_type(body)
        if parts[1] == OURS:
            yield parts


def _digests(bodies: Iterable[memoryview]) -> Mapping[str, list[str]]:
    """Return by chain the comments of its rules, in order."""
    found: dict[str, list[str]] = {}
    for parts in _ours(bodies):
        comment = _comment(parts[7]) if 7 in parts else ""
        found.setdefault(text(parts[2]), []).append(comment)
    return found


def _chains(bodies: Iterable[memoryview], family: int) -> Iterator[tuple[str, Hook | None]]:
    known = ARP_HOOK_NAMES if family == FAMILIES["arp"] else HOOK_NAMES
    for parts in _ours(bodies):
        yield text(parts[3]), _hook(parts, known) if 4 in parts else None


def _hook(chain: Mapping[int, memoryview], known: Mapping[int, str]) -> Hook:
    """Return where a base chain is called; one that is not as ours are has a name like no hook's."""
    parts = by_type(chain[4])
    number, kind, policy = u32(parts[1]), text(chain[7]), VERDICTS[u32(chain[5])]
    name = known.get(number, str(number))
    if (kind, policy) != ("filter", "accept"):
        name = f"{name} ({kind}, {policy})"
    return Hook(name, struct.unpack(">i", parts[2])[0])


def _comment(userdata: memoryview) -> str:
    """Return the comment of a rule: type 0 in nft's (type, length, value) user data."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == 0:
            return text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


def _sets(
    netlink: Netlink,
    family: int,
    bodies: Iterable[memoryview],
    before: Mapping[str, ObservedSet],
) -> dict[str, ObservedSet]:
    found: dict[str, ObservedSet] = {}
    for parts in _ours(bodies):
        name, flags = text(parts[2]), u32(parts[3]) if 3 in parts else 0
        if name.startswith("__"):  # an anonymous set, which belongs to its rule
            continue
        timeout = bool(flags & FLAG_TIMEOUT)
        elements, seen = (
            ({}, b"") if timeout else _elements(netlink, family, name, before.get(name))
        )
        found[name] = ObservedSet(
            key_length=u32(parts[5]),
            data=_data_kind(flags),
            interval=bool(flags & FLAG_INTERVAL),
            timeout=timeout,
            size=_size(parts[9]) if 9 in parts else None,
            elements=elements,
            seen=seen,
        )
    return found


def _data_kind(flags: int) -> Data:
    if flags & FLAG_OBJECT:
        return Data.COUNTER
    return Data.VERDICT if flags & FLAG_MAP else Data.NOTHING


def _size(description: memoryview) -> int | None:
    for kind, payload in attributes(description):
        if kind == 1:
            return u32(payload)
    return None


def _counted_in_sets(
    netlink: Netlink, family: int, purposes: Iterable[str]
) -> Mapping[str, Mapping[bytes, tuple[int, int]]]:
    found: dict[str, dict[bytes, tuple[int, int]]] = {purpose: {} for purpose in purposes}
    sets = netlink.dump(SUBSYSTEM | GET_SET, family, text_attribute(1, TABLE))
    for name in [text(parts[2]) for parts in _ours(sets)]:
        counts = found.get(name.rpartition("_")[0])
        if counts is not None:
            counts.update(_counted(element) for element in _dumped(netlink, family, name))
    return found


def _elements(
    netlink: Netlink, family: int, name: str, before: ObservedSet | None
) -> tuple[Mapping[bytes, str], bytes]:
    """Return the elements of a set, and the digest of what the kernel shows of them.

    What it shows as it did before means what it did: the elements of then are the ones of now, and
    so are they where they are equal.
    """
    bodies = netlink.dump(SUBSYSTEM | GET_ELEMENTS, family, _of_table(name))
    total = blake2b(digest_size=16)
    for body in bodies:
        total.update(body)
    seen = total.digest()
    if before is not None and before.seen == seen:
        return before.elements, seen
    found = dict(map(_element, _contained(bodies)))
    return (before.elements if before is not None and before.elements == found else found), seen


def _dumped(netlink: Netlink, family: int, name: str) -> Iterator[memoryview]:
    return _contained(netlink.dump(SUBSYSTEM | GET_ELEMENTS, family, _of_table(name)))


def _of_table(name: str) -> bytes:
    """Return what names a set or an object of our table, or the chain whose rules are asked for."""
    return text_attribute(1, TABLE) + text_attribute(2, name)


def _contained(bodies: Iterable[memoryview]) -> Iterator[memoryview]:
    """Yield the elements in answers about a set."""
    for body in bodies:
        for kind, elements in attributes(body):
            if kind == 3:
                yield from (element for _, element in attributes(elements))


def _element(element: memoryview) -> tuple[bytes, str]:
    key, end, verdict = b"", b"", ""
    for kind, payload in attributes(element):
        if kind == 1:
            key = _data(payload)
        elif kind == 2:
            verdict = _verdict(payload)
        elif kind == ELEMENT_OBJECT:
            verdict = text(payload)
        elif kind == 10:
            end = _data(payload)
    return key + end, verdict


def _counted(element: memoryview) -> tuple[bytes, tuple[int, int]]:
    """Return the key of an element, and what its counter (its only expression) has counted."""
    if len(element) == COUNTED.size:
        key_head, key, bytes_head, octets, packets_head, packets = COUNTED.unpack(element)
        if (key_head, bytes_head, packets_head) == COUNTED_HEADS:
            return key, (packets, octets)
    parts = by_type(element)
    count = 0, 0
    if ELEMENT_EXPRESSION in parts:
        name, data = (value for _, value in attributes(parts[ELEMENT_EXPRESSION]))
        if text(name) == "counter":
            count = _count(data)
    return _data(parts[1]), count


def _count(counter: memoryview) -> tuple[int, int]:
    """Return a counter's packets and bytes."""
    if len(counter) == COUNTER.size:
        bytes_head, octets, packets_head, packets = COUNTER.unpack(counter)
        if (bytes_head, packets_head) == COUNTER_HEADS:
            return packets, octets
    parts = by_type(counter)
    packets, octets = (
        struct.unpack(">Q", parts[kind])[0] for kind in (COUNTER_PACKETS, COUNTER_BYTES)
    )
    return int(packets), int(octets)


def _data(payload: memoryview) -> bytes:
    if len(payload) >= ATTRIBUTE.size and ATTRIBUTE.unpack_from(payload) == (len(payload), 1):
        return bytes(payload[ATTRIBUTE.size :])
    for kind, value in attributes(payload):
        if kind == 1:
            return bytes(value)
    return b""


def _verdict(payload: memoryview) -> str:
    if len(payload) > LED.size:
        whole, nest, head, code_kind, code, length, name_kind = LED.unpack_from(payload)
        shape = (whole, nest, head, code_kind, name_kind)
        end = LED.size - ATTRIBUTE.size + length
        if shape == (len(payload), 2, 8, 1, 2) and LED.size < end <= len(payload):
            word = LEADING.get(int.from_bytes(code, "big"))
            if word is not None:
                return f"{word} {text(payload[LED.size : end])}"
    code, chain = 0, ""
    for kind, value in attributes(payload):
        if kind == 2:
            for inner, data in attributes(value):
                if inner == 1:
                    code = struct.unpack(">I", data)[0]
                elif inner == 2:
                    chain = text(data)
    if code in LEADING:
        return f"{LEADING[code]} {chain}"
    return VERDICTS.get(code, f"code {code}")
