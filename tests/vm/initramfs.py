"""The archive that the guest's kernel unpacks as its first file system (cpio, format newc)."""

import stat
from collections.abc import Mapping

_TRAILER = "TRAILER!!!"


def archive(directories: list[str], files: Mapping[str, bytes]) -> bytes:
    """Return an archive of directories, parents first, and of files, all executable."""
    entries = [
        *((name, stat.S_IFDIR | 0o755, b"") for name in directories),
        *((name, stat.S_IFREG | 0o755, content) for name, content in files.items()),
        (_TRAILER, 0, b""),
    ]
    return b"".join(
        _entry(number, name, mode, content)
        for number, (name, mode, content) in enumerate(entries, start=1)
    )


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name's size, sum
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
