"""Which packets the kernel copies to whom, by NFLOG, and how much of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from secgroupd.core import names

LIVE_GROUP = 21319
"""The NFLOG group on which the agent listens while somebody follows what is denied."""

LOGGED_A_SECOND, LOGGED_AT_ONCE = 10, 20
"""Denied packets of a port that are logged, on the average and in a burst."""

ALL_LOGGED_A_SECOND = 1000
"""Denied packets of all ports that are logged by one chain."""

METERED = 65536
"""Interfaces of which what was logged is known; those of the last minute are."""

LOGGED_BYTES = 128
"""How much of a packet is logged: its headers."""


@dataclass(frozen=True, slots=True)
class Logging:
    """The NFLOG groups that are sent copies of packets: of the denied, and of the first accepted."""

    denied: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()

    def and_live(self) -> "Logging":
        """Return it with the agent's own group for what is denied."""
        return Logging((*self.denied, LIVE_GROUP), self.accepted)


SILENT = Logging()
"""Nobody listens, so that the data path has nothing of it."""


def log_statements(chain: str, groups: Iterable[int]) -> str:
    """Return what sends packets in a chain to groups, marked with the chain's name."""
    prefix = names.prefix(chain)
    return " ".join(f'log prefix "{prefix}" snaplen {LOGGED_BYTES} group {g}' for g in groups)
