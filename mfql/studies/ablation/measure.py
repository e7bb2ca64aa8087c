"""What the runs of an ablation amount to: score and measured quantities of each point, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd

from mfql.documents import read_json
from mfql.errors import UserError
from mfql.experiment.run import RunFolder
from mfql.report.frames import read_frame
from mfql.report.intervals import Group, Interval, weighted
from mfql.report.scores import collect
from mfql.report.tasks import UNSCALED, bounded, group_of, mean_of, runs

SCORE, BEHIND, UPDATE = "score", "behind", "update_ms"
# What people read of a quantity; others are their names.
LABELS = {
    SCORE: "score",
    BEHIND: "behind the best of each task, points",
    UPDATE: "update, ms",
    "step_ms": "step of the job, ms",
    "acting_ms": "acting, ms",
    "alpha_moves": "moves of alpha",
    "candidate_spread": "spread of the candidates",
    "flow_error": "flow error",
    "flow_loss": "flow loss",
    "neighbour_distance": "distance from the data's actions",
    "out_of_bounds": "raw actions out of bounds, share",
    "q_minus_return": "Q - return",
    "q_return_rank_correlation": "rank correlation of Q and return",
    "q_raw_minus_clipped": "Q of raw - Q of clipped action",
    "training/conflict": "updates in which gradients conflict, share",
    "training/weight_share": "flow loss's share of the weights",
    "target_error": "error of the flow target",
    "target_gain": "target: largest - mean candidate",
    "target_std": "target: deviation over draws",
}
COLUMNS = ["series", "x", "task", "method", "measure", "unit", "value", "low", "high", "seeds", "diverged", "by_seed"]


@dataclass(frozen=True)
class Runs:
    """The finished runs of an ablation.

    Args:
        plan: of `mfql.experiment.ablation.plan_of`.
        results: folder that has `runs/`.
    """

    plan: Mapping[str, Any]
    results: Path

    @property
    def points(self) -> list[dict[str, Any]]:
        """The plan's points."""
        return list(self.plan["points"])

    @property
    def tasks(self) -> list[str]:
        """The tasks of the points, in the plan's order."""
        return list(dict.fromkeys(point["task"] for point in self.points))

    def folder(self, point: Mapping[str, Any], seed: int) -> RunFolder:
        """The folder of a seed of a point."""
        return RunFolder(self.results, point["method"], point["task"], seed, "offline")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The runs' scores, as `mfql scores` tells them.

        Raises:
            UserError: one is not finished, or they cannot be averaged.
        """
        every = [self.folder(point, seed) for point in self.points for seed in point["seeds"]]
        return collect({run.folder / "evaluation.json" for run in every})

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a run."""
        return runs(self.scores)

    def of(self, point: Mapping[str, Any]) -> pd.DataFrame:
        """The rows of `table` of a point."""
        table = self.table
        return table[(table["method"] == point["method"]) & (table["task"] == point["task"])]

    def measured(self, point: Mapping[str, Any], measure: str) -> dict[int, float]:
        """A quantity at the end of each seed's run; seeds that have none are left out.

        Args:
            measure: what a manifest says, `step_ms` or `acting_ms`, or of the training log, whose `diagnostics/` may be
                left out.
        """
        if measure in ("step_ms", "acting_ms"):
            rows = self.scores[(self.scores["metric"] == measure) & (self.scores["method"] == point["method"])]
            rows = rows[rows["task"] == point["task"]]
            return dict(zip(rows["seed"], rows["value"], strict=True))
        logged = {seed: self.log(point, seed, measure) for seed in point["seeds"]}
        return {seed: float(values.iloc[-1]) for seed, values in logged.items() if len(values)}

    def log(self, point: Mapping[str, Any], seed: int, measure: str) -> pd.Series:
        """The finite values of a quantity in a run's training log, by step."""
        name = measure if "/" in measure else f"diagnostics/{measure}"
        log = _read_log(self.folder(point, seed).trained / "metrics.csv")
        values = log.loc[log["metric"] == name].set_index("step")["value"]
        return values[np.isfinite(values)]


LOG_COLUMNS = ("step", "metric", "value")


@cache
def _read_log(path: Path) -> pd.DataFrame:
    return read_frame(path, "It is the run's training log: train anew.", LOG_COLUMNS, ("metric",), finite=False)


def read_plan(path: Path) -> dict[str, Any]:
    """A plan that the workflow wrote.

    Raises:
        UserError: the file is absent or holds none.
    """
    plan: dict[str, Any] = read_json(path)
    fault = jsonschema.exceptions.best_match(_PLAN.iter_errors(plan))
    if fault is not None:
        said = f"{fault.json_path}: {fault.message[:200]}"
        raise UserError(f"{path} is no plan of an ablation: {said}", "`snakemake ablation_NAME` writes it.")
    return plan


