"""The page of metrics, byte for byte as ``prometheus_client`` would write it, in a quarter of its time.

Of a large family, ``prometheus_client`` writes one sample, in the format that was asked for; the others
are filled into a copy of that line. Everything else stays with it.
"""

import gzip
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from secgroupd.core.uncollected import uncollected

END = b"# EOF\n"
"""What OpenMetrics ends with, and no other format."""

COMPRESSION = 1
"""The highest level, 9, makes it a seventh smaller and takes several times as long."""

GAP = "%s"

Encode = Callable[[Collector], bytes]


@dataclass(frozen=True, slots=True)
class LargeFamily(Collector):
    """A family of counters with very many samples.

    Attributes:
        name: without the ending of counters.
        text: the help text.
        labels: by the name of a label, its value in each sample.
        numbers: as many numbers.
    """

    name: str
    text: str
    labels: Mapping[str, Sequence[str]]
    numbers: Sequence[int]

    def collect(self) -> Iterable[Metric]:
        """Return it as ``prometheus_client`` has it (called by who writes it)."""
        family = CounterMetricFamily(self.name, self.text, labels=list(self.labels))
        for *values, number in zip(*self.labels.values(), self.numbers, strict=True):
            family.add_metric(values, number)
        return [family]

    def written(self, encode: Encode) -> bytes:
        """Return what would be written of it, without the end of the page."""
        one = LargeFamily(self.name, self.text, {label: [GAP] for label in self.labels}, [0])
        *head, line = encode(one).removesuffix(END).splitlines(keepends=True)
        form = line.decode().replace(" 0.0\n", f" {GAP}\n")
        # prometheus_client sorts labels by their names.
        columns = [_escaped(values) for _, values in sorted(self.labels.items())]
        rows = zip(*columns, map(floatToGoString, self.numbers), strict=True)
        return b"".join(head) + "".join([form % row for row in rows]).encode()


class Large(Protocol):
    """Who has large families."""

    def families(self) -> Sequence[LargeFamily]:
        """Return them as of now."""


class Page:
    """The application that answers every request with all metrics.

    Args:
        small: collects what ``prometheus_client`` writes.
        large: who has the families that come after it.
    """

    def __init__(self, small: Collector, large: Large | None = None) -> None:
        self._small, self._large = small, large

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        encode, kind = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        with uncollected():
            page = self._written(encode)
        headers = [("Content-Type", kind)]
        if gzip_accepted(environ.get("HTTP_ACCEPT_ENCODING", "")):
            page = gzip.compress(page, COMPRESSION)
            headers.append(("Content-Encoding", "gzip"))
        start("200 OK", headers)
        return [page]

    def _written(self, encode: Encode) -> bytes:
        small = encode(self._small)
        families = () if self._large is None else self._large.families()
        large = b"".join(family.written(encode) for family in families)
        end = END if small.endswith(END) else b""
        return small.removesuffix(END) + large + end


def _escaped(values: Sequence[str]) -> Sequence[str]:
    """Return label values as every format has them."""
    return [v.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for v in values]
