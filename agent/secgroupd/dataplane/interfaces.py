"""What the host's interfaces have carried, as the kernel counts it."""

from collections.abc import Mapping
from pathlib import Path

from secgroupd.core.counts import Carried, Count

STATISTICS = Path("/proc/thread-self/net/dev")
"""One line an interface: eight numbers of what it received, eight of what it sent."""


def carried() -> Mapping[str, Carried]:
    """Return what each interface of the calling thread's network namespace has carried.

    Raises:
        OSError: the kernel does not show it.
    """
    found: dict[str, Carried] = {}
    for line in STATISTICS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()[2:]:
        # A name may hold neither a colon nor a blank.
        name, _, numbers = line.partition(":")
        counts = [int(number) for number in numbers.split()]
        found[name.strip()] = Carried(Count(counts[1], counts[0]), Count(counts[9], counts[8]))
    return found
