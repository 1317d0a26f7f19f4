"""Whoever follows what is denied: from the first one on, the data path logs it, and nobody's later.

Lives in the thread of the control socket; the daemon's thread only looks whether anybody is there.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Protocol

from secgroupd.core.draft import Binding
from secgroupd.core.drops import Logged, explained
from secgroupd.core.model import State
from secgroupd.core.policy import Policy
from secgroupd.errors import DataplaneError

BEGUN = {"following": "drops"}
"""What is told once the data path logs."""

HELD = 1000
"""Packets that wait for one who reads slowly; further ones are lost, and counted."""


class Log(Protocol):
    """Where the kernel logs packets to."""

    def fileno(self) -> int:
        """Return a descriptor that can be read when there are any."""

    def packets(self) -> Iterator[Logged]:
        """Yield what has come."""

    def close(self) -> None:
        """Stop listening."""


class _Follower:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[Mapping[str, object]] = asyncio.Queue(HELD)
        self.lost = 0

    def give(self, one: Mapping[str, object]) -> None:
        if self.lost and self.queue.empty():
            self.queue.put_nowait({"lost": self.lost})
            self.lost = 0
        try:
            self.queue.put_nowait(one)
        except asyncio.QueueFull:
            self.lost += 1


class Drops:
    """Explains denied packets to whoever follows them.

    Args:
        open_log: begins to listen to the kernel.
        changed: is called when the first follower has come, or the last has gone.
    """

    def __init__(self, open_log: Callable[[], Log], changed: Callable[[], None]) -> None:
        self._open_log, self._changed = open_log, changed
        self._followers: set[_Follower] = set()
        self._ports: dict[str, str] = {}
        self._policy = Policy(State())
        self._in_force = False
        self._log: Log | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def wanted(self) -> bool:
        """Whether anybody follows."""
        return bool(self._followers)

    def show(self, policy: Policy, bindings: Mapping[str, Binding]) -> None:
        """Take whose rules drop packets from now on."""
        self._policy = policy
        self._ports = {binding.interface: port_id for port_id, binding in bindings.items()}

    def logging(self, *, in_force: bool) -> None:
        """Take whether the data path logs; those who wait for that are told."""
        if in_force != self._in_force:
            self._in_force = in_force
            loop = self._loop
            if in_force and loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._give, BEGUN)

    async def follow(self) -> AsyncGenerator[Mapping[str, object], None]:
        """Yield that it has begun, then what is denied from then on, until it is closed.

        Raises:
            DataplaneError: the kernel cannot be listened to.
        """
        loop = self._loop = asyncio.get_running_loop()
        follower = _Follower()
        if self._log is None:
            self._log = self._open_log()
            loop.add_reader(self._log.fileno(), self._take, loop)
        self._followers.add(follower)
        try:
            self._changed()
            if self._in_force:
                follower.give(BEGUN)
            while True:
                yield await follower.queue.get()
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._hang_up(loop)
            self._changed()

    def _give(self, one: Mapping[str, object]) -> None:
        for follower in self._followers:
            follower.give(one)

    def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._log is not None
        try:
            for logged in self._log.packets():
                self._give(explained(self._policy, self._ports, logged).as_json())
        except DataplaneError as error:
            self._hang_up(loop)
            self._give({"refused": str(error)})

    def _hang_up(self, loop: asyncio.AbstractEventLoop) -> None:
        log, self._log = self._log, None
        if log is not None:
            loop.remove_reader(log.fileno())
            log.close()
