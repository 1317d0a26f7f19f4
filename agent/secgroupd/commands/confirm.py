"""Waiting for a person who says that all is well; whoever lost the way to this host cannot."""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from secgroupd.commands.output import complain

ENDS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
"""Signals that mean no: the terminal has gone, or somebody wants an end."""


@contextmanager
def signals_heard() -> Iterator[int]:
    """Have the signals that mean no make a descriptor readable in the block, and end nothing."""
    heard, telling = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def tell(*_: object) -> None:
        with suppress(BlockingIOError):
            os.write(telling, b"\0")

    before = {number: signal.signal(number, tell) for number in ENDS}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(heard)
        os.close(telling)


def confirmed(seconds: float, heard: int) -> bool:
    """Ask whether to keep a change; true when ``yes`` is read from standard input in time.

    Any other answer and any signal mean no. The end of the input means that nobody can answer.

    Args:
        seconds: how long to wait.
        heard: what ``signals_heard`` gave.

    Raises:
        OSError: the terminal has gone.
    """
    complain(f"Type yes within {seconds:g} seconds to keep it, or it is taken back.")
    deadline = time.monotonic() + seconds
    stdin = sys.stdin.fileno()
    watched = [stdin, heard]
    typed = b""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select(watched, [], [], left)
        if heard in ready:
            complain("interrupted")
            return False
        if stdin in ready:
            # Not by lines: half of one must not keep anybody waiting beyond the time.
            part = os.read(stdin, 4096)
            typed += part
            if b"\n" in typed or (typed and not part):
                return typed.partition(b"\n")[0].strip() == b"yes"
            if not part:
                watched = [heard]
    return False
