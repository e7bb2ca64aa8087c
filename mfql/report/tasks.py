"""What the scores amount to on each task: means, rises during online training, and differences between methods.

Input is the table of `mfql.report.scores`, output tidy frames. Intervals follow `mfql.report.intervals`. Runs that
diverged are in every number, with the scores that `mfql.report.scores` gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from math import nan

import numpy as np
import pandas as pd

from mfql.report.intervals import Group, Interval, weighted
from mfql.settings import STAGES
from mfql.tasks import ESTIMATE

SUCCESS, RETURN, PLAIN_RETURN = "success", "normalized_return", "return"
# Units in which each task has a scale of its own: no mean is taken over tasks.
UNSCALED = (PLAIN_RETURN, ESTIMATE)
_REACH = ["estimate_low", "estimate_high"]
# What an estimate is called wherever it stands, so that nobody takes it for a score of episodes.
ESTIMATED = "estimated return (FQE)"
FINAL = ["final", "final_episodes"]
COST = ["parameters", "seeds_in_job", "step_ms", "acting_ms", "device_hours"]
COMPARISON_COLUMNS = ["stage", "task", "method", "baseline", "unit", "difference", "low", "high", "apart"]
COMPARISON_COLUMNS += ["seeds", "baseline_seeds"]


def is_estimate(unit: str) -> bool:
    """Whether numbers of a unit, that of a task or of the mean over one, are estimates."""
    return unit.split(" of ")[0] == ESTIMATE


def runs(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a run.

    Returns:
        method, task, seed, stage, run, steps, unit (success | normalized_return | return | fqe_return), score,
        score_episodes, estimate_low and estimate_high (the ends of an estimate's own interval; NaN of a true score),
        diverged, stopped (early), broken (how many episodes), all_broken (every episode of its evaluations), origin,
        device, and what is known of final, final_episodes, parameters, seeds_in_job, step_ms, acting_ms, device_hours
        (as `mfql.report.scores` has them, else NaN); and of an online run rise, start, start_episodes, start_run,
        start_steps (of the run it starts from), NaN elsewhere.
    """
    keys = ["method", "task", "seed", "stage"]
    wanted = ["score", "score_episodes", "plain_return", "diverged", "stopped", "rise", "start", "start_episodes"]
    wanted += ["broken", "all_broken", "estimate", RETURN, *_REACH, *FINAL, *COST]
    final = scores[scores["metric"].isin(wanted)]
    wide = final.pivot_table(index=keys, columns="metric", values="value", aggfunc="last").reindex(columns=wanted)
    own = final[final["metric"] == "score"].set_index(keys)[["run", "origin", "device", "step"]]
    start = final[final["metric"] == "start"].set_index(keys)[["run", "step"]]
    wide = wide.join(own.rename(columns={"step": "steps"}))
    wide = wide.join(start.rename(columns={"run": "start_run", "step": "start_steps"}))
    kinds = [wide[name].notna() for name in ("plain_return", "estimate", RETURN, "score_episodes")]
    wide = wide.drop(columns=["plain_return", "estimate", RETURN])
    wide["unit"] = np.select(kinds, [PLAIN_RETURN, ESTIMATE, RETURN, SUCCESS], RETURN)
    marks = ["diverged", "stopped", "all_broken"]
    wide[marks] = wide[marks].notna()
    wide["broken"] = wide["broken"].fillna(0).astype(int)
    return wide.reset_index()


