"""`mfql tune choose`: the best point of each grid or search, with the evidence, for a person to review.

A run's tuning score is the mean of its last three evaluations, on every task: a single one, D4RL's rule, is too noisy
to choose by. A diverged run scores 0, of returns the worst. A point's score is the mean over its seeds, with the
interval of `mfql.report.intervals`, the floor of estimates included. The highest wins; of equal ones that with the
higher lower end, then the higher alpha (closer to the data), then fewer candidates, then fewer time steps, then the
first by its name. A point whose difference to the best has an interval that reaches 0 is not told apart from it: the
choice is then within noise, and says so. Where no point scores above 0, nothing was learnt and nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import isnan
from pathlib import Path
from typing import Any

import yaml

from mfql.errors import UserError
from mfql.experiment.records import read_evaluation, read_manifest
from mfql.experiment.search import Range, Space, is_tabled, takers
from mfql.experiment.tuning import COLUMNS, FIRST_SEED, Point, plain_number
from mfql.files import write_whole
from mfql.report.intervals import Group, Interval, weighted
from mfql.report.scores import collect, diverged_score, ends_of_estimate, is_rate, worst_returns
from mfql.report.tasks import UNSCALED, bounded
from mfql.tables import value_text
from mfql.tasks import ESTIMATE, SCORED_EVALUATIONS, known_tasks, scored

CLEAR, WITHIN_NOISE, NOTHING_LEARNT = "clear", "within noise", "nothing learnt"
_RULE = "last_three"
# The share of a range at either end that is said to be near it.
_NEAR_END = 0.05
RULE = "highest mean over seeds of the last three evaluations"
_HEADER = """\
# Settings proposed by `mfql tune`, with the score of every point that was tried behind them. Nothing uses them yet.
# Review each task: how certain its choice is, its remarks, its points (best first; `behind` is the difference to the
# best, with its 95 % interval). To decide otherwise, copy this file and change `chosen` to another of the points, or to
# null to leave its tasks as they are, or take tasks out of `carried_to`. Then freeze this file, or the copy:
#   mfql tune freeze FILE
"""


class _Line(dict[str, Any]):
    """A mapping that YAML writes on one line."""


class _Dumper(yaml.SafeDumper):
    """Knows `_Line`."""


_Dumper.add_representer(
    _Line, lambda dumper, line: dumper.represent_mapping("tag:yaml.org,2002:map", line.items(), flow_style=True)
)


@dataclass
class Candidate:
    """A point of the grid with its runs on one task.

    Attributes:
        point: its settings.
        scores: seed -> the run's tuning score.
        episodes: seed -> the episodes behind it; 0 where it is no rate of them.
        ends: seed -> those of the interval that the run's score has of its own, an estimate's; NaN without one.
        diverged: how many of the runs did.
    """

    point: Point
    scores: dict[int, float] = field(default_factory=dict)
    episodes: dict[int, int] = field(default_factory=dict)
    ends: dict[int, tuple[float, float]] = field(default_factory=dict)
    diverged: int = 0

    def group(self, metric: str) -> Group:
        """The candidate's runs as a group of scores."""
        scores = list(self.scores.values())
        if metric == ESTIMATE:
            return Group.of_estimates(scores, *zip(*self.ends.values(), strict=True))
        counts = list(self.episodes.values())
        return Group.of_scores(scores, counts if all(counts) else None)

    def interval(self, metric: str) -> Interval:
        """The mean over seeds with its interval."""
        return bounded(weighted([self.group(metric)], [1]), metric, "score")

    def behind(self, best: Candidate, metric: str) -> Interval:
        """By how much the best point's mean is higher, with its interval."""
        return bounded(weighted([best.group(metric), self.group(metric)], [1, -1]), metric, "difference")


@dataclass(frozen=True)
class _Run:
    """An evaluation.json and the manifest beside it."""

    file: Path
    evaluation: dict[str, Any]
    manifest: dict[str, Any]
    chosen: tuple[str, ...]

    @property
    def point(self) -> Point:
        lacking = [key for key in self.chosen if key not in self.manifest["settings"]]
        if lacking:
            raise UserError(f"{self.file}: the method has no {', '.join(lacking)}", "Tune a method that has them.")
        return {key: _plain(self.manifest["settings"][key]) for key in self.chosen}

    @property
    def method(self) -> str:
        """The method's name without the point."""
        parts = self.evaluation["method"].split("+")
        return "+".join(part for part in parts if part.partition("=")[0] not in self.chosen)

    def conditions(self) -> dict[str, Any]:
        """What all runs on a task must share for their scores to be compared."""
        settings = {
            f"setting {key}": value for key, value in self.manifest["settings"].items() if key not in self.chosen
        }
        return {
            "method": self.method,
            "dataset": self.manifest["dataset"]["sha256"],
            "training version": self.manifest["training_version"],
            **settings,
        }


