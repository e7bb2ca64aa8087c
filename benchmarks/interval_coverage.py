"""How often 95 % intervals of a mean success rate hold the truth: the report's rule beside a plain bootstrap.

Seeds' true rates are drawn from a Beta distribution, each is measured in 150 episodes. A second table is of estimates
from five critics, where refitting them to resampled episodes varies their mean as drawing other episodes would, and the
mean over starts varies by so much of that.
`docs/results.md` and `docs/off_policy.md` show what this prints: `python benchmarks/interval_coverage.py`.
"""

from __future__ import annotations

import numpy as np

from mfql.report.intervals import Group, weighted
from mfql.training.fqe import FQESettings, mean_and_interval

EPISODES, STUDIES, RESAMPLES = 150, 2000, 1000
SEEDS = (3, 5, 8)
STARTS, SPREADS = (1, 2, 10, 50), (0, 0.5, 1, 2)
RATES = {
    "tight, mean 95": (95, 5),
    "wide, mean 50": (5, 5),
    "0 or 100, mean 50": (0.5, 0.5),
    "mostly 100, mean 90": (2.7, 0.3),
}


def main() -> None:
    """Print one row a distribution and number of seeds."""
    rng = np.random.default_rng(0)
    print("| seeds' true rates | seeds | rule: coverage | rule: width | bootstrap: coverage | bootstrap: width |")
    print("|---|---|---|---|---|---|")
    for name, (a, b) in RATES.items():
        truth = 100 * a / (a + b)
        for seeds in SEEDS:
            scores = 100 * rng.binomial(EPISODES, rng.beta(a, b, (STUDIES, seeds))) / EPISODES
            rule = np.array([interval(study) for study in scores])
            means = scores[:, rng.integers(0, seeds, (RESAMPLES, seeds))].mean(axis=2)
            bootstrap = np.percentile(means, [2.5, 97.5], axis=1).T
            cells = [cell for ends in (rule, bootstrap) for cell in (coverage(ends, truth), width(ends))]
            print(f"| {name} | {seeds} | {' | '.join(cells)} |")
    print(f"\n| starts | {' | '.join(f'spread {spread}' for spread in SPREADS)} |")
    print("|---|---|---|---|---|")
    for starts in STARTS:
        ends = [np.array([of_estimate(rng, starts, spread) for _ in range(STUDIES)]) for spread in SPREADS]
        print(f"| {starts} | {' | '.join(coverage(one, 0.0) for one in ends)} |")


def of_estimate(rng: np.random.Generator, starts: int, spread: float) -> tuple[float, float]:
    """The interval of one estimate of 0: five refits of one draw of episodes, and starts whose mean has a spread."""
    refits = rng.normal() + rng.normal(size=(FQESettings.members, 1))
    of_starts = spread * np.sqrt(starts) * rng.normal(size=(1, starts))
    _, low, high = mean_and_interval(refits + of_starts, -np.inf, np.inf)
    return low, high


def interval(study: np.ndarray) -> tuple[float, float]:
    """The report's interval of one study's scores `[seeds]`."""
    found = weighted([Group.of_scores(study, [EPISODES] * len(study))], [1]).clipped(0, 100)
    return found.low, found.high


def coverage(ends: np.ndarray, truth: float) -> str:
    """The share of intervals `[studies, 2]` that hold the truth, in percent."""
    return f"{100 * ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean():.0f} %"


def width(ends: np.ndarray) -> str:
    """The mean width of intervals `[studies, 2]`, in points."""
    return f"{(ends[:, 1] - ends[:, 0]).mean():.0f}"


if __name__ == "__main__":
    main()
