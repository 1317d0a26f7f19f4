"""The table in the kernel: literal names, closed interfaces, refusals, and no gap while it changes."""

import re
import socket
import struct
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address

import pytest
from tests.awaiting import PATIENCE
from tests.builders import both, group, port, rule, state
from tests.enforcing import bindings, enforce, enforcer, kernel
from tests.netns.streams import Stream, may_be_missed
from tests.tables import family

from secgroupd.core import names
from secgroupd.core.host import FAMILIES
from secgroupd.core.model import DCCP, ICMP, TCP, UDP, Family, State
from secgroupd.core.plan import Line, Plan, diff, expected
from secgroupd.errors import TransactionRefused
from secgroupd.proving import frames
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.netns import Namespace
from secgroupd.proving.packets import Probe, probe, run_probes

pytestmark = pytest.mark.netns

STRANGE = [
    'tap"x',
    "tap*",
    "a;drop}",
    "$var",
    "#c",
    "@set",
    "-x",
    "tap}",
    "täp",
    "a\\",
    "tap\\*",
    "'q'",
]


def _flow(lab: Lab, source: str, destination: str, protocol: int = TCP, dport: int = 80) -> Probe:
    def owner(address: str) -> Namespace:
        typed = ip_address(address)
        return next(
            (a.namespace for a in lab.ports.values() if typed in a.addresses), None
        ) or lab.outside_address(address)

    return Probe(
        source=owner(source),
        source_address=ip_address(source),
        destination=owner(destination),
        destination_address=ip_address(destination),
        protocol=protocol,
        dport=dport if protocol in {TCP, UDP, DCCP} else None,
    )


def _build(lab: Lab, made: State) -> None:
    for instance in made.instances:
        for one in instance.ports:
            if one.interface:
                lab.add_port(
                    interface=one.interface, addresses=one.private_ips, mac=one.mac_address
                )


def _pair(names: tuple[str, str]) -> State:
    """Port 1 is open to TCP 80, port 2 to TCP 81; both may send what they like."""
    return state(
        [
            group("one", *both("egress"), rule("ingress", TCP, "80")),
            group("two", *both("egress"), rule("ingress", TCP, "81")),
        ],
        [
            port("p1", ["one"], ["10.0.0.1", "fd00::1"], interface=names[0]),
            port("p2", ["two"], ["10.0.0.2", "fd00::2"], interface=names[1]),
        ],
    )


@pytest.mark.parametrize("name", STRANGE)
def test_strange_interface_names_are_enforced_literally(name: str) -> None:
    neighbour = "tapA"
    made = _pair((name, neighbour))
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        outside = "203.0.113.9"
        seen = run_probes(
            [
                _flow(lab, outside, "10.0.0.1", TCP, 80),
                _flow(lab, outside, "10.0.0.1", TCP, 81),
                _flow(lab, outside, "10.0.0.2", TCP, 80),
                _flow(lab, outside, "10.0.0.2", TCP, 81),
                _flow(lab, "10.0.0.1", outside, UDP, 53),
            ]
        )
        assert [o.delivered for o in seen] == [True, False, False, True, True]
        tables = lab.hv.run(["nft", "list", "tables"]).stdout
        assert set(tables.split("\n")[:-1]) <= {f"table {f} secgroupd" for f in FAMILIES}


def test_a_managed_interface_that_no_port_claims_is_closed_both_ways() -> None:
    made = _pair(("tap1", "tap2"))
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        lab.add_port(interface="tapnew", addresses=["10.0.0.9", "fd00::9"])
        lab.add_port(interface="eth9", addresses=["10.0.1.9"])
        seen = run_probes(
            [
                _flow(lab, "203.0.113.9", "10.0.0.9"),
                _flow(lab, "10.0.0.9", "203.0.113.9"),
                _flow(lab, "10.0.0.9", "10.0.0.1"),
                _flow(lab, "fd00::9", "fd00::1"),
                _flow(lab, "203.0.113.9", "10.0.1.9"),
                _flow(lab, "10.0.1.9", "203.0.113.9"),
            ]
        )
        assert [o.delivered for o in seen] == [False, False, False, False, True, True]


