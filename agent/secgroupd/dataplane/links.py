"""The host's links: a complete list on demand, and a socket that tells when to ask for it again.

Events are never interpreted, only counted as "something changed": a list is complete by itself, so
neither a lost event nor their order can lead astray. While nothing has been told, the last list holds.
The listing is decoded here because it is read again at every link event: a general decoder takes 0.3 ms a link, this one 0.01 ms. Numbers are
those of ``linux/rtnetlink.h`` and ``linux/if_link.h``.
"""

import errno
import os
import socket
import struct

from secgroupd.closing import Closing
from secgroupd.core.bindings import Link
from secgroupd.dataplane.events import EventSocket
from secgroupd.dataplane.netlink import (
    DUMP_TRIES,
    HEADER,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    RECEIVE_BYTES,
    RECEIVE_SECONDS,
    DumpInterrupted,
    attribute,
    attributes,
    opened,
    reading,
    sent,
    split_messages,
    text,
)
from secgroupd.errors import DataplaneError

NEW_LINK, GET_LINK = 16, 18
LINK_GROUP = 1
INFO = struct.Struct("=BxHiII")
"""Family, device type, index, flags, change mask."""
ADDRESS, NAME, MASTER, LINK_INFO, ALIAS, FILTER = 1, 3, 10, 18, 20, 29
MEMBER_KIND = 4
"""Within ``LINK_INFO``: the kind of the link's master."""
SKIP_STATISTICS = 1 << 3
IFF_UP = 1
MAC_BYTES = 6


class Links(Closing):
    """The links of the network namespace of the thread that made the adapter.

    ``fileno`` becomes readable when a link has come, gone or changed.

    Raises:
        DataplaneError: the kernel gives no socket.
    """

    def __init__(self) -> None:
        try:
            self._dump = _netlink()
        except OSError as error:
            raise DataplaneError(f"cannot ask for links: {error}") from error
        try:
            self._events = EventSocket(socket.NETLINK_ROUTE, LINK_GROUP)
        except DataplaneError:
            self._dump.close()
            raise
        self._sequence = 0
        self._known: tuple[Link, ...] | None = None
        """The list that was read last; None after it has been told that something changed."""

    def close(self) -> None:
        """Close the sockets."""
        self._dump.close()
        self._events.close()

    def fileno(self) -> int:
        """Return the descriptor of the event socket, for select."""
        return self._events.fileno()

    def changed(self) -> bool:
        """Take every event that has come; tell whether there was any, or any was lost."""
        changed = sum(1 for _ in self._events.taken()) > 0
        if changed:
            self._known = None
        return changed

    def forget(self) -> None:
        """Ask for the list the next time, whatever has been told."""
        self._known = None

    def read(self) -> tuple[Link, ...]:
        """Return every link, by index: as they are, for they are asked for again after every event.

        Raises:
            DataplaneError: they could not be read, or changed during every one of many tries.
        """
        if self._known is not None and not self._events.pending():
            return self._known
        with reading("the links"):
            for _ in range(DUMP_TRIES):
                found = self._try()
                if found is not None:
                    self._known = tuple(sorted(found, key=lambda link: link.index))
                    return self._known
            raise DumpInterrupted(errno.EINTR, "they changed during every try")

    def _try(self) -> list[Link] | None:
        """Return the links, or None when they changed meanwhile."""
        self._sequence += 1
        body = INFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        body += attribute(FILTER, SKIP_STATISTICS.to_bytes(4, "little" if _LITTLE else "big"))
        header = HEADER.pack(
            HEADER.size + len(body), GET_LINK, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0
        )
        self._dump = sent(self._dump, header + body, _netlink)
        found: list[Link] = []
        consistent = True
        while True:
            for kind, flags, sequence, payload in split_messages(self._dump.recv(RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_DONE:
                    return found if consistent else None
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code == errno.EINTR:
                        return None
                    raise OSError(code, os.strerror(code))
                if kind == NEW_LINK:
                    found.append(_link(payload))


_LITTLE = struct.pack("=H", 1) == b"\1\0"


def _netlink() -> socket.socket:
    made = opened(socket.NETLINK_ROUTE)
    made.settimeout(RECEIVE_SECONDS)
    return made


def _link(payload: memoryview) -> Link:
    _, _, index, flags, _ = INFO.unpack_from(payload)
    name, alias, mac, master, member_of = "", None, None, None, None
    for kind, value in attributes(payload[INFO.size :]):
        if kind == NAME:
            name = text(value)
        elif kind == ALIAS:
            alias = text(value)
        elif kind == ADDRESS and len(value) == MAC_BYTES:
            mac = value.hex(":")
        elif kind == MASTER:
            (master,) = struct.unpack("=I", value)
        elif kind == LINK_INFO:
            member_of = next((text(v) for k, v in attributes(value) if k == MEMBER_KIND), None)
    return Link(name, index, alias, mac, master, bool(flags & IFF_UP), member_of)
