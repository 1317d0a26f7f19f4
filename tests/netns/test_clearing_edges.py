"""Clearing where it is hard: crashes, gaps, races, NAT, the host's own flows, strict, adoption."""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.builders import both, group, port, rule, state
from tests.enforcing import bindings, enforcer
from tests.netns.agents import await_that
from tests.netns.conversations import Conversation, Conversations, End, exchange, pour, settle
from tests.tables import family

from secgroupd.core.model import ICMP, SCTP, TCP, UDP, Clearing, State, Timeout
from secgroupd.core.policy import Policy
from secgroupd.core.tracked import Judge
from secgroupd.dataplane.conntrack import Conntrack
from secgroupd.dataplane.nft import Nft
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.reconcile import Forgetful, Reconciler, Record
from secgroupd.sweep import sweep, welcome

pytestmark = pytest.mark.netns

SERVER, CLIENT, HOST = "10.0.0.1", "203.0.113.9", "169.254.1.1"
PROTOCOLS = (TCP, UDP, ICMP, SCTP)

ALLOWING = state(
    [group("g", *both("egress"), rule("ingress", None, None, "0.0.0.0/0", rule_id="in"))],
    [port("server", ["g"], [SERVER], interface="tap1")],
)
DENYING = state([group("g", *both("egress"))], [port("server", ["g"], [SERVER], interface="tap1")])


@contextmanager
def running(document: State = ALLOWING) -> Iterator[tuple[Lab, Conversations, Reconciler]]:
    with Lab() as lab, Conversations() as talk:
        lab.add_port(interface="tap1", addresses=[SERVER])
        lab.outside_address(CLIENT)
        with enforcer(lab, Forgetful()) as reconciler:
            reconciler.apply(document, bindings(lab, document))
            yield lab, talk, reconciler


def inbound(lab: Lab, talk: Conversations, dport: int = 5000) -> list[Conversation]:
    client, server = lab.outside_address(CLIENT), lab.ports["tap1"].namespace
    return [
        talk.open(protocol, (client, CLIENT), (server, SERVER), dport + at)
        for at, protocol in enumerate(PROTOCOLS)
    ]


def outbound(lab: Lab, talk: Conversations, dport: int = 6000) -> list[Conversation]:
    client, server = lab.ports["tap1"].namespace, lab.outside_address(CLIENT)
    return [
        talk.open(protocol, (client, SERVER), (server, CLIENT), dport + at)
        for at, protocol in enumerate((TCP, UDP, SCTP))
    ]


def assert_cut(conversations: list[Conversation]) -> None:
    for speaker in ("server", "client", "server"):
        assert exchange(conversations, speaker, expected=0) == set()


def assert_alive(conversations: list[Conversation]) -> None:
    everybody = {c.name for c in conversations}
    for speaker in ("server", "client"):
        assert exchange(conversations, speaker) == everybody


class Lethal(Forgetful):
    """A memory that kills the process at the given save, before or after it is kept."""

    def __init__(self, record: Record, at: int, *, after: bool) -> None:
        super().__init__()
        super().save(record)
        self._left, self._after = at, after

    def save(self, record: Record) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(record)
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("at", "after", "committed"),
    [(1, False, False), (1, True, False), (2, False, True), (2, True, True)],
    ids=["before-the-intent", "after-the-intent", "after-the-commit", "after-the-result"],
)
def test_killed_anywhere_the_end_is_the_same(at: int, after: bool, committed: bool) -> None:
    with running() as (lab, talk, reconciler):
        denied = inbound(lab, talk)
        kept = outbound(lab, talk)
        record = reconciler.record
        child = os.fork()
        if child == 0:
            with lab.hv.enter():
                doomed = Reconciler(Nft(), Lethal(record, at, after=after))
                doomed.apply(DENYING, bindings(lab, DENYING))
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if committed:
            assert_cut(denied)
        # What the killed process had kept on disk is at least what it began with.
        with enforcer(lab, reconciler.memory) as fresh:
            outcome = fresh.apply(DENYING, bindings(lab, DENYING))
            assert "server" in outcome.cleared
        assert_cut(denied)
        assert_alive(kept)