def test_a_port_without_rules_or_interface_is_closed_from_its_first_packet() -> None:
    made = state([group("none")], [port("p1", ["none"], ["10.0.0.1"], interface="tap1")])
    with Lab() as lab:
        enforce(lab, made)
        _build(lab, made)
        assert not probe(_flow(lab, "203.0.113.9", "10.0.0.1")).delivered
        assert not probe(_flow(lab, "10.0.0.1", "203.0.113.9")).delivered


def test_the_host_itself_is_judged_like_any_peer() -> None:
    made = state(
        [group("g", rule("egress", UDP, "53"), rule("ingress", TCP, "22", "169.254.1.1/32"))],
        [port("p1", ["g"], ["10.0.0.1"], interface="tap1")],
    )
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        instance, host = lab.ports["tap1"].namespace, lab.hv
        own, server = ip_address("169.254.1.1"), ip_address("10.0.0.1")

        def between(protocol: int, dport: int, *, to_host: bool) -> Probe:
            return Probe(
                source=instance if to_host else host,
                source_address=server if to_host else own,
                destination=host if to_host else instance,
                destination_address=own if to_host else server,
                protocol=protocol,
                dport=dport,
            )

        seen = run_probes(
            [
                between(TCP, 22, to_host=False),
                between(TCP, 23, to_host=False),
                between(UDP, 53, to_host=True),
                between(UDP, 54, to_host=True),
            ]
        )
        assert [o.delivered for o in seen] == [True, False, True, False]


def test_what_opens_ipv4_opens_nothing_in_ipv6_and_the_other_way_round() -> None:
    """Literal and set beside each other, which another agent once widened for the other family."""
    four = [rule("ingress", TCP, "80", "203.0.113.9/32"), rule("ingress", TCP, "81", "sg:peers")]
    six = [rule("ingress", TCP, "90", "2001:db8::9/128"), rule("ingress", TCP, "91")]
    made = state(
        [group("g", *four, replace(six[0]), replace(six[1], family=Family.IPV6)), group("peers")],
        [
            port("p1", ["g"], ["10.0.0.1", "fd00::1"], interface="tap1"),
            port("p2", ["peers"], ["10.0.0.2", "fd00::2"], interface="tap2"),
        ],
    )
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        asked = [
            _flow(lab, source, own, TCP, number)
            for source, own in (("203.0.113.9", "10.0.0.1"), ("2001:db8::9", "fd00::1"))
            for number in (80, 81, 90, 91)
        ]
        passed = [one.delivered for one in run_probes(asked)]
        assert passed == [True, False, False, False, False, False, True, True]


def test_applying_the_same_document_twice_writes_nothing_the_second_time() -> None:
    made = _pair(("tap1", 'tap"2'))
    with Lab() as lab:
        _build(lab, made)
        with enforcer(lab) as reconciler:
            first = reconciler.apply(made, bindings(lab, made))
            before = reconciler.kernel.generation()
            second = reconciler.apply(made, bindings(lab, made))
            reconciler.forget_kernel()
            third = reconciler.apply(made, bindings(lab, made))
            assert first.plan and not second.plan and not third.plan
            assert reconciler.kernel.generation() == before
        # A process without any memory but the record finds nothing to do either.
        with enforcer(lab, reconciler.memory) as fresh:
            assert not fresh.apply(made, bindings(lab, made)).plan


