"""A document of which only the changed files are read is the one that is read as a whole."""

from collections.abc import Sequence
from itertools import combinations, product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgroupd.core.document import Parsed, Source, parse, parse_whole
from secgroupd.errors import DocumentError, Problem

STEPS = 12

RULE = "{direction: ingress, protocol: tcp, multiport: '22', "
PORT = "vpc_id: v, security_groups: [g], private_ips: "
FILES: dict[str, tuple[str | None, ...]] = {
    "head.yaml": (
        "version: 1\nvpcs: [{id: v}]",
        "version: 1\nvpcs: [{id: v}, {id: w}]\npeerings: [{id: vw, vpc_ids: [v, w]}]",
        "version: 1\nvpcs: [{id: v, uplinks: [eth0]}]\nallow_default_group_changes: true",
        "vpcs: [{id: v}]",
        "version: 2\nvpcs: [{id: v}]",
        "version: 1\nvpcs: {id: v}",
    ),
    "group.yaml": (
        "security_groups: [{id: g}]",
        f"security_groups: [{{id: g, rules: [{RULE}remote_group_id: h}}]}}]",
        f"security_groups: [{{id: g, rules: [{RULE}remote_address_group_id: book}}]}}]",
        f"security_groups: [{{id: g, rules: [{RULE}id: a}}, {RULE}id: a}}]}}]",
        f"security_groups: [{{id: g, name: default, rules: [{RULE}id: a}}]}}]",
        "security_groups: [{id: g}, {id: h}]",
        "security_groups: [{id: g}",
    ),
    "other.json": (
        '{"security_groups": [{"id": "h"}]}',
        '{"security_groups": [{"id": "h", "name": "default"}]}',
        '{"security_groups": [{"id": "h"}], "vpcs": [{"id": "x", "uplinks": ["eth0"]}]}',
        '{"security_groups": [{"id": 7}]}',
        "",
        None,
    ),
    "book.yaml": (
        "address_groups: [{id: book, ip_version: 4, ip_set: [192.0.2.1]}]",
        "address_groups: [{id: book, ip_version: 6, ip_set: ['2001:db8::1']}]",
        "address_groups: [{id: g, ip_version: 4}]",
        None,
    ),
    "one.yaml": (
        f"instances: [{{id: i, ports: [{{id: p, interface: tap1, {PORT}[10.0.0.1]}}]}}]",
        f"instances: [{{id: i, ports: [{{id: p, mac_address: 'fa:16:3e:00:00:01', {PORT}[]}}]}}]",
        "instances: [{id: i, ports: [{id: p, interface: tap1, vpc_id: v}]}]",
        "instances: [{id: i, ports: [{id: p, interface: tap1, host_id: a, vpc_id: w}]}]",
        "instances: []",
        None,
    ),
    "two.yaml": (
        f"instances: [{{id: j, ports: [{{id: q, interface: tap2, {PORT}[10.0.0.2]}}]}}]",
        f"instances: [{{id: j, ports: [{{id: q, interface: tap1, {PORT}[10.0.0.3]}}]}}]",
        f"instances: [{{id: j, ports: [{{id: q, interface: tap1, host_id: b, {PORT}[10.0.0.3]}}]}}]",
        f"instances: [{{id: j, ports: [{{id: q, mac_address: 'fa:16:3e:00:00:01', {PORT}[]}}]}}]",
        f"instances: [{{id: j, ports: [{{id: q, interface: tap2, {PORT}[10.0.0.1]}}]}}]",
        f"instances: [{{id: j, ports: [{{id: p, interface: tap2, {PORT}[10.0.0.2]}}]}}]",
        f"instances: [{{id: i, ports: [{{id: q, interface: tap2, {PORT}[10.0.0.2]}}]}}]",
    ),
}
"""Files by name, in what they can be: the first of each fit together."""


def _sources(chosen: dict[str, int]) -> list[Source]:
    texts = {name: FILES[name][at] for name, at in chosen.items()}
    return [Source(name, text) for name, text in texts.items() if text is not None]


def _outcome(sources: Sequence[Source], before: Parsed | None) -> Parsed | tuple[Problem, ...]:
    try:
        return parse(sources, before=before)
    except DocumentError as error:
        return error.problems


def _whole(sources: Sequence[Source]) -> Parsed | tuple[Problem, ...]:
    try:
        return parse_whole(sources)
    except DocumentError as error:
        return error.problems


def _check(got: Parsed | tuple[Problem, ...], wanted: Parsed | tuple[Problem, ...]) -> None:
    if isinstance(wanted, Parsed):
        assert isinstance(got, Parsed)
        assert (got.state, got.state.places) == (wanted.state, wanted.state.places)
        assert (got.places, got.warnings) == (wanted.places, wanted.warnings)
    else:
        assert got == wanted


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_changed_files_alone_say_the_same_as_the_whole_document(random: Random) -> None:
    chosen = dict.fromkeys(FILES, 0)
    before: Parsed | None = None
    for _ in range(STEPS):
        sources = _sources(chosen)
        got = _outcome(sources, before)
        _check(got, _whole(sources))
        if isinstance(got, Parsed):
            before = got
        name = random.choice(list(FILES))
        # Mostly back to what fits, or hardly any document would be accepted.
        chosen[name] = 0 if random.random() < 0.5 else random.randrange(len(FILES[name]))


@pytest.mark.parametrize(("one", "other"), list(combinations(FILES, 2)))
def test_every_change_of_one_of_two_files(one: str, other: str) -> None:
    fitting = dict.fromkeys(FILES, 0)
    for at, there in product(range(len(FILES[one])), range(len(FILES[other]))):
        before = _outcome(_sources({**fitting, one: at, other: there}), None)
        if not isinstance(before, Parsed):
            continue
        for name in (one, other):
            for changed in range(len(FILES[name])):
                sources = _sources({**fitting, one: at, other: there, name: changed})
                _check(_outcome(sources, before), _whole(sources))


def test_what_an_unchanged_file_says_is_the_identical_object() -> None:
    chosen = dict.fromkeys(FILES, 0)
    before = parse(_sources(chosen))
    after = parse(_sources({**chosen, "two.yaml": 3}), before=before)
    assert after.state.instances[0] is before.state.instances[0]
    assert after.state.instances[1] != before.state.instances[1]
    assert all(
        one is other
        for one, other in zip(
            after.state.security_groups, before.state.security_groups, strict=True
        )
    )