TRACKING = "table ip other {\n chain c {\n type filter hook forward priority 0;\n ct state new counter\n }\n}\n"


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_flow_that_slipped_in_while_the_table_was_gone_is_cut(direction: str) -> None:
    """The host tracks connections all the time, and the other direction is open to everything."""
    other = "egress" if direction == "ingress" else "ingress"
    closed = state([group("g", *both(other))], [port("server", ["g"], [SERVER], interface="tap1")])
    with running(closed) as (lab, talk, reconciler):
        lab.hv.run(["nft", "-f", "-"], stdin=TRACKING.replace("ip", family(lab), 1))
        kept = outbound(lab, talk) if direction == "ingress" else inbound(lab, talk)
        lab.hv.run(["nft", "delete", "table", family(lab), "secgroupd"])
        slipped = inbound(lab, talk, 7000) if direction == "ingress" else outbound(lab, talk, 7000)
        outcome = reconciler.apply(closed, bindings(lab, closed))
        assert outcome.drift
        assert_cut(slipped)
        assert_alive(kept)


def test_a_flow_that_slipped_in_untracked_is_cut() -> None:
    """With the whole ruleset flushed nothing tracks: afterwards every packet is a first one."""
    closed = state([group("g")], [port("server", ["g"], [SERVER], interface="tap1")])
    with running(closed) as (lab, talk, reconciler):
        lab.hv.run(["nft", "flush", "ruleset"])
        slipped = [*inbound(lab, talk, 7000), *outbound(lab, talk, 7100)]
        assert reconciler.apply(closed, bindings(lab, closed)).drift
        assert_cut(slipped)


def test_no_flow_survives_a_change_that_it_races_with() -> None:
    """A thousand flows with packets under way in both directions at the very moment of the change."""
    rounds, flows = 20, 50
    with running() as (lab, _, reconciler):
        client, server = lab.outside_address(CLIENT), lab.ports["tap1"].namespace
        for turn in range(rounds):
            document = replace(ALLOWING, revision=f"{turn}")
            reconciler.apply(document, bindings(lab, document))
            with Conversations() as talk:
                made = [
                    talk.open(UDP, (client, CLIENT), (server, SERVER), 5000 + at)
                    for at in range(flows)
                ]
                stop = threading.Event()

                def pump(made: list[Conversation] = made, stop: threading.Event = stop) -> None:
                    while not stop.is_set():
                        for one in made:
                            one.client.say(b"noise")
                            one.server.say(b"noise")

                pumping = threading.Thread(target=pump)
                pumping.start()
                reconciler.apply(DENYING, bindings(lab, DENYING))
                stop.set()
                pumping.join()
                for speaker in ("server", "client", "server"):
                    assert exchange(made, speaker, expected=0) == set()
            lab.forget()


def test_without_a_younger_generation_the_denied_would_go_on() -> None:
    """The proof that the other tests can fail: same rules, but nobody is told to judge again."""
    with running() as (lab, talk, reconciler):
        flows = inbound(lab, talk)
        memory = Forgetful()
        memory.save(replace(reconciler.record, accepted=DENYING))
        with enforcer(lab, memory) as forgetful:
            outcome = forgetful.apply(DENYING, bindings(lab, DENYING))
            assert outcome.plan and not outcome.cleared
        assert_alive(flows)


def test_a_denied_flow_revives_when_it_is_allowed_again() -> None:
    with running() as (lab, talk, reconciler):
        flows = [c for c in inbound(lab, talk) if not c.name.startswith("tcp")]
        reconciler.apply(DENYING, bindings(lab, DENYING))
        assert_cut(flows)
        reconciler.apply(ALLOWING, bindings(lab, ALLOWING))
        assert_alive(flows)


