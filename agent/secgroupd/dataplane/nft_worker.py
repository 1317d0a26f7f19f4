"""The process that holds libnftables: it takes transactions on stdin and answers on stdout.

libnftables 1.0.6 dies of sets that newer versions wrote, in whatever table of the host, and keeps
hundreds of megabytes after a large load. Both happen here and not in the agent. Each message is a
length (4 bytes, big-endian) and that many bytes: nft text in, JSON ``{"code", "error"}`` out.
"""

import json
import os
import struct
import sys
from typing import BinaryIO

LENGTH = struct.Struct(">I")


def read_message(stream: BinaryIO) -> bytes | None:
    """Return the next message, or None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return stream.read(LENGTH.unpack(head)[0])


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Run each transaction, in the network namespace the process was started in."""
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
    serve(sys.stdin.buffer, sys.stdout.buffer)