def test_a_small_change_sends_only_the_difference() -> None:
    made = _pair(("tap1", "tap2"))
    joined = replace(
        made,
        instances=(
            *made.instances,
            replace(
                made.instances[0], id="i-x", ports=(port("px", ["two"], ["10.0.5.5"], host_id="b"),)
            ),
        ),
    )
    peers = group("one", rule("ingress", TCP, "80", "sg:two"))
    made, joined = (
        replace(one, security_groups=(peers, one.security_groups[1])) for one in (made, joined)
    )
    with Lab() as lab:
        _build(lab, made)
        with enforcer(lab) as reconciler:
            reconciler.apply(made, bindings(lab, made))
            outcome = reconciler.apply(joined, bindings(lab, made))
        assert len(outcome.plan.lines) == 1
        assert outcome.plan.lines[0].text.endswith("{ 10.0.5.5 }")


def test_a_refused_transaction_changes_nothing_and_names_its_object() -> None:
    made = _pair(("tap1", "tap2"))
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        with kernel(lab) as nft:
            before = nft.observe()
            bad = Plan(
                (
                    Line("add chain inet secgroupd extra"),
                    Line("add rule inet secgroupd extra accept", "security group fine"),
                    Line("add rule inet secgroupd extra goto nowhere", "security group sg-bad"),
                )
            )
            with pytest.raises(TransactionRefused) as caught:
                nft.commit(bad)
            assert caught.value.origins == ("security group sg-bad",)
            assert "sg-bad" in str(caught.value) and "nowhere" in str(caught.value)
            assert nft.observe() == before


def test_elements_that_are_shown_as_before_are_those_of_before_and_others_are_read() -> None:
    made = _pair(("tap1", "tap2"))
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        with kernel(lab) as nft:
            where = family(lab)
            before = nft.observe(where)
            assert before is not None
            again = nft.observe(where, before)
            assert again is not None
            for name, one in before.sets.items():
                assert one.timeout or again.sets[name].elements is one.elements
            assert again.chains is before.chains
            ports = next(name for name in before.sets if name.startswith("ports_to_"))
            for change in (
                f'delete element {where} secgroupd {ports} {{ "tap1" }}',
                f'add element {where} secgroupd {ports} {{ "tap1" : jump {names.CLOSED} }}',
                f'add element {where} secgroupd {ports} {{ "tap9" : jump {names.CLOSED} }}',
            ):
                lab.hv.run(["nft", change])
                changed = nft.observe(where, before)
                assert changed is not None
                assert changed == nft.observe(where)
                assert changed.sets[ports] != before.sets[ports]
                before = changed


def test_what_the_kernel_has_is_held_once_with_what_it_should_have() -> None:
    made = _pair(("tap1", "tap2"))
    with Lab() as lab:
        _build(lab, made)
        with enforcer(lab) as reconciler:
            reconciler.apply(made, bindings(lab, made))
            table = reconciler.propose(made, bindings(lab, made)).tables[family(lab)]
            wanted = expected(table)
            there = reconciler.kernel.observe(family(lab), wanted)
            assert there is not None
            assert (there.chains, there.counters) == (wanted.chains, wanted.counters)
            assert there.chains is wanted.chains and there.counters is wanted.counters
            for name, one in table.sets.items():
                assert one.timeout or there.sets[name].elements is one.elements


def test_other_tables_stay_as_they_are() -> None:
    made = _pair(("tap1", "tap2"))
    foreign = "table ip other {\n\tchain c {\n\t\ttype filter hook forward priority 0; policy accept;\n\t\tip daddr 10.0.0.1 tcp dport 80 accept\n\t}\n}\n"
    with Lab() as lab:
        lab.hv.run(["nft", "-f", "-"], stdin=foreign)
        before = lab.hv.run(["nft", "-a", "list", "table", "ip", "other"]).stdout
        _build(lab, made)
        enforce(lab, made)
        with enforcer(lab) as reconciler:
            reconciler.apply(replace(made, security_groups=made.security_groups[:1]), {})
        with kernel(lab) as nft:
            nft.remove()
            assert nft.observe() is None
        assert lab.hv.run(["nft", "-a", "list", "table", "ip", "other"]).stdout == before


