"""What the released code does otherwise than the paper says, rule by rule, against the rule written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfql.errors import UserError
from mfql.settings import Settings
from mfql.training.stopping import no_longer_improves

PLAIN = Settings(offline_steps=100, online_steps=40, discount=0.9)

# --- early stopping ---------------------------------------------------------------------------------------------------

SUCCESS = replace(PLAIN, early_stopping=6, early_stopping_rule="success")


def stops_at(scores: list[float], metric: str, settings: Settings) -> int | None:
    """The evaluation, from 0 on, after which a run stops; None if it goes on to the end."""
    ends = (end for end in range(len(scores)) if no_longer_improves(scores[: end + 1], metric, settings))
    return next(ends, None)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # The evaluation at step 0 counts: six without a new best one after it.
        ([10, 8, 8, 8, 8, 8, 8], 6),
        # Without any success it is no best one: at 500,000 the sixth has none.
        ([0, 0, 0, 0, 0, 0, 0], 5),
        ([0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0], 11),
        ([0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20], None),
        # An equal score is no better.
        ([50] * 11, 6),
        ([0, 50, 20, 20, 20, 20, 20, 52, 20, 20, 20], None),
    ],
)
def test_by_the_released_rule_a_run_stops_after_six_evaluations_without_a_new_best_success(scores, expected):
    assert stops_at(scores, "success", SUCCESS) == expected


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30), st.integers(1, 10))
def test_by_the_released_rule_a_task_without_success_never_stops(scores, patience):
    settings = replace(SUCCESS, early_stopping=patience)
    assert stops_at(scores, "normalized_return", settings) is None
    assert stops_at(scores, "return", settings) is None


@given(st.lists(st.integers(0, 50).map(lambda count: 2.0 * count), min_size=1, max_size=30), st.integers(1, 10))
def test_the_released_rule_is_a_counter_that_a_new_best_success_sets_back(scores, patience):
    counter, best, expected = 0, -1.0, None
    for number, score in enumerate(scores):
        better = score > max(best, 0.0)
        counter, best = (0, score) if better else (counter + 1, best)
        if counter >= patience:
            expected = number
            break
    assert stops_at(scores, "success", replace(SUCCESS, early_stopping=patience)) == expected


def test_by_the_scores_rule_the_first_evaluation_is_the_best_one_whatever_it_is():
    settings = replace(PLAIN, early_stopping=6)
    assert stops_at([0.0] * 8, "success", settings) == 6
    assert stops_at([-5.0] * 8, "normalized_return", settings) == 6
    assert stops_at([0.0] * 8, "success", PLAIN) is None


def test_a_rule_that_has_no_effect_is_refused():
    with pytest.raises(UserError, match="early_stopping_rule is success"):
        replace(SUCCESS, early_stopping=0).check()