def choose(
    files: Iterable[str | Path],
    config_dir: str | Path = "config",
    chosen: tuple[str, ...] = COLUMNS,
    spaces: Mapping[str, Space] | None = None,
) -> dict[str, Any]:
    """The proposal: for each task the best point, how certain it is, and every point's score.

    Args:
        files: `.../runs/METHOD/TASK/seedN/offline/evaluation.json` of all points, seeds and tasks.
        config_dir: folder of the task table.
        chosen: the settings that a point has.
        spaces: by task, what a search had to choose from; of a grid, which is its own, None.

    Raises:
        UserError: a file is absent or faulty, a seed is not tuning's, the points of a task have not the same seeds, or
            its runs differ in more than the point.
    """
    paths = sorted({Path(file) for file in files})
    collect(paths)  # Refuses files that are absent or faulty.
    runs = sorted((_read(path, chosen) for path in paths), key=lambda run: run.evaluation["task"])
    tasks = known_tasks(config_dir)
    found = {}
    for name, own in groupby(runs, lambda run: run.evaluation["task"]):
        entry = _proposal(list(own), (spaces or {}).get(name))
        tabled = chosen == COLUMNS or is_tabled(entry["method"], chosen, config_dir)
        entry["carried_to"] = takers(name, tabled, tasks)
        found[name] = entry if chosen == COLUMNS else {"settings": list(chosen), **entry}
    return found


def write_proposal(proposal: dict[str, Any], path: str | Path, header: str = _HEADER) -> None:
    """Write proposals by task as YAML for people, whole or not at all."""
    lines = {
        task: {key: _Line(value) if isinstance(value, dict) else value for key, value in entry.items()}
        | {"points": [_Line(point) for point in entry["points"]]}
        for task, entry in proposal.items()
    }
    with write_whole(path) as file:
        file.write(header)
        yaml.dump(lines, file, _Dumper, sort_keys=False, default_flow_style=False, width=1000)


def summary(proposal: dict[str, Any]) -> str:
    """What was chosen, a line a task, each followed by its remarks."""
    lines = []
    for task, entry in proposal.items():
        chosen = entry["chosen"] and ", ".join(f"{key} {value}" for key, value in entry["chosen"].items())
        lines.append(f"{task}: {chosen or 'nothing chosen'} ({entry['certainty']})")
        lines.extend(f"  {remark}" for remark in entry["remarks"])
    return "\n".join(lines)


_NEEDED = ("identity", "settings", "dataset", "training_version", "code")


def _read(file: Path, chosen: tuple[str, ...]) -> _Run:
    evaluation, manifest = read_evaluation(file), read_manifest(file.parent / "run" / "manifest.json", _NEEDED)
    if evaluation["seed"] < FIRST_SEED or evaluation["stage"] != "offline":
        raise UserError(
            f"{file} is no tuning run: its stage is {evaluation['stage']}, its seed {evaluation['seed']}",
            f"Tuning looks at offline runs of seeds from {FIRST_SEED} on, which are never reported.",
        )
    if manifest["identity"] != evaluation["identity"]:
        raise UserError(f"{file} is not of the run in {file.parent / 'run'}", "Let the training end, and copy it anew.")
    return _Run(file, evaluation, manifest, chosen)


_ESTIMATED = (
    "scores are estimates from the dataset that the points were trained on: a point that leaves it may look best"
)


def _plain(value: Any) -> Any:
    """A value as a proposal has it."""
    return plain_number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _names(point: Point) -> tuple[str, ...]:
    """The values of a point as a method's name has them, by which it is told from others."""
    return tuple(map(value_text, point.values()))


def _proposal(runs: Sequence[_Run], space: Space | None) -> dict[str, Any]:
    """The entry of the task that all these runs are on; who takes the choice is open."""
    _require_same_conditions(runs)
    first = runs[0]
    metric = first.evaluation["metric"]
    ranked = ranking(_candidates(runs), metric)
    best = ranked[0]
    behind = [one.behind(best, metric) for one in ranked[1:]]
    learnt = metric in UNSCALED or best.interval(metric).value > 0
    close = sum(isnan(difference.low) or difference.low <= 0 for difference in behind)
    certainty = (WITHIN_NOISE if close else CLEAR) if learnt else NOTHING_LEARNT
    settings, dataset = first.manifest["settings"], first.manifest["dataset"]
    return {
        "chosen": best.point if learnt else None,
        "certainty": certainty,
        "remarks": [*_remarks(ranked, close, learnt, space), *([_ESTIMATED] if metric == ESTIMATE else [])],
        "carried_to": [],
        "method": first.method,
        "rule": RULE,
        "metric": metric,
        "steps": settings["offline_steps"],
        "seeds": sorted(best.scores),
        "dataset": {key: dataset[key] for key in ("name", "source", "sha256")},
        "code": sorted({_code(run.manifest["code"]) for run in runs}),
        "points": [_evidence(best, Interval(0.0, 0.0, 0.0), metric)]
        + [_evidence(one, difference, metric) for one, difference in zip(ranked[1:], behind, strict=True)],
    }


def _code(code: dict[str, Any]) -> str:
    """The commit that a run was trained with."""
    return f"{code['commit'] or code['version']}{' with uncommitted changes' if code['dirty'] else ''}"


