"""The sending ends: a connected socket for each TCP or UDP probe, a raw one for all others."""

import errno
import os
import socket

from secgroupd.core.model import TCP, Address
from secgroupd.errors import DataplaneError
from secgroupd.proving.netns import Namespace
from secgroupd.proving.servers import RESET_ON_CLOSE, family_and_level

_TRANSPARENT = {4: (socket.IPPROTO_IP, 19), 6: (socket.IPPROTO_IPV6, 75)}
_SEND_BUFFER_FORCE = 32
_BUFFER_BYTES = 32 * 1024 * 1024
_TRIES = 2000
_UNDER_WAY = frozenset({0, errno.EINPROGRESS})
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})


def _cannot_send(namespace: Namespace, destination: Address, number: int) -> DataplaneError:
    reason = os.strerror(number)
    return DataplaneError(f"nothing can be sent to {destination} from {namespace.name}: {reason}")


def open_client(namespace: Namespace, source: Address, protocol: int) -> tuple[socket.socket, int]:
    """Make a TCP or UDP socket bound to ``source`` and to a port that was not used lately.

    The address may be anybody's.

    Returns:
        The socket and its port.

    Raises:
        DataplaneError: Not even a foreign address can be bound.
    """
    kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
    family, _ = family_and_level(source)
    client = namespace.socket(family, kind)
    try:
        client.setsockopt(*_TRANSPARENT[source.version], 1)
        if protocol == TCP:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        return client, _bind(client, source, namespace)
    except BaseException:
        client.close()
        raise


def _bind(client: socket.socket, source: Address, namespace: Namespace) -> int:
    for _ in range(_TRIES):
        port = namespace.next_ident()
        try:
            client.bind((str(source), port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise DataplaneError(f"cannot send from {source}: {error}") from error
        return port
    raise DataplaneError(f"{namespace.name} has no free port at {source}")


def start(
    client: socket.socket, namespace: Namespace, destination: Address, port: int, datagram: bytes
) -> bool:
    """Begin a TCP handshake, or send a UDP datagram.

    Returns:
        False if the sending host's own filter or an earlier error forbade it.

    Raises:
        DataplaneError: The namespace has no route there.
    """
    result = client.connect_ex((str(destination), port))
    if result in _UNDER_WAY and client.type == socket.SOCK_DGRAM:
        try:
            client.send(datagram)
        except OSError as error:
            result = error.errno or errno.EIO
    if result in _UNDER_WAY:
        return True
    if result in _FORBIDDEN or result == errno.ECONNREFUSED:
        return False
    raise _cannot_send(namespace, destination, result)


class RawSender:
    """Sends whole IP packets of one version from one namespace."""

    def __init__(self, namespace: Namespace, version: int) -> None:
        self._namespace = namespace
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self._socket = namespace.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, _SEND_BUFFER_FORCE, _BUFFER_BYTES)

    def send(self, packet: bytes, destination: Address) -> bool:
        """Send a packet; return False if the sending host's own filter forbade it.

        Raises:
            DataplaneError: The namespace has no route there.
        """
        try:
            self._socket.sendto(packet, (str(destination), 0))
        except OSError as error:
            if error.errno in _FORBIDDEN:
                return False
            number = error.errno or errno.EIO
            raise _cannot_send(self._namespace, destination, number) from error
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
