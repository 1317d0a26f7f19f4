"""What enforces one policy on one road, and what its changes cost: secgroupd, and Neutron's driver."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data_path import Road

from secgroupd.core.draft import Binding
from secgroupd.core.model import Direction, GroupPeer, PrefixPeer, Rule, State
from secgroupd.core.tracked import Judge
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.dataplane.nft import Nft
from secgroupd.reconcile import Forgetful, Reconciler
from secgroupd.sweep import sweep

NETWORK = "net-0000000"
BRIDGE = f"brq{NETWORK}"
"""The bridge that Neutron makes for a network of that id."""

PROTOCOLS = {6: "tcp", 17: "udp"}
DRIVER = Path(__file__).with_name("neutron_driver.py")
LEGACY = Path("/usr/sbin/xtables-legacy-multi")


@dataclass
class Cost:
    """Seconds, processor seconds of everybody concerned, and processes started."""

    wall: float = 0.0
    cpu: float = 0.0
    processes: int = 0


class _Started:
    """Counts the processes that this program starts."""

    def __init__(self) -> None:
        self.count = 0
        sys.addaudithook(self._heard)

    def _heard(self, event: str, _: object) -> None:
        self.count += event == "subprocess.Popen"


STARTED = _Started()


def cpu() -> float:
    """Return processor seconds of this process and its children, those that live included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = Path("/proc/thread-self/children").read_text().split()
    nanoseconds = [int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in living]
    return time.process_time() + used.ru_utime + used.ru_stime + sum(nanoseconds) / 1e9


@contextmanager
def costing() -> Iterator[Cost]:
    """Measure a block, in which nobody else's child may run."""
    cost = Cost()
    started, used, began = STARTED.count, cpu(), time.perf_counter()
    yield cost
    cost.wall, cost.cpu = time.perf_counter() - began, cpu() - used
    cost.processes = STARTED.count - started


class Ours:
    """The reconciler with its writer, and the sweep that follows what clears."""

    def __init__(self, road: Road) -> None:
        self.road = road
        self._memory = Forgetful()
        self._open = ExitStack()
        self._start()

    def _start(self) -> None:
        with self.road.lab.hv.enter():
            self._nft = self._open.enter_context(Nft())
            self._table = self._open.enter_context(Conntrack())
        self._reconciler = Reconciler(self._nft, self._memory, grace=0)

    def apply(self, state: State) -> Cost:
        """Enforce a state."""
        ports = (port for instance in state.instances for port in instance.ports)
        bindings = {port.id: Binding(port.interface or "") for port in ports}
        with costing() as cost:
            outcome = self._reconciler.apply(state, bindings)
            if outcome.cleared:
                judge = Judge(outcome.policy, outcome.generations, bindings)
                sweep(self._table, judge, {})
        return cost

    def restart(self, state: State) -> Cost:
        """Enforce the same state from a fresh start."""
        self.stop()
        self._start()
        return self.apply(state)

    def stop(self) -> None:
        """Leave nothing running."""
        self._open.close()


class Neutrons:
    """Neutron's ``IptablesFirewallDriver`` in a process of its own.

    Args:
        road: where; on the bridge that Neutron would make.
        python: of an environment with ``neutron``.
        tools: a directory that is searched for ``iptables`` first; None takes the host's.
    """

    def __init__(self, road: Road, python: Path, tools: Path | None) -> None:
        self.road = road
        self._python, self._tools = python, tools
        self._start()

    def _start(self) -> None:
        path = os.pathsep.join([*([str(self._tools)] if self._tools else []), os.environ["PATH"]])
        self._process = self.road.lab.hv.popen(
            # -P: the benchmark beside the script is not what it means by neutron.
            [str(self._python), "-P", "-W", "ignore", str(DRIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": path},
        )
        self._fresh = True
        assert self._process.stdout and self._process.stdout.readline() == "ready\n"

    def apply(self, state: State) -> Cost:
        """Enforce a state, every port of which is told anew as Neutron's agent would."""
        told = {"do": "prepare" if self._fresh else "update", **as_neutron_says(state)}
        self._fresh = False
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return Cost(**json.loads(self._process.stdout.readline()))

    def restart(self, state: State) -> Cost:
        """Enforce the same state from a fresh start."""
        self.stop()
        self._start()
        return self.apply(state)

    def stop(self) -> None:
        """Leave nothing running."""
        self._process.kill()
        self._process.communicate()


def legacy_tools(directory: Path) -> Path | None:
    """Make a directory in which ``iptables`` is the legacy one; None where there is none."""
    if not LEGACY.exists():
        return None
    for family in ("iptables", "ip6tables"):
        for suffix in ("", "-save", "-restore"):
            (directory / f"{family}{suffix}").symlink_to(LEGACY)
    return directory


def as_neutron_says(state: State) -> Mapping[str, Any]:
    """Return a state as Neutron's server tells it to agents.

    Only what the benchmark's policy has: IPv4, allow, TCP and UDP, one port or all.
    """
    ports = [port for instance in state.instances for port in instance.ports]
    groups = {
        group.id: [_rule(group.id, rule) for rule in group.rules] for group in state.security_groups
    }
    members = {
        group: {
            "IPv4": [
                [str(port.private_ips[0]), port.mac_address]
                for port in ports
                if group in port.security_groups
            ],
            "IPv6": [],
        }
        for group in groups
    }
    asked = {rule["remote_group_id"] for rules in groups.values() for rule in rules}
    return {
        "groups": groups,
        "members": {group: members[group] for group in asked if group},
        "ports": [
            {
                "device": port.interface,
                "network_id": NETWORK,
                "mac_address": port.mac_address,
                "fixed_ips": [str(each) for each in port.private_ips],
                "security_groups": list(port.security_groups),
                "security_group_source_groups": list(port.security_groups),
                "allowed_address_pairs": [],
            }
            for port in ports
        ],
    }


def _rule(group: str, rule: Rule) -> dict[str, Any]:
    dport = rule.ports[0].first if rule.ports else None
    inbound = rule.direction is Direction.INGRESS
    return {
        "security_group_id": group,
        "direction": "ingress" if inbound else "egress",
        "ethertype": "IPv4",
        "protocol": PROTOCOLS[rule.protocol] if rule.protocol else None,
        "port_range_min": dport,
        "port_range_max": dport,
        "remote_group_id": rule.peer.group_id if isinstance(rule.peer, GroupPeer) else None,
        "source_ip_prefix": str(rule.peer.network) if isinstance(rule.peer, PrefixPeer) else None,
    }
