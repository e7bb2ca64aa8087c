"""The bootstrap over tasks, against rliable 1.2 and closed forms."""

import numpy as np
import pytest
from rliable import library, metrics

from mfql.report import bootstrap
from mfql.report.bootstrap import bootstrap_of_counts, mean_and_iqm, probability_of_improvement, shares_above


@pytest.fixture(autouse=True)
def _generator_is_left_alone():
    """rliable draws from numpy's global generator; ours must not."""
    state = np.random.get_state()  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002


def rliables(packs, statistic):
    np.random.seed(0)  # noqa: NPY002
    value, ends = library.get_interval_estimates({"": packs}, statistic, reps=bootstrap.REPETITIONS)
    return np.vstack([value[""], ends[""]])


def packs_of(*shapes):
    random = np.random.default_rng(sum(map(sum, shapes)))
    return [random.integers(0, 51, shape) * 2.0 for shape in shapes]


@pytest.mark.parametrize("shapes", [[(5, 3)], [(2, 1)], [(8, 2), (3, 4)], [(4, 1), (3, 2), (7, 1)]])
@pytest.mark.parametrize("at_once", [1_000, 4_000_000])
def test_values_and_ends_are_rliables_to_the_last_digit(monkeypatch, shapes, at_once):
    monkeypatch.setattr(bootstrap, "REPETITIONS", 60)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", at_once)
    packs = packs_of(*shapes)
    np.testing.assert_array_equal(bootstrap.bootstrap(packs, mean_and_iqm), rliables(packs, mean_and_iqm))


def shares(thresholds):
    """The shares of runs above some thresholds, of packs that are looked at as they are."""
    return lambda *packs: np.concatenate([(pack[..., None] > thresholds).mean(axis=-3) for pack in packs]).mean(axis=0)


@pytest.mark.parametrize("shapes", [[(5, 3)], [(2, 1)], [(8, 2), (3, 40)], [(4, 1), (3, 2), (7, 23)]])
def test_shares_and_their_ends_are_rliables_to_the_last_digit(monkeypatch, shapes):
    monkeypatch.setattr(bootstrap, "REPETITIONS", 60)
    packs, thresholds = packs_of(*shapes), np.linspace(-10, 110, 13)
    found = bootstrap_of_counts(packs, shares_above(thresholds, *packs))
    np.testing.assert_array_equal(found, rliables(packs, shares(thresholds)))


def test_improvement_and_its_ends_are_rliables(monkeypatch):
    monkeypatch.setattr(bootstrap, "REPETITIONS", 60)
    packs = packs_of((6, 2), (4, 2))
    found = bootstrap_of_counts(packs, probability_of_improvement(*packs))
    theirs = rliables(packs, lambda x, y: np.array([metrics.probability_of_improvement(x, y)]))
    np.testing.assert_allclose(found, theirs, rtol=1e-12)


def test_improvement_is_that_of_the_pairs_in_each_resample_to_the_last_digit(monkeypatch):
    monkeypatch.setattr(bootstrap, "REPETITIONS", 60)
    packs = packs_of((6, 31), (5, 31), (3, 9), (7, 9))

    def of_pairs(*packs):
        wins = [
            ((x[:, None] > y).sum(axis=(0, 1)) + (x[:, None] >= y).sum(axis=(0, 1))) / 2 / (len(x) * len(y))
            for x, y in zip(packs[::2], packs[1::2], strict=True)
        ]
        return np.concatenate(wins).mean(keepdims=True)

    found = bootstrap_of_counts(packs, probability_of_improvement(*packs))
    np.testing.assert_array_equal(found, rliables(packs, of_pairs))


def test_statistics_of_a_rectangle_are_rliables():
    (scores,) = packs_of((7, 5))
    assert mean_and_iqm(scores) == pytest.approx([metrics.aggregate_mean(scores), metrics.aggregate_iqm(scores)])


def test_a_single_run_has_no_ends():
    found = bootstrap.bootstrap([np.array([[40.0]]), np.array([[10.0], [20.0]])], mean_and_iqm)
    np.testing.assert_array_equal(found[0], [27.5, 30.0])  # of 10, 20, 40 and 40, and of 20 and 40
    assert np.isnan(found[1:]).all()


def test_numpys_own_generator_is_left_alone():
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    bootstrap.bootstrap(packs_of((3, 2)), mean_and_iqm)
    assert np.random.random() == expected  # noqa: NPY002
