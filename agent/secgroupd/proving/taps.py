"""Real tap devices, in pairs whose frames a pump process carries from one to the other."""

import fcntl
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

from secgroupd.errors import DataplaneError
from secgroupd.proving.netns import Namespace

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_START_SECONDS = 20.0
_END_SECONDS = 5.0


def _open_tap(namespace: Namespace, interface: str) -> int:
    with namespace.enter():
        # The device appears in the namespace in which the file was opened.
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        request = struct.pack("16sH22x", os.fsencode(interface), _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(fd, _TUNSETIFF, request)
        # Otherwise each close waits for its own device to go (about 30 ms); a persistent one goes
        # with the namespace, together with all the others.
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except OSError as error:
        os.close(fd)
        raise DataplaneError(f"cannot make the tap {interface!r}: {error}") from error
    return fd


class TapPump:
    """The running pump process; starting it takes as long as starting an interpreter.

    Raises:
        DataplaneError: The process did not start.
    """

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            program = str(Path(__file__).with_name("pump.py"))
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", program, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                # An interrupt from the terminal is for the lab, which ends the pump in its turn.
                process_group=0,
            )
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def _await_start(self) -> None:
        # Frames that wait in a queue while the process starts would count as lost.
        self._control.settimeout(_START_SECONDS)
        if self._control.recv(16) != b"ready":
            raise DataplaneError("the process that carries tap frames did not start")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def join(self, one: tuple[Namespace, str], other: tuple[Namespace, str]) -> None:
        """Make two tap devices, each given as namespace and name, and join them like a cable.

        The devices carry nothing any more once one of them is deleted or the pump ends.

        Raises:
            DataplaneError: A name is taken or not a valid one.
        """
        fds: list[int] = []
        try:
            for namespace, interface in (one, other):
                fds.append(_open_tap(namespace, interface))
            socket.send_fds(self._control, [b"pair"], fds)
        finally:
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        """End the process; returns when it is gone. May be repeated."""
        self._control.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
