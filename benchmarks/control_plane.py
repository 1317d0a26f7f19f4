"""What changes cost the agent, from the document's file to the kernel's commit.

    python -m benchmarks.control_plane [--ports N ...] [--rounds N] [--groups-a-port N] [--one-file] [--no-macs]

Runs the daemon's own parts (files, parser, reconciler, record, nft) in a network namespace, at several
sizes in one run. Of each kind of change it prints, as medians in milliseconds: until the last transaction
was committed, and in the slowest round; until the agent is ready for the next change; the agent's own CPU
in that (the nft writer is another process); how long the writer took, and for how many commands. The
ratio is to the same change at the smallest size.
"""

import argparse
import json
import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from benchmarks.clouds import cloud, mac_address
from benchmarks.documents import files, text

from secgroupd.config import load
from secgroupd.core.model import (
    TCP,
    Action,
    Direction,
    GroupPeer,
    Instance,
    Port,
    PrefixPeer,
    Rule,
    SecurityGroup,
    State,
)
from secgroupd.core.plan import Plan
from secgroupd.daemon import Daemon, Due
from secgroupd.proving.namespaces import Lab

SIZES = {100: (20, 1000), 1000: (200, 20_000), 5000: (500, 25_000)}
"""Ports, with groups and rules beside them."""

CLEARED = 1000
"""Ports that are cleared at once, or all where there are fewer."""

RESTS = 3
"""Changes of a kind before those that are measured."""


class Timed:
    """The kernel, and how long it took for transactions."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self.seconds, self.done, self.commands = 0.0, 0.0, 0

    def commit(self, plan: Plan) -> None:
        """Commit a plan."""
        began = time.perf_counter()
        self._kernel.commit(plan)
        self.done = time.perf_counter()
        self.seconds += self.done - began
        self.commands += sum(len(part) for part in plan.transactions)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the kernel's own."""
        return getattr(self._kernel, name)


@dataclass(frozen=True)
class Turn:
    """One turn of the daemon, in seconds."""

    committed: float
    whole: float
    cpu: float
    writer: float
    commands: int


@dataclass
class Host:
    """A daemon, and its document as files."""

    daemon: Daemon
    directory: Path
    one_file: bool
    kernel: Timed = field(init=False)
    _written: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        reconciler = self.daemon.guard.reconciler
        self.kernel = Timed(reconciler.kernel)
        reconciler.kernel = self.kernel

    def give(self, state: State) -> None:
        """Write the files whose content has changed."""
        for name, sections in files(state, one=self.one_file):
            content = text(sections)
            if self._written.get(name) != content:
                fresh = self.directory / f".{name}"
                fresh.write_text(content)
                fresh.rename(self.directory / name)
                self._written[name] = content

    def changed(self, state: State) -> Turn:
        """Run the turn that takes a changed document up."""
        self.give(state)
        found = self._turn(self._woken)
        assert found.commands
        return found

    def resync(self) -> Turn:
        """Run a turn that trusts nothing, and finds nothing to do."""
        found = self._turn(self._compared)
        assert not found.commands
        return found

    def _woken(self) -> None:
        happened = self.daemon.woken(1.0)
        assert happened
        self.daemon.turn(Due(look=math.inf, resync=math.inf), events=True)

    def _compared(self) -> None:
        self.daemon.guard.read()
        self.daemon.guard.resync()

    def _turn(self, act: Callable[[], None]) -> Turn:
        kernel, guard = self.kernel, self.daemon.guard
        began, cpu = time.perf_counter(), time.thread_time()
        kernel.seconds, kernel.commands, kernel.done = 0.0, 0, began
        act()
        whole, used = time.perf_counter() - began, time.thread_time() - cpu
        assert guard.error is None and not guard.problems, guard.status
        return Turn(kernel.done - began, whole, used, kernel.seconds, kernel.commands)


@contextmanager
def host(interfaces: Sequence[str], *, one_file: bool) -> Iterator[Host]:
    """Yield a daemon on a host with these links."""
    with tempfile.TemporaryDirectory() as name, Lab() as lab:
        here = Path(name)
        (here / "state.d").mkdir()
        links = "".join(f"tuntap add {interface} mode tap\n" for interface in interfaces)
        lab.hv.run(["ip", "-batch", "-"], stdin=links)
        settings = {
            "source": {"directory": f"{here}/state.d"},
            "state_dir": f"{here}/lib",
            "run_dir": f"{here}/run",
            "metrics": {"listen": ""},
            "log_level": "error",
            "adoption_grace": 0,
        }
        config = here / "secgroupd.yaml"
        config.write_text(json.dumps(settings))
        with lab.hv.enter():
            daemon = Daemon(load(config), config)
            try:
                yield Host(daemon, here / "state.d", one_file)
            finally:
                daemon.close()


