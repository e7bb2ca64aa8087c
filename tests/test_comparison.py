"""Two sides' scores compared: how many seeds would settle it, and what mirrored and wider intervals decide."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfql.report.intervals import Interval
from mfql.report.verdict import DECIDED, Comparison, Sample, Verdict, judge


def test_seeds_to_settle_is_the_least_number_that_decides() -> None:
    comparison = Comparison([Sample(53, 15, 8, 150)], [Sample(53, 3, 8, 150)], "success")
    more = comparison.seeds_to_settle()
    assert more is not None
    assert more > 1
    assert comparison.verdict(more) is Verdict.REPRODUCED
    assert comparison.verdict(more - 1) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("episodes", [0, 50])
@pytest.mark.parametrize(
    ("ours", "published"),
    [
        ([Sample(49, 4, 4)], [Sample(60, 4, 4)]),  # 4 to 25 more decide, and 26 do not
        ([Sample(50, 4, 4)], [Sample(60, 4, 4)]),
        ([Sample(47, 9, 3)], [Sample(60, 4, 3)]),
        ([Sample(53, nan, 1)], [Sample(55, 2, 8)]),
        ([Sample(49, 4, 4), Sample(49, 9, 2)], [Sample(60, 4, 4), Sample(60, 5, 4)]),
    ],
)
def test_seeds_to_settle_are_those_of_a_search_through_all(ours, published, episodes: int) -> None:
    sides = [[replace(sample, episodes=episodes) for sample in side] for side in (ours, published)]
    comparison = Comparison(*sides, "success")
    decided = (more for more in range(151) if comparison.verdict(more) in DECIDED)
    found, searched = comparison.seeds_to_settle(), next(decided, None)
    assert found == searched or (searched is None and found is not None and found > 150)


def test_few_published_seeds_may_be_settled_by_some_seeds_and_not_by_more() -> None:
    comparison = Comparison([Sample(49, 4, 4)], [Sample(60, 4, 4)], "success")
    assert comparison.seeds_to_settle() == 4
    assert comparison.verdict(4) is Verdict.LOWER
    assert comparison.verdict(100) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        (Sample(48, 3, 8, 150), Sample(53, 3, 8, 150)),  # on the margin
        (Sample(53, 3, 8, 150), Sample(53, 3, 1, 150)),  # one published seed
        (Sample(53, nan, 1, 150), Sample(53, nan, 8, 150)),  # no spread known
    ],
)
def test_some_comparisons_are_settled_by_no_number_of_seeds(ours: Sample, published: Sample) -> None:
    comparison = Comparison([ours], [published], "success")
    assert comparison.verdict() is Verdict.INCONCLUSIVE
    assert comparison.seeds_to_settle() is None


numbers = st.floats(-200, 200)
margins = st.floats(5, 50)
intervals = st.tuples(numbers, st.floats(0, 100), st.floats(0, 100)).map(
    lambda parts: Interval(parts[0], parts[0] - parts[1], parts[0] + parts[2])
)
samples = st.builds(Sample, st.floats(0, 100), st.floats(0, 40), st.integers(2, 8), st.sampled_from([0, 150]))
MIRRORED = {Verdict.HIGHER: Verdict.LOWER, Verdict.LOWER: Verdict.HIGHER}


@given(intervals, margins)
def test_a_mirrored_difference_has_the_mirrored_verdict(interval: Interval, margin: float) -> None:
    verdict = judge(interval, margin)
    mirrored = judge(Interval(-interval.value, -interval.high, -interval.low), margin)
    assert mirrored is MIRRORED.get(verdict, verdict)


@given(samples, samples, margins)
def test_swapped_sides_have_the_mirrored_verdict(ours: Sample, published: Sample, margin: float) -> None:
    ahead = Comparison([ours], [published], "success").difference()
    behind = Comparison([published], [ours], "success").difference()
    assert (ahead.low, ahead.high) == pytest.approx((-behind.high, -behind.low), abs=1e-6)


@given(intervals, margins, st.floats(0, 50), st.floats(0, 50))
def test_a_wider_interval_decides_nothing_new(interval: Interval, margin: float, below: float, above: float) -> None:
    before = judge(interval, margin)
    after = judge(Interval(interval.value, interval.low - below, interval.high + above), margin)
    assert after in (before, Verdict.INCONCLUSIVE)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=2).map(sorted), margins, st.floats(0, 50))
def test_more_margin_never_takes_reproduced_back(shares: list[float], margin: float, more: float) -> None:
    low, high = (share * margin for share in shares)
    assert judge(Interval((low + high) / 2, low, high), margin) is Verdict.REPRODUCED
    assert judge(Interval((low + high) / 2, low, high), margin + more) is Verdict.REPRODUCED


def test_an_interval_without_ends_decides_nothing() -> None:
    assert judge(Interval(40, nan, nan), 5) is Verdict.INCONCLUSIVE
