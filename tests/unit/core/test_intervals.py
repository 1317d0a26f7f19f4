"""Closed intervals of whole numbers: what touches is one, what is covered is gone."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgroupd.core.intervals import Interval, merged, without

LAST = (1 << 128) - 1
INTERVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (min(pair), max(pair))),
    max_size=8,
)


def numbers(intervals: list[Interval]) -> set[int]:
    return {n for first, last in intervals for n in range(first, last + 1)}


@pytest.mark.parametrize(
    ("given_ones", "union"),
    [
        ([], []),
        ([(1, 2), (3, 4)], [(1, 4)]),
        ([(1, 2), (4, 4)], [(1, 2), (4, 4)]),
        ([(5, 9), (1, 20), (6, 7)], [(1, 20)]),
        ([(3, 3), (3, 3)], [(3, 3)]),
        ([(0, LAST), (7, 7)], [(0, LAST)]),
    ],
    ids=["none", "touching", "apart", "nested", "repeated", "everything"],
)
def test_a_union_has_as_few_intervals_as_possible(
    given_ones: list[Interval], union: list[Interval]
) -> None:
    assert merged(given_ones) == union


@pytest.mark.parametrize(
    ("covered", "rest"),
    [
        ([], [(10, 20)]),
        ([(0, 9), (21, 30)], [(10, 20)]),
        ([(10, 20)], []),
        ([(0, 30)], []),
        ([(10, 10), (20, 20)], [(11, 19)]),
        ([(12, 13), (15, 15)], [(10, 11), (14, 14), (16, 20)]),
    ],
    ids=["nothing", "beside", "the-same", "more", "both-ends", "holes"],
)
def test_what_is_covered_is_cut_out(covered: list[Interval], rest: list[Interval]) -> None:
    assert without((10, 20), covered) == rest


@given(INTERVALS, INTERVALS)
def test_unions_and_differences_hold_the_numbers_that_they_should(
    one: list[Interval], other: list[Interval]
) -> None:
    union = merged(other)
    assert numbers(union) == numbers(other)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(union))
    rest = [piece for interval in one for piece in without(interval, union)]
    assert numbers(rest) == numbers(one) - numbers(other)
