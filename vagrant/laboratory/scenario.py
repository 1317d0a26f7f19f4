"""The scenario: what the lab proves, on its real hosts, told as a report."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, count, product
from pathlib import Path
from typing import Any, TypeVar

from laboratory.cluster import Cluster, at_once
from laboratory.edits import CONVERSATIONS, PEERED, ROWS, edited, groups, label
from laboratory.report import Report
from laboratory.shell import LabError
from laboratory.tables import FAMILIES, HERE, Instance, instances

PROBES = [
    ("icmp", 0, "p"),
    ("tcp", 80, "w"),
    ("tcp", 8080, "l"),
    ("tcp", 9090, "b"),
    ("udp", 53, "n"),
]
"""What is asked and to be answered: protocol, port, and the letter that says that it was."""
ONE_WAY = ("udp", 9999, "s")
"""What nobody answers."""
LETTERS = "".join(letter for *_, letter in (*PROBES, ONE_WAY))
LEGEND = (
    "p ping, w tcp/80, l tcp/8080 (by address), b tcp/9090 (backstage), n udp/53 (names), "
    "s udp/9999 (a stream that nobody answers; ~ not each datagram once); - nothing"
)
VPCS = {"b": "vpc-blue (bridged)", "g": "vpc-green (routed)", "r": "vpc-red (switched)"}
CONNECTED = "bg"
"""The VPCs that the hosts route between. The third one has the first one's addresses."""
ECHO_REQUESTS = {
    "IPv4": {"protocol": "icmp", "icmp_type": 8},
    "IPv6": {"protocol": "icmpv6", "icmp_type": 128},
}
OUTSIDE = "world"
BY_ADDRESS = 8080
"""The TCP port that rules open by address, to every instance from every app server."""
PATIENCE = 5.0
"""After so many seconds a probe without an answer counts as denied."""
WATCHED = 2.5
"""For so many seconds it is watched whether a conversation goes on."""
ALERT_SECONDS = 600
DATAGRAMS = 5
"""So many are sent for a cell of the matrix."""
STREAM_SECONDS = 0.5
"""From one datagram to the next of streams during which the policy changes."""
STREAM_DATAGRAMS = 20
"""At least so many of each are sent under each policy."""
ARRIVAL_SECONDS = 120.0
"""What is sent and let through has arrived by then, however busy an emulated processor is."""

Cells = dict[tuple[str, str], str]
"""For who asks and who is asked, which of the probes pass, as letters."""
Arrived = dict[str, tuple[int, int, int]]
"""By label and receiver, how many packets have arrived, and the number of the first and of the last one."""
NOTHING = (0, 0, 0)

T = TypeVar("T")


PARTS = ("matrix", "peered", "membership", "clearing", "killed", "rebooted", "moved", "broken")
"""What is proven, in this order."""


@dataclass(frozen=True)
class Stream:
    """Numbered datagrams from one instance to another."""

    source: str
    to: str
    family: str
    label: str

    @property
    def key(self) -> str:
        """By what its receiver counts it."""
        return f"{self.label} at {self.to}"


