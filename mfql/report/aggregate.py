"""What the scores amount to over tasks: mean, interquartile mean, performance profile, probability of improvement.

The statistics and their stratified bootstrap (`mfql.report.bootstrap`) are those of Agarwal et al. (2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice"). A mean over tasks takes, at either end, the wider of
that bootstrap and of the rule for means (`mfql.report.intervals`): with few seeds the bootstrap is too narrow however
many the tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mfql.files import write_whole
from mfql.report.bootstrap import (
    Array,
    bootstrap,
    bootstrap_of_counts,
    mean_and_iqm,
    probability_of_improvement,
    shares_above,
)
from mfql.report.cost import cost
from mfql.report.curves import curves
from mfql.report.intervals import Group, Interval, weighted
from mfql.report.tasks import (
    UNSCALED,
    between_methods,
    bounded,
    by_task,
    group_of,
    in_order,
    parts,
    ranked_pairs,
    runs,
    split,
)
from mfql.settings import STAGES

FEW_SEEDS = 5  # with fewer, the report marks a bootstrap's interval as too narrow
PROFILE_POINTS = 101
IMPROVEMENT_COLUMNS = ["stage", "unit", "method", "baseline", "tasks", "seeds", "difference", "low", "high"]
IMPROVEMENT_COLUMNS += ["probability", "probability_low", "probability_high"]


@dataclass(frozen=True)
class Comparable:
    """Methods that can be compared over the same tasks.

    Attributes:
        groups: for each method one group of runs a task, in the order of `tasks`.
        diverged: for each method how many of those runs diverged.
        origins: for each method of how many kinds of code and packages those runs are.
    """

    stage: str
    unit: str
    tasks: list[str]
    groups: dict[str, list[Group]]
    diverged: dict[str, int]
    origins: dict[str, int]


def comparable(scores: pd.DataFrame, metric: str) -> list[Comparable]:
    """For each stage and unit, the methods to compare and the tasks that all of them have.

    A method with fewer than half of the tasks at hand would shrink the set for all, and is left out. Returns that are
    not normalised, and estimates of such, have no common scale: each task is a unit of its own, `return of TASK`.

    Args:
        metric: score | rise.
    """
    sets = []
    table = runs(scores).dropna(subset=[metric])
    table["unit"] = table["unit"].where(~table["unit"].isin(UNSCALED), table["unit"] + " of " + table["task"])
    for (stage, unit), part in parts(table, ["stage", "unit"]):
        half = part["task"].nunique() / 2
        kept = {method: own for method, own in split(part, "method").items() if own["task"].nunique() >= half}
        common = sorted(set.intersection(*(set(own["task"]) for own in kept.values()))) if kept else []
        if common:
            own = {method: split(of[of["task"].isin(common)], "task") for method, of in kept.items()}
            groups = {method: [group_of(of[task], metric) for task in common] for method, of in own.items()}
            diverged = {method: sum(int(of[task]["diverged"].sum()) for task in common) for method, of in own.items()}
            origins = {method: len(set().union(*(of[task]["origin"] for task in common))) for method, of in own.items()}
            sets.append(Comparable(stage, unit, common, groups, diverged, origins))
    return sets


def over_tasks(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and interquartile mean over tasks of each method's scores, and of its rises during online training.

    Returns:
        stage, unit, metric (score | rise), method, statistic (mean | iqm), value, low, high, tasks, seeds (the fewest
        on a task), runs, diverged, origins (how many kinds of code and packages the runs are of).
    """
    rows = []
    for metric in ("score", "rise"):
        for compared in comparable(scores, metric):
            for method, groups in compared.groups.items():
                for statistic, interval in _mean_and_iqm(groups).items():
                    interval = bounded(interval, compared.unit, metric)
                    row = {
                        "stage": compared.stage,
                        "unit": compared.unit,
                        "metric": metric,
                        "method": method,
                        "statistic": statistic,
                        "value": interval.value,
                        "low": interval.low,
                        "high": interval.high,
                        "tasks": len(compared.tasks),
                        "seeds": min(len(group.values) for group in groups),
                        "runs": sum(len(group.values) for group in groups),
                        "diverged": compared.diverged[method],
                        "origins": compared.origins[method],
                    }
                    rows.append(row)
    return in_order(pd.DataFrame(rows, columns=COLUMNS["aggregate"]))


def improvement(scores: pd.DataFrame) -> pd.DataFrame:
    """How each two methods compare over all tasks that `over_tasks` takes.

    Returns:
        stage, unit, method, baseline, tasks, seeds (the fewest on a task), difference, low, high (of the mean scores),
        probability, probability_low, probability_high (that on a task drawn at random a run of `method` scores above
        one of `baseline`; ties count half).
    """
    rows = []
    for compared in comparable(scores, "score"):
        means = {
            method: float(np.mean([group.values.mean() for group in own])) for method, own in compared.groups.items()
        }
        for method, baseline in ranked_pairs(means):
            groups = compared.groups[method] + compared.groups[baseline]
            shares = np.repeat([1, -1], len(compared.tasks)) / len(compared.tasks)
            difference = bounded(weighted(groups, shares.tolist()), compared.unit, "difference")
            pairs = _packed(compared.groups[method], compared.groups[baseline])
            seeds = [len(group.values) for group in groups]
            probability = bootstrap_of_counts(pairs, probability_of_improvement(*pairs))[:, 0]
            ends = (difference.value, difference.low, difference.high)
            rows.append(
                (compared.stage, compared.unit, method, baseline, len(compared.tasks), min(seeds), *ends, *probability)
            )
    return in_order(pd.DataFrame(rows, columns=IMPROVEMENT_COLUMNS))


