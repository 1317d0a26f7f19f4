"""The fake kernel and the real one end alike, and refuse alike, for the same transactions."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from tests.drawing import Drawing
from tests.enforcing import kernel
from tests.fakes.nftables import FakeKernel, differences

from secgroupd.core import names
from secgroupd.core.compiler import compile_ruleset
from secgroupd.core.draft import ROOM, Binding
from secgroupd.core.host import Generations, Host
from secgroupd.core.model import Clearing, Timeout
from secgroupd.core.plan import Line, Plan, diff, expected
from secgroupd.core.policy import Policy
from secgroupd.core.ruleset import Chain, Data, Key, NftRule, Ruleset, Set, box, capacity
from secgroupd.dataplane.nft import Nft
from secgroupd.errors import TransactionRefused
from secgroupd.proving.namespaces import Lab

pytestmark = pytest.mark.netns

TABLE = "inet secgroupd"
PAIRS = 10
ODD_NAMES = ("a,b", "tap*", "q x", "n}", "$v")


def _compiled(random: Random) -> Ruleset:
    policy = Policy(Drawing(random).state())
    bindings = {p.id: Binding(p.interface or "") for p in policy.ports.values()}
    odd = random.choice(sorted(bindings))
    bindings[odd] = Binding(random.choice(ODD_NAMES))
    # By index, since its name cannot be written; the index need not exist.
    bindings[random.choice(sorted(bindings.keys() - {odd}))] = Binding('x"y', 4711)
    del bindings[random.choice(sorted(bindings))]
    generations = Generations(
        5, 4, {i: random.randint(1, 4) for i in bindings}, random.choice(list(Clearing))
    )
    timeouts = {Timeout.UDP: 30, Timeout.TCP_ESTABLISHED: random.choice([600, 900])}
    return compile_ruleset(policy, Host(bindings, timeouts=timeouts), generations)


@pytest.mark.parametrize("seed", range(PAIRS))
def test_both_have_the_same_after_the_same_transactions(seed: int) -> None:
    random = Random(seed)
    fake = FakeKernel()
    with Lab() as lab, kernel(lab) as real:
        for desired in (_compiled(random), _compiled(random)):
            plan = diff(desired, fake.observe())
            for part in plan.transactions:
                fake.run(part)
                real.commit(Plan(part))
                assert differences(fake.observe(), real.observe()) == {}
            assert differences(real.observe(), expected(desired)) == {}


@pytest.mark.parametrize(
    "damage",
    [
        (
            f"delete chain {TABLE} {names.LINK_IN}",
            f"add chain {TABLE} {names.LINK_IN} {{ type filter hook input priority 0; }}",
        ),
        (
            f"delete chain {TABLE} {names.TO_PORT}",
            f"add chain {TABLE} {names.TO_PORT}",
            f'add element {TABLE} live_{capacity(ROOM)} {{ "odd" : goto {names.TO_PORT} }}',
        ),
    ],
    ids=["an ordinary chain with a hook", "a base chain without one that is led to"],
)
def test_a_chain_that_changed_its_kind_is_made_anew(damage: Sequence[str]) -> None:
    desired = _compiled(Random(1))
    flushed = [f"flush chain {TABLE} {name}" for name in desired.chains]
    with Lab() as lab, kernel(lab) as real:
        real.commit(diff(desired, None))
        assert _takes(real, [*flushed, *damage])
        real.commit(diff(desired, real.observe()))
        assert differences(real.observe(), expected(desired)) == {}


def test_elements_that_count_are_read_as_what_they_are() -> None:
    one = Set("hosts", Key.IPV4, {bytes([10, 0, 0, 1]): "", bytes([10, 0, 0, 2]): ""}, size=64)
    boxes = {box(Key.SERVICE, (80, 6), (90, 17)): "goto plain"}
    other = Set("ways", Key.SERVICE, boxes, Data.VERDICT)
    chains = {"plain": Chain("plain", (NftRule("ip saddr @hosts accept"),))}
    desired = Ruleset("inet", chains, {s.name: replace(s, counted=True) for s in (one, other)})
    with Lab() as lab, kernel(lab) as real:
        real.commit(diff(desired, None))
        assert differences(real.observe(), expected(desired)) == {}
        listed = lab.hv.run(["nft", "list", "set", *TABLE.split(), "hosts"]).stdout
        assert listed.count("counter packets 0") == 2


SCENE = (
    f"add table {TABLE}",
    f"add chain {TABLE} plain",
    f"add chain {TABLE} target",
    f"add chain {TABLE} other",
    f"add chain {TABLE} base {{ type filter hook prerouting priority -5; policy accept; }}",
    f"add set {TABLE} hosts {{ type ipv4_addr; size 2; }}",
    f"add set {TABLE} nets {{ type ipv4_addr . inet_proto; flags interval; }}",
    f"add map {TABLE} ways {{ type ifname : verdict; size 8; }}",
    f"add ct timeout {TABLE} patient {{ protocol tcp; l3proto ip; policy = {{ established : 9 }}; }}",
    f"add rule {TABLE} plain ip saddr @hosts goto target",
    f'add rule {TABLE} target ct timeout set "patient"',
    f"add rule {TABLE} base iifname vmap @ways",
    f'add element {TABLE} ways {{ "a" : goto plain, "b" : drop }}',
    f"add element {TABLE} hosts {{ 10.0.0.1 }}",
    f"add element {TABLE} nets {{ 10.0.0.0-10.0.0.9 . 0-255 }}",
)

DEEP = [f"add chain {TABLE} deep{at}" for at in range(18)]

REFUSED: dict[str, Sequence[str]] = {
    "a rule that goes nowhere": [f"add rule {TABLE} plain goto nowhere"],
    "a rule that jumps into a base chain": [f"add rule {TABLE} plain jump base"],
    "a rule that asks a missing set": [f"add rule {TABLE} plain ip daddr @missing accept"],
    "a rule that asks a missing map": [f"add rule {TABLE} plain oifname vmap @missing"],
    "a rule with a missing timeout": [f'add rule {TABLE} plain ct timeout set "missing"'],
    "a rule in a missing chain": [f"add rule {TABLE} missing counter"],
    "an element that goes nowhere": [f'add element {TABLE} ways {{ "c" : goto nowhere }}'],
    "an element into a base chain": [f'add element {TABLE} ways {{ "c" : goto base }}'],
    "an element in a missing set": [f"add element {TABLE} missing {{ 10.0.0.1 }}"],
    "an element with another verdict": [f'add element {TABLE} ways {{ "b" : accept }}'],
    "an element too many": [f"add element {TABLE} hosts {{ 10.0.0.2, 10.0.0.3 }}"],
    "an element that overlaps": [f"add element {TABLE} nets {{ 10.0.0.9-10.0.0.12 . 0-255 }}"],
    "deleting an absent element": [f"delete element {TABLE} hosts {{ 10.0.0.2 }}"],
    "deleting an absent way": [f'delete element {TABLE} ways {{ "c" }}'],
    "deleting an absent interval": [f"delete element {TABLE} nets {{ 10.0.0.10 . 0-255 }}"],
    "deleting a chain that a rule goes to": [
        f"flush chain {TABLE} target",
        f"delete chain {TABLE} target",
    ],
    "deleting a chain that an element goes to": [
        f"flush chain {TABLE} plain",
        f"delete chain {TABLE} plain",
    ],
    "deleting an absent chain": [f"delete chain {TABLE} missing"],
    "deleting a set that a rule asks": [f"delete set {TABLE} hosts"],
    "deleting a map that a rule asks": [f"delete map {TABLE} ways"],
    "deleting an absent set": [f"delete set {TABLE} missing"],
    "deleting a timeout that a rule sets": [f"delete ct timeout {TABLE} patient"],
    "deleting an absent timeout": [f"delete ct timeout {TABLE} missing"],
    "flushing an absent chain": [f"flush chain {TABLE} missing"],
    "a set of another type": [f"add set {TABLE} hosts {{ type ipv6_addr; size 2; }}"],
    "a set that becomes a map": [f"add map {TABLE} hosts {{ type ipv4_addr : verdict; size 2; }}"],
    "a set that becomes one of intervals": [
        f"add set {TABLE} hosts {{ type ipv4_addr . inet_proto; flags interval; }}"
    ],
    "a base chain with another hook": [
        f"add chain {TABLE} base {{ type filter hook input priority -5; policy accept; }}"
    ],
    "a plain chain that gets a hook": [
        f"add chain {TABLE} plain {{ type filter hook input priority -5; policy accept; }}"
    ],
    "a loop": [f"add rule {TABLE} target goto plain"],
    "a loop over a map": [f"add rule {TABLE} target iifname vmap @ways"],
    "chains too deep in one another": [
        *DEEP,
        *(f"add rule {TABLE} deep{at} jump deep{at + 1}" for at in range(17)),
        f"add rule {TABLE} base jump deep0",
    ],
}

TAKEN: dict[str, Sequence[str]] = {
    "what is there already": SCENE[:9],
    "the same elements once more": SCENE[-3:],
    "another verdict by deleting and adding": [
        f'delete element {TABLE} ways {{ "b" }}',
        f'add element {TABLE} ways {{ "b" : goto target }}',
    ],
    "an element in the place of another in a full set": [
        f"add element {TABLE} hosts {{ 10.0.0.2 }}",
        f"delete element {TABLE} hosts {{ 10.0.0.1 }}",
        f"add element {TABLE} hosts {{ 10.0.0.3 }}",
    ],
    "flushing, then deleting in order of reference": [
        *(f"flush chain {TABLE} {name}" for name in ("base", "plain", "target", "other")),
        f"delete map {TABLE} ways",
        f"delete set {TABLE} hosts",
        *(f"delete chain {TABLE} {name}" for name in ("target", "plain", "base")),
        f"delete ct timeout {TABLE} patient",
    ],
    "making a map anew under its name": [
        f"flush chain {TABLE} base",
        f"delete map {TABLE} ways",
        f"add map {TABLE} ways {{ type ifname : verdict; size 16; }}",
        f'add element {TABLE} ways {{ "tap\\*" : goto other }}',
        f"add rule {TABLE} base oifname vmap @ways",
    ],
    "making a base chain anew under its name": [
        f"flush chain {TABLE} base",
        f"delete chain {TABLE} base",
        f"add chain {TABLE} base {{ type filter hook postrouting priority 5; policy accept; }}",
    ],
    "chains as deep in one another as may be": [
        *DEEP[:14],
        *(f"add rule {TABLE} deep{at} jump deep{at + 1}" for at in range(13)),
        f"add rule {TABLE} base jump deep0",
    ],
    "deleting a chain with its rules": [
        f"add rule {TABLE} other ip saddr @hosts goto target",
        f"flush chain {TABLE} plain",
        f"delete chain {TABLE} other",
        f"delete chain {TABLE} target",
        f"delete set {TABLE} hosts",
    ],
    "deleting a base chain with its rules": [
        f"delete chain {TABLE} base",
        f"delete map {TABLE} ways",
    ],
    "a rule without a digest": [f"add rule {TABLE} other counter drop"],
}


def _takes(kernel_of_either_kind: Nft | FakeKernel, texts: Sequence[str]) -> bool:
    try:
        kernel_of_either_kind.commit(Plan(tuple(Line(text) for text in texts)))
    except TransactionRefused:
        return False
    return True


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        *(pytest.param(texts, False, id=f"refused: {name}") for name, texts in REFUSED.items()),
        *(pytest.param(texts, True, id=f"taken: {name}") for name, texts in TAKEN.items()),
    ],
)
def test_both_refuse_and_take_the_same(texts: Sequence[str], *, wanted: bool) -> None:
    fake = FakeKernel()
    with Lab() as lab, kernel(lab) as real:
        assert _takes(real, SCENE) and _takes(fake, SCENE)
        before = fake.observe()
        assert differences(before, real.observe()) == {}
        assert (_takes(real, texts), _takes(fake, texts)) == (wanted, wanted)
        assert differences(fake.observe(), real.observe()) == {}
        assert wanted or fake.observe() == before
