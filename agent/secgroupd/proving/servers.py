"""What answers at the destination: a TCP listener and a UDP echo, one for each address and port."""

import errno
import socket
import struct
from collections.abc import Iterator

from secgroupd.core.model import TCP, UDP, Address
from secgroupd.errors import DataplaneError
from secgroupd.proving.ears import Mark, connection_mark, enlarge_buffer
from secgroupd.proving.netns import Namespace

_FREEBIND = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}
_BACKLOG = 4096
_LONGEST = 65536

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""The SO_LINGER value with which a closed connection leaves nothing behind."""


def family_and_level(address: Address) -> tuple[int, int]:
    """Return the address family and the level of its socket options."""
    if address.version == 4:
        return socket.AF_INET, socket.IPPROTO_IP
    return socket.AF_INET6, socket.IPPROTO_IPV6


class Server:
    """A bound socket in a namespace; it may be bound to an address that the namespace lacks.

    Raises:
        DataplaneError: A socket of somebody else has the port.
    """

    def __init__(self, namespace: Namespace, address: Address, protocol: int, port: int) -> None:
        self._address = address
        self._protocol = protocol
        self._port = port
        kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
        family, _ = family_and_level(address)
        self._socket = namespace.socket(family, kind)
        try:
            self._prepare()
        except OSError as error:
            self._socket.close()
            place = f"{address} port {port} in {namespace.name}"
            raise DataplaneError(f"cannot serve {place}: {error}") from error

    def _prepare(self) -> None:
        self._socket.setsockopt(*_FREEBIND[self._address.version], 1)
        if self._address.version == 6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self._protocol == TCP:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        enlarge_buffer(self._socket)
        self._socket.bind((str(self._address), self._port))
        if self._protocol == TCP:
            self._socket.listen(_BACKLOG)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._socket.fileno()

    def serve(self) -> Iterator[Mark]:
        """Answer whoever waits; yield the marks of the first packets of those served."""
        serve_one = self._accept if self._protocol == TCP else self._echo
        while True:
            try:
                peer = serve_one()
            except BlockingIOError:
                return
            except OSError as error:
                # The peer has gone already, or the answer cannot leave: nothing was served.
                if error.errno in {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}:
                    raise
                continue
            family, _ = family_and_level(self._address)
            yield connection_mark(
                self._protocol,
                socket.inet_pton(family, peer[0]),
                self._address.packed,
                struct.pack("!HH", peer[1], self._port),
            )

    def _accept(self) -> tuple[str, int]:
        connection, peer = self._socket.accept()
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        return peer[0], peer[1]

    def _echo(self) -> tuple[str, int]:
        data, peer = self._socket.recvfrom(_LONGEST)
        self._socket.sendto(data, peer)
        return peer[0], peer[1]

    def close(self) -> None:
        """Stop serving; connections that nobody accepted are reset."""
        self._socket.close()


SERVED = frozenset({TCP, UDP})
"""The protocols that need a server at the destination."""
