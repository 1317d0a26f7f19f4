"""Read the agent's own table back from the kernel, and nothing else's.

``nft list`` reads every table of the host and does not print what loads back; here the kernel's
own bytes are compared. Numbers are those of ``linux/netfilter/nf_tables.h``.
"""

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping

from secgroupd.core.plan import Observed, ObservedChain, ObservedSet
from secgroupd.core.ruleset import TABLE, Hook
from secgroupd.dataplane.netlink import DumpInterrupted, Netlink, attributes, text, text_attribute

FAMILIES = {"inet": 1, "bridge": 7, "arp": 3}
SUBSYSTEM = 10 << 8
GET_TABLE, GET_CHAIN, GET_RULE, GET_SET, GET_ELEMENTS = 1, 4, 7, 10, 13
GET_GENERATION, GET_OBJECT = 16, 19
OBJECT_TIMEOUT = 7

HOOK_NAMES = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
ARP_HOOK_NAMES = {0: "input", 1: "output"}

FLAG_DORMANT = 0x1
FLAG_INTERVAL, FLAG_MAP, FLAG_TIMEOUT = 0x4, 0x8, 0x10
ELEMENT_CATCHALL = 0x2
ELEMENT_EXPRESSION, COUNTER_PACKETS = 7, 2
VERDICTS = {0: "drop", 1: "accept", 0xFFFFFFFF: "continue", 0xFFFFFFFB: "return"}
JUMP, GOTO = 0xFFFFFFFD, 0xFFFFFFFC

READ_TRIES = 20


def generation(netlink: Netlink) -> int:
    """Return the number of the ruleset generation of this network namespace."""
    for body in netlink.request(SUBSYSTEM | GET_GENERATION, 0):
        for kind, payload in attributes(body):
            if kind == 1:
                return int(struct.unpack(">I", payload)[0])
    return 0


def observe(netlink: Netlink, family: str) -> Observed | None:
    """Return the table as it is in the kernel, or None when there is none.

    Raises:
        DumpInterrupted: it kept changing while it was read.
        OSError: the kernel refused to show it.
    """
    for _ in range(READ_TRIES):
        before = generation(netlink)
        try:
            found = _read(netlink, FAMILIES[family])
        except FileNotFoundError:
            found = None
        if generation(netlink) == before:
            return found
    raise DumpInterrupted(errno.EINTR, "the ruleset kept changing while it was read")


def elements(netlink: Netlink, family: str, name: str) -> frozenset[bytes]:
    """Return the keys of one set's elements, none where there is no such set.

    Raises:
        OSError: the kernel refused to show it.
    """
    try:
        return frozenset(_elements(netlink, FAMILIES[family], name))
    except FileNotFoundError:
        return frozenset()


def packets(netlink: Netlink, family: str, purpose: str) -> Mapping[bytes, int]:
    """Return the packets that the elements of counting sets have counted, by key.

    Args:
        netlink: a socket.
        family: that of the table; without a table nothing is counted.
        purpose: what the names of the sets begin with, before their size.

    Raises:
        DumpInterrupted: the ruleset kept changing while it was read.
        OSError: the kernel refused to show it.
    """
    for _ in range(READ_TRIES):
        before = generation(netlink)
        try:
            found = _packets(netlink, FAMILIES[family], f"{purpose}_")
        except FileNotFoundError:
            found = {}
        if generation(netlink) == before:
            return found
    raise DumpInterrupted(errno.EINTR, "the ruleset kept changing while it was read")


def reobserve(netlink: Netlink, family: str, known: Observed, names: Iterable[str]) -> Observed:
    """Return the table, read anew where the named chains and sets are concerned.

    Raises:
        OSError: the kernel refused to show it.
    """
    number = FAMILIES[family]
    chains, sets = dict(known.chains), dict(known.sets)
    for name in names:
        chains.pop(name, None)
        sets.pop(name, None)
        one = text_attribute(1, TABLE) + text_attribute(3, name)
        for found, hook in _chains(_ask(netlink, GET_CHAIN, number, one), number):
            rules = netlink.dump(
                SUBSYSTEM | GET_RULE, number, text_attribute(1, TABLE) + text_attribute(2, name)
            )
            chains[found] = ObservedChain(hook, tuple(_digests(rules).get(name, ())))
        one = text_attribute(1, TABLE) + text_attribute(2, name)
        sets |= _sets(netlink, number, _ask(netlink, GET_SET, number, one))
    dormant = bool((_flags(netlink, number) or 0) & FLAG_DORMANT)
    return Observed(chains, sets, _timeouts(netlink, number), dormant)


def _ask(netlink: Netlink, kind: int, family: int, payload: bytes) -> list[memoryview]:
    """Ask for one object; an empty answer means that there is none."""
    try:
        return netlink.request(SUBSYSTEM | kind, family, payload)
    except FileNotFoundError:
        return []


