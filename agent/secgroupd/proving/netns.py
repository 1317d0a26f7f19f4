"""One anonymous network namespace: made, entered, run in, and gone when its handle is closed.

A namespace has no name in the file system. It lives as long as something refers to it: this handle,
a process in it or a socket made in it. So nothing is left behind even by a process that is killed.
"""

import ctypes
import itertools
import os
import random
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secgroupd.errors import DataplaneError

_CLONE_NEWNET = 0x40000000
_OWN_NAMESPACE = "/proc/thread-self/ns/net"
_FIRST_PORT, _LAST_PORT = 10000, 64999

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise DataplaneError(f"cannot {what} a network namespace (are you root?): {reason}")


def _open_own() -> int:
    return os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)


class Namespace:
    """A network namespace of its own, with its loopback down and no other interface.

    Args:
        name: What messages call it; it means nothing to the kernel.
        filters: The ruleset under test is in force here, so that what an interface of this
            namespace receives is not yet what its programs receive.

    Raises:
        DataplaneError: The process may not make network namespaces.
    """

    def __init__(self, name: str, *, filters: bool = False) -> None:
        self.name = name
        self.filters = filters
        self._idents = itertools.count(random.randrange(_LAST_PORT - _FIRST_PORT))
        before = _open_own()
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "make")
            try:
                self._fd = _open_own()
            finally:
                _check(_libc.setns(before, _CLONE_NEWNET), "leave")
        finally:
            os.close(before)

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"

    @property
    def fd(self) -> int:
        """The open descriptor that keeps the namespace; -1 after ``close``."""
        return self._fd

    @property
    def path(self) -> str:
        """A path that other processes can open (``nsenter --net=PATH``) while the handle is open."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @property
    def inode(self) -> int:
        """The kernel's number for the namespace, as in ``net:[NUMBER]``."""
        return os.fstat(self._fd).st_ino

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Put the current thread, and only it, into the namespace for the block's duration.

        What the block opens (sockets) or starts (processes, threads) belongs to the namespace
        and stays in it. Blocks may be nested.
        """
        before = _open_own()
        try:
            _check(_libc.setns(self._fd, _CLONE_NEWNET), "enter")
            try:
                yield
            finally:
                _check(_libc.setns(before, _CLONE_NEWNET), "leave")
        finally:
            os.close(before)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str = "",
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace, wait for it and return its outputs as text.

        Args:
            argv: The program and its arguments; no shell is involved.
            stdin: What the program reads.
            check: Whether another exit code than 0 is an error.
            timeout: Seconds after which the program is killed.

        Raises:
            DataplaneError: The program failed; the message has what it wrote to stderr.
            subprocess.TimeoutExpired: It ran for longer than ``timeout``.
        """
        with self.enter():
            done = subprocess.run(
                argv, input=stdin, capture_output=True, text=True, check=False, timeout=timeout
            )
        if check and done.returncode != 0:
            raise DataplaneError(
                f"{argv[0]} in {self.name} ended with {done.returncode}: {done.stderr.strip()}"
            )
        return done

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program in the namespace; ``options`` and the result are those of ``Popen``."""
        with self.enter():
            return subprocess.Popen(argv, **options)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Make a non-blocking socket that belongs to the namespace, usable from any thread."""
        with self.enter():
            made = socket.socket(family, kind, protocol)
        made.settimeout(0.0)
        return made

    def write_sysctl(self, name: str, value: int) -> None:
        """Set ``net.NAME`` in the namespace; ``name`` has slashes: ``ipv4/ip_forward``."""
        with self.enter():
            Path("/proc/sys/net", name).write_text(f"{value}\n", encoding="ascii")

    def next_ident(self) -> int:
        """Return a source port or ICMP identifier that was not used for the last 55,000 calls."""
        return _FIRST_PORT + next(self._idents) % (_LAST_PORT - _FIRST_PORT + 1)

    def close(self) -> None:
        """Let go of the namespace; the kernel removes it with its interfaces. May be repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