def test_what_drifted_is_repaired_by_the_smallest_change() -> None:
    made = _pair(("tap1", "tap2"))
    with Lab() as lab:
        _build(lab, made)
        with enforcer(lab) as reconciler:
            reconciler.apply(made, bindings(lab, made))
            table = f"{family(lab)} secgroupd"
            damages = [
                f"insert rule {table} from_port accept",
                f"flush chain {table} deny_in",
                f"delete element {table} ports_to_4096 {{ tap1 }}",
                f"flush chain {table} to_port",
                f"delete table {table}",
                f"add chain {table} stranger",
                f"add table {table} {{ flags dormant; }}",
                f"add chain {table} to_port {{ policy drop; }}",
            ]
            for damage in damages:
                lab.hv.run(["nft", damage])
                outcome = reconciler.apply(made, bindings(lab, made))
                assert outcome.plan and outcome.drift, damage
                reconciler.forget_kernel()
                assert not reconciler.apply(made, bindings(lab, made)).plan, damage
                assert not probe(_flow(lab, "203.0.113.9", "10.0.0.1", TCP, 81)).delivered
                assert probe(_flow(lab, "203.0.113.9", "10.0.0.1", TCP, 80)).delivered


def test_a_port_whose_chains_have_no_rules_is_closed_both_ways() -> None:
    """So it is for a packet under way, when its port is led to chains that are new."""
    made = state(
        [group("open", *both("ingress"), *both("egress"))],
        [port("p1", ["open"], ["10.0.0.1", "fd00::1"], interface="tap1")],
    )
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        asked = [
            _flow(lab, *ends, UDP, 53)
            for one, other in (("203.0.113.9", "10.0.0.1"), ("2001:db8::9", "fd00::1"))
            for ends in ((one, other), (other, one))
        ]
        assert all(one.delivered for one in run_probes(asked))
        table = f"{family(lab)} secgroupd"
        listed = lab.hv.run(["nft", "list", "table", *table.split()]).stdout
        chains = set(re.findall(r": (?:goto|jump) ((?:from|to)_\w+)", listed))
        assert len(chains) == 2
        for chain in chains:
            lab.hv.run(["nft", f"flush chain {table} {chain}"])
        assert not any(one.delivered for one in run_probes(asked))


def test_no_packet_leaks_or_is_lost_while_the_table_is_swapped() -> None:
    """Both documents allow UDP 1000 and deny UDP 1001; everything else about them differs."""
    filler = [rule("ingress", TCP, str(2000 + at), f"10.9.{at}.0/24") for at in range(100)]
    one = state(
        [group("g", *both("egress"), rule("ingress", UDP, "1000"), *filler)],
        [port("p1", ["g"], ["10.0.0.1"], interface="tap1")],
    )
    other = state(
        [
            group("g", *both("egress"), rule("ingress", UDP, "1-1000", priority=3)),
            group("h", rule("ingress", UDP, "1001", action="deny"), *both()),
        ],
        [port("p1", ["g", "h"], ["10.0.0.1"], interface="tap1")],
    )
    with Lab() as lab:
        _build(lab, one)
        with enforcer(lab) as reconciler:
            reconciler.apply(one, bindings(lab, one))
            allowed = Stream(lab, "203.0.113.9", "tap1", "10.0.0.1", 1000)
            denied = Stream(lab, "203.0.113.9", "tap1", "10.0.0.1", 1001)
            with allowed, denied:
                for turn in range(60):
                    made = other if turn % 2 == 0 else one
                    if turn % 3 == 2:  # also the change of a declaration, which refills every chain
                        there = reconciler.propose(made, bindings(lab, made)).tables[family(lab)]
                        other_size = replace(there.sets["adopting"], size=1024)
                        sets = {**there.sets, "adopting": other_size}
                        plan = diff(
                            replace(there, sets=sets), reconciler.kernel.observe(family(lab))
                        )
                        assert any(line.text.startswith("delete set") for line in plan.lines)
                        reconciler.kernel.commit(plan)
                    assert reconciler.apply(made, bindings(lab, made)).policy
                lost = allowed.lost()
                assert len(lost) <= may_be_missed(), f"of {allowed.sent}: {lost}"
                assert not denied.received()
                assert allowed.sent > 500 and denied.sent > 500


