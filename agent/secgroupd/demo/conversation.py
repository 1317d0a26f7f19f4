"""A TCP connection that stays open, and over which the server keeps talking."""

import select
import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from secgroupd.core.reachability import Flow
from secgroupd.errors import DataplaneError
from secgroupd.proving.netns import Namespace
from secgroupd.proving.servers import RESET_ON_CLOSE

_PATIENCE = 1.0
_WORD = b"still there?\n"


class Conversation:
    """An open TCP connection between two namespaces.

    Raises:
        DataplaneError: it could not be opened.
    """

    def __init__(self, flow: Flow, client: Namespace, server: Namespace) -> None:
        self._open = ExitStack()
        try:
            self._client, self._server = self._connect(flow, client, server)
        except OSError as error:
            self._open.close()
            ends = f"{flow.source.address} to {flow.destination.address}"
            raise DataplaneError(f"no connection from {ends}: {error}") from error
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def _connect(
        self, flow: Flow, client: Namespace, server: Namespace
    ) -> tuple[socket.socket, socket.socket]:
        target = (str(flow.destination.address), flow.dport or 0)
        listener = self._socket(server, flow)
        listener.bind(target)
        listener.listen()
        caller = self._socket(client, flow)
        caller.bind((str(flow.source.address), 0))
        caller.connect(target)
        answering, _ = listener.accept()
        self._open.enter_context(answering)
        _leave_nothing(answering)
        return caller, answering

    def _socket(self, namespace: Namespace, flow: Flow) -> socket.socket:
        family = socket.AF_INET if flow.source.address.version == 4 else socket.AF_INET6
        made = self._open.enter_context(namespace.socket(family, socket.SOCK_STREAM))
        _leave_nothing(made)
        made.settimeout(_PATIENCE)
        return made

    def goes_on(self) -> bool:
        """Let the server say something; tell whether it arrives within a second."""
        try:
            self._server.send(_WORD)
            ready, _, _ = select.select([self._client], [], [], _PATIENCE)
            return bool(ready and self._client.recv(4096))
        except OSError:
            return False


def _leave_nothing(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
