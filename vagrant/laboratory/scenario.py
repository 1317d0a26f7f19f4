"""The scenario: what the lab proves, on its real hosts, told as a report."""

import json
import re
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

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
LEGEND = "p ping, w tcp/80, l tcp/8080 (by address), b tcp/9090 (backstage), n udp/53 (names)"
VPCS = {"b": "vpc-blue (bridged)", "g": "vpc-green (routed)"}
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

Cells = dict[tuple[str, str], str]
"""For who asks and who is asked, which of the probes pass, as letters."""


PARTS = ("matrix", "peered", "membership", "clearing", "killed", "rebooted", "moved", "broken")
"""What is proven, in this order."""


class Scenario:
    """The lab under way."""

    def __init__(self, cluster: Cluster, report: Report) -> None:
        self.cluster = cluster
        self.say = report
        self.policy = (HERE / "policy" / "lab.yaml").read_text()
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
        for family, found in self._compared().items():
            across = [f"{a} to {b}" for a, b in self._across() if found[a, b].strip("-")]
            self.say.check(f"{family}: nothing passes from one VPC to the other", not across,
                           ", ".join(across))  # fmt: skip

    def _compared(self) -> dict[str, Cells]:
        """Show what passes beside what is to pass; return what passes, by family."""
        self.say.line(f"{LEGEND}; - nothing")
        compared = {}
        for family in FAMILIES:
            expected, observed = self._expected(family), self._observed(family)
            compared[family] = observed
            for vpc, name in VPCS.items():
                self.say.line()
                self._show(vpc, f"{name}, {family}", observed, expected)
            self.say.line()
            wrong = [f"{a} to {b}" for a, b in expected if observed[a, b] != expected[a, b]]
            self.say.check(f"{family}: every cell is as expected", not wrong, ", ".join(wrong))
        return compared

    def _across(self) -> list[tuple[str, str]]:
        """The pairs of instances in two VPCs."""
        return [(a, b) for a, b in self._pairs() if a != OUTSIDE and a[0] != b[0]]

    def _show(self, vpc: str, name: str, observed: Cells, expected: Cells) -> None:
        ends = [each for each in self.table if each.startswith(vpc)]
        others = [each for each in self.table if each not in ends]
        sources = [*ends, *others, *([OUTSIDE] if self.monitor and vpc == "g" else [])]
        heads = "".join(f"{end + ' ' + self.places[end]:>14}" for end in ends)
        self.say.line(f"{name:<25}{heads}")
        for source in sources:
            cells = [
                "" if source == to else f"{observed[source, to]}/{expected[source, to]}"
                for to in ends
            ]
            place = self.places.get(source, self.monitor or "")
            line = f"{source + ' ' + place:<25}" + "".join(f"{cell:>14}" for cell in cells)
            self.say.line(line.rstrip())

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
            for protocol, port, _ in PROBES
        ]  # fmt: skip
        way = self.cluster.ssh(self.cluster.hypervisors[0].name)
        way.run("cat >/tmp/tests.json", given=json.dumps(asked).encode())
        _, text = way.code("secgroupctl test --json /etc/secgroupd/policy/current /tmp/tests.json")
        got = [json.loads(line)["got"] == "allow" for line in text.splitlines() if line[0] == "{"]
        if len(got) != len(asked):
            raise LabError(f"secgroupctl test: {text[-1000:]}")
        return _cells(pairs, got)

    def _observed(self, family: str) -> Cells:
        pairs = list(self._pairs())
        found: Cells = {}

        def observe(name: str) -> None:
            mine = [pair for pair in pairs if self._host(pair[0]) == name]
            probes = [
                [source, self.table[to].at(family), protocol, port]
                for source, to in mine
                for protocol, port, _ in PROBES
            ]
            # In portions: an emulated processor must not be what keeps an answer from coming.
            got: list[bool] = []
            for start in range(0, len(probes), 100):
                portion = probes[start : start + 100]
                got += self.cluster.ask(name, "probe", probes=portion, seconds=PATIENCE)
            found.update(_cells(mine, got))

        at_once(lambda host: observe(host.name), self.cluster.hosts.values())
        return found

    def _host(self, instance: str) -> str:
        return self.places.get(instance) or self.monitor or ""

    def _reaches(self, source: str, to: str, protocol: str, port: int) -> list[bool]:
        """Try it in each family."""
        probes = [[source, self.table[to].at(family), protocol, port] for family in FAMILIES]
        got: list[bool] = self.cluster.ask(
            self._host(source), "probe", probes=probes, seconds=PATIENCE
        )
        return got

    def peered(self) -> None:
        """Connect the VPCs, so that what was walled off passes; part them again."""
        self.say.title("The VPCs peered: observed/expected")
        tried = [(a, b) for a, b in self._across() if "app" in a]
        self.cluster.push_text(edited(self.policy, *PEERED))
        for family, found in self._compared().items():
            cut = [f"{a} to {b}" for a, b in tried if "l" not in found[a, b]]
            self.say.check(
                f"{family}: what the rules allow by address passes from each VPC to the other, "
                f"on one host and between hosts: tcp/{BY_ADDRESS}, {len(tried)} pairs",
                not cut,
                ", ".join(cut),
            )
        self.say.title("The peering removed, under connections from one VPC to the other")
        begun = self._converse([(a, b, BY_ADDRESS) for a, b in tried])
        early = [name for name, how in self._standing(begun).items() if how != "lives"]
        self.say.check(f"before: {len(begun)} connections live", not early, ", ".join(early))
        self.cluster.push_text(self.policy)
        left = [f"{name} {how}" for name, how in self._standing(begun).items() if how != "cut"]
        self.say.check("all of them are cut", not left, ", ".join(left))
        self.cluster.ask_all("close")
        self.matrix("Who reaches whom, apart again: observed/expected")

    def membership(self) -> None:
        """A port on one host joins a group that a port on the other host lets in."""
        self.say.title("Group membership across hosts")
        tried = [(f"{vpc}-app-1", f"{vpc}-web-2") for vpc in VPCS]

        def names() -> list[bool]:
            return [got for pair in tried for got in self._reaches(*pair, "udp", 53)]

        what = "app-1 (hv1) asks web-2 (hv2) on udp/53, which sg-web allows its own members"
        self.say.check(f"not a member: {what}: denied", not any(names()))
        self.cluster.push_text(edited(self.policy, *groups("app-1", "sg-app", "sg-app, sg-web")))
        self.say.check("joined sg-web: allowed, in both VPCs and both families", all(names()))
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
            [(f"{vpc}-{a}", f"{vpc}-{b}", port) for vpc in VPCS for a, b, port in CONVERSATIONS]
        )

    def clearing(self) -> None:
        """Change the policy in each way that the clearing table knows, under running connections."""
        self.say.title("The clearing table, under connections from one host to the other")
        self.say.line("In both VPCs and both families, each from one host to the other: " + ", ".join(
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
        arrived = self._arrived()
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
        arrived = self._arrived()
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
        arrived = {**arrived, **self._arrived()}
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
        for vpc in VPCS:
            here = f"{vpc}-app-1"
            for family in FAMILIES:
                to = self.table[f"{vpc}-web-2"].at(family)
                self.cluster.ask(self._host(here), "ping", instance=here, to=to)
                self.cluster.ask(self._host(here), "stream", instance=here, to=to)
        time.sleep(2)
        return begun

    def _pings(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for counts in self.cluster.ask_all("counts").values():
            found |= counts["pings"]
        return found

    def _lost(self) -> dict[str, float]:
        """Return how many pings have no answer, but for the one that may be under way."""
        return {key: max(0, sent - got - 1) for key, (sent, got, _) in self._pings().items()}

    def _arrived(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for counts in self.cluster.ask_all("counts").values():
            found |= counts["counted"]
        return found

    # An instance that moves.

    def moved(self) -> None:
        """Move an instance of each VPC to the other host and back, with its connections."""
        self.say.title("An instance moved to the other host, with its TCP connections")
        there = self.cluster.hypervisors[1].name
        for vpc in VPCS:
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


def _cells(pairs: list[tuple[str, str]], got: list[bool]) -> Cells:
    """Return for each pair which of the probes passed, as letters."""
    return {
        pair: "".join(
            letter if got[number * len(PROBES) + place] else "-"
            for place, (_, _, letter) in enumerate(PROBES)
        )
        for number, pair in enumerate(pairs)
    }


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
