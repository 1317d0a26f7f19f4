"""Sets of whole numbers as sorted, disjoint, closed intervals: addresses without their family."""

from collections.abc import Iterable

Interval = tuple[int, int]


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union, as few intervals as possible; touching ones are joined."""
    result: list[Interval] = []
    for first, last in sorted(intervals):
        if result and first <= result[-1][1] + 1:
            if last > result[-1][1]:
                result[-1] = (result[-1][0], last)
        else:
            result.append((first, last))
    return result


def without(interval: Interval, covered: Iterable[Interval]) -> list[Interval]:
    """Return what of an interval lies outside the sorted, disjoint intervals given."""
    first, last = interval
    rest: list[Interval] = []
    for low, high in covered:
        if high < first:
            continue
        if low > last:
            break
        if first < low:
            rest.append((first, low - 1))
        first = high + 1
    if first <= last:
        rest.append((first, last))
    return rest
