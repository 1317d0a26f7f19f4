"""Waiting for a person who says that all is well; whoever lost the way to this host cannot."""

import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from secgroupd.commands.output import complain


class _Interrupted(Exception):
    """A signal came: the terminal has gone, or somebody wants an end."""


@contextmanager
def _interruptible() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise _Interrupted

    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def confirmed(seconds: float) -> bool:
    """Ask whether to keep a change; true when ``yes`` is read from standard input in time.

    Any other answer and any signal mean no. The end of the input means that nobody can answer.
    """
    complain(f"Type yes within {seconds:g} seconds to keep it, or it is taken back.")
    deadline = time.monotonic() + seconds
    watched = [sys.stdin]
    try:
        with _interruptible():
            while (left := deadline - time.monotonic()) > 0:
                ready, _, _ = select.select(watched, [], [], left)
                if ready:
                    answer = sys.stdin.readline()
                    if answer:
                        return answer.strip() == "yes"
                    watched = []
    except _Interrupted:
        complain("interrupted")
    return False
