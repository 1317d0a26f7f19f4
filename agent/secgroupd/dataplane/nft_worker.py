"""The process that holds libnftables: it takes transactions on stdin and answers on stdout.

libnftables 1.0.6 dies of sets that newer versions wrote, in whatever table of the host, and keeps
hundreds of megabytes after a large load. Both happen here and not in the agent. Each message is a
length (4 bytes, big-endian) and that many bytes: nft text in, JSON ``{"code", "error"}`` out.
"""

import ctypes
import json
import os
import struct
import sys
from pathlib import Path
from typing import BinaryIO

CLONE_NEWNET = 0x40000000

LENGTH = struct.Struct(">I")


def read_message(stream: BinaryIO) -> bytes | None:
    """Return the next message, or None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return stream.read(LENGTH.unpack(head)[0])


def join(namespace: int) -> None:
    """Move to the network namespace of a descriptor, unless this process is in it already.

    Raises:
        OSError: the kernel refused; moving takes CAP_SYS_ADMIN, staying takes nothing.
    """
    own, wanted = Path("/proc/thread-self/ns/net").stat(), os.fstat(namespace)
    if (own.st_dev, own.st_ino) == (wanted.st_dev, wanted.st_ino):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Run each transaction, in the network namespace the process is in."""
    from nftables import Nftables  # noqa: PLC0415 - comes with the distribution, for this process only

    nft = Nftables()
    while (request := read_message(requests)) is not None:
        file = os.memfd_create("transaction")
        with open(file, "wb", closefd=False) as stream:
            stream.write(request)
        # From a file, and only so, libnftables names the line of every error.
        code, _, error = nft.cmd_from_file(f"/proc/self/fd/{file}")
        os.close(file)
        answer = json.dumps({"code": code, "error": error}).encode()
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    join(int(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)
