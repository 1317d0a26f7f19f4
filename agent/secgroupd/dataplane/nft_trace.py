"""What the kernel tells of packets that are traced. Numbers are those of ``linux/netfilter/nf_tables.h``."""

import struct
from collections.abc import Iterator

from secgroupd.closing import Closing
from secgroupd.core.headers import ARP, IPV4, IPV6
from secgroupd.core.traced import Event
from secgroupd.dataplane import nft_read
from secgroupd.dataplane.events import EventSocket
from secgroupd.dataplane.netlink import (
    GENERAL,
    NETLINK_NETFILTER,
    attributes,
    interface_name,
    split_messages,
    text,
    u32,
)

TRACE_GROUP = 9
TRACE = 10 << 8 | 17
TABLE, CHAIN, HANDLE, KIND, VERDICT, ID = 1, 2, 3, 4, 5, 6
NETWORK, TRANSPORT, CAME_FROM, LEAVES_INTO, FAMILY, POLICY = 8, 9, 10, 12, 15, 16
VERDICT_CODE, VERDICT_CHAIN = 1, 2
KINDS = {1: "policy", 2: "return", 3: "rule"}
FAMILIES = {family: name for name, family in nft_read.ALL_FAMILIES.items()}
VERDICTS = {**nft_read.VERDICTS, **nft_read.LEADING, 3: "queue"}


class Trace(Closing):
    """Packets that rules have marked for it, in this network namespace, from now on.

    Raises:
        DataplaneError: the kernel gives no socket.
    """

    def __init__(self) -> None:
        self._events = EventSocket(NETLINK_NETFILTER, TRACE_GROUP)

    def close(self) -> None:
        """Stop listening."""
        self._events.close()

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self._events.fileno()

    def events(self) -> Iterator[Event]:
        """Yield what has come; what was lost, or makes no sense, is left out."""
        for datagram in self._events.taken():
            if datagram is None:
                continue
            try:
                for kind, _, _, payload in split_messages(datagram):
                    if kind == TRACE:
                        yield _event(payload)
            except (OSError, LookupError, ValueError, struct.error):
                continue


def _event(message: memoryview) -> Event:
    family, _, _ = GENERAL.unpack_from(message)
    parts = dict(attributes(message[GENERAL.size :]))
    network = bytes(parts.get(NETWORK, b""))
    return Event(
        packet=u32(parts[ID]),
        family=FAMILIES.get(family, str(family)),
        table=text(parts[TABLE]),
        chain=text(parts[CHAIN]),
        kind=KINDS.get(u32(parts[KIND]), "?"),
        handle=int(struct.unpack(">Q", parts[HANDLE])[0]) if HANDLE in parts else 0,
        verdict=_verdict(parts),
        came_from=interface_name(parts.get(CAME_FROM)),
        leaves_into=interface_name(parts.get(LEAVES_INTO)),
        ethertype=_ethertype(network),
        payload=network + bytes(parts.get(TRANSPORT, b"")),
    )


def _verdict(parts: dict[int, memoryview]) -> str:
    if VERDICT in parts:
        inner = dict(attributes(parts[VERDICT]))
        code = u32(inner[VERDICT_CODE])
        word = VERDICTS.get(code, VERDICTS.get(code & 0xFF, str(code)))
        return f"{word} {text(inner[VERDICT_CHAIN])}" if VERDICT_CHAIN in inner else word
    return VERDICTS.get(u32(parts[POLICY]), "") if POLICY in parts else ""


def _ethertype(network: bytes) -> int:
    """Return the protocol of a network header, which begins with its version where it is IP."""
    return {4: IPV4, 6: IPV6}.get(network[0] >> 4, ARP) if network else 0
