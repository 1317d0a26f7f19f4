"""What the running daemon leaves for others to see: its lock, and its status."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from secgroupd.errors import SecgroupdError
from secgroupd.ownership import hand_over

LOCK, STATUS = "lock", "status.json"
MODE = 0o750


class AlreadyRunning(SecgroupdError):
    """Another daemon holds the lock of the run directory."""


def make_directory(path: Path) -> None:
    """Make a directory that only the agent writes to and its group reads.

    Raises:
        SecgroupdError: it cannot be made.
    """
    try:
        path.mkdir(mode=MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise SecgroupdError(f"cannot make {path}: {error.strerror}") from error


def lock(directory: Path) -> int:
    """Take the lock of a run directory; it is held until the process ends.

    Raises:
        AlreadyRunning: another process holds it.
        SecgroupdError: the file cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(directory / LOCK, flags, 0o640)
    except OSError as error:
        raise SecgroupdError(f"cannot make {directory / LOCK}: {error.strerror}") from error
    try:
        hand_over(descriptor, directory)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise AlreadyRunning(f"another secgroupd runs with {directory}: stop it first") from error
    os.truncate(descriptor, 0)
    os.write(descriptor, b"%d\n" % os.getpid())
    return descriptor


def holds(descriptor: int, directory: Path) -> bool:
    """Tell whether the lock file of a run directory is still the one that was locked."""
    try:
        there = (directory / LOCK).lstat()
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def is_locked(directory: Path) -> bool:
    """Tell whether a daemon runs with a run directory."""
    try:
        descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_status(directory: Path, status: Mapping[str, object]) -> None:
    """Replace the status file as a whole.

    Raises:
        OSError: it cannot be written.
    """
    fresh = directory / f".{STATUS}.new"
    fresh.write_text(json.dumps(status, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(directory / STATUS)


def read_status(directory: Path) -> dict[str, object] | None:
    """Return what the daemon wrote last; None when there is nothing to be read."""
    try:
        found = json.loads((directory / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
