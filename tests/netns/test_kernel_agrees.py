"""The evaluator and the kernel decide alike, for documents and packets drawn at random."""

from collections import Counter
from contextlib import ExitStack
from random import Random

import pytest
from tests.drawing import Drawing
from tests.enforcing import enforce_only
from tests.oracle import judge

from secgroupd.core import names
from secgroupd.core.model import TCP, State
from secgroupd.core.policy import Policy
from secgroupd.dataplane.nft import Nft
from secgroupd.proving.namespaces import Lab
from secgroupd.proving.reachability import observe

pytestmark = pytest.mark.netns

DOCUMENTS = 16
QUESTIONS = 140


@pytest.mark.parametrize("seed", range(DOCUMENTS))
def test_the_kernel_delivers_what_the_evaluator_allows_and_counts_who_decides(seed: int) -> None:
    drawing = Drawing(Random(seed))
    document = drawing.state()
    policy = Policy(document)
    asked = list(dict.fromkeys(drawing.question(policy) for _ in range(QUESTIONS)))
    while len(asked) < QUESTIONS:
        asked = list(dict.fromkeys([*asked, drawing.question(policy)]))
    with ExitStack() as kept:
        kernels: list[Nft] = []

        def enforce(lab: Lab, state: State) -> None:
            """Enforce it, and keep a socket: with it, the host's namespace outlives the lab."""
            enforce_only(lab, state)
            with lab.hv.enter():
                kernels.append(kept.enter_context(Nft()))

        seen = observe(document, asked, enforce)
        counted: Counter[str] = Counter()
        for kernel in kernels:
            for (_, name), count in kernel.counts().rules.items():
                counted[name] += count.packets
    wrong = [
        (question, judgement, observation)
        for question, observation in zip(asked, seen, strict=True)
        if (judgement := judge(policy, question)).allowed is not observation.delivered
    ]
    assert not wrong, "\n".join(f"{q}\n   {j}\n   {o}" for q, j, o in wrong[:5])

    named: Counter[str] = Counter()
    sent_again: set[str] = set()
    for question in asked:
        judgement = judge(policy, question)
        for decision in (judgement.egress, judgement.ingress):
            if decision is None:
                continue
            if decision.group_id is not None and decision.rule_id is not None:
                name = names.counter(decision.group_id, decision.rule_id)
                named[name] += 1
                sent_again |= {name} if question.protocol == TCP else set()
            if not decision.allowed:
                break
    assert +counted >= named
    assert {name: counted[name] for name in +counted if name not in sent_again} == {
        name: number for name, number in named.items() if name not in sent_again
    }
    assert (+counted).keys() == named.keys()