_TEXT, _TRUTH = {"type": "string"}, {"type": "boolean"}
# Of a run's folder: no path leads elsewhere.
_NAME = {"type": "string", "pattern": r"^[\w+=-][\w.+=-]*$"}
_POINT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "series": _TEXT,
        "x": {"type": ["number", "string", "boolean", "null"]},
        "task": _NAME,
        "method": _NAME,
        "seeds": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True},
    },
    "required": ["series", "x", "task", "method", "seeds"],
}
_PLAN = jsonschema.Draft202012Validator(
    {
        "type": "object",
        "properties": {
            **dict.fromkeys(("title", "asks", "shows", "command"), _TEXT),
            "x": {"type": ["object", "null"], "properties": {"label": _TEXT}, "required": ["label"]},
            "measures": {"type": "array", "items": _TEXT, "uniqueItems": True},
            "cost": _TRUTH,
            "proxy": _TRUTH,
            "points": {"type": "array", "items": _POINT, "minItems": 1},
        },
        "required": ["title", "asks", "shows", "command", "x", "measures", "cost", "proxy", "points"],
    }
)


def by_point(found: Runs, updates: Mapping[str, list[float]]) -> pd.DataFrame:
    """Every quantity of every point.

    Args:
        updates: measured milliseconds of an update by method, where they were asked for.

    Returns:
        the columns `COLUMNS`: a row for each point and quantity that it has, the mean over seeds with its 95 % interval
        (of `update_ms` the median, and the range of the rounds). Where there are several tasks of one kind of score,
        also the mean score over them, and `behind`: the mean over the tasks of how far the point is below the task's
        best.
    """
    rows = [row for point in found.points for row in _of_point(found, point, updates)]
    rows += _over_tasks(found)
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_point(found: Runs, point: dict[str, Any], updates: Mapping[str, list[float]]) -> Iterator[dict[str, Any]]:
    own = found.of(point)
    diverged = {"diverged": int(own["diverged"].sum())}
    by_seed = dict(zip(own["seed"], own["score"], strict=True))
    yield _row(point, SCORE, mean_of(own, "score"), by_seed) | diverged | {"unit": own["unit"].iloc[0]}
    for measure in found.plan["measures"]:
        values = found.measured(point, measure)
        if values:
            interval = weighted([Group.of_scores(list(values.values()))], [1])
            yield _row(point, measure, interval, values) | diverged
    if point["method"] in updates and point["task"] == found.tasks[0]:
        rounds = updates[point["method"]]
        interval = Interval(float(np.median(rounds)), min(rounds), max(rounds))
        yield _row(point, UPDATE, interval, {}) | {"seeds": len(point["seeds"])}


def _over_tasks(found: Runs) -> Iterator[dict[str, Any]]:
    """The mean over tasks of each place in the grid; nothing where it would be a mean of unlike things."""
    tasks, units = found.tasks, set(found.table["unit"])
    if len(tasks) < 2 or len(units) > 1 or not units.isdisjoint(UNSCALED):
        return
    (unit,) = units
    places: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for point in found.points:
        places.setdefault((point["series"], point["x"]), []).append(point)
    groups = {place: [group_of(found.of(point), "score") for point in points] for place, points in places.items()}
    best = [max(groups[place][i].mean for place in places) for i in range(len(tasks))]
    for place, points in places.items():
        mean = bounded(weighted(groups[place], [1 / len(tasks)] * len(tasks)), unit, "score")
        behind = float(np.mean([top - group.mean for top, group in zip(best, groups[place], strict=True)]))
        whole = {**points[0], "task": f"mean of {len(tasks)} tasks", "method": ""}
        counted = {"seeds": len(points[0]["seeds"]), "unit": unit}
        yield _row(whole, SCORE, mean, {}) | counted
        yield _row(whole, BEHIND, Interval(behind, np.nan, np.nan), {}) | counted


def _row(point: Mapping[str, Any], measure: str, interval: Interval, by_seed: Mapping[int, float]) -> dict[str, Any]:
    return {
        **{key: point[key] for key in ("series", "x", "task", "method")},
        "measure": measure,
        "unit": "",
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "seeds": len(by_seed),
        "diverged": 0,
        "by_seed": " ".join(f"{seed}:{value:.6g}" for seed, value in sorted(by_seed.items())),
    }


def rank_correlation(first: pd.Series, second: pd.Series) -> float:
    """Spearman's rank correlation; not a number where one of them does not vary."""
    if first.nunique() < 2 or second.nunique() < 2:
        return float("nan")
    return float(first.corr(second, method="spearman"))


def proxy(found: Runs, loss: str = "flow_loss", distance: str = "neighbour_distance") -> pd.DataFrame:
    """Whether the flow loss tells how far the policy's actions are from the data.

    Returns:
        one row a run that has both: series, x, task, method, seed, both at the end of the run, and `over_training`,
        their rank correlation (Spearman) over its evaluations. Runs of a seed that a setting without effect sets
        apart, which are the same run by other names, are one.
    """
    rows = []
    for point in found.points:
        for seed in point["seeds"]:
            pair = pd.DataFrame({name: found.log(point, seed, name) for name in (loss, distance)}).dropna()
            if len(pair):
                correlation = rank_correlation(pair[loss], pair[distance])
                row = {key: point[key] for key in ("series", "x", "task", "method")}
                row |= {"seed": seed, "over_training": correlation}
                rows.append(row | {name: pair[name].iloc[-1] for name in (loss, distance)})
    columns = ["series", "x", "task", "method", "seed", loss, distance, "over_training"]
    measured = ["task", "seed", loss, distance, "over_training"]
    return pd.DataFrame(rows, columns=columns).drop_duplicates(measured, ignore_index=True)
