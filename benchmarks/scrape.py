"""One scrape of a host with 5000 ports and 25,000 rules, all of whose ports have denied something.

    python -m benchmarks.scrape [--ports N] [--rules N]

Prints what a scrape costs, with the series of each rule and without, as a ratio of one run.
"""

import argparse
import statistics
import time

from benchmarks.clouds import cloud
from prometheus_client import CollectorRegistry, generate_latest

from secgroupd.core.draft import Binding
from secgroupd.core.names import DENIED_FROM, DENIED_TO, SPOOFS
from secgroupd.core.policy import Policy
from secgroupd.core.uncollected import uncollected
from secgroupd.dataplane.interfaces import carried
from secgroupd.dataplane.nft import Nft
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
    registry = CollectorRegistry()
    with Lab() as lab:
        links = "".join(f"tuntap add {port.interface} mode tap\n" for port in ports)
        lab.hv.run(["ip", "-batch", "-"], stdin=links)
        with lab.hv.enter(), Nft() as nft:
            Reconciler(nft, grace=0).apply(state, bindings)
        sets = lab.hv.run(["nft", "-t", "list", "sets", "inet"]).stdout.split()
        counting = [name for name in sets if name.rpartition("_")[0] in COUNTED]
        each = ", ".join(f'"{port.interface}" counter packets 1 bytes 60' for port in ports)
        lines = [f"add element inet secgroupd {name} {{ {each} }}" for name in counting]
        lab.hv.run(["nft", "-f", "-"], stdin="\n".join(lines))
        traffic = Traffic(Nft, carried)
        traffic.show(Policy(state), bindings)
        registry.register(traffic)
        taken: dict[bool, list[float]] = {True: [], False: []}
        with lab.hv.enter():
            for at in range(2 * ROUNDS):
                traffic.per_rule = at % 2 == 0
                time.sleep(FRESH_SECONDS)
                began = time.perf_counter()
                with uncollected():
                    page = generate_latest(registry)
                taken[traffic.per_rule].append(time.perf_counter() - began)
                series = sum(not line.startswith(b"#") for line in page.splitlines())
                if at < 2:
                    print(f"rules' series {traffic.per_rule!s:5}: {series} samples")
    with_rules, without = (statistics.median(taken[kind]) for kind in (True, False))
    print(f"with each rule {with_rules * 1000:.0f} ms, without {without * 1000:.0f} ms")
    print(f"ratio {with_rules / without:.2f}")


if __name__ == "__main__":
    main()