def _flags(netlink: Netlink, family: int) -> int | None:
    """Return the table's flags, or None when there is no table."""
    for body in netlink.dump(SUBSYSTEM | GET_TABLE, family):
        parts = dict(attributes(body))
        if text(parts[1]) == TABLE:
            return _number(parts[2]) if 2 in parts else 0
    return None


def _read(netlink: Netlink, family: int) -> Observed | None:
    flags = _flags(netlink, family)
    if flags is None:
        return None
    rules = netlink.dump(SUBSYSTEM | GET_RULE, family, text_attribute(1, TABLE))
    digests = _digests(rules)
    chains = {
        name: ObservedChain(hook, tuple(digests.get(name, ())))
        for name, hook in _chains(netlink.dump(SUBSYSTEM | GET_CHAIN, family), family)
    }
    sets = netlink.dump(SUBSYSTEM | GET_SET, family, text_attribute(1, TABLE))
    dormant = bool(flags & FLAG_DORMANT)
    return Observed(chains, _sets(netlink, family, sets), _timeouts(netlink, family), dormant)


def _timeouts(netlink: Netlink, family: int) -> frozenset[str]:
    bodies = netlink.dump(SUBSYSTEM | GET_OBJECT, family, text_attribute(1, TABLE))
    return frozenset(
        text(parts[2]) for parts in _ours(bodies) if _number(parts[3]) == OBJECT_TIMEOUT
    )


def _ours(bodies: Iterable[memoryview]) -> Iterator[dict[int, memoryview]]:
    """Yield the attributes of the objects of our table; their first one names the table."""
    for body in bodies:
        parts = dict(attributes(body))
        if text(parts[1]) == TABLE:
            yield parts


def _number(payload: memoryview) -> int:
    return int(struct.unpack(">I", payload)[0])


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
    parts = dict(attributes(chain[4]))
    number, kind, policy = _number(parts[1]), text(chain[7]), VERDICTS[_number(chain[5])]
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


def _sets(netlink: Netlink, family: int, bodies: Iterable[memoryview]) -> dict[str, ObservedSet]:
    found: dict[str, ObservedSet] = {}
    for parts in _ours(bodies):
        name, flags = text(parts[2]), _number(parts[3]) if 3 in parts else 0
        if name.startswith("__"):  # an anonymous set, which belongs to its rule
            continue
        timeout = bool(flags & FLAG_TIMEOUT)
        found[name] = ObservedSet(
            key_length=_number(parts[5]),
            is_map=bool(flags & FLAG_MAP),
            interval=bool(flags & FLAG_INTERVAL),
            timeout=timeout,
            size=_size(parts[9]) if 9 in parts else None,
            elements={} if timeout else _elements(netlink, family, name),
        )
    return found


def _size(description: memoryview) -> int | None:
    for kind, payload in attributes(description):
        if kind == 1:
            return int(struct.unpack(">I", payload)[0])
    return None


def _packets(netlink: Netlink, family: int, prefix: str) -> Mapping[bytes, int]:
    found: dict[bytes, int] = {}
    sets = netlink.dump(SUBSYSTEM | GET_SET, family, text_attribute(1, TABLE))
    for name in [text(parts[2]) for parts in _ours(sets)]:
        if name.startswith(prefix):
            for element in _dumped(netlink, family, name):
                key, _ = _element(element)
                found[key] = found.get(key, 0) + _counted(element)
    return found


def _elements(netlink: Netlink, family: int, name: str) -> Mapping[bytes, str]:
    return dict(_element(element) for element in _dumped(netlink, family, name))


def _dumped(netlink: Netlink, family: int, name: str) -> Iterator[memoryview]:
    request = text_attribute(1, TABLE) + text_attribute(2, name)
    for body in netlink.dump(SUBSYSTEM | GET_ELEMENTS, family, request):
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
        elif kind == 10:
            end = _data(payload)
    return key + end, verdict


def _counted(element: memoryview) -> int:
    """Return the packets of an element's counter (which is its only expression)."""
    for kind, payload in attributes(element):
        if kind == ELEMENT_EXPRESSION:
            name, data = (value for _, value in attributes(payload))
            if text(name) == "counter":
                return int(struct.unpack(">Q", dict(attributes(data))[COUNTER_PACKETS])[0])
    return 0


def _data(payload: memoryview) -> bytes:
    for kind, value in attributes(payload):
        if kind == 1:
            return bytes(value)
    return b""


def _verdict(payload: memoryview) -> str:
    code, chain = 0, ""
    for kind, value in attributes(payload):
        if kind == 2:
            for inner, data in attributes(value):
                if inner == 1:
                    code = struct.unpack(">I", data)[0]
                elif inner == 2:
                    chain = text(data)
    if code in {JUMP, GOTO}:
        return f"{'jump' if code == JUMP else 'goto'} {chain}"
    return VERDICTS.get(code, f"code {code}")
