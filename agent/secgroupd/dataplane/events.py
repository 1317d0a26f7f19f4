"""Sockets on which the kernel tells what has happened, and what survives on them.

An event may be lost, when it comes faster than it is taken, and so may the socket. Both are told:
whoever listens must then ask for everything.
"""

import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from secgroupd.closing import Closing
from secgroupd.core.drift import Change
from secgroupd.core.ruleset import TABLE
from secgroupd.dataplane.netlink import (
    HEADER,
    NETLINK_NETFILTER,
    RECEIVE_BYTES,
    attributes,
    let_go,
    opened,
    text,
)
from secgroupd.errors import DataplaneError

NFTABLES_GROUP = 7
NEW_GENERATION = 10 << 8 | 15
SOL_NETLINK, ADD_MEMBERSHIP, DROP_MEMBERSHIP = 270, 1, 2
"""Of ``linux/netlink.h``; not named by Python."""

GENERAL_BYTES = 4
GENERATION_ID, PROCESS_ID, PROCESS_NAME = 1, 2, 3
OUR_NAME = TABLE.encode() + b"\0"


class EventSocket(Closing):
    """A netlink socket that only listens, in the network namespace of the thread that made it.

    Raises:
        DataplaneError: the kernel gives no socket.
    """

    def __init__(self, protocol: int, group: int) -> None:
        self._protocol, self._group = protocol, group
        self._socket = self._opened()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self._socket.fileno()

    def pending(self) -> bool:
        """Tell whether something has come, or was lost, that has not been taken."""
        try:
            return bool(select.select([self._socket], [], [], 0)[0])
        except OSError:
            return True

    def taken(self) -> Iterator[bytes | None]:
        """Yield every datagram that has come; None in place of those that were lost.

        Raises:
            DataplaneError: the socket was lost, and the kernel gives no other.
        """
        while True:
            try:
                yield self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    let_go(self._socket, error)
                    self._socket = self._opened()
                yield None

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Be no listener for the block's duration; what happens meanwhile is not told.

        Raises:
            DataplaneError: the socket was lost, and the kernel gives no other.
        """
        self._member(DROP_MEMBERSHIP)
        try:
            yield
        finally:
            self._member(ADD_MEMBERSHIP)

    def _member(self, change: int) -> None:
        try:
            self._socket.setsockopt(SOL_NETLINK, change, self._group)
        except OSError as error:
            let_go(self._socket, error)
            self._socket = self._opened()

    def _opened(self) -> socket.socket:
        try:
            made = opened(self._protocol, 1 << (self._group - 1))
        except OSError as error:
            raise DataplaneError(f"cannot listen for events: {error}") from error
        made.settimeout(0)
        return made


class RulesetEvents(Closing):
    """Who has changed the ruleset, and whether it was a table of ours.

    Raises:
        DataplaneError: the kernel gives no socket.
    """

    def __init__(self) -> None:
        self._events = EventSocket(NETLINK_NETFILTER, NFTABLES_GROUP)
        self._ours = False
        """Whether the transaction of which events are coming has changed a table of ours."""

    def close(self) -> None:
        """Close the socket."""
        self._events.close()

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self._events.fileno()

    def deaf(self) -> AbstractContextManager[None]:
        """Hear nothing for the block's duration: whoever needs to know looks at the tables after it.

        While anybody in any network namespace listens to changes of rulesets, the kernel keeps a message
        of more than 8 KB for each element that a transaction changes, until its end.

        Raises:
            DataplaneError: the socket was lost, and the kernel gives no other.
        """
        return self._events.deaf()

    def changes(self) -> list[Change]:
        """Take every event that has come; return the transactions that they end, in order."""
        return list(self._changes())

    def _changes(self) -> Iterator[Change]:
        for datagram in self._events.taken():
            if datagram is None:
                self._ours = True
                yield Change(None, ours=True)
                continue
            try:
                end = _ending(datagram)
            except struct.error:
                # What makes no sense is as good as lost.
                self._ours = True
                yield Change(None, ours=True)
                continue
            if end is None:
                # Any string of that name will do: what is not ours after all is read once in vain.
                self._ours = self._ours or OUR_NAME in datagram
                continue
            generation, process, pid = end
            yield Change(generation, self._ours, process, pid)
            self._ours = False


def _ending(datagram: bytes) -> tuple[int, str, int] | None:
    """Return generation, process and its number, if a datagram ends a transaction."""
    if len(datagram) < HEADER.size + GENERAL_BYTES:
        return None
    _, kind, *_ = HEADER.unpack_from(datagram)
    if kind != NEW_GENERATION:
        return None
    generation, process, pid = 0, "", 0
    for name, value in attributes(datagram[HEADER.size + GENERAL_BYTES :]):
        if name == GENERATION_ID:
            (generation,) = struct.unpack(">I", value)
        elif name == PROCESS_ID:
            (pid,) = struct.unpack(">I", value)
        elif name == PROCESS_NAME:
            process = text(value)
    return generation, process, pid
