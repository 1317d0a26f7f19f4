"""Waiting for what another thread or process brings about."""

import select
import time
from collections.abc import Callable

PATIENCE = 10.0
"""Seconds within which something expected must come true."""

_LOOK_AGAIN = 0.005


def await_until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return as soon as a condition is true; fail when it does not become so in time."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        select.select([], [], [], _LOOK_AGAIN)
