"""The same policy by secgroupd and by Neutron's own iptables firewall driver, in one run.

    python -m benchmarks.neutron --venv DIRECTORY [--ports N ...] [--packets N] [--rounds N]

DIRECTORY is a virtual environment with Neutron (``python3 -m venv DIRECTORY; DIRECTORY/bin/pip install
neutron``). Everything happens in network namespaces. secgroupd's port is routed, Neutron's on a bridge
that iptables sees, as Neutron has it; what packets cost is told without what the same road costs with
connection tracking alone. Every port has one group of 20 rules: 17 that name the group itself, two
that allow the client (the last ones), one that allows everything outbound.
"""

import argparse
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from benchmarks.data_path import CLIENT, CONNTRACK_ALONE, DPORT, SERVER, Road, cloud
from benchmarks.enforcers import BRIDGE, Cost, Neutrons, Ours, legacy_tools

from secgroupd.core.model import TCP, UDP, Direction, PortRange, PrefixPeer, Rule, State
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Probe, probe

RULES = 20
TCP_PORT, ADDED_PORT, DENIED_PORT = 5432, 7000, 7001
CONNECTIONS = 2000
SILENCE = {UDP: 0.3, TCP: 2.0}
"""Seconds without a word after which nothing has come through; TCP repeats itself until then."""

UNCLAIMED, UNCLAIMED_ADDRESS = "tap-unclaimed", "10.0.99.1"

VERSIONS = "from importlib.metadata import version; print('neutron', version('neutron'))"

Enforcer = Ours | Neutrons
Figures = dict[str, dict[str, float]]
"""What was measured, by what and by whom."""


def allow(rule_id: str, protocol: int, dport: int) -> Rule:
    """Make a rule that lets the client in."""
    return Rule(
        id=rule_id,
        direction=Direction.INGRESS,
        protocol=protocol,
        ports=(PortRange(dport, dport),),
        peer=PrefixPeer(ip_network(CLIENT)),
    )


def policy(ports: int) -> State:
    """Make the document: every port has the one group, and an interface as Neutron names it."""
    state = cloud(ports, 1, RULES - 2, 1, 1)
    named = tuple(
        replace(each, ports=(replace(each.ports[0], interface=interface(at)),))
        for at, each in enumerate(state.instances)
    )
    return with_rule(replace(state, instances=named), allow("tcp", TCP, TCP_PORT))


def interface(number: int) -> str:
    """Return a name as Neutron makes it of a port's id; that of the measured port is number 0."""
    return f"tap{number:08x}-{number & 255:02x}"


def with_rule(state: State, rule: Rule) -> State:
    """Add a rule to the group."""
    (group,) = state.security_groups
    return replace(state, security_groups=(replace(group, rules=(*group.rules, rule)),))


def without_rule(state: State, rule_id: str) -> State:
    """Take a rule from the group."""
    (group,) = state.security_groups
    kept = tuple(rule for rule in group.rules if rule.id != rule_id)
    return replace(state, security_groups=(replace(group, rules=kept),))


class Conversation:
    """A connection that the client has opened and the server has answered."""

    def __init__(self, road: Road, protocol: int) -> None:
        self._protocol = protocol
        kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
        self._server, self._client = (
            each.socket(socket.AF_INET, kind) for each in (road.port.namespace, road.client)
        )
        dport = TCP_PORT if protocol == TCP else DPORT
        self._server.bind((SERVER, dport))
        self._client.settimeout(3)
        self._said = 0
        if protocol == TCP:
            self._server.listen()
            self._client.connect((SERVER, dport))
            listener, (self._server, _) = self._server, self._server.accept()
            listener.close()
        else:
            self._client.bind((CLIENT, 30000))
            self._client.connect((SERVER, dport))
            self._server.connect((CLIENT, 30000))
        assert self.client_is_heard() and self.server_is_heard(), "it was never open"

    def client_is_heard(self) -> bool:
        """Tell whether what the client says next reaches the server."""
        return self._is_heard(self._client, self._server)

    def server_is_heard(self) -> bool:
        """Tell whether what the server says next reaches the client."""
        return self._is_heard(self._server, self._client)

    def _is_heard(self, speaker: socket.socket, listener: socket.socket) -> bool:
        self._said += 1
        word = b"<%d>" % self._said
        speaker.send(word)
        heard, deadline = b"", time.monotonic() + SILENCE[self._protocol]
        while word not in heard and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                heard += listener.recv(1000)
            except TimeoutError:
                break
        return word in heard

    def close(self) -> None:
        """Close both ends."""
        self._client.close()
        self._server.close()