def test_a_change_that_clears_nobody_leaves_the_old_verdict() -> None:
    denied_later = replace(
        ALLOWING,
        security_groups=(
            group(
                "g",
                rule("ingress", None, None, "0.0.0.0/0", rule_id="in"),
                *(
                    rule("egress", UDP, "9", family=one.family, rule_id=one.id)
                    for one in both("egress")
                ),
            ),
        ),
    )
    with running() as (lab, talk, reconciler):
        flows, own = inbound(lab, talk), outbound(lab, talk)
        outcome = reconciler.apply(denied_later, bindings(lab, denied_later))
        assert outcome.plan and not outcome.cleared, "an outbound rule was modified"
        assert_alive(flows)
        assert_alive(own)


@pytest.mark.parametrize("protocol", [UDP, ICMP])
def test_what_nobody_answers_keeps_the_old_verdict_too(protocol: int) -> None:
    """Logs, counters, media: to connection tracking, each of their packets is new."""
    let_in = rule("ingress", None, None, "0.0.0.0/0", rule_id="in")
    no_longer_out = replace(ALLOWING, security_groups=(group("g", let_in),))
    with running() as (lab, talk, reconciler):
        client, server = lab.ports["tap1"].namespace, lab.outside_address(CLIENT)
        one_way = talk.begin(protocol, (client, SERVER), (server, CLIENT), 6000)
        assert exchange([one_way], "client") == {one_way.name}
        outcome = reconciler.apply(no_longer_out, bindings(lab, no_longer_out))
        assert outcome.plan and not outcome.cleared
        assert exchange([one_way], "client") == {one_way.name}
        later = talk.begin(protocol, (client, SERVER), (server, CLIENT), 6001)
        assert exchange([later], "client", expected=0) == set()
        reconciler.mode = Clearing.STRICT
        reconciler.apply(no_longer_out, bindings(lab, no_longer_out))
        assert exchange([one_way], "client", expected=0) == set()


def test_what_was_not_cleared_is_new_after_its_silence() -> None:
    """It goes on while it speaks; after its timeout the rules of now are asked."""
    let_in = rule("ingress", None, None, "0.0.0.0/0", rule_id="in")
    no_longer_out = replace(ALLOWING, security_groups=(group("g", let_in),))
    with running() as (lab, talk, reconciler):
        reconciler.timeouts = {Timeout.UDP: 6, Timeout.UDP_STREAM: 6}
        reconciler.apply(ALLOWING, bindings(lab, ALLOWING))
        client, server = lab.ports["tap1"].namespace, lab.outside_address(CLIENT)
        own = [talk.open(UDP, (client, SERVER), (server, CLIENT), 6000)]
        outcome = reconciler.apply(no_longer_out, bindings(lab, no_longer_out))
        assert outcome.plan and not outcome.cleared
        assert_alive(own)
        listing = ["conntrack", "-L", "-p", "udp", "--dport", "6000"]
        await_that(lambda: not lab.hv.run(listing).stdout)
        assert exchange(own, "client", expected=0) == set()


def test_pings_are_forgotten_after_thirty_seconds() -> None:
    with running() as (lab, talk, _):
        talk.open(
            ICMP, (lab.outside_address(CLIENT), CLIENT), (lab.ports["tap1"].namespace, SERVER)
        )
        (entry,) = lab.hv.run(["conntrack", "-L", "-p", "icmp"]).stdout.splitlines()
        assert 20 <= int(entry.split()[2]) <= 30


def test_strict_clearing_cuts_what_the_port_opened_too() -> None:
    closed = state(
        [group("g", *both("ingress"))], [port("server", ["g"], [SERVER], interface="tap1")]
    )
    with running() as (lab, talk, reconciler):
        flows, own = inbound(lab, talk), outbound(lab, talk)
        reconciler.mode = Clearing.STRICT
        reconciler.apply(ALLOWING, bindings(lab, ALLOWING))
        assert_alive(flows)
        assert_alive(own)
        reconciler.apply(closed, bindings(lab, closed))
        assert_cut(own)
        assert_alive(flows)
        reconciler.apply(DENYING, bindings(lab, DENYING))
        assert_cut(flows)
        reconciler.mode = Clearing.DOCUMENTED
        reconciler.apply(DENYING, bindings(lab, DENYING))
        assert_cut(flows)


