"""The control socket: local clients ask the running daemon, and are told in JSON.

One request a connection: a line of JSON such as ``{"ask": "status"}``, answered by a line of JSON,
or, where something is followed, by lines until the client hangs up. A thread of its own serves it, so
that it answers while the loop is busy or stuck. Nothing that is asked here changes a verdict.
"""

import asyncio
import json
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import suppress
from pathlib import Path

from secgroupd.closing import Closing
from secgroupd.errors import SecgroupdError

NAME = "control"
MODE = 0o660

MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 64 << 20
"""What a client reads at the most: room for the status of 100,000 ports."""

MAX_CLIENTS = 32
"""Clients that are served at once; further ones are told to come again."""

PATIENCE_SECONDS = 5.0
"""How long a client may take for its request, and for reading the answer."""

SO_PEERGROUPS = 59
"""``asm-generic/socket.h``; Python has no name for it."""

Answer = Mapping[str, object]
Feed = Callable[[], AsyncGenerator[Answer, None]]
CREDENTIALS = struct.Struct("3i")

log = logging.getLogger("secgroupd")


class NoSocket(SecgroupdError):
    """Nobody listens on a control socket."""


class NotAllowed(SecgroupdError):
    """The control socket is for others, or whoever listens will not answer that."""


class Silent(SecgroupdError):
    """Somebody listens on the control socket, and gives no whole answer in time."""


