"""A file of reachability tests -> questions with the verdicts that are expected of them.

The file is YAML or JSON, a list of tests; like a state document it is accepted whole or refused
whole, with every problem at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from secgroupd.core.model import Action
from secgroupd.core.policy import Policy
from secgroupd.core.ports import protocol
from secgroupd.core.reachability import Answer, Question, check_fields, explain
from secgroupd.core.reading import (
    Field,
    Place,
    Reader,
    Refusal,
    Shape,
    TooManyProblems,
    Values,
    list_kind,
    mapping_kind,
    scalar_kind,
)
from secgroupd.core.rulefields import FAMILIES
from secgroupd.core.scalars import ID, number_between, one_of
from secgroupd.core.tree import TooLarge
from secgroupd.core.yamltree import parse_tree
from secgroupd.errors import DocumentError, Problem, QuestionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One reachability test; ``place`` is where it stands in its file."""

    place: Place
    question: Question
    expect: Action
    name: str = ""

    @property
    def title(self) -> str:
        """The test's name, or the names of its ends."""
        return self.name or f"{self.question.source} to {self.question.destination}"


def parse_tests(file: str, content: str | bytes) -> tuple[Expectation, ...]:
    """Parse and check a file of tests.

    Args:
        file: its name, for the problems.
        content: its text, or its bytes in UTF-8.

    Raises:
        DocumentError: the file is refused; it carries every problem.
    """
    reader = Reader(file)
    tests: tuple[Expectation, ...] = ()
    try:
        tests = _read(file, content, reader)
    except TooLarge as refusal:
        reader.problems.append(
            Problem(file, refusal.line, refusal.column, refusal.code, refusal.message)
        )
    except TooManyProblems:
        # What has been found is enough to begin with.
        raise DocumentError(tuple(reader.problems)) from None
    if reader.problems:
        raise DocumentError(tuple(reader.problems))
    return tests


def answers(policy: Policy, tests: Sequence[Expectation]) -> tuple[Answer, ...]:
    """Answer every test by the rules, in order.

    Raises:
        DocumentError: some tests name what the policy does not have; it carries all of them.
    """
    problems: list[Problem] = []
    found: list[Answer] = []
    for test in tests:
        try:
            found.append(explain(policy, test.question))
        except QuestionError as error:
            problems.append(Problem(*test.place, "question", str(error)))
    if problems:
        raise DocumentError(tuple(problems))
    return tuple(found)


def _read(file: str, content: str | bytes, reader: Reader) -> tuple[Expectation, ...]:
    root, problems = parse_tree(file, content)
    reader.problems += problems
    if root is None:
        if not problems:
            reader.report(Place(file, 1, 1), "no-tests", _NO_TESTS)
        return ()
    try:
        tests = TESTS_KIND.read(root, reader)
    except Refusal as refusal:
        reader.report(root, refusal.code, refusal.message)
        return ()
    if not tests and not reader.problems:
        reader.report(root, "no-tests", _NO_TESTS)
    return tuple(located.value for located in tests)


def _test(values: Values, reader: Reader) -> Expectation | None:
    given = values.given
    if not values.complete("from", "to", "protocol", "expect"):
        return None
    fields = ("dport", "icmp_type", "icmp_code")
    if values.complete(*fields):
        wrong = check_fields(given["protocol"], *(given.get(name) for name in fields))
        if wrong is not None:
            reader.report(values.node, "test-fields", wrong)
    return Expectation(
        place=reader.place(values.node),
        question=Question(
            source=given["from"],
            destination=given["to"],
            protocol=given["protocol"],
            dport=given.get("dport"),
            icmp_type=given.get("icmp_type"),
            icmp_code=given.get("icmp_code"),
            family=given.get("ethertype"),
        ),
        expect=given["expect"],
        name=given.get("name", ""),
    )


_NO_TESTS = "there are no tests: write a list of {from, to, protocol, expect}"
_BYTE = scalar_kind(number_between(0, 255, "icmp-number"))
_FAMILY = scalar_kind(one_of({f.value: f for f in FAMILIES.values()}, "ethertype"))

TEST = Shape(
    "test",
    "One reachability test: can a new connection be opened, and should it?",
    {
        "name": Field(ID, "what the test says, for the report"),
        "from": Field(ID, "a port's id, an instance's id or an address", required=True),
        "to": Field(ID, "a port's id, an instance's id or an address", required=True),
        "protocol": Field(scalar_kind(protocol), "a protocol's name or 0 to 255", required=True),
        "dport": Field(scalar_kind(number_between(1, 65535, "port-range")), "the destination port"),
        "icmp_type": Field(_BYTE, "0 to 255; an echo request when it is missing"),
        "icmp_code": Field(_BYTE, "0 to 255, with a type"),
        "ethertype": Field(_FAMILY, "IPv4 or IPv6, where the ends have both"),
        "expect": Field(
            scalar_kind(one_of({a.value: a for a in Action}, "expect")),
            "allow or deny",
            required=True,
        ),
    },
)
"""The fields of a test."""

TESTS_KIND = list_kind(mapping_kind(TEST, _test))
"""The kind of a file of tests."""