def by_task(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each method on each task, and its mean rise during online training, with intervals.

    Returns:
        stage, task, method, metric (score | rise), unit, value, low, high, std (over seeds), seeds, diverged, origins
        (how many kinds of code and packages the runs are of), episodes (all seeds together), broken (how many episodes
        of all seeds), all_broken (of how many seeds every episode of the evaluations), by_seed ("seed:value ..."), and
        of scores the mean of the separate evaluation final, final_low, final_high, final_seeds, final_episodes (NaN and
        0 where no run has one). `low` and `high` are NaN for a single seed.
    """
    table = runs(scores)
    rows = []
    for (stage, task, method), part in parts(table, ["stage", "task", "method"]):
        for metric in ("score", "rise"):
            present = part[metric].notna()
            if not present.any():
                continue
            own = part if present.all() else part[present]
            interval = mean_of(own, metric)
            row = {
                "stage": stage,
                "task": task,
                "method": method,
                "metric": metric,
                "unit": own["unit"].iloc[0],
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "std": own[metric].std(ddof=1),
                "seeds": len(own),
                "diverged": int(own["diverged"].sum()),
                "origins": own["origin"].nunique(),
                "episodes": int(own["score_episodes"].fillna(0).sum()),
                "broken": int(own["broken"].sum()),
                "all_broken": int(own["all_broken"].sum()),
                "by_seed": " ".join(
                    f"{seed}:{value:.6g}" for seed, value in zip(own["seed"], own[metric], strict=True)
                ),
            }
            rows.append(row | (_final(own) if metric == "score" else _NO_FINAL))
    return in_order(pd.DataFrame(rows))


def between_methods(scores: pd.DataFrame) -> pd.DataFrame:
    """The difference of each two methods' mean scores, on each task and stage that both have.

    Returns:
        stage, task, method, baseline, unit, difference, low, high, apart, seeds, baseline_seeds. `apart`: the two
        methods' own 95 % intervals do not overlap, which asks for more than a difference whose interval excludes 0.
        `method` is the one of the two with the higher mean over its tasks in that stage.
    """
    rows, ranks = [], method_means(scores)
    for (stage, task, unit), part in parts(runs(scores), ["stage", "task", "unit"]):
        of = split(part, "method")
        groups = {method: group_of(own, "score") for method, own in of.items()}
        means = {method: mean_of(own, "score") for method, own in of.items()}
        for method, baseline in ranked_pairs({method: ranks[stage, method] for method in of}):
            difference = weighted([groups[method], groups[baseline]], [1, -1])
            difference = bounded(difference, unit, "difference")
            row = {
                "stage": stage,
                "task": task,
                "method": method,
                "baseline": baseline,
                "unit": unit,
                "difference": difference.value,
                "low": difference.low,
                "high": difference.high,
                "apart": means[method].apart(means[baseline]),
                "seeds": len(of[method]),
                "baseline_seeds": len(of[baseline]),
            }
            rows.append(row)
    return in_order(pd.DataFrame(rows, columns=COMPARISON_COLUMNS))


_NO_FINAL = {"final": nan, "final_low": nan, "final_high": nan, "final_seeds": 0, "final_episodes": 0}


def _final(own: pd.DataFrame) -> dict[str, float]:
    """The mean of the separate evaluations of some runs of one method, task and stage."""
    present = own["final"].notna()
    if not present.any():
        return _NO_FINAL
    scored = own[present]
    unit = scored["unit"].iloc[0]
    group = Group.of_scores(scored["final"], scored["final_episodes"] if are_rates(scored) else None)
    interval = bounded(weighted([group], [1]), unit, "score")
    return {
        "final": interval.value,
        "final_low": interval.low,
        "final_high": interval.high,
        "final_seeds": len(scored),
        "final_episodes": int(scored["final_episodes"].sum()),
    }


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table in the order of its stages, else as they were."""
    return table.sort_values("stage", key=lambda stage: stage.map(STAGES.index), kind="stable", ignore_index=True)


def split(table: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """The rows of a table by the value that a column of text has in them."""
    return {value: part for (value,), part in parts(table, [column])}


def parts(table: pd.DataFrame, columns: list[str]) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """The values that some columns of text have together, in alphabetical order, with the rows of each."""
    for values, part in table.groupby(columns):
        yield [str(value) for value in values], part


def are_rates(part: pd.DataFrame) -> bool:
    """Whether the scores of these rows of `runs` are all shares of episodes, in percent."""
    return bool(part["score_episodes"].notna().all())


def group_of(part: pd.DataFrame, metric: str) -> Group:
    """The runs of one method, task and stage as a group of scores, or of rises.

    Args:
        part: rows of `runs`.
        metric: score | rise; runs without a rise are left out of the latter.
    """
    if metric == "score" and part["unit"].iloc[0] == ESTIMATE:
        return Group.of_estimates(part["score"], part["estimate_low"], part["estimate_high"])
    if metric == "score":
        return Group.of_scores(part["score"], part["score_episodes"] if are_rates(part) else None)
    own = part.dropna(subset=["rise"])
    both = are_rates(own) and own["start_episodes"].notna().all()
    before, after = (own["start_episodes"], own["score_episodes"]) if both else (None, None)
    return Group.of_rises(own["start"], own["score"], before, after)


def mean_of(part: pd.DataFrame, metric: str) -> Interval:
    """The mean score or rise of the runs of one method, task and stage."""
    return bounded(weighted([group_of(part, metric)], [1]), part["unit"].iloc[0], metric)


def bounded(interval: Interval, unit: str, quantity: str) -> Interval:
    """The interval cut to what a success rate (`score`), or a difference of two (any other), can be."""
    if unit != SUCCESS:
        return interval  # a normalised return has no bounds
    return interval.clipped(0, 100) if quantity == "score" else interval.clipped(-100, 100)


def method_means(scores: pd.DataFrame) -> dict[tuple[str, str], float]:
    """The mean over its tasks of the mean score of each (stage, method)."""
    final = scores[scores["metric"] == "score"]
    found = parts(final, ["stage", "method"])
    return {(stage, method): float(own.groupby("task")["value"].mean().mean()) for (stage, method), own in found}


def ranked_pairs(means: Mapping[str, float]) -> list[tuple[str, str]]:
    """Each two methods once, the one with the higher mean score first.

    Args:
        means: the mean score of each method.
    """
    return list(combinations(sorted(means, key=lambda method: (-means[method], method)), 2))
