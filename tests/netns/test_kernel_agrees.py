"""The evaluator and the kernel decide alike, for documents and packets drawn at random."""

from random import Random

import pytest
from tests.drawing import Drawing
from tests.enforcing import enforce_only
from tests.oracle import judge

from secgroupd.core.policy import Policy
from secgroupd.proving.reachability import observe

pytestmark = pytest.mark.netns

DOCUMENTS = 16
QUESTIONS = 140


@pytest.mark.parametrize("seed", range(DOCUMENTS))
def test_the_kernel_delivers_what_the_evaluator_allows_and_nothing_else(seed: int) -> None:
    drawing = Drawing(Random(seed))
    document = drawing.state()
    policy = Policy(document)
    asked = list(dict.fromkeys(drawing.question(policy) for _ in range(QUESTIONS)))
    while len(asked) < QUESTIONS:
        asked = list(dict.fromkeys([*asked, drawing.question(policy)]))
    seen = observe(document, asked, enforce_only)
    wrong = [
        (question, judgement, observation)
        for question, observation in zip(asked, seen, strict=True)
        if (judgement := judge(policy, question)).allowed is not observation.delivered
    ]
    assert not wrong, "\n".join(f"{q}\n   {j}\n   {o}" for q, j, o in wrong[:5])