def reaches(road: Road, server: Namespace, address: str, dport: int) -> bool:
    """Tell whether a datagram of the client's reaches an instance."""
    flow = Probe(
        source=road.client,
        source_address=ip_address(CLIENT),
        destination=server,
        destination_address=ip_address(address),
        protocol=UDP,
        dport=dport,
    )
    return probe(flow).delivered


def measure_packets(roads: Mapping[str, Road], packets: int, rounds: int) -> Figures:
    """Return nanoseconds a packet, the median over the rounds, each of which measures every road."""
    runs: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, road in roads.items():
            tests: dict[str, Callable[[int], float]] = {
                "first packet": road.first_packets,
                "established, to the port": road.established,
                "established, from the port": road.answers,
            }
            for what, test in tests.items():
                runs.setdefault((what, name), []).append(test(packets))
    figures: Figures = {}
    for (what, name), values in runs.items():
        figures.setdefault(what, {})[name] = statistics.median(values)
    return figures


def measure_changes(enforcer: Enforcer, state: State) -> tuple[dict[str, Cost], dict[str, bool]]:
    """Return what changes cost and what becomes of connections that are denied; ends the enforcer."""
    road = enforcer.road
    costs = {"restart, nothing changed": enforcer.restart(state)}
    state = with_rule(state, allow("added", UDP, ADDED_PORT))
    costs["a rule added"] = enforcer.apply(state)
    road.first_packets(CONNECTIONS)
    road.open_sinks()
    seen = {}
    for protocol, rule_id, name in ((UDP, "measured", "UDP"), (TCP, "tcp", "TCP")):
        conversation = Conversation(road, protocol)
        state = without_rule(state, rule_id)
        cost = enforcer.apply(state)
        if protocol == UDP:
            costs[f"a rule taken away, {CONNECTIONS} connections cleared"] = cost
        seen |= {
            f"{name}, denied: the client's next packet passes": conversation.client_is_heard(),
            f"{name}, denied: the server's next packet passes": conversation.server_is_heard(),
            f"{name}, denied: the client's after that passes": conversation.client_is_heard(),
        }
        conversation.close()
    enforcer.stop()
    port = road.port.namespace
    fresh = road.lab.add_port(
        interface=UNCLAIMED, addresses=[UNCLAIMED_ADDRESS], bridge=road.bridge
    )
    return costs, seen | {
        "stopped: what is allowed passes": reaches(road, port, SERVER, ADDED_PORT),
        "stopped: what is denied passes": reaches(road, port, SERVER, DENIED_PORT),
        "stopped: a new interface that nobody has claimed is open": reaches(
            road, fresh.namespace, UNCLAIMED_ADDRESS, DENIED_PORT
        ),
    }


BASES = {"routed": None, "bridged": BRIDGE}
OURS = "secgroupd"


def base_of(name: str) -> str:
    """Return the road with connection tracking alone that an enforcer is compared with."""
    return "routed" if name == OURS else "bridged"


