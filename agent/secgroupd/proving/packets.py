"""Probes: real packets that try to open a connection, and what is seen of them.

TCP makes a handshake with a listening socket, UDP and echo requests are answered, everything else
is a single packet with a nonce. A capture at the destination says whether the first packet arrived.
"""

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from secgroupd.proving.exchange import Exchange
from secgroupd.proving.probes import Method, Observation, Probe

__all__ = ["DEFAULT_TIMEOUT", "Method", "Observation", "Probe", "probe", "run_probes"]

DEFAULT_TIMEOUT = 0.4
"""Seconds without any news after which a batch is over."""

_MOST_AT_ONCE = 1000
_SPARE_DESCRIPTORS = 64
_DESCRIPTORS_EACH = 4


def probe(flow: Probe, *, timeout: float = DEFAULT_TIMEOUT) -> Observation:
    """Send one probe; see ``run_probes``."""
    (observation,) = run_probes([flow], timeout=timeout)
    return observation


def run_probes(probes: Sequence[Probe], *, timeout: float = DEFAULT_TIMEOUT) -> list[Observation]:
    """Send all probes at once and return what became of each, in the order given.

    Large numbers go in batches. A batch ends as soon as everything in it is known, or when nothing
    was heard of for ``timeout`` seconds: a batch with one lost probe lasts as long as one with a
    thousand. No probe shares its source port, identifier or nonce with another, so that none is
    taken for part of another's connection. Protocols other than TCP, UDP, SCTP and ICMP may be
    tracked by addresses alone: two of the same protocol between the same addresses do not belong in one call
    (and ``Lab.forget`` belongs between two calls).

    Args:
        probes: What to send; an empty sequence is answered at once.
        timeout: Seconds; the packets need microseconds, the rest is patience with a busy machine.

    Raises:
        DataplaneError: A probe cannot be sent at all (no route at its source), or somebody else
            holds a port that a probe needs.
    """
    observations: list[Observation] = []
    for batch in _batches(probes):
        with Exchange(batch, timeout) as exchange:
            observations += exchange.run()
    return observations


def _batches(probes: Sequence[Probe]) -> Iterator[Sequence[Probe]]:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = limit - sum(1 for _ in Path("/proc/self/fd").iterdir()) - _SPARE_DESCRIPTORS
    size = max(1, min(_MOST_AT_ONCE, free // _DESCRIPTORS_EACH))
    for start in range(0, len(probes), size):
        yield probes[start : start + size]
