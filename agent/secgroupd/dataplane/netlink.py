"""Just enough nfnetlink to read: requests, dumps, attributes.

pyroute2 decodes every field of every rule, which takes seconds where the reconciler has tenths of
one; here only what is compared is decoded. Numbers are those of the kernel's
``linux/netfilter/nfnetlink.h`` and ``linux/netlink.h``.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from secgroupd.closing import Closing
from secgroupd.errors import DataplaneError

NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_CREATE, NLM_F_APPEND = 0x400, 0x800
NLM_F_DUMP_INTR = 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_TYPE_MASK = 0x3FFF
NLA_NESTED = 0x8000
BATCH_BEGIN, BATCH_END = 0x10, 0x11

HEADER = struct.Struct("=IHHII")
GENERAL = struct.Struct(">BBH")
ATTRIBUTE = struct.Struct("=HH")

RECEIVE_BYTES = 1 << 18
SOCKET_BUFFER_BYTES = 1 << 24
"""Room for the kernel to write a large dump without waiting for us."""

SO_RCVBUFFORCE = 33
"""Not named by Python."""

GONE = frozenset({errno.EBADF, errno.ENOTSOCK})

RECEIVE_SECONDS = 30
"""How long the kernel may be silent before a request counts as failed."""

DUMP_TRIES = 50
"""How often an interrupted dump is begun again before it counts as failed."""

Message = tuple[int, int, int, bytes]
"""Kind, flags, family and attributes of a request."""


class DumpInterrupted(OSError):
    """What is dumped changed meanwhile, again and again."""


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded."""
    length = ATTRIBUTE.size + len(payload)
    return ATTRIBUTE.pack(length, kind) + payload + b"\0" * (-length % 4)


def text_attribute(kind: int, text: str) -> bytes:
    """Return one attribute with a NUL-terminated string."""
    return attribute(kind, text.encode() + b"\0")


