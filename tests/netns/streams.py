"""Datagrams that are sent all the while something happens, and which of them arrive."""

import os
import re
import socket
import struct
import threading
from contextlib import suppress

from secgroupd.proving.namespaces import Lab


class Stream:
    """Numbered datagrams of their own connections, as fast as they go, while something happens."""

    def __init__(self, lab: Lab, source: str, interface: str, destination: str, dport: int) -> None:
        self._receiver = lab.ports[interface].namespace.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.bind((destination, dport))
        self._source, self._target = lab.outside_address(source), (destination, dport)
        self._address = source
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.sent = 0
        self._got: set[int] = set()

    def _send(self) -> None:
        # New source ports all the time: every few packets are a new connection.
        while not self._stop.is_set():
            with self._source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((self._address, 0))
                for _ in range(5):
                    sender.sendto(struct.pack(">I", self.sent), self._target)
                    self.sent += 1
            self._drain()
            self._stop.wait(0.001)

    def _drain(self) -> None:
        # Along with the sending: no receive buffer holds what a slow machine sends meanwhile.
        with suppress(BlockingIOError, TimeoutError):
            while datagram := self._receiver.recv(64):
                self._got.update(struct.unpack(">I", datagram))

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._receiver.close()

    def received(self) -> set[int]:
        """End the sending; return the numbers of what has arrived."""
        self._stop.set()
        self._thread.join()
        self._receiver.settimeout(0.3)
        self._drain()
        return self._got

    def lost(self) -> list[int]:
        """End the sending; return the numbers of what has not arrived."""
        return sorted(set(range(self.sent)) - self.received())


def may_be_missed() -> int:
    """Return how many packets of the stream below this kernel may lose, which is none if it is sound.

    A look-up that began in the old generation may find the old element of a key unlinked already,
    and the new one not valid yet. Linux b2f742c846ca looks again; the first releases with it
    are 6.12.48, 6.16.8 and 6.17. It takes a commit within a look-up, hence the few.
    """
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", os.uname().release)
    assert found
    version = tuple(int(part or 0) for part in found.groups())
    sound = version >= (6, 16, 8) or (6, 12, 48) <= version < (6, 13)
    return 0 if sound else 3