def _require_same_conditions(runs: Sequence[_Run]) -> None:
    expected = runs[0].conditions()
    for run in runs[1:]:
        found = run.conditions()
        differing = [key for key in expected | found if expected.get(key) != found.get(key)]
        if differing:
            raise UserError(
                f"{run.file} and {runs[0].file} differ in {', '.join(differing)}",
                "Scores are compared only between runs that differ in the point and the seed alone.",
            )


def _candidates(runs: Sequence[_Run]) -> list[Candidate]:
    """The points with their runs.

    Raises:
        UserError: not every point has every seed.
    """
    found: dict[tuple[str, ...], Candidate] = {}
    worst = worst_returns(run.evaluation for run in runs)
    for run in runs:
        candidate = found.setdefault(_names(run.point), Candidate(run.point))
        seed = run.evaluation["seed"]
        candidate.scores[seed], candidate.episodes[seed] = tuning_score(run.evaluation, worst)
        candidate.ends[seed] = ends_of_estimate(run.evaluation)
        candidate.diverged += run.evaluation["status"] == "diverged"
    seeds = {seed for candidate in found.values() for seed in candidate.scores}
    for candidate in found.values():
        lacking = sorted(seeds - candidate.scores.keys())
        if lacking:
            raise UserError(
                f"{runs[0].evaluation['task']}: the point {candidate.point} lacks the seeds {lacking}",
                "Give the runs of the same seeds for every point.",
            )
    return list(found.values())


def tuning_score(evaluation: dict[str, Any], worst: Mapping[str, float]) -> tuple[float, int]:
    """A run's score for tuning, and the episodes behind it (0 where it is no rate of them), from its evaluation.json.

    Args:
        worst: as of `mfql.report.scores.diverged_score`.
    """
    metric = evaluation["metric"]
    if evaluation["status"] == "diverged":
        score, episodes = diverged_score(evaluation, worst), SCORED_EVALUATIONS[_RULE] * evaluation["episodes"]
    else:
        counted = scored(evaluation["evaluations"], _RULE)
        score = sum(one[metric] for one in counted) / len(counted)
        episodes = sum(one["episodes"] for one in counted)
    return score, episodes if is_rate(evaluation) else 0


def ranking(candidates: Sequence[Candidate], metric: str) -> list[Candidate]:
    """The points, best first, by the rule of this module's first lines."""

    def key(candidate: Candidate) -> tuple[Any, ...]:
        interval, point = candidate.interval(metric), candidate.point
        low = -float("inf") if isnan(interval.low) else interval.low
        # Rounded: equal means are equal in whatever order their seeds were added up.
        return (
            -round(interval.value, 6),
            -round(low, 6),
            -(point.get("alpha") or 0),
            point.get("num_candidates") or 0,
            point.get("time_steps") or 0,
            _names(point),
        )

    return sorted(candidates, key=key)


def _remarks(ranked: Sequence[Candidate], close: int, learnt: bool, space: Space | None) -> list[str]:
    """What a reviewer should know of a choice."""
    best = ranked[0]
    if not learnt:
        tried = "another grid" if space is None else "other ranges"
        return [f"no point scores above 0: more steps, or {tried}, before anything can be chosen"]
    remarks = []
    if close:
        remarks.append(f"{close} of the {len(ranked) - 1} other points are not told apart from the best")
    if len(best.scores) < 2:
        remarks.append("a single seed tells nothing apart")
    remarks += _at_ends_of_grid(ranked) if space is None else _at_ends_of_ranges(best, space)
    if best.diverged:
        remarks.append(f"{best.diverged} of the best point's {len(best.scores)} runs diverged")
    return remarks


def _at_ends_of_grid(ranked: Sequence[Candidate]) -> Iterator[str]:
    best = ranked[0].point
    for key in best:
        tried = (candidate.point[key] for candidate in ranked)
        values = {value for value in tried if isinstance(value, int | float) and not isinstance(value, bool)}
        if len(values) > 1 and best[key] in (min(values), max(values)):
            end = "lowest" if best[key] == min(values) else "highest"
            yield f"{key} {best[key]} is the {end} of the grid: a better one may lie beyond"


def _at_ends_of_ranges(best: Candidate, space: Space) -> Iterator[str]:
    for key, found in space.items():
        if isinstance(found, Range) and not _NEAR_END < found.place(best.point[key]) < 1 - _NEAR_END:
            yield f"{key} {best.point[key]} is near an end of {found.low} to {found.high}: a better one may lie beyond"


def _evidence(candidate: Candidate, behind: Interval, metric: str) -> dict[str, Any]:
    """A point's entry in the proposal."""
    interval = candidate.interval(metric)
    return {
        **candidate.point,
        "score": _rounded(interval.value),
        "interval": [_rounded(interval.low), _rounded(interval.high)],
        "behind": _rounded(behind.value),
        "behind_interval": [_rounded(behind.low), _rounded(behind.high)],
        "diverged": candidate.diverged,
        "by_seed": {seed: _rounded(score) for seed, score in sorted(candidate.scores.items())},
    }


def _rounded(value: float) -> float | None:
    """A hundredth of a point is enough for people; YAML's null for NaN."""
    return None if isnan(value) else round(float(value), 2)