def attributes(payload: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (type, payload) of each attribute, without the flag bits of the type."""
    view = memoryview(payload)
    offset, end = 0, len(view)
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(view, offset)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, view[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def by_type(payload: bytes | memoryview) -> dict[int, memoryview]:
    """Return the attributes by type: what ``attributes`` yields, in three quarters of the time."""
    found: dict[int, memoryview] = {}
    view = memoryview(payload)
    offset, end = 0, len(view)
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(view, offset)
        if length < 4:
            break
        found[kind & NLA_TYPE_MASK] = view[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def text(payload: memoryview) -> str:
    """Return a NUL-terminated string; the kernel asks nobody for UTF-8, and one odd name is no error."""
    return bytes(payload).rstrip(b"\0").decode(errors="surrogateescape")


def u32(payload: memoryview) -> int:
    """Return a number of four bytes, as netfilter writes them."""
    return int(struct.unpack(">I", payload)[0])


def interface_name(index: memoryview | None) -> str | None:
    """Return the name of the interface with such an index; None where there is none by now."""
    if index is None:
        return None
    try:
        return socket.if_indextoname(u32(index))
    except OSError:
        return None


def split_messages(datagram: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """Yield (kind, flags, sequence, payload) of each message of a datagram.

    Raises:
        OSError: it is not made of messages.
    """
    view = memoryview(datagram)
    if not view:
        raise OSError(errno.EBADMSG, "an empty datagram")
    offset, end = 0, len(view)
    while end - offset >= HEADER.size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(view, offset)
        if not HEADER.size <= length <= end - offset:
            raise OSError(errno.EBADMSG, "a message that is longer or shorter than it says")
        yield kind, flags, sequence, view[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Read something from the kernel.

    Raises:
        DataplaneError: the kernel refused, or what it says makes no sense.
    """
    try:
        yield
    except OSError as error:
        raise DataplaneError(f"cannot read {what}: {error}") from error
    except (LookupError, ValueError, struct.error) as error:
        raise DataplaneError(f"cannot make sense of {what}: {error!r}") from error


def opened(protocol: int, groups: int = 0) -> socket.socket:
    """Return a netlink socket with room for large answers, as far as the process may.

    Raises:
        OSError: the kernel gives none.
    """
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        made.bind((0, groups))
    except OSError:
        made.close()
        raise
    for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
        try:
            made.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        except PermissionError:
            continue
    return made


def let_go(lost: socket.socket, error: OSError) -> None:
    """Give up a socket that an error has come from."""
    if error.errno in GONE:
        # Somebody closed it under us: what has its number by now is another's.
        lost.detach()
    else:
        lost.close()


def sent(by: socket.socket, message: bytes, another: Callable[[], socket.socket]) -> socket.socket:
    """Send a message, by another socket if somebody has closed this one; return which it was.

    Raises:
        OSError: the kernel did not take it.
    """
    try:
        by.send(message)
    except OSError as error:
        if error.errno not in GONE:
            raise
        let_go(by, error)
        by = another()
        by.send(message)
    return by


class Netlink(Closing):
    """A netfilter netlink socket in the calling thread's network namespace."""

    def __init__(self) -> None:
        self._socket = self._opened()
        self._sequence = 0

    @staticmethod
    def _opened() -> socket.socket:
        made = opened(NETLINK_NETFILTER)
        made.settimeout(RECEIVE_SECONDS)
        return made

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor of the socket as it is now, for select."""
        return self._socket.fileno()

    def send(
        self, kind: int, flags: int, family: int, payload: bytes, *, resource: int = 0
    ) -> None:
        """Send one request, about a resource where the subsystem numbers any."""
        body = GENERAL.pack(family, 0, resource) + payload
        self._socket = sent(self._socket, self._numbered(kind, flags, body), self._opened)

    def dump(self, kind: int, family: int, payload: bytes = b"") -> list[memoryview]:
        """Return the bodies (after the nfgenmsg) of a consistent dump.

        Raises:
            FileNotFoundError: what was asked about does not exist.
            DumpInterrupted: it changed during every one of many tries.
            OSError: the kernel refused.
        """
        for _ in range(DUMP_TRIES):
            self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, family, payload)
            bodies, consistent = self._answers()
            if consistent:
                return bodies
        raise DumpInterrupted(errno.EINTR, "the dump was interrupted by changes")

    def stream(self, kind: int, family: int, payload: bytes = b"") -> Iterator[memoryview]:
        """Yield the bodies of a dump as they come.

        For tables too large to hold and too busy to be shown consistently. The socket serves
        nothing else until the last body.

        Raises:
            OSError: the kernel refused.
        """
        self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, family, payload)
        while True:
            bodies, _, last = self._receive()
            yield from bodies
            if last:
                return

    def heard(self) -> Iterator[tuple[int, memoryview]]:
        """Yield kind and body of every message that has come by itself.

        Raises:
            OSError: ENOBUFS, some were lost; or the socket was.
        """
        while True:
            self._socket.settimeout(0)
            try:
                datagram = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            finally:
                self._socket.settimeout(RECEIVE_SECONDS)
            for kind, _, _, payload in split_messages(datagram):
                yield kind, payload[GENERAL.size :]

    def request(
        self,
        kind: int,
        family: int,
        payload: bytes = b"",
        flags: int = 0,
        *,
        resource: int = 0,
    ) -> list[memoryview]:
        """Send a request, wait for its acknowledgement, and return the bodies that came before it.

        Raises:
            OSError: the kernel refused.
        """
        self.send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, family, payload, resource=resource)
        return self._answers()[0]

    def post(self, messages: Sequence[tuple[int, int, bytes]]) -> list[int]:
        """Send (kind, family, payload) requests in one go; return the errno of each, 0 for done."""
        first = self._sequence + 1
        parts = []
        for kind, family, payload in messages:
            body = GENERAL.pack(family, 0, 0) + payload
            parts.append(self._numbered(kind, NLM_F_REQUEST | NLM_F_ACK, body))
        self._socket = sent(self._socket, b"".join(parts), self._opened)
        codes = [0] * len(messages)
        waiting = len(messages)
        while waiting:
            for kind, _, sequence, answer in split_messages(self._socket.recv(RECEIVE_BYTES)):
                if kind == NLMSG_ERROR and sequence >= first:
                    codes[sequence - first] = -struct.unpack_from("=i", answer)[0]
                    waiting -= 1
        return codes

    def transact(self, subsystem: int, messages: Sequence[Message]) -> bool:
        """Send requests as one transaction; tell whether it was done, else nothing was changed.

        Raises:
            OSError: the kernel did not take it, or has not said what became of it.
        """
        first = self._sequence + 1
        bounds = GENERAL.pack(0, 0, subsystem)
        parts = [self._numbered(BATCH_BEGIN, NLM_F_REQUEST, bounds)]
        for kind, flags, family, payload in messages:
            # The last one's acknowledgement comes after the end, if nothing was refused.
            ack = NLM_F_ACK if len(parts) == len(messages) else 0
            body = GENERAL.pack(family, 0, 0) + payload
            parts.append(self._numbered(kind, NLM_F_REQUEST | flags | ack, body))
        parts.append(self._numbered(BATCH_END, NLM_F_REQUEST, bounds))
        self._socket = sent(self._socket, b"".join(parts), self._opened)
        codes = []
        # The kernel has answered before the sending ends.
        self._socket.settimeout(0)
        try:
            while True:
                for kind, _, sequence, answer in split_messages(self._socket.recv(RECEIVE_BYTES)):
                    if kind == NLMSG_ERROR and sequence >= first:
                        codes.append(struct.unpack_from("=i", answer)[0])
        except BlockingIOError:
            if not codes:
                raise
        finally:
            self._socket.settimeout(RECEIVE_SECONDS)
        return not any(codes)

    def _numbered(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0) + body

    def _receive(self) -> tuple[list[memoryview], bool, bool]:
        """Receive once; return bodies, whether they are consistent, and whether it was the end."""
        bodies: list[memoryview] = []
        consistent = True
        for kind, flags, sequence, body in split_messages(self._socket.recv(RECEIVE_BYTES)):
            if sequence != self._sequence:
                continue
            consistent = consistent and not flags & NLM_F_DUMP_INTR
            if kind == NLMSG_DONE:
                return bodies, consistent, True
            if kind == NLMSG_ERROR:
                code = -struct.unpack_from("=i", body)[0]
                if code in {0, errno.EINTR}:
                    return bodies, consistent and code == 0, True
                raise OSError(code, os.strerror(code))
            bodies.append(body[GENERAL.size :])
        return bodies, consistent, False

    def _answers(self) -> tuple[list[memoryview], bool]:
        """Read up to the end of the answer to the last request."""
        bodies: list[memoryview] = []
        consistent = True
        while True:
            more, fine, last = self._receive()
            bodies += more
            consistent = consistent and fine
            if last:
                return bodies, consistent
