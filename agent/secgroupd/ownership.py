"""Who owns what the agent leaves in its directories, and whose files it believes.

The daemon is not root; a person who runs ``secgroupctl`` is. What root makes must belong to the
directory's owner, or the daemon could not read its own record.
"""

import os
import stat
from pathlib import Path


class Distrust(Exception):
    """Somebody who does not rule this host can have written a file; says who, and the remedy."""


def check_owner(found: os.stat_result, *others: int) -> None:
    """Make sure that a file is root's, this process's user's, or one of others'.

    Raises:
        Distrust: it is somebody else's.
    """
    if found.st_uid not in {0, os.geteuid(), *others}:
        raise Distrust(f"it belongs to user {found.st_uid}, who would rule this host: chown it")


def check_mode(found: os.stat_result) -> None:
    """Make sure that not everybody can write a file.

    Raises:
        Distrust: everybody can.
    """
    if found.st_mode & stat.S_IWOTH:
        raise Distrust("everybody can write it, and would rule this host: chmod o-w it")


def hand_over(descriptor: int, directory: Path) -> None:
    """Give a file to the owner of its directory, if this process is root.

    A file with another name elsewhere is not handed over: the owner might have linked it here.

    Raises:
        OSError: the directory is gone, or root is refused.
    """
    if os.geteuid() == 0 and os.fstat(descriptor).st_nlink == 1:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
