"""Telling a person at a terminal that something takes its time."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

PATIENCE_SECONDS = 1.0
"""How long a person waits without asking why."""

CLEAR = "\r\x1b[K"


@contextmanager
def working(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """Say what goes on, and for how long, while the block runs for over a second.

    Args:
        what: in words that come before dots.
        stream: where to; stderr if left out. Nothing is said where no person looks.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield
        return
    done = threading.Event()
    telling = threading.Thread(target=_tell, args=(what, stream, done), daemon=True)
    telling.start()
    try:
        yield
    finally:
        done.set()
        telling.join()


def _tell(what: str, stream: TextIO, done: threading.Event) -> None:
    began = time.monotonic()
    said = False
    while not done.wait(PATIENCE_SECONDS):
        said = True
        stream.write(f"{CLEAR}{what} ... {time.monotonic() - began:.0f} s")
        stream.flush()
    if said:
        stream.write(CLEAR)
        stream.flush()
