"""A process that changes a host's policy many times, and says what it holds meanwhile.

    python -m tests.netns.soak CHANGES     (in the network namespace to be changed)

Prints JSON lines ``{"change", "rss", "writer_rss", "fds", "objects"}``: memory in KiB of this process
and of its nft writer, open descriptors, chains, sets and counters in the kernel.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.builders import both, group, port, rule, state

from secgroupd.core.draft import Binding
from secgroupd.core.host import FAMILIES
from secgroupd.core.model import State
from secgroupd.dataplane.nft import Nft
from secgroupd.reconcile import Reconciler

SAMPLES = 5


def documents(random: Random) -> Iterator[State]:
    """Yield documents without end, each a random step from the one before."""
    rules = {name: [*both("egress")] for name in "abcde"}
    lists = {f"p{at}": random.sample("abcde", 2) for at in range(6)}
    while True:
        name = random.choice("abcde")
        if random.random() < 0.2:
            lists[f"p{random.randrange(6)}"] = random.sample("abcde", random.randrange(1, 4))
        elif len(rules[name]) > 8:
            rules[name].pop(random.randrange(2, len(rules[name])))
        else:
            first = random.randrange(1, 60000)
            peer = random.choice(["sg:a", "sg:b", f"10.{random.randrange(200)}.0.0/16", None])
            made = rule(
                random.choice(["ingress", "egress"]),
                random.choice(["tcp", "udp"]),
                f"{first}-{first + random.randrange(3)}",
                peer,
                action=random.choice(["allow", "allow", "deny"]),
                priority=random.randrange(1, 5),
            )
            if made.id not in {one.id for one in rules[name]}:
                rules[name].append(made)
        present = random.sample(sorted(lists), random.randrange(3, 7))
        yield state(
            [group(each, *own) for each, own in rules.items()],
            [port(at, lists[at], [f"10.0.0.{int(at[1:]) + 1}"]) for at in present],
            revision=str(random.random()),
        )


def resident(pid: int) -> int:
    """Return the memory that a process holds, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main() -> None:
    """Change, and tell."""
    changes = int(sys.argv[1])
    with Nft() as nft:
        reconciler = Reconciler(nft, grace=0)
        for number, made in zip(range(1, changes + 1), documents(Random(7)), strict=False):
            ports = [one for instance in made.instances for one in instance.ports]
            bindings = {one.id: Binding(one.interface or "") for one in ports}
            reconciler.apply(made, bindings)
            if number % (changes // SAMPLES) == 0:
                tables = [table for family in FAMILIES if (table := nft.observe(family))]
                found = sum(len(t.chains) + len(t.sets) + len(t.counters) for t in tables)
                wanted = reconciler.propose(made, bindings)
                assert not wanted.plan
                expected = sum(
                    len(t.chains) + len(t.sets) + len(t.counters) for t in wanted.tables.values()
                )
                writer = next(iter(Path(f"/proc/{os.getpid()}/task").iterdir()))
                child = int((writer / "children").read_text().split()[0])
                sample = {
                    "change": number,
                    "rss": resident(os.getpid()),
                    "writer_rss": resident(child),
                    "fds": len(list(Path("/proc/self/fd").iterdir())),
                    "objects": found,
                    "expected": expected,
                }
                sys.stdout.write(json.dumps(sample) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