class Control(Closing):
    """Listens in a run directory until it is closed.

    Args:
        directory: the run directory; the caller holds its lock, so that a socket that is there is
            left over. Whatever has the socket's name is replaced, unless it is a directory.
        answers: what can be asked, and what gives the answer; called in the serving thread.
        feeds: what can be followed, and what gives its lines, there too.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(
        self,
        directory: Path,
        answers: Mapping[str, Callable[[], Answer]],
        feeds: Mapping[str, Feed] | None = None,
    ) -> None:
        self._path = directory / NAME
        self._answers, self._feeds = answers, feeds or {}
        self._clients = 0
        self._listening = _listen(self._path, directory)
        made = self._path.lstat()
        self._inode, self._group = made.st_ino, made.st_gid
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, hang up on whoever is there, and remove the socket."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()
        self._listening.close()
        if self.reachable():
            self._path.unlink(missing_ok=True)

    def reachable(self) -> bool:
        """Tell whether the socket still has its name: nobody has removed or replaced it."""
        try:
            return self._path.lstat().st_ino == self._inode
        except OSError:
            return False

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        server = await asyncio.start_unix_server(
            self._serve,
            sock=self._listening,
            limit=MAX_REQUEST_BYTES,
            backlog=socket.SOMAXCONN,
        )
        await self._ending.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await self._answer(reader, writer.get_extra_info("socket"))
                if isinstance(answer, Mapping):
                    await _write(writer, answer)
            if not isinstance(answer, Mapping):
                await self._feed(answer, reader, writer)
        except (OSError, TimeoutError):
            # Who hangs up or dawdles is no event.
            pass
        finally:
            self._clients -= 1
            # What is still unsent after the time given is not worth keeping.
            transport = writer.transport
            if transport.get_write_buffer_size():
                transport.abort()
            else:
                transport.close()

    async def _feed(
        self, feed: Feed, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Write what is followed until the client hangs up, reads too slowly, or all ends."""
        gone = asyncio.ensure_future(reader.read(1))
        lines = feed()
        try:
            while not gone.done():
                line = asyncio.ensure_future(anext(lines))
                await asyncio.wait({line, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not line.done():
                    line.cancel()
                    with suppress(asyncio.CancelledError):
                        await line
                    break
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await _write(writer, line.result())
        except SecgroupdError as error:
            await _write(writer, {"refused": str(error)})
        finally:
            gone.cancel()
            await lines.aclose()

    async def _answer(self, reader: asyncio.StreamReader, client: socket.socket) -> Answer | Feed:
        if not self._may_ask(client):
            return {"refused": "only root and the members of the socket's group may ask"}
        if self._clients > MAX_CLIENTS:
            return {"refused": f"{MAX_CLIENTS} clients are being served: ask again"}
        try:
            line = await reader.readline()
        except ValueError:
            return {"refused": f"the request is over {MAX_REQUEST_BYTES} bytes"}
        return self._told(line)

    def _told(self, line: bytes) -> Answer | Feed:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"refused": "the request is no line of JSON"}
        asked = request.get("ask") if isinstance(request, dict) else None
        known = (*self._answers, *self._feeds)
        if not isinstance(asked, str) or asked not in known or len(request) != 1:
            listed = ", ".join(f'{{"ask": "{name}"}}' for name in known)
            return {"refused": f"unknown request; known: {listed}"}
        if asked in self._feeds:
            return self._feeds[asked]
        try:
            return self._answers[asked]()
        except SecgroupdError as error:
            return {"refused": str(error)}

    def _may_ask(self, client: socket.socket) -> bool:
        """Check who is there, whoever let them in: the mode might have been changed meanwhile."""
        found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        _, uid, gid = CREDENTIALS.unpack(found)
        if uid in {0, os.geteuid()}:
            return True
        return self._group in {gid, *_further_groups(client)}


async def _write(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()


def _further_groups(client: socket.socket) -> tuple[int, ...]:
    # Python reads no option longer than 1024 bytes: who is in over 256 groups has to be root.
    with suppress(OSError):
        found = client.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
        return struct.unpack(f"{len(found) // 4}I", found)
    return ()


def _listen(path: Path, directory: Path) -> socket.socket:
    """Return a listening socket that its owner and group may use from the first moment on."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            raise IsADirectoryError(f"{path} is a directory")
        path.unlink()
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # Linux takes the mode of the file from the socket, less the umask.
        os.fchmod(made.fileno(), MODE)
        made.bind(str(path))
        if os.geteuid() == 0:
            os.chown(path, -1, directory.stat().st_gid, follow_symlinks=False)
        path.chmod(MODE)
        made.listen(socket.SOMAXCONN)
        made.settimeout(0)
    except BaseException:
        made.close()
        raise
    return made


def ask(directory: Path, question: str) -> dict[str, object]:
    """Ask the daemon that runs with a run directory.

    Raises:
        NoSocket: nobody listens there.
        NotAllowed: it may not be asked, or not this, or not now.
        Silent: no whole answer came in time.
    """
    lines = follow(directory, question)
    try:
        return next(lines)
    except StopIteration:
        raise Silent(f"{directory / NAME} gave no whole answer") from None
    finally:
        lines.close()


def follow(directory: Path, question: str) -> Generator[dict[str, object], None, None]:
    """Ask the daemon for what goes on; yield each line of it, until the daemon ends.

    Raises:
        NoSocket, NotAllowed, Silent: as with ``ask``.
    """
    path = directory / NAME
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(2 * PATIENCE_SECONDS)
        try:
            asking.connect(str(path))
            # Whoever refuses us at once does not read this, but tells the reason.
            with suppress(BrokenPipeError):
                asking.sendall(json.dumps({"ask": question}).encode() + b"\n")
            answers = asking.makefile("rb")
            yield _understood(path, answers.readline(MAX_ANSWER_BYTES))
            asking.settimeout(None)
            while line := answers.readline(MAX_ANSWER_BYTES):
                yield _understood(path, line)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoSocket(f"nobody listens on {path}") from error
        except PermissionError as error:
            message = "you must be root or a member of its group"
            raise NotAllowed(f"{path} may not be used: {message}") from error
        except OSError as error:
            raise Silent(f"{path} does not answer: {error.strerror or error}") from error


def _understood(path: Path, line: bytes) -> dict[str, object]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise Silent(f"{path} gave no whole answer") from error
    if not isinstance(found, dict):
        raise Silent(f"{path} gave no answer that can be understood")
    if found.keys() == {"refused"}:
        raise NotAllowed(f"{path} refuses: {found['refused']}")
    return found
