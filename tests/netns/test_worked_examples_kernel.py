"""The cloud's worked examples with real packets."""

import pytest
from tests.enforcing import enforce_only
from tests.worked import Example, examples

from secgroupd.core.model import State
from secgroupd.proving.reachability import observe

pytestmark = pytest.mark.netns


def _by_state() -> dict[str, tuple[State, list[Example]]]:
    found: dict[str, tuple[State, list[Example]]] = {}
    for example in examples():
        found.setdefault(repr(example.state), (example.state, []))[1].append(example)
    return {those[0].name: (state, those) for state, those in found.values()}


CASES = _by_state()


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_decides_as_documented(name: str) -> None:
    state, those = CASES[name]
    seen = observe(state, [example.question for example in those], enforce_only)
    got = {e.name: o.delivered for e, o in zip(those, seen, strict=True)}
    assert got == {example.name: example.allowed for example in those}
