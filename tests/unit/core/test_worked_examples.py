"""The cloud's worked examples on the evaluator."""

import pytest
from tests.oracle import judge
from tests.worked import Example, examples, load

from secgroupd.core.policy import Policy

ALL = list(examples())


def test_every_case_is_among_the_examples() -> None:
    named = {example.name.split("-")[0] for example in ALL}
    assert named == {case["id"].split("-")[0] for case in load()["cases"]}
    assert len(named) == 30


@pytest.mark.parametrize("example", ALL, ids=lambda e: e.name)
def test_the_evaluator_decides_as_documented(example: Example) -> None:
    assert judge(Policy(example.state), example.question).allowed is example.allowed
