from ipaddress import ip_address

import pytest

from secgroupd.core.document import Source, parse
from secgroupd.core.model import ICMP, ICMPV6, TCP, Action, Family
from secgroupd.core.policy import Policy
from secgroupd.core.reachability import Question, explain, resolve
from secgroupd.core.verdict import Reason
from secgroupd.errors import QuestionError

DOCUMENT = """
version: 1
vpcs: [{id: a}, {id: b}, {id: c}]
peerings: [{id: ab, vpc_ids: [a, b]}]
security_groups:
  - id: open
    rules:
      - {id: in4, direction: ingress}
      - {id: in6, direction: ingress, ethertype: IPv6}
      - {id: out4, direction: egress}
      - {id: out6, direction: egress, ethertype: IPv6}
  - id: web
    rules: [{id: https, direction: ingress, protocol: tcp, multiport: 443}]
instances:
  - id: both
    ports:
      - {id: both-1, vpc_id: a, private_ips: [10.0.0.1, "2001:db8::1"], security_groups: [open]}
  - id: dual
    ports:
      - {id: dual-1, vpc_id: a, private_ips: ["2001:db8::2", 10.0.0.2, 10.0.0.22],
         security_groups: [open]}
  - id: six
    ports: [{id: six-1, vpc_id: a, private_ips: ["2001:db8::6"], security_groups: [open]}]
  - id: web
    ports: [{id: web-1, vpc_id: b, private_ips: [10.0.1.1], security_groups: [web]}]
  - id: router
    ports:
      - {id: router-a, vpc_id: a, private_ips: [10.0.0.9], security_groups: [open]}
      - {id: router-c, vpc_id: c, private_ips: [10.0.2.9], security_groups: [open]}
  - id: far
    ports: [{id: far-1, vpc_id: c, private_ips: [10.0.2.1], security_groups: [open]}]
  - id: shared-b
    ports: [{id: shared-b-1, vpc_id: b, private_ips: [10.9.9.9], security_groups: [open]}]
  - id: shared-c
    ports: [{id: shared-c-1, vpc_id: c, private_ips: [10.9.9.9], security_groups: [open]}]
  - id: bare
    ports: [{id: bare-1, vpc_id: a, security_groups: [open]}]
"""
POLICY = Policy(parse([Source("document.yaml", DOCUMENT)]).state)


def ask(
    source: str,
    destination: str,
    protocol: int = TCP,
    *,
    dport: int | None = None,
    icmp_type: int | None = None,
    icmp_code: int | None = None,
    family: Family | None = None,
) -> Question:
    if protocol == TCP and dport is None:
        dport = 443
    return Question(
        source=source,
        destination=destination,
        protocol=protocol,
        dport=dport,
        icmp_type=icmp_type,
        icmp_code=icmp_code,
        family=family,
    )


def addresses(question: Question) -> tuple[str, str]:
    flow = resolve(POLICY, question)
    return str(flow.source.address), str(flow.destination.address)


def test_both_ends_decide() -> None:
    answer = explain(POLICY, ask("both", "dual-1"))
    assert answer.verdict is Action.ALLOW
    assert answer.egress is not None and answer.ingress is not None
    assert (answer.egress.port_id, answer.egress.rule_id) == ("both-1", "out4")
    assert (answer.ingress.port_id, answer.ingress.rule_id) == ("dual-1", "in4")


def test_one_denying_end_denies() -> None:
    answer = explain(POLICY, ask("both", "web", dport=80))
    assert answer.verdict is Action.DENY
    assert answer.egress is not None and answer.egress.allowed
    assert answer.ingress is not None and answer.ingress.reason is Reason.DEFAULT_DENY


def test_an_address_outside_decides_nothing() -> None:
    inbound = explain(POLICY, ask("203.0.113.9", "web"))
    assert (inbound.verdict, inbound.egress) == (Action.ALLOW, None)
    outbound = explain(POLICY, ask("web-1", "203.0.113.9"))
    assert (outbound.verdict, outbound.ingress) == (Action.DENY, None)


def test_a_private_address_means_its_port() -> None:
    flow = resolve(POLICY, ask("10.0.0.22", "10.0.1.1"))
    assert flow.source.port is not None and flow.source.port.id == "dual-1"
    assert flow.source.address == ip_address("10.0.0.22")
    assert flow.destination.port is not None and flow.destination.port.id == "web-1"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (ask("both", "dual"), ("10.0.0.1", "10.0.0.2")),
        (ask("both", "dual", family=Family.IPV6), ("2001:db8::1", "2001:db8::2")),
        (ask("both", "dual", ICMPV6), ("2001:db8::1", "2001:db8::2")),
        (ask("both", "dual", ICMP), ("10.0.0.1", "10.0.0.2")),
        (ask("both", "dual", ICMPV6, family=Family.IPV4), ("10.0.0.1", "10.0.0.2")),
        (ask("both", "2001:db8::2"), ("2001:db8::1", "2001:db8::2")),
        (ask("both", "six"), ("2001:db8::1", "2001:db8::6")),
        (ask("2001:db8:f::1", "both", ICMP), ("2001:db8:f::1", "2001:db8::1")),
    ],
)
def test_the_family_is_chosen(question: Question, expected: tuple[str, str]) -> None:
    assert addresses(question) == expected


def test_of_several_ports_the_connected_one_is_meant() -> None:
    assert addresses(ask("both", "router")) == ("10.0.0.1", "10.0.0.9")
    assert addresses(ask("far", "router")) == ("10.0.2.1", "10.0.2.9")
    assert addresses(ask("web", "router")) == ("10.0.1.1", "10.0.0.9")


