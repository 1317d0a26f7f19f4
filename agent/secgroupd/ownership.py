"""Who owns what the agent leaves in its directories.

The daemon is not root; a person who runs ``secgroupctl`` is. What root makes must belong to the
directory's owner, or the daemon could not read its own record.
"""

import os
from pathlib import Path


def hand_over(descriptor: int, directory: Path) -> None:
    """Give a file to the owner of its directory, if this process is root.

    A file with another name elsewhere is not handed over: the owner might have linked it here.

    Raises:
        OSError: the directory is gone, or root is refused.
    """
    if os.geteuid() == 0 and os.fstat(descriptor).st_nlink == 1:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