def run(ports: int, given: argparse.Namespace, tools: Path | None) -> None:
    """Measure everybody with so many ports, and print it."""
    state = policy(ports)
    with ExitStack() as held:

        def road(bridge: str | None) -> Road:
            made = Road(held.enter_context(Lab()), bridge, interface(0))
            held.callback(made.close)
            return made

        roads = {name: road(bridge) for name, bridge in BASES.items()}
        for base in roads.values():
            base.lab.hv.run(["nft", "-f", "-"], stdin=CONNTRACK_ALONE)
        python = given.venv / "bin" / "python"
        enforcers: dict[str, Enforcer] = {
            OURS: Ours(road(None)),
            "Neutron (nft)": Neutrons(road(BRIDGE), python, None),
        }
        if tools:
            enforcers["Neutron (legacy)"] = Neutrons(road(BRIDGE), python, tools)
        loads = {name: enforcer.apply(state) for name, enforcer in enforcers.items()}
        roads |= {name: enforcer.road for name, enforcer in enforcers.items()}
        figures = measure_packets(roads, given.packets, given.rounds)
        changes = {name: measure_changes(one, state) for name, one in enforcers.items()}
    show_packets(ports, figures, list(enforcers))
    show_costs(ports, {"first load": loads} | turned({n: c for n, (c, _) in changes.items()}))
    show_answers(ports, turned({n: seen for n, (_, seen) in changes.items()}))


def turned(table: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a table with what was outside inside."""
    (first, *_) = table.values()
    return {what: {name: row[what] for name, row in table.items()} for what in first}


def line(what: str, *cells: str) -> None:
    """Print a row of a table of Markdown."""
    print(f"| {what} | {' | '.join(cells)} |")


def head(title: str, names: list[str]) -> None:
    """Print a table's title and its first rows."""
    print()
    line(title, *names)
    line("---", *("---" for _ in names))


def show_packets(ports: int, figures: Figures, names: list[str]) -> None:
    """Print what packets cost beyond connection tracking alone."""
    bare = "; ".join(
        f"{what}: {row['routed'] / 1e3:.2f} and {row['bridged'] / 1e3:.2f}"
        for what, row in figures.items()
    )
    print(f"\n{ports} ports. Routed and bridged, with connection tracking alone, us: {bare}.")
    head(f"{ports} ports: added to a packet, us", names)
    for what, row in figures.items():
        added = {name: (row[name] - row[base_of(name)]) / 1e3 for name in names}
        line(what, *(f"{added[n]:.2f}{ratio(added[n], added[OURS], n)}" for n in names))


def show_costs(ports: int, table: Mapping[str, Mapping[str, Cost]]) -> None:
    """Print what changes cost."""
    names = list(next(iter(table.values())))
    head(f"{ports} ports: CPU s; wall s; processes started", names)
    for what, row in table.items():
        cells = (
            f"{c.cpu:.3f}{ratio(c.cpu, row[OURS].cpu, n)}; {c.wall:.3f}; {c.processes}"
            for n, c in row.items()
        )
        line(what, *cells)


def show_answers(ports: int, table: Mapping[str, Mapping[str, bool]]) -> None:
    """Print what passes."""
    head(f"{ports} ports: what passes", list(next(iter(table.values()))))
    for what, row in table.items():
        line(what, *("yes" if value else "no" for value in row.values()))


def ratio(value: float, ours: float, name: str) -> str:
    """Return how many times ours somebody else's is."""
    return "" if name == OURS else f" ({value / ours:.1f} x)"


def main() -> None:
    """Run the comparison and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True)
    parser.add_argument("--ports", type=int, nargs="+", default=[1, 50, 500])
    parser.add_argument("--packets", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    for command in (
        ["uname", "-r"],
        ["nft", "--version"],
        ["iptables", "--version"],
        ["conntrack", "--version"],
        [str(given.venv / "bin" / "python"), "-c", VERSIONS],
    ):
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    with tempfile.TemporaryDirectory() as directory:
        tools = legacy_tools(Path(directory))
        for ports in given.ports:
            run(ports, given, tools)


if __name__ == "__main__":
    main()