def test_of_several_vpcs_the_connected_one_is_meant() -> None:
    flow = resolve(POLICY, ask("both", "10.9.9.9"))
    assert flow.destination.port is not None and flow.destination.port.id == "shared-b-1"


def test_peered_vpcs_are_connected() -> None:
    assert explain(POLICY, ask("both", "web")).verdict is Action.ALLOW


@pytest.mark.parametrize("source", ["both", "web"])
def test_nothing_travels_between_unconnected_vpcs(source: str) -> None:
    answer = explain(POLICY, ask(source, "far"))
    assert not answer.flow.connected
    assert answer.verdict is Action.DENY
    assert answer.ingress is not None
    assert (answer.ingress.reason, answer.ingress.rule_id) == (Reason.DEFAULT_DENY, None)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (ask("bot", "dual"), "no port or instance 'bot': did you mean both"),
        (ask("both", "quite unlike"), "write the id of one, or an address"),
        (ask("both", "10.0.0.1/24"), "write the bare address"),
        (ask("both", "10.0.0.01"), "leading zeros"),
        (ask("203.0.113.9", "router"), "router may mean several ports: .*router-a, router-c"),
        (ask("203.0.113.9", "10.9.9.9"), "10.9.9.9 may mean several ports: .*shared-b-1, shared-c"),
        (ask("six", "web"), "no common addresses"),
        (ask("both", "10.0.1.1", family=Family.IPV6), "no IPv6 addresses"),
        (ask("203.0.113.9", "198.51.100.1"), "neither 203.0.113.9 nor 198.51.100.1 is a port"),
        (ask("both", "10.0.0.1"), "are the same port"),
        (ask("dual", "10.0.0.22"), "are the same port"),
        (ask("both", "bare"), "bare has no private IP"),
        (ask("both", "dual", 17), "needs a destination port"),
        (ask("both", "dual", ICMP, dport=1), "has no ports"),
        (ask("both", "dual", icmp_type=8), "goes with ICMP only"),
        (ask("both", "dual", ICMP, icmp_code=0), "needs a type"),
    ],
)
def test_what_cannot_be_answered_says_what_to_write(question: Question, message: str) -> None:
    with pytest.raises(QuestionError, match=message):
        explain(POLICY, question)


def test_the_icmp_type_reaches_the_rules() -> None:
    document = """
version: 1
vpcs: [{id: a}]
security_groups:
  - id: pinged
    rules: [{id: ping, direction: ingress, protocol: icmp, icmp_type: 8, icmp_code: 0}]
instances:
  - {id: one, ports: [{id: one-1, vpc_id: a, private_ips: [10.0.0.1], security_groups: [pinged]}]}
"""
    policy = Policy(parse([Source("document.yaml", document)]).state)
    verdicts = [
        explain(policy, ask("203.0.113.9", "one", ICMP, icmp_type=kind, icmp_code=code)).verdict
        for kind, code in ((None, None), (8, None), (8, 1), (13, None))
    ]
    assert verdicts == [Action.ALLOW, Action.ALLOW, Action.DENY, Action.DENY]


HOLDERS = """
version: 1
vpcs: [{id: a}, {id: b}]
security_groups:
  - id: web
    rules:
      - {id: out, direction: egress}
      - {id: https, direction: ingress, protocol: tcp, multiport: 443}
  - {id: shut, rules: []}
instances:
  - id: one
    ports:
      - {id: one-1, vpc_id: a, private_ips: [10.0.0.1], security_groups: [web],
         allowed_address_pairs: [{ip_address: 10.0.0.100}, {ip_address: 10.8.0.0/16}]}
  - id: two
    ports:
      - {id: two-1, vpc_id: a, private_ips: [10.0.0.2], security_groups: [SECOND],
         allowed_address_pairs: [{ip_address: 10.0.0.100}]}
  - id: other
    ports:
      - {id: other-1, vpc_id: b, private_ips: [10.0.1.1], security_groups: [web],
         allowed_address_pairs: [{ip_address: 10.0.0.100}]}
  - {id: asking, ports: [{id: asking-1, vpc_id: a, private_ips: [10.0.0.9], security_groups: [web]}]}
"""


def _holders(second: str) -> Policy:
    return Policy(parse([Source("s.yaml", HOLDERS.replace("SECOND", second))]).state)


@pytest.mark.parametrize(("asking", "holder"), [("asking", "one-1"), ("one", "two-1")])
def test_a_virtual_address_is_judged_by_the_ports_that_may_have_it(
    asking: str, holder: str
) -> None:
    policy = _holders("web")
    for dport, verdict in ((443, Action.ALLOW), (22, Action.DENY)):
        answer = explain(policy, ask(asking, "10.0.0.100", dport=dport))
        assert answer.verdict is verdict
        assert answer.ingress is not None and answer.ingress.port_id == holder
    back = explain(policy, ask("10.0.0.100", "asking", dport=443))
    assert back.egress is not None and back.egress.rule_id == "out"
    # Of a network that a port may send from, nobody knows who is behind it.
    assert explain(policy, ask("asking", "10.8.0.1", dport=22)).ingress is None


def test_ports_that_judge_a_virtual_address_otherwise_must_be_named() -> None:
    with pytest.raises(QuestionError, match=r"10.0.0.100 may mean several ports: .*one-1, two-1"):
        explain(_holders("shut"), ask("asking", "10.0.0.100", dport=443))
