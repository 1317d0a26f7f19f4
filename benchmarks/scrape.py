"""One scrape of a host with 5000 ports and 25,000 rules, all of whose ports have denied something.

    python -m benchmarks.scrape [--ports N] [--rules N]

Prints what a scrape costs with the series of each rule and without, what the first one after a
change costs, which writes every line anew, and one that is compressed, as Prometheus asks for.
"""

import argparse
import gzip
import statistics
import time
from wsgiref.util import setup_testing_defaults

from benchmarks.clouds import cloud

from secgroupd.core.draft import Binding
from secgroupd.core.names import DENIED_FROM, DENIED_TO, SPOOFS
from secgroupd.core.policy import Policy
from secgroupd.dataplane.interfaces import carried
from secgroupd.dataplane.nft import Nft
from secgroupd.metrics import Metrics
from secgroupd.proving.namespaces import Lab
from secgroupd.reconcile import Reconciler
from secgroupd.traffic import FRESH_SECONDS, Traffic

ROUNDS = 7
COUNTED = {SPOOFS, DENIED_FROM, DENIED_TO}


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, default=5000)
    parser.add_argument("--rules", type=int, default=25000)
    given = parser.parse_args()
    state = cloud(ports=given.ports, groups=250, rules=given.rules, profiles=250)
    ports = [port for instance in state.instances for port in instance.ports]
    bindings = {port.id: Binding(port.interface or "") for port in ports}
    with Lab() as lab:
        links = "".join(f"tuntap add {port.interface} mode tap\n" for port in ports)
        lab.hv.run(["ip", "-batch", "-"], stdin=links)
        with lab.hv.enter(), Nft() as nft:
            Reconciler(nft, grace=0).apply(state, bindings)
        sets = lab.hv.run(["nft", "-t", "list", "sets", "inet"]).stdout.split()
        counting = [name for name in sets if name.rpartition("_")[0] in COUNTED]
        each = ", ".join(
            f'"{port.interface}" counter packets {at * 1001} bytes {at * 60003}'
            for at, port in enumerate(ports)
        )
        lines = [f"add element inet secgroupd {name} {{ {each} }}" for name in counting]
        lab.hv.run(["nft", "-f", "-"], stdin="\n".join(lines))
        traffic = Traffic(Nft, carried)
        traffic.show(Policy(state), bindings)
        with lab.hv.enter():
            _scrape(traffic)


def _scrape(traffic: Traffic) -> None:
    page = Metrics(traffic=traffic).page

    def scraped(encoding: str) -> bytes:
        environ: dict[str, object] = {"HTTP_ACCEPT_ENCODING": encoding}
        setup_testing_defaults(environ)
        return b"".join(page(environ, lambda *_: bytes))

    medians: list[float] = []
    for kind, per_rule, encoding in (
        ("with each rule's series", True, ""),
        ("without them", False, ""),
        ("with them, compressed", True, "gzip"),
    ):
        traffic.per_rule = per_rule
        taken: list[float] = []
        text = b""
        for _ in range(ROUNDS + 1):
            time.sleep(FRESH_SECONDS)
            began = time.perf_counter()
            text = scraped(encoding)
            taken.append(time.perf_counter() - began)
        plain = gzip.decompress(text) if encoding else text
        samples = sum(not line.startswith(b"#") for line in plain.splitlines())
        medians.append(statistics.median(taken[1:]))
        figures = f"{medians[-1] * 1000:.0f} ms, the first {taken[0] * 1000:.0f} ms"
        print(f"{kind}: {figures}; {samples} samples, {len(text)} bytes")
    print(f"ratio {medians[0] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