class Scenario:
    """The lab under way."""

    def __init__(self, cluster: Cluster, report: Report) -> None:
        self.cluster = cluster
        self.say = report
        self.policy = (HERE / "policy" / "lab.yaml").read_text()
        self.serial = count(1)
        self.denied: list[Stream] = []
        self.table = instances()
        self.places = {each.name: each.host for each in self.table.values()}
        self.monitor = next(
            (host.name for host in cluster.hosts.values() if host.role == "monitor"), None
        )

    def run(self, only: list[str]) -> None:
        """Prove everything, or only some parts, one after the other."""
        for part in ("versions", "begin", *(only or PARTS)):
            try:
                getattr(self, part)()
            except LabError as error:
                self.say.check(f"{part} comes to its end", holds=False, otherwise=str(error))

    # Beginnings.

    def versions(self) -> None:
        """Say what runs."""
        self.say.title("The machines")
        script = (
            'echo "Debian $(cat /etc/debian_version), Linux $(uname -r)"; '
            "for p in secgroupd nftables python3 prometheus prometheus-alertmanager; do "
            "dpkg-query -W -f=', ${Package} ${Version}' $p 2>/dev/null || true; done"
        )
        found = at_once(
            lambda host: self.cluster.ssh(host.name).run(script), self.cluster.hosts.values()
        )
        for name, text in found.items():
            self.say.line(f"{name}: {text.replace(chr(10), '')}")

    def begin(self) -> None:
        """Put the policy in force and find everything in its place."""
        self.say.title("One policy on all hosts")
        began = time.monotonic()
        revision = self.cluster.push_text(self.policy)
        took = time.monotonic() - began
        self.say.done(f"revision {revision} is in force on every host, after {took:.0f} s")
        ready = self.cluster.ask_all("ready")
        for host in self.cluster.hypervisors:
            here = sorted(name for name, place in self.places.items() if place == host.name)
            self.say.check(f"{host.name} has {', '.join(here)}", ready[host.name]["here"] == here)
        for host in self.cluster.hypervisors:
            status = self._status(host.name)
            enforced = [
                port for port, found in status["ports"].items() if found["state"] == "enforced"
            ]
            mine = sorted(f"p-{name}" for name, place in self.places.items() if place == host.name)
            self.say.check(f"{host.name} is healthy and enforces {', '.join(mine)}",
                           status["healthy"] and sorted(enforced) == mine, str(status))  # fmt: skip

    def _status(self, name: str) -> dict[str, Any]:
        _, text = self.cluster.ssh(name).code("secgroupctl status --json")
        found: dict[str, Any] = json.loads(text)
        return found

    # Who reaches whom.

    def matrix(self, title: str = "Who reaches whom: observed/expected") -> None:
        """Try everything from everywhere, beside what the policy's evaluator says."""
        self.say.title(title)
        for family, (found, _) in self._compared().items():
            across = [f"{a} to {b}" for a, b in self._across() if found[a, b].strip("-")]
            self.say.check(f"{family}: nothing passes from one VPC to another, either way or one way",
                           not across, ", ".join(across))  # fmt: skip

    def _compared(self) -> dict[str, tuple[Cells, Cells]]:
        """Show what passes beside what is to pass; return both, by family."""
        self.say.line(LEGEND)
        compared = {}
        for family in FAMILIES:
            expected, observed = self._expected(family), self._observed(family)
            compared[family] = observed, expected
            for vpc, name in VPCS.items():
                self.say.line()
                self._show(vpc, f"{name}, {family}", observed, expected)
            self.say.line()
            wrong = [f"{a} to {b}" for a, b in expected if observed[a, b] != expected[a, b]]
            self.say.check(f"{family}: every cell is as expected", not wrong, ", ".join(wrong))
            self._namesakes(family, observed)
        return compared

    def _namesakes(self, family: str, observed: Cells) -> None:
        """Say whether those who have the same address are each reached by their own VPC's alone."""
        shared = [
            pair
            for pair in combinations(self.table, 2)
            if len({self.table[name].at(family) for name in pair}) == 1
        ]
        wrong = []
        for pair in shared:
            for to in pair:
                reached = {a[0] for (a, b), cell in observed.items() if b == to and cell.strip("-")}
                if reached & {name[0] for name in pair} != {to[0]}:
                    wrong.append(f"{to} from {', '.join(reached) or 'nowhere'}")
        names = ", ".join(" as ".join(pair) for pair in shared)
        self.say.check(f"{family}: who has another's address ({names}) is reached from its own VPC alone",
                       shared and not wrong, ", ".join(wrong))  # fmt: skip

    def _across(self) -> list[tuple[str, str]]:
        """The pairs of instances in two VPCs."""
        return [(a, b) for a, b in self._pairs() if a != OUTSIDE and a[0] != b[0]]

    def _show(self, vpc: str, name: str, observed: Cells, expected: Cells) -> None:
        ends = [each for each in self.table if each.startswith(vpc)]
        others = [each for each in self.table if each not in ends]
        sources = [*ends, *others, *([OUTSIDE] if self.monitor and vpc == "g" else [])]
        heads = "".join(f"{end + ' ' + self.places[end]:>15}" for end in ends)
        self.say.line(f"{name:<25}{heads}")
        silent = []
        nothing = "-" * len(LETTERS)
        for source in sources:
            if source in others and all(
                observed[source, to] == expected[source, to] == nothing for to in ends
            ):
                silent.append(source)
                continue
            cells = [
                "" if source == to else f"{observed[source, to]}/{expected[source, to]}"
                for to in ends
            ]
            place = self.places.get(source, self.monitor or "")
            line = f"{source + ' ' + place:<25}" + "".join(f"{cell:>15}" for cell in cells)
            self.say.line(line.rstrip())
        if silent:
            self.say.line(
                f"{f'each of {len(silent)} others':<25}"
                + f"{nothing}/{nothing}".rjust(15) * len(ends)
            )

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for to in self.table:
            for source in self.table:
                if source != to:
                    yield source, to
            if self.monitor and to.startswith("g"):
                yield OUTSIDE, to

    def _expected(self, family: str) -> Cells:
        """Ask secgroupctl test, which judges by the document, what is to pass."""
        pairs = list(self._pairs())
        outside = self.cluster.hosts[self.monitor].at(family) if self.monitor else ""
        asked = [
            {"from": outside if source == OUTSIDE else source, "to": to, "ethertype": family,
             **({"protocol": protocol, "dport": port} if port else ECHO_REQUESTS[family]),
             "expect": "allow"}
            for source, to in pairs
            for protocol, port, _ in (*PROBES, ONE_WAY)
        ]  # fmt: skip
        way = self.cluster.ssh(self.cluster.hypervisors[0].name)
        way.run("cat >/tmp/tests.json", given=json.dumps(asked).encode())
        _, text = way.code("secgroupctl test --json /etc/secgroupd/policy/current /tmp/tests.json")
        got = [json.loads(line)["got"] == "allow" for line in text.splitlines() if line[0] == "{"]
        if len(got) != len(asked):
            raise LabError(f"secgroupctl test: {text[-1000:]}")
        rows = _rows(got, len(LETTERS))
        return {pair: _letters(row) for pair, row in zip(pairs, rows, strict=True)}

    def _observed(self, family: str) -> Cells:
        pairs = list(self._pairs())
        # Counted when everything else has been asked, so that what is on its way has come by then.
        streams = {(each.source, each.to): each for each in self._streams(pairs, [family])}
        self._send(streams.values(), DATAGRAMS)
        self._await_sent(streams.values(), DATAGRAMS)
        pings = f"ping {next(self.serial)}"
        answered: dict[tuple[str, str], list[bool]] = {}

        def observe(name: str) -> None:
            mine = [pair for pair in pairs if self._host(pair[0]) == name]
            probes = [
                [source, self.table[to].at(family), to, protocol, port, f"{pings} {source}>{to}"]
                for source, to in mine
                for protocol, port, _ in PROBES
            ]
            # In portions: an emulated processor must not be what keeps an answer from coming.
            got: list[bool] = []
            for start in range(0, len(probes), 100):
                portion = probes[start : start + 100]
                got += self.cluster.ask(name, "probe", probes=portion, seconds=PATIENCE)
            answered.update(zip(mine, _rows(got, len(PROBES)), strict=True))

        at_once(lambda host: observe(host.name), self.cluster.hosts.values())
        arrived = self._arrived()
        found = {}
        for source, to in pairs:
            # Who has answered a ping does not say so; who was to answer has counted it.
            ping, *rest = answered[source, to]
            ping = ping and f"{pings} {source}>{to} at {to}" in arrived
            number, _, _ = arrived.get(streams[source, to].key, NOTHING)
            cell = _letters((ping, *rest, number == DATAGRAMS))
            found[source, to] = cell if number in {0, DATAGRAMS} else cell[:-1] + "~"
        return found

    # Streams that nobody answers.

    def _streams(self, pairs: Iterable[tuple[str, str]], families: Iterable[str]) -> list[Stream]:
        number = next(self.serial)
        return [
            Stream(source, to, family, f"stream {number} {source}>{to} {family}")
            for (source, to), family in product(pairs, families)
        ]

    def _send(self, streams: Iterable[Stream], datagrams: int | None, **rest: float) -> None:
        """Begin to send so many datagrams of each (None: until all is closed)."""
        for host in self.cluster.hosts.values():
            mine = [
                [each.source, self.table[each.to].at(each.family), each.label]
                for each in streams
                if self._host(each.source) == host.name
            ]
            self.cluster.ask(host.name, "stream", streams=mine, times=datagrams, **rest)

    def _sent(self, streams: Iterable[Stream]) -> dict[Stream, int]:
        """Return how many datagrams of each have been sent, which is the last one's number."""
        counts = self.cluster.ask_all("counts")
        return {
            each: counts[self._host(each.source)]["sent"].get(each.label, 0) for each in streams
        }

    def _await_sent(
        self, streams: Iterable[Stream], datagrams: int, before: Mapping[Stream, int] | None = None
    ) -> dict[Stream, int]:
        """Wait until so many more of each have been sent than before; return how many have been."""
        until = {each: datagrams + (before or {}).get(each, 0) for each in streams}

        def done(sent: Mapping[Stream, int]) -> bool:
            return all(sent[each] >= until[each] for each in until)

        sent = self._await(lambda: self._sent(until), done)
        if not done(sent):
            raise LabError(f"streams are not sent: {until} are awaited, {sent} have been")
        return sent

    def _arrived(self) -> Arrived:
        found: Arrived = {}
        for counts in self.cluster.ask_all("counts").values():
            found |= {key: tuple(numbers) for key, numbers in counts["counted"].items()}
        return found

    def _await(self, ask: Callable[[], T], holds: Callable[[T], bool]) -> T:
        """Ask until something holds, or has had time enough to; return the last answer."""
        until = time.monotonic() + ARRIVAL_SECONDS
        while not holds(found := ask()) and time.monotonic() < until:
            time.sleep(0.5)
        return found

    def _host(self, instance: str) -> str:
        return self.places.get(instance) or self.monitor or ""

    def _reaches(self, source: str, to: str, protocol: str, port: int) -> list[bool]:
        """Try it in each family."""
        probes = [
            [source, self.table[to].at(family), to, protocol, port, ""] for family in FAMILIES
        ]
        got: list[bool] = self.cluster.ask(
            self._host(source), "probe", probes=probes, seconds=PATIENCE
        )
        return got

    def peered(self) -> None:
        """Connect the VPCs, so that what was walled off passes; part them again."""
        self.say.title("vpc-blue and vpc-green peered: observed/expected")
        tried = [(a, b) for a, b in self._across() if "app" in a and {a[0], b[0]} == set(CONNECTED)]
        streams = self._streams(
            [(a, b) for a, b in tried if self.places[a] != self.places[b]], FAMILIES
        )
        self._send(streams, None, seconds=STREAM_SECONDS)
        apart = self._await_sent(streams, STREAM_DATAGRAMS)
        self.cluster.push_text(edited(self.policy, *PEERED))
        peered = self._sent(streams)
        compared = self._compared()
        for family, (found, _) in compared.items():
            cut = [f"{a} to {b}" for a, b in tried if "l" not in found[a, b]]
            self.say.check(
                f"{family}: what the rules allow by address passes from each VPC to the other, "
                f"on one host and between hosts: tcp/{BY_ADDRESS}, {len(tried)} pairs",
                not cut,
                ", ".join(cut),
            )
        allowed = {
            each for each in streams if ONE_WAY[2] in compared[each.family][1][each.source, each.to]
        }
        self._one_way(streams, allowed, apart, peered)
        self.say.title(
            "The peering removed, under connections and streams from one VPC to the other"
        )
        begun = self._converse([(a, b, BY_ADDRESS) for a, b in tried])
        early = [name for name, how in self._standing(begun).items() if how != "lives"]
        self.say.check(f"before: {len(begun)} connections live", not early, ", ".join(early))
        self.cluster.push_text(self.policy)
        parted = self._sent(streams)
        left = [f"{name} {how}" for name, how in self._standing(begun).items() if how != "cut"]
        self.say.check("all of them are cut", not left, ", ".join(left))
        sent = self._await_sent(streams, STREAM_DATAGRAMS, parted)
        arrived = self._arrived()
        late = [each.label for each in streams if arrived.get(each.key, NOTHING)[2] > parted[each]]
        since = sum(sent.values()) - sum(parted.values())
        self.say.check(
            f"of {since} datagrams of these streams that were sent since, none arrives",
            since and not late,
            ", ".join(late),
        )
        self.cluster.ask_all("close")
        self.matrix("Who reaches whom, apart again: observed/expected")

    def _one_way(
        self,
        streams: list[Stream],
        allowed: set[Stream],
        apart: dict[Stream, int],
        peered: dict[Stream, int],
    ) -> None:
        """Say of running streams that what was sent apart has not arrived, and what was sent since has.

        Args:
            streams: from each VPC to the other, from each host to the other, in each family.
            allowed: those that rules let in from a peered VPC.
            apart: the number of the last datagram that was sent before the peering.
            peered: the number of the last one that was sent when it was in force everywhere.
        """
        sent = self._await_sent(streams, STREAM_DATAGRAMS, peered)
        arrived = self._await(
            self._arrived,
            lambda found: all(found.get(each.key, NOTHING)[2] >= sent[each] for each in allowed),
        )
        early, lost, denied = [], [], []
        for each in streams:
            number, first, last = arrived.get(each.key, NOTHING)
            told = f"{each.label}: {number} arrived, {first} to {last}"
            if number and first <= apart[each]:
                early.append(told)
            if each not in allowed and number:
                denied.append(told)
            # No number is missing from the first one on, which came before the peering was in force everywhere.
            whole = number == last - first + 1 and first <= peered[each] + 1 and last >= sent[each]
            if each in allowed and not whole:
                lost.append(told)
        self.say.check(
            f"before, apart: of {sum(apart.values())} datagrams of {len(streams)} streams between the hosts, "
            "which nobody answers, none has arrived", not early, ", ".join(early),
        )  # fmt: skip
        since = sum(sent[each] - peered[each] for each in allowed)
        self.say.check(
            f"peered: of the {len(allowed)} streams that the rules allow each of {since} datagrams arrives, "
            f"of the {len(streams) - len(allowed)} others none",
            allowed and not lost and not denied, ", ".join([*lost, *denied]),
        )  # fmt: skip

    def membership(self) -> None:
        """A port on one host joins a group that a port on the other host lets in."""
        self.say.title("Group membership across hosts")
        tried = [(f"{vpc}-app-1", f"{vpc}-web-2") for vpc in CONNECTED]

        def names() -> list[bool]:
            return [got for pair in tried for got in self._reaches(*pair, "udp", 53)]

        what = "app-1 (hv1) asks web-2 (hv2) on udp/53, which sg-web allows its own members"
        self.say.check(f"not a member: {what}: denied", not any(names()))
        self.cluster.push_text(edited(self.policy, *groups("app-1", "sg-app", "sg-app, sg-web")))
        self.say.check(
            "joined sg-web: allowed, in vpc-blue and vpc-green and both families", all(names())
        )
        self.cluster.push_text(self.policy)
        self.say.check("left it: denied", not any(names()))

    # Conversations.

    def _converse(self, ends: list[tuple[str, str, int]]) -> dict[str, tuple[str, str, str]]:
        """Begin conversations in each family; return label and family to client, server and key."""
        begun = {}
        for (client, server, port), family in product(ends, FAMILIES):
            to = self.table[server].at(family)
            key = self.cluster.ask(
                self._host(client), "open", instance=client, to=to, port=port, seconds=PATIENCE
            )
            if key is None:
                raise LabError(f"{client} cannot open a connection to {server}:{port}, {family}")
            begun[f"{label(client, server, port)} {family}"] = (client, server, key)
        return begun

    def _standing(self, begun: dict[str, tuple[str, str, str]]) -> dict[str, str]:
        """Watch conversations for a while; tell of each whether it ``lives`` or is ``cut``."""
        before = self.cluster.ask_all("counts")
        time.sleep(WATCHED)
        after = self.cluster.ask_all("counts")
        found = {}
        for name, (client, server, key) in begun.items():
            moved = []
            for side, end in (("client", client), ("server", server)):
                host = self._host(end)
                moved.append(after[host][side].get(key, 0) > before[host][side].get(key, 0))
            found[name] = {2: "lives", 1: "passes one way only", 0: "cut"}[sum(moved)]
        return found

    def _conversations(self) -> dict[str, tuple[str, str, str]]:
        return self._converse(
            [
                (f"{vpc}-{a}", f"{vpc}-{b}", port)
                for vpc in CONNECTED
                for a, b, port in CONVERSATIONS
            ]
        )

    def clearing(self) -> None:
        """Change the policy in each way that the clearing table knows, under running connections."""
        self.say.title("The clearing table, under connections from one host to the other")
        self.say.line("In vpc-blue and vpc-green and both families, each from one host to the other: " + ", ".join(
            label(*each) for each in CONVERSATIONS))  # fmt: skip
        self.say.line()
        for row in ROWS:
            self.cluster.push_text(self.policy)
            self.cluster.ask_all("close")
            begun = self._conversations()
            early = [name for name, how in self._standing(begun).items() if how != "lives"]
            if early:
                raise LabError(f"before anything changed, these do not live: {early}")
            self.cluster.push_text(edited(self.policy, *row.edits))
            found = self._standing(begun)
            wrong = [
                f"{name} {how}"
                for name, how in found.items()
                if how != ("cut" if re.sub(r"\b[bg]-| .*", "", name) in row.cut else "lives")
            ]
            cut = ", ".join(sorted(row.cut)) or "nothing"
            self.say.check(f"{row.change}: cut: {cut}", not wrong, "; ".join(wrong))
        self.cluster.push_text(self.policy)
        self.cluster.ask_all("close")

    # Accidents.

    def killed(self) -> None:
        """Kill the agent where the traffic arrives."""
        victim = self.cluster.hypervisors[1].name
        self.say.title(f"The agent on {victim} killed, under a permitted ping and a denied stream")
        begun = self._traffic()
        way = self.cluster.ssh(victim)
        before = way.run("systemctl show -p MainPID --value secgroupd").strip()
        way.run(f"kill -KILL {before}")
        time.sleep(2)
        way.run(
            f"until [ $(systemctl show -p MainPID --value secgroupd) != {before} ] && "
            "secgroupctl status >/dev/null; do sleep 0.5; done"
        )
        self.say.done("systemd has started another one, which is healthy")
        lost = self._lost()
        self.say.check("no ping was lost", not any(lost.values()), str(lost))
        arrived = self._denied_arrived()
        self.say.check("nothing of the denied stream arrived", not arrived, str(arrived))
        cut = [name for name, how in self._standing(begun).items() if how != "lives"]
        self.say.check("all connections live", not cut, ", ".join(cut))
        self.cluster.ask_all("close")

    def rebooted(self) -> None:
        """Reboot the host where the traffic arrives."""
        victim = self.cluster.hypervisors[1].name
        self.say.title(f"{victim} rebooted, under a permitted ping and a denied stream")
        self._traffic()
        way = self.cluster.ssh(victim)
        boot = way.run("cat /proc/sys/kernel/random/boot_id")
        arrived = self._denied_arrived()
        self.cluster.hang_up(victim)
        way.code("systemd-run -q --on-active=1 systemctl reboot")
        way.forget()
        began = time.monotonic()
        while True:
            way.wait()
            try:
                code, text = way.code("cat /proc/sys/kernel/random/boot_id")
            except LabError:
                continue
            if code == 0 and text != boot:
                break
            way.forget()
            time.sleep(1)
        way.run("until systemctl is-active -q lab-instances secgroupd; do sleep 1; done")
        self._await_line(victim)
        took = time.monotonic() - began
        self.say.line(f"{victim} is back after {took:.0f} s")
        guard = way.run(
            "systemctl show -p ActiveEnterTimestampMonotonic --value secgroupd-guard lab-instances"
        ).split()
        self.say.check("the guard was done before the first instance was made",
                       0 < int(guard[0]) < int(guard[1]), str(guard))  # fmt: skip
        time.sleep(10)
        before = self._pings()
        time.sleep(5)
        after = self._pings()
        still = [key for key in after if after[key][1] - before.get(key, [0, 0])[1] < 20]
        self.say.check("the pings to its instances are answered again", not still, str(still))
        arrived = {**arrived, **self._denied_arrived()}
        self.say.check("nothing of the denied stream arrived, before or since", not arrived,
                       str(arrived))  # fmt: skip
        status = self._status(victim)
        self.say.check("its agent is healthy", status["healthy"], str(status))
        self.cluster.ask_all("close")
        self.matrix("Who reaches whom after the reboot: observed/expected")

    def _await_line(self, name: str) -> None:
        for _ in range(60):
            try:
                self.cluster.ask(name, "ready")
            except LabError:
                self.cluster.hang_up(name)
                time.sleep(1)
            else:
                return
        raise LabError(f"{name}: its instances do not come back")

    def _traffic(self) -> dict[str, tuple[str, str, str]]:
        """Begin pings and conversations that are permitted, and streams that are not."""
        self.cluster.ask_all("close")
        begun = self._conversations()
        pairs = [(f"{vpc}-app-1", f"{vpc}-web-2") for vpc in CONNECTED]
        for (here, there), family in product(pairs, FAMILIES):
            to = self.table[there].at(family)
            self.cluster.ask(self._host(here), "ping", instance=here, to=to)
        self.denied = self._streams(pairs, FAMILIES)
        self._send(self.denied, None)
        self._await_sent(self.denied, STREAM_DATAGRAMS)
        return begun

    def _pings(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for counts in self.cluster.ask_all("counts").values():
            found |= counts["pings"]
        return found

    def _lost(self) -> dict[str, float]:
        """Return how many pings have no answer, but for the one that may be under way."""
        return {key: max(0, sent - got - 1) for key, (sent, got, _) in self._pings().items()}

    def _denied_arrived(self) -> Arrived:
        arrived = self._arrived()
        return {each.key: arrived[each.key] for each in self.denied if each.key in arrived}

    # An instance that moves.

    def moved(self) -> None:
        """Move an instance of vpc-blue and one of vpc-green to the other host and back, with its connections."""
        self.say.title("An instance moved to the other host, with its TCP connections")
        there = self.cluster.hypervisors[1].name
        for vpc in CONNECTED:
            one = self.table[f"{vpc}-web-1"]
            self.cluster.ask_all("close")
            begun = self._converse([(f"{vpc}-app-{n}", one.name, 80) for n in (1, 2)])
            time.sleep(1)
            for host in (there, one.host):
                self._move(one, host)
                how = self._standing(begun)
                held = all(each == "lives" for each in how.values())
                self.say.check(
                    f"{one.name} on {host}: the connections from both app servers live, in both families",
                    held, str(how),
                )  # fmt: skip
                denied = not any(self._reaches(f"{vpc}-app-1", one.name, "udp", 53))
                new = all(self._reaches(f"{vpc}-app-2", one.name, "tcp", 8080))
                self.say.check(f"{one.name} on {host}: what is denied is denied, new connections "
                               "are judged as before", new and denied)  # fmt: skip
        self.cluster.ask_all("close")

    def _move(self, one: Instance, host: str) -> None:
        before = self.places[one.name]
        began = time.monotonic()
        taken = self.cluster.ask(before, "take", instance=one.name)
        text = edited(
            self.policy, (f"id: p-{one.name},", f"host_id: {one.host}", f"host_id: {host}")
        )
        self.cluster.push_text(text)
        self.places[one.name] = host
        for name in (host, *(name for name in self.cluster.hosts if name != host)):
            self.cluster.ask(name, "moved", instance=one.name, host=host, taken=taken)
        self.say.line(
            f"{one.name} moved to {host}; it was away for {time.monotonic() - began:.1f} s"
        )
        # Its peers send again at an ever longer interval, which may be as long as it was away.
        time.sleep(2 * (time.monotonic() - began))

    # What the monitoring sees.

    def broken(self) -> None:
        """Push a broken document to one host, and stop the other's agent; see it noticed."""
        broken_host, silent_host = (host.name for host in self.cluster.hypervisors[:2])
        self.say.title(f"A broken document pushed to {broken_host}")
        if self.monitor:
            self._await_alerts("before: Prometheus sees both hosts, and no alert fires", set())
        begun = self._conversations()
        host = self.cluster.hosts[broken_host]
        refused = ""
        try:
            wrong = edited(self.policy, ("id: from-app,", "ingress", "inwards"))
            self.cluster.push_text(wrong, [host])
        except LabError as error:
            refused = str(error)
        self.say.check("the push is refused", '"ok": false' in refused, refused)
        code, text = self.cluster.ssh(broken_host).code("secgroupctl status")
        place = re.search(r"\S*lab\.yaml:\d+:\d+: error: .*", text)
        self.say.check(f"status is degraded and names the place: {place[0] if place else ''}",
                       code == 3 and place, text)  # fmt: skip
        other = self._status(silent_host)
        self.say.check(f"{silent_host} is healthy", other["healthy"], str(other))
        cut = [name for name, how in self._standing(begun).items() if how != "lives"]
        self.say.check("all connections live", not cut, ", ".join(cut))
        if self.monitor:
            self.say.title(
                f"Prometheus, while {broken_host} refuses and {silent_host}'s agent is stopped"
            )
            self.cluster.ssh(silent_host).run("systemctl stop secgroupd")
            self._await_alerts(
                "they fire",
                {("SecgroupdDocumentRefused", broken_host), ("SecgroupdDown", silent_host)},
            )
            cut = [name for name, how in self._standing(begun).items() if how != "lives"]
            self.say.check("all connections live, with no agent for minutes", not cut, str(cut))
            self.cluster.ssh(silent_host).run("systemctl start secgroupd")
        self.cluster.ask_all("close")
        self.cluster.push_text(self.policy)
        if self.monitor:
            self._await_alerts("mended: no alert fires", set())
        self.matrix("Who reaches whom at the end: observed/expected")

    def _await_alerts(self, what: str, expected: set[tuple[str, str]]) -> None:
        """Wait until exactly these alerts fire, in Prometheus and in Alertmanager."""
        began = time.monotonic()
        seen: dict[str, object] = {}
        while time.monotonic() - began < ALERT_SECONDS:
            up = {
                each["metric"]["instance"]
                for each in self._ask_prometheus("query?query=up")["result"]
                if each["value"][1] == "1"
            }
            alerts = {
                (each["labels"]["alertname"], each["labels"]["instance"])
                for each in self._ask_prometheus("alerts")["alerts"]
                if each["state"] == "firing"
            }
            told = {
                (each["labels"]["alertname"], each["labels"]["instance"])
                for each in json.loads(self._fetch(9093, "/api/v2/alerts?active=true"))
            }
            silent = {host for name, host in expected if name == "SecgroupdDown"}
            all_up = {host.name for host in self.cluster.hypervisors} - silent
            seen = {"up": up, "prometheus": alerts, "alertmanager": told}
            if up == all_up and alerts == told == expected:
                break
            time.sleep(5)
        else:
            self.say.check(what, holds=False, otherwise=str(seen))
            return
        names = ", ".join(f"{name} for {host}" for name, host in sorted(expected))
        took = time.monotonic() - began
        self.say.done(f"{what}{': ' if names else ''}{names} (after {took:.0f} s)")

    def _ask_prometheus(self, what: str) -> Any:
        return json.loads(self._fetch(9090, f"/api/v1/{what}"))["data"]

    def _fetch(self, port: int, path: str) -> str:
        assert self.monitor is not None
        line = self.cluster.ssh(self.monitor).connect(port)
        request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"
        assert line.stdin is not None and line.stdout is not None
        # The input stays open: to a server, its end means that nobody waits for the answer.
        line.stdin.write(request.encode())
        line.stdin.flush()
        answer = line.stdout.read()
        line.kill()
        line.communicate()
        head, _, body = answer.decode().partition("\r\n\r\n")
        if " 200 " not in head.partition("\r\n")[0]:
            raise LabError(f"port {port} of {self.monitor} answers: {answer.decode()[:300]!r}")
        return body


def _rows(got: list[bool], length: int) -> list[list[bool]]:
    """Return what has been got in rows of a length."""
    return [got[start : start + length] for start in range(0, len(got), length)]


def _letters(passed: Iterable[bool]) -> str:
    """Return what has passed, as letters."""
    return "".join(letter if each else "-" for letter, each in zip(LETTERS, passed, strict=True))


def prove(cluster: Cluster, keep: Path | None, only: list[str]) -> int:
    """Run the scenario; return an exit code."""
    report = Report()
    report.line(f"secgroupd's lab, {time.strftime('%Y-%m-%d')}")
    scenario = Scenario(cluster, report)
    try:
        scenario.run(only)
    finally:
        cluster.close()
    code = report.end()
    if keep:
        report.keep(keep)
    return code