def test_icmp_errors_pass_with_their_connection_and_not_without() -> None:
    made = state(
        [group("g", *both("egress"), rule("ingress", UDP, "1000"))],
        [port("p1", ["g"], ["10.0.0.1"], interface="tap1")],
    )
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        outside = lab.outside_address("203.0.113.9")
        instance = lab.ports["tap1"].namespace
        with (
            outside.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            instance.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller,
        ):
            for one, own, target in (
                (client, "203.0.113.9", ("10.0.0.1", 1000)),
                (caller, "10.0.0.1", ("203.0.113.9", 4444)),
            ):
                one.bind((own, 0))
                one.connect(target)
                one.settimeout(3)
                one.send(b"anybody there?")
                # Nobody listens: the far end's port unreachable must find its way back.
                with pytest.raises(ConnectionRefusedError):
                    one.recv(10)
        forged = Probe(
            source=outside,
            source_address=ip_address("203.0.113.9"),
            destination=instance,
            destination_address=ip_address("10.0.0.1"),
            protocol=ICMP,
            icmp_type=3,
            icmp_code=3,
        )
        assert not probe(forged).delivered


def test_no_packet_opens_what_rules_would_deny_in_the_guise_of_another_protocol() -> None:
    """In IPv6, connection tracking looks behind an authentication header, and rules at it."""
    own, far, allowed, denied = "fd00::1", "2001:db8::9", 54, 53
    deny = rule("egress", UDP, str(denied), action="deny", family=Family.IPV6, rule_id="no")
    rest = [replace(one, priority=2) for one in both("egress")]
    made = state([group("g", deny, *rest)], [port("p1", ["g"], [own], interface="tap1")])
    with Lab() as lab, ExitStack() as opened:
        _build(lab, made)
        enforce(lab, made)
        here, outside = lab.ports["tap1"].namespace, lab.outside_address(far)

        def raw(where: Namespace, protocol: int) -> socket.socket:
            made = where.socket(socket.AF_INET6, socket.SOCK_RAW, protocol)
            made.settimeout(PATIENCE)
            return opened.enter_context(made)

        hidden, plain = (raw(here, protocol) for protocol in (socket.IPPROTO_AH, UDP))
        hears_hidden, hears_plain = (raw(outside, number) for number in (socket.IPPROTO_AH, UDP))
        header = struct.pack("!BBHII", UDP, 1, 0, 7, 7)
        ends = ip_address(own), ip_address(far)
        words = [frames.udp(*ends, 4000, dport, b"word")[40:] for dport in (denied, allowed)]
        for inside in words:
            hidden.sendto(header + inside, (far, 0))
            assert hears_hidden.recv(64) == header + inside, "this header is allowed"
            plain.sendto(inside, (far, 0))
        assert hears_plain.recv(64) == words[1], "only what is allowed has arrived"


def test_of_a_protocol_that_is_tracked_by_addresses_alone_the_ports_are_judged() -> None:
    """As newer kernels do with DCCP."""
    one_port = rule("egress", DCCP, "5000", rule_id="dccp")
    made = state([group("g", one_port)], [port("p1", ["g"], ["10.0.0.1"], interface="tap1")])
    with Lab() as lab:
        _build(lab, made)
        enforce(lab, made)
        first, other = (
            _flow(lab, "10.0.0.1", "203.0.113.9", DCCP, dport) for dport in (5000, 6000)
        )
        assert [probe(one).delivered for one in (first, other, first)] == [True, False, True]
