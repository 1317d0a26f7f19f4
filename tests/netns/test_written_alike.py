"""What is written without libnftables is what libnftables makes of the same text, byte by byte."""

from collections.abc import Iterator, Mapping
from random import Random

import pytest
from tests.drawing import Drawing
from tests.enforcing import kernel
from tests.fakes.nftables import differences

from secgroupd.core.compiler import compile_ruleset
from secgroupd.core.draft import Binding
from secgroupd.core.host import Generations, Host
from secgroupd.core.model import Clearing
from secgroupd.core.plan import Line, diff, expected
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import TABLE, Ruleset
from secgroupd.dataplane.netlink import Netlink, attributes, text, text_attribute
from secgroupd.dataplane.nft_read import FAMILIES, GET_RULE, SUBSYSTEM
from secgroupd.dataplane.nft_write import encoded, written
from secgroupd.proving.namespaces import Lab

pytestmark = pytest.mark.netns

DRAWN = 10
OWN = f"inet {TABLE}"
IDLE = "byteorder", b"\1"
"""What libnftables says of the protocol in a concatenation: swap its one byte, by pairs of bytes."""

Rule = tuple[list[tuple[str, bytes]], bytes]


def _compiled(random: Random) -> Ruleset:
    policy = Policy(Drawing(random).state())
    bindings = {p.id: Binding(p.interface or "") for p in policy.ports.values()}
    generations = Generations(
        5, random.choice([4, 5]), {i: random.randint(1, 4) for i in bindings}, Clearing.DOCUMENTED
    )
    return compile_ruleset(policy, Host(bindings), generations)


def _rules(netlink: Netlink) -> Mapping[str, list[Rule]]:
    """Return expressions and comment of every rule, by chain."""
    found: dict[str, list[Rule]] = {}
    own = text_attribute(1, TABLE)
    for body in netlink.dump(SUBSYSTEM | GET_RULE, FAMILIES["inet"], own):
        parts = dict(attributes(body))
        expressions = [dict(attributes(each)) for _, each in attributes(parts[4])]
        said = [(text(each[1]), bytes(each[2])) for each in expressions if not _idle(each)]
        found.setdefault(text(parts[2]), []).append((said, bytes(parts[7])))
    return found


def _idle(expression: Mapping[int, memoryview]) -> bool:
    if text(expression[1]) != "byteorder":
        return False
    length = dict(attributes(expression[2]))[4]
    return int.from_bytes(length, "big") == 1


def _renamed(lines: list[Line]) -> Iterator[Line]:
    """Yield commands that make the same rules in other chains."""
    for name in dict.fromkeys(line.text.split()[4] for line in lines):
        yield Line(f"add chain {OWN} copy_{name}")
    for line in lines:
        yield Line(line.text.replace(f"add rule {OWN} ", f"add rule {OWN} copy_", 1))


@pytest.mark.parametrize("seed", range(DRAWN))
def test_rules_are_the_same(seed: int) -> None:
    desired = _compiled(Random(seed))
    plan = diff(desired, None)
    rules = [x for part in plan.transactions for x in part if x.text.startswith("add rule ")]
    chains: dict[str, list[Line]] = {}
    for line in rules:
        chains.setdefault(line.text.split()[4], []).append(line)
    sayable = [line for some in chains.values() if encoded(some) is not None for line in some]
    written_here = {line.text.split()[4].partition("_")[0] for line in sayable}
    assert written_here >= {"c", "gen", "known", "ok"}
    with Lab() as lab, kernel(lab) as nft, lab.hv.enter(), Netlink() as netlink:
        nft.commit(plan)
        assert written(netlink, list(_renamed(sayable)))
        found = _rules(netlink)
    copies = {name for name in found if name.startswith("copy_")}
    assert copies
    for name in copies:
        assert found[name] == found[name.removeprefix("copy_")]


@pytest.mark.parametrize("seed", range(DRAWN))
def test_elements_are_the_same(seed: int) -> None:
    desired = _compiled(Random(seed))
    plan = diff(desired, None)
    adding = [x for part in plan.transactions for x in part if x.text.startswith("add element ")]
    removing = [Line(x.text.replace("add", "delete", 1), x.origin, x.of, x.keys) for x in adding]
    with Lab() as lab, kernel(lab) as nft, lab.hv.enter(), Netlink() as netlink:
        nft.commit(plan)
        assert written(netlink, removing)
        emptied = nft.observe()
        assert emptied is not None
        assert not any(one.elements for one in emptied.sets.values())
        assert written(netlink, adding)
        assert differences(nft.observe(), expected(desired)) == {}
