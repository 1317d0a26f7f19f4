"""Packets that rules log, by NFLOG, with the connections that they belong to.

Numbers are those of ``linux/netfilter/nfnetlink_log.h`` and ``nf_conntrack_common.h``.
"""

import errno
import socket
import struct
import time
from collections.abc import Iterator

from secgroupd.closing import Closing
from secgroupd.core import names
from secgroupd.core.drops import Logged
from secgroupd.dataplane.conntrack import connection_of
from secgroupd.dataplane.netlink import (
    Netlink,
    attribute,
    attributes,
    interface_name,
    reading,
    text,
    u32,
)
from secgroupd.errors import DataplaneError

SUBSYSTEM = 4 << 8
PACKET, CONFIG = 0, 1
COMMAND, MODE, FLAGS = 1, 2, 6
BIND, COPY_PACKET, WITH_CONNECTION = 1, 2, 4
HEADER, TIMESTAMP, INDEX_IN, INDEX_OUT, PORT_IN, PORT_OUT = 1, 3, 4, 5, 6, 7
PAYLOAD, PREFIX, CONNECTION, CONNECTION_INFO = 9, 10, 18, 19
NEW, FIRST_REPLY = 2, 3
"""Of ``enum ip_conntrack_info``: a new connection's; from here on, packets of replies."""


class PacketLog(Closing):
    """What is logged to one group of this network namespace, from now on.

    Raises:
        DataplaneError: somebody else listens to the group, or the kernel has no such thing.
    """

    def __init__(self, group: int) -> None:
        with reading(f"NFLOG group {group}"):
            self._netlink = Netlink()
            try:
                self._configure(group, attribute(COMMAND, bytes([BIND])))
                mode = struct.pack(">IBx", 0xFFFF, COPY_PACKET)
                self._configure(group, attribute(MODE, mode))
            except OSError:
                self._netlink.close()
                raise
        try:
            self._configure(group, attribute(FLAGS, struct.pack(">H", WITH_CONNECTION)))
        except OSError as error:
            # Without ctnetlink, packets are known by their headers alone.
            if error.errno not in {errno.EOPNOTSUPP, errno.EAGAIN, errno.EINVAL}:
                self._netlink.close()
                raise DataplaneError(f"cannot listen to NFLOG group {group}: {error}") from error

    def close(self) -> None:
        """Stop listening."""
        self._netlink.close()

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self._netlink.fileno()

    def packets(self) -> Iterator[Logged]:
        """Yield what has come; what was lost, or makes no sense, is left out."""
        try:
            for kind, body in self._netlink.heard():
                if kind == SUBSYSTEM | PACKET:
                    try:
                        yield _logged(dict(attributes(body)))
                    except (LookupError, ValueError, struct.error):
                        continue
        except OSError as error:
            if error.errno not in {errno.ENOBUFS, errno.EBADMSG}:
                raise DataplaneError(f"cannot read what is logged: {error}") from error

    def _configure(self, group: int, payload: bytes) -> None:
        kind = SUBSYSTEM | CONFIG
        self._netlink.request(kind, socket.AF_UNSPEC, payload, resource=group)


def _logged(parts: dict[int, memoryview]) -> Logged:
    connection = None
    info = u32(parts[CONNECTION_INFO]) if CONNECTION_INFO in parts else 0
    if CONNECTION in parts:
        connection = connection_of(dict(attributes(parts[CONNECTION])))
    return Logged(
        time=_time(parts.get(TIMESTAMP)),
        chain=names.logged_in(text(parts[PREFIX])),
        # On a bridge, the port is what the rules see, and the bridge what it is part of.
        came_from=interface_name(parts.get(PORT_IN) or parts.get(INDEX_IN)),
        leaves_into=interface_name(parts.get(PORT_OUT) or parts.get(INDEX_OUT)),
        ethertype=struct.unpack_from(">H", parts[HEADER])[0],
        payload=bytes(parts.get(PAYLOAD, b"")),
        connection=connection,
        reply=info >= FIRST_REPLY,
        new=info == NEW,
    )


def _time(stamp: memoryview | None) -> float:
    if stamp is None:
        return time.time()
    seconds, microseconds = struct.unpack(">QQ", stamp)
    return float(seconds + microseconds / 1e6)
