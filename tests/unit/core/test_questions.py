import json

import pytest

from secgroupd.core.document import Source, parse
from secgroupd.core.model import ICMP, TCP, Action, Family
from secgroupd.core.policy import Policy
from secgroupd.core.questions import answers, parse_tests
from secgroupd.core.reachability import Question
from secgroupd.errors import DocumentError


def codes(text: str, file: str = "tests.yaml") -> list[tuple[int, int, str]]:
    with pytest.raises(DocumentError) as caught:
        parse_tests(file, text)
    return [(problem.line, problem.column, problem.code) for problem in caught.value.problems]


def test_a_test_is_read_with_its_place() -> None:
    (only,) = parse_tests(
        "tests.yaml",
        "# one\n- {name: web reaches db, from: ecs-a01, to: 10.0.0.1, protocol: TCP, dport: 3306,\n"
        "   ethertype: IPv4, expect: allow}\n",
    )
    assert only.question == Question(
        source="ecs-a01", destination="10.0.0.1", protocol=TCP, dport=3306, family=Family.IPV4
    )
    assert (only.name, only.title, only.expect) == ("web reaches db", only.name, Action.ALLOW)
    assert str(only.place) == "tests.yaml:2:3"


def test_a_test_without_a_name_is_called_by_its_ends() -> None:
    (only,) = parse_tests(
        "t.yaml", "[{from: a, to: b, protocol: icmp, icmp_type: 3, icmp_code: 1, expect: deny}]"
    )
    assert only.title == "a to b"
    assert (only.question.protocol, only.question.icmp_type, only.question.icmp_code) == (
        ICMP,
        3,
        1,
    )


def test_json_is_read_too() -> None:
    written = [{"from": "a", "to": "b", "protocol": 132, "dport": 5, "expect": "deny"}]
    (only,) = parse_tests("tests.json", json.dumps(written))
    assert (only.question.protocol, only.question.dport) == (132, 5)


def test_every_problem_is_found_at_once() -> None:
    text = """\
- {from: a, to: b, protocol: tcp, dport: 80, expect: maybe}
- {fro: a, to: b, protocol: icmp, dport: 3, expect: allow}
- 3
- {from: a, to: b, protocol: tcp, expect: allow}
- {from: a, to: b, protocol: tcp, dport: 65536, expect: allow}
- {from: 7, to: b, protocol: tpc, dport: 1, expect: allow}
- {from: a, to: b, protocol: udp, dport: 1, icmp_type: 8, expect: allow}
- {from: a, to: b, protocol: icmp, icmp_code: 8, expect: allow}
"""
    assert codes(text) == [
        (1, 54, "expect"),
        (2, 3, "missing-field"),
        (2, 4, "unknown-field"),
        (3, 3, "not-a-mapping"),
        (4, 3, "test-fields"),
        (5, 42, "port-range"),
        (6, 10, "id"),
        (6, 30, "protocol"),
        (7, 3, "test-fields"),
        (8, 3, "test-fields"),
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "no-tests"),
        ("[]", "no-tests"),
        ("a: b", "not-a-list"),
        ("[", "yaml-syntax"),
        ("- &x {from: a, to: b, protocol: icmp, expect: deny}", "alias"),
    ],
)
def test_what_is_no_list_of_tests_is_refused(text: str, code: str) -> None:
    assert [found for _, _, found in codes(text)] == [code]


def test_every_unknown_name_is_found_at_once() -> None:
    policy = Policy(
        parse(
            [
                Source(
                    "d.yaml",
                    "{version: 1, vpcs: [{id: v}], instances: [{id: one, ports: "
                    "[{id: p, vpc_id: v, private_ips: [10.0.0.1]}]}]}",
                )
            ]
        ).state
    )
    tests = parse_tests(
        "tests.yaml",
        "- {from: one, to: 10.0.0.2, protocol: icmp, expect: allow}\n"
        "- {from: two, to: 10.0.0.2, protocol: icmp, expect: allow}\n"
        "- {from: one, to: three, protocol: icmp, expect: allow}\n",
    )
    (answer,) = answers(policy, tests[:1])
    assert answer.verdict is Action.ALLOW
    with pytest.raises(DocumentError) as caught:
        answers(policy, tests)
    assert [(p.file, p.line, p.code) for p in caught.value.problems] == [
        ("tests.yaml", 2, "question"),
        ("tests.yaml", 3, "question"),
    ]
