"""How often the verdict's rule says what, where the truth is known.

Both sides train eight seeds a task, whose true rates spread alike, and measure each in 150 episodes.
`docs/reproduction.md` shows what this prints: `python benchmarks/verdict_power.py`.
"""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np

from mfql.report.verdict import Comparison, Sample, Verdict, sample_of

EPISODES, SEEDS, STUDIES = 150, 8, 300
TASKS = (1, 10)
PUBLISHED_RATE = 60.0
SPREADS = (1, 3, 6, 12, 20)  # standard deviation of the seeds' true rates, in points
DIFFERENCES = (0, -5, -10, -20, -30)
SHOWN = (Verdict.REPRODUCED, Verdict.LOWER, Verdict.INCONCLUSIVE)


def main() -> None:
    """Print one row a number of tasks and spread: for each true difference the shares of `SHOWN`, in percent."""
    rng = np.random.default_rng(0)
    print(f"| tasks | seeds spread by | {' | '.join(f'truly {difference}' for difference in DIFFERENCES)} |")
    print("|" + "---|" * (len(DIFFERENCES) + 2))
    for tasks, spread in product(TASKS, SPREADS):
        cells = []
        for difference in DIFFERENCES:
            found = Counter(verdict(rng, tasks, spread, difference) for _ in range(STUDIES))
            cells.append(", ".join(f"{100 * found[one] / STUDIES:.0f}" for one in SHOWN))
        print(f"| {tasks} | {spread} | {' | '.join(cells)} |", flush=True)


def verdict(rng: np.random.Generator, tasks: int, spread: float, difference: float) -> Verdict:
    """The verdict on one study whose true means lie `difference` from the published ones."""
    ours = [sample(rng, PUBLISHED_RATE + difference, spread) for _ in range(tasks)]
    return Comparison(ours, [sample(rng, PUBLISHED_RATE, spread) for _ in range(tasks)], "success").verdict()


def sample(rng: np.random.Generator, rate: float, spread: float) -> Sample:
    """Eight seeds with true rates around `rate`, each measured in `EPISODES` episodes."""
    rates = np.clip(rng.normal(rate, spread, SEEDS), 0, 100) / 100
    return sample_of((100 * rng.binomial(EPISODES, rates) / EPISODES).tolist(), [EPISODES] * SEEDS)


if __name__ == "__main__":
    main()