@pytest.mark.parametrize("mode", Clearing)
def test_a_port_that_goes_closes_its_interface_to_what_it_has_opened_too(mode: Clearing) -> None:
    """And when it is back, what it has opened goes on."""
    gone = replace(ALLOWING, instances=())
    with running() as (lab, talk, reconciler):
        index = lab.ports["tap1"].index
        links, present = {"server": index}, {index}
        reconciler.mode = mode
        reconciler.apply(ALLOWING, bindings(lab, ALLOWING), links, present)
        flows, own = inbound(lab, talk), outbound(lab, talk)
        reconciler.apply(gone, {}, {}, present)
        assert_cut([*flows, *own])
        again = reconciler.apply(gone, {}, {}, present)
        assert not again.plan
        reconciler.apply(ALLOWING, bindings(lab, ALLOWING), links, present)
        # TCP takes its time before it tries again.
        assert_alive([one for one in own if not one.name.startswith("tcp")])


def test_flows_of_the_host_itself_are_cleared_like_any() -> None:
    with running() as (lab, talk, reconciler):
        server = lab.ports["tap1"].namespace
        from_host = [
            talk.open(p, (lab.hv, HOST), (server, SERVER), 5100 + p) for p in (TCP, UDP, SCTP)
        ]
        to_host = [
            talk.open(p, (server, SERVER), (lab.hv, HOST), 5100 + p) for p in (TCP, UDP, SCTP)
        ]
        reconciler.apply(DENYING, bindings(lab, DENYING))
        assert_cut(from_host)
        assert_alive(to_host)


NAT = """
table ip nat {
    chain pre {
        type nat hook prerouting priority -100;
        ip daddr 198.51.100.1 udp dport 80 dnat to 10.0.0.1:8080
        ip daddr 198.51.100.1 tcp dport 80 dnat to 10.0.0.1:8080
        ip daddr 198.51.100.53 udp dport 53 dnat to 203.0.113.9:5353
    }
    chain post {
        type nat hook postrouting priority 100;
        ip saddr 10.0.0.1 ip daddr 203.0.113.9 snat to 198.51.100.7
        ip saddr 203.0.113.9 ip daddr 10.0.0.1 snat to 198.51.100.8
    }
}
"""


class Translated(Conversations):
    """Conversations whose far end has another address than the one that is called."""

    def through(
        self,
        protocol: int,
        client: tuple[Namespace, str],
        called: tuple[str, int],
        server: tuple[Namespace, str],
        port_number: int,
    ) -> Conversation:
        kind = socket.SOCK_STREAM if protocol == TCP else socket.SOCK_DGRAM
        answering = self._socket(server[0], server[1], kind)
        answering.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        answering.bind((server[1], port_number))
        caller = self._socket(client[0], client[1], kind)
        caller.bind((client[1], 0))
        if protocol == TCP:
            answering.listen()
            answering.settimeout(3)
            caller.connect_ex(called)
            accepted, _ = answering.accept()
            self._open.enter_context(accepted)
            accepted.setblocking(False)
            answering = accepted
        else:
            caller.connect(called)
            answering.settimeout(3)
            caller.send(b"hello")
            _, peer = answering.recvfrom(100)
            answering.connect(peer)
            answering.setblocking(False)
        made = Conversation(f"{protocol} {client[1]}->{called}", End(caller), End(answering))
        for speaker in ("client", "server"):
            assert exchange([made], speaker) == {made.name}
        return made


