"""The rule for intervals, against closed forms of scipy and against what it is meant to do."""

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from mfql.report.intervals import Group, Interval, weighted

rates = st.lists(st.integers(0, 50), min_size=2, max_size=8).map(lambda counts: [2.0 * count for count in counts])
numbers = st.lists(st.floats(-200, 200), min_size=2, max_size=8)


def mean(scores: list[float], episodes: int | None = None) -> Interval:
    return weighted([Group.of_scores(scores, None if episodes is None else [episodes] * len(scores))], [1])


@given(numbers)
def test_a_mean_has_students_t_interval(scores: list[float]) -> None:
    assume(np.ptp(scores) > 1e-3)
    expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    found = mean(scores)
    assert found.value == pytest.approx(np.mean(scores), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


@given(numbers, numbers)
def test_a_difference_has_welchs_interval(first: list[float], second: list[float]) -> None:
    assume(np.ptp(first) > 1e-3)
    assume(np.ptp(second) > 1e-3)
    expected = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    found = weighted([Group.of_scores(first), Group.of_scores(second)], [1, -1])
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_seeds_that_agree_leave_wilsons_interval_of_all_their_episodes() -> None:
    expected = stats.binomtest(120, 150).proportion_ci(0.95, method="wilson")
    found = mean([80.0, 80.0, 80.0], episodes=50)
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high))
    always = mean([100.0, 100.0, 100.0], episodes=50)
    assert always.high == 100
    assert 95 < always.low < 100


def test_a_difference_of_methods_that_agree_with_themselves_has_newcombes_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table II, example (a): 56/70 against 48/80, method 10.
    found = weighted([Group.of_scores([80.0, 80.0], [35, 35]), Group.of_scores([60.0, 60.0], [40, 40])], [1, -1])
    assert (found.value, found.low, found.high) == pytest.approx((20.0, 5.24, 33.39), abs=0.01)


@given(rates)
def test_an_interval_is_never_narrower_than_the_episodes_allow(scores: list[float]) -> None:
    with_floor, without = mean(scores, episodes=50), mean(scores)
    total = 50 * len(scores)
    wilson = stats.binomtest(round(np.mean(scores) / 100 * total), total).proportion_ci(0.95, method="wilson")
    assert with_floor.low == pytest.approx(min(without.low, 100 * wilson.low), abs=1e-6)
    assert with_floor.high == pytest.approx(max(without.high, 100 * wilson.high), abs=1e-6)


@given(numbers, st.floats(-100, 100))
def test_shifted_scores_shift_the_interval(scores: list[float], shift: float) -> None:
    before, after = mean(scores), mean([score + shift for score in scores])
    assert (after.low, after.high) == pytest.approx((before.low + shift, before.high + shift), abs=1e-6)


@given(rates, st.randoms())
def test_the_order_of_seeds_changes_nothing(scores: list[float], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(scores, len(scores))
    assert mean(scores, episodes=50) == mean(shuffled, episodes=50)


@given(rates, rates)
def test_a_difference_turned_round_is_the_negative(first: list[float], second: list[float]) -> None:
    groups = [Group.of_scores(scores, [50] * len(scores)) for scores in (first, second)]
    forward, backward = weighted(groups, [1, -1]), weighted(groups[::-1], [1, -1])
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low))


def test_rises_are_paired_by_seed() -> None:
    before, after = [10.0, 30.0, 50.0], [40.0, 61.0, 79.0]
    paired = weighted([Group.of_rises(before, after, None, None)], [1])
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (paired.value, paired.low, paired.high) == pytest.approx((30.0, expected.low, expected.high))
    unpaired = weighted([Group.of_scores(after), Group.of_scores(before)], [1, -1])
    assert paired.high - paired.low < unpaired.high - unpaired.low


def test_rises_that_agree_are_as_uncertain_as_a_difference() -> None:
    rise = weighted([Group.of_rises([20.0, 20.0], [60.0, 60.0], [50, 50], [50, 50])], [1])
    groups = [Group.of_scores([60.0, 60.0], [50, 50]), Group.of_scores([20.0, 20.0], [50, 50])]
    assert rise == weighted(groups, [1, -1])


def test_a_single_run_has_no_interval_and_is_apart_from_nothing() -> None:
    one = mean([90.0], episodes=50)
    assert one.value == 90
    assert isnan(one.low)
    assert isnan(one.high)
    assert not one.apart(Interval(0, 0, 0))
    assert not Interval(0, 0, 0).apart(one)


@pytest.mark.parametrize(
    ("low", "high", "apart"),
    [(0, 9, True), (0, 10, False), (12, 15, False), (20, 30, False), (21, 30, True), (nan, nan, False)],
)
def test_apart_means_no_common_point(low: float, high: float, apart: bool) -> None:
    assert Interval(15, 10, 20).apart(Interval(0, low, high)) is apart
    assert Interval(0, low, high).apart(Interval(15, 10, 20)) is apart


def test_estimates_leave_open_what_those_of_runs_that_did_not_diverge_do() -> None:
    group = Group.of_estimates([-5.0, -6.0, -100.0], [-7.0, -10.0, np.nan], [-4.0, -3.0, np.nan])
    assert (group.below, group.above) == pytest.approx((3.0, 2.0))
    nothing = Group.of_estimates([-5.0], [np.nan], [np.nan])
    assert (nothing.below, nothing.above) == (0.0, 0.0)