def profiles(scores: pd.DataFrame) -> pd.DataFrame:
    """Performance profiles: the share of runs that score above a threshold; every task weighs the same.

    Returns:
        stage, unit, method, threshold, value, low, high (shares from 0 to 1), tasks.
    """
    frames = [pd.DataFrame(columns=COLUMNS["profiles"])]
    for compared in comparable(scores, "score"):
        everything = np.concatenate([group.values for groups in compared.groups.values() for group in groups])
        thresholds = np.linspace(min(0.0, everything.min()), max(100.0, everything.max()), PROFILE_POINTS)

        for method, groups in compared.groups.items():
            packs = _packed(groups)
            value, low, high = bootstrap_of_counts(packs, shares_above(thresholds, *packs))
            frame = pd.DataFrame({"threshold": thresholds, "value": value, "low": low, "high": high})
            frame = frame.assign(stage=compared.stage, unit=compared.unit, method=method, tasks=len(compared.tasks))
            frames.append(frame)
    return in_order(pd.concat(frames[1:] or frames)[list(COLUMNS["profiles"])])


TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "tasks": by_task,
    "comparisons": between_methods,
    "aggregate": over_tasks,
    "improvement": improvement,
    "profiles": profiles,
    "curves": curves,
    "cost": cost,
}


COLUMNS = {
    "tasks": (
        "stage", "task", "method", "metric", "unit", "value", "low", "high", "std", "seeds", "diverged", "origins",
        "episodes", "by_seed", "final", "final_low", "final_high", "final_seeds",
    ),
    "comparisons": (
        "stage", "task", "method", "baseline", "unit", "difference", "low", "high", "apart", "seeds", "baseline_seeds",
    ),
    "aggregate": (
        "stage", "unit", "metric", "method", "statistic", "value", "low", "high", "tasks", "seeds", "runs", "diverged",
        "origins",
    ),
    "improvement": tuple(IMPROVEMENT_COLUMNS),
    "profiles": ("stage", "unit", "method", "threshold", "value", "low", "high", "tasks"),
    "curves": (
        "curve", "task", "method", "stage", "step", "switch", "unit", "value", "low", "high", "seeds", "diverged",
    ),
    "cost": (
        "stage", "method", "device", "runs", "tasks", "parameters", "seeds_in_job", "step_ms", "acting_ms",
        "acting_ms_low", "acting_ms_high", "device_hours", "hours_a_run", "success", "normalized_return",
    ),
}  # fmt: skip
# Of these the ones that hold texts.
TEXTS = frozenset({"stage", "task", "method", "metric", "unit", "by_seed", "baseline", "statistic", "curve", "device"})

# Those without which nobody knows what a row is of, and what may stand in them.
NAMING = TEXTS - {"by_seed", "device"}
KNOWN = {"stage": STAGES, "metric": ("score", "rise")}


def write(scores: pd.DataFrame, folder: str | Path) -> dict[str, pd.DataFrame]:
    """Compute every table of `TABLES`, write each to `folder/NAME.csv`, and return them by name."""
    tables = {name: table(scores) for name, table in TABLES.items()}
    for name, table in tables.items():
        with write_whole(Path(folder) / f"{name}.csv") as file:
            table.to_csv(file, index=False)
    return tables


def _mean_and_iqm(groups: list[Group]) -> dict[str, Interval]:
    """Mean and interquartile mean over tasks, one group a task; the latter cuts floor(n / 4) of n runs at each end."""
    ends = bootstrap(_packed(groups), mean_and_iqm)
    mean, iqm = (Interval(*map(float, ends[:, i])) for i in range(2))
    return {"mean": weighted(groups, [1 / len(groups)] * len(groups)).widest(mean), "iqm": iqm}


def _packed(*methods: list[Group]) -> list[Array]:
    """Tasks with the same numbers of runs side by side, [n, tasks] a method, the methods of one pack in turns.

    A resample is then a few operations whatever the number of tasks.

    Args:
        methods: for each the same tasks, one group each.
    """
    packs: dict[tuple[int, ...], list[list[Array]]] = {}
    for task in zip(*methods, strict=True):
        own = packs.setdefault(tuple(len(group.values) for group in task), [[] for _ in task])
        for column, group in zip(own, task, strict=True):
            column.append(group.values)
    return [np.stack(column, axis=1) for own in packs.values() for column in own]