@pytest.mark.parametrize("allowed", [True, False], ids=["still-allowed", "denied"])
def test_flows_through_the_hosts_nat_are_judged_by_what_the_instance_sees(allowed: bool) -> None:
    def document(extra: str, *, ok: bool) -> State:
        peers = "198.51.100.8" if ok else CLIENT
        rules = [
            rule("ingress", UDP, "8080", f"{peers}/32", rule_id="u"),
            rule("ingress", TCP, "8080", f"{peers}/32", rule_id="t"),
            rule("egress", None, None, "198.51.100.53/32", rule_id="dns"),
            rule("ingress", UDP, extra, "192.0.2.0/24", action="deny", rule_id="x" + extra),
        ]
        return state([group("g", *rules)], [port("server", ["g"], [SERVER], interface="tap1")])

    first = document("1", ok=True)
    with Lab() as lab, Translated() as talk:
        lab.add_port(interface="tap1", addresses=[SERVER])
        outside, server = lab.outside_address(CLIENT), lab.ports["tap1"].namespace
        for address in ("198.51.100.1", "198.51.100.53"):
            lab.hv.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"])
        lab.hv.run(["nft", "-f", "-"], stdin=NAT)
        with enforcer(lab, Forgetful()) as reconciler:
            reconciler.apply(first, bindings(lab, first))
            flows = [
                talk.through(p, (outside, CLIENT), ("198.51.100.1", 80), (server, SERVER), 8080)
                for p in (UDP, TCP)
            ]
            own = talk.through(
                UDP, (server, SERVER), ("198.51.100.53", 53), (outside, CLIENT), 5353
            )
            after = document("2", ok=allowed)
            outcome = reconciler.apply(after, bindings(lab, after))
            assert "server" in outcome.cleared
            if allowed:
                assert_alive(flows)
            else:
                assert_cut(flows)
            assert_alive([own])
            with lab.hv.enter(), Conntrack() as table:
                local = bindings(lab, after)
                swept = sweep(
                    table, Judge(Policy(after), outcome.generations, local), outcome.cleared
                )
            assert swept.deleted == (0 if allowed else 1)


def test_a_port_met_with_running_traffic_keeps_it() -> None:
    """Nothing was tracked before the agent came: the server's next segment is a mid-stream one."""
    with Lab() as lab, Conversations() as talk:
        lab.add_port(interface="tap1", addresses=[SERVER])
        lab.outside_address(CLIENT)
        flows = [c for c in (*inbound(lab, talk), *outbound(lab, talk)) if c.name.startswith("tcp")]
        lab.forget()
        with enforcer(lab, grace=60) as reconciler:
            reconciler.apply(ALLOWING, bindings(lab, ALLOWING))
            assert_alive(flows)
            settle(flows)
            lab.forget()
            lab.hv.run(["nft", "flush", "set", family(lab), "secgroupd", "adopting"])
            # Grace is over, and with it the benefit of the doubt: only a client may pick up.
            assert exchange(flows[:1], "server", expected=0) == set()
            assert exchange(flows[:1], "client") == {flows[0].name}
            again = reconciler.apply(ALLOWING, bindings(lab, ALLOWING))
            assert not again.plan, "elements that come and go by themselves are no drift"


def test_what_is_denied_in_the_time_of_grace_does_not_come_back_by_it() -> None:
    """Were the entry deleted, the server's next segment would pass as one from before."""
    with Lab() as lab, Conversations() as talk:
        lab.add_port(interface="tap1", addresses=[SERVER])
        lab.outside_address(CLIENT)
        with enforcer(lab, grace=60) as reconciler:
            reconciler.apply(ALLOWING, bindings(lab, ALLOWING))
            flows = inbound(lab, talk)
            outcome = reconciler.apply(DENYING, bindings(lab, DENYING))
            with lab.hv.enter(), Conntrack() as table, Nft() as nft:
                assert nft.adopting() == {"tap1"}
                judge = Judge(Policy(DENYING), outcome.generations, bindings(lab, DENYING))
                assert sweep(table, judge, outcome.cleared, {"server"}).deleted == 0
                assert_cut(flows)
                lab.hv.run(["nft", "flush", "set", family(lab), "secgroupd", "adopting"])
                assert sweep(table, judge, {}).deleted == 1
            assert_cut(flows)


def test_what_is_cut_stays_cut_for_a_minute_of_trying() -> None:
    with running() as (lab, talk, reconciler):
        denied, kept = inbound(lab, talk), outbound(lab, talk)
        outcome = reconciler.apply(DENYING, bindings(lab, DENYING))
        judge = Judge(Policy(DENYING), outcome.generations, bindings(lab, DENYING))
        with lab.hv.enter(), Conntrack() as table:
            assert sweep(table, judge, outcome.cleared).deleted == 1
        end = time.monotonic() + 60
        while (left := end - time.monotonic()) > 0:
            assert_cut(denied)
            assert_alive(kept)
            # Both sides are silent for a while; then the server is the first to speak.
            select.select([], [], [], min(5, left))