def rule_changed(state: State, number: int) -> State:
    """Give one rule another network as its peer."""
    judging = _judging(state, number)
    peer = PrefixPeer(IPv4Network((0xC6120000 + number * 256, 24)))
    rules = (replace(judging.rules[0], peer=peer), *judging.rules[1:])
    changed = replace(judging, rules=rules)
    groups = tuple(changed if group is judging else group for group in state.security_groups)
    return replace(state, security_groups=groups)


def _judging(state: State, number: int) -> SecurityGroup:
    """Return the group of one of the ports."""
    port = state.instances[number * 7 % len(state.instances)].ports[0]
    return next(g for g in state.security_groups if g.id == port.security_groups[0])


def member_added(state: State, number: int) -> State:
    """Add an instance on another host to a group that a rule of ports here names."""
    rules = _judging(state, number).rules
    named = next(r.peer.group_id for r in rules[1:] if isinstance(r.peer, GroupPeer))
    address = IPv4Address(0x0B000000 + number)
    return _with_instance(state, f"y{number:05}", address, (named,), host_id="elsewhere")


def port_added(state: State, number: int) -> State:
    """Add an instance on this host."""
    groups = state.instances[number * 7 % len(state.instances)].ports[0].security_groups
    address = IPv4Address(0x0C000000 + number)
    return _with_instance(state, f"z{number:05}", address, groups, interface=f"tapz{number}")


def _with_instance(
    state: State,
    name: str,
    address: IPv4Address,
    groups: tuple[str, ...],
    host_id: str | None = None,
    interface: str | None = None,
) -> State:
    added = Port(
        id=f"p{name}",
        vpc_id=state.vpcs[0].id,
        host_id=host_id,
        interface=interface,
        mac_address=mac_address(int(address)),
        private_ips=(address,),
        security_groups=groups,
    )
    return replace(state, instances=(*state.instances, Instance(id=name, ports=(added,))))


def ports_cleared(state: State, number: int) -> State:
    """Add a deny to as many groups as it takes to clear a thousand ports."""
    deny = Rule(
        id=f"cut{number}",
        direction=Direction.INGRESS,
        action=Action.DENY,
        protocol=TCP,
        priority=number % 100 + 1,
    )
    reached: set[str] = set()
    groups = []
    for group in state.security_groups:
        if len(reached) < CLEARED:
            reached |= {i.id for i in state.instances if group.id in i.ports[0].security_groups}
            groups.append(replace(group, rules=(*group.rules, deny)))
        else:
            groups.append(group)
    return replace(state, security_groups=tuple(groups))


CHANGES: dict[str, Callable[[State, int], State]] = {
    "one rule changed": rule_changed,
    "one member added": member_added,
    "one port added": port_added,
    "1000 ports cleared": ports_cleared,
}


def measured(state: State, rounds: int, *, one_file: bool) -> dict[str, list[Turn]]:
    """Run every kind of change on a host of one size."""
    names = [i.ports[0].interface or "" for i in state.instances]
    names += [f"tapz{number}" for number in range(rounds + RESTS)]
    found: dict[str, list[Turn]] = {}
    with host(names, one_file=one_file) as here:
        found["cold start"] = [here.changed(state)]
        for name, change in CHANGES.items():
            turns = []
            for number in range(rounds + RESTS):
                state = change(state, number)
                turns.append(here.changed(state))
            found[name] = turns[RESTS:]
        found["nothing to do"] = [here.resync() for _ in range(rounds)]
    return found


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ports", type=int, nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--groups-a-port", type=int, default=1, help="as many profiles as groups")
    parser.add_argument("--one-file", action="store_true", help="the document is one file")
    parser.add_argument("--no-macs", action="store_true", help="each port has a check of its own")
    given = parser.parse_args()
    smallest: dict[str, float] = {}
    for ports in given.ports:
        groups, rules = SIZES[ports]
        print(f"{ports} ports, {groups} groups, {rules} rules")
        print("                    committed  slowest    ready      CPU   writer commands  ratio")
        state = cloud(
            ports=ports,
            groups=groups,
            rules=rules,
            profiles=groups,
            groups_a_port=given.groups_a_port,
            macs=not given.no_macs,
        )
        turns = measured(state, given.rounds, one_file=given.one_file)
        for name, some in turns.items():
            committed, whole, cpu, writer = (
                statistics.median(getattr(turn, part) for turn in some) * 1000
                for part in ("committed", "whole", "cpu", "writer")
            )
            slowest = max(turn.committed for turn in some) * 1000
            commands = statistics.median(turn.commands for turn in some)
            ratio = whole / smallest.setdefault(name, whole)
            print(
                f"{name:>18} {committed:10.1f} {slowest:8.1f} {whole:8.1f} {cpu:8.1f} "
                f"{writer:8.1f} {commands:8.0f} {ratio:6.1f}"
            )
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"largest resident memory so far: {memory:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
