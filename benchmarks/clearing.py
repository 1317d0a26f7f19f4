"""Clearing a thousand ports beside a large connection table.

    python -m benchmarks.clearing [--entries N]

Prints what a change that clears every port costs with an empty table and beside N entries (as a
ratio, in one run), and what the sweep afterwards costs. The number of entries is bounded by
net.netfilter.nf_conntrack_max, which only the host's own namespace can raise.
"""

import argparse
import time
from dataclasses import replace

from benchmarks.clouds import cloud
from benchmarks.entries import fill

from secgroupd.core.draft import Binding
from secgroupd.core.model import Action, Direction, Rule, State
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Judge
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.dataplane.nft import Nft
from secgroupd.proving.namespaces import Lab
from secgroupd.reconcile import Reconciler
from secgroupd.sweep import sweep
from secgroupd.sweeper import Job, Sweeper

PORTS, GROUPS, RULES, PROFILES = 1000, 50, 2000, 20


def with_deny(state: State, number: int) -> State:
    """Add an inbound deny to every group, which clears every port."""
    rule = Rule(
        id=f"cut-{number}",
        direction=Direction.INGRESS,
        action=Action.DENY,
        protocol=6,
        priority=number,
    )
    groups = tuple(replace(g, rules=(*g.rules, rule)) for g in state.security_groups)
    return replace(state, revision=f"{number}", security_groups=groups)


def clear(
    reconciler: Reconciler, state: State, bindings: dict[str, Binding]
) -> tuple[float, float]:
    """Return wall and CPU seconds of one change that clears everybody."""
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = reconciler.apply(state, bindings)
    assert len(outcome.cleared) == PORTS
    return time.perf_counter() - wall, time.process_time() - cpu


def clear_while_sweeping(
    lab: Lab, reconciler: Reconciler, state: State, bindings: dict[str, Binding]
) -> float:
    """Return wall seconds of a change that comes while the background sweep of another runs."""

    def here(adapter: type[Conntrack] | type[Nft]) -> Conntrack | Nft:
        with lab.hv.enter():
            return adapter()

    sweeper = Sweeper(lambda: here(Conntrack), lambda: here(Nft))  # type: ignore[arg-type, return-value]
    policy = Policy(with_deny(state, 15))
    sweeper.start()
    sweeper.submit(Job(policy, reconciler.record.generations, bindings, {}))
    while sweeper.totals.pending:
        time.sleep(0.001)
    wall, _ = clear(reconciler, with_deny(state, 20), bindings)
    sweeper.stop()
    return wall


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=200_000)
    entries = parser.parse_args().entries
    base = cloud(ports=PORTS, groups=GROUPS, rules=RULES, profiles=PROFILES)
    bindings = {p.id: Binding(p.interface or "") for i in base.instances for p in i.ports}
    with Lab() as lab:
        with lab.hv.enter():
            nft, table = Nft(), Conntrack()
        reconciler = Reconciler(nft)
        reconciler.apply(base, bindings)
        empty = [clear(reconciler, with_deny(base, n), bindings) for n in range(1, 6)]
        taken = fill(lab.hv, entries, 0x0A000001, mark=reconciler.record.generations.current)
        full = [clear(reconciler, with_deny(base, n), bindings) for n in range(11, 16)]
        busy = clear_while_sweeping(lab, reconciler, base, bindings)
        judge = Judge(Policy(with_deny(base, 15)), reconciler.record.generations, bindings)
        started, cpu = time.perf_counter(), time.process_time()
        swept = sweep(table, judge, {})
        sweeping, sweeping_cpu = time.perf_counter() - started, time.process_time() - cpu
        nft.close()
        table.close()
    for name, runs in (("no entries", empty), (f"{taken} entries", full)):
        wall, used = (sorted(times)[len(runs) // 2] for times in zip(*runs, strict=True))
        print(
            f"clear {PORTS} ports, {name:>16}: {wall * 1000:7.1f} ms, agent's CPU {used * 1000:6.1f} ms"
        )
    print(f"clear while a sweep is under way:      {busy * 1000:7.1f} ms")
    middle = len(full) // 2
    print(f"ratio: {sorted(full)[middle][0] / sorted(empty)[middle][0]:.2f}")
    print(f"sweep of {taken}: {sweeping:.2f} s, CPU {sweeping_cpu:.2f} s, deleted {swept.deleted}")


if __name__ == "__main__":
    main()