def test_counts_tell_cleared_kept_and_cut() -> None:
    friend = "203.0.113.10"
    after = state(
        [group("g", *both("egress"), rule("ingress", None, None, f"{friend}/32", rule_id="in"))],
        [port("server", ["g"], [SERVER], interface="tap1")],
    )
    with running() as (lab, talk, reconciler):
        inbound(lab, talk)
        server = lab.ports["tap1"].namespace
        talk.open(UDP, (lab.outside_address(friend), friend), (server, SERVER), 5999)
        outcome = reconciler.apply(after, bindings(lab, after))
        local = bindings(lab, after)
        with lab.hv.enter(), Conntrack() as table:
            judge = Judge(Policy(after), outcome.generations, local)
            swept = sweep(table, judge, outcome.cleared)
            again = sweep(table, judge, {})
        (scenario,) = outcome.cleared["server"]
        assert scenario == "rule-modified"
        assert (swept.cleared[scenario], swept.kept[scenario], swept.cut[scenario]) == (5, 1, 4)
        assert (swept.deleted, again.deleted) == (1, 0)


# The kernel forgets all windows by itself when it begins to track, so something has to go on asking for it.
UNTRACKED = """
table inet tracking {
    chain c { type filter hook forward priority 500; ct state invalid counter; }
}
table inet elsewhere {
    chain c { type filter hook prerouting priority -400; notrack; }
}
"""


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("speaker", ["server", "client"])
def test_a_port_that_comes_back_goes_on_where_it_was_elsewhere(version: int, speaker: str) -> None:
    """While it was away nothing was tracked here: the entries remember the windows from then."""
    server, client = (SERVER, CLIENT) if version == 4 else ("2001:db8::1", "2001:db8:f::9")
    everybody = "0.0.0.0/0" if version == 4 else "::/0"
    some, more = (
        rule("ingress", "tcp", number, everybody, rule_id=number) for number in ("5000", "5001")
    )
    ports = [port("server", ["g"], [server], interface="tap1")]
    before = state([group("g", *both("egress"), some, more)], ports)
    away = state([group("g", *both("egress"), some)], [])
    after = state([group("g", *both("egress"), some)], ports)
    with Lab() as lab, Conversations() as talk:
        lab.add_port(interface="tap1", addresses=[server])
        outside, here = lab.outside_address(client), lab.ports["tap1"].namespace
        with enforcer(lab, Forgetful(), grace=60) as reconciler:
            reconciler.apply(before, bindings(lab, before))
            kept, denied = (
                talk.open(TCP, (outside, client), (here, server), dport) for dport in (5000, 5001)
            )
            own = talk.open(TCP, (here, server), (outside, client), 6000)
            settle([kept, denied, own])
            reconciler.apply(away, {})
            lab.hv.run(["nft", "-f", "-"], stdin=UNTRACKED)
            lab.hv.run(["nft", "delete", "table", family(lab), "secgroupd"])
            for one in (kept, denied, own):
                pour(one.client, one.server)
                pour(one.server, one.client)
            settle([kept, denied, own])
            lab.hv.run(["nft", "delete", "table", "inet", "elsewhere"])
            outcome = reconciler.apply(after, bindings(lab, after))
            assert outcome.arrived == {"server"}
            assert exchange([kept, own], speaker, expected=0) == set()
            with lab.hv.enter(), Conntrack() as table:
                judge = Judge(Policy(after), outcome.generations, bindings(lab, after))
                assert welcome(table, judge, outcome.arrived) == 3
                assert sweep(table, judge, outcome.cleared, {"server"}).deleted == 0
            for who in (speaker, "server", "client"):
                assert exchange([kept, own], who) == {kept.name, own.name}
            assert_cut([denied])
