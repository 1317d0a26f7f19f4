"""The state document in a directory of files (or in one file): reading it, and seeing it change."""

import ctypes
import errno
import fcntl
import os
import stat
import struct
import termios
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from secgroupd.closing import Closing
from secgroupd.core.document import MAX_BYTES, Source
from secgroupd.errors import DataplaneError, Problem
from secgroupd.ownership import Distrust, check_mode, check_owner

SUFFIXES = (".yaml", ".yml", ".json")
SETTLED_SECONDS = 2.0
"""For how long a file must not have changed for its times to tell that it is the same: two changes
within one tick of the file system's clock have the same."""

READING_TRIES = 5
"""How often a directory is read again when files vanish or change while they are read."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found: the files, and why others could not be read.

    ``digest`` differs whenever names, contents or problems differ.
    """

    sources: tuple[Source, ...]
    problems: tuple[Problem, ...]
    digest: bytes
    files: Mapping[Path, "_File"] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was read.

    Attributes:
        stamp: what differs after every change of it, times last; None where it was too young to tell.
        digest: of its name and content.
    """

    stamp: tuple[int, ...] | None
    source: Source
    digest: bytes


class _Unsteady(Exception):
    """Something changed while it was read."""


def read(
    path: Path,
    *,
    wary: bool = False,
    before: Reading | None = None,
    trusting: bool = True,
    now: Callable[[], float] = time.time,
) -> Reading:
    """Read a state document's files.

    Args:
        path: a file, or a directory of which the files named ``*.yaml``, ``*.yml`` and ``*.json``
            count, but none that begins with a full stop or ``#``.
        wary: whether files, links and directories count only if nobody but root and the user of
            this process can have written them.
        before: what was found before, just as ``wary``; what is still the same are the identical objects.
        trusting: whether files that are still the same by their times are not read again.
        now: the time, in the seconds of files' times.

    Returns:
        The files sorted by name. What cannot be read is a problem; nothing is raised.
    """
    known, began = before.files if before else {}, now()
    for last in (False,) * (READING_TRIES - 1) + (True,):
        try:
            found, problems = _read(path, known if trusting else {}, last=last, wary=wary)
        except _Unsteady:
            continue
        for each, one in found.items():
            found[each] = _kept(one, known.get(each), settled_before=began - SETTLED_SECONDS)
        sources = tuple(one.source for one in found.values())
        return Reading(sources, tuple(problems), _digest(found.values(), problems), found)
    raise AssertionError("the last try cannot be unsteady")


def _digest(files: Iterable[_File], problems: list[Problem]) -> bytes:
    total = blake2b(b"".join([one.digest for one in files]), digest_size=16)
    for problem in problems:
        total.update(os.fsencode(str(problem)))
    return total.digest()


def _read(
    path: Path, known: Mapping[Path, _File], *, last: bool, wary: bool
) -> tuple[dict[Path, _File], list[Problem]]:
    found: dict[Path, _File] = {}
    problems: list[Problem] = []
    try:
        paths = _files(path)
        if wary:
            _check(path if path.is_dir() else path.parent)
    except OSError as error:
        return found, [_problem(path, error)]
    except Distrust as error:
        return found, [_distrusted(path, error)]
    room = MAX_BYTES
    for each in paths:
        # One more byte than there is room for, so that it shows that the document is too large.
        if room < 0:
            break
        try:
            same = _same(each, known.get(each), wary=wary)
            found[each] = same or _content(each, room + 1, last=last, wary=wary)
            room -= len(found[each].source.text)
        except Distrust as error:
            problems.append(_distrusted(each, error))
        except FileNotFoundError as error:
            if not last:
                raise _Unsteady from error
            problems.append(_problem(each, error))
        except OSError as error:
            problems.append(_problem(each, error))
    return found, problems


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    names = sorted(
        name
        for name in os.listdir(path)  # noqa: PTH208
        if name.endswith(SUFFIXES) and not name.startswith((".", "#"))
    )
    return [path / name for name in names]


def _check(directory: Path) -> None:
    found = directory.stat()
    check_owner(found)
    # With the sticky bit others can add files, which are theirs, but not replace ours.
    if not found.st_mode & stat.S_ISVTX:
        check_mode(found)


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return (
        *(found.st_dev, found.st_ino, found.st_mode, found.st_uid),
        *(found.st_size, found.st_mtime_ns, found.st_ctime_ns),
    )


def _same(path: Path, known: _File | None, *, wary: bool) -> _File | None:
    """Return what is known of a file, if it is still that one."""
    if known is None or known.stamp is None:
        return None
    if wary:
        check_owner(os.lstat(path))
    return known if _stamp(os.stat(path)) == known.stamp else None  # noqa: PTH116


def _kept(one: _File, known: _File | None, *, settled_before: float) -> _File:
    """Return what to know of a file: what was known of it is not held twice."""
    if known is not None and known.digest == one.digest:
        one = replace(one, source=known.source)
    young = one.stamp is not None and max(one.stamp[-2:]) >= settled_before * 1e9
    return replace(one, stamp=None) if young else one


def _content(path: Path, most: int, *, last: bool, wary: bool) -> _File:
    if wary:
        check_owner(os.lstat(path))
    # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if wary:
            check_owner(before)
            check_mode(before)
        content = file.read(most)
        after = os.fstat(descriptor)
    if not last and (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise _Unsteady
    name = os.fsencode(path)
    digest = blake2b(b"%d %d " % (len(name), len(content)) + name, digest_size=16)
    digest.update(content)
    whole = len(content) == after.st_size and _stamp(before) == _stamp(after)
    return _File(_stamp(after) if whole else None, Source(str(path), content), digest.digest())


def _distrusted(path: Path, error: Distrust) -> Problem:
    name = os.fsencode(path).decode(errors="backslashreplace")
    return Problem(name, 1, 1, "untrusted", str(error))


def _problem(path: Path, error: OSError) -> Problem:
    message = f"it cannot be read ({error.strerror}): make it readable, or remove it"
    if isinstance(error, FileNotFoundError):
        message = "there is no such file or directory: make it, or correct its path"
    name = os.fsencode(path).decode(errors="backslashreplace")
    return Problem(name, 1, 1, "unreadable", message)


_EVENT = struct.Struct("=iIII")
_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_Q_OVERFLOW, _IGNORED, _MASK_ADD, _ISDIR = 0x4000, 0x8000, 0x20000000, 0x40000000
_NAMES = _CREATE | _DELETE | _MOVED_FROM | _MOVED_TO
_SELF = _DELETE_SELF | _MOVE_SELF
_EVENT_BYTES = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Watcher(Closing):
    """Tells when a state document may have changed.

    ``fileno`` becomes readable then. The path need not be there yet, and may be replaced: every
    directory above it is watched too. A file counts as changed when its writer closes it.

    Attributes:
        trouble: why changes may go unseen (the host's limit of watches is reached); else None.

    Raises:
        DataplaneError: the kernel gives no watch at all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.trouble: str | None = None
        self._above: dict[int, set[str]] = {}
        self._own: int | None = None
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            reason = os.strerror(ctypes.get_errno())
            raise DataplaneError(f"cannot watch {self._path}: {reason}")
        self._arm()

    def close(self) -> None:
        """Stop watching. May be repeated."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            os.close(descriptor)

    def fileno(self) -> int:
        """Return the descriptor, for select."""
        return self._fd

    def queued(self) -> int:
        """Return how many bytes of events are waiting; more when more have come."""
        size = array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, size)
        return size[0]

    def changed(self) -> bool:
        """Take every event that has come; tell whether the document may have changed."""
        changed = moved = False
        for watch, mask, name in self._events():
            if mask & _Q_OVERFLOW or (
                watch in self._above and (mask & _SELF or name in self._above[watch])
            ):
                changed = moved = True
            if watch == self._own:
                moved = moved or bool(mask & (_SELF | _IGNORED))
                changed = changed or self._counts(mask, name)
        if moved:
            self._arm()
        return changed

    def _counts(self, mask: int, name: str) -> bool:
        if mask & ~_ISDIR != _CREATE or not name:
            return True
        # A new file is empty until its writer closes it, which is an event of its own; links to
        # files that are complete already have no other event than this one.
        try:
            found = os.lstat(self._path / name)
        except OSError:
            return True
        return not stat.S_ISREG(found.st_mode) or found.st_nlink > 1

    def _events(self) -> Iterator[tuple[int, int, str]]:
        with suppress(BlockingIOError):
            while True:
                content = os.read(self._fd, _EVENT_BYTES)
                offset = 0
                while offset < len(content):
                    watch, mask, _, length = _EVENT.unpack_from(content, offset)
                    offset += _EVENT.size + length
                    raw = content[offset - length : offset]
                    yield watch, mask, os.fsdecode(raw.rstrip(b"\0"))

    def _arm(self) -> None:
        """Watch from the top downwards, so that whatever appears meanwhile is seen from above."""
        self.trouble = None
        for watch in (*self._above, *(() if self._own is None else (self._own,))):
            _libc.inotify_rm_watch(self._fd, watch)
        self._above = {}
        parts = self._path.parts
        for depth in range(1, len(parts)):
            watch = self._watch(Path(*parts[:depth]), _NAMES | _SELF)
            if watch is not None:
                self._above.setdefault(watch, set()).add(parts[depth])
        self._own = self._watch(self._path, _NAMES | _SELF | _CLOSE_WRITE | _ATTRIB)

    def _watch(self, path: Path, mask: int) -> int | None:
        watch: int = _libc.inotify_add_watch(self._fd, os.fsencode(path), mask | _MASK_ADD)
        if watch >= 0:
            return watch
        code = ctypes.get_errno()
        if code not in {errno.ENOENT, errno.ENOTDIR}:
            self.trouble = f"cannot watch {path}: {os.strerror(code)}"
        return None
