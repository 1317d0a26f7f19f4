"""The page is what ``prometheus_client`` would have written, to the byte, whatever is asked for."""

import gzip
from collections.abc import Iterable, Mapping, Sequence
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.registry import Collector, CollectorRegistry

from secgroupd.page import LargeFamily, Page

HOSTILE = (
    'tap"x',
    "a\\",
    "\\n",
    "a\nb",
    "\r\x85\u2028",
    "%s",
    "%",
    "{0}",
    "",
    " 0.0\n",
    "é\U0001f600",
)
NUMBERS = (0, 1, 999_999, 1_000_000, 1_200_000, 123_456_789, 2**53 + 1, 2**64 - 1, 7, 10, 100)
FAMILIES = [
    LargeFamily(
        "secgroupd_rule_hits",
        'Its "help" \\ is hostile\ntoo, and ends with 0.0',
        {"zone": HOSTILE, "area": HOSTILE[::-1], "b_c": ["same"] * len(HOSTILE)},
        NUMBERS,
    ),
    LargeFamily("secgroupd_nobodys", "Of nobody.", {"port": []}, []),
    LargeFamily("secgroupd_last", "The last.", {"port": ["p"]}, [3]),
]
ESCAPING = ("", *(f"; escaping={way}" for way in ("allow-utf-8", "underscores", "dots", "values")))
FORMATS = [
    "",
    "text/html",
    "text/plain; version=0.0.4",
    "application/openmetrics-text",
    *(f"text/plain; version=1.0.0{way}" for way in ESCAPING),
    *(f"application/openmetrics-text; version=1.0.0{way}" for way in ESCAPING),
    "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
]

Answer = tuple[str, Mapping[str, str], bytes]


class Small(Collector):
    def collect(self) -> Iterable[Metric]:
        return [GaugeMetricFamily("secgroupd_small", "A small one.", value=1.5)]


class Large(Collector):
    def families(self) -> Sequence[LargeFamily]:
        return FAMILIES

    def collect(self) -> Iterable[Metric]:
        return [metric for family in FAMILIES for metric in family.collect()]


def asked(app: WSGIApplication, accept: str, encoding: str = "") -> Answer:
    answers: list[tuple[str, Mapping[str, str]]] = []

    def start(status: str, headers: list[tuple[str, str]], _: object = None) -> type[bytes]:
        answers.append((status, dict(headers)))
        return bytes

    environ = {"HTTP_ACCEPT": accept, "HTTP_ACCEPT_ENCODING": encoding}
    setup_testing_defaults(environ)
    body = b"".join(app(environ, start))
    ((status, headers),) = answers
    if headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return status, headers, body


@pytest.mark.parametrize("encoding", ["", "deflate", "gzip", "br, GZIP;q=1"])
@pytest.mark.parametrize("accept", FORMATS)
def test_it_is_what_prometheus_client_writes(accept: str, encoding: str) -> None:
    registry = CollectorRegistry()
    registry.register(Small())
    registry.register(Large())
    genuine = asked(make_wsgi_app(registry), accept, encoding)
    assert asked(Page(Small(), Large()), accept, encoding) == genuine
    assert genuine[2].count(b"\n") > len(NUMBERS)


@pytest.mark.parametrize("accept", FORMATS)
def test_so_it_is_without_large_families(accept: str) -> None:
    registry = CollectorRegistry()
    registry.register(Small())
    assert asked(Page(Small()), accept) == asked(make_wsgi_app(registry), accept)
