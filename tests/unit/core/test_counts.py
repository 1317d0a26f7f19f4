"""Totals of counters that begin anew, change hands and go."""

from secgroupd.core.counts import Count, Tally

ONE, OTHER = ("inet", "a"), ("bridge", "a")


def test_what_was_counted_before_is_part_of_the_total_unless_it_is_from_now() -> None:
    for tally, first in ((Tally[str](), 5), (Tally[str](from_now=True), 0)):
        tally.take({ONE: Count(5, 500)}, {"a": "p"})
        assert tally.totals == {"p": Count(first, 100 * first)}
        tally.take({ONE: Count(7, 700)}, {"a": "p"})
        assert tally.totals == {"p": Count(first + 2, 100 * first + 200)}


def test_a_total_never_falls_when_a_counter_begins_anew_or_goes() -> None:
    tally: Tally[str] = Tally()
    seen = []
    for counts in (
        {ONE: Count(5, 50), OTHER: Count(1, 10)},
        {ONE: Count(2, 20), OTHER: Count(1, 10)},
        {OTHER: Count(3, 30)},
        {},
        {ONE: Count(1, 10), OTHER: Count(3, 30)},
    ):
        tally.take(counts, {"a": "p"})
        seen.append(tally.totals["p"].packets)
    assert seen == [6, 8, 10, 10, 14]


def test_who_has_the_counter_now_is_not_given_what_it_counted_for_another() -> None:
    tally: Tally[str] = Tally()
    tally.take({ONE: Count(5, 50)}, {"a": "p"})
    tally.take({ONE: Count(6, 60)}, {"a": "q"})
    assert tally.totals == {"q": Count(1, 10)}
    tally.take({ONE: Count(6, 60)}, {})
    assert tally.totals == {}


def test_less_is_never_below_nothing_and_most_is_the_larger() -> None:
    assert Count(3, 1).less(Count(1, 2)) == Count(2, 0)
    assert Count(3, 1).most(Count(1, 2)) == Count(3, 2)
